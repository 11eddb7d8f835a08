"""Score matching without second derivatives: finite differences, and shifted noise contrast."""

import dataclasses
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.arrays import Keys, ScoreFn, Time, batch_time, left_broadcast
from score_sde.objectives.projections import (
    Kind,
    Projections,
    check_projections,
    directions,
    dot,
    standard,
)
from score_sde.parameterize import EnergyScore


@dataclasses.dataclass(frozen=True)
class FiniteDifferenceScoreMatching:
    """Sliced score matching by differences along v, in one of three forms.

    With s+ and s- the score at x + e v and x - e v, l the log-density of an energy model, and l+
    and l- likewise, the loss is the mean over v of

        "score"     |(s+ + s-)/2|^2/2 + v^T (s+ - s-)/(2 e)   = v^T J v + |s|^2/2 + O(e^2),
        "energy"    [l+ + l- - 2 l + (l+ - l-)^2/8]/e^2       = v^T J v + (v^T s)^2/2 + O(e^2),
        "contrast"  2 [softplus(l- - l) + softplus(l+ - l) - 2 log 2]/e^2, which is the same.

    "contrast" is noise contrastive estimation whose noise is the data shifted by e v (eq. 3.10; the
    noise there is p_d(x - v)). Without the factor 2 and the constant its limit is half of sliced
    score matching (eq. 3.11 prints a quarter).

    There are two or three evaluations, and no derivative in x. A large e smooths the estimate, a
    small one is lost in rounding: in single precision the loss has the error 1e-7 |s| sqrt(D)/e in
    the first form, 1e-7 |l|/e^2 in the others.
    Source: Pang et al. 2020, "Efficient learning of generative models via finite-difference score
    matching", sections 4.2 and 4.3; dissertation, section 3.5.

    Args:
        step: e > 0, in the unit of x; or a function of t, say a share of the noise level, which is
            the scale of perturbed data.
        projections: number of v per example, at least 1.
        kind: of v, with E v v^T = I.
        form: "energy" and "contrast" take an `EnergyScore` alone.
        time: passed to the score function.

    Raises:
        ValueError: a step that is not positive, no projection, an unknown kind or form.
        TypeError: when called, for a score network where a log-density is compared.
    """

    step: float | Callable[[Time], Time] = 0.1
    projections: int = 1
    kind: Kind = "rademacher"
    form: Literal["score", "energy", "contrast"] = "score"
    time: float = 0.0

    def __post_init__(self):
        check_projections(self.projections, self.kind)
        if not callable(self.step) and not self.step > 0:
            raise ValueError(f"step, the length of a difference, must be positive; got {self.step}")
        if self.form not in ("score", "energy", "contrast"):
            raise ValueError(f"form must be 'score', 'energy' or 'contrast'; got {self.form!r}")

    def __call__(
        self, keys: Keys, score_fn: ScoreFn, x0: Float[Array, "batch ..."]
    ) -> Float[Array, "batch"]:
        """Loss of each example with random projections; keys: one, or one for each example."""
        return self.at(score_fn, x0, jnp.asarray(self.time, x0.dtype), self.draw(keys, x0))

    def draw(self, keys: Keys, x: Float[Array, "batch ..."]) -> Projections:
        """Random projections for each example."""
        return directions(standard(keys, x, self.projections), self.kind)

    def at(
        self, score_fn: ScoreFn, x: Float[Array, "batch ..."], t: Time, v: Projections
    ) -> Float[Array, "batch"]:
        """Loss of each example at times t with projections v."""
        t = batch_time(t, x)
        values: Callable[[Array, Array], Array] = score_fn
        if self.form != "score":
            if not isinstance(score_fn, EnergyScore):
                raise TypeError(
                    f"form={self.form!r} compares log-densities, which an energy model has and a "
                    "score network has not; give it a parameterize.EnergyScore, got "
                    f"{type(score_fn).__name__}"
                )
            values = score_fn.log_density
            middle = values(x, t)
        step = self.step(t) if callable(self.step) else jnp.full_like(t, self.step)

        def one(v):
            shift = left_broadcast(step, x) * v
            above, below = values(x + shift, t), values(x - shift, t)
            if self.form == "score":
                mean = 0.5 * (above + below)
                return 0.5 * dot(mean, mean) + dot(v, above - below) / (2 * step)
            above, below = above - middle, below - middle
            if self.form == "energy":
                return (above + below + (above - below) ** 2 / 8) / step**2
            return 2 * (_excess(below) + _excess(above)) / step**2

        return jnp.mean(jax.vmap(one)(v), axis=0)


def shifted_nce(
    step: float | Callable[[Time], Time] = 0.1, projections: int = 1, kind: Kind = "rademacher"
) -> FiniteDifferenceScoreMatching:
    """Noise contrastive estimation against shifted data (eq. 3.10), scaled to the size of eq. 3.7.

    Args, limit and errors: `FiniteDifferenceScoreMatching` with form="contrast".
    """
    return FiniteDifferenceScoreMatching(step, projections, kind, "contrast")


def _excess(difference: Float[Array, "batch"]) -> Float[Array, "batch"]:
    """softplus(d) - log 2 = d/2 + log cosh(d/2), without cancellation for small d."""
    half = 0.5 * difference
    small = jnp.abs(half) < 0.5
    near = jnp.log1p(2 * jnp.sinh(0.5 * jnp.where(small, half, 0.0)) ** 2)
    far = jnp.logaddexp(half, -half) - jnp.log(2.0).astype(half.dtype)
    return half + jnp.where(small, near, far)
