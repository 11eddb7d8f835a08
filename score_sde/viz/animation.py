"""Sampling as a moving picture."""

import io
import os
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from score_sde.files import write_bytes
from score_sde.viz.grid import BACKGROUND, automatic_scale, image_grid, to_uint8

HOLD_MS = 2000  # how long the last frame, the finished samples, stays
ANIMATION_WIDTH = 440  # pixels; noise does not compress, so an animation is smaller than a picture
GREYS = 128
COLORS = 254  # and the background; one place of 256 is left to the encoder for "unchanged"


def save_animation(
    path: str | os.PathLike[str],
    frames: ArrayLike,
    fps: float = 12.0,
    columns: int | None = None,
    scale: int | None = None,
) -> None:
    """Write an endlessly repeating GIF of image grids; the last frame is held for two seconds.

    Grey images get 128 evenly spaced greys (error at most 1/255). Colour images get one palette of
    254 colours for all frames. It is chosen from all of them by median cut, with half of the weight
    on the last.

    Args:
        path: the .gif file.
        frames: (T, N, H, W, C), T >= 1, floats in [0, 1] or uint8; as `image_grid` for each frame.
        fps: frames per second, in (0, 50]; GIF counts hundredths of a second, browsers slow down
            beyond 50.
        columns: images per row, as `image_grid`.
        scale: enlargement, as `image_grid` but for a picture about 440 wide.

    Raises:
        ValueError: shape, range, fps, or values that are not finite.
    """
    array = np.asarray(frames)
    if array.ndim != 5 or array.shape[0] == 0:
        raise ValueError(
            "frames must be (time, count, height, width, channels), time >= 1; got shape "
            f"{array.shape}"
        )
    if not 0 < fps <= 50:
        raise ValueError(f"fps must be in (0, 50]; got {fps}")
    pixels = to_uint8(array.reshape(-1, *array.shape[2:])).reshape(array.shape)
    pictures = [image_grid(frame, columns=columns, scale=1) for frame in pixels]
    if scale is None:
        scale = automatic_scale(
            pictures[0].shape[1], array.shape[2], array.shape[3], ANIMATION_WIDTH
        )
    if array.shape[-1] == 1:
        palette, indexed = _grey(pictures)
    else:
        palette, indexed = _color(pictures)
    write_bytes(Path(path), _encode(indexed, palette, scale, 10 * max(2, round(100 / fps))))


def _grey(pictures: list[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Palette of even greys and the background, and the pictures as places in it."""
    levels = np.rint(np.linspace(0, 255, GREYS)).astype(np.uint8)
    palette = np.concatenate(
        [np.repeat(levels[:, None], 3, axis=1), [np.asarray(BACKGROUND, np.uint8)]]
    )
    indexed = []
    for picture in pictures:
        nearest = np.rint(picture[..., 0] * ((GREYS - 1) / 255)).astype(np.uint8)
        nearest[(picture == BACKGROUND).all(axis=-1)] = GREYS
        indexed.append(nearest)
    return palette, indexed


def _color(pictures: list[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Palette by median cut over all frames, and places in it.

    The last frame weighs as much as the others.
    """
    from PIL import Image

    last = [pictures[-1]] * max(1, len(pictures) - 1)
    together = np.concatenate([*pictures[:-1], *last], axis=0)
    cut = Image.fromarray(together).quantize(COLORS, method=Image.Quantize.MEDIANCUT)
    colors = np.asarray(cut.getpalette(), np.uint8).reshape(-1, 3)[:COLORS]
    palette = np.concatenate([colors, [np.asarray(BACKGROUND, np.uint8)]])
    carrier = Image.new("P", (1, 1))
    carrier.putpalette(palette.tobytes())
    none = Image.Dither.NONE
    return palette, [
        np.asarray(Image.fromarray(p).quantize(palette=carrier, dither=none)) for p in pictures
    ]


def _encode(indexed: list[np.ndarray], palette: np.ndarray, scale: int, step_ms: int) -> bytes:
    """The GIF file's bytes from (H, W) places in a (<= 255, 3) palette."""
    from PIL import Image

    images = []
    for places in indexed:
        image = Image.fromarray(places.repeat(scale, axis=0).repeat(scale, axis=1))
        image.putpalette(palette.tobytes())
        images.append(image)
    durations = [step_ms] * (len(images) - 1) + [HOLD_MS]
    buffer = io.BytesIO()
    images[0].save(
        buffer,
        format="GIF",
        save_all=True,
        append_images=images[1:],
        duration=durations,
        loop=0,
        optimize=False,
    )
    return buffer.getvalue()
