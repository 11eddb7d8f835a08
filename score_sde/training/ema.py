"""Exponential moving averages of the weights."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree


@dataclasses.dataclass(frozen=True)
class Average:
    """The profile of an average: update n = 1, 2, ... has the decay min(rate, (1 + n)/(10 + n)).

    The warm-up keeps the random initial weights out of early averages. The published PyTorch code
    has it, the published JAX code has not. After 10 rate/(1 - rate) updates they agree.

    Args:
        rate: the decay in the end, in [0, 1). 0 is no average: the weights themselves.
        warmup: without, the decay is `rate` throughout.

    Raises:
        ValueError: rate outside [0, 1).
    """

    rate: float
    warmup: bool = True

    def __post_init__(self):
        if not 0 <= self.rate < 1:
            raise ValueError(f"the rate of an average must be in [0, 1); got {self.rate}")

    def decay(self, update: Int[Array, ""]) -> Float[Array, ""]:
        """The decay of update number n = 1, 2, ..."""
        n = update.astype(float)
        if not self.warmup:
            return jnp.full_like(n, self.rate)
        return jnp.minimum(self.rate, (1 + n) / (10 + n))


def ema_update(average: PyTree, params: PyTree, decay: Float[Array, ""]) -> PyTree:
    """decay average + (1 - decay) params, leaf by leaf."""
    return jax.tree.map(lambda a, p: p + decay.astype(p.dtype) * (a - p), average, params)
