"""Devices: one program for one chip or many, and which process speaks for all of them.

The mesh has two axes, "data" and "fsdp". Rows (images, samples) are split over both. Weights are
split over "fsdp", whose length is 1 unless a mode asks for more: then they are whole everywhere.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from score_sde.errors import UserError

AXES = ("data", "fsdp")
SMALL = 256
"""Weights of fewer entries are never split: they cost more to gather than to keep."""


def leads() -> bool:
    """Whether this process is the one that writes files and prints."""
    return jax.process_index() == 0


def processes() -> tuple[int, int]:
    """(number of this process, how many there are)."""
    return jax.process_index(), jax.process_count()


def wait_for_all(reason: str) -> None:
    """Return once every process has come here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(reason)


def any_process(value: bool) -> bool:
    """Whether `value` is true in any process; all of them must ask."""
    if jax.process_count() == 1:
        return value
    return bool(multihost_utils.process_allgather(np.asarray(value)).any())


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where rows and weights lie on a mesh: the one object that places anything.

    Args:
        mesh: devices of all processes, with the axes "data" and "fsdp".
    """

    mesh: Mesh

    @classmethod
    def of(cls, devices: Sequence[jax.Device] | None = None, fsdp: int = 1) -> "Placement":
        """On `devices`, by default all of all processes; `fsdp` of them share one copy of weights.

        Raises UserError where the devices do not split into groups of `fsdp`.
        """
        found = np.asarray(jax.devices() if devices is None else devices)
        if found.size % fsdp:
            raise UserError(
                f"config.training.fsdp={fsdp} does not divide the number of devices, {found.size}; "
                f"use one of {[n for n in range(1, found.size + 1) if found.size % n == 0]}."
            )
        return cls(Mesh(found.reshape(-1, fsdp), AXES))

    @property
    def size(self) -> int:
        """Number of devices."""
        return self.mesh.size

    @functools.cached_property
    def whole(self) -> NamedSharding:
        """A copy on every device."""
        return NamedSharding(self.mesh, PartitionSpec())

    def split_axis(self, leaf: Any) -> int:
        """The axis of an array of weights that is split over "fsdp"; -1 where it stays whole.

        It is the longest that divides evenly, and the last of equally long ones.
        """
        length = self.mesh.shape["fsdp"]
        even = [axis for axis, size in enumerate(leaf.shape) if size % length == 0]
        if length == 1 or math.prod(leaf.shape) < SMALL or not even:
            return -1
        return max(even, key=lambda axis: (leaf.shape[axis], axis))

    def weights(self, tree: PyTree) -> PyTree:
        """Where arrays of weights lie, or of anything with one entry for each weight."""

        def sharding(leaf: Any) -> NamedSharding:
            axis = self.split_axis(leaf)
            spec = () if axis < 0 else (*[None] * axis, "fsdp")
            return NamedSharding(self.mesh, PartitionSpec(*spec))

        return jax.tree.map(sharding, tree)

    def gather(self, weights: PyTree) -> PyTree:
        """The weights, whole on every device."""
        if self.mesh.shape["fsdp"] == 1:
            return weights
        return _identity(self.whole)(weights)

    def rows(self, axis: int = 0) -> NamedSharding:
        """Array axis `axis` split over the devices."""
        return NamedSharding(self.mesh, PartitionSpec(*([None] * axis), AXES))

    def round_up(self, count: int) -> int:
        """The smallest multiple of the devices that is at least `count`."""
        return -(-count // self.size) * self.size

    def check_divisible(self, name: str, count: int) -> None:
        """Raises UserError unless `count` rows split evenly over the devices."""
        if count % self.size:
            raise UserError(
                f"{name}={count} does not split over {self.size} devices; use a multiple of "
                f"{self.size}."
            )

    def put_part(self, local: PyTree, axis: int = 0) -> PyTree:
        """Global arrays from each process's part of the rows, which lie along `axis`."""
        sharding: Any = self.rows(axis)
        return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), local)

    def put_rows(self, whole: PyTree) -> PyTree:
        """Global arrays, split by rows, from arrays that every process has whole.

        Random keys go as the numbers they are: `jax.device_put` refuses keys where other processes
        have devices.
        """

        def put(x: Any) -> Any:
            if not jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
                return jax.device_put(x, self.rows())
            numbers = jax.device_put(np.asarray(jax.random.key_data(x)), self.rows())
            return jax.random.wrap_key_data(numbers, impl=jax.random.key_impl(x))

        return jax.tree.map(put, whole)


@functools.cache
def _identity(place: NamedSharding) -> Any:
    return jax.jit(lambda tree: tree, out_shardings=place)


def say(text: str) -> None:
    """Print a line, once for all processes."""
    if leads():
        print(text)
