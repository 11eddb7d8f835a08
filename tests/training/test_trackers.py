"""What shows the metrics of a run: rows, pictures, and the same run after a kill."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from runs import call

from score_sde.errors import UserError
from score_sde.training.log import MetricsLog
from score_sde.training.trackers import TRACKERS, Track

PICTURE = np.zeros((4, 6, 3), np.uint8)


class Recorder(ModuleType):
    """A package that keeps what it is told, as wandb and trackio are told it."""

    def __init__(self) -> None:
        super().__init__("recorder")
        self.begun: list[dict[str, Any]] = []
        self.told: list[tuple[dict[str, Any], dict[str, Any]]] = []
        self.finished = 0
        self.Image = lambda picture: ("image", picture.shape)

    def init(self, **options: Any) -> Any:
        self.begun.append(options)
        return self

    def define_metric(self, name: str, step_metric: str) -> None:
        assert (name, step_metric) == ("*", "step")

    def log(self, values: dict[str, Any], **options: Any) -> None:
        self.told.append((values, options))

    def finish(self) -> None:
        self.finished += 1


def show(folder: Path, track: Track, step: int = 0) -> None:
    log = MetricsLog(folder, 2, 100, step, {}, track)
    log.steps(step, {"loss": np.asarray([1.0, 3.0])})
    log.image(step + 2, "samples", PICTURE)
    log.close()


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_rows_and_pictures_are_shown(name: str, tmp_path: Path, monkeypatch) -> None:
    fake = Recorder()
    monkeypatch.setitem(sys.modules, name, fake)
    for variable in ("WANDB_PROJECT", "TRACKIO_PROJECT"):
        monkeypatch.delenv(variable, raising=False)

    def track(folder: Path, step: int) -> Any:
        return TRACKERS[name](folder, step, config={"optim": {"lr": 0.1}})

    folder = tmp_path / "run"
    folder.mkdir()
    show(folder, track)
    show(folder, track, step=2)
    image = ("image", PICTURE.shape)
    loss, samples = {"loss": 2.0}, {"samples": image}
    rows = [(loss, 2), (samples, 2), (loss, 4), (samples, 4)]
    if name == "wandb":
        assert fake.told == [({"step": step} | values, {}) for values, step in rows]
    else:
        assert fake.told == [(values, {"step": step}) for values, step in rows]
    first, second = fake.begun
    assert first == second and first["resume"] == "allow" and fake.finished == 2
    assert first["project"] == "score_sde" and first["config"] == {"optim": {"lr": 0.1}}
    assert first["name"].startswith("run")
    show(tmp_path, track)
    assert fake.begun[-1] != first  # another folder is another run


def test_a_damaged_identity_is_told(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", Recorder())
    (tmp_path / "tracker_id.txt").write_text("\x00\x00")
    with pytest.raises(UserError, match=r"tracker_id.txt is damaged. Remove it"):
        TRACKERS["wandb"](tmp_path, 0)


def test_what_keeps_a_tracker_from_beginning_is_told(tmp_path: Path, monkeypatch) -> None:
    def init(**options: Any) -> None:
        raise RuntimeError("no API key")

    fake = Recorder()
    monkeypatch.setattr(fake, "init", init)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    with pytest.raises(UserError, match=r"RuntimeError: no API key.*WANDB_MODE=offline"):
        TRACKERS["wandb"](tmp_path, 0)


def test_a_missing_package_is_told_before_the_training(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "trackio", None)
    with pytest.raises(UserError, match=r'pip install "score_sde\[trackio\]"'):
        values = {"training.tracker": "trackio", "training.steps": 1}
        call("train", tmp_path / "run", "vp/ddpmpp_cont:digits", values=values)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_the_real_package_offline(name: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip(name)
    show(tmp_path, TRACKERS[name])
    show(tmp_path, TRACKERS[name], step=2)
    kept = tmp_path / name
    assert any(path.suffix in (".wandb", ".db") for path in kept.rglob("*"))
