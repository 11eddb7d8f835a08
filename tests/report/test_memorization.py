"""The memorization section: which images it shows, which distances it draws, and what it says."""

import sys
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from score_sde.metrics.features import Extractor, Features
from score_sde.metrics.neighbors import NeighborDistances, Neighbors
from score_sde.report.memorization import (
    Memorization,
    distance_chart,
    explain_neighbors,
    memorization_section,
    to_8_bit,
)
from score_sde.report.page import Report

MODULE = sys.modules["score_sde.report.memorization"]
RNG = np.random.default_rng(0)
TRAINING = RNG.integers(0, 17, (30, 4, 5, 1)).astype(np.uint8)
HELDOUT = RNG.integers(0, 17, (20, 4, 5, 1)).astype(np.uint8)
SAMPLES = RNG.integers(0, 17, (12, 4, 5, 1)).astype(np.uint8)
SAMPLES[11] = TRAINING[7, :, ::-1]  # a mirrored copy
SAMPLES[10] = TRAINING[3]


def made(monkeypatch: pytest.MonkeyPatch, flip: bool, extractor: Extractor | None = None):
    """(page, grids drawn as (samples, neighbors), distances measured)."""
    grids: list[tuple[np.ndarray, np.ndarray]] = []
    measured: list[NeighborDistances] = []
    grid, distances = MODULE.neighbor_grid, MODULE.neighbor_distances

    def watched_grid(samples, neighbors):
        grids.append((samples, neighbors))
        return grid(samples, neighbors)

    def watched_distances(*args, **kwargs):
        measured.append(distances(*args, **kwargs))
        return measured[-1]

    monkeypatch.setattr(MODULE, "neighbor_grid", watched_grid)
    monkeypatch.setattr(MODULE, "neighbor_distances", watched_distances)
    page = Report("a")
    check = Memorization(SAMPLES, HELDOUT, TRAINING, 17, flip, "30 training images")
    first = memorization_section(page, check, extractor)
    assert first.startswith(b"\x89PNG")
    return page.html(), grids, measured


def test_first_and_suspicious_samples_beside_their_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    page, grids, (distances,) = made(monkeypatch, flip=False)
    assert page.count("<img") == 3 and "compared with 30 training images" in page
    assert "Mirrored training images do not count" in page and "Exact copies: 1." in page
    assert "Nearest to a mirrored" not in page
    assert (len(distances.samples), len(distances.heldout)) == (12, 20)
    (first, nearest), (suspicious, _) = grids
    np.testing.assert_array_equal(first, to_8_bit(SAMPLES[:10], 17))
    squares = ((TRAINING.astype(float) - SAMPLES[4].astype(float)) ** 2).sum(axis=(1, 2, 3))
    np.testing.assert_array_equal(
        nearest[4], to_8_bit(TRAINING[np.argsort(squares, kind="stable")[:5]], 17)
    )
    np.testing.assert_array_equal(suspicious[0], to_8_bit(SAMPLES[10:11], 17)[0])
    assert "Samples 10, " in page


def test_mirrored_images_count_and_are_shown_as_they_matched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    page, grids, (distances,) = made(monkeypatch, flip=True)
    assert "mirrored training images count as well" in page and "Exact copies: 2." in page
    assert (
        f"Nearest to a mirrored training image: {distances.nearest.mirrored[:, 0].sum()} samples"
        in page
    )
    suspicious, nearest = grids[1]
    np.testing.assert_array_equal(
        nearest[:2, 0], suspicious[:2]
    )  # both copies, the mirrored one mirrored
    np.testing.assert_array_equal(suspicious[:2], to_8_bit(SAMPLES[[10, 11]], 17))


def test_features_of_an_extractor(monkeypatch: pytest.MonkeyPatch) -> None:
    def halves(images: np.ndarray) -> Features:
        """Not mirror invariant: the sums of the columns."""
        return Features(images.sum(axis=(1, 3)).astype(np.float32))

    extractor = Extractor("halves", "0", "none", halves, compiled=False)
    page, _, (_, plain) = made(monkeypatch, False, extractor)
    assert (
        page.count("<img") == 6
        and "In the features of halves, compared with 30 training images" in page
    )
    sums = [
        to_8_bit(part, 17).sum(axis=(1, 3)).astype(float) for part in (SAMPLES, HELDOUT, TRAINING)
    ]
    nearest = [
        np.sqrt(((q[:, None] - sums[2][None]) ** 2).sum(axis=2)).min(axis=1) for q in sums[:2]
    ]
    np.testing.assert_allclose(plain.samples, nearest[0], rtol=1e-12)
    np.testing.assert_allclose(plain.heldout, nearest[1], rtol=1e-12)
    assert plain.copies == 1
    *_, (_, flipped) = made(monkeypatch, True, extractor)
    assert (
        flipped.copies == 2
        and flipped.nearest.mirrored[11, 0]
        and not flipped.nearest.mirrored[10, 0]
    )


def test_features_of_evenly_spaced_training_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MODULE, "FEATURE_IMAGES", 4)
    pixels = Extractor(
        "p", "0", "", lambda x: Features(x.reshape(len(x), -1).astype(np.float32)), False
    )
    page, grids, (_, few) = made(monkeypatch, False, pixels)
    assert "compared with 4 training images" in page and few.nearest.indices.shape == (12, 4)
    np.testing.assert_array_equal(
        grids[2][1][0], to_8_bit(TRAINING[[0, 9, 19, 29]][few.nearest.indices[0]], 17)
    )


def distances(samples: Any, heldout: Any) -> NeighborDistances:
    samples = np.asarray(samples, np.float64)
    nearest = Neighbors(
        samples[:, None], np.zeros((len(samples), 1), np.int64), np.zeros((len(samples), 1), bool)
    )
    return NeighborDistances(samples, np.asarray(heldout, np.float64), nearest)


def test_chart_has_both_histograms_in_percent_and_the_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(MODULE, "figure_png", lambda figure: figures.append(figure) or b"")
    distance_chart(distances([0.0, 0.0, 1.0, 3.0], np.linspace(2, 4, 99)), "pixels")
    axes = figures[0].axes[0]
    legend = axes.get_legend()
    assert legend is not None
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts == ["99 held-out images", "4 samples", "nearest 1% of held-out"]
    bars = [container for container in axes.containers if len(container) > 1]
    assert [sum(bar.get_height() for bar in c) for c in bars] == pytest.approx([100, 100])
    assert bars[1][0].get_height() == 50 and bars[1][0].get_x() == pytest.approx(0)  # two copies
    assert axes.lines[0].get_xdata()[0] == pytest.approx(2)
    assert "pixels" in axes.get_xlabel()


def test_words_have_the_numbers() -> None:
    text = explain_neighbors(distances([0.0] + [1.5] * 499, np.linspace(1, 2, 199)))
    assert "1.497 for 500 samples, 1.5 for 199 held-out images; ratio 1.00" in text
    assert (
        "0.2% of the samples (expected of new images: 1.0% +- 0.8%)" in text
        and "Exact copies: 1." in text
    )
    assert "(expected of new images: 5.0% +-" in explain_neighbors(distances([1.0] * 5, [1.0] * 19))


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_levels_become_8_bit(levels: int) -> None:
    images = np.arange(levels).reshape(-1, 1, 1, 1)
    found = to_8_bit(images, levels)
    assert found.dtype == np.uint8 and found[0] == 0 and found[-1] == 255
    np.testing.assert_allclose(found / 255, images / (levels - 1), atol=0.5 / 255)
