"""Training of a dequantizer: its flow is fitted to a score model that stays as it is (dissertation 9.5.2, B.7.2)."""

import dataclasses
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from score_sde.data.pixels import PixelRange
from score_sde.likelihood.dequantize import Variational
from score_sde.types import Keys, ScoreFn, fold_in, sample_keys


@dataclasses.dataclass(frozen=True, eq=False)
class Dequantization:
    """The task of minimizing E_q[log q(u | image) + bound(x)], x = (image + u) in its range, in bits/dim (eq. 9.13, B.41).

    The gradient reaches the flow through u, in log q and in the bound; the score model's parameters are `frozen`.

    Args:
        flow: see `Variational`.
        bound: (keys, score_fn, x) -> bound of -log p(x) in nats, a `Bound`; one draw of time and noise is enough for training.
        pixel_range: of the images. They come as `PixelRange.encode` makes them, and are taken back to levels.
        score_fn: (frozen parameters) -> score function.
    """

    flow: nn.Module
    bound: Callable[[Keys, ScoreFn, Float[Array, "batch h w c"]], Float[Array, "batch"]]
    pixel_range: PixelRange
    score_fn: Callable[[PyTree], ScoreFn]

    def init(self, key: Key[Array, ""], shape: tuple[int, ...]) -> PyTree:
        """Fresh parameters of the flow."""
        x = jnp.zeros((1, *shape))
        return self.flow.init(key, x, x)["params"]

    def losses(
        self,
        params: PyTree,
        key: Key[Array, ""],
        images: Float[Array, "batch h w c"],
        frozen: PyTree = None,
        train: bool = False,
    ) -> Float[Array, "batch"]:
        """Bits/dim of each image; the same in training, as the flow has no dropout."""
        keys = sample_keys(key, jnp.arange(len(images)))
        levels = jnp.asarray(self.pixel_range.decode(images))
        u, log_q = Variational(params, self.flow, self.pixel_range.levels)(fold_in(keys, 0), levels)
        x = jnp.asarray(self.pixel_range.dequantize(levels, u))
        nats = self.bound(fold_in(keys, 1), self.score_fn(jax.lax.stop_gradient(frozen)), x)
        return self.pixel_range.bits_per_dim(-nats - log_q, images[0].size)
