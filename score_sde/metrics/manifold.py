"""Fidelity and diversity apart: precision and recall, density and coverage.

They count nearest neighbours in feature space.
"""

import numpy as np
from jaxtyping import Bool, Float64, Int64, Num

from score_sde.errors import UserError
from score_sde.metrics.vectors import as_pair, blocks, square_distances, square_norms

DISTANCES = 1 << 23  # taken at a time, from some rows to all: 64 MB
COLUMNS = 2048  # of one matrix product
PAIRS = 1 << 22  # numbers subtracted at a time where distances are taken exactly: 32 MB


def precision_recall(
    real: Num[np.ndarray, "n d"], generated: Num[np.ndarray, "m _"], k: int = 3
) -> tuple[float, float]:
    """How many generated vectors lie on the real manifold, and real ones on the generated.

    The first is the precision, the second the recall. A manifold is the union of balls around its
    vectors. Each ball reaches up to the k-th nearest other vector of the same set, which belongs to
    the ball. The vector itself does not count as a neighbour; others equal to it do.

        precision = mean_j [g_j in some ball of the real set]
        recall = mean_i [r_i in some ball of the generated set]

    Distances are in float64, and equal ones are equal: comparisons that rounding could decide are
    made again exactly. The time is that of n^2 + m^2 + 2 n m scalar products; the memory beside the
    vectors is flat, about 300 MB.

    Returns both, in [0, 1].
    Raises UserError for values that are not finite, other shapes, or n or m not above k.
    Source: Kynkaanniemi et al. 2019, eqs. 1 and 2.
    """
    real, generated = _checked(real, generated, k)
    on_real, _ = _count_inside(real, _radii(real, k), generated)
    on_generated, _ = _count_inside(generated, _radii(generated, k), real)
    return float((on_real > 0).mean()), float((on_generated > 0).mean())


def density_coverage(
    real: Num[np.ndarray, "n d"], generated: Num[np.ndarray, "m _"], k: int = 5
) -> tuple[float, float]:
    """How many real balls a generated vector lies in, and how many balls hold one.

    The first, against k, is the density, the second the coverage.

        density = 1/(k m) sum_j sum_i [g_j in ball i]
        coverage = 1/n sum_i [some g_j in ball i]

    with the balls of the real set as in `precision_recall`. One real vector far from the others,
    whose ball is large, changes them little. Of equal distributions the density is 1 on average.
    Their coverage is 1 - (n - 1)...(n - k)/((n + m - 1)...(n + m - k)), near 0.97 for n = m and
    k = 5.

    Returns the density, 0 or more, and the coverage, in [0, 1].
    Raises UserError for values that are not finite, other shapes, or n or m not above k.
    Source: Naeem et al. 2020, section 3.
    """
    real, generated = _checked(real, generated, k)
    balls, points = _count_inside(real, _radii(real, k), generated)
    return float(balls.sum() / (k * len(generated))), float((points > 0).mean())


def _checked(real: np.ndarray, generated: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    if k < 1:
        raise UserError(f"k, the number of neighbours, must be 1 or more; got {k}")
    real, generated = as_pair("real", real, "generated", generated)
    if min(len(real), len(generated)) <= k:
        raise UserError(
            f"k={k} neighbours beside itself need at least {k + 1} vectors on either side; "
            f"got {len(real)} real and {len(generated)} generated: use more images or a smaller k"
        )
    return real, generated


def _radii(x: np.ndarray, k: int) -> Float64[np.ndarray, "n"]:
    """Squared distance of each vector to the k-th nearest of the others."""
    radii, norms = np.empty(len(x)), square_norms(x, COLUMNS)
    for rows, left in blocks(x, max(1, DISTANCES // len(x))):
        squares, rounding = _squares(left, x, norms)
        own = np.arange(len(left)), np.arange(rows.start, rows.stop)
        squares[own] = np.inf
        limits = np.partition(squares, k - 1, axis=1)[:, k - 1] + 2 * rounding
        # All vectors that can be among the k nearest, with their exact distances.
        i, j = np.nonzero(squares <= limits[:, None])
        squares[:] = np.inf
        squares[i, j] = _exact(left, x, i, j)
        radii[rows] = np.partition(squares, k - 1, axis=1)[:, k - 1]
    return radii


def _count_inside(
    centres: np.ndarray, radii: Float64[np.ndarray, "n"], points: np.ndarray
) -> tuple[Int64[np.ndarray, "m"], Int64[np.ndarray, "n"]]:
    """Balls (of squared radii) that each point lies in, and points in each ball.

    The surface belongs to the ball.
    """
    balls, inside = np.zeros(len(points), np.int64), np.zeros(len(centres), np.int64)
    norms = square_norms(centres, COLUMNS)
    for rows, left in blocks(points, max(1, DISTANCES // len(centres))):
        squares, rounding = _squares(left, centres, norms)
        squares -= radii
        within: Bool[np.ndarray, "rows n"] = squares <= 0
        i, j = np.nonzero(np.abs(squares) <= rounding[:, None])
        within[i, j] = _exact(left, centres, i, j) <= radii[j]
        balls[rows] = within.sum(axis=1)
        inside += within.sum(axis=0)
    return balls, inside


def _squares(
    left: np.ndarray, x: np.ndarray, norms: Float64[np.ndarray, "n"]
) -> tuple[Float64[np.ndarray, "rows n"], Float64[np.ndarray, "rows"]]:
    """Those of all pairs, and a bound of their rounding error for each i."""
    # A sum of d products is off by at most d epsilon |a| |b|; both norms, the product and the exact
    # sum have one.
    rounding = (
        4
        * (left.shape[1] + 2)
        * np.finfo(np.float64).eps
        * (square_norms(left, len(left)) + norms.max())
    )
    return square_distances(left, x, norms, COLUMNS), rounding


def _exact(
    left: np.ndarray, x: np.ndarray, i: np.ndarray, j: np.ndarray
) -> Float64[np.ndarray, "pairs"]:
    """|left_i - x_j|^2 from the differences.

    It is 0 for copies, and the same number in both directions.
    """
    found, size = np.empty(len(i)), max(1, PAIRS // left.shape[1])
    for start in range(0, len(i), size):
        some = slice(start, start + size)
        difference = left[i[some]] - x[j[some]].astype(np.float64)
        found[some] = (difference * difference).sum(axis=1)
    return found
