"""Ozaki's discretization: Langevin dynamics that is exact for Gaussians, by second-order scores."""

import dataclasses
from collections.abc import Callable
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from score_sde.arrays import ScoreFn, Time, batch_time, left_broadcast
from score_sde.curvature import Curvature, CurvatureFn, ScoreWithCurvature, decomposed
from score_sde.sde import Perturbation
from score_sde.steppers.base import Noise, Pairs, Stepper, X
from score_sde.steppers.langevin import _repeat

StepSize = Callable[[Time], Time]
"""epsilon(t) > 0, in the convention x + epsilon score + sqrt(2 epsilon) z."""


def constant_step(step_size: float) -> StepSize:
    """epsilon = step_size at all times."""
    if not step_size > 0:
        raise ValueError(f"step_size must be positive; got {step_size}")
    return lambda t: jnp.full_like(t, step_size)


def noise_level_step(process: Perturbation, snr: float) -> StepSize:
    """epsilon = 2 (r sigma(t))^2 with r = snr: the steps of `AnnealedLangevin`."""
    if not snr > 0:
        raise ValueError(f"snr must be positive; got {snr}")
    return lambda t: 2 * (snr * process.marginal(t)[1]) ** 2


@dataclasses.dataclass(frozen=True)
class Ozaki(Stepper):
    """x + (e^(epsilon h) - 1)/h score + sqrt((e^(2 epsilon h) - 1)/h) z, h = s2 (eq. 4.20).

    The solution at the time epsilon of dx = (score + h (x - x_start)) dt + sqrt(2) dw, Langevin
    dynamics with a linear score. So for Gaussian data any step keeps the exact law. As h goes to 0
    it is the Langevin step with epsilon. Eq. 4.19 moves by half of its epsilon, eq. 4.20 by all of
    it: at "the same step size" there Ozaki's method runs for twice the time.

    Between modes the curvature is positive, and e^(epsilon h) explodes. So h is capped. With the
    cap 0 the step is Langevin's there. The method is of weak order 1 with any cap.

    Args:
        curvature_fn: s2(x, t), the exact one or a model. None takes that of the score, which must
            be a `ScoreWithCurvature`. `curvature.jacobian_of` is no such function, since it costs
            D passes.
        step_size: epsilon as a function of time, say `constant_step(0.1)` or
            `noise_level_step(process, snr)`.
        form: "diagonal" takes the diagonal of s2 as h. "full" takes the eigenvalues of s2 as h, in
            the coordinates of its eigenvectors, for D up to 1024.
        clip: the cap of h, at least 0, or infinity for none.
        n_steps: updates per call.

    Raises:
        ValueError: an unknown form, a negative cap, or no update; when called, no curvature.
    Source: Shoji and Ozaki 1998; Stramer and Tweedie 1999.
    """

    curvature_fn: CurvatureFn | None
    step_size: StepSize
    form: Literal["diagonal", "full"] = "diagonal"
    clip: float = 0.0
    n_steps: int = 1

    def __post_init__(self):
        if self.form not in ("diagonal", "full"):
            raise ValueError(f"form must be 'diagonal' or 'full'; got {self.form!r}")
        if not self.clip >= 0:
            raise ValueError(f"clip is a cap of curvatures, at least 0; got clip={self.clip}")
        if self.n_steps < 1:
            raise ValueError(
                "n_steps must be at least 1 (leave the corrector out instead); "
                f"got n_steps={self.n_steps}"
            )

    @property
    def draws(self) -> int:  # type: ignore[override]
        """One per update."""
        return self.n_steps

    def evaluations(self, pairs: Pairs) -> int:
        """One of the score per update; those of the curvature are not counted."""
        return self.n_steps * len(pairs)

    def __call__(
        self, score_fn: ScoreFn, x: X, t: Time, s: Time, noise: Noise, carry: PyTree
    ) -> tuple[X, X, PyTree]:
        time = batch_time(s, x)
        epsilon, curvature_fn = batch_time(self.step_size(time), x), self._curvature_of(score_fn)

        def update(x, z):
            score, curvature = score_fn(x, time), curvature_fn(x, time)
            move = _diagonal_move if self.form == "diagonal" else _full_move
            step, spread = move(curvature, epsilon, self.clip, score, z)
            return x + step + spread, x + step

        return *_repeat(update, x, noise, self.n_steps), carry

    def _curvature_of(self, score_fn: ScoreFn) -> CurvatureFn:
        if self.curvature_fn is not None:
            return self.curvature_fn
        if not isinstance(score_fn, ScoreWithCurvature):
            raise ValueError(
                "Ozaki's step needs the second-order score: give the stepper a curvature_fn, or "
                f"the score as a ScoreWithCurvature; got {type(score_fn).__name__}"
            )
        return score_fn.curvature_fn


def _diagonal_move(curvature: Curvature, epsilon: Time, clip: float, score: X, z: X):
    """(step, noise) with h the diagonal of s2."""
    h, epsilon = jnp.minimum(curvature.diagonal, clip), left_broadcast(epsilon, score)
    return _factors(h, epsilon)[0] * score, _factors(h, epsilon)[1] * z


def _full_move(curvature: Curvature, epsilon: Time, clip: float, score: X, z: X):
    """(step, noise) in the coordinates of the eigenvectors of s2."""
    values, vectors = decomposed(curvature.dense())
    drift, spread = _factors(jnp.minimum(values, clip), left_broadcast(epsilon, values))

    def apply(factors, v):
        along = jnp.einsum("bij,bi->bj", vectors, v.reshape(len(v), -1))
        return jnp.einsum("bij,bj->bi", vectors, factors * along).reshape(v.shape)

    return apply(drift, score), apply(spread, z)


def _factors(h: Array, epsilon: Array) -> tuple[Array, Array]:
    """(e^(epsilon h) - 1)/h and the root of (e^(2 epsilon h) - 1)/h."""
    return epsilon * relative_growth(epsilon * h), jnp.sqrt(
        2 * epsilon * relative_growth(2 * epsilon * h)
    )


def relative_growth(u: Float[Array, "..."]) -> Float[Array, "..."]:
    """(e^u - 1)/u, 1 at u = 0: exact to rounding, and 0 as u goes to minus infinity."""
    safe = jnp.where(u == 0, 1, u)
    return jnp.where(u == 0, 1, jnp.expm1(safe) / safe)
