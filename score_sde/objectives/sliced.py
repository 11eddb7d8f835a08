"""Sliced score matching: the score of the data, from random projections of its derivative."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.arrays import Keys, ScoreFn, Time, batch_time
from score_sde.objectives.projections import (
    Kind,
    Projections,
    check_projections,
    directions,
    dot,
    standard,
)


@dataclasses.dataclass(frozen=True)
class SlicedScoreMatching:
    """mean over v of v^T J v + c, minus beta times what c exceeds its mean by; c = (v^T score)^2/2.

    Dissertation eq. 3.7 and 5.3. Here J = d score/dx, and J v is a forward-mode pass. The mean over
    the data is E|score - grad log p|^2/2 up to a constant, where E v v^T = I. The score is that of
    unperturbed data at one time; `PerturbedData` takes it to noise levels.

    The control variate c - |score|^2/2 has the mean 0 over v (section B.1.2). beta = 0 is plain
    sliced score matching (eq. 3.7), beta = 1 the variance-reduced one, which has |score|^2/2 in
    place of c (eq. 3.8). Neither always varies less than the other. For Gaussian v the least
    variance of an example is at

        beta* = Cov(v^T J v + c, c)/Var(c) = 1 + 2 score^T J score/|score|^4.

    That takes one more pass. No gradient goes through beta*, and it does not see v, so the loss and
    its gradient stay unbiased. For other v beta* depends on entries of J that no pass gives.

    Args:
        projections: number of v per example, M >= 1.
        kind: of v: "rademacher" signs, "gaussian", or "sphere" of radius sqrt(D); all have E v v^T
            = I.
        variance_reduced: beta: True is 1, False is 0; "optimal" is beta*, for Gaussian v.
        time: passed to the score function.

    Raises:
        ValueError: no projection, an unknown kind, or "optimal" for v that are not Gaussian.
    """

    projections: int = 1
    kind: Kind = "rademacher"
    variance_reduced: bool | float | Literal["optimal"] = True
    time: float = 0.0

    def __post_init__(self):
        check_projections(self.projections, self.kind)
        if isinstance(self.variance_reduced, str):
            if self.variance_reduced != "optimal":
                raise ValueError(
                    "variance_reduced must be True, False, a number beta or 'optimal'; got "
                    f"{self.variance_reduced!r}"
                )
            if self.kind != "gaussian":
                raise ValueError(
                    "variance_reduced='optimal' is known for kind='gaussian' alone: for other "
                    f"vectors it depends on all of the diagonal of J; got kind={self.kind!r}"
                )

    def __call__(
        self, keys: Keys, score_fn: ScoreFn, x0: Float[Array, "batch ..."]
    ) -> Float[Array, "batch"]:
        """Loss of each example with random projections; keys: one, or one for each example."""
        return self.at(score_fn, x0, jnp.asarray(self.time, x0.dtype), self.draw(keys, x0))

    def draw(self, keys: Keys, x: Float[Array, "batch ..."]) -> Projections:
        """Random projections for each example."""
        return self.vectors(standard(keys, x, self.projections))

    def vectors(self, gauss: Projections) -> Projections:
        """v from standard normal draws: their signs, themselves, or brought to length sqrt(D)."""
        return directions(gauss, self.kind)

    def at(
        self, score_fn: ScoreFn, x: Float[Array, "batch ..."], t: Time, v: Projections
    ) -> Float[Array, "batch"]:
        """Loss of each example at times t with projections v."""
        score, push = jax.linearize(lambda x: score_fn(x, batch_time(t, x)), x)
        traces = jnp.mean(jax.vmap(lambda v: dot(v, push(v)))(v), axis=0)
        if self.variance_reduced is True:
            return traces + 0.5 * dot(score, score)
        projected = 0.5 * jnp.mean(jax.vmap(lambda v: dot(v, score) ** 2)(v), axis=0)
        if self.variance_reduced is False:
            return traces + projected
        beta = jnp.asarray(1.0, x.dtype)
        if self.variance_reduced == "optimal":
            square = dot(score, score)
            safe = jnp.where(square > 0, square, 1)
            beta = jax.lax.stop_gradient(1 + 2 * dot(score, push(score)) / safe**2)
        else:
            beta = beta * self.variance_reduced
        return traces + projected - beta * (projected - 0.5 * dot(score, score))
