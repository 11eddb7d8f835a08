"""Score-based generative modeling with stochastic differential equations.

The mathematics is here by name. Parts with heavier needs are imported where used:
`score_sde.networks`, `score_sde.data`, `score_sde.training`, `score_sde.viz`, `score_sde.build`.
"""

from score_sde import (
    conditioning,
    curvature,
    grids,
    guidance,
    inverse,
    objectives,
    parameterize,
    solvers,
    steppers,
)
from score_sde.analytic import GaussianMixture
from score_sde.arrays import ScoreFn, left_broadcast, sample_keys
from score_sde.errors import UserError
from score_sde.sampling import Sampler, Samples
from score_sde.sde import (
    EDM,
    SDE,
    VE,
    VP,
    CosineVP,
    DiscreteChain,
    GaussianSDE,
    MatrixSDE,
    Perturbation,
    PublishedSteps,
    StraightPath,
    SubVP,
    probability_flow,
    simulate,
)

__version__ = "0.1.0"

__all__ = [
    "EDM",
    "SDE",
    "VE",
    "VP",
    "CosineVP",
    "DiscreteChain",
    "GaussianMixture",
    "GaussianSDE",
    "MatrixSDE",
    "Perturbation",
    "PublishedSteps",
    "Sampler",
    "Samples",
    "ScoreFn",
    "StraightPath",
    "SubVP",
    "UserError",
    "conditioning",
    "curvature",
    "grids",
    "guidance",
    "inverse",
    "left_broadcast",
    "objectives",
    "parameterize",
    "probability_flow",
    "sample_keys",
    "simulate",
    "solvers",
    "steppers",
]
