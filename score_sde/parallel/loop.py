"""The one loop of this library: functions of many rows over a device mesh, batch after batch."""

import contextlib
import contextvars
import dataclasses
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Int, PyTree
from tqdm import tqdm

from score_sde.devices import Placement, leads

Tick = Callable[[int], object]
"""Told of every finished batch how many rows there are more."""


def silent(done: int) -> None:
    """A `Tick` that shows nothing."""


class Progress(NamedTuple):
    """How far a piece of work is: `done` of `total` units, and what it is called."""

    done: int
    total: int
    unit: str
    title: str


_watch: contextvars.ContextVar[Callable[[Progress], object] | None] = contextvars.ContextVar(
    "watch", default=None
)


@contextlib.contextmanager
def watching(watch: Callable[[Progress], object]) -> Iterator[None]:
    """Tells `watch` of all progress within, shown or not; what it raises ends the work.

    It is told between parts of the work: segments of a sampler, batches of the others.
    """
    before = _watch.set(watch)
    try:
        yield
    finally:
        _watch.reset(before)


class Bar(tqdm):
    """A bar that tells `watching` of its progress, whether it is shown or not."""

    def __init__(self, **named: Any):
        self._told = named["initial"]
        self._about = (named["total"], named["unit"], named["desc"] or "")
        super().__init__(**named)
        self.update(0)

    def update(self, n: float | None = 1) -> bool | None:
        """`n` more are done."""
        self._told += int(n or 0)
        if watch := _watch.get():
            watch(Progress(self._told, *self._about))
        return super().update(n)


def progress(total: int, unit: str, title: str = "", done: int = 0, hidden: bool = False) -> Bar:
    """A bar that the leading process shows unless `hidden`; its `update` is a `Tick`."""
    return Bar(
        total=total,
        unit=unit,
        desc=title or None,
        initial=done,
        dynamic_ncols=True,
        disable=hidden or not leads(),
    )


@dataclasses.dataclass(frozen=True)
class Rows:
    """`count` rows that are read when they are needed.

    at: (numbers (n,)) -> pytree of arrays (n, ...), the rows with these numbers.
    """

    count: int
    at: Callable[[Int[np.ndarray, "n"]], PyTree]

    @classmethod
    def of(cls, tree: PyTree) -> "Rows":
        """The rows of arrays (count, ...); random keys are such arrays too."""
        count = len(jax.tree.leaves(tree)[0])
        return cls(count, lambda numbers: jax.tree.map(lambda array: array[numbers], tree))


def batch_size(count: int, size: int, place: Placement) -> int:
    """Rows in a batch of `each_batch`: `size`, no more than `count`, a multiple of the devices."""
    return place.round_up(min(size, count))


def whole_batches(count: int, size: int, place: Placement) -> int:
    """`count` rounded up to whole batches."""
    size = batch_size(count, size, place)
    return -(-count // size) * size


def each_batch(
    fn: Callable[[PyTree, PyTree], PyTree],
    params: PyTree,
    rows: Rows,
    size: int,
    place: Placement,
    tick: Tick = silent,
) -> Iterator[tuple[slice, Any]]:
    """(which rows, their columns) of one batch after another; none where there are no rows.

    All batches have one shape, that of `batch_size`, so `fn` is compiled once. The last batch is
    filled up with the first rows, and the filling is left out of its columns. A thread reads one
    batch ahead, while the one before is computed.

    Args:
        fn: (params, rows on the mesh) -> pytree of arrays. Each has one row for each row, and is
            whole on every device.
        params: passed on.
        rows: what there is to do.
        size: rows at a time.
        place: the devices.
        tick: told of progress.
    """
    if not rows.count:
        return
    size = batch_size(rows.count, size, place)
    starts = range(0, rows.count, size)

    def read(start: int) -> PyTree:
        return rows.at(np.arange(start, start + size) % rows.count)

    with ThreadPoolExecutor(1) as reader:
        coming = reader.submit(read, 0)
        for start in starts:
            batch = coming.result()
            if start + size < rows.count:
                coming = reader.submit(read, start + size)
            part = slice(start, min(start + size, rows.count))
            leaves, tree = jax.tree.flatten(fn(params, place.put_rows(batch)))
            kept = [np.asarray(column)[: part.stop - start] for column in leaves]
            tick(part.stop - start)
            yield part, jax.tree.unflatten(tree, kept)


def over_devices(
    fn: Callable[[PyTree, PyTree], PyTree],
    params: PyTree,
    rows: Rows,
    size: int,
    place: Placement,
    tick: Tick = silent,
) -> Any:
    """The columns of all rows, one below the other; see `each_batch`.

    Raises:
        ValueError: there are no rows, so nothing says which columns there would be.
    """
    if not rows.count:
        raise ValueError("there are 0 rows, so there are no columns; give at least one row")
    parts = [columns for _, columns in each_batch(fn, params, rows, size, place, tick)]
    return jax.tree.map(lambda *columns: np.concatenate(columns), *parts)
