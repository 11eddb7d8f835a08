"""Tweedie's denoiser and its derivative, which every guidance by a measurement needs."""

from collections.abc import Callable
from typing import NamedTuple

import jax
from jaxtyping import Array, Float

from score_sde.arrays import ScoreFn, Time, batch_time, left_broadcast
from score_sde.sde import Perturbation


class Denoised(NamedTuple):
    """What one evaluation of a score at (x, t) tells of the clean image.

    score: (batch, ...). x0: E[x_0 | x_t = x]. pull: v -> J^T v with J = dx0/dx, one row a sample.
    For an exact score J is symmetric, and the covariance of x_0 given x is (sigma^2/alpha) J.
    """

    score: Float[Array, "batch ..."]
    x0: Float[Array, "batch ..."]
    pull: Callable[[Array], Array]


def denoise(
    score_fn: ScoreFn, process: Perturbation, x: Float[Array, "batch ..."], t: Time
) -> Denoised:
    """x0 = (x + sigma^2 score)/alpha with J^T v = (v + sigma^2 (dscore/dx)^T v)/alpha.

    The score is evaluated once; each call of `pull` costs a vector-Jacobian product of it.
    """
    time = batch_time(t, x)
    score, vjp = jax.vjp(lambda x: score_fn(x, time), x)
    alpha, sigma = (left_broadcast(v, x) for v in process.marginal(time))
    x0 = process.tweedie(x, time, score)
    return Denoised(score, x0, lambda v: (v + sigma**2 * vjp(v)[0]) / alpha)
