"""Random-access sources of integer images: arrays, scikit-learn's digits, TFDS data sets, image folders.

A source is anything with `len(source)`, `source[i] -> {"image", "label", "index"}` and the attributes of
`Source`. Nothing here downloads. scikit-learn and TensorFlow Datasets are imported when first used.
"""

import functools
import hashlib
import json
import os
import re
import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from PIL import Image, ImageOps

from score_sde.data.transforms import crop_resize
from score_sde.errors import UserError

Example = dict[str, Any]
"""{"image": integer levels (height, width, channels), "label": np.int32 (0 if none), "index": np.int32}."""

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")
NO_NETWORK = "The data set `:digits` is part of scikit-learn and needs neither files nor a network."


@runtime_checkable
class Source(Protocol):
    """Random access to integer images.

    Attributes:
        shape: (height, width, channels), or None where sizes differ.
        levels: number of integer levels of a pixel, 256 for 8-bit images.
        name: short name for messages and folder names.

    A source may also offer `take(indices) -> Example` with stacked arrays where that is faster than one at a
    time.
    """

    shape: tuple[int, int, int] | None
    levels: int
    name: str

    def __len__(self) -> int: ...

    def __getitem__(self, i: int) -> Example: ...


def take(source: Source, indices: Sequence[int] | np.ndarray) -> Example:
    """Several examples stacked: image (n, height, width, channels), label (n,), index (n,)."""
    fast = getattr(source, "take", None)
    if fast is not None:
        return fast(indices)
    return _stack([source[int(i)] for i in indices])


class ArraySource:
    """Images held in memory.

    Args:
        images: integers 0 .. levels - 1, (n, height, width, channels) or (n, height, width). Kept as uint8,
            or uint16 for more than 256 levels.
        labels: integers (n,), or None for zeros.
        levels: number of integer levels of a pixel.
        name: for messages.

    Raises:
        UserError: floating-point images, a wrong number of axes or of labels, values outside 0 .. levels - 1.
    """

    def __init__(self, images: Any, labels: Any = None, levels: int = 256, name: str = "array") -> None:
        images = np.asarray(images)
        if not np.issubdtype(images.dtype, np.integer):
            raise UserError(
                f"ArraySource holds integer pixel levels 0 .. {levels - 1}; got {images.dtype} images. "
                f"Round them first, e.g. images = (x * {levels - 1}).round().astype('uint8') for x on [0, 1] "
                "(PixelRange.decode does it for any range)"
            )
        if images.ndim not in (3, 4):
            raise UserError(
                "ArraySource takes images of shape (n, height, width, channels) or (n, height, width); "
                f"got shape {images.shape}"
            )
        if images.size and (images.min() < 0 or images.max() >= levels):
            raise UserError(
                f"pixel levels must lie in 0 .. {levels - 1} (levels={levels}); got values {images.min()} .. "
                f"{images.max()}. Pass the right `levels`, or rescale the images"
            )
        labels = np.zeros(len(images)) if labels is None else np.asarray(labels)
        if labels.shape != (len(images),):
            raise UserError(
                f"one label for each of the {len(images)} images is needed; got labels of shape "
                f"{labels.shape}"
            )
        dtype = np.uint8 if levels <= 256 else np.uint16
        self.images = (images[..., None] if images.ndim == 3 else images).astype(dtype, copy=False)
        self.labels = labels.astype(np.int32)
        self.shape: tuple[int, int, int] | None = tuple(self.images.shape[1:])  # type: ignore[assignment]
        self.levels = levels
        self.name = name

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> Example:
        return {"image": self.images[i], "label": self.labels[i], "index": np.int32(i)}

    def take(self, indices: Sequence[int] | np.ndarray) -> Example:
        """Stacked examples by one gather."""
        index = np.asarray(indices, np.int32)
        return {"image": self.images[index], "label": self.labels[index], "index": index}


def digits(split: str) -> ArraySource:
    """scikit-learn's 1,797 real handwritten digits, 8 x 8 x 1 with 17 levels: 1,437 "train" and 360 "test".

    The split is stratified by class and fixed (random_state=0).

    Raises:
        UserError: unknown split.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    _check_split(split, ("train", "test"), "digits")
    data = load_digits()
    train, test = train_test_split(
        np.arange(len(data.target)), test_size=0.2, random_state=0, stratify=data.target
    )
    rows = train if split == "train" else test
    return ArraySource(data.images[rows].astype(np.uint8), data.target[rows], levels=17, name="digits")


class TFDSSource:
    """A prepared TensorFlow Datasets folder in array_record format, read without TensorFlow.

    Args:
        name: "mnist", "lsun/church_outdoor", or with a version: "mnist:3.0.1" (otherwise the newest one found).
        split: any TFDS split: "train", "test", "train[:90%]", "train+test".
        data_dir: folder of prepared data sets; default: the environment variable TFDS_DATA_DIR, then
            ~/tensorflow_datasets.
        image_key: which feature is the image. The feature "label" is the label where it is a single integer.

    Images are decoded at each access (a few thousand small PNG a second): see `in_memory`.

    Raises:
        UserError: no prepared folder (never tries to download), another file format, unknown split or
            feature, or images that are not 8-bit.
    """

    levels = 256

    def __init__(
        self, name: str, split: str, data_dir: str | os.PathLike | None = None, image_key: str = "image"
    ) -> None:
        import tensorflow_datasets as tfds

        builder = tfds.builder_from_directory(_prepared_folder(name, data_dir))
        features = builder.info.features
        if image_key not in features:
            raise UserError(
                f"data set {name!r} has no feature {image_key!r}; its features are "
                f"{', '.join(sorted(features))}"
            )
        if features[image_key].np_dtype != np.uint8 or len(features[image_key].shape) != 3:
            raise UserError(
                f"feature {image_key!r} of data set {name!r} is {features[image_key]}, not an 8-bit image; "
                f"its features are {features}"
            )
        try:
            files = builder.info.splits[split].filepaths
            self._records = builder.as_data_source(split=split)
        except (ValueError, KeyError) as error:
            known = ", ".join(sorted(builder.info.splits))
            raise UserError(
                f"data set {name!r} has no split {split!r}. Known splits: {known}; "
                "parts are written like 'train[:90%]'"
            ) from error
        missing = [os.fspath(file) for file in files if not file.exists()]
        if missing:
            raise UserError(
                f"{len(missing)} of {len(files)} record files of data set {name!r} are missing, the first is "
                f"{missing[0]}. Copy the whole prepared folder again"
            )
        self._has_label = "label" in features and _is_integer(features["label"])
        self._image_key = image_key
        shape = tuple(features[image_key].shape)
        self.shape: tuple[int, int, int] | None = None if None in shape else shape  # type: ignore[assignment]
        self.name = name

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, i: int) -> Example:
        return self._example(self._records[i], i)

    def take(self, indices: Sequence[int] | np.ndarray) -> Example:
        """Stacked examples; reading many records at once is several times faster than one by one."""
        rows = [int(i) for i in indices]
        return _stack(
            [self._example(r, i) for r, i in zip(self._records.__getitems__(rows), rows, strict=True)]
        )

    def _example(self, record: dict[str, Any], i: int) -> Example:
        label = np.int32(record["label"] if self._has_label else 0)
        return {"image": record[self._image_key], "label": label, "index": np.int32(i)}


class FolderSource:
    """Your own images: every png, jpg, jpeg, webp, bmp and gif (first frame) below a folder, in sorted order.

    Hidden files and folders (names that begin with a dot) are left out. Pixels: the EXIF orientation is
    applied; transparency is composited onto white, since the colour under a transparent pixel means nothing;
    colour becomes grey by the ITU-R 601 luma. 16-bit and floating-point images count as unusable: convert
    them to 8 bits first.

    All files are checked once before any work (cached while the process lives and the files do not change):
    PNG files by their checksums, the others by decoding them, JPEG at reduced resolution.

    Held-out images are chosen by a hash of the file's relative name, so adding files does not move the others
    from one side to the other. With at least two images each side has at least one.

    Args:
        path: the folder.
        image_size: crop the central square and resize it to this side (antialiased bicubic); None takes the
            images as they are, which must then all have one size.
        channels: 1, 3, or None: 1 if all images are grey, else 3.
        split: "train", "test" (the held-out part) or "all".
        held_out: fraction that is held out, in [0, 1).
        skip_bad: leave out broken, empty and (with image_size=None) differently sized images with a warning
            that names them, instead of refusing.
        advice: what messages say is to be done; by default about the settings of training.

    Attributes:
        files: the paths of this split, in the order of the examples.

    Raises:
        UserError: no such folder, no images in it, unusable images (named), an empty split, impossible
            arguments.
    """

    levels = 256

    def __init__(
        self,
        path: str | os.PathLike,
        image_size: int | None = None,
        channels: int | None = None,
        split: str = "train",
        held_out: float = 0.1,
        skip_bad: bool = False,
        advice: str = "",
    ) -> None:
        _check_split(split, ("train", "test", "all"), "image folder")
        if image_size is not None and image_size < 1:
            raise UserError(f"image_size must be at least 1 pixel, or None; got image_size={image_size}")
        if channels not in (None, 1, 3):
            raise UserError(f"channels must be 1 (grey), 3 (colour) or None (from the files); got {channels}")
        if not 0.0 <= held_out < 1.0:
            raise UserError(f"held_out is a fraction in [0, 1); got held_out={held_out}")
        root = _image_folder(path)
        files = scan_folder(root, advice or PASS_FOLDER)
        usable = _usable(root, files, same_size=image_size is None, skip_bad=skip_bad, advice=advice)
        chosen = _split_files(usable, split, held_out)
        if not chosen:
            raise UserError(
                f"split {split!r} of image folder {root} is empty: the folder has {len(usable)} usable "
                f"image(s) and held_out={held_out}. Add images, change held_out, or ask for another "
                "split"
            )
        self.files = [root / f.name for f in chosen]
        self._channels = channels or (1 if all(f.grey for f in usable) else 3)
        self._image_size = image_size
        height, width = usable[0].size if image_size is None else (image_size, image_size)
        self.shape: tuple[int, int, int] | None = (height, width, self._channels)
        self.name = root.name or "folder"

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> Example:
        try:
            image = read_image(self.files[i], self._channels)
        except (OSError, SyntaxError, ValueError, EOFError) as error:
            raise UserError(
                f"cannot read {self.files[i]} any more ({error}); it was readable when the folder was "
                "checked. Start again to check the folder anew"
            ) from error
        if self._image_size is not None:
            image = crop_resize(image, self._image_size)
        return {"image": image, "label": np.int32(0), "index": np.int32(i)}


class Mapped:
    """`source` with `fn(image) -> image` applied to each image, for example a published crop and resize.

        Mapped(source, lambda image: crop_resize(image, 64, crop=140, method="bilinear"), (64, 64, 3))

    Args:
        source: any source.
        fn: (height, width, channels) integers -> integers of shape `shape` with the same levels.
        shape: shape of the results.
    """

    def __init__(
        self, source: Source, fn: Callable[[np.ndarray], np.ndarray], shape: tuple[int, int, int]
    ) -> None:
        self._source = source
        self._fn = fn
        self.shape: tuple[int, int, int] | None = tuple(shape)  # type: ignore[assignment]
        self.levels = source.levels
        self.name = source.name

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, i: int) -> Example:
        example = self._source[i]
        image = self._fn(example["image"])
        if image.shape != self.shape:
            raise ValueError(
                f"the map of source {self.name!r} made an image of shape {image.shape} from one of shape "
                f"{example['image'].shape}; it was declared to make {self.shape}"
            )
        return {**example, "image": image}


def in_memory(source: Source, max_bytes: int = 2**30) -> ArraySource:
    """Decode every image of `source` once and keep them all: for small sets that are read over and over.

    Args:
        source: a source with one image shape.
        max_bytes: refuse more than this many bytes of pixels.

    Raises:
        UserError: images of different sizes, or more than `max_bytes`.
    """
    if source.shape is None:
        raise UserError(
            f"images of {source.name!r} have different sizes and cannot be kept in one array; resize them "
            "first"
        )
    need = len(source) * int(np.prod(source.shape)) * (1 if source.levels <= 256 else 2)
    if need > max_bytes:
        raise UserError(
            f"{len(source)} images of shape {source.shape} need {need / 1e6:,.0f} MB in memory; the limit is "
            f"{max_bytes / 1e6:,.0f} MB. Raise max_bytes or read the images as they are needed"
        )
    blocks = [range(i, min(i + 256, len(source))) for i in range(0, len(source), 256)]
    with ThreadPoolExecutor(_threads()) as pool:
        parts = list(pool.map(lambda block: take(source, block), blocks))
    if not parts:
        return ArraySource(np.zeros((0, *source.shape), np.uint8), levels=source.levels, name=source.name)
    images, labels = (np.concatenate([part[key] for part in parts]) for key in ("image", "label"))
    return ArraySource(images, labels, levels=source.levels, name=source.name)


def fingerprint(source: Source, images: int = 16) -> str:
    """Name, size, and SHA-256 over evenly spaced images: tells one set of images from another."""
    digest = hashlib.sha256()
    for i in np.linspace(0, len(source) - 1, min(images, len(source))).astype(int):
        image = np.ascontiguousarray(source[int(i)]["image"])
        digest.update(f"{image.shape}{image.dtype}".encode() + image.tobytes())
    return f"{source.name}, {len(source)} images, {digest.hexdigest()[:16]}"


def _stack(examples: list[Example]) -> Example:
    return {key: np.stack([example[key] for example in examples]) for key in ("image", "label", "index")}


def _threads() -> int:
    return min(16, os.cpu_count() or 1)


def _check_split(split: str, known: tuple[str, ...], what: str) -> None:
    if split not in known:
        raise UserError(f"the {what} has no split {split!r}; known splits: {', '.join(known)}")


# Prepared TFDS folders


def _prepared_folder(name: str, data_dir: str | os.PathLike | None) -> str:
    """The folder DATA_DIR/NAME[/CONFIG]/VERSION, found by looking only: TFDS itself may go to the network."""
    if data_dir is None:
        data_dir = os.environ.get("TFDS_DATA_DIR") or os.path.join("~", "tensorflow_datasets")
    title, _, version = name.partition(":")
    root = Path(data_dir).expanduser().absolute()
    infos = [i for i in (root / title).glob(f"{version or '*'}/dataset_info.json") if _version(i.parent.name)]
    if not infos:
        configs = sorted({i.parent.parent.name for i in (root / title).glob("*/*/dataset_info.json")})
        there = sorted(
            {i.parent.parent.relative_to(root).as_posix() for i in root.glob("*/*/dataset_info.json")}
        )
        raise UserError(
            f"data set {name!r} is not prepared: looked for "
            f"{root / title / (version or '*')}/dataset_info.json. "
            + (f"Its configurations there: {', '.join(f'{title}/{c}' for c in configs)}. " if configs else "")
            + (f"Data sets there: {', '.join(there)}. " if there else "")
            + "Prepare it once on a machine with a network and TensorFlow (`pip install tensorflow "
            f"tensorflow-datasets`, then `tfds build {name} --file_format=array_record --data_dir=DIR`), "
            f"copy DIR here and pass --config.data.path=DIR or set TFDS_DATA_DIR=DIR. {NO_NETWORK}"
        )
    info = max(infos, key=lambda i: _version(i.parent.name) or (0,))
    file_format = json.loads(info.read_text()).get("fileFormat", "tfrecord")
    if file_format != "array_record":
        raise UserError(
            f"data set {name!r} in {info.parent} is stored as {file_format}, which has no random access. "
            f"Prepare it again on a machine with TensorFlow: `tfds build {name} --file_format=array_record "
            "--data_dir=DIR`"
        )
    return str(info.parent)


def _is_integer(feature: Any) -> bool:
    return feature.shape == () and np.issubdtype(feature.np_dtype, np.integer)


def _version(text: str) -> tuple[int, ...] | None:
    return tuple(map(int, text.split("."))) if re.fullmatch(r"\d+\.\d+\.\d+", text) else None


# Image folders


class ScannedFile(NamedTuple):
    """What the check of one file found."""

    name: str  # relative to the folder, with forward slashes
    size: tuple[int, int]  # (height, width) after the EXIF orientation
    grey: bool
    problem: str  # "" for a good file


PASS_FOLDER = f"Pass the folder of your images with --config.data.path=DIR. {NO_NETWORK}"


def scan_folder(root: Path, advice: str = PASS_FOLDER) -> tuple[ScannedFile, ...]:
    """Check every image file below `root`, sorted by name; an unchanged folder is checked once per process.

    Args:
        root: the folder.
        advice: last sentence of the message about a folder without images.

    Raises:
        UserError: no image files, or a sub-folder that cannot be listed.
    """

    def refuse(error: OSError) -> None:
        raise UserError(f"cannot list {error.filename}: {error.strerror}. Check its permissions") from error

    listing = []
    others = 0
    for folder, subfolders, names in os.walk(root, onerror=refuse):
        subfolders[:] = [s for s in subfolders if not s.startswith(".")]
        for name in (n for n in names if not n.startswith(".")):
            if not name.lower().endswith(EXTENSIONS):
                others += 1
                continue
            file = Path(folder, name)
            stat = file.stat() if file.exists() else None
            state = (stat.st_size, stat.st_mtime_ns) if stat else (0, 0)
            listing.append((file.relative_to(root).as_posix(), *state))
    if not listing:
        raise UserError(
            f"image folder {root} holds no images: looked in it and in all its sub-folders for names that "
            f"end in {', '.join(EXTENSIONS)} (any case) and found {others} other file(s). {advice}"
        )
    return _scan(root, tuple(sorted(listing)))


@functools.lru_cache(maxsize=8)
def _scan(root: Path, listing: tuple[tuple[str, int, int], ...]) -> tuple[ScannedFile, ...]:
    with ThreadPoolExecutor(_threads()) as pool:
        return tuple(pool.map(lambda entry: check_file(root, entry[0]), listing))


def check_file(root: Path, name: str) -> ScannedFile:
    """Check one file: readable as far as can be told without decoding a PNG, and 8 bits a channel."""
    file = root / name
    try:
        if not file.exists():
            return ScannedFile(name, (0, 0), False, "a link to a file that does not exist")
        if file.stat().st_size == 0:
            return ScannedFile(name, (0, 0), False, "empty (0 bytes)")
        with Image.open(file) as image:
            image.verify()
        with Image.open(file) as image:  # verify() uses the file up
            width, height = image.size
            if image.getexif().get(0x0112, 1) >= 5:  # orientations 5 to 8 swap the axes
                width, height = height, width
            mode = image.mode
            grey = mode in ("1", "L", "LA", "La")
            if mode == "F" or mode.startswith("I"):
                return ScannedFile(name, (height, width), grey, f"not an 8-bit image (mode {mode})")
            if image.format != "PNG":  # verify() has checked the checksums of a PNG
                image.draft(image.mode, (image.width // 8, image.height // 8))
                image.load()
    except (
        Exception
    ) as error:  # decoders raise many types on damaged input; whatever it is, the file is unusable
        reason = (
            "not a readable image" if isinstance(error, Image.UnidentifiedImageError) else f"broken: {error}"
        )
        return ScannedFile(name, (0, 0), False, reason)
    return ScannedFile(name, (height, width), grey, "")


def _image_folder(path: str | os.PathLike) -> Path:
    if not os.fspath(path):
        raise UserError(
            f"no image folder was given; pass the folder of your images with --config.data.path=DIR. "
            f"{NO_NETWORK}"
        )
    root = Path(path).expanduser().absolute()
    if not root.exists():
        raise UserError(
            f"image folder {root} does not exist; pass the folder of your images with "
            f"--config.data.path=DIR. {NO_NETWORK}"
        )
    if not root.is_dir():
        raise UserError(f"{root} is a file, not a folder; pass the folder that holds your images")
    return root


def _usable(
    root: Path, files: tuple[ScannedFile, ...], same_size: bool, skip_bad: bool, advice: str = ""
) -> list[ScannedFile]:
    """The files to train on; the others are refused by name, or left out with a warning."""
    good = [f for f in files if not f.problem]
    bad = [(f.name, f.problem) for f in files if f.problem]
    odd = []
    if same_size and good:
        counts = Counter(f.size for f in good)
        size = max(counts, key=lambda s: (counts[s], s))
        most = f"{size[0]} x {size[1]}"
        odd = [
            (f.name, f"{f.size[0]} x {f.size[1]} pixels (height x width), the others are {most}")
            for f in good
            if f.size != size
        ]
        good = [f for f in good if f.size == size]
    if not bad and not odd:
        return good
    problems = sorted(bad + odd)
    listed = "".join(f"\n  {name}: {reason}" for name, reason in problems[:10])
    if len(problems) > 10:
        listed += f"\n  ... and {len(problems) - 10} more"
    count = f"{len(problems)} of {len(files)} images in {root}"
    if skip_bad and good:
        warnings.warn(f"left out {count}:{listed}", stacklevel=3)
        return good
    if advice:
        raise UserError(f"{count} cannot be used:{listed}\n{advice}")
    advice = "\nRepair or remove them"
    if good:
        advice += f", or train on the {len(good)} good ones only with data.skip_bad=True"
    if odd:
        advice += (
            ". Images of any size can be used by asking for one: data.image_size=64 resizes central squares"
        )
    raise UserError(f"{count} cannot be used:{listed}{advice}.")


def _split_files(files: list[ScannedFile], split: str, held_out: float) -> list[ScannedFile]:
    if split == "all":
        return files
    place = {f.name: _place(f.name) for f in files}
    test = {name for name, p in place.items() if p < held_out}
    if held_out > 0 and len(files) >= 2:
        test |= {min(place, key=place.__getitem__)}
    if len(test) == len(files):
        test -= {max(place, key=place.__getitem__)}
    return [f for f in files if (f.name in test) == (split == "test")]


def _place(name: str) -> float:
    """A fixed pseudo-random number in [0, 1) for a file name, the same on every system."""
    normal = unicodedata.normalize("NFC", name)
    return (
        int.from_bytes(hashlib.sha256(normal.encode("utf-8", "surrogateescape")).digest()[:6], "big") / 2**48
    )


def read_image(file: Path, channels: int) -> np.ndarray:
    """Pixels (height, width, channels) uint8, upright, on white where transparent; grey by luma for channels=1."""
    with Image.open(file) as opened:
        image = ImageOps.exif_transpose(opened)
        if image.has_transparency_data:
            rgba = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
        pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    return pixels[..., None] if channels == 1 else pixels
