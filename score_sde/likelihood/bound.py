"""Bounds on the negative log-likelihood of the SDE model (dissertation theorems 9.1, 9.3, B.1; eq.

B.38, B.40, B.41).
"""

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from score_sde.analytic import GaussianMixture
from score_sde.arrays import Keys, ScoreFn, Time, batch_time, fold_in, left_broadcast, normal
from score_sde.objectives.times import LogSNRUniform, UniformTime
from score_sde.sde import GaussianSDE


@dataclasses.dataclass(frozen=True)
class Bound:
    """-log p(x) <= E[-log pi(x_T)] + 1/2 integral of E[h(t)] dt + offset, in nats.

    The estimate is unbiased for each sample. With z the noise of x_t = alpha x_0 + sigma z and D
    the dimensions (theorem 9.3; div f = D f(t) exactly):

        "dsm": h = g^2 (|score + z/sigma|^2 - |z/sigma|^2) - 2 D f
        "sm":  h = g^2 (|score|^2 + 2 v^T (d score/dx) v) - 2 D f, v a Rademacher probe

    Both have one expectation. The offset turns the bound on the model at t_min into one on data:
    the step from t_min to 0 is the Gaussian around Tweedie's denoiser (eq. B.40).

    Args:
        sde: gives coefficients, interval and prior.
        times: `LogSNRUniform(sde)` (importance sampling) or `UniformTime(sde)`. |z/sigma|^2 being
            subtracted, the gain is less than in training: more than ten times smaller a variance
            where the data have detail at the scale of sigma(t_min), as images have, but none for
            smooth densities.
        draws: times per sample and call; the result is their mean.
        kind: "dsm" or "sm".
        offset: include it; without, the bound is on the model at t_min.

    Raises:
        ValueError: draws < 1, or an unknown kind.
    """

    sde: GaussianSDE
    times: LogSNRUniform | UniformTime
    draws: int = 1
    kind: Literal["dsm", "sm"] = "dsm"
    offset: bool = True

    def __post_init__(self):
        if self.draws < 1:
            raise ValueError(f"draws must be at least 1; got {self.draws}")
        if self.kind not in ("dsm", "sm"):
            raise ValueError(f"kind must be 'dsm' or 'sm'; got {self.kind!r}")

    def __call__(
        self, keys: Keys, score_fn: ScoreFn, x: Float[Array, "batch ..."]
    ) -> Float[Array, "batch"]:
        """An unbiased estimate of the bound for each sample; keys: one, or one for each sample."""

        def one(i):
            key = fold_in(keys, i)
            u = jax.scipy.stats.norm.cdf(normal(fold_in(key, 0), (len(x), 1), x.dtype))[:, 0]
            t, w = self.times.at(u)
            z, v = (normal(fold_in(key, j), x.shape, x.dtype) for j in (1, 2))
            return w * self.integrand(score_fn, x, t, z, jnp.sign(v))

        length = self.sde.t_max - self.sde.t_min
        # On CPUs gradients of convolutions are some twenty times slower in a loop: training with
        # one draw has none.
        values = (
            one(0)
            if self.draws == 1
            else jnp.mean(jax.lax.map(one, jnp.arange(self.draws)), axis=0)
        )
        integral = 0.5 * length * values
        prior = self.prior_term(x)
        if not self.offset:
            return prior + integral
        noise = normal(fold_in(keys, self.draws), x.shape, x.dtype)
        return prior + integral + self.offset_term(score_fn, x, noise)

    def integrand(
        self,
        score_fn: ScoreFn,
        x: Float[Array, "batch ..."],
        t: Time,
        z: Float[Array, "batch ..."],
        v: Float[Array, "batch ..."],
    ) -> Float[Array, "batch"]:
        """h(t) at x_t = alpha x + sigma z; v is the probe of "sm"."""
        t = batch_time(t, x)
        f, g2 = self.sde.coefficients(t)
        xt = self.sde.perturb(x, t, z)
        if self.kind == "dsm":
            kernel = z / left_broadcast(self.sde.marginal(t)[1], z)
            matching = _squares(score_fn(xt, t) + kernel) - _squares(kernel)
        else:
            score, pushed = jax.jvp(lambda xt: score_fn(xt, t), (xt,), (v,))
            matching = _squares(score) + 2 * _dot(v, pushed)
        return g2 * matching - 2 * (x.size // len(x)) * f

    def prior_term(self, x: Float[Array, "batch ..."]) -> Float[Array, "batch"]:
        """E[-log pi(x_T)] over x_T = alpha x + sigma z, pi = N(0, p^2 I), in closed form.

        D/2 log(2 pi p^2) + (alpha^2 |x|^2 + D sigma^2)/(2 p^2). The published codes draw x_T
        instead.
        """
        alpha, sigma = self.sde.marginal(jnp.asarray(self.sde.t_max, x.dtype))
        dimensions, variance = x.size // len(x), self.sde.prior_std**2
        normalizer = 0.5 * dimensions * math.log(2 * math.pi * variance)
        return normalizer + (alpha**2 * _squares(x) + dimensions * sigma**2) / (2 * variance)

    def offset_term(
        self, score_fn: ScoreFn, x: Float[Array, "batch ..."], z: Float[Array, "batch ..."]
    ) -> Float[Array, "batch"]:
        """-(log q(x | x_e) - log p(x_e | x)) at x_e = alpha x + sigma z, e = t_min.

        q is the denoising Gaussian (eq. B.40). The second term enters by its expectation, -D/2
        (log(2 pi sigma^2) + 1).
        """
        t = jnp.asarray(self.sde.t_min, x.dtype)
        alpha, sigma = self.sde.marginal(t)
        xe = self.sde.perturb(x, t, z)
        mean = self.sde.tweedie(xe, t, score_fn(xe, batch_time(t, xe)))
        dimensions = x.size // len(x)
        std = sigma / alpha
        log_q = -_squares(x - mean) / (2 * std**2) - 0.5 * dimensions * jnp.log(
            2 * math.pi * std**2
        )
        entropy = 0.5 * dimensions * (jnp.log(2 * math.pi * sigma**2) + 1)
        return -log_q - entropy


def kl_bound(
    key: Key[Array, ""],
    sde: GaussianSDE,
    data: GaussianMixture,
    score_fn: ScoreFn,
    n: int,
    dtype=jnp.float32,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """(value, standard error) in nats of theorem 9.1's bound on D_KL(p || model).

    The bound is at t_min (eq. B.38), for known data: 1/2 integral of g^2 E_{p_t}|grad log p_t -
    score|^2 dt + D_KL(p_T || pi)

    p is the law of the data at t_min, the model that of the reverse SDE with `score_fn` from the
    prior pi. The first term vanishes for the right score; for the score of other data, q, it is
    D_KL(p || q) - D_KL(p_T || q_T) (theorem 9.2).

    Args:
        key: decides the draws.
        sde: gives coefficients, interval and prior.
        data: known exactly.
        score_fn: the model's.
        n: independent draws, log-SNR uniform in time; the score is called once with all of them.
        dtype: of the draws.
    """
    keys = jax.random.split(key, 4)
    x = data.sample(keys[0], n, dtype)
    t, w = LogSNRUniform(sde).at(jax.random.uniform(keys[1], (n,), dtype))
    z, z_end = (jax.random.normal(k, x.shape, dtype) for k in keys[2:])
    xt = sde.perturb(x, t, z)
    _, g2 = sde.coefficients(t)
    matching = w * g2 * _squares(data.score(sde, xt, t) - score_fn(xt, t))
    end = jnp.asarray(sde.t_max, dtype)
    xe = sde.perturb(x, end, z_end)
    prior = data.log_prob(sde, xe, end) - sde.prior_logp(xe)
    values = 0.5 * (sde.t_max - sde.t_min) * matching + prior
    return jnp.mean(values), jnp.std(values) / math.sqrt(n)


def _dot(a: Float[Array, "batch ..."], b: Float[Array, "batch ..."]) -> Float[Array, "batch"]:
    return jnp.sum((a * b).reshape(len(a), -1), axis=1)


def _squares(a: Float[Array, "batch ..."]) -> Float[Array, "batch"]:
    return _dot(a, a)
