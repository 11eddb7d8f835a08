"""Steppers: one step of a sampler from an explicit time t to an explicit time s."""

from score_sde.steppers.adams import AdamsBashforth
from score_sde.steppers.adaptive import Adaptive, arctan_control, power_control
from score_sde.steppers.base import Around, Chain, Identity, Noise, Stepper, at_start, chain
from score_sde.steppers.exponential import Exponential, fast_orders, lowered_orders
from score_sde.steppers.guided import Guided
from score_sde.steppers.langevin import AnnealedLangevin, InpaintingLangevin, Langevin, step_alpha
from score_sde.steppers.multistep import Multistep
from score_sde.steppers.ozaki import Ozaki, constant_step, noise_level_step
from score_sde.steppers.reverse import Ancestral, EulerMaruyama, ReverseDiffusion
from score_sde.steppers.runge_kutta import (
    EULER,
    HEUN,
    HEUN_3,
    KUTTA,
    MIDPOINT,
    RK4,
    Churn,
    FlowRungeKutta,
    RungeKutta,
    Tableau,
    second_order,
)
from score_sde.steppers.singlestep import Singlestep

__all__ = [
    "EULER",
    "HEUN",
    "HEUN_3",
    "KUTTA",
    "MIDPOINT",
    "RK4",
    "AdamsBashforth",
    "Adaptive",
    "Ancestral",
    "AnnealedLangevin",
    "Around",
    "Chain",
    "Churn",
    "EulerMaruyama",
    "Exponential",
    "FlowRungeKutta",
    "Guided",
    "Identity",
    "InpaintingLangevin",
    "Langevin",
    "Multistep",
    "Noise",
    "Ozaki",
    "ReverseDiffusion",
    "RungeKutta",
    "Singlestep",
    "Stepper",
    "Tableau",
    "arctan_control",
    "at_start",
    "chain",
    "constant_step",
    "fast_orders",
    "lowered_orders",
    "noise_level_step",
    "power_control",
    "second_order",
    "step_alpha",
]
