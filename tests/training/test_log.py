"""The metrics of a run: windows, resuming, what is not finite."""

import json
from pathlib import Path

import numpy as np
import pytest

from score_sde.errors import UserError
from score_sde.training.log import MetricsLog, check_finite


def log(folder: Path, every: int = 4, step: int = 0, window: dict | None = None) -> MetricsLog:
    return MetricsLog(folder, every, total=100, step=step, window=window)


def metrics(*losses: float) -> dict[str, np.ndarray]:
    return {
        "loss": np.asarray(losses, np.float32),
        "grad_norm": 10 * np.asarray(losses, np.float32),
    }


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_rows_are_means_of_windows_at_multiples(tmp_path: Path) -> None:
    written = log(tmp_path)
    written.steps(0, metrics(1, 2, 3))
    assert rows(tmp_path) == []
    written.steps(3, metrics(6, 7, 8, 9, 10, 11))
    written.row(9, {"eval_loss": 0.5})
    written.close()
    assert rows(tmp_path) == [
        {"step": 4, "loss": 3.0, "grad_norm": 30.0},
        {"step": 8, "loss": 8.5, "grad_norm": 85.0},
        {"step": 9, "eval_loss": 0.5},
    ]
    assert written.window == {"loss": [11.0], "grad_norm": [110.0]}
    assert list((tmp_path / "tensorboard").glob("events*"))


@pytest.mark.parametrize("cut", [0, 3, 4, 5, 6, 9])
def test_killed_and_resumed_run_writes_the_rows_of_an_uninterrupted_one(
    tmp_path: Path, cut: int
) -> None:
    losses = np.random.default_rng(0).normal(size=12).astype(np.float32)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for folder in (whole, broken):
        folder.mkdir()
    one = log(whole)
    one.steps(0, metrics(*losses))
    one.close()
    first = log(broken)
    first.steps(0, metrics(*losses[:cut]))
    kept = json.loads(json.dumps(first.window))  # as a checkpoint keeps it
    first.steps(cut, metrics(*losses[cut:11]))  # work behind the checkpoint, lost in the kill
    first.close()
    second = log(broken, step=cut, window=kept)
    second.steps(cut, metrics(*losses[cut:]))
    second.close()
    assert (broken / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize(
    "torn", ['{"step": 8, "lo', '{"step": 8, "loss": 1.0}\n{"st', "\x00\x00\x00"]
)
def test_torn_last_line_is_cut_off(tmp_path: Path, torn: str) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 4, "loss": 1.5}\n' + torn)
    log(tmp_path, step=4).close()
    assert rows(tmp_path) == [{"step": 4, "loss": 1.5}]


def test_started_anew_without_a_checkpoint_the_rows_are_cut_off(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 4, "loss": 1.5}\n')
    log(tmp_path).close()
    assert rows(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "value"), [("loss", np.nan), ("loss", np.inf), ("grad_norm", np.nan)]
)
def test_what_is_not_finite_is_refused_with_its_step(name: str, value: float) -> None:
    values = metrics(1, 2, 3)
    check_finite(40, values)
    values[name][1] = value
    with pytest.raises(UserError, match=rf"training {name} at step 42 is {value}.*config.optim.lr"):
        check_finite(40, values)
