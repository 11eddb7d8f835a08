"""Nearest training images, in pixels or in features: the check against memorizing."""

import dataclasses
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64, Shaped, UInt8
from numpy.typing import ArrayLike

from score_sde.metrics.features import Extractor
from score_sde.metrics.vectors import square_distances, square_norms

LOCAL = 50
"""Neighbours whose mean distance says how dense the training images lie around a sample."""
MATRIX_BYTES = 2**27
"""Largest matrix held at once, of pixels or of distances."""


class Neighbors(NamedTuple):
    """The k references nearest to each query, the nearest first.

    distances: in the units of the vectors. indices: into the references. mirrored: whether the
    reference's mirror image was the nearer one; of both equally near, the image itself counts.
    """

    distances: Float64[np.ndarray, "queries k"]
    indices: Int64[np.ndarray, "queries k"]
    mirrored: Bool[np.ndarray, "queries k"]


@dataclasses.dataclass(frozen=True, eq=False)
class NeighborDistances:
    """Distances to the nearest training image, of samples and of real images that were held out.

    Args:
        samples: min_j |sample - train_j| of every sample, in units of the given vectors.
        heldout: the same for held-out images: the distances that new images of the same kind have.
        nearest: the training images nearest to each sample, up to `LOCAL` of them.
    """

    samples: Float64[np.ndarray, "samples"]
    heldout: Float64[np.ndarray, "heldout"]
    nearest: Neighbors

    @property
    def ratio(self) -> float:
        """Ratio of the mean distances: 1 for new images, near 0 for copies; NaN if both are 0."""
        samples, heldout = self.samples.mean(), self.heldout.mean()
        if heldout > 0:
            return float(samples / heldout)
        return float("inf") if samples > 0 else float("nan")

    @property
    def copies(self) -> int:
        """Samples at distance 0."""
        return int((self.samples == 0).sum())

    def limit(self, share: float = 0.01) -> float:
        """The distance below which a new image falls with probability `share`.

        With fewer than 1/share held-out images it is the least of their distances. It is the
        quantile of the held-out distances at rank share (n + 1). On average over held-out sets
        exactly `share` of the distribution lies below it.
        """
        return float(np.quantile(self.heldout, share, method="weibull"))

    def close(self, share: float = 0.01) -> float:
        """Share of the samples nearer to a training image than `limit`, about `share` if new."""
        return float((self.samples < self.limit(share)).mean())

    def relative(self) -> Float64[np.ndarray, "samples"]:
        """Distance of each sample to the nearest training image over the mean to `LOCAL` of them.

        Plain images (a thin stroke, an empty sky) are near to many others and need not be copies; a
        copy is far nearer to one image than to the others around it (Carlini et al. 2023,
        "Extracting Training Data from Diffusion Models"). 1 where all distances are 0.
        """
        around = self.nearest.distances.mean(axis=1)
        return np.divide(self.samples, around, out=np.ones_like(around), where=around > 0)

    def suspicious(self, count: int) -> Int64[np.ndarray, "shown"]:
        """The samples most like copies: exact ones, then those of smallest `relative`."""
        relative = np.where(self.samples == 0, -1.0, self.relative())
        return np.argsort(relative, kind="stable")[:count]


def nearest_neighbors(
    queries: ArrayLike,
    references: ArrayLike,
    k: int = 1,
    block: int = 1024,
    flip: bool = False,
    mirrors: ArrayLike | None = None,
) -> Neighbors:
    """Exact k nearest references of every query by Euclidean distance on flattened pixels.

    |q - r|^2 = |q|^2 + |r|^2 - 2 q.r, a float64 matrix product in blocks, only selects candidates:
    every reference within its rounding error of the k-th smallest. Their distances are then taken
    from the differences q - r: a copy has distance exactly 0. Equal distances are ordered by index.

    With `flip` or `mirrors` a reference is as near as the nearer of itself and its mirror image.

    Args:
        queries: (Q, ...) images or feature vectors, finite, integer or floating.
        references: (R, ...) of the same shape and scale as the queries.
        k: neighbours per query, 1 <= k <= R.
        block: rows of either side per matrix product, at most; fewer where these rows, or the
            distances of these queries to all references, would take more than `MATRIX_BYTES`.
        flip: (..., height, width, channels) images count as their left-right mirror images do.
        mirrors: (R, ...) the feature vectors of the references' mirror images.

    Returns `Neighbors`, with distances in the units of the vectors.

    Raises:
        ValueError: shapes, scales, k or block do not fit, or a value is not finite.
    """
    q, r = _flat("queries", queries), _flat("references", references)
    _check_pair(q, r, np.shape(queries), np.shape(references))
    if not 1 <= k <= len(r):
        raise ValueError(f"k must be in 1..{len(r)}, the number of references; got k={k}")
    if block < 1:
        raise ValueError(f"block must be at least 1; got block={block}")
    pairs = [(q, r)]
    if flip and (np.ndim(queries) != 4 or mirrors is not None):
        raise ValueError(
            "flip=True is for images (count, height, width, channels), mirrors for features; got "
            f"queries of shape {np.shape(queries)} and "
            f"mirrors={'None' if mirrors is None else np.shape(mirrors)}"
        )
    if flip:  # |q - mirror(r)| = |mirror(q) - r|, and there are fewer queries
        pairs.append((_flat("queries", mirror(np.asarray(queries))), r))
    elif mirrors is not None:
        pairs.append((q, _mirrors(mirrors, q, r, np.shape(queries))))
    return _nearest(pairs, k, max(1, min(block, MATRIX_BYTES // (8 * max(1, q.shape[1])))))


def _mirrors(
    mirrors: ArrayLike, q: np.ndarray, r: np.ndarray, q_shape: tuple[int, ...]
) -> np.ndarray:
    m = _flat("mirrors", mirrors)
    _check_pair(q, m, q_shape, np.shape(mirrors))
    if len(m) != len(r):
        raise ValueError(f"need a mirror image of each reference; got {len(m)} of {len(r)}")
    return m


def _nearest(pairs: list[tuple[np.ndarray, np.ndarray]], k: int, block: int) -> Neighbors:
    """Neighbours by the least distance over pairs (queries, references) of the same two sets."""
    q, r = pairs[0]
    shape = (len(q), k)
    found = Neighbors(np.empty(shape, np.float64), np.empty(shape, np.int64), np.zeros(shape, bool))
    norms = [square_norms(right, block) for _, right in pairs]
    largest = max(map(np.max, norms))
    rows = max(1, min(block, MATRIX_BYTES // (8 * len(r))))
    for i in range(0, len(q), rows):
        lefts = [left[i : i + rows].astype(np.float64) for left, _ in pairs]
        squares = square_distances(lefts[0], r, norms[0], block)
        for left, (_, right), right_norms in zip(lefts[1:], pairs[1:], norms[1:], strict=True):
            np.minimum(squares, square_distances(left, right, right_norms, block), out=squares)
        # Rounding of a dot product of n terms: at most about n * epsilon * |q| |r|.
        epsilon = 8 * (q.shape[1] + 2) * np.finfo(np.float64).eps
        rounding = epsilon * (_square_norms(lefts[0]) + largest)
        limits = np.partition(squares, k - 1, axis=1)[:, k - 1] + rounding
        for row in range(len(squares)):
            candidates = np.flatnonzero(squares[row] <= limits[row])
            exact = np.stack(
                [
                    np.sqrt(_square_norms(right[candidates].astype(np.float64) - left[row]))
                    for left, (_, right) in zip(lefts, pairs, strict=True)
                ]
            )
            least = exact.min(axis=0)
            chosen = np.argsort(least, kind="stable")[:k]
            found.distances[i + row], found.indices[i + row] = least[chosen], candidates[chosen]
            found.mirrored[i + row] = exact.argmin(axis=0)[chosen] > 0
    return found


def neighbor_distances(
    samples: ArrayLike,
    heldout: ArrayLike,
    train: ArrayLike,
    flip: bool = False,
    mirrors: ArrayLike | None = None,
) -> NeighborDistances:
    """Compare the samples' distances to the training images with those of held-out images.

    Args:
        samples: (S, ...) generated images or their features, S >= 1.
        heldout: (V, ...) real images that were not trained on, V >= 1.
        train: (R, ...) the training images, all in the same scale.
        flip, mirrors: as `nearest_neighbors`.

    Returns:
        The distances of all of them; see `NeighborDistances`.

    Raises:
        ValueError: as `nearest_neighbors`, or one of the sets is empty.
    """
    shapes = np.shape(samples), np.shape(heldout)
    if any(shape[:1] in ((), (0,)) for shape in shapes):
        raise ValueError(
            f"need at least one sample and one held-out image; got shapes {shapes[0]}, {shapes[1]}"
        )
    k = max(1, min(LOCAL, len(np.asarray(train))))
    nearest = nearest_neighbors(samples, train, k, flip=flip, mirrors=mirrors)
    of_heldout = nearest_neighbors(heldout, train, flip=flip, mirrors=mirrors)
    return NeighborDistances(nearest.distances[:, 0], of_heldout.distances[:, 0], nearest)


def feature_vectors(
    extractor: Extractor, images: UInt8[np.ndarray, "n h w c"], batch_size: int = 64
) -> Float32[np.ndarray, "n d"]:
    """Features of all images, batch after batch at one shape.

    The last batch is filled up, and the filling left out.
    """
    parts = []
    for first in range(0, len(images), batch_size):
        some = images[first : first + batch_size]
        filling = images[:1].repeat(batch_size - len(some), axis=0)
        parts.append(
            np.asarray(extractor(np.concatenate([some, filling])).pool[: len(some)], np.float32)
        )
    return np.concatenate(parts)


def mirror(images: Shaped[np.ndarray, "n h w c"]) -> Shaped[np.ndarray, "n h w c"]:
    """Left and right exchanged."""
    return images[:, :, ::-1]


def _flat(name: str, images: ArrayLike) -> np.ndarray:
    array = np.asarray(images)
    if array.ndim < 2:
        raise ValueError(
            f"{name} must be (count, ...) with at least one pixel axis; got shape {array.shape}"
        )
    if not (np.issubdtype(array.dtype, np.floating) or np.issubdtype(array.dtype, np.integer)):
        raise ValueError(f"{name} must be integer or floating; got {array.dtype}")
    bad = array.size - np.count_nonzero(np.isfinite(array))
    if bad:
        raise ValueError(
            f"{name} hold {bad} of {array.size} values that are not finite; distances need finite "
            "ones"
        )
    return array.reshape(len(array), int(np.prod(array.shape[1:])))


def _check_pair(
    q: np.ndarray, r: np.ndarray, q_shape: tuple[int, ...], r_shape: tuple[int, ...]
) -> None:
    if q_shape[1:] != r_shape[1:]:
        raise ValueError(
            f"queries and references must have one image shape; got {q_shape[1:]} and {r_shape[1:]}"
        )
    if np.issubdtype(q.dtype, np.integer) != np.issubdtype(r.dtype, np.integer):
        raise ValueError(
            f"queries are {q.dtype} and references {r.dtype}: integers are levels, floats mostly "
            "[0, 1]; bring both to the same scale"
        )


def _square_norms(rows: np.ndarray) -> np.ndarray:
    return np.sum(rows * rows, axis=1)
