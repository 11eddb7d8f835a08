"""Exact score matching: the trace of the score's derivative, not an estimate of it."""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.arrays import Keys, ScoreFn, Time, batch_time
from score_sde.objectives.projections import dot


@dataclasses.dataclass(frozen=True)
class ExactScoreMatching:
    """tr J + |score|^2/2 with J = d score/dx (eq. 3.2, 5.1; algorithm B.1).

    The trace takes one forward-mode pass for each of the D dimensions, `chunk` of them at a time.
    So time grows as D times a pass, memory as chunk times one. The mean over the data is
    E|score - grad log p|^2/2 up to a constant (Hyvaerinen 2005).

    Args:
        chunk: passes at a time, at least 1; it changes memory and speed alone.
        time: passed to the score function.
        largest: the largest D that is accepted.

    Raises:
        ValueError: chunk below 1; when called, more than `largest` dimensions.
    """

    chunk: int = 32
    time: float = 0.0
    largest: int = 1024

    def __post_init__(self):
        if self.chunk < 1:
            raise ValueError(f"chunk must be at least 1; got chunk={self.chunk}")

    def __call__(
        self, keys: Keys, score_fn: ScoreFn, x0: Float[Array, "batch ..."]
    ) -> Float[Array, "batch"]:
        """Loss of each example. Nothing is random; `keys` is there for the common signature."""
        return self.at(score_fn, x0, jnp.asarray(self.time, x0.dtype), self.draw(keys, x0))

    def draw(self, keys: Keys, x: Float[Array, "batch ..."]) -> tuple[()]:
        """Nothing."""
        return ()

    def at(
        self, score_fn: ScoreFn, x: Float[Array, "batch ..."], t: Time, draws: tuple[()] = ()
    ) -> Float[Array, "batch"]:
        """Loss of each example at times t."""
        d = math.prod(x.shape[1:])
        if d > self.largest:
            raise ValueError(
                f"exact score matching takes a pass for each of {d} dimensions, more than "
                f"largest={self.largest}; use SlicedScoreMatching, or raise largest"
            )
        score, push = jax.linearize(lambda x: score_fn(x, batch_time(t, x)), x)
        chunk = min(self.chunk, d)

        @jax.checkpoint
        def partial_trace(start):
            """Sum of some diagonal entries; indices from D on have a vector of zeros."""
            unit = jax.nn.one_hot(start + jnp.arange(chunk), d, dtype=x.dtype)
            v = jnp.broadcast_to(unit.reshape(chunk, 1, *x.shape[1:]), (chunk, *x.shape))
            return jnp.sum(jax.vmap(lambda v: dot(v, push(v)))(v), axis=0)

        starts = jnp.arange(0, d, chunk)
        if len(starts) == 1:
            trace = partial_trace(starts[0])
        else:
            trace = jnp.sum(jax.lax.map(partial_trace, starts), axis=0)
        return trace + 0.5 * dot(score, score)
