"""Batches for training and evaluation: seeded, sharded by process, exactly resumable, read ahead by Grain.

Batch number k is a pure function of (source, batch size, seed, k). Grain reads the coming batches in threads
and keeps the position; its state is the small dict {"next_index": k}, which any JSON file or Orbax checkpoint
can hold.
"""

import dataclasses
import functools
import os
import sys
from typing import Any

import grain
import numpy as np

from score_sde.data.pixels import PixelRange
from score_sde.data.sources import ArraySource, Source, take
from score_sde.errors import UserError

Batch = dict[str, np.ndarray]
"""{"image": float32 (batch, height, width, channels), "label": int32 (batch,), "index": int32 (batch,)}."""


def batches(
    source: Source,
    pixel_range: PixelRange,
    batch_size: int,
    seed: int,
    train: bool,
    flip: bool = True,
    dequantize: bool = False,
    process_index: int = 0,
    process_count: int = 1,
    threads: int | None = None,
    prefetch: int = 4,
) -> grain.DatasetIterator[Batch]:
    """An iterator over batches with `get_state()` and `set_state(state)`.

    Training: endless; each epoch is a new permutation of all examples, and a batch may reach into the next
        epoch (so a
    source smaller than a batch works). Evaluation: one pass in order; the last batch may be smaller.

    Process p gets the p-th contiguous block of each global batch: the blocks concatenated in process order
    are the same batch for any `process_count`, flips and noise included. A smaller last batch is divided as
    evenly as possible, so every process makes the same number of batches, though its last one may be empty.

    Args:
        source: random access to integer images of one shape.
        pixel_range: how levels become model values; its levels must be the source's.
        batch_size: examples of the global batch, a multiple of `process_count`.
        seed: 0 or a positive integer; decides the order, the flips and the noise.
        train: training or evaluation.
        flip: mirror each training image left to right with probability 1/2. Evaluation never flips.
        dequantize: add uniform noise inside the level's cell (`PixelRange.dequantize`) instead of
            `PixelRange.encode`.
        process_index: number of this process, 0 .. process_count - 1.
        process_count: number of processes.
        threads: reading threads; default 1 where the source is in memory, else one per core up to 16.
        prefetch: batches prepared ahead, at least one per thread.

    Returns:
        Iterator of {"image": float32 (batch_size / process_count, height, width, channels) in the range,
        "label": int32, "index": int32}.

    Raises:
        UserError: empty source, images of different sizes, levels that disagree, impossible sizes or seed.
    """
    _check(source, pixel_range, batch_size, seed, process_index, process_count)
    plan = _Batches(
        source=source,
        pixel_range=pixel_range,
        batch_size=batch_size,
        seed=seed,
        train=train,
        flip=flip and train,
        dequantize=dequantize,
        process_index=process_index,
        process_count=process_count,
    )
    if threads is None:
        threads = 1 if isinstance(source, ArraySource) else min(16, os.cpu_count() or 1)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(prefetch, threads))
    return iter(grain.MapDataset.source(plan).to_iter_dataset(options))


@dataclasses.dataclass(frozen=True)
class _Batches:
    """Random access by batch number; every draw is a function of (seed, purpose, position)."""

    source: Source
    pixel_range: PixelRange
    batch_size: int
    seed: int
    train: bool
    flip: bool
    dequantize: bool
    process_index: int
    process_count: int

    def __len__(self) -> int:
        return sys.maxsize // self.batch_size if self.train else -(-len(self.source) // self.batch_size)

    def __getitem__(self, k: int) -> Batch:
        start = k * self.batch_size
        stop = start + self.batch_size if self.train else min(start + self.batch_size, len(self.source))
        rows = stop - start
        first = start + rows * self.process_index // self.process_count
        last = start + rows * (self.process_index + 1) // self.process_count
        return self._batch(np.arange(first, last), slice(first - start, last - start), k)

    def _batch(self, positions: np.ndarray, mine: slice, k: int) -> Batch:
        if not len(positions):
            return _empty(self.source.shape)
        batch = take(self.source, self._order(positions))
        levels = batch["image"]
        if self.flip:
            mirror = _generator(self.seed, _FLIP, k).random(self.batch_size)[mine] < 0.5
            levels = levels.copy()  # a source may have handed out its own memory
            levels[mirror] = levels[mirror, :, ::-1]
        if self.dequantize:
            noise = [
                _generator(self.seed, _NOISE, int(p)).random(levels.shape[1:], np.float32) for p in positions
            ]
            image = self.pixel_range.dequantize(levels, np.stack(noise))
        else:
            image = self.pixel_range.encode(np.arange(self.pixel_range.levels))[levels]  # a table: one pass
        return {"image": np.asarray(image, np.float32), "label": batch["label"], "index": batch["index"]}

    def _order(self, positions: np.ndarray) -> np.ndarray:
        """The example at each position of the endless stream."""
        if not self.train:
            return positions
        epoch, place = np.divmod(positions, len(self.source))
        order = np.empty_like(positions)
        for e in np.unique(epoch):
            order[epoch == e] = _permutation(self.seed, int(e), len(self.source))[place[epoch == e]]
        return order


_SHUFFLE, _FLIP, _NOISE = range(3)


def _generator(seed: int, purpose: int, position: int) -> np.random.Generator:
    return np.random.default_rng([seed, purpose, position])


@functools.lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, size: int) -> np.ndarray:
    return _generator(seed, _SHUFFLE, epoch).permutation(size)


def _empty(shape: Any) -> Batch:
    none = np.zeros(0, np.int32)
    return {"image": np.zeros((0, *shape), np.float32), "label": none, "index": none}


def _check(
    source: Source,
    pixel_range: PixelRange,
    batch_size: int,
    seed: int,
    process_index: int,
    process_count: int,
) -> None:
    if len(source) == 0:
        raise UserError(f"data source {source.name!r} is empty: there is nothing to make batches of")
    if source.shape is None:
        raise UserError(
            f"images of data source {source.name!r} have different sizes and cannot share a batch; crop and "
            "resize them (Mapped with crop_resize)"
        )
    if source.levels != pixel_range.levels:
        raise UserError(
            f"data source {source.name!r} has {source.levels} levels, but the pixel range has "
            f"{pixel_range.levels}; use PixelRange(levels={source.levels}, ...)"
        )
    if process_count < 1 or not 0 <= process_index < process_count:
        raise UserError(
            f"process_index must lie in 0 .. process_count - 1; got process_index={process_index}, "
            f"process_count={process_count}"
        )
    if batch_size < 1 or batch_size % process_count:
        raise UserError(
            f"the batch size must be a positive multiple of the number of processes; got "
            f"batch_size={batch_size} with {process_count} process(es)"
        )
    if seed < 0:
        raise UserError(f"the data seed must not be negative; got seed={seed}")
