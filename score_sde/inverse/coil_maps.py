"""Sensitivity maps S_i of receive coils, (..., coils, h, w) complex: sum_i |S_i|^2 is 1, or 0."""

import math

import numpy as np
from jaxtyping import Complex

from score_sde.errors import UserError

Maps = Complex[np.ndarray, "*batch coils h w"]


def normalized_maps(maps: Maps) -> Maps:
    """S_i/sqrt(sum_j |S_j|^2); 0 where all are 0.

    The image of normalized maps is sqrt(sum_j |S_j|^2) times that of the maps themselves.
    """
    size = np.sqrt(np.sum(np.abs(maps) ** 2, axis=-3, keepdims=True))
    return maps / np.where(size > 0, size, 1)


def birdcage_maps(coils: int, height: int, width: int, distance: float = 1.5) -> Maps:
    """Simulated maps of coils on a circle around the image, (coils, h, w), normalized everywhere.

    Before normalization S_i(z) = u_i/(distance u_i - z) with u_i = exp(2 pi i/coils) and z the
    position in half widths as a complex number: the magnitude falls as one over the distance from
    the coil, the phase is smooth, and at the centre all coils have one phase.

    Args:
        coils: at least 1.
        height: of the image.
        width: of the image.
        distance: of the coils from the centre in half widths, above sqrt(2), the image's corners.

    Raises:
        UserError: for no coils, or coils inside the image.
    """
    if coils < 1 or not distance > math.sqrt(2):
        raise UserError(
            f"maps need at least 1 coil, further than sqrt(2) half widths from the centre; got "
            f"{coils} coils at {distance}"
        )
    y, x = ((np.arange(n) - n // 2) / (n / 2) for n in (height, width))
    z = x[None] + 1j * y[:, None]
    u = np.exp(2j * math.pi * np.arange(coils) / coils)[:, None, None]
    return normalized_maps(u / (distance * u - z))


def estimate_maps(
    kspace: Complex[np.ndarray, "*batch coils h w"], lines: int, threshold: float = 0.05
) -> Maps:
    """Maps from the centre of k-space: low-resolution images of the coils over their total.

    The `lines` x `lines` centre, under a Hann window against ringing, is transformed to one image a
    coil. These are divided by the root of the sum of their squares. The support is where that root
    is above a share of its maximum; elsewhere maps are 0.

    Args:
        kspace: centred k-space of each coil, as `multi_coil` measures it (without its last axis).
        lines: columns around frequency 0 that were all measured.
        threshold: share of the maximum, in [0, 1).

    Raises:
        UserError: for lines outside 2 .. width, central columns without data, another threshold.

    Source: McKenzie et al. 2002, "Self-calibrating parallel imaging".
    """
    kspace = np.asarray(kspace)
    height, width = kspace.shape[-2:]
    if not 2 <= lines <= width or not 0 <= threshold < 1:
        raise UserError(
            f"the centre has 2 to {width} lines and the threshold is in [0, 1); got lines={lines}, "
            f"threshold={threshold}"
        )
    seen = np.abs(kspace).sum(axis=tuple(range(kspace.ndim - 1))) > 0
    first = width // 2 - lines // 2
    missing = first + np.flatnonzero(~seen[first : first + lines])
    if len(missing):
        raise UserError(
            f"columns {missing[:5].tolist()} of the central {lines} hold no data; give the number "
            "of central columns that were measured, and k-space with frequency 0 in the middle"
        )
    window = np.ones(())
    for n in (height, width):
        k = np.abs(np.arange(n) - n // 2) / (lines / 2)
        window = np.multiply.outer(window, np.where(k < 1, np.cos(math.pi * k / 2) ** 2, 0))
    axes = (-2, -1)
    images = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(window * kspace, axes)), axes)
    size = np.sqrt(np.sum(np.abs(images) ** 2, axis=-3, keepdims=True))
    support = size > threshold * size.max(axis=(-2, -1), keepdims=True)
    maps = np.where(support, images / np.where(support, size, 1), 0)
    return maps.astype(np.result_type(kspace.dtype, np.complex64))
