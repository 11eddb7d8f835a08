"""What --input names, read for a run; and levels for display."""

from pathlib import Path

import numpy as np
from jaxtyping import Float, Integer

from score_sde.data import PixelRange, Source, take
from score_sde.data import inputs as reader
from score_sde.devices import say
from score_sde.workdir.run import Run

SHOWN = 64
"""Images in a grid."""


def read_given(run: Run, paths: list[Path], kinds: list[reader.Kind]) -> list[reader.Inputs]:
    """What --input names, checked against the images and the process of the run."""
    experiment = run.experiment
    levels, prior_std = experiment.pixel_range.levels, experiment.process.prior_std
    given = reader.read_inputs(paths, experiment.shape, levels, kinds, prior_std)
    if any(part.files for part in given) and levels != 256:
        top = levels - 1
        say(f"image files: value v of 0 .. 255 is level round({top} v/255) of 0 .. {top}")
    return given


def split_images(run: Run, first: int = 0) -> list[reader.Inputs]:
    """The images of config.eval.split, the first ones if so asked, named by their numbers."""
    section = run.settings.eval
    source = run.source(train=section.split == "train")
    count = min(first or section.num_examples or len(source), len(source))
    found = take(source, np.arange(count))
    names = [f"{section.split} {i}" for i in range(count)]
    return [reader.Inputs(names, "images", found["image"], labels=found["label"])]


def show(
    images: Integer[np.ndarray, "n h w c"], pixels: PixelRange
) -> Float[np.ndarray, "n h w c"]:
    """Levels for display: black 0, white 1."""
    return images.astype(np.float32) / np.float32(pixels.levels - 1)


def some_images(source: Source, limit: int = 60_000, max_bytes: int = 2**28) -> np.ndarray:
    """Evenly spaced images, as many as fit."""
    size = source[0]["image"].nbytes
    count = min(limit, len(source), max(1, max_bytes // size))
    return take(source, np.linspace(0, len(source) - 1, count).astype(int))["image"]
