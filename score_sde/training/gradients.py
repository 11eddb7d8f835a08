"""The gradient of a mean over rows, on a mesh and in parts: each communication is written out."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, PyTree

from score_sde.devices import AXES, Placement

Loss = Callable[..., Float[Array, ""]]
"""`(params, fixed, *rows)` -> the mean over the rows, which lie along the first axis."""


def mean_and_grad(loss: Loss, place: Placement | None = None, parts: int = 1) -> Callable:
    """`(params, fixed, *rows)` -> (mean of `loss` over all rows, its gradient).

    Each device takes its rows. It gathers the weights that are split over "fsdp" once, and what it
    adds to their gradient is summed to where they lie. So a step sends the size of the weights
    once where they are whole, and two to two and a half times where they are split.

    Args:
        loss: means over different rows must not depend on each other.
        place: where the rows and weights lie; None is one device.
        parts: the rows of a device are taken in so many parts, one after the other, to save memory.
            The gradient is the same to rounding.
    """
    in_parts = _in_parts(loss, parts)
    if place is None or place.size == 1:
        return in_parts

    def on_mesh(params: PyTree, fixed: PyTree, *rows: PyTree) -> tuple[Array, PyTree]:
        axes = jax.tree.map(place.split_axis, params)

        def on_device(params, fixed, *rows):
            value, grads = in_parts(jax.tree.map(_gather, params, axes), fixed, *rows)
            return lax.pmean(value, AXES), jax.tree.map(_scatter, grads, axes)

        specs = jax.tree.map(lambda leaf: place.weights(leaf).spec, params)
        split = PartitionSpec(AXES)
        return jax.shard_map(
            on_device,
            mesh=place.mesh,
            in_specs=(specs, PartitionSpec(), *[split] * len(rows)),
            out_specs=(PartitionSpec(), specs),
            check_vma=False,
        )(params, fixed, *rows)

    return on_mesh


def _in_parts(loss: Loss, parts: int) -> Callable:
    gradient = jax.value_and_grad(loss)
    if parts == 1:
        return gradient

    def in_parts(params: PyTree, fixed: PyTree, *rows: PyTree) -> tuple[Array, PyTree]:
        split = jax.tree.map(lambda a: a.reshape(parts, -1, *a.shape[1:]), rows)

        def add(total, part):
            return jax.tree.map(jnp.add, total, gradient(params, fixed, *part)), None

        zero = jax.tree.map(
            lambda a: jnp.zeros(a.shape, a.dtype),
            jax.eval_shape(gradient, params, fixed, *jax.tree.map(lambda a: a[0], split)),
        )
        total, _ = lax.scan(add, zero, split)
        return jax.tree.map(lambda a: a / parts, total)

    return in_parts


def _gather(leaf: Array, axis: int) -> Array:
    return leaf if axis < 0 else lax.all_gather(leaf, "fsdp", axis=axis, tiled=True)


def _scatter(leaf: Array, axis: int) -> Array:
    """The mean over all devices; each keeps its part of what is split."""
    if axis < 0:
        return lax.pmean(leaf, AXES)
    part = lax.psum_scatter(leaf, "fsdp", scatter_dimension=axis, tiled=True)
    return lax.pmean(part / lax.axis_size("fsdp"), "data")
