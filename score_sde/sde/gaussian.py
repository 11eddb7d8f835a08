"""The processes of the papers: `GaussianSDE`s, each a pair alpha(t), sigma(t) in closed form."""

import dataclasses
import math

import jax.numpy as jnp

from score_sde.arrays import Time
from score_sde.sde.base import GaussianSDE, check_times, require


@dataclasses.dataclass(frozen=True)
class VE(GaussianSDE):
    """Variance exploding: alpha = 1, sigma(t) = sigma_min (sigma_max/sigma_min)^t.

    Coefficients: f = 0, g^2 = 2 sigma(t)^2 log(sigma_max/sigma_min). For data in [0, 1]. sigma_max:
    about the largest distance between two images (technique 1, chapter 6).

    Raises ValueError unless 0 < sigma_min < sigma_max.

    Source: dissertation eq. B.19, B.20.
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0
    t_min: float = 1e-5
    t_max: float = 1.0

    def __post_init__(self):
        require(
            0 < self.sigma_min < self.sigma_max,
            f"sigma_min must be in (0, sigma_max); got sigma_min={self.sigma_min}, "
            f"sigma_max={self.sigma_max}",
        )
        check_times(self.t_min, self.t_max)

    def marginal(self, t: Time) -> tuple[Time, Time]:
        """(1, sigma_min (sigma_max/sigma_min)^t)."""
        return jnp.ones_like(t), self.sigma_min * jnp.exp(
            t * math.log(self.sigma_max / self.sigma_min)
        )

    @property
    def t_clean(self) -> float:
        """-inf: sigma(0) is sigma_min, not 0."""
        return -math.inf

    @property
    def prior_std(self) -> float:
        """sigma(t_max): sigma_max at t_max = 1."""
        return self.sigma_min * (self.sigma_max / self.sigma_min) ** self.t_max


def check_betas(beta_min: float, beta_max: float) -> None:
    """Raise ValueError unless 0 < beta_min <= beta_max."""
    require(
        0 < beta_min <= beta_max,
        f"beta_min must be in (0, beta_max]; got beta_min={beta_min}, beta_max={beta_max}",
    )


@dataclasses.dataclass(frozen=True)
class _LinearBeta(GaussianSDE):
    """What `VP` and `SubVP` share: beta(t) = beta_min + t (beta_max - beta_min)."""

    beta_min: float = 0.1
    beta_max: float = 20.0
    t_min: float = 1e-5
    t_max: float = 1.0

    def __post_init__(self):
        check_betas(self.beta_min, self.beta_max)
        check_times(self.t_min, self.t_max)

    def _integrated_beta(self, t: Time) -> Time:
        """B(t) = integral_0^t beta(s) ds."""
        return t * (self.beta_min + 0.5 * t * (self.beta_max - self.beta_min))

    @property
    def prior_std(self) -> float:
        """1."""
        return 1.0


class VP(_LinearBeta):
    """Variance preserving: alpha = exp(-B/2), sigma^2 = 1 - exp(-B), B = integral of beta.

    beta(t) = beta_min + t (beta_max - beta_min). Coefficients: f = -beta/2, g^2 = beta. For data in
    [-1, 1].

    Raises ValueError unless 0 < beta_min <= beta_max and 0 <= t_min < t_max.

    Source: dissertation eq. B.14, B.18.
    """

    def marginal(self, t: Time) -> tuple[Time, Time]:
        """(exp(-B/2), sqrt(1 - exp(-B))); the second by expm1, exact at small t."""
        integral = self._integrated_beta(t)
        return jnp.exp(-0.5 * integral), jnp.sqrt(-jnp.expm1(-integral))


class SubVP(_LinearBeta):
    """sub-VP: alpha = exp(-B/2), sigma = 1 - exp(-B): variance below that of `VP`.

    Coefficients: f = -beta/2, g^2 = beta (1 - exp(-2B)). For data in [-1, 1].

    Raises ValueError unless 0 < beta_min <= beta_max and 0 <= t_min < t_max.

    Source: dissertation eq. B.16, B.18.
    """

    def marginal(self, t: Time) -> tuple[Time, Time]:
        """(exp(-B/2), 1 - exp(-B))."""
        integral = self._integrated_beta(t)
        return jnp.exp(-0.5 * integral), -jnp.expm1(-integral)


@dataclasses.dataclass(frozen=True)
class EDM(GaussianSDE):
    """alpha = 1, sigma(t) = t: time is the noise level; f = 0, g^2 = 2t.

    t_min and t_max are the smallest and largest noise level.

    Raises ValueError unless 0 <= t_min < t_max.

    Source: Karras et al. 2022, table 1.
    """

    t_min: float = 0.002
    t_max: float = 80.0

    def __post_init__(self):
        check_times(self.t_min, self.t_max)

    def marginal(self, t: Time) -> tuple[Time, Time]:
        """(1, t)."""
        return jnp.ones_like(t), t

    @property
    def prior_std(self) -> float:
        """t_max."""
        return self.t_max


@dataclasses.dataclass(frozen=True)
class CosineVP(GaussianSDE):
    """Variance preserving with alpha(t) = cos(pi/2 (t+s)/(1+s)) / cos(pi/2 s/(1+s)).

    sigma^2 = 1 - alpha^2. t_max stays below 1, where beta(t) diverges.

    Raises ValueError unless s >= 0 and t_max < 1.

    Source: Nichol & Dhariwal 2021, eq. 17.
    """

    s: float = 0.008
    t_min: float = 1e-5
    t_max: float = 0.9946

    def __post_init__(self):
        require(self.s >= 0, f"s must be >= 0; got s={self.s}")
        require(
            self.t_max < 1, f"t_max must be below 1 (beta diverges there); got t_max={self.t_max}"
        )
        check_times(self.t_min, self.t_max)

    def marginal(self, t: Time) -> tuple[Time, Time]:
        """(alpha, sqrt(1 - alpha^2)); the second as a product of sines, exact at small t."""
        start = 0.5 * math.pi * self.s / (1 + self.s)
        turn = 0.5 * math.pi / (1 + self.s) * t
        alpha = jnp.cos(start + turn) / math.cos(start)
        return alpha, jnp.sqrt(jnp.sin(2 * start + turn) * jnp.sin(turn)) / math.cos(start)

    @property
    def prior_std(self) -> float:
        """1."""
        return 1.0


@dataclasses.dataclass(frozen=True)
class StraightPath(GaussianSDE):
    """alpha = 1 - t, sigma = t: the straight path of flow matching, from x_0 to N(0, I).

    Coefficients: f = -1/(1 - t), g^2 = 2t/(1 - t). t_max stays below 1, where both diverge. The
    prior is N(0, I); at the default t_max its standard deviation is right to 5e-4.

    Raises ValueError unless 0 <= t_min < t_max < 1.

    Source: Lipman et al. 2023 (sigma_min = 0); Liu et al. 2023, rectified flow. There time runs
    from noise to data.
    """

    t_min: float = 1e-3
    t_max: float = 0.9995

    def __post_init__(self):
        require(
            self.t_max < 1,
            f"t_max must be below 1 (f and g diverge there); got t_max={self.t_max}",
        )
        check_times(self.t_min, self.t_max)

    def marginal(self, t: Time) -> tuple[Time, Time]:
        """(1 - t, t)."""
        return 1 - t, t

    @property
    def prior_std(self) -> float:
        """1."""
        return 1.0
