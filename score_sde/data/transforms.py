"""Crops and antialiased resizes as the published data sets were prepared.

HWC integers in, HWC integers out. | data set | published preparation | here | |---|---|---| |
CelebA 64 | centre 140 x 140, then bilinear to 64 | `crop_resize(image, 64, crop=140,
method="bilinear")` | | LSUN 256 | central square, then bicubic | `crop_resize(image, 256)` | | LSUN
96 and 128 (NCSNv2) | shorter side to the size, then the central square | `resize_crop(image, 128)`
|

All filters widen with the reduction (antialiasing) and work in floating point, like the published
codes. Those train on the floating-point result; here it is rounded to integer levels again, and
clipped where the bicubic filter overshoots.

Source: dissertation, appendix B.4 (data sets of chapter 6) and B.5.8.
"""

import numpy as np
from jaxtyping import UInt
from PIL import Image

Picture = UInt[np.ndarray, "_ _ _"]
"""(height, width, channels)."""

METHODS = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def center_crop(image: Picture, size: int | tuple[int, int]) -> Picture:
    """Cut `size` (pixels: a side, or height and width) out of the middle.

    An odd remainder leaves the extra row or column at the bottom and the right.

    Raises:
        ValueError: when the image is smaller than the crop.
    """
    height, width = _pair(size)
    if height > image.shape[0] or width > image.shape[1]:
        raise ValueError(
            f"cannot crop {height} x {width} (height x width) out of an image of {image.shape[0]} "
            f"x {image.shape[1]}; ask for a smaller crop or leave the small images out"
        )
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return image[top : top + height, left : left + width]


def resize(
    image: Picture, size: int | tuple[int, int], method: str = "bicubic", levels: int = 256
) -> Picture:
    """Resample to `size` (pixels: a side, or height and width), antialiased when it shrinks.

    Args:
        image: (height, width, channels), any number of channels, each resampled on its own.
        size: side, or (height, width).
        method: one of nearest, box, bilinear, bicubic, lanczos.
        levels: the result is clipped to 0 .. levels - 1 (bicubic and lanczos overshoot at edges).

    Raises:
        ValueError: unknown method, or a size that is not positive.
    """
    if method not in METHODS:
        raise ValueError(f"unknown resize method {method!r}; known: {', '.join(METHODS)}")
    height, width = _pair(size)
    if (height, width) == image.shape[:2]:
        return image
    planes = [Image.fromarray(plane) for plane in np.moveaxis(image, -1, 0).astype(np.float32)]
    smooth = [np.asarray(plane.resize((width, height), METHODS[method])) for plane in planes]
    return np.stack(smooth, axis=-1).round().clip(0, levels - 1).astype(image.dtype)


def crop_resize(
    image: Picture, size: int, crop: int | None = None, method: str = "bicubic", levels: int = 256
) -> Picture:
    """The central square of side `crop`, resized to `size` x `size`.

    `crop` is by default the shorter side.
    """
    return resize(
        center_crop(image, min(image.shape[:2]) if crop is None else crop), size, method, levels
    )


def resize_crop(image: Picture, size: int, method: str = "bilinear", levels: int = 256) -> Picture:
    """`resize` so that the shorter side is `size`, then the central square.

    The proportions stay.
    """
    height, width = image.shape[:2]
    ratio = size / min(height, width)
    scaled = (max(size, round(height * ratio)), max(size, round(width * ratio)))
    return center_crop(resize(image, scaled, method, levels), size)


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    if height < 1 or width < 1:
        raise ValueError(f"an image size must be positive; got {size}")
    return height, width
