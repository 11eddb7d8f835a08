"""The images that config.data names."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from score_sde.build.experiment import Experiment
from score_sde.build.names import blame
from score_sde.build.settings import Data
from score_sde.data import (
    ArraySource,
    FolderSource,
    Mapped,
    PhantomSource,
    PixelRange,
    PreparedSource,
    Source,
    TFDSSource,
    crop_resize,
    digits,
    in_memory,
    pipeline,
)
from score_sde.devices import processes
from score_sde.errors import UserError

IN_MEMORY_BYTES = 2**30
"""Image sets up to this size are decoded once and kept."""


def _folder(section: Data, split: str) -> Source:
    if not section.path:
        raise UserError("config.data.path is empty; name your image folder: --config.data.path=DIR")
    size, channels = section.image_size or None, section.channels or None
    source = FolderSource(section.path, size, channels, split, skip_bad=section.skip_bad)
    return source if source.levels == 256 else source.with_levels(section.levels)


def _tfds(section: Data, split: str) -> Source:
    source = TFDSSource(section.source, split, data_dir=section.path or None)
    if source.shape is not None and not section.crop:
        return source
    size = section.image_size
    options: dict[str, Any] = {}
    if section.crop:
        options = {"crop": section.crop, "method": "bilinear"}
    crop = functools.partial(crop_resize, size=size, **options)
    return Mapped(source, crop, (size, size, section.channels))


SOURCES: dict[str, Callable[[Data, str], Source]] = {
    "digits": lambda section, split: digits(split),
    "folder": _folder,
    "phantoms": lambda section, split: PhantomSource(section.image_size, split),
    "prepared": lambda section, split: PreparedSource(section.path, split),
}
"""By the name in config.data.source; every other name is one of TensorFlow Datasets."""


def open_source(section: Data, train: bool) -> Source:
    """The training or held-out images of config.data.

    Raises:
        UserError: they are missing or unreadable, or have another shape or number of levels than
            the section says.
    """
    if section.crop and section.source in SOURCES:
        raise UserError(
            f"config.data.crop={section.crop} is for prepared data sets; image folders are cropped "
            "by image_size alone"
        )
    split = section.train_split if train else section.test_split
    source = SOURCES.get(section.source, _tfds)(section, split)
    if (
        section.in_memory
        and not isinstance(source, ArraySource | PreparedSource)  # those need no decoding
        and source.shape
        and len(source) * int(np.prod(source.shape)) <= IN_MEMORY_BYTES
    ):
        with blame("data"):
            source = in_memory(source, IN_MEMORY_BYTES)
    _check_shape(source, section)
    return source


def _check_shape(source: Source, section: Data) -> None:
    assert source.shape is not None
    size, channels = section.image_size, section.channels
    given = (size, size, channels)
    expected = tuple(wanted or there for wanted, there in zip(given, source.shape))
    if source.shape != expected:
        raise UserError(
            f"data set {source.name!r} has images of shape {source.shape} (height, width, "
            f"channels), but the configuration says {expected}; set config.data.image_size and "
            "config.data.channels."
        )
    if source.levels != section.levels:
        raise UserError(
            f"data set {source.name!r} has {source.levels} levels, but config.data.levels is "
            f"{section.levels}; set config.data.levels={source.levels}"
        )


def build_pixel_range(section: Data) -> PixelRange:
    """[-1, 1] for centered data, else [0, 1], with the data set's number of levels."""
    with blame("data"):
        return PixelRange(section.levels, -1.0 if section.centered else 0.0, 1.0)


def image_shape(section: Data) -> tuple[tuple[int, int, int], Data]:
    """((height, width, channels), the section with what it left open).

    What the settings leave open is read off the image files. A rectangle stays open: the files say
    it each time.
    """
    if section.image_size and section.channels:
        return (section.image_size, section.image_size, section.channels), section
    shape = open_source(dataclasses.replace(section, in_memory=False), train=True).shape
    assert shape is not None
    height, width, channels = shape
    section = dataclasses.replace(section, channels=channels)
    if height == width:
        section = dataclasses.replace(section, image_size=height)
    return (height, width, channels), section


def training_batches(experiment: Experiment, source: Source, batch_size: int = 0):
    """Endless shuffled batches, this process's part of them, with a position.

    Those of a dequantizer are of `batch_size`, and are never dequantized.
    """
    settings, (index, count) = experiment.settings, processes()
    batches = pipeline.Batches(
        source,
        experiment.pixel_range,
        batch_size or settings.training.batch_size,
        settings.seed,
        train=True,
        flip=settings.data.random_flip,
        dequantize=settings.data.dequantize and not batch_size,
        process_index=index,
        process_count=count,
    )
    return pipeline.read(batches)


def heldout_batches(experiment: Experiment, source: Source, score: bool) -> pipeline.Batches:
    """Batches for the held-out loss of the score model, or of a dequantizer, which sees levels."""
    settings = experiment.settings
    return pipeline.Batches(
        source,
        experiment.pixel_range,
        settings.eval.batch_size,
        settings.seed,
        train=False,
        dequantize=settings.data.dequantize and score,
    )
