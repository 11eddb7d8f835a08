"""From noise levels sigma/alpha to times."""

import jax
import jax.numpy as jnp
import numpy as np

from score_sde.sde.base import GaussianSDE, Perturbation
from score_sde.sde.chains import DiscreteChain

ROUNDING = 1e-5
"""Relative error of noise levels that are computed in single precision."""


def noise_range(process: Perturbation) -> tuple[float, float]:
    """(least, largest) sigma/alpha from t_min to t_max; the largest is infinite where alpha is 0.

    It is the standard deviation of the noise in x_t/alpha = x_0 + (sigma/alpha) z.
    """
    with jax.ensure_compile_time_eval():
        ends = jnp.asarray([process.t_min, process.t_max], jnp.float32)
        alpha, sigma = (np.asarray(v, np.float64) for v in process.marginal(ends))
    with np.errstate(divide="ignore"):
        low, high = sigma / alpha
    return float(low), float(high)


def check_noise(process: Perturbation, noise: float) -> None:
    """Raise ValueError where the process has no such sigma/alpha."""
    low, high = noise_range(process)
    if not low * (1 - ROUNDING) <= noise <= high * (1 + ROUNDING):
        raise ValueError(
            f"the noise level sigma/alpha must be in [{low:.4g}, {high:.4g}], the range of the "
            f"process; got {noise:g}"
        )


def time_at_noise(process: Perturbation, noise: float) -> float:
    """The time with sigma/alpha = `noise`; of a chain the index whose sigma/alpha is nearest to it.

    Nearest on a logarithmic scale.

    Raises:
        ValueError: the process has no such noise level.
    """
    check_noise(process, noise)
    if isinstance(process, DiscreteChain):
        distance = np.abs(np.log(process.sigmas / process.alphas) - np.log(noise))
        return float(np.argmin(distance))
    assert isinstance(process, GaussianSDE)
    with jax.ensure_compile_time_eval():
        return float(process.time_at_log_snr(jnp.asarray(-2 * np.log(noise), jnp.float32)))
