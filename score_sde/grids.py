"""Time grids: where the samplers step. A grid is an array, decreasing from noise to data.

Two forms: times (n+1,), consecutive entries being the ends of a step; or explicit pairs (n, 2) of
(from, to).
"""

from typing import Any

import jax.numpy as jnp
import numpy as np

from score_sde.sde import DiscreteChain, GaussianSDE, Perturbation


def _check(process: Perturbation, n: int, t_end: float) -> None:
    if n < 1:
        raise ValueError(f"a time grid needs at least 1 step; got n={n}")
    if not process.t_min <= t_end < process.t_max:
        raise ValueError(
            f"t_end must be in [t_min, t_max) = [{process.t_min}, {process.t_max}); got "
            f"t_end={t_end}"
        )


def as_pairs(times: Any) -> Any:
    """Steps (n, 2) of a grid in either form, of numpy or of jax.

    Raises ValueError for any other shape.
    """
    if times.ndim == 1 and len(times) > 1:
        stack = np.stack if isinstance(times, np.ndarray) else jnp.stack
        return stack([times[:-1], times[1:]], axis=1)
    if times.ndim == 2 and times.shape[1] == 2 and len(times) > 0:
        return times
    raise ValueError(
        f"a time grid is (n+1,) times or (n, 2) pairs with n >= 1; got shape {times.shape}"
    )


def uniform(process: Perturbation, n: int, t_end: float | None = None) -> np.ndarray:
    """n equal steps in t from t_max to t_end (default t_min): n+1 times."""
    t_end = process.t_min if t_end is None else t_end
    _check(process, n, t_end)
    return np.linspace(process.t_max, t_end, n + 1)


def log_snr_uniform(sde: GaussianSDE, n: int, t_end: float | None = None) -> np.ndarray:
    """n equal steps in log-SNR from t_max to t_end (default t_min): n+1 times."""
    t_end = sde.t_min if t_end is None else t_end
    _check(sde, n, t_end)
    ends = np.asarray(sde.log_snr(jnp.asarray([sde.t_max, t_end])), np.float64)
    times = np.array(
        sde.time_at_log_snr(jnp.asarray(np.linspace(ends[0], ends[1], n + 1)).astype(float)),
        np.float64,
    )
    times[0], times[-1] = sde.t_max, t_end
    return times


def karras(
    process: Perturbation, n: int, t_end: float | None = None, rho: float = 7.0
) -> np.ndarray:
    """t_i = (t_max^(1/rho) + i/n (t_end^(1/rho) - t_max^(1/rho)))^rho (Karras et al. 2022, eq.

    5); meant for `EDM`.
    """
    t_end = process.t_min if t_end is None else t_end
    _check(process, n, t_end)
    if rho <= 0:
        raise ValueError(f"rho must be positive; got rho={rho}")
    return np.linspace(process.t_max ** (1 / rho), t_end ** (1 / rho), n + 1) ** rho


def chain_steps(chain: DiscreteChain, n: int | None = None) -> np.ndarray:
    """Indices N-1, ..., 0, -1 of a chain: every step, or n nearly equal strides.

    The last step reaches the clean image; leave it out (`[:-1]`) where Tweedie's formula takes its
    place.
    """
    size = len(chain.alphas)
    n = size if n is None else n
    if not 1 <= n <= size:
        raise ValueError(
            f"a chain of {size} noise levels can be sampled in 1 to {size} steps; got n={n}"
        )
    return np.round(np.linspace(size - 1, -1, n + 1))


def levels(chain: DiscreteChain, n: int | None = None) -> np.ndarray:
    """Steps that stay at one noise level each, from index N-1 to 0, as (n, 2) pairs.

    They are all N, or n evenly spread. For annealed Langevin dynamics (algorithms 5.1, 6.1), which
    moves between levels by nothing but Langevin steps.
    """
    size = len(chain.alphas)
    n = size if n is None else n
    if not 1 <= n <= size:
        raise ValueError(
            f"a chain of {size} noise levels has 1 to {size} of them to visit; got n={n}"
        )
    indices = np.round(np.linspace(size - 1, 0, n)) if n > 1 else np.zeros(1)
    return np.stack([indices, indices], axis=1)


def published(n: int, t_end: float) -> np.ndarray:
    """The published samplers' grid as (n, 2) pairs.

    The times are linspace(1, t_end, n), and every step has length 1/n. The steps do not fit the
    times: their spacing is (1 - t_end)/(n-1). `uniform` is the grid whose steps do.
    """
    if n < 1:
        raise ValueError(f"a time grid needs at least 1 step; got n={n}")
    times = np.linspace(1.0, t_end, n)
    return np.stack([times, times - 1 / n], axis=1)
