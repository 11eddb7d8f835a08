"""Time samplers: which noise levels a batch sees.

`sampler(key, n) -> (t, w)`: times (n,) with density p(t) on [t_min, t_max], and w = 1 / (p(t) (t_max - t_min)), so that
E_p[w(t) h(t)] is the mean of h over the interval for every sampler: samplers differ in variance alone.
"""

import dataclasses
from typing import Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from score_sde.sde import DiscreteChain, GaussianSDE, Perturbation


class TimeSampler(Protocol):
    """`(key, n) -> (t, w)`; see the module."""

    def __call__(self, key: Key[Array, ""], n: int) -> tuple[Float[Array, "n"], Float[Array, "n"]]: ...


@dataclasses.dataclass(frozen=True)
class UniformTime:
    """t ~ U[t_min, t_max], w = 1 (dissertation eq. 7.7)."""

    process: Perturbation

    def at(self, u: Float[Array, "n"]) -> tuple[Float[Array, "n"], Float[Array, "n"]]:
        """(t, w) at quantiles u in [0, 1], u = 0 being t_min."""
        return self.process.t_min + u * (self.process.t_max - self.process.t_min), jnp.ones_like(u)

    def __call__(self, key: Key[Array, ""], n: int) -> tuple[Float[Array, "n"], Float[Array, "n"]]:
        return self.at(jax.random.uniform(key, (n,)))


@dataclasses.dataclass(frozen=True)
class LogSNRUniform:
    """t with log-SNR uniform between its ends: ScoreFlow's importance sampling p(t) ~ g(t)^2/sigma(t)^2.

    d/dt log(sigma^2/alpha^2) = g^2/sigma^2, so Z = integral of g^2/sigma^2 dt is a difference of log-SNRs and
    w = Z sigma^2 / (g^2 (t_max - t_min)). The published training loss leaves out the constant Z/(t_max - t_min)
    (dissertation chapter 9, B.7).
    """

    sde: GaussianSDE

    def normalizer(self, dtype=jnp.float32) -> Float[Array, ""]:
        """Z = integral from t_min to t_max of g^2/sigma^2 dt."""
        ends = self.sde.log_snr(jnp.asarray([self.sde.t_min, self.sde.t_max], dtype))
        return ends[0] - ends[1]

    def at(self, u: Float[Array, "n"]) -> tuple[Float[Array, "n"], Float[Array, "n"]]:
        """(t, w) at quantiles u in [0, 1], u = 0 being t_min."""
        z = self.normalizer(u.dtype)
        t = self.sde.time_at_log_snr(self.sde.log_snr(jnp.asarray(self.sde.t_min, u.dtype)) - u * z)
        _, sigma = self.sde.marginal(t)
        _, g2 = self.sde.coefficients(t)
        return t, z * sigma**2 / (g2 * (self.sde.t_max - self.sde.t_min))

    def __call__(self, key: Key[Array, ""], n: int) -> tuple[Float[Array, "n"], Float[Array, "n"]]:
        return self.at(jax.random.uniform(key, (n,)))


@dataclasses.dataclass(frozen=True)
class UniformIndex:
    """i uniform over the indices of a chain, as floats, w = 1: the discrete SMLD and DDPM objectives (eq. 7.1, 7.3)."""

    chain: DiscreteChain

    def __call__(self, key: Key[Array, ""], n: int) -> tuple[Float[Array, "n"], Float[Array, "n"]]:
        t = jax.random.randint(key, (n,), 0, len(self.chain.alphas)).astype(jnp.float32)
        return t, jnp.ones_like(t)
