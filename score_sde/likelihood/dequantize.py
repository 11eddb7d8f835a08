"""From integer images to points of their cells: u in [0, 1] with density q(u | image).

Source: dissertation 9.5.2. `dequantizer(keys, images) -> (u, log_q)`: u (batch, h, w, c) and log
q(u | image) in nats, (batch,). The image's point is x = `PixelRange.dequantize(images, u)`, and
E_q[log p(x) - log q(u | image)] bounds its log-probability from below (eq. 9.13; the bits/dim of it
are `PixelRange.bits_per_dim`, for any number of levels and any range). Both kinds are pytrees.
"""

from typing import Any, Protocol, runtime_checkable

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer, Key, PyTree

from score_sde.arrays import normal

Images = Integer[Array, "batch h w c"]
Cells = tuple[Float[Array, "batch h w c"], Float[Array, "batch"]]


@runtime_checkable
class Dequantizer(Protocol):
    """`(keys, images) -> (u, log_q)` with one key for each image; see the module."""

    def __call__(self, keys: Key[Array, "batch"], images: Images) -> Cells: ...


class Uniform(flax.struct.PyTreeNode):
    """u uniform on the cell, log q = 0."""

    def __call__(self, keys: Key[Array, "batch"], images: Images) -> Cells:
        u = jax.vmap(lambda key: jax.random.uniform(key, images.shape[1:]))(keys)
        return u, jnp.zeros(len(images), u.dtype)


class Variational(flax.struct.PyTreeNode):
    """u from a conditional flow of normal noise.

    Args:
        params: the flow's parameters; their type is that of u.
        flow: flax module, (eps, image with levels scaled to [0, 1]) -> (u, log q(u | image)), like
            `networks.FlowPP`.
        levels: number of levels of a pixel.
    """

    params: PyTree
    flow: Any = flax.struct.field(pytree_node=False)
    levels: int = flax.struct.field(pytree_node=False)

    def __call__(self, keys: Key[Array, "batch"], images: Images) -> Cells:
        dtype = jnp.result_type(*jax.tree.leaves(self.params))
        eps = normal(keys, images.shape, dtype)
        return self.flow.apply(
            {"params": self.params}, eps, images.astype(dtype) / (self.levels - 1)
        )
