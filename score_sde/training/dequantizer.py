"""Training of a dequantizer: a flow fitted to a frozen score model (dissertation 9.5.2, B.7.2)."""

from collections.abc import Callable

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from score_sde.arrays import Keys, ScoreFn, fold_in
from score_sde.data import Batch
from score_sde.data.pixels import PixelRange
from score_sde.likelihood.dequantize import Variational


class Dequantization(flax.struct.PyTreeNode):
    """The task of minimizing E_q[log q(u | image) + bound(x)] in bits/dim (eq. 9.13, B.41).

    x = (image + u) in its range. The gradient reaches the flow through u, in log q and in the
    bound.

    Args:
        score_params: parameters of the score model, which stay as they are.
        flow: see `Variational`.
        bound: (keys, score_fn, x) -> bound of -log p(x) in nats, a `Bound`. One draw of time and
            noise is enough for training.
        pixel_range: of the images. They come as `PixelRange.encode` makes them, and are taken back
            to levels.
        score_fn: (score_params) -> score function.
    """

    score_params: PyTree
    flow: nn.Module = flax.struct.field(pytree_node=False)
    bound: Callable[[Keys, ScoreFn, Float[Array, "batch h w c"]], Float[Array, "batch"]] = (
        flax.struct.field(pytree_node=False)
    )
    pixel_range: PixelRange = flax.struct.field(pytree_node=False)
    score_fn: Callable[[PyTree], ScoreFn] = flax.struct.field(pytree_node=False)

    def init(self, key: Key[Array, ""], shape: tuple[int, ...]) -> PyTree:
        """Fresh parameters of the flow."""
        x = jnp.zeros((1, *shape))
        return self.flow.init(key, x, x)["params"]

    def losses(
        self, params: PyTree, keys: Key[Array, "batch"], batch: Batch, train: bool
    ) -> Float[Array, "batch"]:
        """Bits/dim of each image; the same in training, as the flow has no dropout."""
        levels = jnp.asarray(self.pixel_range.decode(batch.image))
        flow = Variational(params, self.flow, self.pixel_range.levels)
        u, log_q = flow(fold_in(keys, 0), levels)
        x = jnp.asarray(self.pixel_range.dequantize(levels, u))
        score_fn = self.score_fn(jax.lax.stop_gradient(self.score_params))
        nats = self.bound(fold_in(keys, 1), score_fn, x)
        return self.pixel_range.bits_per_dim(-nats - log_q, batch.image[0].size)
