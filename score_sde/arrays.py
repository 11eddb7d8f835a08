"""What every part needs: array types, broadcasting of times, random draws per sample."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, Shaped

ScoreFn = Callable[[Array, Array], Array]
"""`score_fn(x, t)` with x (batch, ...), t (batch,) is grad_x log p_t(x), of the shape of x.

It is the one currency between parts.
"""

Time = Float[Array, ""] | Float[Array, "batch"]
"""One time for the whole batch, or one per sample."""

Keys = Key[Array, ""] | Key[Array, "batch"]
"""One random key for the whole batch, or one per sample.

With one per sample, a sample does not depend on its neighbours.
"""


def left_broadcast(t: Shaped[Array, "..."], x: Shaped[Array, "..."]) -> Shaped[Array, "..."]:
    """`t`, a scalar or (batch,), with axes of length 1 so that it multiplies `x` (batch, ...)."""
    return t if t.ndim == 0 else t.reshape(t.shape + (1,) * (x.ndim - t.ndim))


def batch_time(t: Time, x: Float[Array, "batch ..."]) -> Float[Array, "batch"]:
    """`t` in the form a `ScoreFn` takes: shape (batch,), dtype of `x`."""
    return jnp.broadcast_to(jnp.asarray(t, x.dtype), x.shape[:1])


def sample_keys(key: Key[Array, ""], indices: Shaped[Array, "batch"]) -> Key[Array, "batch"]:
    """Keys of the samples number `indices` in a run with `key`.

    Sample i has the key fold_in(key, i), in every batch.
    """
    return jax.vmap(jax.random.fold_in, (None, 0))(key, indices)


def fold_in(keys: Keys, data) -> Keys:
    """`jax.random.fold_in` for one key or one key per sample."""
    return (
        jax.random.fold_in(keys, data)
        if keys.ndim == 0
        else jax.vmap(jax.random.fold_in, (0, None))(keys, data)
    )


def normal(keys: Keys, shape: tuple[int, ...], dtype) -> Float[Array, "batch ..."]:
    """Standard normal draws of `shape` = (batch, ...).

    With one key per sample each row uses its own.
    """
    return _draw(jax.random.normal, keys, shape, dtype)


def uniform(keys: Keys, shape: tuple[int, ...], dtype) -> Float[Array, "batch ..."]:
    """Uniform draws in [0, 1), as `normal`."""
    return _draw(jax.random.uniform, keys, shape, dtype)


def _draw(distribution, keys, shape, dtype):
    if keys.ndim == 0:
        return distribution(keys, shape, dtype)
    return jax.vmap(lambda key: distribution(key, shape[1:], dtype))(keys)
