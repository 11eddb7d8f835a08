"""Exponential moving average of the parameters."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree


def ema_decay(update: Int[Array, ""], rate: float, warmup: bool = True) -> Float[Array, ""]:
    """Decay at update number n = 1, 2, ...: min(rate, (1 + n)/(10 + n)), or `rate` throughout without warm-up.

    The warm-up keeps the random initial weights out of early averages. The published PyTorch code has it, the published
    JAX code has not; after 10 rate/(1 - rate) updates they agree.
    """
    n = update.astype(float)
    return jnp.minimum(rate, (1 + n) / (10 + n)) if warmup else jnp.full_like(n, rate)


def ema_update(average: PyTree, params: PyTree, decay: Float[Array, ""]) -> PyTree:
    """decay average + (1 - decay) params, leaf by leaf."""
    return jax.tree.map(lambda a, p: p + decay.astype(p.dtype) * (a - p), average, params)
