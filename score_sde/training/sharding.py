"""Devices: one program for one chip or many. Batches are split over the mesh's "data" axis, weights are copied."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from score_sde.errors import UserError


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """`devices`, by default all of all processes, along one axis, "data"."""
    return Mesh(np.asarray(jax.devices() if devices is None else devices), ("data",))


def replicated(mesh: Mesh) -> NamedSharding:
    """A copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batched(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """Array axis `axis` split over the devices."""
    return NamedSharding(mesh, PartitionSpec(*([None] * axis), "data"))


def check_divisible(name: str, batch_size: int, mesh: Mesh) -> None:
    """Raises UserError unless the batch splits evenly over the devices."""
    if batch_size % mesh.size:
        raise UserError(
            f"{name}={batch_size} does not split over {mesh.size} devices; use a multiple of {mesh.size}."
        )


def put_batch(local: PyTree, mesh: Mesh, axis: int = 0) -> PyTree:
    """Global arrays from each process's part of a batch (its rows along `axis`)."""
    sharding: Any = batched(mesh, axis)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), local)


def put_whole(whole: PyTree, mesh: Mesh) -> PyTree:
    """Global arrays, split by rows, from arrays that every process has whole.

    Random keys go as the numbers they are: `jax.device_put` refuses keys where other processes have devices.
    """

    def put(x):
        if not jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.device_put(x, batched(mesh))
        numbers = jax.device_put(np.asarray(jax.random.key_data(x)), batched(mesh))
        return jax.random.wrap_key_data(numbers, impl=jax.random.key_impl(x))

    return jax.tree.map(put, whole)
