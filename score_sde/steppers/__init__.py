"""Steppers: one step of a sampler from an explicit time t to an explicit time s."""

from score_sde.steppers.adaptive import Adaptive, arctan_control, power_control
from score_sde.steppers.base import Chain, Identity, Noise, Stepper, at_start, chain
from score_sde.steppers.exponential import Exponential, fast_orders, lowered_orders
from score_sde.steppers.langevin import AnnealedLangevin, InpaintingLangevin, Langevin, step_alpha
from score_sde.steppers.multistep import Multistep
from score_sde.steppers.reverse import Ancestral, EulerMaruyama, ReverseDiffusion
from score_sde.steppers.singlestep import Singlestep

__all__ = [
    "Adaptive",
    "Ancestral",
    "AnnealedLangevin",
    "Chain",
    "EulerMaruyama",
    "Exponential",
    "Identity",
    "InpaintingLangevin",
    "Langevin",
    "Multistep",
    "Noise",
    "ReverseDiffusion",
    "Singlestep",
    "Stepper",
    "arctan_control",
    "at_start",
    "chain",
    "fast_orders",
    "lowered_orders",
    "power_control",
    "step_alpha",
]
