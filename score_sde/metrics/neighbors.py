"""Nearest training images in pixel space: the check against memorizing."""

import dataclasses

import numpy as np
from jaxtyping import Float64, Int64
from numpy.typing import ArrayLike


@dataclasses.dataclass(frozen=True)
class NeighborDistances:
    """Mean distance to the nearest training image, of samples and of real images that were held out.

    Args:
        samples: mean over the samples of min_j |sample - train_j|, in units of the given pixels.
        heldout: the same for held-out images: the distance that new images of the same kind have.
        count: number of samples.
        heldout_count: number of held-out images.
    """

    samples: float
    heldout: float
    count: int
    heldout_count: int

    @property
    def ratio(self) -> float:
        """samples / heldout: about 1 for new images, near 0 for copies; NaN if both distances are 0."""
        if self.heldout > 0:
            return self.samples / self.heldout
        return float("inf") if self.samples > 0 else float("nan")


def nearest_neighbors(
    queries: ArrayLike, references: ArrayLike, k: int = 1, block: int = 1024
) -> tuple[Float64[np.ndarray, "queries k"], Int64[np.ndarray, "queries k"]]:
    """Exact k nearest references of every query by Euclidean distance on flattened pixels.

    |q - r|^2 = |q|^2 + |r|^2 - 2 q.r, a float64 matrix product in blocks, only selects candidates: every
    reference within its rounding error of the k-th smallest. Their distances are then taken from the
    differences q - r, so that a copy has distance exactly 0, and equal distances are ordered by index.

    Args:
        queries: (Q, ...) images, finite, integer or floating.
        references: (R, ...) images of the same shape and scale as the queries.
        k: neighbours per query, 1 <= k <= R.
        block: rows of either side per matrix product; memory is about 8 * block * (2 * pixels + R) bytes.

    Returns:
        distances (Q, k), ascending, in the units of the pixels, and indices (Q, k) into the references.

    Raises:
        ValueError: shapes, scales, k or block do not fit, or a value is not finite.
    """
    q, r = _flat("queries", queries), _flat("references", references)
    _check_pair(q, r, np.shape(queries), np.shape(references), k, block)
    distances = np.empty((len(q), k), np.float64)
    indices = np.empty((len(q), k), np.int64)
    r_norms = np.concatenate(
        [_square_norms(r[j : j + block].astype(np.float64)) for j in range(0, len(r), block)]
    )
    for i in range(0, len(q), block):
        q_block = q[i : i + block].astype(np.float64)
        q_norms = _square_norms(q_block)
        squares = q_norms[:, None] + r_norms[None, :]
        for j in range(0, len(r), block):
            squares[:, j : j + block] -= 2 * (q_block @ r[j : j + block].astype(np.float64).T)
        # Rounding of a dot product of n terms: at most about n * epsilon * |q| |r|.
        rounding = 8 * (q.shape[1] + 2) * np.finfo(np.float64).eps * (q_norms + r_norms.max())
        limits = np.partition(squares, k - 1, axis=1)[:, k - 1] + rounding
        for row, query in enumerate(q_block):
            candidates = np.flatnonzero(squares[row] <= limits[row])
            exact = np.sqrt(_square_norms(r[candidates].astype(np.float64) - query))
            chosen = np.argsort(exact, kind="stable")[:k]
            distances[i + row], indices[i + row] = exact[chosen], candidates[chosen]
    return distances, indices


def neighbor_distances(samples: ArrayLike, heldout: ArrayLike, train: ArrayLike) -> NeighborDistances:
    """Compare the samples' distance to the training images with that of held-out images.

    Args:
        samples: (S, ...) generated images, S >= 1.
        heldout: (V, ...) real images that were not trained on, V >= 1.
        train: (R, ...) the training images, all in the same scale.

    Returns:
        The two means; see `NeighborDistances.ratio`.

    Raises:
        ValueError: as `nearest_neighbors`, or one of the sets is empty.
    """
    shapes = np.shape(samples), np.shape(heldout)
    if any(shape[:1] in ((), (0,)) for shape in shapes):
        raise ValueError(
            f"need at least one sample and one held-out image; got shapes {shapes[0]}, {shapes[1]}"
        )
    of_samples, _ = nearest_neighbors(samples, train)
    of_heldout, _ = nearest_neighbors(heldout, train)
    return NeighborDistances(
        samples=float(of_samples.mean()),
        heldout=float(of_heldout.mean()),
        count=len(of_samples),
        heldout_count=len(of_heldout),
    )


def _flat(name: str, images: ArrayLike) -> np.ndarray:
    array = np.asarray(images)
    if array.ndim < 2:
        raise ValueError(f"{name} must be (count, ...) with at least one pixel axis; got shape {array.shape}")
    if not (np.issubdtype(array.dtype, np.floating) or np.issubdtype(array.dtype, np.integer)):
        raise ValueError(f"{name} must be integer or floating; got {array.dtype}")
    bad = array.size - np.count_nonzero(np.isfinite(array))
    if bad:
        raise ValueError(
            f"{name} hold {bad} of {array.size} values that are not finite; distances need finite ones"
        )
    return array.reshape(len(array), int(np.prod(array.shape[1:])))


def _check_pair(
    q: np.ndarray, r: np.ndarray, q_shape: tuple[int, ...], r_shape: tuple[int, ...], k: int, block: int
) -> None:
    if q_shape[1:] != r_shape[1:]:
        raise ValueError(
            f"queries and references must have one image shape; got {q_shape[1:]} and {r_shape[1:]}"
        )
    if np.issubdtype(q.dtype, np.integer) != np.issubdtype(r.dtype, np.integer):
        raise ValueError(
            f"queries are {q.dtype} and references {r.dtype}: integers are levels, floats mostly [0, 1]; "
            "bring both to the same scale"
        )
    if not 1 <= k <= len(r):
        raise ValueError(f"k must be in 1..{len(r)}, the number of references; got k={k}")
    if block < 1:
        raise ValueError(f"block must be at least 1; got block={block}")


def _square_norms(rows: np.ndarray) -> np.ndarray:
    return np.sum(rows * rows, axis=1)
