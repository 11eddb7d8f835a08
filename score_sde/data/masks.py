"""Masks by name: which pixels of an image are known."""

import math

import numpy as np
from jaxtyping import Bool

from score_sde.errors import UserError

HALVES = ("left", "right", "top", "bottom")
"""The known half."""
SHARES = {"box": 0.25, "random": 0.5, "scratches": 0.1, "implants": 0.02}
"""Masks that hide a share of the pixels, and the share unless another is given."""


def named_mask(text: str, height: int, width: int, seed: int = 0) -> Bool[np.ndarray, "h w"] | None:
    """The mask of a name, True where known; None if there is no such name.

    left, right, top, bottom: that half is known; of an odd number the middle belongs to right and
    bottom. box: hides a centred box. random: hides pixels drawn without replacement. scratches:
    hides straight lines, one after the other until the share is reached. implants: hides two
    discs beside the middle, as metal in both hips. `NAME:SHARE` hides another share of the pixels
    than `SHARES` says.

    Args:
        text: the name, say "left" or "random:0.7".
        height: of the images.
        width: of the images.
        seed: of the drawn masks; another one gives another mask.

    Raises:
        UserError: for a share that is no number between 0 and 1.
    """
    row, column = np.indices((height, width))
    if text in HALVES:
        first = row < height // 2 if text in ("top", "bottom") else column < width // 2
        return first if text in ("left", "top") else ~first
    name, colon, given = text.partition(":")
    if name not in SHARES:
        return None
    share = _number(text, given) if colon else SHARES[name]
    if name == "box":
        sides = [round(math.sqrt(share) * n) for n in (height, width)]
        top, left = (height - sides[0]) // 2, (width - sides[1]) // 2
        rows, columns = row - top, column - left
        return (rows < 0) | (rows >= sides[0]) | (columns < 0) | (columns >= sides[1])
    if name == "implants":
        across = np.abs(column - (width - 1) / 2) - width / 5
        distance = (row - (height - 1) / 2) ** 2 + across**2
        order = np.argsort(distance, axis=None, kind="stable").argsort().reshape(height, width)
        return order >= round(share * height * width)
    rng = np.random.default_rng(seed)
    if name == "random":
        order = rng.permutation(height * width).reshape(height, width)
        return order >= round(share * height * width)
    known = np.ones((height, width), bool)
    while 1 - known.mean() < share:
        known &= _far_from_a_line(row, column, rng)
    return known


def _number(text: str, given: str) -> float:
    try:
        share = float(given)
    except ValueError:
        share = math.nan
    if not 0 < share < 1:
        raise UserError(
            f"{text}: the number behind the colon is the share of hidden pixels, above 0 and below "
            f"1; got {given!r}. Write, say, {text.partition(':')[0]}:0.3"
        )
    return share


def _far_from_a_line(row: np.ndarray, column: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Pixels further from a random segment than half its width, 1/32 of the image or 1 pixel."""
    size = np.asarray(row.shape)
    start, end = rng.uniform(0, size - 1, (2, 2))
    point = np.stack([row, column], axis=-1) - start
    direction = end - start
    along = np.clip(point @ direction / max(direction @ direction, 1e-12), 0, 1)
    distance = np.linalg.norm(point - along[..., None] * direction, axis=-1)
    return distance > max(size.min() / 64, 0.5)
