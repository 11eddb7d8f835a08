"""Annealed importance sampling with Hamiltonian Monte Carlo: constants of energies, log p(x)."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

LogDensity = Callable[[Float[Array, "d"]], Float[Array, ""]]
"""Of one point, up to a constant."""
UP, DOWN, TARGET, MEMORY = 1.02, 0.98, 0.65, 0.9
"""The step grows or shrinks by these factors around this acceptance rate, averaged so."""
ENDS = 4.0
"""Temperatures are the logistic function between minus this and this, scaled to [0, 1]."""


def hamiltonian_step(
    key: Key[Array, ""],
    log_density: LogDensity,
    x: Float[Array, "d"],
    step: Float[Array, ""],
    leapfrog: int,
) -> tuple[Float[Array, "d"], Bool[Array, ""]]:
    """One update of Hamiltonian Monte Carlo: (the new point, whether the proposal was accepted).

    Momenta are N(0, I). `leapfrog` steps of the given size make a proposal, which is accepted with
    the probability min(1, exp(-change of the total energy)). The density is left invariant. A
    proposal that is not finite is refused. Source: Neal 2011, "MCMC using Hamiltonian dynamics".
    """
    key_momentum, key_accept = jax.random.split(key)
    momentum = jax.random.normal(key_momentum, x.shape, x.dtype)
    slope = jax.grad(log_density)

    def advance(_, state):
        y, p, g = state
        p = p + 0.5 * step * g
        y = y + step * p
        g = slope(y)
        return y, p + 0.5 * step * g, g

    y, p, _ = jax.lax.fori_loop(0, leapfrog, advance, (x, momentum, slope(x)))
    gain = log_density(y) - log_density(x) + 0.5 * (jnp.sum(momentum**2) - jnp.sum(p**2))
    accepted = jnp.log(jax.random.uniform(key_accept, (), x.dtype)) < gain
    return jnp.where(accepted, y, x), accepted


def temperatures(n: int, dtype=jnp.float32) -> Float[Array, "betas"]:
    """0 = beta_0 < ... < beta_n = 1: the logistic function on an even grid, dense near both ends.

    Raises:
        ValueError: n below 1.
    """
    if n < 1:
        raise ValueError(f"there must be at least one temperature; got {n}")
    values = jax.nn.sigmoid(jnp.linspace(-ENDS, ENDS, n + 1, dtype=dtype))
    return (values - values[0]) / (values[-1] - values[0])


class Estimate(NamedTuple):
    """An estimate of a log-constant.

    value: log of the mean weight, in nats. In expectation it is below the truth, by about half the
        relative variance of the mean.
    log_variance: variance of the chains' log-weights; much above 1, few weights decide.
    effective: (sum w)^2/sum w^2, of so many equal weights' worth.
    acceptance: mean over steps and chains.
    """

    value: Float[Array, ""]
    log_variance: Float[Array, ""]
    effective: Float[Array, ""]
    acceptance: Float[Array, ""]


@dataclasses.dataclass(frozen=True)
class AnnealedImportanceSampling:
    """log of the integral of N(z; 0, I) exp(log_ratio(z)), by annealing from N(0, I).

    Chain i has the weight w_i = exp(sum_j (beta_j - beta_{j-1}) log_ratio(z_{j-1})), with z_0 ~
    N(0, I) and z_j from z_{j-1} by a step that leaves N(z) exp(beta_j log_ratio(z)) invariant. E w
    is the integral for every number of temperatures. With one, it is plain importance sampling.

    - log p(x) of a latent-variable model with the prior N(0, I): log_ratio(z) = log p(x | z).
    - log Z of an energy E: log_ratio(z) = -E(z) - log N(z; 0, I).

    The steps' sizes are found in a first run, one for each temperature, and fixed in the second. So
    no chain steers its own steps, and E w is exact.

    Args:
        n: temperatures after the first, at least 1.
        leapfrog: steps of a proposal.
        chains: at least 2.
        step: size that the first run begins with.

    Raises:
        ValueError: a number that is too small.

    Source: Neal 2001; Wu et al. 2017 for decoders; Song 2022 (dissertation), section 3.5.3.
    """

    n: int = 1000
    leapfrog: int = 10
    chains: int = 16
    step: float = 0.1

    def __post_init__(self):
        if self.n < 1 or self.leapfrog < 1 or self.chains < 2 or not self.step > 0:
            raise ValueError(
                "need n >= 1, leapfrog >= 1, chains >= 2 and step > 0; got "
                f"n={self.n}, leapfrog={self.leapfrog}, chains={self.chains}, step={self.step}"
            )

    def __call__(
        self, key: Key[Array, ""], log_ratio: LogDensity, d: int, dtype=jnp.float32
    ) -> Estimate:
        """The estimate for points z of d dimensions."""
        key_pilot, key_run = jax.random.split(key)
        sizes = jnp.full(self.n, self.step, dtype)
        sizes, _, _ = self._run(key_pilot, log_ratio, d, sizes, adapt=True)
        _, log_weights, rate = self._run(key_run, log_ratio, d, sizes, adapt=False)
        value = jax.nn.logsumexp(log_weights) - jnp.log(jnp.asarray(self.chains, dtype))
        effective = jnp.exp(2 * jax.nn.logsumexp(log_weights) - jax.nn.logsumexp(2 * log_weights))
        return Estimate(value, jnp.var(log_weights, ddof=1), effective, rate)

    def log_weights(
        self, key: Key[Array, ""], log_ratio: LogDensity, d: int, dtype=jnp.float32
    ) -> Float[Array, "chains"]:
        """log w of each chain, with steps of the size `step` throughout."""
        sizes = jnp.full(self.n, self.step, dtype)
        return self._run(key, log_ratio, d, sizes, adapt=False)[1]

    def _run(self, key, log_ratio, d, sizes, adapt):
        """(sizes used, log-weights, acceptance rate) of a run."""
        betas = temperatures(self.n, sizes.dtype)
        z = jax.random.normal(jax.random.fold_in(key, self.n), (self.chains, d), sizes.dtype)

        def advance(carry, inputs):
            z, log_weights, size, average = carry
            i, beta, gap, given = inputs
            log_weights = log_weights + gap * jax.vmap(log_ratio)(z)
            size = size if adapt else given

            def density(z):
                return beta * log_ratio(z) - 0.5 * jnp.sum(z**2)

            keys = jax.random.split(jax.random.fold_in(key, i), self.chains)
            z, accepted = jax.vmap(
                lambda key, z: hamiltonian_step(key, density, z, size, self.leapfrog)
            )(keys, z)
            rate = jnp.mean(accepted.astype(z.dtype))
            average = MEMORY * average + (1 - MEMORY) * rate
            factor = jnp.where(average > TARGET, UP, DOWN).astype(z.dtype)
            return (z, log_weights, size * factor, average), (size, rate)

        zero = jnp.zeros(self.chains, z.dtype)
        start = (z, zero, sizes[0], jnp.asarray(TARGET, z.dtype))
        inputs = (jnp.arange(self.n), betas[1:], jnp.diff(betas), sizes)
        (_, log_weights, _, _), (used, rates) = jax.lax.scan(advance, start, inputs)
        return used, log_weights, jnp.mean(rates)
