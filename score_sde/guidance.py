"""Guidance: a score function in, a score function of the same process given something out.

By Bayes' rule grad log p_t(x | y) = grad log p_t(x) + grad log p_t(y | x). Each function here adds
the last term, or an approximation of it, so its result works with every stepper, with the flow and
with the likelihood. `GaussianMixture.condition` has the exact answer to compare with.

Guidance by a linear measurement y = A x_0 + std z starts from Tweedie's denoiser x0(x) = E[x_0 | x]
and its Jacobian J = dx0/dx. It takes y to be Gaussian given x:

    p_t(y | x) = N(y; A x0, S),  added: J^T A^T S^-1 (y - A x0)

| function | S - std^2 I | exact for |
|---|---|---|
| `dps` | r^2 I | N(mu, c^2 I) and A A^T = I |
| `pigdm` | r^2 A A^T | N(mu, c^2 I) |
| `tmpd` | diagonal matrix of the row sums of A V A^T | a Gaussian where A V A^T is diagonal |
| `mmps` | A V A^T | every Gaussian, with as many steps as y has entries |

V = (sigma^2/alpha) J is the covariance of x_0 given x. For data N(mu, c^2 I) it is r^2 I with
r^2 = c^2 sigma^2/(alpha^2 c^2 + sigma^2). All is per sample: no norm or sum runs over the batch.

`annealed` and `annealed_relative`, which came before these, compare x itself with the data at its
noise level, alpha y, and so need no Jacobian.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact, Int

from score_sde.arrays import ScoreFn, Time, left_broadcast
from score_sde.inverse.denoise import Denoised, denoise
from score_sde.inverse.measurement import Measurement
from score_sde.inverse.operators import image_of_solution, inner, reciprocal
from score_sde.sde import Perturbation
from score_sde.steppers.ratio import ratio

LogProbs = Callable[[Array, Array], Array]
"""(x, t) -> (batch, K) log p_t(k | x). A row depends on its own sample alone."""


class Cost(NamedTuple):
    """What one call of a guided score costs.

    evaluations: of score functions. vjps: vector-Jacobian products of the score, each about as much
    as two evaluations. What a classifier or an operator costs is not in it.
    """

    evaluations: int
    vjps: int


def cost(method: str, steps: int = 1) -> Cost:
    """The cost of a function of this module by its name, but of `within`; `steps`: of `mmps`.

    `mmps` makes fewer of them where conjugate gradients have converged for all rows.
    `within` costs what its guided part does where all samples are inside the interval, what its
    plain part does where none is, and both in between.

    Raises KeyError for another name.
    """
    return {
        "classifier": Cost(1, 0),
        "mix": Cost(2, 0),
        "dps": Cost(1, 1),
        "pigdm": Cost(1, 1),
        "tmpd": Cost(1, 2),
        "mmps": Cost(1, steps),
        "annealed": Cost(1, 0),
        "annealed_relative": Cost(1, 0),
    }[method]


def classifier(
    score_fn: ScoreFn,
    log_probs: LogProbs,
    labels: Int[Array, "batch"],
    scale: float | Float[Array, "batch"] = 1.0,
) -> ScoreFn:
    """score + scale grad_x log p_t(label | x): classifier guidance.

    Args:
        score_fn: the score of all classes.
        log_probs: the classifier of noisy samples. Logits do too: they are normalized here.
        labels: the class of each sample.
        scale: 1 is Bayes' rule. Of the number 0 the result is `score_fn` itself.

    Source: dissertation eq. 7.14, B.34, B.35; Dhariwal and Nichol 2021, algorithm 1.
    """
    if isinstance(scale, int | float) and scale == 0:
        return score_fn

    def chosen(x, t):
        every = jax.nn.log_softmax(log_probs(x, t), axis=1)
        return jnp.sum(jnp.take_along_axis(every, labels[:, None], axis=1))

    def guided(x, t):
        weight = left_broadcast(jnp.asarray(scale, x.dtype), x)
        return score_fn(x, t) + weight * jax.grad(chosen)(x, t)

    return guided


def mix(conditional: ScoreFn, unconditional: ScoreFn, weight: float) -> ScoreFn:
    """unconditional + (1 + weight) (conditional - unconditional).

    Of weight 0 the result is `conditional` itself, of -1 `unconditional`. This is the weight w of
    classifier-free guidance (Ho and Salimans 2022, eq. 6). Codes with a "guidance scale" s mean
    s = 1 + w, so that 1 is no guidance. The same mix with a worse model of the same data in place
    of `unconditional` is autoguidance; its paper's weight is 1 + w too (Karras et al. 2024).
    """
    if weight in (0, -1):
        return conditional if weight == 0 else unconditional

    def guided(x, t):
        base = unconditional(x, t)
        return base + (1 + weight) * (conditional(x, t) - base)

    return guided


def within(
    guided: ScoreFn, plain: ScoreFn, process: Perturbation, low: float, high: float
) -> ScoreFn:
    """`guided` at noise levels low < sigma/alpha <= high, `plain` elsewhere, for each sample.

    Outside the interval `guided` is not evaluated, unless other samples of the batch are inside.

    Raises ValueError unless 0 <= low < high.

    Source: Kynkaanniemi et al. 2024, "Applying guidance in a limited interval".
    """
    if not 0 <= low < high:
        raise ValueError(f"the interval of noise levels needs 0 <= low < high; got {low}, {high}")

    def limited(x, t):
        level = ratio(process, t)
        inside = (low < level) & (level <= high)

        def both(x, t):
            return jnp.where(left_broadcast(inside, x), guided(x, t), plain(x, t))

        count = jnp.any(inside).astype(jnp.int32) + jnp.all(inside).astype(jnp.int32)
        return jax.lax.switch(count, (plain, both, guided), x, t)

    return limited


def dps(
    score_fn: ScoreFn, process: Perturbation, measurement: Measurement, data_std: float = 1.0
) -> ScoreFn:
    """score - grad_x |y - A x0|^2/(2 (std^2 + r^2)): diffusion posterior sampling as a score.

    Args:
        score_fn: the score of p_t.
        process: gives alpha and sigma.
        measurement: A, y and std, one row a sample.
        data_std: c in r^2 = c^2 sigma^2/(alpha^2 c^2 + sigma^2), the error of x0. With c = 0 the
            likelihood is the paper's, which takes x0 for the truth; then std must not be 0.

    Source: Chung et al. 2023, eq. 16. Their code is `inverse.dps.DPS`.
    """

    def solve(now, residual, t):
        return _scale(1 / (measurement.std**2 + _spread(process, t, data_std)), residual)

    return _measured(score_fn, process, measurement, solve)


def pigdm(
    score_fn: ScoreFn, process: Perturbation, measurement: Measurement, data_std: float = 1.0
) -> ScoreFn:
    """score + J^T A^T (r^2 A A^T + std^2 I)^-1 (y - A x0): pseudoinverse guidance.

    Args: as `dps`; data_std > 0, published 1. It uses `operator.solve`.

    Source: Song et al. 2023, "Pseudoinverse-guided diffusion models for inverse problems", eq. 7.
    """

    def solve(now, residual, t):
        spread = _spread(process, t, data_std)
        solved = measurement.operator.solve(residual, measurement.std**2 / spread)
        return _scale(1 / spread, solved)

    return _measured(score_fn, process, measurement, solve)


def tmpd(score_fn: ScoreFn, process: Perturbation, measurement: Measurement) -> ScoreFn:
    """score + J^T A^T (D + std^2 I)^-1 (y - A x0): Tweedie moment projected diffusions.

    D is diagonal, with the row sums of A V A^T, V = (sigma^2/alpha) J. A variance is not negative,
    but such a sum may be; it counts as 0 then. With std = 0 as well the result is infinite. Real
    and imaginary parts of complex data have a sum each.

    Args: as `dps`.

    Source: Boys et al. 2023, "Tweedie moment projected diffusions for inverse problems".
    """

    def solve(now, residual, t):
        complex_data = jnp.iscomplexobj(residual)
        ones = jnp.full_like(residual, 1 + 1j if complex_data else 1)
        sums, _ = _moved(now, process, measurement, t)(ones)

        def divided(residual, sums):
            noise = left_broadcast(measurement.std**2, residual)
            return residual / (jnp.maximum(sums, 0.0) + noise)

        if not complex_data:
            return divided(residual, sums)
        return jax.lax.complex(divided(residual.real, sums.real), divided(residual.imag, sums.imag))

    return _measured(score_fn, process, measurement, solve)


def mmps(
    score_fn: ScoreFn, process: Perturbation, measurement: Measurement, steps: int = 1
) -> ScoreFn:
    """score + J^T A^T (A V A^T + std^2 I)^-1 (y - A x0): moment matching posterior sampling.

    V = (sigma^2/alpha) J. The system is solved by `steps` steps of conjugate gradients from 0. What
    they pull back is summed as they go, so that each step takes one vector-Jacobian product and
    none is needed afterwards.

    Args: as `dps`; steps >= 1, else a ValueError is raised.

    Source: Rozet et al. 2024, "Learning diffusion priors from observations by expectation
    maximization", section 4.2.
    """
    if steps < 1:
        raise ValueError(f"steps of conjugate gradients must be at least 1; got {steps}")

    def guided(x, t):
        now = denoise(score_fn, process, x, t)
        move = _moved(now, process, measurement, t)

        def apply(v):
            moved, pulled = move(v)
            return moved + _scale(measurement.std**2, v), pulled

        residual = measurement.y - measurement.operator.forward(now.x0)
        return now.score + image_of_solution(apply, residual, steps)

    return guided


def annealed(
    score_fn: ScoreFn,
    process: Perturbation,
    measurement: Measurement,
    rate: float,
    w: Float[Array, "batch ..."] | None = None,
) -> ScoreFn:
    """score + A^T (y_t - A x)/((rate sigma)^2 + (alpha std)^2), y_t = alpha y + sigma A w.

    The added term is -grad |y_t - A x|^2/2 over that variance.

    Args:
        score_fn: the score of p_t.
        process: gives alpha and sigma.
        measurement: A, y and std, one row a sample. The published codes have std = 0.
        rate: > 0. The larger, the weaker the guidance.
        w: standard normal, the noise of the image in y_t; None is 0.

    Raises:
        ValueError: for a rate that is not positive.

    Source: Song et al. 2022, "Solving inverse problems in medical imaging with score-based
    generative models", appendix C: with w the "Score SDE" method (dissertation eq. B.36), rate
    1.231; without w the "Langevin" method of Jalal et al. 2021, rate 0.713, whose paper has
    1/(gamma_t^2 + std^2) with gamma_t of its own.
    """
    if not rate > 0:
        raise ValueError(f"rate must be positive; got {rate}")

    def guided(x, t):
        alpha, sigma = process.marginal(t)
        variance = (rate * sigma) ** 2 + (alpha * measurement.std) ** 2
        return score_fn(x, t) + _scale(1 / variance, _toward_data(measurement, x, alpha, sigma, w))

    return guided


def annealed_relative(
    score_fn: ScoreFn, process: Perturbation, measurement: Measurement, weight: float = 5.0
) -> ScoreFn:
    """score + weight |score| g/|g|, g = A^T (alpha y - A x), with the norms of each sample.

    The added term is `weight` times as long as the score, whatever the noise level and std.

    Args: as `annealed`; weight > 0, published 5.

    Raises:
        ValueError: for a weight that is not positive.

    Source: the code of Jalal et al. 2021, "Robust compressed sensing MRI with deep generative
    priors", which takes both norms over the batch.
    """
    if not weight > 0:
        raise ValueError(f"weight must be positive; got {weight}")

    def guided(x, t):
        score = score_fn(x, t)
        g = _toward_data(measurement, x, *process.marginal(t), None)
        ratio_of_norms = jnp.sqrt(inner(score, score)) * reciprocal(jnp.sqrt(inner(g, g)))
        return score + _scale(weight * ratio_of_norms, g)

    return guided


def _toward_data(
    measurement: Measurement, x: Array, alpha: Time, sigma: Time, w: Array | None
) -> Array:
    """A^T (alpha y + sigma A w - A x)."""
    operator = measurement.operator
    clean = x if w is None else x - _scale(sigma, w)
    return operator.adjoint(_scale(alpha, measurement.y) - operator.forward(clean))


def _measured(score_fn, process, measurement, solve) -> ScoreFn:
    """score + J^T A^T solve(y - A x0); `solve(denoised, residual, t)` is S^-1 residual."""

    def guided(x, t):
        now = denoise(score_fn, process, x, t)
        operator = measurement.operator
        residual = measurement.y - operator.forward(now.x0)
        return now.score + now.pull(operator.adjoint(solve(now, residual, t)))

    return guided


def _spread(process: Perturbation, t: Time, data_std: float) -> Time:
    """r^2 = c^2 sigma^2/(alpha^2 c^2 + sigma^2): variance of x_0 given x_t for data of std c."""
    alpha, sigma = process.marginal(t)
    return (data_std * sigma) ** 2 / ((alpha * data_std) ** 2 + sigma**2)


def _moved(
    now: Denoised, process: Perturbation, measurement: Measurement, t: Time
) -> Callable[[Array], tuple[Array, Array]]:
    """v -> (A V A^T v, J^T A^T v), with V = (sigma^2/alpha) J^T: J is symmetric if exact."""
    alpha, sigma = process.marginal(t)

    def apply(v):
        pulled = now.pull(measurement.operator.adjoint(v))
        return measurement.operator.forward(_scale(sigma**2 / alpha, pulled)), pulled

    return apply


def _scale(factor: Float[Array, "rows"], v: Inexact[Array, "b ..."]) -> Inexact[Array, "b ..."]:
    """Each row of v by its factor."""
    return left_broadcast(factor, v).astype(v.dtype) * v
