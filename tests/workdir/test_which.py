"""Checkpoints and averages made of snapshots: on the command line, in names, in records."""

from pathlib import Path

import numpy as np
import pytest

from score_sde.errors import UserError
from score_sde.training.snapshots import save_snapshot
from score_sde.workdir import jobs, which
from score_sde.workdir.which import Phema


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    """A run with two snapshots, without anything else."""
    for step in (20, 100):
        save_snapshot(tmp_path / "snapshots", step, 0.05, {"w": np.ones(2)})
    return tmp_path


def test_what_the_command_line_names(workdir: Path) -> None:
    found = jobs.checkpoint_steps(["10", "phema:0.10", "phema:0.05:20,phema:2.5e-2"], workdir)
    assert found == [10, Phema(100, 0.1), Phema(20, 0.05), Phema(100, 0.025)]
    assert str(found[1]) == "phema:0.1:100"
    assert which.parse(str(found[1]), workdir) == found[1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("phema", "phema:STD, phema:STD:STEP, .*; got 'phema'"),
        ("phema:", "got 'phema:'"),
        ("phema:wide", "got 'phema:wide'"),
        ("phema:0.1:last", "got 'phema:0.1:last'"),
        ("phema:0.1:20:3", "got 'phema:0.1:20:3'"),
        ("power:0.1", "got 'power:0.1'"),
        ("phema:0.29", r"phema:0.29: the std .* must be in \(0, 0.29\); got 0.29"),
        ("phema:0", r"must be in \(0, 0.29\); got 0.0"),
        ("phema:nan", r"must be in \(0, 0.29\); got nan"),
        ("phema:0.1:21", r"no snapshot of step 21; there are \[20, 100\]"),
    ],
)
def test_what_it_cannot_name(workdir: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        jobs.checkpoint_steps([text], workdir)


def test_there_must_be_snapshots(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no snapshots, which phema needs"):
        jobs.checkpoint_steps(["phema:0.1"], tmp_path)


@pytest.mark.parametrize(
    ("one", "name"),
    [
        (7, "7"),
        (Phema(400, 0.1), "400_phema_0.1"),
        (Phema(3, 1e-05), "3_phema_1e-05"),
        (Phema(3, 0.123456789), "3_phema_0.123456789"),
    ],
)
def test_names_of_files(one: which.Which, name: str) -> None:
    assert which.in_name(one) == name and which.of_name(name) == one


@pytest.mark.parametrize("name", ["", "7_old", "best", "7_phema_", "7_phema_0.1.2", "-7", "7.0"])
def test_names_of_other_files(name: str) -> None:
    assert which.of_name(name) is None


def test_records() -> None:
    made = Phema(400, 0.1)
    assert which.record_of(7) == {"step": 7}
    assert which.record_of(made) == {"step": 400, "average": "phema:0.1"}
    assert which.record_in({"seed": 1} | which.record_of(made)) == which.record_of(made)
    assert which.average_of(7) == {} and which.average_of(made) == {"average": "phema:0.1"}


def test_curves_of_steps_and_profiles() -> None:
    made = [Phema(40, 0.1), Phema(20, 0.1), Phema(40, 0.05)]
    found = dict.fromkeys([40, *made, 20], 1.0) | {20: 2.0, made[1]: 3.0}
    assert sorted(found, key=which.order) == [20, made[1], 40, made[2], made[0]]
    curves = which.by_profile(found, "run")
    assert curves == {
        "run": {20: 2.0, 40: 1.0},
        "run phema:0.1": {20: 3.0, 40: 1.0},
        "run phema:0.05": {40: 1.0},
    }
    assert [list(curve) for curve in curves.values()] == [[20, 40], [20, 40], [40]]
