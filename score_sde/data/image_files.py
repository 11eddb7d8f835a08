"""Image files: the one place that opens them, and their pixels at the depth that the file has."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt
from PIL import Image, ImageFile, ImageOps

from score_sde.errors import UserError
from score_sde.files import kind_of

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
"""By their content, whatever the name ends in. No other decoder is tried."""
EXTENSIONS = (*(".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff"),)
"""Endings, in any case, of what counts as an image in a folder."""
MOST_PIXELS = 80_000_000
"""Of one image. A header can promise any number in a few bytes."""
BYTE_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr")
"""Pillow's modes of at most 8 bits a channel that have a colour on the screen."""
LUMA = np.asarray([0.299, 0.587, 0.114])
"""Grey of colour, ITU-R 601."""
OTHER_BYTE = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
"""The byte order in which Pillow takes the lower byte of two for the upper one."""
CONVERT = "Convert it to 8 or 16 bits a channel, grey or RGB"


class ScannedFile(NamedTuple):
    """What the check of one file found.

    name: relative to the folder, with forward slashes. size: (height, width) after the EXIF
    orientation. problem: "" for a good file. bits: of a channel, 8 or 16. brightest: the largest
    value of a file of 16 bits.
    """

    name: str
    size: tuple[int, int]
    grey: bool
    problem: str
    bits: int = 8
    brightest: int = 255


@contextlib.contextmanager
def open_image(file: Path) -> Iterator[ImageFile.ImageFile]:
    """An image file of one of `FORMATS`, whose header has been read.

    Raises:
        UserError: what is wrong, without the name: pipes and devices, which are not opened; other
            content; more than `MOST_PIXELS`, before memory is taken for them.
    """
    if kind := kind_of(file):
        raise UserError(kind)
    large = f"more pixels than the {MOST_PIXELS:,} that an image may have; make it smaller"
    # Pillow would map a file that it opens itself, and then forgets its orientation.
    with file.open("rb") as stream:
        try:
            image = Image.open(stream, formats=FORMATS)
        except Image.UnidentifiedImageError as error:
            empty = not os.fstat(stream.fileno()).st_size
            other = f"not a readable image: by its content none of {', '.join(FORMATS)}"
            raise UserError("empty (0 bytes)" if empty else other) from error
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise UserError(large) from error
        with image:
            if image.width * image.height > MOST_PIXELS:
                raise UserError(f"{image.height} x {image.width} pixels, {large}")
            yield image


def check_file(root: Path, name: str) -> ScannedFile:
    """Check one file: a depth that can be read, and readable as far as can be told."""
    file = root / name
    try:
        with open_image(file) as image:
            image.verify()
        with open_image(file) as image:  # verify() uses the file up
            bits = depth(image)
            grey = image.mode in ("1", "L", "LA") or (bits == 16 and _channels(image) <= 2)
            brightest = 255 if bits == 8 else int(_deep_pixels(file, image).max())
            width, height = image.size
            turned = image.getexif().get(0x0112, 1) >= 5  # orientations 5 to 8 swap the axes
            if turned and image.format != "TIFF":  # Pillow has swapped those
                width, height = height, width
            if bits == 8 and image.format != "PNG":  # verify() has checked those of a PNG
                image.draft(image.mode, (max(1, image.width // 8), max(1, image.height // 8)))
                image.load()
    except UserError as error:
        return ScannedFile(name, (0, 0), False, str(error))
    except Exception as error:  # decoders raise many types on damaged input
        return ScannedFile(name, (0, 0), False, f"broken: {error}")
    return ScannedFile(name, (height, width), grey, "", bits, brightest)


def read_image(file: Path, channels: int) -> UInt[np.ndarray, "h w c"]:
    """Pixels, upright, on white where transparent: uint8, or uint16 of a file of 16 bits.

    With channels=1 colour becomes grey by its luma.

    Raises:
        UserError: what is wrong with the file, without its name.
    """
    with open_image(file) as opened:
        if depth(opened) == 16:
            pixels = _deep_pixels(file, opened)
            if channels == 1 and pixels.shape[-1] == 3:
                return np.rint(pixels @ LUMA).astype(np.uint16)[..., None]
            return np.repeat(pixels, channels // pixels.shape[-1], axis=-1)
        image = ImageOps.exif_transpose(opened)
        if image.has_transparency_data:
            rgba = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
        pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    return pixels[..., None] if channels == 1 else pixels


def depth(image: ImageFile.ImageFile) -> int:
    """Bits of a channel, 8 or 16, as the file says: Pillow decodes 16 bits of colour to 8.

    Files of 1, 2 and 4 bits and palettes count as 8, which they are decoded to.

    Raises:
        UserError: other depths, floating-point numbers, modes that are no colour.
    """
    bits: tuple[int, ...] = (8,)
    if image.format == "PNG":
        stream: Any = image.fp
        place = stream.tell()
        stream.seek(0)
        start = stream.read(25)
        stream.seek(place)
        if start[12:16] != b"IHDR":
            raise UserError("broken: a PNG file that does not begin with its header")
        bits = (start[24],)
    elif image.format == "TIFF":
        tags = image.tag_v2  # type: ignore[attr-defined]
        bits, formats = (tuple(np.atleast_1d(tags.get(tag, 1)).tolist()) for tag in (258, 339))
        if set(formats) != {1} or len(set(bits)) > 1 or not set(bits) <= {1, 2, 4, 8, 16}:
            kind = {2: "signed", 3: "floating-point"}.get(formats[0], "")
            raise UserError(
                f"not an 8-bit or 16-bit image: {' '.join(map(str, bits))} {kind} bits a channel "
                f"(mode {image.mode}). {CONVERT}"
            )
    if bits[0] <= 8 and image.mode in BYTE_MODES:
        return 8
    if bits[0] == 16 and not _unpacking(image).startswith("?"):
        return 16
    raise UserError(
        f"not an 8-bit or 16-bit image: {bits[0]} bits a channel, mode {image.mode}. {CONVERT}"
    )


def _unpacking(image: ImageFile.ImageFile) -> str:
    """How Pillow unpacks 16 bits: RGB;16B and the like; "?" where it is none that is known here."""
    if "transparency" in image.info:
        raise UserError("16 bits a channel with one colour that is transparent. Save it without")
    if image.format == "TIFF":
        tags = image.tag_v2  # type: ignore[attr-defined]
        if tags.get(262) not in (1, 2) or tags.get(284, 1) != 1 or tags.get(338, (2,)) != (2,):
            return "?"
    found = {_raw_mode(tile.args) for tile in image.tile}
    name = found.pop() if len(found) == 1 else "?"
    kind, _, order = name.partition(";16")
    known = kind == "I" or (kind in ("LA", "RGB", "RGBA") and order in OTHER_BYTE)
    return name if known else "?"


def _raw_mode(arguments: tuple | str | None) -> str:
    return str(arguments[0] if isinstance(arguments, tuple) else arguments)


def _channels(image: ImageFile.ImageFile) -> int:
    return {"I": 1, "LA": 2, "RGB": 3, "RGBA": 4}[_unpacking(image).partition(";")[0]]


def _deep_pixels(file: Path, image: ImageFile.ImageFile) -> UInt[np.ndarray, "h w c"]:
    """All 16 bits of one or three channels, upright, on white where transparent.

    Pillow keeps the upper byte of a colour. With the other byte order it keeps the lower one.
    """
    name, channels = _unpacking(image), _channels(image)
    if channels == 1:
        return np.asarray(ImageOps.exif_transpose(image)).astype(np.uint16)[..., None]
    if channels == 2:  # four bytes a pixel, which pass for RGBA
        pairs = _unpacked(image, "RGBA").astype(np.uint16)
        values = pairs[..., 0::2] << 8 | pairs[..., 1::2]
    else:
        with open_image(file) as again:
            low = _unpacked(again, name[:-1] + OTHER_BYTE[name[-1]])
        values = _unpacked(image, name).astype(np.uint16) << 8 | low
    if channels in (1, 3):
        return values
    opaque = values[..., -1:] / 65535
    return np.rint(values[..., :-1] * opaque + 65535 * (1 - opaque)).astype(np.uint16)


def _unpacked(image: ImageFile.ImageFile, name: str) -> UInt[np.ndarray, "h w c"]:
    """The bytes of an image, unpacked in another way than Pillow would."""

    def named(arguments: tuple | str | None) -> tuple | str:
        return (name, *arguments[1:]) if isinstance(arguments, tuple) else name

    image.tile = [tile._replace(args=named(tile.args)) for tile in image.tile]
    return np.asarray(ImageOps.exif_transpose(image))
