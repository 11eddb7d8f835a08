"""Batches for training and evaluation: seeded, split over processes, exactly resumable, read ahead.

Batch number k is a pure function of (source, batch size, seed, k). Grain reads the coming batches
in threads and keeps the position. Its state is the small dict {"next_index": k}, which any JSON
file or Orbax checkpoint can hold.

    batches = pipeline.read(Batches(source, pixel_range, batch_size=64, seed=0, train=True))
    batch = next(batches)
"""

import dataclasses
import functools
import os
import sys
from typing import Any

import grain
import numpy as np
from jaxtyping import Float32, Integer

from score_sde.data.batch import Batch
from score_sde.data.pixels import PixelRange
from score_sde.data.sources import ArraySource, Source, take
from score_sde.errors import UserError


@dataclasses.dataclass(frozen=True)
class Batches:
    """All batches of a source: `len(batches)` of them, `batches[k]` is the batch number k.

    Training: endless. Each epoch is a new permutation of all examples. A batch may reach into the
        next epoch, so a source smaller than a batch works. Evaluation: one pass in order. The last
        batch may be smaller.

    Process p gets the p-th contiguous block of each global batch. The blocks in the order of
    processes are the same batch for any `process_count`, flips and noise included. A smaller last
    batch is divided as evenly as possible. So every process makes the same number of batches, and
    its last may be empty.

    Args:
        source: random access to integer images of one shape.
        pixel_range: how levels become model values; its levels must be the source's.
        batch_size: examples of the global batch, a multiple of `process_count`.
        seed: 0 or a positive integer; decides the order, the flips and the noise.
        train: training or evaluation.
        flip: mirror each training image left to right with probability 1/2. Evaluation never flips.
        dequantize: add uniform noise inside the level's cell (`PixelRange.dequantize`); otherwise
            `PixelRange.encode`.
        process_index: number of this process, 0 .. process_count - 1.
        process_count: number of processes.

    Raises:
        UserError: empty source, images of different sizes, levels that disagree, impossible sizes
            or seed.
    """

    source: Source
    pixel_range: PixelRange
    batch_size: int
    seed: int
    train: bool
    flip: bool = True
    dequantize: bool = False
    process_index: int = 0
    process_count: int = 1

    def __post_init__(self):
        _check_source(self.source, self.pixel_range)
        if self.process_count < 1 or not 0 <= self.process_index < self.process_count:
            raise UserError(
                f"process_index must lie in 0 .. process_count - 1; got "
                f"process_index={self.process_index}, process_count={self.process_count}"
            )
        if self.batch_size < 1 or self.batch_size % self.process_count:
            raise UserError(
                f"the batch size must be a positive multiple of the number of processes; got "
                f"batch_size={self.batch_size} with {self.process_count} process(es)"
            )
        if self.seed < 0:
            raise UserError(f"the data seed must not be negative; got seed={self.seed}")

    def __len__(self) -> int:
        if self.train:
            return sys.maxsize // self.batch_size
        return -(-len(self.source) // self.batch_size)

    def __getitem__(self, k: int) -> Batch:
        start = k * self.batch_size
        stop = start + self.batch_size
        if not self.train:
            stop = min(stop, len(self.source))
        rows = stop - start
        first = start + rows * self.process_index // self.process_count
        last = start + rows * (self.process_index + 1) // self.process_count
        if first == last:
            none = np.zeros(0, np.int32)
            shape: Any = self.source.shape
            return Batch(np.zeros((0, *shape), np.float32), none, none)
        positions = np.arange(first, last)
        if not self.train:
            return self.examples(positions)
        examples = take(self.source, self._order(positions))
        levels = examples["image"]
        if self.flip:
            mirror = _generator(self.seed, _FLIP, k).random(self.batch_size) < 0.5
            mirror = mirror[first - start : last - start]
            levels = levels.copy()  # a source may have handed out its own memory
            levels[mirror] = levels[mirror, :, ::-1]
        return Batch(self._image(levels, positions), examples["label"], examples["index"])

    def examples(self, numbers: Integer[np.ndarray, "batch"]) -> Batch:
        """The examples with these numbers as evaluation sees them, in this order."""
        found = take(self.source, numbers)
        return Batch(self._image(found["image"], numbers), found["label"], found["index"])

    def _image(
        self, levels: Integer[np.ndarray, "batch h w c"], positions: Integer[np.ndarray, "batch"]
    ) -> Float32[np.ndarray, "batch h w c"]:
        """Model values of levels; the noise in a cell is that of the position in the stream."""
        if not self.dequantize:
            table = np.asarray(
                self.pixel_range.encode(np.arange(self.pixel_range.levels)), np.float32
            )
            return table[levels]  # one pass over the pixels
        noise = [
            _generator(self.seed, _NOISE, int(p)).random(levels.shape[1:], np.float32)
            for p in positions
        ]
        return np.asarray(self.pixel_range.dequantize(levels, np.stack(noise)), np.float32)

    def _order(self, positions: Integer[np.ndarray, "batch"]) -> Integer[np.ndarray, "batch"]:
        """The example at each position of the endless stream."""
        epoch, place = np.divmod(positions, len(self.source))
        order = np.empty_like(positions)
        for e in np.unique(epoch):
            order[epoch == e] = _permutation(self.seed, int(e), len(self.source))[place[epoch == e]]
        return order


def read(
    batches: Batches, threads: int | None = None, prefetch: int = 4
) -> grain.DatasetIterator[Batch]:
    """An iterator over `batches`, read ahead, with `get_state()` and `set_state(state)`.

    Args:
        batches: what to read.
        threads: that read; default 1 where the source is in memory, else one per core up to 16.
        prefetch: batches prepared ahead, at least one per thread.
    """
    if threads is None:
        in_memory = isinstance(batches.source, ArraySource)
        threads = 1 if in_memory else min(16, os.cpu_count() or 1)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(prefetch, threads))
    return iter(grain.MapDataset.source(batches).to_iter_dataset(options))


_SHUFFLE, _FLIP, _NOISE = range(3)


def _generator(seed: int, purpose: int, position: int) -> np.random.Generator:
    """Every draw is a function of the seed, what it is for, and a position."""
    return np.random.default_rng([seed, purpose, position])


@functools.lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, size: int) -> np.ndarray:
    return _generator(seed, _SHUFFLE, epoch).permutation(size)


def _check_source(source: Source, pixel_range: PixelRange) -> None:
    if len(source) == 0:
        raise UserError(
            f"data source {source.name!r} is empty: there is nothing to make batches of"
        )
    if source.shape is None:
        raise UserError(
            f"images of data source {source.name!r} have different sizes and cannot share a batch; "
            "crop and resize them (Mapped with crop_resize)"
        )
    if source.levels != pixel_range.levels:
        raise UserError(
            f"data source {source.name!r} has {source.levels} levels, but the pixel range has "
            f"{pixel_range.levels}; use PixelRange(levels={source.levels}, ...)"
        )
