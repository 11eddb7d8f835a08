"""What `score_sde` shows by name: imported when one of the names is asked for."""

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
