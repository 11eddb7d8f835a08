"""The noise-to-signal ratio rho = sigma/alpha as the variable of a step.

In v = x/alpha the probability flow is dv/drho = eps, with the predicted noise eps = -sigma score.
Nothing else of the process is left in it (Song et al. 2021, "Denoising diffusion implicit models",
eq. 14).
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.arrays import ScoreFn, Time, batch_time, left_broadcast
from score_sde.sde import GaussianSDE, Perturbation


def ratio(process: Perturbation, t: Time) -> Time:
    """rho(t) = sigma(t)/alpha(t): grows with t, 0 at the clean image."""
    alpha, sigma = process.marginal(t)
    return sigma / alpha


def time_at(process: Perturbation, rho: Time) -> Time:
    """The t in [t_min, t_max] with rho(t) = rho. Values outside map to the nearer end."""
    assert isinstance(process, GaussianSDE)
    return process.time_at_log_snr(-2 * jnp.log(rho))


def predicted_noise(
    process: Perturbation, score_fn: ScoreFn, x: Float[Array, "batch ..."], t: Time
) -> Float[Array, "batch ..."]:
    """eps(x, t) = -sigma(t) score(x, t)."""
    sigma = left_broadcast(process.marginal(t)[1], x)
    return -sigma * score_fn(x, batch_time(t, x))


def require_gaussian(process: Perturbation, what: str) -> None:
    """Raise ValueError unless the process has times between the steps of a grid."""
    if not isinstance(process, GaussianSDE):
        raise ValueError(
            f"{what} asks for scores between the times of the grid, which {type(process).__name__} "
            "has not; take a GaussianSDE, or a method with stages at the ends of a step alone"
        )
