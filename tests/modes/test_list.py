"""--mode list: a line for each run, whatever is wrong with one of them."""

import json
import os
from pathlib import Path

from commands import refused
from runs import call, load

from score_sde.run_lib import list_runs
from score_sde.workdir import config as configurations
from score_sde.workdir import measurements


def made(folder: Path, step: int, at: float, **training: int) -> Path:
    """The files of a run, without weights."""
    (folder / "checkpoints" / str(step)).mkdir(parents=True)
    settings = load("vp/ddpmpp_cont:digits").change("training", **training)
    configurations.save(settings, folder / "config.json")
    rows = [{"step": 50, "loss": 3.0}, {"step": step, "loss": 2.5}, {"step": 50, "eval_loss": 2.75}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for path in folder.rglob("*"):
        os.utime(path, (at, at))
    return folder


def test_runs_are_told_the_newest_first(tmp_path: Path, capsys) -> None:
    made(tmp_path / "a", 100, 1e9, steps=200)
    deep = made(tmp_path / "group" / "b", 2000, 1.5e9)
    for step, value in ((1000, 7.5), (2000, 8.5)):
        row = {"metric": "fid", "value": value, "how": {"samples": 100}}
        measurements.record(deep, step, [row, {"metric": "loss", "value": 2.0, "how": {}}])
    (tmp_path / "no run").mkdir()
    call("list", runs=tmp_path)
    head, first, second = capsys.readouterr().out.splitlines()
    assert head.split()[:4] == ["run", "recipe", "step", "of"]
    assert first.startswith("group/b") and "2,000" in first and "FID 8.5 (step 2000)" in first
    measurements.choose(deep, measurements.read(deep)[1000], [1000, 2000])
    first, second = (row.cells for row in list_runs(runs=tmp_path))
    assert first[6] == "FID 7.5 (best, step 1000)"
    assert second[:7] == ("a", second[1], "100", "200", "2.5", "2.75", "-")
    assert second[1].endswith("digits") and second[8].startswith("2001-09-0")


def test_a_damaged_run_is_told_beside_the_others(tmp_path: Path) -> None:
    made(tmp_path / "a", 100, 1e9)
    made(tmp_path / "b", 100, 2e9)
    (tmp_path / "b" / "config.json").write_text("{")
    rows = {row.cells[0]: row.cells for row in list_runs(runs=tmp_path)}
    assert rows["b"][1] == "cannot be read" and "config.json is damaged" in rows["b"][6]
    assert rows["a"][2] == "100"


def test_no_runs(tmp_path: Path) -> None:
    refused("no folder", "list", runs=tmp_path / "none")
    refused("none of its folders has a config.json", "list", runs=tmp_path)
