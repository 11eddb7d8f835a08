"""Discrete chains of noise levels, and the published codes' view of them in continuous time."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np

from score_sde.arrays import Time
from score_sde.sde.base import Perturbation, require
from score_sde.sde.gaussian import VE, check_betas


@dataclasses.dataclass(frozen=True, eq=False)
class DiscreteChain(Perturbation):
    """A Markov chain x_0 -> x_1 -> ... with tabulated marginals; time is the index i.

    i = 0 has the least noise, i = N - 1 the most. Index -1 is the clean image (alpha 1, sigma 0):
    the last reverse step goes there. Steps may skip indices, since `transition` follows from the
    marginals. The fraction of an index is cut off. Build one with `smld` or `ddpm`.

    Args:
        alphas, sigmas: (N,) float64 tables, noise increasing with the index.
    """

    alphas: np.ndarray
    sigmas: np.ndarray

    def __post_init__(self):
        require(
            self.alphas.shape == self.sigmas.shape
            and self.alphas.ndim == 1
            and self.alphas.size > 0,
            "alphas and sigmas must be one-dimensional and of one length; got "
            f"{self.alphas.shape}, {self.sigmas.shape}",
        )

    @classmethod
    def smld(
        cls, sigma_min: float = 0.01, sigma_max: float = 50.0, n: int = 1000
    ) -> "DiscreteChain":
        """Geometric noise levels of SMLD and NCSN (eq. B.9).

        x_i = x_{i-1} + sqrt(sigma_i^2 - sigma_{i-1}^2) z, from sigma_min to sigma_max.
        """
        VE(sigma_min, sigma_max)  # validates the pair
        return cls(np.ones(n), np.exp(np.linspace(math.log(sigma_min), math.log(sigma_max), n)))

    @classmethod
    def ddpm(cls, beta_min: float = 0.1, beta_max: float = 20.0, n: int = 1000) -> "DiscreteChain":
        """x_i = sqrt(1 - beta_i) x_{i-1} + sqrt(beta_i) z (eq. B.11).

        beta_i = linspace(beta_min, beta_max, n)_i / n.

        Raises ValueError where beta_max >= n: 1 - beta_i would not be positive.
        """
        check_betas(beta_min, beta_max)
        require(
            beta_max < n,
            f"beta_max must be below n, else 1 - beta_i <= 0; got beta_max={beta_max}, n={n}",
        )
        log_survival = np.cumsum(np.log1p(-np.linspace(beta_min, beta_max, n) / n))
        return cls(np.exp(0.5 * log_survival), np.sqrt(-np.expm1(log_survival)))

    @property
    def t_min(self) -> float:  # type: ignore[override]
        """0, the least noisy index."""
        return 0.0

    @property
    def t_max(self) -> float:  # type: ignore[override]
        """N - 1, the noisiest index."""
        return float(len(self.alphas) - 1)

    @property
    def t_clean(self) -> float:
        """-1, the index of the clean image."""
        return -1.0

    @property
    def prior_std(self) -> float:
        """Of N(0, I) if the chain forgets the data (alpha near 0), else the largest sigma."""
        return float(np.where(self.alphas[-1] < 0.5, 1.0, self.sigmas[-1]))

    def marginal(self, t: Time) -> tuple[Time, Time]:
        """(alpha_i, sigma_i) at i = trunc(t); (1, 0) at t = -1."""
        dtype = jnp.result_type(t)
        index = jnp.clip(t, -1.0, self.t_max).astype(jnp.int32) + 1
        alphas = jnp.asarray(np.concatenate([[1.0], self.alphas]), dtype)
        sigmas = jnp.asarray(np.concatenate([[0.0], self.sigmas]), dtype)
        return alphas[index], sigmas[index]


@dataclasses.dataclass(frozen=True, eq=False)
class PublishedSteps(Perturbation):
    """A `DiscreteChain` under time t in [0, 1], as the published Score SDE codes use tables.

    At time t the entry i = trunc(t (N-1)) holds, and every step from t, wherever it goes, is the
    chain's step i -> i-1. A continuous-time model sampled through this view repeats the published
    reverse-diffusion, ancestral and Langevin updates number for number. The library's own default
    is the exact `transition` of the SDE instead.
    """

    chain: DiscreteChain
    t_min: float = 0.0
    t_max: float = 1.0

    @property
    def prior_std(self) -> float:
        """That of the chain."""
        return self.chain.prior_std

    def index(self, t: Time) -> Time:
        """trunc(t (N-1))."""
        return jnp.trunc(t * self.chain.t_max)

    def marginal(self, t: Time) -> tuple[Time, Time]:
        """(alpha_i, sigma_i) at i = trunc(t (N-1))."""
        return self.chain.marginal(self.index(t))

    def transition(self, t: Time, s: Time) -> tuple[Time, Time]:
        """(a, b) of the chain's single step i-1 -> i, whatever s."""
        index = self.index(t)
        return self.chain.transition(index, index - 1)
