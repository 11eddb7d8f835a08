"""Statistics of images, collected batch by batch, over devices and processes."""

import dataclasses
import functools
import operator
import pickle
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Array, Int, UInt8
from tqdm import tqdm

from score_sde.devices import Placement, processes
from score_sde.errors import UserError
from score_sde.metrics.features import Extractor, Features
from score_sde.metrics.frechet import Moments
from score_sde.metrics.inception_score import ScoreSums, split_of
from score_sde.metrics.statistics import Statistics
from score_sde.parallel.loop import Rows, each_batch

Read = Callable[[Int[np.ndarray, "n"]], UInt8[np.ndarray, "n h w c"]]


@dataclasses.dataclass(frozen=True, eq=False)
class Images:
    """Images 0 .. count - 1 to collect statistics of.

    read: numbers of images -> these images, levels 0 .. 255. count: their number, at least 2.
    provenance: what is known of them: data, split, levels; `collect` adds the rest.
    """

    read: Read
    count: int
    provenance: dict[str, Any]


def collect(
    extractor: Extractor,
    images: Images,
    *,
    batch_size: int = 64,
    splits: int = 10,
    keep_features: bool = False,
    title: str = "",
) -> Statistics:
    """Statistics of images, in memory that does not grow with their number without features.

    Batches have one shape: the last is filled up, and the filling left out. Local devices share a
    batch. Of several processes each takes consecutive images; the sums, in float64, are added in
    the order of the processes, so all have the same result. Split j of the Inception score has
    images floor(j count/splits) .. floor((j + 1) count/splits) - 1, as published.

    Args:
        extractor: images -> features.
        images: how they are read, their number, and what is known of them.
        batch_size: images at a time in each process, rounded up to a multiple of its devices.
        splits: of the Inception score.
        keep_features: needed for KID, precision and recall, density and coverage.
        title: of the progress bar; none for "".

    Raises:
        UserError: fewer than 2 images, unreadable ones, images or features that are not finite.
    """
    data = images.provenance.get("data") or "the set"
    if images.count < 2:
        raise UserError(f"statistics need at least 2 images; {data} has {images.count}")
    process, count = processes()
    ends = (process * images.count // count, (process + 1) * images.count // count)
    numbers, mine, problem = np.arange(*ends), None, ""
    try:
        parts = _parts(extractor, images, numbers, batch_size, splits)
        mine = _add_up(parts, len(numbers), keep_features, title)
    except UserError as error:  # told to the other processes, which would wait for ever
        problem = str(error)
    whole = _join(extractor, mine, problem)
    if len(whole.bad):
        raise UserError(
            f"the features of {len(whole.bad)} of {images.count} images of {data} are not finite "
            f"(images {whole.bad[:5].tolist()}{' ...' if len(whole.bad) > 5 else ''}), so no "
            "statistics were made; check the extractor and its weights"
        )
    known = {"data": "", "split": "", "shape": list(whole.shape), "levels": 256}
    known |= images.provenance | {"images": images.count} | extractor.identity
    version = sys.modules["score_sde"].__version__  # imported from here it would be a circle
    features = np.concatenate(whole.features) if keep_features else None
    return Statistics(whole.moments, known | {"version": version}, whole.scores, features)


@dataclasses.dataclass
class _Part:
    """Sums over some images, and their features batch by batch.

    count: number of images. bad: numbers of those whose features are not finite.
    """

    moments: Moments
    scores: ScoreSums | None
    features: tuple[np.ndarray, ...]
    bad: np.ndarray
    count: int
    shape: tuple[int, ...]

    def __add__(self, other: "_Part") -> "_Part":
        return _Part(
            self.moments + other.moments,
            None if self.scores is None or other.scores is None else self.scores + other.scores,
            self.features + other.features,
            np.concatenate([self.bad, other.bad]),
            self.count + other.count,
            self.shape,
        )


def _parts(
    extractor: Extractor, images: Images, numbers: np.ndarray, batch_size: int, splits: int
) -> Iterator[_Part]:
    """Sums over the images of these numbers, batch after batch."""
    place = Placement.of(jax.local_devices() if extractor.compiled else jax.local_devices()[:1])
    shape: tuple[int, ...] = ()

    def features(params: None, batch: Array) -> Features:
        nonlocal shape
        shape = batch.shape[1:]
        return extractor(batch if extractor.compiled else np.asarray(batch))

    rows = Rows(len(numbers), lambda chosen: np.asarray(images.read(numbers[chosen])))
    for part, found in each_batch(features, None, rows, batch_size, place):
        some = numbers[part]
        finite, scores = np.isfinite(found.pool).all(axis=1), None
        if found.logits is not None:
            finite &= np.isfinite(found.logits).all(axis=1)
            split = split_of(some[finite], images.count, splits)
            scores = ScoreSums.of(found.logits[finite], split, splits)
        moments, bad = Moments.of(found.pool[finite]), some[~finite]
        yield _Part(moments, scores, (found.pool,), bad, len(some), shape)


def _add_up(parts: Iterator[_Part], total: int, keep: bool, title: str) -> _Part | None:
    """The sum over batches, with a progress bar; None where there are none."""
    whole = None
    bar = tqdm(total=total, unit="image", desc=title or None, dynamic_ncols=True, disable=not title)
    with bar:
        for part in parts:
            if not keep:
                part.features = ()
            whole = part if whole is None else whole + part
            bar.update(part.count)
    return whole


def _join(extractor: Extractor, mine: _Part | None, problem: str) -> _Part:
    """The sum over all processes, the same in each; raises what any of them raised."""
    said, checksums, found = zip(*_everywhere((problem, extractor.checksum, mine)), strict=True)
    if any(said):
        raise UserError(next(filter(None, said)))
    if len(set(checksums)) > 1:
        raise UserError(
            f"the processes have different weights of extractor {extractor.name!r} "
            f"({', '.join(sorted(set(checksums)))}); copy one process's file to the others"
        )
    return functools.reduce(operator.add, [each for each in found if each is not None])


def _everywhere(mine: Any) -> list[Any]:
    """What each process has, in their order, in all processes.

    It travels as bytes, because jax would round float64 to float32.
    """
    if processes()[1] == 1:
        return [mine]
    data = np.frombuffer(pickle.dumps(mine), np.uint8)
    lengths = multihost_utils.process_allgather(np.asarray([len(data)], np.int32)).reshape(-1)
    padded = np.zeros(lengths.max(), np.uint8)
    padded[: len(data)] = data
    rows = multihost_utils.process_allgather(padded)
    return [pickle.loads(row[:length].tobytes()) for row, length in zip(rows, lengths, strict=True)]
