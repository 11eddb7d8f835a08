"""Training objectives: `(keys, score_fn, x0) -> losses (batch,)`, keys one or one per example."""

from score_sde.objectives.denoising import (
    DenoisingScoreMatching,
    edm_weight,
    interpolated_weight,
    likelihood_weight,
    output_weight,
    variance_weight,
)
from score_sde.objectives.exact import ExactScoreMatching
from score_sde.objectives.finite import FiniteDifferenceScoreMatching, shifted_nce
from score_sde.objectives.high_order import (
    HighOrderDenoising,
    bell,
    posterior_cumulants,
    posterior_moment,
)
from score_sde.objectives.perturbed import CleanObjective, PerturbedData
from score_sde.objectives.second_order import (
    JointDenoising,
    SecondOrderDenoising,
    curvature_weight,
)
from score_sde.objectives.sliced import SlicedScoreMatching
from score_sde.objectives.times import (
    LogNoise,
    LogNormal,
    LogSNRUniform,
    UniformIndex,
    UniformTime,
)

__all__ = [
    "CleanObjective",
    "DenoisingScoreMatching",
    "ExactScoreMatching",
    "FiniteDifferenceScoreMatching",
    "HighOrderDenoising",
    "JointDenoising",
    "LogNoise",
    "LogNormal",
    "LogSNRUniform",
    "PerturbedData",
    "SecondOrderDenoising",
    "SlicedScoreMatching",
    "UniformIndex",
    "UniformTime",
    "bell",
    "curvature_weight",
    "edm_weight",
    "interpolated_weight",
    "likelihood_weight",
    "output_weight",
    "posterior_cumulants",
    "posterior_moment",
    "shifted_nce",
    "variance_weight",
]
