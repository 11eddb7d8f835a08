"""Curves of losses per noise level, and what is said of them."""

import sys
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from score_sde.report.levels import explain_levels, level_curves, levels_section
from score_sde.report.page import Report


def rows(gap: float = 0.0) -> list[dict[str, Any]]:
    return [
        {
            "alpha": 0.5,
            "sigma": sigma,
            "train": train,
            "train_error": 0.01,
            "heldout": train + gap / sigma,
            "heldout_error": 0.02,
            "gap": gap / sigma,
            "gap_error": 0.01,
        }
        for sigma, train in ((1.0, 0.8), (2.0, 0.4), (8.0, 0.1))
    ]


def drawn(values: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> Figure:
    figures: list[Figure] = []
    module = sys.modules["score_sde.report.levels"]
    monkeypatch.setattr(module, "figure_png", lambda figure: figures.append(figure) or b"")
    level_curves(values)
    return figures[0]


def test_curves_bands_and_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    upper, lower = drawn(rows(0.1), monkeypatch).axes
    train, heldout = upper.lines
    np.testing.assert_allclose(train.get_xydata(), [[2, 0.8], [4, 0.4], [16, 0.1]])
    np.testing.assert_allclose(heldout.get_xydata(), [[2, 0.9], [4, 0.45], [16, 0.1125]])
    legend = upper.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["training", "held-out"]
    assert train.get_color() != heldout.get_color()
    band = upper.collections[1].get_paths()[0].vertices  # held-out, two standard errors
    assert band[:, 1].max() == pytest.approx(0.94)
    zero, gap = lower.lines
    np.testing.assert_allclose(gap.get_xydata()[:, 1], [100 / 9, 100 / 9, 100 / 9])
    assert lower.collections[0].get_paths()[0].vertices[:, 1].max() == pytest.approx(
        100 * 0.0325 / 0.1125
    )
    assert zero.get_ydata()[0] == 0
    assert upper.get_xscale() == lower.get_xscale() == upper.get_yscale() == "log"


def test_levels_without_a_finite_loss_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    values = rows()
    values[1]["heldout"] = values[2]["heldout_error"] = None
    assert len(drawn(values, monkeypatch).axes[0].lines[0].get_xydata()) == 2
    for row in values:
        row["train"] = None
    with pytest.raises(ValueError, match="no noise level has a finite loss"):
        level_curves(values)


def test_real_picture() -> None:
    assert level_curves(rows(0.1)).startswith(b"\x89PNG")
    assert level_curves([{**rows()[0], "train": 0.0, "heldout": 0.0}]).startswith(b"\x89PNG")


def test_words_say_where_training_images_are_known() -> None:
    text = explain_levels(rows(0.1), 256)
    assert "clearly worse (by more than 3 standard errors) at 2 of 3 levels" in text
    assert "0.1 +- 0.01 (training: 0.8) at noise 2." in text and text.startswith(
        "256 images of each set"
    )
    assert "At no level" in explain_levels(rows(0.01), 256)
    assert "At no level" in explain_levels(
        rows(-0.1), 256
    )  # better on held-out images is no memorizing
    single = [{**row, "gap_error": None} for row in rows(0.1)]
    assert "too few" in explain_levels(single, 1)


def test_section_shows_the_curves_or_the_command() -> None:
    without, broken, found = Report("a"), Report("a"), Report("a")
    levels_section(without, None, "python main.py --mode eval")
    assert "python main.py --mode eval" in without.html() and "<img" not in without.html()
    nothing = {"images": 2, "levels": [{**row, "train": None} for row in rows()]}
    levels_section(broken, nothing, "python main.py --mode eval")
    assert "No loss is finite" in broken.html() and "<img" not in broken.html()
    levels_section(found, {"images": 256, "levels": rows(0.1)}, "python main.py --mode eval")
    assert found.html().count("<img") == 1 and "--mode eval" not in found.html()
    assert "2 of 3 levels" in found.html()
