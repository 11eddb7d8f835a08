"""The interfaces of forward processes, and what follows from them alone.

The package's docstring says which part of the library takes which of them.
"""

import abc
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from score_sde.arrays import Keys, ScoreFn, Time, batch_time, fold_in, left_broadcast, normal


def require(ok: bool | np.bool_, message: str) -> None:
    """Raise ValueError with `message` unless `ok`."""
    if not ok:
        raise ValueError(message)


def check_times(t_min: float, t_max: float) -> None:
    """Raise ValueError unless 0 <= t_min < t_max."""
    require(0 <= t_min < t_max, f"t_min must be in [0, t_max); got t_min={t_min}, t_max={t_max}")


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
        """div [G G^T](x, t): component i is sum_j d/dx_j (G G^T)_ij.

        Zero where G does not depend on x.
        """

    def reverse_drift(
        self,
        x: Float[Array, "batch ..."],
        t: Time,
        score: Float[Array, "batch ..."],
        eta: float = 1.0,
    ) -> Float[Array, "batch ..."]:
        """Drift of the family of processes that run backwards in time with the same marginals p_t.

        f - (1 + eta^2)/2 (div [G G^T] + G G^T score), with noise eta G dw. eta = 1 is the
        reverse-time SDE (eq. B.5), eta = 0 the probability-flow ODE (eq. B.6). Integrate it with
        dt < 0.
        """
        correction = self.gram_divergence(x, t) + self.gram(x, t, score)
        return self.drift(x, t) - (1 + eta**2) / 2 * correction


class Perturbation(abc.ABC):
    """x_t = alpha(t) x_0 + sigma(t) z: a Gaussian kernel, in continuous time or by index."""

    t_min: float
    t_max: float

    @abc.abstractmethod
    def marginal(self, t: Time) -> tuple[Time, Time]:
        """(alpha(t), sigma(t)): mean factor and standard deviation of p(x_t | x_0)."""

    @property
    @abc.abstractmethod
    def prior_std(self) -> float:
        """Standard deviation of the Gaussian that stands for p_{t_max}."""

    @property
    def t_clean(self) -> float:
        """The time of the clean image, where alpha = 1 and sigma = 0: 0, unless a process differs.

        A sampler may step there. No score is asked for at this time.
        """
        return 0.0

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
        """Denoiser E[x_0 | x_t = x] = (x + sigma(t)^2 score)/alpha(t), Tweedie's formula.

        Where sigma(t) = 0 the score, which a noise predictor makes infinite there, is left out.
        Source: dissertation B.5.7.
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
    f = alpha'/alpha and g^2 = (sigma^2)' - 2 f sigma^2 (the moment equations, Saerkkae & Solin
    (2019) 5.50-5.51).
    """

    def coefficients(self, t: Time) -> tuple[Time, Time]:
        """(f(t), g(t)^2)."""
        # At t = 0 itself sigma' may be infinite while (sigma^2)' is not; a time too small to matter
        # avoids 0 * inf.
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
        """The t in [t_min, t_max] with log_snr(t) = log_snr, by bisection to the last bit.

        The log-SNR falls with t. Values outside its range map to the nearer end.
        """

        def halve(_, bracket):
            low, high = bracket
            middle = 0.5 * (low + high)
            too_early = self.log_snr(middle) > log_snr
            return jnp.where(too_early, middle, low), jnp.where(too_early, high, middle)

        bracket = jnp.full_like(log_snr, self.t_min), jnp.full_like(log_snr, self.t_max)
        low, high = jax.lax.fori_loop(0, 2 * jnp.finfo(log_snr.dtype).nmant + 10, halve, bracket)
        return 0.5 * (low + high)


def simulate(
    keys: Keys, sde: SDE, x: Float[Array, "batch ..."], times: Float[Array, "n"]
) -> Float[Array, "n batch ..."]:
    """Forward paths of any SDE by Euler-Maruyama: its states at increasing `times`.

    x_{i+1} = x_i + f h + G sqrt(h) z with h = t_{i+1} - t_i. The first state is `x` itself. The
    strong order is 1/2, for additive noise 1.
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
