"""--mode eval: the held-out loss, and a sweep over several runs."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from commands import RECIPE, refused, rows
from runs import call

from score_sde import program
from score_sde.data import digits
from score_sde.workdir import measurements


def test_eval_repeats_the_held_out_loss_of_training(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """In the default folder of the recipe."""
    monkeypatch.chdir(trained.parents[1])
    call("eval", config=RECIPE, checkpoint="60", values={"eval.metrics": "loss"})
    result = next(row for row in measurements.read(trained)[60] if row["metric"] == "loss")
    wanted = next(row["eval_loss"] for row in reversed(rows(trained)) if "eval_loss" in row)
    assert result["how"]["images"] == len(digits("test")) == 360
    np.testing.assert_allclose(result["value"], wanted, rtol=1e-5)
    assert 0 < result["standard_error"] < 0.1
    assert "checkpoint 60: held-out loss" in capsys.readouterr().out
    assert result["how"]["times"] == "uniform" and result["how"]["likelihood_weighting"] == 0
    few = {
        "eval.num_examples": 8,
        "eval.batch_size": 8,
        "training.times": "log_snr",
        "eval.metrics": "loss",
    }
    call("eval", trained, values=few)
    first, second = (row for row in measurements.read(trained)[60] if row["metric"] == "loss")
    assert first == result
    assert second["how"]["times"] == "log_snr" and second["how"]["images"] == 8


def test_a_sweep_over_runs_does_the_others_and_compares(
    evaluated: Path, tmp_path: Path, capsys: pytest.CaptureFixture, bits: dict[str, float]
) -> None:
    """Of three runs one has a checkpoint of another network."""
    good, foreign = tmp_path / "good", tmp_path / "foreign"
    shutil.copytree(evaluated, good)
    shutil.copytree(evaluated, foreign)
    config = json.loads((foreign / "config.json").read_text())
    config["model"]["nf"] = 16
    del config["digest"]  # an edit that is meant
    (foreign / "config.json").write_text(json.dumps(config))
    kept = {path: path.read_bytes() for path in foreign.glob("eval/**/*") if path.is_file()}
    runs = f"{foreign},{good},{evaluated}"
    few = {"eval.batch_size": 8, "eval.num_examples": 8, "eval.metrics": "loss"}
    refused("1 of 3 failed, see above: .*foreign. The others are done", "eval", runs, values=few)
    out, err = capsys.readouterr()
    assert out.count("checkpoint 60: held-out loss") == 2
    assert "checkpoint 60 in" in err and "of another network than the configuration" in err
    assert {path: path.read_bytes() for path in foreign.glob("eval/**/*") if path.is_file()} == kept
    named = {"workdir": [str(good), str(evaluated)], "output": str(tmp_path / "all")}
    program.run("summarize", named, [(name, str(value)) for name, value in bits.items()])
    lines = capsys.readouterr().out.splitlines()
    table = [
        line.split() for line in lines if line.startswith((str(good) + " ", str(evaluated) + " "))
    ]
    assert [row[1] for row in table] == ["10", "20"] * 2
    assert table[0][2] == table[2][2] != table[1][2]
    assert sorted(path.name for path in (tmp_path / "all").iterdir()) == [
        "bits_per_dim_comparison.png",
        "bound_bits_per_dim_comparison.png",
        "comparison.json",
    ]


def test_several_runs_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    one = str(tmp_path / "one")
    refused("named twice", "eval", f"{one},{one}/")
    refused("several runs; leave it out for one", "summarize", one, output=one)
    (tmp_path / "file").write_text("")
    file = tmp_path / "file"
    refused("file is a file", "summarize", f"{one},{tmp_path}", output=file)
