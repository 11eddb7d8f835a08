"""Intervals against training steps, one curve for each run."""

import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from score_sde.viz import intervals


def test_each_run_has_its_curve_and_the_legend_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures: list[Figure] = []
    module = sys.modules["score_sde.viz.histogram"]  # `viz.histogram` itself is the function
    monkeypatch.setattr(module, "_write", lambda figure, path: figures.append(figure))
    curve = {
        step: {"mean": 3 - step / 100, "low": 2.8 - step / 100, "high": 3.1 - step / 100}
        for step in (10, 20)
    }
    intervals({"a": curve, "b": {20: curve[20]}}, "bits/dim", tmp_path / "none.png")
    intervals({"a": curve}, "bits/dim", tmp_path / "none.png", best=20)
    axes = figures[0].axes[0]
    first, second = axes.containers
    np.testing.assert_allclose(first.lines[0].get_xydata(), [[10, 2.9], [20, 2.8]])
    (low, high), *_ = first.lines[2][0].get_segments()
    np.testing.assert_allclose([low[1], high[1]], [2.7, 3.0])
    assert first.lines[0].get_color() != second.lines[0].get_color()
    legend = axes.get_legend()
    assert legend is not None and [text.get_text() for text in legend.get_texts()] == ["a", "b"]
    assert figures[1].axes[0].get_legend() is None
    assert figures[1].axes[0].lines[-1].get_xdata() == [20, 20]  # the best is marked
    assert [text.get_text() for text in figures[1].axes[0].texts] == [
        " best: 20"
    ] and not axes.texts
