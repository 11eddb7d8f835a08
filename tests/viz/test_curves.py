"""Reading metrics after kills and resumes, and the curve that is drawn from them."""

import io
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from score_sde.errors import UserError
from score_sde.viz.curves import limits, loss_curves, read_metrics, smooth, wants_log


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "metrics.jsonl")
    with pytest.raises(UserError, match=r"metrics.jsonl is a named pipe"):
        read_metrics(tmp_path / "metrics.jsonl")


def test_torn_last_line_is_left_out(tmp_path: Path) -> None:
    path = write(
        tmp_path / "m", '{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.0}\n{"step": 3, "lo'
    )
    assert read_metrics(path) == [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}]


def test_resumed_run_writes_on_after_a_torn_line(tmp_path: Path) -> None:
    text = (
        '{"step": 1, "loss": 2.0}\n{"step": 2, "lo{"step": 2, "loss": 1.5}\n'
        '{"step": 3, "l\n\0\0\n{"step": 4}\n'
    )
    assert read_metrics(write(tmp_path / "m", text)) == [
        {"step": 1, "loss": 2.0},
        {"step": 2, "loss": 1.5},
        {"step": 4},
    ]


def test_of_repeated_steps_the_last_counts(tmp_path: Path) -> None:
    text = (
        '{"step": 10, "loss": 4.0}\n{"step": 20, "loss": 3.0, "eval_loss": 9.0}\n'
        '{"step": 30, "loss": 2.0}\n'
        '{"step": 20, "loss": 3.5}\n{"step": 20, "eval_loss": 8.0}\n'
    )
    assert read_metrics(write(tmp_path / "m", text)) == [
        {"step": 10, "loss": 4.0},
        {"step": 20, "loss": 3.5, "eval_loss": 8.0},
        {"step": 30, "loss": 2.0},
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [('{"step": 1}\nstep,loss\n', "line 2 of"), ('{"loss": 1.0}\n', "line 1 of.*'step'")],
)
def test_other_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_metrics(write(tmp_path / "m", text))


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read the metrics"):
        read_metrics(tmp_path / "none")


def test_smoothing_is_a_centred_mean() -> None:
    values = np.array([1.0, 4.0, 1.0, 6.0, 3.0])
    np.testing.assert_allclose(smooth(values, 3), [2.5, 2.0, 11 / 3, 10 / 3, 4.5], rtol=1e-14)
    np.testing.assert_allclose(smooth(values, 1), values, rtol=1e-14)
    assert smooth(np.zeros(0), 3).shape == (0,)


def test_logarithmic_axis_only_where_it_helps() -> None:
    assert wants_log(np.array([50.0, 1.0]), np.array([6.0, 1.0]))
    assert not wants_log(np.array([50.0, 1.0]), np.array([4.0, 1.0]))
    assert not wants_log(np.array([50.0, -0.1]), np.array([6.0, 1.0]))


def test_limits_hold_the_strong_curves_and_ignore_single_spikes() -> None:
    raw = np.concatenate([np.linspace(1.0, 2.0, 999), [1e6]])
    low, high = limits(raw, np.array([0.5, 3.0]), log=False)
    np.testing.assert_allclose([low, high], [0.5 - 0.125, 3.0 + 0.125], rtol=1e-12)
    low, high = limits(np.zeros(0), np.array([1.0, 100.0]), log=True)
    np.testing.assert_allclose([low, high], [100**-0.05, 100**1.05], rtol=1e-12)
    low, high = limits(np.array([2.0]), np.array([2.0]), log=False)
    assert low < 2 < high


def pixels(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def share(png: bytes, color: tuple[int, int, int]) -> float:
    return float((np.abs(pixels(png) - color).max(axis=-1) < 12).mean())


def test_draws_both_curves_and_leaves_out_what_is_not_finite(tmp_path: Path) -> None:
    rows = [{"step": s, "loss": 3.0 + np.sin(s), "images_per_s": 10.0} for s in range(1, 60)]
    blue, orange = (47, 111, 222), (217, 98, 43)
    without = loss_curves(rows)
    assert share(without, blue) > 1e-3
    assert share(without, orange) == 0
    rows += [{"step": 20, "eval_loss": 3.0}, {"step": 50, "eval_loss": 2.5}]
    both = loss_curves(rows, tmp_path / "curves" / "loss.png")
    assert share(both, orange) > 1e-3
    assert (tmp_path / "curves" / "loss.png").read_bytes() == both
    bad = [
        {"step": 60, "loss": float("nan")},
        {"step": 61, "eval_loss": float("inf")},
        {"step": 62, "loss": None},
    ]
    assert loss_curves(rows + bad) == both


def test_a_single_row_is_enough() -> None:
    assert pixels(loss_curves([{"step": 1, "loss": 0.0}])).shape == (630, 1200, 3)
    assert pixels(loss_curves([{"step": 1, "eval_loss": 2.0}])).shape == (630, 1200, 3)


def test_nothing_to_draw() -> None:
    with pytest.raises(UserError, match="none of the 2"):
        loss_curves([{"step": 1}, {"step": 2, "loss": float("nan")}])


def test_no_global_figures_are_left_behind() -> None:
    loss_curves([{"step": 1, "loss": 1.0}, {"step": 2, "loss": 0.5}])
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or not pyplot.get_fignums()
