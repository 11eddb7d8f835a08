"""Training objectives: `(keys, score_fn, x0) -> losses (batch,)`, keys one or one per example."""

from score_sde.objectives.denoising import (
    DenoisingScoreMatching,
    interpolated_weight,
    likelihood_weight,
    variance_weight,
)
from score_sde.objectives.sliced import SlicedScoreMatching
from score_sde.objectives.times import LogSNRUniform, UniformIndex, UniformTime

__all__ = [
    "DenoisingScoreMatching",
    "LogSNRUniform",
    "SlicedScoreMatching",
    "UniformIndex",
    "UniformTime",
    "interpolated_weight",
    "likelihood_weight",
    "variance_weight",
]
