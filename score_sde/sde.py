"""Forward processes: how data becomes noise.

Time runs from t = 0 (data) to t = t_max (noise). Three kinds of process share two small interfaces:

- `Perturbation`: x_t = alpha(t) x_0 + sigma(t) z with z ~ N(0, I). Everything that needs only the marginals (objectives,
  ancestral and reverse-diffusion steps, Tweedie's formula) takes this.
- `SDE`: dx = f(x, t) dt + G(x, t) dw. Everything that needs coefficients (Euler-Maruyama, the ODE) takes this.
- `GaussianSDE` is both: its coefficients follow from its marginals. `DiscreteChain` is only the first, `MatrixSDE`
  only the second.

There is no number of steps, no step size and no network in here.

Source: Song, "Learning to Generate Data by Estimating Gradients of the Data Distribution" (2022), chapter 7 and B.5.
"""

import abc
import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from score_sde.types import Keys, ScoreFn, Time, batch_time, fold_in, left_broadcast, normal


def _require(ok: bool | np.bool_, message: str) -> None:
    if not ok:
        raise ValueError(message)


class SDE(abc.ABC):
    """An Ito process dx = f(x, t) dt + G(x, t) dw on [t_min, t_max] (dissertation eq. B.4).

    A new one defines the four abstract methods; its time reversal and its probability flow follow.
    """

    t_min: float
    t_max: float

    @abc.abstractmethod
    def drift(self, x: Float[Array, "batch ..."], t: Time) -> Float[Array, "batch ..."]:
        """f(x, t)."""

    @abc.abstractmethod
    def diffuse(
        self, x: Float[Array, "batch ..."], t: Time, v: Float[Array, "batch ..."]
    ) -> Float[Array, "batch ..."]:
        """G(x, t) v."""

    @abc.abstractmethod
    def gram(
        self, x: Float[Array, "batch ..."], t: Time, v: Float[Array, "batch ..."]
    ) -> Float[Array, "batch ..."]:
        """G(x, t) G(x, t)^T v."""

    @abc.abstractmethod
    def gram_divergence(self, x: Float[Array, "batch ..."], t: Time) -> Float[Array, "batch ..."]:
        """div [G G^T](x, t): component i is sum_j d/dx_j (G G^T)_ij. Zero where G does not depend on x."""

    def reverse_drift(
        self,
        x: Float[Array, "batch ..."],
        t: Time,
        score: Float[Array, "batch ..."],
        eta: float = 1.0,
    ) -> Float[Array, "batch ..."]:
        """Drift of the family of processes that run backwards in time with the same marginals p_t.

        f - (1 + eta^2)/2 (div [G G^T] + G G^T score), with noise eta G dw. eta = 1 is the reverse-time SDE (eq. B.5),
        eta = 0 the probability-flow ODE (eq. B.6). Integrate with dt < 0.
        """
        correction = self.gram_divergence(x, t) + self.gram(x, t, score)
        return self.drift(x, t) - (1 + eta**2) / 2 * correction


class Perturbation(abc.ABC):
    """x_t = alpha(t) x_0 + sigma(t) z: a Gaussian perturbation kernel, in continuous time or by index."""

    t_min: float
    t_max: float

    @abc.abstractmethod
    def marginal(self, t: Time) -> tuple[Time, Time]:
        """(alpha(t), sigma(t)): mean factor and standard deviation of p(x_t | x_0)."""

    @property
    @abc.abstractmethod
    def prior_std(self) -> float:
        """Standard deviation of the Gaussian that stands for p_{t_max}."""

    def perturb(
        self, x0: Float[Array, "batch ..."], t: Time, z: Float[Array, "batch ..."]
    ) -> Float[Array, "batch ..."]:
        """x_t = alpha(t) x_0 + sigma(t) z."""
        alpha, sigma = self.marginal(t)
        return left_broadcast(alpha, x0) * x0 + left_broadcast(sigma, x0) * z

    def transition(self, t: Time, s: Time) -> tuple[Time, Time]:
        """(a, b) of the forward step x_t = a x_s + b z from an earlier time s to a later time t.

        a = alpha(t)/alpha(s), b^2 = sigma(t)^2 - a^2 sigma(s)^2.
        """
        (alpha_t, sigma_t), (alpha_s, sigma_s) = self.marginal(t), self.marginal(s)
        a = alpha_t / alpha_s
        return a, jnp.sqrt(jnp.maximum(sigma_t**2 - (a * sigma_s) ** 2, 0.0))

    def tweedie(
        self, x: Float[Array, "batch ..."], t: Time, score: Float[Array, "batch ..."]
    ) -> Float[Array, "batch ..."]:
        """Denoiser E[x_0 | x_t = x] = (x + sigma(t)^2 score)/alpha(t) (Tweedie's formula, dissertation B.5.7).

        Where sigma(t) = 0 the score, which a noise predictor makes infinite there, is left out.
        """
        alpha, sigma = (left_broadcast(v, x) for v in self.marginal(t))
        return (x + jnp.where(sigma > 0, sigma**2 * score, 0.0)) / alpha

    def log_snr(self, t: Time) -> Time:
        """log(alpha(t)^2 / sigma(t)^2): falls from data to noise."""
        alpha, sigma = self.marginal(t)
        return 2 * (jnp.log(alpha) - jnp.log(sigma))

    def prior_sample(
        self, keys: Keys, shape: tuple[int, ...], dtype=jnp.float32
    ) -> Float[Array, "batch ..."]:
        """Draw x at t_max from N(0, prior_std^2 I)."""
        return self.prior_std * normal(keys, shape, dtype)

    def prior_logp(self, x: Float[Array, "batch ..."]) -> Float[Array, "batch"]:
        """log N(x; 0, prior_std^2 I) in nats, summed over all dimensions of a sample."""
        flat = x.reshape(x.shape[0], -1)
        constant = flat.shape[1] * (0.5 * math.log(2 * math.pi) + math.log(self.prior_std))
        return -0.5 * jnp.sum((flat / self.prior_std) ** 2, axis=1) - constant


class GaussianSDE(Perturbation, SDE):
    """dx = f(t) x dt + g(t) dw, given by its marginals alone.

    A new one defines `marginal` and `prior_std`. The coefficients follow by differentiation:
    f = alpha'/alpha and g^2 = (sigma^2)' - 2 f sigma^2 (the moment equations, Saerkkae & Solin (2019) 5.50-5.51).
    """

    def coefficients(self, t: Time) -> tuple[Time, Time]:
        """(f(t), g(t)^2)."""
        # At t = 0 itself sigma' may be infinite while (sigma^2)' is not; a time too small to matter avoids 0 * inf.
        t = jnp.maximum(t, jnp.sqrt(jnp.finfo(t.dtype).tiny))
        (alpha, sigma), (d_alpha, d_sigma) = jax.jvp(self.marginal, (t,), (jnp.ones_like(t),))
        f = d_alpha / alpha
        return f, 2 * sigma * (d_sigma - f * sigma)

    def drift(self, x: Float[Array, "batch ..."], t: Time) -> Float[Array, "batch ..."]:
        """f(t) x."""
        return left_broadcast(self.coefficients(t)[0], x) * x

    def diffuse(
        self, x: Float[Array, "batch ..."], t: Time, v: Float[Array, "batch ..."]
    ) -> Float[Array, "batch ..."]:
        """g(t) v."""
        return left_broadcast(jnp.sqrt(self.coefficients(t)[1]), x) * v

    def gram(
        self, x: Float[Array, "batch ..."], t: Time, v: Float[Array, "batch ..."]
    ) -> Float[Array, "batch ..."]:
        """g(t)^2 v."""
        return left_broadcast(self.coefficients(t)[1], x) * v

    def gram_divergence(self, x: Float[Array, "batch ..."], t: Time) -> Float[Array, "batch ..."]:
        """Zero: g does not depend on x."""
        return jnp.zeros_like(x)

    def time_at_log_snr(self, log_snr: Time) -> Time:
        """The t in [t_min, t_max] with log_snr(t) = log_snr, by bisection to the last bit (log-SNR is monotone).

        Values outside the range map to the nearer end.
        """

        def halve(_, bracket):
            low, high = bracket
            middle = 0.5 * (low + high)
            too_early = self.log_snr(middle) > log_snr
            return jnp.where(too_early, middle, low), jnp.where(too_early, high, middle)

        bracket = jnp.full_like(log_snr, self.t_min), jnp.full_like(log_snr, self.t_max)
        low, high = jax.lax.fori_loop(0, 2 * jnp.finfo(log_snr.dtype).nmant + 10, halve, bracket)
        return 0.5 * (low + high)


def _check_times(t_min: float, t_max: float) -> None:
    _require(0 <= t_min < t_max, f"t_min must be in [0, t_max); got t_min={t_min}, t_max={t_max}")


@dataclasses.dataclass(frozen=True)
class VE(GaussianSDE):
    """Variance exploding: alpha = 1, sigma(t) = sigma_min (sigma_max/sigma_min)^t (dissertation eq. B.19, B.20).

    Coefficients: f = 0, g^2 = 2 sigma(t)^2 log(sigma_max/sigma_min). For data in [0, 1]. sigma_max: about the largest
    distance between two images (technique 1, chapter 6).

    Raises ValueError unless 0 < sigma_min < sigma_max.
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0
    t_min: float = 1e-5
    t_max: float = 1.0

    def __post_init__(self):
        _require(
            0 < self.sigma_min < self.sigma_max,
            f"sigma_min must be in (0, sigma_max); got sigma_min={self.sigma_min}, sigma_max={self.sigma_max}",
        )
        _check_times(self.t_min, self.t_max)

    def marginal(self, t: Time) -> tuple[Time, Time]:
        """(1, sigma_min (sigma_max/sigma_min)^t)."""
        return jnp.ones_like(t), self.sigma_min * jnp.exp(t * math.log(self.sigma_max / self.sigma_min))

    @property
    def prior_std(self) -> float:
        """sigma_max."""
        return self.sigma_min * (self.sigma_max / self.sigma_min) ** self.t_max


def _check_betas(beta_min: float, beta_max: float) -> None:
    _require(
        0 < beta_min <= beta_max,
        f"beta_min must be in (0, beta_max]; got beta_min={beta_min}, beta_max={beta_max}",
    )


def _integrated_beta(sde: "VP | SubVP", t: Time) -> Time:
    """B(t) = integral_0^t beta(s) ds for beta(t) = beta_min + t (beta_max - beta_min)."""
    return t * (sde.beta_min + 0.5 * t * (sde.beta_max - sde.beta_min))


@dataclasses.dataclass(frozen=True)
class VP(GaussianSDE):
    """Variance preserving: alpha = exp(-B/2), sigma^2 = 1 - exp(-B), B = integral of beta (dissertation eq. B.14, B.18).

    beta(t) = beta_min + t (beta_max - beta_min). Coefficients: f = -beta/2, g^2 = beta. For data in [-1, 1].

    Raises ValueError unless 0 < beta_min <= beta_max.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    t_min: float = 1e-5
    t_max: float = 1.0

    def __post_init__(self):
        _check_betas(self.beta_min, self.beta_max)
        _check_times(self.t_min, self.t_max)

    def marginal(self, t: Time) -> tuple[Time, Time]:
        """(exp(-B/2), sqrt(1 - exp(-B))); the second by expm1, exact at small t."""
        integral = _integrated_beta(self, t)
        return jnp.exp(-0.5 * integral), jnp.sqrt(-jnp.expm1(-integral))

    @property
    def prior_std(self) -> float:
        """1."""
        return 1.0


@dataclasses.dataclass(frozen=True)
class SubVP(GaussianSDE):
    """sub-VP: alpha = exp(-B/2), sigma = 1 - exp(-B): variance below that of `VP` (dissertation eq. B.16, B.18).

    Coefficients: f = -beta/2, g^2 = beta (1 - exp(-2B)). For data in [-1, 1].

    Raises ValueError unless 0 < beta_min <= beta_max.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    t_min: float = 1e-5
    t_max: float = 1.0

    def __post_init__(self):
        _check_betas(self.beta_min, self.beta_max)
        _check_times(self.t_min, self.t_max)

    def marginal(self, t: Time) -> tuple[Time, Time]:
        """(exp(-B/2), 1 - exp(-B))."""
        integral = _integrated_beta(self, t)
        return jnp.exp(-0.5 * integral), -jnp.expm1(-integral)

    @property
    def prior_std(self) -> float:
        """1."""
        return 1.0


@dataclasses.dataclass(frozen=True)
class EDM(GaussianSDE):
    """alpha = 1, sigma(t) = t: time is the noise level, f = 0, g^2 = 2t (Karras et al. 2022, table 1).

    t_min and t_max are the smallest and largest noise level.
    """

    t_min: float = 0.002
    t_max: float = 80.0

    def __post_init__(self):
        _check_times(self.t_min, self.t_max)

    def marginal(self, t: Time) -> tuple[Time, Time]:
        """(1, t)."""
        return jnp.ones_like(t), t

    @property
    def prior_std(self) -> float:
        """t_max."""
        return self.t_max


@dataclasses.dataclass(frozen=True)
class CosineVP(GaussianSDE):
    """Variance preserving with alpha(t) = cos(pi/2 (t+s)/(1+s)) / cos(pi/2 s/(1+s)) (Nichol & Dhariwal 2021, eq. 17).

    sigma^2 = 1 - alpha^2. t_max stays below 1, where beta(t) diverges.

    Raises ValueError unless s >= 0 and t_max < 1.
    """

    s: float = 0.008
    t_min: float = 1e-5
    t_max: float = 0.9946

    def __post_init__(self):
        _require(self.s >= 0, f"s must be >= 0; got s={self.s}")
        _require(self.t_max < 1, f"t_max must be below 1 (beta diverges there); got t_max={self.t_max}")
        _check_times(self.t_min, self.t_max)

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
class MatrixSDE(SDE):
    """dx = f(x, t) dt + G(x, t) dw with matrix diffusion that may depend on the state (dissertation B.5.1).

    Args:
        drift_fn: (x (d,), t ()) -> f (d,), for one sample.
        diffusion_fn: (x (d,), t ()) -> G (d, d), for one sample.
        t_min, t_max: time interval.
    """

    drift_fn: Callable[[Array, Array], Array]
    diffusion_fn: Callable[[Array, Array], Array]
    t_min: float = 0.0
    t_max: float = 1.0

    def __post_init__(self):
        _check_times(self.t_min, self.t_max)

    def drift(self, x: Float[Array, "batch d"], t: Time) -> Float[Array, "batch d"]:
        """f(x, t)."""
        return jax.vmap(self.drift_fn)(x, batch_time(t, x))

    def diffuse(
        self, x: Float[Array, "batch d"], t: Time, v: Float[Array, "batch d"]
    ) -> Float[Array, "batch d"]:
        """G(x, t) v."""
        return jax.vmap(lambda x, t, v: self.diffusion_fn(x, t) @ v)(x, batch_time(t, x), v)

    def gram(
        self, x: Float[Array, "batch d"], t: Time, v: Float[Array, "batch d"]
    ) -> Float[Array, "batch d"]:
        """G(x, t) G(x, t)^T v."""
        return jax.vmap(lambda x, t, v: self._gram_matrix(x, t) @ v)(x, batch_time(t, x), v)

    def gram_divergence(self, x: Float[Array, "batch d"], t: Time) -> Float[Array, "batch d"]:
        """sum_j d/dx_j (G G^T)_ij by forward differentiation: d forward passes."""

        def divergence(x, t):
            return jnp.einsum("ijj->i", jax.jacfwd(self._gram_matrix)(x, t))

        return jax.vmap(divergence)(x, batch_time(t, x))

    def _gram_matrix(self, x: Float[Array, "d"], t: Float[Array, ""]) -> Float[Array, "d d"]:
        matrix = self.diffusion_fn(x, t)
        return matrix @ matrix.T


@dataclasses.dataclass(frozen=True, eq=False)
class DiscreteChain(Perturbation):
    """A Markov chain x_0 -> x_1 -> ... with tabulated marginals; time is the index i = 0 (least noise) .. N-1.

    Index -1 is the clean image (alpha 1, sigma 0): the last reverse step goes there. Steps may skip indices, since
    `transition` follows from the marginals. A fractional index means the entry below it. Build one with `smld` or `ddpm`.

    Args:
        alphas, sigmas: (N,) float64 tables, noise increasing with the index.
    """

    alphas: np.ndarray
    sigmas: np.ndarray

    def __post_init__(self):
        _require(
            self.alphas.shape == self.sigmas.shape and self.alphas.ndim == 1 and self.alphas.size > 0,
            f"alphas and sigmas must be one-dimensional and of one length; got {self.alphas.shape}, {self.sigmas.shape}",
        )

    @classmethod
    def smld(cls, sigma_min: float = 0.01, sigma_max: float = 50.0, n: int = 1000) -> "DiscreteChain":
        """Geometric noise levels of SMLD/NCSN, x_i = x_{i-1} + sqrt(sigma_i^2 - sigma_{i-1}^2) z (eq. B.9)."""
        VE(sigma_min, sigma_max)  # validates the pair
        return cls(np.ones(n), np.exp(np.linspace(math.log(sigma_min), math.log(sigma_max), n)))

    @classmethod
    def ddpm(cls, beta_min: float = 0.1, beta_max: float = 20.0, n: int = 1000) -> "DiscreteChain":
        """x_i = sqrt(1 - beta_i) x_{i-1} + sqrt(beta_i) z (eq. B.11), beta_i = linspace(beta_min, beta_max, n)_i / n.

        Raises ValueError where beta_max >= n: 1 - beta_i would not be positive.
        """
        _check_betas(beta_min, beta_max)
        _require(
            beta_max < n, f"beta_max must be below n, else 1 - beta_i <= 0; got beta_max={beta_max}, n={n}"
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
    """A `DiscreteChain` under continuous time t in [0, 1], as the published Score SDE codes use their tables.

    At time t the entry i = trunc(t (N-1)) holds, and every step from t, wherever it goes, is the chain's step
    i -> i-1. A continuous-time model sampled through this view repeats the published reverse-diffusion, ancestral and
    Langevin updates number for number. The library's own default is the exact `transition` of the SDE instead.
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


def simulate(
    keys: Keys, sde: SDE, x: Float[Array, "batch ..."], times: Float[Array, "n"]
) -> Float[Array, "n batch ..."]:
    """Forward paths of any SDE by Euler-Maruyama: states at `times` (increasing), the first being `x` itself.

    x_{i+1} = x_i + f h + G sqrt(h) z with h = t_{i+1} - t_i; strong order 1/2 (1 for additive noise).
    """

    def step(x, i):
        t, h = times[i], times[i + 1] - times[i]
        z = normal(fold_in(keys, i), x.shape, x.dtype)
        x = x + h * sde.drift(x, t) + jnp.sqrt(h) * sde.diffuse(x, t, z)
        return x, x

    _, path = jax.lax.scan(step, x, jnp.arange(len(times) - 1))
    return jnp.concatenate([x[None], path])


def probability_flow(sde: SDE, score_fn: ScoreFn) -> Callable[[Array, Array], Array]:
    """The vector field (x, t) -> dx/dt of the probability-flow ODE (eq. 7.13, B.6)."""
    return lambda x, t: sde.reverse_drift(x, t, score_fn(x, batch_time(t, x)), eta=0.0)
