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
from score_sde.objectives.perturbed import CleanObjective, PerturbedData
from score_sde.objectives.sliced import SlicedScoreMatching
from score_sde.objectives.times import LogNormal, LogSNRUniform, UniformIndex, UniformTime

__all__ = [
    "CleanObjective",
    "DenoisingScoreMatching",
    "ExactScoreMatching",
    "FiniteDifferenceScoreMatching",
    "LogNormal",
    "LogSNRUniform",
    "PerturbedData",
    "SlicedScoreMatching",
    "UniformIndex",
    "UniformTime",
    "edm_weight",
    "interpolated_weight",
    "likelihood_weight",
    "output_weight",
    "shifted_nce",
    "variance_weight",
]
