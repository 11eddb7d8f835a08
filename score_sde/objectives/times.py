"""Time samplers: which noise levels a batch sees.

`sampler(keys, n) -> (t, w)` has times (n,) with density p(t) on [t_min, t_max], and weights w(t) =
1/(p(t) (t_max - t_min)). So E_p[w(t) h(t)] is the mean of h over the interval for every sampler:
samplers differ in variance alone. `LogNormal` and `LogNoise` are the exceptions: their w is 1.
`keys` is one key, or one per example: then n is their number, and the time of an example depends on
its own key alone.
"""

import dataclasses
import math
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtr, ndtri
from jaxtyping import Array, Float

from score_sde.arrays import Keys, fold_in, normal, uniform
from score_sde.sde import DiscreteChain, GaussianSDE, Perturbation, check_noise, time_at_noise

Weighted = tuple[Float[Array, "n"], Float[Array, "n"]]


@runtime_checkable
class TimeSampler(Protocol):
    """`(keys, n) -> (t, w)`; see the module."""

    def __call__(self, keys: Keys, n: int) -> Weighted: ...


def times_and_noise(
    times: TimeSampler, keys: Keys, x0: Float[Array, "batch ..."]
) -> tuple[Float[Array, "batch"], Float[Array, "batch"], Float[Array, "batch ..."]]:
    """(t, w, z): random times, their weights, and standard normal noise, in the type of x0.

    Every denoising objective draws them so. Objectives at equal keys see the same.
    """
    t, w = times(fold_in(keys, 0), x0.shape[0])
    z = normal(fold_in(keys, 1), x0.shape, x0.dtype)
    return t.astype(x0.dtype), w.astype(x0.dtype), z


@dataclasses.dataclass(frozen=True)
class UniformTime:
    """t ~ U[t_min, t_max], w = 1 (dissertation eq. 7.7)."""

    process: Perturbation

    def at(self, u: Float[Array, "n"]) -> Weighted:
        """(t, w) at quantiles u in [0, 1], u = 0 being t_min."""
        t = self.process.t_min + u * (self.process.t_max - self.process.t_min)
        return t, jnp.ones_like(u)

    def __call__(self, keys: Keys, n: int) -> Weighted:
        """(t, w) at random."""
        return self.at(uniform(keys, (n,), float))


@dataclasses.dataclass(frozen=True)
class LogSNRUniform:
    """t with log-SNR uniform between its ends.

    This is ScoreFlow's importance sampling, p(t) ~ g(t)^2/sigma(t)^2. d/dt log(sigma^2/alpha^2) =
    g^2/sigma^2. So Z = integral of g^2/sigma^2 dt is a difference of log-SNRs and w = Z sigma^2 /
    (g^2 (t_max - t_min)). The published training loss leaves out the constant Z/(t_max - t_min)
    (dissertation chapter 9, B.7).
    """

    sde: GaussianSDE

    def normalizer(self, dtype=jnp.float32) -> Float[Array, ""]:
        """Z = integral from t_min to t_max of g^2/sigma^2 dt."""
        ends = self.sde.log_snr(jnp.asarray([self.sde.t_min, self.sde.t_max], dtype))
        return ends[0] - ends[1]

    def at(self, u: Float[Array, "n"]) -> Weighted:
        """(t, w) at quantiles u in [0, 1], u = 0 being t_min."""
        z = self.normalizer(u.dtype)
        start = self.sde.log_snr(jnp.asarray(self.sde.t_min, u.dtype))
        t = self.sde.time_at_log_snr(start - u * z)
        _, sigma = self.sde.marginal(t)
        _, g2 = self.sde.coefficients(t)
        return t, z * sigma**2 / (g2 * (self.sde.t_max - self.sde.t_min))

    def __call__(self, keys: Keys, n: int) -> Weighted:
        """(t, w) at random."""
        return self.at(uniform(keys, (n,), float))


@dataclasses.dataclass(frozen=True)
class LogNormal:
    """t whose noise level nu = sigma/alpha is log-normal: log nu ~ N(mean, std^2), w = 1.

    The normal is cut off at the noise levels of t_min and t_max. In EDM its density is part of the
    loss, so no w takes it out: E[h(t)] is a mean over noise levels, most of them near exp(mean).

    Args:
        sde: gives the noise levels.
        mean, std: P_mean and P_std.

    Raises:
        ValueError: std is not positive, or the cut leaves nothing of the normal.

    Source: Karras et al. 2022, table 1 and section 5.
    """

    sde: GaussianSDE
    mean: float = -1.2
    std: float = 1.2

    def __post_init__(self):
        if not self.std > 0:
            raise ValueError(f"p_std must be positive; got p_std={self.std}")
        with jax.ensure_compile_time_eval():
            low, high = self._ends(jnp.float32)
        if not low < high:
            raise ValueError(
                f"no noise level of the process is likely under p_mean={self.mean}, "
                f"p_std={self.std}; p_mean is the logarithm of a usual noise level, like -1.2"
            )

    def _ends(self, dtype) -> Float[Array, "2"]:
        """The normal's distribution function at t_min and t_max."""
        times = jnp.asarray([self.sde.t_min, self.sde.t_max], dtype)
        return ndtr((-0.5 * self.sde.log_snr(times) - self.mean) / self.std)

    def at(self, u: Float[Array, "n"]) -> Weighted:
        """(t, 1) at quantiles u in [0, 1], u = 0 being t_min."""
        low, high = self._ends(u.dtype)
        log_level = self.mean + self.std * ndtri(low + u * (high - low))
        return self.sde.time_at_log_snr(-2 * log_level), jnp.ones_like(u)

    def __call__(self, keys: Keys, n: int) -> Weighted:
        """(t, 1) at random."""
        return self.at(uniform(keys, (n,), float))


@dataclasses.dataclass(frozen=True)
class UniformIndex:
    """i uniform over the indices of a chain, as floats, w = 1: SMLD and DDPM (eq. 7.1, 7.3)."""

    chain: DiscreteChain

    def __call__(self, keys: Keys, n: int) -> Weighted:
        """(i, w) at random."""

        t = _indices(keys, n, 0, len(self.chain.alphas))
        return t, jnp.ones_like(t)


@dataclasses.dataclass(frozen=True)
class LogNoise:
    """t whose noise level sigma/alpha is log-uniform between two noise levels, w = 1.

    All noise levels count alike, as for losses that are relative to the noise level. Of a chain the
    indices between both ends are drawn, all with the same probability.

    Args:
        process: gives the noise levels.
        least, largest: ends of the range of sigma/alpha.

    Raises:
        ValueError: the process has not both ends, or they are not in order.
    """

    process: Perturbation
    least: float
    largest: float

    def __post_init__(self):
        if not 0 < self.least < self.largest < float("inf"):
            raise ValueError(
                "noise levels sigma/alpha must be positive, finite and in order; got "
                f"{self.least:.4g}, {self.largest:.4g}"
            )
        check_noise(self.process, self.least)
        check_noise(self.process, self.largest)

    def at(self, u: Float[Array, "n"]) -> Weighted:
        """(t, 1) at quantiles u in [0, 1] of a continuous process, u = 0 being the least noise."""
        low, high = math.log(self.least), math.log(self.largest)
        assert isinstance(self.process, GaussianSDE)
        return self.process.time_at_log_snr(-2 * (low + u * (high - low))), jnp.ones_like(u)

    def __call__(self, keys: Keys, n: int) -> Weighted:
        """(t, 1) at random."""
        if isinstance(self.process, GaussianSDE):
            return self.at(uniform(keys, (n,), float))
        first, last = (int(time_at_noise(self.process, v)) for v in (self.least, self.largest))
        t = _indices(keys, n, first, last + 1)
        return t, jnp.ones_like(t)


def _indices(keys: Keys, n: int, first: int, end: int) -> Float[Array, "n"]:
    """Whole numbers in [first, end), as floats."""

    def draw(key, shape):
        return jax.random.randint(key, shape, first, end)

    i = draw(keys, (n,)) if keys.ndim == 0 else jax.vmap(lambda key: draw(key, ()))(keys)
    return i.astype(jnp.float32)
