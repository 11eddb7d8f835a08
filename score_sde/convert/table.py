"""One table for each network: where a published code keeps each of our parameters.

Import and export both follow it.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

import numpy as np

from score_sde.errors import UserError

Tree = dict[str, Any]
Layout = Literal["same", "vector", "conv", "dense", "pointwise"]


@dataclasses.dataclass(frozen=True)
class Entry:
    """One parameter: its path in our tree, joined by "/", and its name in the published ones.

    The name is None where the parameter is not there.

    layout: what its axes mean.
        "same": alike everywhere. "vector": (C,), published as (C,) or (1, 1, 1, C).
        "conv": ours and flax (height, width, in, out), PyTorch (out, in, height, width).
        "dense": ours and flax (in, out), PyTorch (out, in).
        "pointwise": ours (in, out), flax (1, 1, in, out), PyTorch (out, in, 1, 1).
    """

    ours: str
    flax: str | None
    torch: str | None
    layout: Layout = "same"


def by_path(like: Mapping[str, Any]) -> list[Entry]:
    """The table of files that keep our names, with dots; `like` is our tree of shapes."""
    return [Entry(path, None, path.replace("/", ".")) for path, _ in flatten(like)]


def from_flax(
    table: Iterable[Entry], published: Mapping[str, Any], like: Mapping[str, Any]
) -> Tree:
    """Our parameters from a published flax tree.

    `like` is our tree of shapes (`jax.eval_shape`).
    """
    given = dict(flatten(published))
    pairs = [(entry, entry.flax) for entry in table if entry.flax]
    return _fill(pairs, given, like, _read_flax)


def from_torch(
    table: Iterable[Entry], published: Mapping[str, np.ndarray], like: Mapping[str, Any]
) -> Tree:
    """Our parameters from a PyTorch state dict (names without "module.", no buffers)."""
    pairs = [(entry, entry.torch) for entry in table if entry.torch]
    return _fill(pairs, dict(published), like, _read_torch)


def to_torch(table: Iterable[Entry], params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The PyTorch state dict of our parameters, in the table's order.

    The inverse of `from_torch`.
    """
    ours = dict(flatten(params))
    return {
        entry.torch: _write_torch(entry, np.asarray(ours[entry.ours]))
        for entry in table
        if entry.torch
    }


def flatten(tree: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """(path joined by "/", leaf) for every leaf of nested dictionaries."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{path}{name}/")
        else:
            yield f"{path}{name}", value


def nest(leaves: Mapping[str, Any]) -> Tree:
    """The inverse of `flatten`."""
    result: Tree = {}
    for path, leaf in leaves.items():
        *parents, last = path.split("/")
        node = result
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return result


def _fill(pairs, given, like, read) -> Tree:
    """Raises UserError, listing all of it, for what is missing, left over, or of another shape."""
    shapes = {path: tuple(leaf.shape) for path, leaf in flatten(like)}
    result, wrong = {}, []
    for entry, name in pairs:
        if name not in given:
            wrong.append(f"{name} is missing")
            continue
        array = read(entry, given.pop(name))
        if array.shape != shapes[entry.ours]:
            wrong.append(f"{name} has shape {array.shape}, the network {shapes[entry.ours]}")
        result[entry.ours] = array
    wrong += [f"{name} has no place" for name in given]
    wrong += [f"nothing for {path}" for path in shapes.keys() - {entry.ours for entry, _ in pairs}]
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise UserError(f"the weights are not of this network: {'; '.join(wrong[:5])}{more}")
    return nest(result)


def _read_flax(entry: Entry, array: np.ndarray) -> np.ndarray:
    if entry.layout == "vector":
        return _vector(array)
    return array[0, 0] if entry.layout == "pointwise" and array.shape[:2] == (1, 1) else array


def _read_torch(entry: Entry, array: np.ndarray) -> np.ndarray:
    if entry.layout == "conv" and array.ndim == 4:
        return array.transpose(2, 3, 1, 0)
    if entry.layout == "dense" and array.ndim == 2:
        return array.T
    if entry.layout == "pointwise" and array.shape[2:] == (1, 1):
        return array[:, :, 0, 0].T
    return _vector(array) if entry.layout == "vector" else array


def _vector(array: np.ndarray) -> np.ndarray:
    """(C,) for (C,) and (1, 1, 1, C); other shapes stay, and fit nothing."""
    return array.reshape(-1) if array.shape[-1:] == (array.size,) else array


def _write_torch(entry: Entry, array: np.ndarray) -> np.ndarray:
    if entry.layout == "conv":
        return array.transpose(3, 2, 0, 1)
    if entry.layout == "dense":
        return array.T
    return array.T[:, :, None, None] if entry.layout == "pointwise" else array
