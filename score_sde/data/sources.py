"""Random-access sources of integer images, and those in memory: arrays, scikit-learn's digits.

`folders` has your own images, `tfds` those of TensorFlow Datasets. A source is anything with
`len(source)`, `source[i] -> {"image", "label", "index"}` and the attributes of `Source`. Nothing
here downloads. scikit-learn and TensorFlow Datasets are imported when first used.
"""

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, runtime_checkable

import numpy as np

from score_sde.errors import UserError

Example = dict[str, Any]
"""{"image": integer levels (height, width, channels), "label": np.int32, "index": np.int32}.

The label is 0 where there is none.
"""

Shape = tuple[int, int, int]
"""(height, width, channels)."""
NO_NETWORK = "The data set `:digits` is part of scikit-learn and needs neither files nor a network."


@runtime_checkable
class Source(Protocol):
    """Random access to integer images.

    Attributes:
        shape: (height, width, channels), or None where sizes differ.
        levels: number of integer levels of a pixel, 256 for 8-bit images.
        name: short name for messages and folder names.

    A source may also offer `take(indices) -> Example` with stacked arrays where that is faster than
    one at a time, and `classes`, the number of classes that labels are of.
    """

    shape: Shape | None
    levels: int
    name: str

    def __len__(self) -> int: ...

    def __getitem__(self, i: int) -> Example: ...


def take(source: Source, indices: Sequence[int] | np.ndarray) -> Example:
    """Several examples stacked: image (n, height, width, channels), label (n,), index (n,)."""
    fast = getattr(source, "take", None)
    if fast is not None:
        return fast(indices)
    return stack([source[int(i)] for i in indices])


def classes(source: Source) -> int:
    """How many classes labels 0, 1, ... are of; 0 where images have no labels."""
    return getattr(source, "classes", 0)


class ArraySource:
    """Images held in memory.

    Args:
        images: integers 0 .. levels - 1, (n, height, width, channels) or (n, height, width). Kept
            as uint8, or uint16 for more than 256 levels.
        labels: integers (n,), or None for zeros.
        levels: number of integer levels of a pixel.
        name: for messages.

    Raises:
        UserError: floating-point images, a wrong number of axes or of labels, values outside 0 ..
            levels - 1.
    """

    def __init__(
        self, images: Any, labels: Any = None, levels: int = 256, name: str = "array"
    ) -> None:
        images = np.asarray(images)
        if not np.issubdtype(images.dtype, np.integer):
            raise UserError(
                f"ArraySource holds integer pixel levels 0 .. {levels - 1}; got {images.dtype} "
                "images. Round them first, e.g. images = (x * "
                f"{levels - 1}).round().astype('uint8') for x on [0, 1] (PixelRange.decode does it "
                "for any range)"
            )
        if images.ndim not in (3, 4):
            raise UserError(
                "ArraySource takes images of shape (n, height, width, channels) or (n, height, "
                f"width); got shape {images.shape}"
            )
        if images.size and (images.min() < 0 or images.max() >= levels):
            raise UserError(
                f"pixel levels must lie in 0 .. {levels - 1} (levels={levels}); got values "
                f"{images.min()} .. {images.max()}. Pass the right `levels`, or rescale the images"
            )
        self.classes = 0 if labels is None else int(np.max(labels, initial=-1)) + 1
        labels = np.zeros(len(images)) if labels is None else np.asarray(labels)
        if labels.shape != (len(images),):
            raise UserError(
                f"one label for each of the {len(images)} images is needed; got labels of shape "
                f"{labels.shape}"
            )
        dtype = np.uint8 if levels <= 256 else np.uint16
        self.images = (images[..., None] if images.ndim == 3 else images).astype(dtype, copy=False)
        self.labels = labels.astype(np.int32)
        self.shape: Shape | None = tuple(self.images.shape[1:])  # type: ignore[assignment]
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
    """scikit-learn's 1,797 real handwritten digits, 8 x 8 x 1 with 17 levels.

    1,437 are "train", 360 "test". The split is stratified by class and fixed (random_state=0).

    Raises:
        UserError: unknown split.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    check_split(split, ("train", "test"), "digits")
    data = load_digits()
    train, test = train_test_split(
        np.arange(len(data.target)), test_size=0.2, random_state=0, stratify=data.target
    )
    rows = train if split == "train" else test
    return ArraySource(
        data.images[rows].astype(np.uint8), data.target[rows], levels=17, name="digits"
    )


class Mapped:
    """`source` with `fn(image) -> image` applied to each image, say a published crop and resize.

        Mapped(source, lambda image: crop_resize(image, 64, crop=140, method="bilinear"), (64, 64,
        3))

    Args:
        source: any source.
        fn: (height, width, channels) integers -> integers of shape `shape` with the same levels.
        shape: shape of the results.
    """

    def __init__(
        self, source: Source, fn: Callable[[np.ndarray], np.ndarray], shape: Shape
    ) -> None:
        self._source = source
        self._fn = fn
        self.shape: Shape | None = tuple(shape)  # type: ignore[assignment]
        self.levels = source.levels
        self.name = source.name
        self.classes = classes(source)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, i: int) -> Example:
        example = self._source[i]
        image = self._fn(example["image"])
        if image.shape != self.shape:
            raise ValueError(
                f"the map of source {self.name!r} made an image of shape {image.shape} from one of "
                f"shape {example['image'].shape}; it was declared to make {self.shape}"
            )
        return {**example, "image": image}


def in_memory(source: Source, max_bytes: int = 2**30) -> ArraySource:
    """Decode every image of `source` once and keep them all, for small sets read over and over.

    Args:
        source: a source with one image shape.
        max_bytes: refuse more than this many bytes of pixels.

    Raises:
        UserError: images of different sizes, or more than `max_bytes`.
    """
    if source.shape is None:
        raise UserError(
            f"images of {source.name!r} have different sizes and cannot be kept in one array; "
            "resize them first"
        )
    need = len(source) * int(np.prod(source.shape)) * (1 if source.levels <= 256 else 2)
    if need > max_bytes:
        raise UserError(
            f"{len(source)} images of shape {source.shape} need {need / 1e6:,.0f} MB in memory; "
            f"the limit is {max_bytes / 1e6:,.0f} MB. Raise max_bytes or read the images as they "
            "are needed"
        )
    blocks = [range(i, min(i + 256, len(source))) for i in range(0, len(source), 256)]
    with ThreadPoolExecutor(threads()) as pool:
        parts = list(pool.map(lambda block: take(source, block), blocks))
    if not parts:
        return ArraySource(
            np.zeros((0, *source.shape), np.uint8), levels=source.levels, name=source.name
        )
    images, labels = (np.concatenate([part[key] for part in parts]) for key in ("image", "label"))
    whole = ArraySource(images, labels, levels=source.levels, name=source.name)
    whole.classes = classes(source)
    return whole


def fingerprint(source: Source, images: int = 16) -> str:
    """Name, size, and SHA-256 over evenly spaced images: tells one set of images from another."""
    digest = hashlib.sha256()
    for i in np.linspace(0, len(source) - 1, min(images, len(source))).astype(int):
        image = np.ascontiguousarray(source[int(i)]["image"])
        digest.update(f"{image.shape}{image.dtype}".encode() + image.tobytes())
    return f"{source.name}, {len(source)} images, {digest.hexdigest()[:16]}"


def stack(examples: list[Example]) -> Example:
    """One example of arrays with a leading axis, from examples of one shape."""
    return {
        key: np.stack([example[key] for example in examples]) for key in ("image", "label", "index")
    }


def threads() -> int:
    """How many threads read images: one a core, at most 16."""
    return min(16, os.cpu_count() or 1)


def check_split(split: str, known: tuple[str, ...], what: str) -> None:
    """Raises UserError unless `split` is one of the known."""
    if split not in known:
        raise UserError(f"the {what} has no split {split!r}; known splits: {', '.join(known)}")
