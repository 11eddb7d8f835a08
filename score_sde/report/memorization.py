"""The report's section on memorized images: samples beside their nearest training images."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Integer, UInt8

from score_sde.metrics.features import Extractor
from score_sde.metrics.neighbors import (
    NeighborDistances,
    feature_vectors,
    mirror,
    neighbor_distances,
)
from score_sde.report.page import Report
from score_sde.viz.curves import HELDOUT_COLOR, INK
from score_sde.viz.grid import neighbor_grid, png_bytes
from score_sde.viz.histogram import COLORS, figure_png, new_figure

SAMPLE_COLOR = COLORS[2]
SHOWN, NEIGHBORS = 10, 5
"""Samples in a picture, and training images beside each of them."""
FEATURE_IMAGES = 10_000
"""Training images whose features are taken: a large network needs minutes for more."""
SHARE = 0.01


class Memorization(NamedTuple):
    """The images of a check for memorization, as integer levels 0 .. levels - 1.

    samples, heldout, training: (n, h, w, c). levels: of a pixel. flip: mirrored training images
    count as well, where training mirrors images at random. part: which training images these are,
    in words.
    """

    samples: Integer[np.ndarray, "samples h w c"]
    heldout: Integer[np.ndarray, "heldout h w c"]
    training: Integer[np.ndarray, "training h w c"]
    levels: int
    flip: bool
    part: str


def memorization_section(
    page: Report, check: Memorization, extractor: Extractor | None = None
) -> bytes:
    """Nearest training images of samples, against those of held-out images.

    In pixels and, with an extractor, in features.

    Args:
        page: gets the section.
        check: the images.
        extractor: makes features; None leaves them out.

    Returns:
        The picture of the first samples and their neighbours (PNG).
    """
    page.heading("Memorized?")
    page.text(
        "The training images nearest to samples, and how far they are, beside the distances that "
        "held-out images have: samples as new as real images lie no nearer. "
        + (
            "Training mirrors images at random, so mirrored training images count as well, and are "
            "shown as they matched."
            if check.flip
            else "Mirrored training images do not count, since training does not mirror images."
        )
    )
    page.text(f"In pixels, compared with {check.part}:")
    distances = neighbor_distances(check.samples, check.heldout, check.training, check.flip)
    first = _pictures(page, distances, check, "Euclidean distance of pixels, in levels")
    page.text(explain_neighbors(distances))
    if extractor is not None:
        _in_features(page, check, extractor)
    return first


def _in_features(page: Report, check: Memorization, extractor: Extractor) -> None:
    number = min(FEATURE_IMAGES, len(check.training))
    chosen = np.linspace(0, len(check.training) - 1, number).astype(int)
    some = check.training[chosen]

    def features(images: np.ndarray) -> np.ndarray:
        return feature_vectors(extractor, to_8_bit(images, check.levels))

    mirrors = features(mirror(some)) if check.flip else None
    page.text(f"In the features of {extractor.name}, compared with {len(some):,} training images:")
    samples, heldout = features(check.samples), features(check.heldout)
    distances = neighbor_distances(samples, heldout, features(some), mirrors=mirrors)
    label = f"Euclidean distance of {extractor.name} features"
    _pictures(page, distances, check._replace(training=some), label)
    page.text(explain_neighbors(distances))


def distance_chart(distances: NeighborDistances, label: str) -> bytes:
    """Both histograms of distances to the nearest training image, in percent.

    A line marks the limit of the nearest 1 % of the held-out images.

    Args:
        distances: of samples and held-out images.
        label: of the axis of distances.

    Returns:
        The PNG file's bytes.
    """
    figure, axes = new_figure()
    bins = _bins(distances)
    for values, name, color in (
        (distances.heldout, "held-out images", HELDOUT_COLOR),
        (distances.samples, "samples", SAMPLE_COLOR),
    ):
        weights, label_of = np.full(len(values), 100 / len(values)), f"{len(values):,} {name}"
        axes.hist(values, bins=bins, weights=weights, color=color, alpha=0.4, label=label_of)
        axes.hist(values, bins=bins, weights=weights, histtype="step", color=color, linewidth=1.6)
    axes.axvline(
        distances.limit(SHARE),
        color=INK,
        linewidth=1.2,
        linestyle="--",
        label="nearest 1% of held-out",
    )
    axes.set_xlim(left=0)
    axes.set_xlabel(f"to the nearest training image: {label}", color=INK)
    axes.set_ylabel("percent", color=INK)
    axes.legend(frameon=False, labelcolor=INK)
    return figure_png(figure)


def explain_neighbors(distances: NeighborDistances) -> str:
    """The numbers of the memorization check in words, with how to read them."""
    count, heldout = len(distances.samples), len(distances.heldout)
    expected = max(SHARE, 1 / (heldout + 1))
    chance = np.sqrt(expected * (1 - expected) * (1 / count + 1 / heldout))
    mirrored = int(distances.nearest.mirrored[:, 0].sum())
    return (
        f"Mean distance to the nearest training image: {distances.samples.mean():.4g} for "
        f"{count:,} samples, {distances.heldout.mean():.4g} for {heldout:,} held-out images; ratio "
        f"{distances.ratio:.2f}. A ratio near 1 means that samples are as new as real images the "
        "model has never seen; well below 1 they copy training images (or are blurred towards the "
        "average), well above 1 they lie off the data. Nearer to a training image than the nearest "
        f"1% of held-out images: {distances.close(SHARE):.1%} of the samples (expected of new "
        f"images: {expected:.1%} +- {chance:.1%}). Exact copies: {distances.copies}."
        + (f" Nearest to a mirrored training image: {mirrored:,} samples." if mirrored else "")
    )


def to_8_bit(images: Integer[np.ndarray, "..."], levels: int) -> UInt8[np.ndarray, "..."]:
    """round(255 k/(levels - 1)) as uint8."""
    table = np.rint(255 * np.arange(levels) / (levels - 1)).astype(np.uint8)
    return table[images]


def _pictures(page: Report, distances: NeighborDistances, check: Memorization, label: str) -> bytes:
    """Two grids side by side and the chart below them; returns the first grid."""
    grids, nearest = [], distances.nearest
    for chosen in (np.arange(min(SHOWN, len(check.samples))), distances.suspicious(SHOWN)):
        images = check.training[nearest.indices[chosen, :NEIGHBORS]]
        flipped = nearest.mirrored[chosen, :NEIGHBORS, None, None, None]
        images = to_8_bit(np.where(flipped, images[..., ::-1, :], images), check.levels)
        samples = to_8_bit(check.samples[chosen], check.levels)
        grids.append(png_bytes(neighbor_grid(samples, images)))
    numbers = ", ".join(map(str, distances.suspicious(SHOWN)))
    page.pictures(
        (grids[0], "The first samples (left), each with its nearest training images."),
        (
            grids[1],
            "The most suspicious samples: nearest to one training image compared with the others "
            f"around it. Samples {numbers}.",
        ),
    )
    page.picture(
        distance_chart(distances, label), "Distances to the nearest training image.", chart=True
    )
    return grids[0]


def _bins(distances: NeighborDistances) -> np.ndarray:
    """Up to 40 equal bins from 0 on, that hold all distances of both sets."""
    values = np.concatenate([distances.samples, distances.heldout])
    return np.linspace(0, float(values.max()) or 1.0, min(40, max(10, len(values) // 8)) + 1)
