"""Operators of images: inpainting, colorization, fewer pixels, crops. Blur is in `blur`.

Each is a function of `event` = (height, width, channels), the shape of one image. All have a cheap
singular value decomposition. `compose(outer, inner)` joins them.
"""

import functools
import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num, Shaped

from score_sde.errors import UserError
from score_sde.inverse.operators import Identity, Masked
from score_sde.inverse.separable import Factor, Separable

Event = tuple[int, int, int]
"""(height, width, channels)."""

REC_601 = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in luma (ITU-R BT.601)."""
PUBLISHED_BASIS = (
    (5.7735014e-01, -8.1649649e-01, 4.7008697e-08),
    (5.7735026e-01, 4.0824834e-01, 7.0710671e-01),
    (5.7735026e-01, 4.0824822e-01, -7.0710683e-01),
)
"""M of y_j = sum_i x_i M_ij in the published code of Song et al. (2021), colorization.

Orthogonal up to its digits; `grey_basis(3)` is the matrix that they round.
"""


def inpainting(event: tuple[int, ...], mask: Shaped[Array | np.ndarray, "..."]) -> Masked:
    """Known pixels as they are, zeros elsewhere.

    Args:
        event: shape of one image.
        mask: booleans, True where known: (h, w), (h, w, 1 or c), or (b, h, w, 1 or c) with a mask
            for each sample.

    Raises:
        UserError: for another type or shape, and masks where nothing or everything is known.
    """
    known = np.asarray(mask)
    if known.ndim == 2 and len(event) == 3:
        known = known[..., None]
    if known.ndim == len(event):
        known = known[None]
    if known.dtype != bool:
        raise UserError(
            f"the mask is {known.dtype}; it must be boolean, True where known. Write mask > 0.5"
        )
    fits = known.ndim == 1 + len(event) and all(
        size in (1, wanted) for size, wanted in zip(known.shape[1:], event)
    )
    if not fits or known.size == 0:
        raise UserError(
            f"the mask has shape {np.shape(mask)}; images of shape {event} (height, width, "
            "channels) take a mask (height, width), (height, width, 1) or (number, height, width, "
            "1). Are height and width exchanged?"
        )
    flat = known.reshape(len(known), -1)
    for what, bad in (("nothing", ~flat.any(axis=1)), ("everything", flat.all(axis=1))):
        if bad.any():
            raise UserError(
                f"mask number {np.flatnonzero(bad)[:5].tolist()} says that {what} is known; True "
                "marks known pixels, False those to fill in"
            )
    return Masked(Identity(event), jnp.asarray(known))


def grey_basis(channels: int) -> Float[np.ndarray, "c c"]:
    """An orthogonal M, to 1e-15, for y_j = sum_i x_i M_ij whose y_0 is sqrt(c) times the mean.

    Column 0 is constant; column j is 0 in the rows before j - 1, then +-(c - j), then -+1, divided
    by sqrt((c - j)(c - j + 1)): Helmert's matrix, in the order and with the signs that
    `PUBLISHED_BASIS` rounds.
    """
    basis = np.full((channels, channels), 1 / math.sqrt(channels))
    for j in range(1, channels):
        rest = channels - j
        column = np.concatenate([np.zeros(j - 1), [rest], -np.ones(rest)])
        basis[:, j] = (-1) ** j * column / math.sqrt(rest * (rest + 1))
    return basis


def mix_channels(event: Event, matrix: Num[np.ndarray, "c d"] | Sequence) -> Separable:
    """y_j = sum_i x_i M_ij in each pixel, d <= c."""
    return Separable(event, (None, None, Factor(np.asarray(matrix, float).T)))


def colorization(event: Event, weights: Sequence[float] | None = None) -> Separable:
    """The grey image y = sum_i w_i x_i, with one channel.

    Args:
        event: shape of one image.
        weights: one a channel. By default the first column of `grey_basis`, 1/sqrt(c), of norm 1.
            `REC_601` is luma.

    Raises:
        UserError: unless there are as many weights as channels, finite and not all 0.
    """
    w = grey_basis(event[2])[:, 0] if weights is None else np.asarray(weights, float)
    if w.shape != event[2:] or not (np.isfinite(w).all() and w.any()):
        raise UserError(
            f"grey is a weighted sum of {event[2]} channels; got weights {np.asarray(w).tolist()}. "
            f"Give {event[2]} finite ones, not all 0"
        )
    return mix_channels(event, w[:, None])


def grey_channel(event: Event, matrix: Num[np.ndarray, "c c"] | Sequence | None = None) -> Masked:
    """The grey image as channel 0 of y_j = sum_i x_i M_ij, the other channels unknown.

    It measures what `colorization` does. Here the basis is known as well, which imputation uses.

    Args:
        event: shape of one image.
        matrix: M, invertible; by default `grey_basis`, so that channel 0 is sqrt(c) times the mean.
            `PUBLISHED_BASIS` repeats the published code.
    """
    basis = grey_basis(event[2]) if matrix is None else np.asarray(matrix, float)
    known = np.arange(event[2]) == 0
    return Masked(mix_channels(event, basis), known[None, None, None])


def block_mean(event: Event, scale: int) -> Separable:
    """The mean of each block of scale x scale pixels, (h/scale, w/scale, c).

    Raises:
        UserError: for a scale below 2, or that does not divide height and width.
    """
    _check_scale(event, scale)
    return Separable(event, (*(_block_factor(n, scale) for n in event[:2]), None))


def bicubic(event: Event, scale: int) -> Separable:
    """Downsampling by the antialiased bicubic filter, (h/scale, w/scale, c).

    Keys' cubic with a = -1/2, made wider by `scale`; weights are divided by their sum, at the edges
    of those inside the image. It is Pillow's `resize(..., Image.Resampling.BICUBIC)` without its
    rounding.

    Raises:
        UserError: for a scale below 2, or that does not divide height and width.

    Source: Keys (1981), "Cubic convolution interpolation for digital image processing".
    """
    _check_scale(event, scale)
    return Separable(event, (*(_bicubic_factor(n, scale) for n in event[:2]), None))


def crop(event: Event, top: int, left: int, size: tuple[int, int]) -> Separable:
    """The window of `size` = (height, width) whose first pixel is (top, left).

    Raises:
        UserError: for a window that is empty or leaves the image.
    """
    for name, start, length, n in zip(("height", "width"), (top, left), size, event):
        if not (start >= 0 and length >= 1 and start + length <= n):
            raise UserError(
                f"the window from {start} to {start + length} leaves the image's {name} 0 .. {n}; "
                "make it smaller, or begin elsewhere"
            )
    rows = Factor(np.eye(event[0])[top : top + size[0]])
    return Separable(event, (rows, Factor(np.eye(event[1])[left : left + size[1]]), None))


def _check_scale(event: Event, scale: int) -> None:
    if scale < 2 or event[0] % scale or event[1] % scale:
        raise UserError(
            f"the scale must be 2 or more and divide height and width, {event[:2]}; got {scale}. "
            "Take another, or crop the images"
        )


@functools.cache
def _block_factor(n: int, scale: int) -> Factor:
    return Factor(np.kron(np.eye(n // scale), np.full((1, scale), 1 / scale)))


@functools.cache
def _bicubic_factor(n: int, scale: int) -> Factor:
    centres = (np.arange(n // scale) + 0.5) * scale
    t = np.abs(np.arange(n) + 0.5 - centres[:, None]) / scale
    near, far = (1.5 * t - 2.5) * t**2 + 1, ((-0.5 * t + 2.5) * t - 4) * t + 2
    weights = np.where(t < 1, near, np.where(t < 2, far, 0))
    return Factor(weights / weights.sum(axis=1, keepdims=True))
