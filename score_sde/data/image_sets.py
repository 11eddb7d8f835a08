"""Sets of images to measure, as functions of their numbers.

They are folders, npz files, and labelled images by name.
"""

import dataclasses
import os
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Int, Integer, UInt8

from score_sde.data.folders import FolderSource, UnusableImages, scan_folder
from score_sde.data.sources import Source, digits, in_memory, take
from score_sde.data.tfds import TFDSSource
from score_sde.errors import UserError
from score_sde.files import HEADERS, check_npz, reading

KEYS = ("images", "arr_0")
"""Entries of an npz file that are images.

As `--mode sample` writes them, and as np.savez calls an array without a name.
"""


@dataclasses.dataclass(frozen=True, eq=False)
class ImageSet:
    """Images of one size, read by their numbers 0 .. count - 1.

    Args:
        name: for messages and provenance.
        split: of a data set, or "".
        count: number of images.
        shape: (height, width, channels).
        levels: of a pixel where they come from.
        read: numbers -> images, brought to 0 .. 255.
    """

    name: str
    split: str
    count: int
    shape: tuple[int, int, int]
    levels: int
    read: Callable[[Int[np.ndarray, "n"]], UInt8[np.ndarray, "n h w c"]]

    @property
    def provenance(self) -> dict:
        """What statistics of these images say of them."""
        return {
            "data": self.name,
            "split": self.split,
            "images": self.count,
            "shape": list(self.shape),
            "levels": self.levels,
        }


def to_bytes(images: Integer[np.ndarray, "..."], levels: int) -> UInt8[np.ndarray, "..."]:
    """Levels v of 0 .. levels - 1 as round(255 v/(levels - 1)); 256 levels stay as they are."""
    if levels == 256:
        return np.asarray(images).astype(np.uint8)
    return np.rint(np.asarray(images) * (255 / (levels - 1))).astype(np.uint8)


def source_set(source: Source, split: str = "") -> ImageSet:
    """The images of a source; raises UserError where their sizes differ."""
    if source.shape is None:
        raise UserError(
            f"images of {source.name!r} have different sizes; they can only be compared when of "
            "one size"
        )

    def read(numbers):
        return to_bytes(take(source, numbers)["image"], source.levels)

    return ImageSet(source.name, split, len(source), source.shape, source.levels, read)


def open_images(path: Path) -> ImageSet:
    """The images of a folder (with its sub-folders), or of an npz file with `images` or `arr_0`.

    npz: integers (n, height, width, channels), `levels` of them where given, else 256. Arrays that
    np.savez wrote are read as they are needed, those of np.savez_compressed are held in memory.

    Raises:
        UserError: nothing there, damaged or unreadable images (named), different sizes, an empty
            folder; npz files without images, of another rank or type, outside their levels, or with
            samples that were marked as not finite.
    """
    if not os.path.exists(path):
        raise UserError(f"{path} does not exist; name a folder of images or an npz file")
    if path.is_dir():
        scan_folder(path.absolute(), "Name the folder that holds your images")
        try:
            source = FolderSource(path, split="all")
        except UnusableImages as error:
            raise UserError(
                f"{error.problems}\nRemove these files or make them 8-bit images of one size; "
                "statistics are of images as they are, not resized."
            ) from error
        if source.levels > 256:
            raise UserError(
                f"{source.files[0]} and the others in {path} have 16 bits a channel, and measures "
                "are of 8 bits. Convert them, or write their values as `images` of an npz file "
                "with their number in an entry `levels`: np.savez(FILE, images=..., levels=65536)"
            )
        return dataclasses.replace(source_set(source), name=str(path))
    if path.suffix.lower() != ".npz":
        raise UserError(
            f"{path} is neither a folder of images nor an npz file"
            + (
                "; write its array by np.savez(FILE, images=...)"
                if path.suffix.lower() == ".npy"
                else ""
            )
        )
    check_npz(path)
    with reading(path):
        return _open_npz(path)


def _open_npz(path: Path) -> ImageSet:
    with zipfile.ZipFile(path) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist()]
        key = next((key for key in KEYS if key in names), None)
        if key is None:
            raise UserError(
                f"{path} holds no images: an entry `images` or `arr_0` of integers (n, height, "
                f"width, channels) is looked for; it holds {', '.join(names) or 'nothing'}"
            )
        load = _array(path, archive, key)
    with np.load(path, allow_pickle=False) as file:
        levels = file["levels"] if "levels" in names else np.asarray(256)
        finite = file["finite"] if "finite" in names else np.ones(1, bool)
    _check(path, key, load, levels, finite)
    count, height, width, channels = load().shape

    def read(numbers):
        return to_bytes(load()[numbers], int(levels))

    return ImageSet(str(path), "", count, (height, width, channels), int(levels), read)


def _array(path: Path, archive: zipfile.ZipFile, key: str) -> Callable[[], np.ndarray]:
    """A function that gives an array of an npz file, whose checksum is right.

    It is mapped where it is stored as it is, each time anew, so that what has been read is let go;
    else it is in memory.
    """
    info = archive.getinfo(f"{key}.npy")
    with archive.open(info) as stream:
        if info.compress_type != zipfile.ZIP_STORED:
            array = np.lib.format.read_array(stream, allow_pickle=False)
            return lambda: array
        while stream.read(2**24):
            pass
    with path.open("rb") as file:
        file.seek(info.header_offset + 26)
        lengths = np.frombuffer(file.read(4), "<u2")  # of the name and of what follows it
        file.seek(int(lengths.sum()), os.SEEK_CUR)
        shape, fortran, dtype = HEADERS[np.lib.format.read_magic(file)](file)
        offset = file.tell()
    if not np.prod(shape):
        return lambda: np.zeros(shape, dtype)
    return lambda: np.memmap(path, dtype, "r", offset, shape, "F" if fortran else "C")


def _check(
    path: Path, key: str, load: Callable[[], np.ndarray], levels: np.ndarray, finite: np.ndarray
) -> None:
    what, images = f"`{key}` in {path}", load()
    if images.ndim != 4 or images.shape[3] not in (1, 3):
        raise UserError(
            f"{what} has shape {images.shape}; it must be (n, height, width, channels) with 1 or 3 "
            "channels"
            + ("; for grey images write images[..., None]" if images.ndim == 3 else "")
            + (
                "; write images.transpose(0, 2, 3, 1)"
                if images.ndim == 4 and images.shape[1] in (1, 3)
                else ""
            )
        )
    if images.dtype.kind not in "iu":
        bad = 0
        if images.dtype.kind == "f":
            bad = sum(int((~np.isfinite(part)).any(axis=(1, 2, 3)).sum()) for part in _parts(load))
        raise UserError(
            f"{what} is {images.dtype}"
            + (f", and {bad} of {len(images)} images are not finite" if bad else "")
            + "; it must be integer levels, 0 .. 255 unless `levels` says otherwise: "
            "np.rint(255*x).clip(0, 255).astype(np.uint8) for x on [0, 1]"
        )
    if not len(images):
        raise UserError(f"{what} holds no images: its shape is {images.shape}")
    if levels.size != 1 or levels.dtype.kind not in "iu" or not 2 <= int(levels) <= 65536:
        raise UserError(f"`levels` in {path} must be one integer of 2 or more; it is {levels}")
    low = min(int(part.min()) for part in _parts(load))
    high = max(int(part.max()) for part in _parts(load))
    if low < 0 or high >= int(levels):
        raise UserError(
            f"{what} has values {low} .. {high}, and its levels are 0 .. {int(levels) - 1}; say "
            "how many there are in an entry `levels`, or scale them"
        )
    if int(levels) == 256 and 0 < high < 64:
        warnings.warn(
            f"the brightest pixel of {what} is {high} of 255; if these are levels 0 .. {high}, say "
            "so in an entry `levels`",
            stacklevel=2,
        )
    if finite.dtype == bool and not finite.all():
        raise UserError(
            f"{int((~finite).sum())} of {len(images)} samples in {path} are not finite (its entry "
            "`finite` says which); sample again, with more steps or a smaller config.sampling.snr"
        )


def _parts(load: Callable[[], np.ndarray], size: int = 1024) -> Iterator[np.ndarray]:
    for start in range(0, len(load()), size):
        yield np.asarray(load()[start : start + size])


def labelled_images(
    name: str, data_dir: str | os.PathLike | None = None
) -> tuple[UInt8[np.ndarray, "n h w c"], Integer[np.ndarray, "n"]]:
    """Training images, 0 .. 255, and labels for the classifier `name`: "digits" or "mnist".

    Args:
        name: of the classifier.
        data_dir: folder of prepared TFDS data sets; default as `TFDSSource`.

    Raises UserError where there is no such data set, or it is not there.
    """
    if name == "digits":
        whole = digits("train")
    elif name == "mnist":
        try:
            whole = in_memory(TFDSSource(name, "train", data_dir))
        except UserError as error:
            raise UserError(
                "the classifier 'mnist' is trained on MNIST's training images when first used, "
                f"which cannot be read ({str(error).partition('. ')[0]}). Set TFDS_DATA_DIR to the "
                "folder with TFDS's prepared mnist, or name the classifier's file of another "
                "machine, ~/.cache/score_sde/extractors/mnist-1.npz there, with --weights or "
                "config.quality.weights"
            ) from error
    else:
        raise UserError(
            f"no data set is known to train a classifier {name!r} on; there are digits, mnist"
        )
    return to_bytes(whole.images, whole.levels), whole.labels
