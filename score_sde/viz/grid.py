"""Many images as one picture."""

import io
import math
import os
import re
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from numpy.typing import ArrayLike

from score_sde.files import write_bytes

BACKGROUND = (84, 96, 118)
"""A slate that neither black nor white images melt into, on light and dark pages."""
SMALL = 32  # images up to this many pixels a side are enlarged unless told otherwise
PICTURE_WIDTH = 800  # aimed at when images are enlarged
IMAGE_WIDTH = 256  # a single enlarged image gets no wider


def image_grid(
    images: ArrayLike, columns: int | None = None, padding: int = 1, scale: int | None = None
) -> UInt8[np.ndarray, "height width 3"]:
    """Images side by side, row by row, on slate.

    With pitch p = side + padding, image i has its upper left corner at

        scale * (padding + p * (i // columns)) from above,
        scale * (padding + p * (i % columns)) from the left.

    Every pixel becomes scale x scale equal ones.

    Args:
        images: (N, H, W, C), C 1 (grey) or 3 (RGB); floats in [0, 1], or uint8 in 0..255. N >= 1.
        columns: images per row; default: the least square that holds them all.
        padding: gap between images and around them, in pixels of the images (scaled with them).
        scale: enlargement; default: images of at most 32 pixels a side are enlarged to a picture
            about 800 wide.

    Returns:
        (height, width, 3) uint8; the places left over in the last row stay slate.

    Raises:
        ValueError: wrong shape, type or range, no image at all, or values that are not finite (says
            how many).
    """
    pixels = to_uint8(images)
    count, height, width, _ = pixels.shape
    columns = math.ceil(math.sqrt(count)) if columns is None else columns
    if columns < 1 or padding < 0 or (scale is not None and scale < 1):
        raise ValueError(
            f"columns and scale must be at least 1, padding at least 0; got {columns=}, {scale=}, "
            f"{padding=}"
        )
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    picture = _blank(rows * (height + padding) + padding, columns * (width + padding) + padding)
    for index, image in enumerate(pixels):
        row, column = divmod(index, columns)
        _paste(
            picture, image, padding + row * (height + padding), padding + column * (width + padding)
        )
    return enlarge(
        picture, automatic_scale(picture.shape[1], height, width) if scale is None else scale
    )


def neighbor_grid(
    samples: ArrayLike, neighbors: ArrayLike, padding: int = 1, scale: int | None = None
) -> UInt8[np.ndarray, "height width 3"]:
    """Each row: a sample, a wide gap, then the images nearest to it, the nearest first.

    Args:
        samples: (N, H, W, C) as for `image_grid`.
        neighbors: (N, k, H, W, C) of the same kind (both float in [0, 1] or both uint8).
        padding: gap in pixels of the images; the gap after the sample is half an image more.
        scale: enlargement; default as for `image_grid`, from the longer side of the picture.

    Returns:
        (height, width, 3) uint8.

    Raises:
        ValueError: as for `image_grid`, or there are not as many rows of neighbours as samples.
    """
    shown, array = to_uint8(samples), np.asarray(neighbors)
    if array.ndim != 5 or len(array) != len(shown):
        raise ValueError(
            f"neighbors must be (count, k, height, width, channels) for {len(shown)} samples; got "
            f"shape {array.shape}"
        )
    rows = to_uint8(array.reshape(-1, *array.shape[2:])).reshape(*array.shape[:2], *shown.shape[1:])
    count, height, width, _ = shown.shape
    gap = padding + max(2, width // 2)
    first = padding + width + gap
    picture = _blank(
        count * (height + padding) + padding, first + rows.shape[1] * (width + padding)
    )
    for row in range(count):
        top = padding + row * (height + padding)
        _paste(picture, shown[row], top, padding)
        for column in range(rows.shape[1]):
            _paste(picture, rows[row, column], top, first + column * (width + padding))
    return enlarge(
        picture, automatic_scale(max(picture.shape[:2]), height, width) if scale is None else scale
    )


def png_bytes(array: UInt8[np.ndarray, "height width 3"]) -> bytes:
    """The picture as a PNG file's bytes (lossless)."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def save_png(path: str | os.PathLike[str], array: UInt8[np.ndarray, "height width 3"]) -> None:
    """Write the picture as a PNG file, whole or not at all; folders are made."""
    write_bytes(Path(path), png_bytes(array))


def save_images(folder: str | os.PathLike[str], images: ArrayLike) -> None:
    """Write each image in its own size as FOLDER/00000.png, 00001.png, ...

    An image with one channel is grey. Files so named with higher numbers, left over from more
    images, are removed.

    Args:
        folder: made where missing.
        images: as `image_grid`; or uint16 with one channel, whose 16 bits are kept.
    """
    from PIL import Image

    pixels = np.asarray(images)
    if pixels.dtype != np.uint16 or pixels.shape[-1] != 1:
        pixels = to_uint8(images)
    for number, image in enumerate(pixels):
        buffer = io.BytesIO()
        Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(buffer, format="PNG")
        write_bytes(Path(folder) / f"{number:05d}.png", buffer.getvalue())
    for path in Path(folder).glob("*.png"):
        if re.fullmatch(r"\d{5,}", path.stem) and int(path.stem) >= len(pixels):
            path.unlink()


def to_uint8(images: ArrayLike) -> UInt8[np.ndarray, "count height width channels"]:
    """Check images and bring them to 0..255: round(255 x) for floats; uint8 stays as it is.

    Args:
        images: (N, H, W, C) with N >= 1, C 1 or 3; floats in [0, 1] (1e-3 beyond is clipped) or
            uint8.

    Returns:
        (N, H, W, C) uint8.

    Raises:
        ValueError: see `image_grid`.
    """
    array = np.asarray(images)
    if array.ndim != 4 or array.shape[-1] not in (1, 3):
        raise ValueError(
            "images must be (count, height, width, channels) with 1 or 3 channels; got "
            f"{array.shape}"
        )
    if array.size == 0:
        raise ValueError(f"there is nothing to show: images have shape {array.shape}")
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind != "f" and array.dtype.name != "bfloat16":
        raise ValueError(f"images must be floats in [0, 1] or uint8 in 0..255; got {array.dtype}")
    array = array.astype(np.float32)
    bad = ~np.isfinite(array)
    if bad.any():
        images_hit = np.count_nonzero(bad.any(axis=(1, 2, 3)))
        raise ValueError(
            f"{np.count_nonzero(bad)} of {bad.size} pixel values are NaN or infinite, in "
            f"{images_hit} of {len(array)} images: the sampler or the network diverged"
        )
    low, high = float(array.min()), float(array.max())
    if low < -1e-3 or high > 1 + 1e-3:
        raise ValueError(
            f"float images must be in [0, 1]; got {low:.4g}..{high:.4g}: use PixelRange.unit first"
        )
    return np.rint(255 * np.clip(array, 0, 1)).astype(np.uint8)


def automatic_scale(extent: int, height: int, width: int, target: int = PICTURE_WIDTH) -> int:
    """Whole enlargement that brings a picture of `extent` pixels near the target.

    It is 1 for large images.
    """
    if max(height, width) > SMALL:
        return 1
    return max(1, min(round(target / extent), IMAGE_WIDTH // max(height, width)))


def enlarge(
    picture: UInt8[np.ndarray, "height width channels"], scale: int
) -> UInt8[np.ndarray, "height_out width_out channels"]:
    """Nearest-neighbour enlargement: each pixel becomes scale x scale equal ones."""
    return picture.repeat(scale, axis=0).repeat(scale, axis=1)


def _blank(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), np.asarray(BACKGROUND, np.uint8), np.uint8)


def _paste(picture: np.ndarray, image: np.ndarray, top: int, left: int) -> None:
    """Write an (H, W, 1 or 3) image into the picture; one channel is spread over three."""
    height, width, _ = image.shape
    picture[top : top + height, left : left + width] = image
