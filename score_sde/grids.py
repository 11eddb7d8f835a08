"""Time grids: where the samplers step. A grid is an array, decreasing from noise to data.

Two forms: times (n+1,), consecutive entries being the ends of a step; or explicit pairs (n, 2) of
(from, to). Grids are made on the host, in double precision.

Levels are values of rho = sigma/alpha. `at_levels` puts a grid of them on any `GaussianSDE`. A grid
ends at t_end > 0; `to_clean` appends a step to the clean image.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from score_sde.sde import DiscreteChain, GaussianSDE, Perturbation


def _check(process: Perturbation, n: int, t_end: float) -> None:
    if n < 1:
        raise ValueError(f"a time grid needs at least 1 step; got n={n}")
    if not process.t_min <= t_end < process.t_max:
        raise ValueError(
            f"t_end must be in [t_min, t_max) = [{process.t_min}, {process.t_max}); got "
            f"t_end={t_end}"
        )


def _check_exponent(name: str, value: float) -> None:
    if value <= 0:
        raise ValueError(f"{name} must be positive; got {name}={value}")


def _power(high: float, low: float, n: int, exponent: float) -> np.ndarray:
    return np.linspace(high ** (1 / exponent), low ** (1 / exponent), n + 1) ** exponent


def _with_ends(times: np.ndarray, process: Perturbation, t_end: float) -> np.ndarray:
    """The times with exact ends."""
    return np.concatenate([[process.t_max], times[1:-1], [t_end]])


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


def power(
    process: Perturbation, n: int, t_end: float | None = None, exponent: float = 2.0
) -> np.ndarray:
    """n steps, equal in t^(1/exponent), from t_max to t_end (default t_min): n+1 times.

    exponent = 2 is the "quadratic" grid of DDIM (Song et al. 2021, D.2) and DPM-Solver; DEIS takes
    1, 2 and 3. Raises ValueError unless exponent > 0.
    """
    t_end = process.t_min if t_end is None else t_end
    _check(process, n, t_end)
    _check_exponent("exponent", exponent)
    return _with_ends(_power(process.t_max, t_end, n, exponent), process, t_end)


def polyexponential(
    sde: GaussianSDE, n: int, t_end: float | None = None, exponent: float = 1.0
) -> np.ndarray:
    """Levels rho_end (rho_max/rho_end)^(u^exponent) for u = 1, ..., 0 in n equal steps: n+1 times.

    From t_max to t_end (default t_min), rho = sigma/alpha. exponent = 1 is `log_snr_uniform`, the
    "exponential" grid; below 1 most steps are at much noise, above 1 at little. The names are those
    of k-diffusion. Raises ValueError unless exponent > 0.
    """
    t_end = sde.t_min if t_end is None else t_end
    _check(sde, n, t_end)
    _check_exponent("exponent", exponent)
    with jax.enable_x64(True):
        high, low = np.asarray(sde.log_snr(jnp.asarray([sde.t_max, t_end])))
        log_snr = low + np.linspace(1, 0, n + 1) ** exponent * (high - low)
        times = np.array(sde.time_at_log_snr(jnp.asarray(log_snr)))
    return _with_ends(times, sde, t_end)


def log_snr_uniform(sde: GaussianSDE, n: int, t_end: float | None = None) -> np.ndarray:
    """n equal steps in log-SNR from t_max to t_end (default t_min): n+1 times.

    Geometric in sigma/alpha: EDM's "ve" grid, DEIS's "log" grid.
    """
    return polyexponential(sde, n, t_end)


def karras(sde: GaussianSDE, n: int, t_end: float | None = None, rho: float = 7.0) -> np.ndarray:
    """Levels (high^(1/rho) + i/n (low^(1/rho) - high^(1/rho)))^rho, i = 0, ..., n: n+1 times.

    high and low are sigma/alpha at t_max and at t_end (default t_min). Karras et al. 2022, eq. 5;
    DEIS's grid in powers of rho. Raises ValueError unless rho > 0.
    """
    t_end = sde.t_min if t_end is None else t_end
    _check(sde, n, t_end)
    _check_exponent("rho", rho)
    high, low = levels_of(sde, np.asarray([sde.t_max, t_end]))
    return _with_ends(at_levels(sde, _power(high, low, n, rho)), sde, t_end)


def levels_of(process: Perturbation, times: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """sigma/alpha at the times, which may include `t_clean`."""
    with jax.enable_x64(True):
        alpha, sigma = process.marginal(jnp.asarray(times))
        return np.asarray(sigma / alpha)


def at_levels(sde: GaussianSDE, levels: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """The times at which sigma/alpha has these values. They fall; the last one may be 0.

    So any process can take the grid of another one: `levels_of(VP(), uniform(VP(), n, 1e-3))` are
    the levels that EDM and k-diffusion call "vp".

    Raises ValueError for levels that do not fall, or that the process has not in [t_min, t_max].
    """
    levels = np.asarray(levels, np.float64)
    clean = levels[-1] == 0
    inside = levels[:-1] if clean else levels
    if len(inside) == 0 or np.any(inside <= 0) or np.any(np.diff(levels) >= 0):
        raise ValueError(f"levels must fall and be positive, but for a last one of 0; got {levels}")
    high, low = levels_of(sde, np.asarray([sde.t_max, sde.t_min]))
    if inside[0] > high * (1 + 1e-9) or inside[-1] < low * (1 - 1e-9):
        raise ValueError(
            f"the process has sigma/alpha from {low:.6g} (t_min) to {high:.6g} (t_max), but the "
            f"levels reach from {inside[-1]:.6g} to {inside[0]:.6g}; change the levels, or t_min "
            "and t_max of the process"
        )
    with jax.enable_x64(True):
        times = np.asarray(sde.time_at_log_snr(jnp.asarray(-2 * np.log(inside))))
    return to_clean(sde, times) if clean else times


def to_clean(process: Perturbation, times: Float[np.ndarray, "n"]) -> Float[np.ndarray, "m"]:
    """The times, and after them that of the clean image: one more step, which denoises.

    The sampler then needs no denoising of its own (`denoise="none"`). Raises ValueError for a
    process that never is clean.
    """
    if levels_of(process, np.asarray([process.t_clean]))[0] != 0:
        raise ValueError(
            f"{type(process).__name__} has noise at t_clean={process.t_clean}; let the sampler "
            "denoise (denoise='tweedie')"
        )
    return np.append(times, process.t_clean)


def iddpm(sde: GaussianSDE, n: int, t_end: float | None = None, size: int = 1000) -> np.ndarray:
    """n+1 of the noise levels of improved DDPM's chain of `size` steps, as EDM numbers them.

    u_{j-1}^2 = (u_j^2 + 1)/max(abar_{j-1}/abar_j, 0.001) - 1 from u_size = 0, where abar_j =
    sin^2(pi/2 j/(1.008 size)). Of those between sigma/alpha at t_max and at t_end (default t_min),
    n+1 evenly spread ones. Karras et al. 2022, table 1.

    Raises ValueError where fewer than n+1 levels lie there.
    """
    t_end = sde.t_min if t_end is None else t_end
    _check(sde, n, t_end)
    survival = np.sin(0.5 * np.pi * np.arange(size + 1) / (size * 1.008)) ** 2
    levels = np.zeros(size + 1)
    for j in range(size, 0, -1):
        factor = max(survival[j - 1] / survival[j], 0.001)
        levels[j - 1] = np.sqrt((levels[j] ** 2 + 1) / factor - 1)
    high, low = levels_of(sde, np.asarray([sde.t_max, t_end]))
    levels = levels[(levels >= low) & (levels <= high)]
    if len(levels) <= n:
        raise ValueError(
            f"a chain of {size} steps has {len(levels)} levels in [{low:.4g}, {high:.4g}]; "
            f"n={n} steps need one more than n"
        )
    chosen = np.round((len(levels) - 1) / n * np.arange(n + 1)).astype(int)
    return at_levels(sde, levels[chosen])


ALIGN_YOUR_STEPS = {
    "sd1": (
        14.6146412293,
        6.4745760956,
        3.8636745985,
        2.694615152,
        1.8841921177,
        1.3943805092,
        0.9642583904,
        0.6523686016,
        0.3977456272,
        0.1515232662,
        0.0291671582,
    ),
    "sdxl": (
        14.6146412293,
        6.3184485287,
        3.7681790315,
        2.1811480769,
        1.3405244945,
        0.8620721141,
        0.5550693289,
        0.3798540708,
        0.2332364134,
        0.1114188177,
        0.0291671582,
    ),
    "svd": (
        700.0,
        54.5,
        15.886,
        7.977,
        4.248,
        1.789,
        0.981,
        0.403,
        0.173,
        0.034,
        0.002,
    ),
}
"""Optimized noise levels for 10 steps, by model: Sabour et al. 2024, "Align your steps"."""


def align_your_steps(sde: GaussianSDE, n: int, model: str = "sd1") -> np.ndarray:
    """n steps through levels that were optimized for a model (`ALIGN_YOUR_STEPS`): n+1 times.

    Between the 11 levels of the table, log(sigma/alpha) is linear in i/n, as published (Sabour et
    al. 2024). Replace the last time by the clean image: `to_clean(sde, times[:-1])`.

    Raises ValueError for an unknown model, or where the process does not have these levels.
    """
    if n < 1 or model not in ALIGN_YOUR_STEPS:
        raise ValueError(
            f"n must be at least 1 and model one of {', '.join(ALIGN_YOUR_STEPS)}; got n={n}, "
            f"model={model!r}"
        )
    table = np.log(ALIGN_YOUR_STEPS[model])
    places = np.linspace(0, 1, n + 1), np.linspace(0, 1, len(table))
    return at_levels(sde, np.exp(np.interp(*places, table)))


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


def with_jumps(times: Any, jump: int, resample: int) -> np.ndarray:
    """A grid that goes back to noise: each stretch of `jump` steps is made `resample` times.

    After a stretch one pair (from, to) leads back to its start, from less noise to more; `RePaint`
    takes it. The last stretch ends one step before the last time, and is followed by that step.
    Steps at the beginning that fill no stretch are made once.

    Args:
        times: (n+1,), falling.
        jump: steps in a stretch, at least 1.
        resample: at least 1; 1 goes back nowhere.

    Raises:
        ValueError: for numbers below 1, for pairs, and where no stretch fits into the grid.

    Source: Lugmayr et al. 2022, "RePaint", appendix B, and the schedule of their code.
    """
    n = len(times) - 1
    if np.ndim(times) != 1 or jump < 1 or resample < 1:
        raise ValueError(
            "jumps need times (n+1,), jump and resample of at least 1; got times of shape "
            f"{np.shape(times)}, jump={jump}, resample={resample}"
        )
    if jump >= n:
        raise ValueError(f"no stretch of jump={jump} steps fits before the last of {n} steps")
    left = {n - 1 - j: resample - 1 for j in range(0, n - jump, jump)}
    pairs, at = [], 0
    while at < n:
        pairs.append((times[at], times[at + 1]))
        at += 1
        if left.get(at, 0) > 0:
            left[at] -= 1
            pairs.append((times[at], times[at - jump]))
            at -= jump
    return np.asarray(pairs)
