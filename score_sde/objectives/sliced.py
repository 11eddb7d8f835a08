"""Sliced score matching: the score of the data, from random projections of its derivative."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.arrays import Keys, ScoreFn, Time, batch_time, fold_in, normal

Projections = Float[Array, "projections batch ..."]


@dataclasses.dataclass(frozen=True)
class SlicedScoreMatching:
    """mean over v of v^T J v, plus |score|^2/2 or the mean of (v^T score)^2/2.

    Dissertation eq. 5.3. Here J = d score/dx, and J v is a forward-mode pass. The mean over the
    data is E|score - grad log p|^2/2 up to a constant, where E v v^T = I. The score is that of
    unperturbed data, unless the batch is perturbed; so it is taken at one time.

    Args:
        projections: number of v per example, M >= 1.
        kind: of v: "rademacher" signs, "gaussian", or "sphere" of radius sqrt(D); all have E v v^T
            = I.
        variance_reduced: |score|^2/2, which is the exact mean over v, in place of (v^T score)^2/2.
        time: passed to the score function.
    """

    projections: int = 1
    kind: Literal["rademacher", "gaussian", "sphere"] = "rademacher"
    variance_reduced: bool = True
    time: float = 0.0

    def __post_init__(self):
        if self.projections < 1:
            raise ValueError(f"projections must be at least 1; got projections={self.projections}")
        if self.kind not in ("rademacher", "gaussian", "sphere"):
            raise ValueError(
                f"kind must be 'rademacher', 'gaussian' or 'sphere'; got {self.kind!r}"
            )

    def __call__(
        self, keys: Keys, score_fn: ScoreFn, x0: Float[Array, "batch ..."]
    ) -> Float[Array, "batch"]:
        """Loss of each example with random projections; keys: one, or one for each example."""

        def draw(i):
            return normal(fold_in(keys, i), x0.shape, x0.dtype)

        gauss = jax.vmap(draw)(jnp.arange(self.projections))
        return self.at(score_fn, x0, jnp.asarray(self.time, x0.dtype), self.vectors(gauss))

    def vectors(self, gauss: Projections) -> Projections:
        """v from standard normal draws: their signs, themselves, or brought to length sqrt(D)."""
        if self.kind == "gaussian":
            return gauss
        if self.kind == "rademacher":
            return jnp.where(gauss < 0, -1, 1).astype(gauss.dtype)
        axes = tuple(range(2, gauss.ndim))
        return gauss / jnp.sqrt(jnp.mean(gauss**2, axis=axes, keepdims=True))

    def at(
        self, score_fn: ScoreFn, x: Float[Array, "batch ..."], t: Time, v: Projections
    ) -> Float[Array, "batch"]:
        """Loss of each example at times t with projections v."""

        score, push = jax.linearize(lambda x: score_fn(x, batch_time(t, x)), x)
        traces = jnp.mean(jax.vmap(lambda v: _dot(v, push(v)))(v), axis=0)
        if self.variance_reduced:
            return traces + 0.5 * _dot(score, score)
        return traces + 0.5 * jnp.mean(jax.vmap(lambda v: _dot(v, score) ** 2)(v), axis=0)


def _dot(a: Float[Array, "batch ..."], b: Float[Array, "batch ..."]) -> Float[Array, "batch"]:
    return jnp.sum((a * b).reshape(len(a), -1), axis=1)
