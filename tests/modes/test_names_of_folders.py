"""Working directories with commas, colons and blanks in their names; repeated flags."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from commands import refused, train_here
from runs import call

from score_sde import program
from score_sde.errors import UserError

SHORT = {
    "training.steps": 1,
    "training.eval_every": 0,
    "training.sample_every": 0,
    "sampling.num_samples": 3,
    "sampling.frames": 0,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run trained in a folder with such a name."""
    folder = tmp_path_factory.mktemp("runs") / "lr=0.1,bs=16 2026-11-29T10:30:00"
    train_here(folder, SHORT)
    return folder


@pytest.mark.parametrize("name", ["lr=0.1,bs=16", "same"])
def test_every_mode_finds_the_folder(
    folder: Path, tmp_path: Path, name: str, monkeypatch, capsys
) -> None:
    """By a relative and by an absolute path; the commands in messages are for a shell."""
    run = folder if name == "same" else tmp_path / name
    if name != "same":
        shutil.copytree(folder, run)
    blanks = " " in run.name
    message = rf"--mode sample --workdir {chr(39) if blanks else ''}{run}"
    refused(message, "report", run)
    call("sample", run)
    assert f"{run / 'samples' / 'step_1'}\n" in capsys.readouterr().out
    monkeypatch.chdir(run.parent)
    call("report", run.name)
    assert capsys.readouterr().out.startswith("report: ")
    assert (run / "report.html").exists()


def test_training_goes_on_in_the_folder(folder: Path, tmp_path: Path, capsys) -> None:
    shutil.copytree(folder, tmp_path / folder.name)
    train_here(tmp_path / folder.name, SHORT)
    assert "trained for 1 steps already" in capsys.readouterr().out


def test_repeated_flags_name_several_runs_and_checkpoints(
    folder: Path, tmp_path: Path, capsys
) -> None:
    """Repeated, a flag is taken as it is; a single one is split where no such folder exists."""
    values = {"sampling.num_samples": 3, "sampling.frames": 0}.items()
    overrides = [(name, str(value)) for name, value in values]
    one, two = tmp_path / "lr=0.1,bs=16", tmp_path / "lr=0.2,bs=16"
    plain, other = tmp_path / "plain", tmp_path / "other"
    for run in (one, two, plain, other):
        shutil.copytree(folder, run)
    given = {"workdir": [str(one), str(two)], "checkpoint": ["7", "1"]}
    with pytest.raises(UserError, match="2 of 2 failed"):
        program.run("sample", given, overrides)
    out, err = capsys.readouterr()
    assert out.count("3 samples of checkpoint 1") == 2
    assert err.count("error: checkpoint 7: there is no checkpoint 7") == 2
    program.run("sample", {"workdir": [f"{plain},{other}"]}, overrides)
    drawn = [run / "samples" / "step_1" / "samples.npz" for run in (one, two, plain, other)]
    first, *others = (np.load(path)["images"] for path in drawn)
    assert len(first) == 3 and all(np.array_equal(images, first) for images in others)
