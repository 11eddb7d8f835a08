"""Conditions: samples that depend on something given.

A condition is `(sampler, score_fn, given) -> (sampler, score_fn)`. It may change

- the score, as guidance does: a score function in, a score function out;
- the stepper, for data consistency: `dataclasses.replace(sampler, stepper=...)`;
- the random draws of the sampler: `dataclasses.replace(sampler, noise=...)`;
- where it begins and how it ends: `on_begin` and `on_finish` of the sampler.

The time grid stays, so a driver can count the steps beforehand. A condition is called inside `jit`.
`given` is a pytree of arrays with one row a sample, so that a batch of it follows a batch of
samples to its device. What has no row for each sample (a geometry, a scale) is fixed before:
`functools.partial` or a closure makes a condition of it.

Conditions for linear measurements are in `solvers`.
"""

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import PyTree

from score_sde.arrays import ScoreFn, left_broadcast
from score_sde.sampling import Sampler
from score_sde.steppers import AnnealedLangevin, InpaintingLangevin

Condition = Callable[[Sampler, ScoreFn, PyTree], tuple[Sampler, ScoreFn]]


def unconditional(sampler: Sampler, score_fn: ScoreFn, given: PyTree) -> tuple[Sampler, ScoreFn]:
    """Nothing is given; both stay as they are."""
    return sampler, score_fn


def compose(*conditions: Condition) -> Condition:
    """Conditions applied one after the other; `given` is a tuple with a part for each of them."""

    def condition(sampler, score_fn, given):
        for one, part in zip(conditions, given, strict=True):
            sampler, score_fn = one(sampler, score_fn, part)
        return sampler, score_fn

    return condition


def inpainting(sampler: Sampler, score_fn: ScoreFn, given: PyTree) -> tuple[Sampler, ScoreFn]:
    """Annealed Langevin dynamics that keeps what is known (algorithm B.2).

    Args:
        sampler: its stepper is `AnnealedLangevin`; otherwise a ValueError is raised.
        given: {"image": (batch, ...) in the range of the data, "known": booleans of that shape}.
    """
    if not isinstance(sampler.stepper, AnnealedLangevin):
        raise ValueError(
            "inpainting keeps known pixels during annealed Langevin dynamics, but the sampler's "
            f"stepper is {type(sampler.stepper).__name__}; use AnnealedLangevin alone"
        )
    stepper = InpaintingLangevin(sampler.stepper, given["image"], given["known"])
    return dataclasses.replace(sampler, stepper=stepper), score_fn


def noise_interpolation(
    sampler: Sampler, score_fn: ScoreFn, given: PyTree
) -> tuple[Sampler, ScoreFn]:
    """Noise cos(angle) z + sin(angle) z' in every step, z' being that of other samples (B.4.1).

    The start of the run is the first sample's alone.

    Args:
        given: {"keys": (batch,) of the other samples, "angle": (batch,), 0 to pi/2}. Angle 0 gives
            the sample itself.
    """

    def noise(keys, i, j, x):
        angle = left_broadcast(given["angle"].astype(x.dtype), x)
        z, other = (sampler.noise(k, i, j, x) for k in (keys, given["keys"]))
        return jnp.cos(angle) * z + jnp.sin(angle) * other

    return dataclasses.replace(sampler, noise=noise), score_fn
