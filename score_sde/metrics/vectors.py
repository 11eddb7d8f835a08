"""What the metrics that compare single vectors share.

They are checks of arguments, distances, and blocks of flat memory.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float64
from numpy.typing import ArrayLike

from score_sde.errors import UserError


def as_vectors(name: str, values: ArrayLike, least: int = 1) -> np.ndarray:
    """`values` as an array (n, d) of finite numbers with n >= least and d >= 1; their type is kept.

    Raises UserError that names `name` and what was received.
    """
    array = np.asarray(values)
    if array.ndim != 2 or array.shape[1] < 1:
        raise UserError(
            f"{name} must be vectors (n, d), one in each row; got shape {array.shape}: reshape it"
        )
    if not (np.issubdtype(array.dtype, np.integer) or np.issubdtype(array.dtype, np.floating)):
        raise UserError(
            f"{name} must be real numbers; got {array.dtype}: convert it to float32 or float64"
        )
    if len(array) < least:
        raise UserError(
            f"{name} must hold at least {least} vectors; got {len(array)}: give more of them"
        )
    bad = len(array) - int(np.isfinite(array).all(axis=1).sum())
    if bad:
        raise UserError(
            f"{name}: {bad} of {len(array)} vectors are not finite: find the images they come from "
            "and leave them out, or mend what makes them"
        )
    return array


def as_pair(
    name_a: str, a: ArrayLike, name_b: str, b: ArrayLike, least: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Two sets of vectors as by `as_vectors`, of one length d; UserError otherwise."""
    first, second = as_vectors(name_a, a, least), as_vectors(name_b, b, least)
    if first.shape[1] != second.shape[1]:
        raise UserError(
            f"{name_a} and {name_b} must have vectors of one length; got {first.shape[1]} and "
            f"{second.shape[1]}: take both from one extractor"
        )
    return first, second


def blocks(array: np.ndarray, size: int) -> Iterator[tuple[slice, np.ndarray]]:
    """(where, rows) of `size` rows after another, in float64.

    Only one block is converted at a time.
    """
    for start in range(0, len(array), size):
        where = slice(start, min(start + size, len(array)))
        yield where, array[where].astype(np.float64)


def square_norms(x: np.ndarray, size: int) -> Float64[np.ndarray, "n"]:
    """|x_i|^2 of each row, `size` rows at a time."""
    return np.concatenate([(rows * rows).sum(axis=1) for _, rows in blocks(x, size)])


def square_distances(
    left: Float64[np.ndarray, "m d"], right: np.ndarray, norms: Float64[np.ndarray, "n"], size: int
) -> Float64[np.ndarray, "m n"]:
    """|l|^2 + |r|^2 - 2 l.r of all pairs: |l - r|^2 up to rounding.

    norms: |r|^2, as of `square_norms`. size: rows of `right` in one matrix product.
    """
    squares = square_norms(left, len(left))[:, None] + norms
    for columns, rows in blocks(right, size):
        squares[:, columns] -= 2 * (left @ rows.T)
    return squares
