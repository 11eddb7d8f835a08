"""Steppers: one step of a sampler from an explicit time t to an explicit time s."""

from score_sde.steppers.base import Chain, Identity, Noise, Stepper, at_start, chain
from score_sde.steppers.langevin import AnnealedLangevin, InpaintingLangevin, Langevin, step_alpha
from score_sde.steppers.reverse import Ancestral, EulerMaruyama, ReverseDiffusion

__all__ = [
    "Ancestral",
    "AnnealedLangevin",
    "Chain",
    "EulerMaruyama",
    "Identity",
    "InpaintingLangevin",
    "Langevin",
    "Noise",
    "ReverseDiffusion",
    "Stepper",
    "at_start",
    "chain",
    "step_alpha",
]
