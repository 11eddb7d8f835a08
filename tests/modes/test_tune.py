"""--mode tune: options of a solver, found on training images, kept trial by trial."""

import json
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import refused
from runs import call

from score_sde.build.ranges import Range, tuned_entries
from score_sde.modes import tune
from score_sde.workdir.config import load_json
from score_sde.workdir.reconstruct import NotFinite

CASE = {"inverse.task": "deblur", "inverse.solver": "cgls", "inverse.images": 4}


def trials(folder: Path) -> list[dict]:
    return json.loads((folder / "trials.json").read_text())["trials"]


def test_it_goes_on_as_if_never_interrupted(trained: Path, tmp_path: Path, capsys) -> None:
    values = CASE | {"inverse.std": 0.1, "inverse.iterations": 40}
    flags = {"ranges": "inverse.iterations=1:6:log", "copies": 2}
    for count in (2, 5):
        call("tune", trained, values=values, output=tmp_path / "two", trials=str(count), **flags)
    told = capsys.readouterr().out
    call("tune", trained, values=values, output=tmp_path / "one", trials="5", **flags)
    found = trials(tmp_path / "one")
    assert found == trials(tmp_path / "two") and len(found) == 5
    tried = [row["values"]["inverse.iterations"] for row in found]
    assert tried[0] == 40 and set(tried[1:]) <= set(range(1, 7)) and len(set(tried)) > 2
    best = max(found, key=lambda row: row["psnr_of_mean"])
    assert best is not found[0]
    kept = load_json(tmp_path / "one" / "config.json")
    assert kept.inverse.iterations == best["values"]["inverse.iterations"]
    assert kept.eval.split == load_json(trained / "config.json").eval.split  # only tune's is other
    assert f"psnr_of_mean {best['psnr_of_mean']:.4f}; as configured" in told
    assert not (tmp_path / "one" / "trial").exists()
    # The command it tells has all that makes its number, but for the images.
    command = told.split("Use it: ")[-1].split("\n")[0]
    flags_told = [part for part in shlex.split(command) if part.startswith("--config.")]
    again = dict(part.removeprefix("--config.").split("=") for part in flags_told)
    assert again.keys() == {"inverse.task", "inverse.solver", "inverse.images", "inverse.std"} | {
        "inverse.iterations"
    }
    again |= {"eval.split": "train"}
    call("reconstruct", trained, values=again, copies=2, output=tmp_path / "again")
    means = json.loads((tmp_path / "again" / "summary.json").read_text())["means"]
    assert means["psnr_of_mean"]["mean"] == pytest.approx(best["psnr_of_mean"], abs=1e-9)
    refused(
        "belongs to another one .copies: 2 there, 3 here.*--output",
        "tune",
        trained,
        values=values,
        output=tmp_path / "one",
        **flags | {"copies": "3"},
    )
    (tmp_path / "one" / "trials.json").write_text('{"trials": [{"values": 3}]}')
    message = "trials.json is damaged .*begins anew"
    refused(message, "tune", trained, values=values, output=tmp_path / "one", **flags)


def test_options_of_a_network(trained: Path, tmp_path: Path) -> None:
    """With samples: those of the same keys, and another objective."""
    values = {"inverse.task": "superresolve", "inverse.images": 2, "sampling.batch_size": 4}
    values |= {"sampling.t_end": 1e-3, "sampling.steps": 3}
    flags = {"copies": 2, "trials": "2", "objective": "ssim_of_mean"}
    call("tune", trained, values=values, output=tmp_path / "found", **flags)
    first, second = trials(tmp_path / "found")
    assert first["values"] == {"inverse.eta": 0.85} != second["values"]
    assert 0 <= second["values"]["inverse.eta"] <= 1
    assert first["ssim_of_mean"] != second["ssim_of_mean"]


def test_samples_that_are_not_finite(trained: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    real, calls = tune.reconstruct, []

    def sometimes(*arguments):
        calls.append(arguments)
        if len(calls) != 2:
            raise NotFinite("no numbers")
        return real(*arguments)

    monkeypatch.setattr(tune, "reconstruct", sometimes)
    call("tune", trained, values=CASE, output=tmp_path / "some", trials="3")
    found = [row["psnr_of_mean"] for row in trials(tmp_path / "some")]
    assert found[0] is None is found[2] and np.isfinite(found[1])
    assert "as configured is not finite" in capsys.readouterr().out
    calls.extend([()] * 10)
    refused("none of 2 trials gave finite", "tune", trained, values=CASE, trials="2")


@pytest.mark.parametrize(
    ("flags", "values", "message"),
    [
        ({"ranges": "inverse.eta=1:0"}, {}, "--ranges are an entry, its lowest.*inverse.eta=1:0"),
        ({"ranges": "inverse.eta=0:1:log"}, {}, "--ranges are an entry.*above 0 for :log"),
        ({"ranges": "inverse.eta"}, {}, "--ranges are an entry.*got 'inverse.eta'"),
        ({"ranges": "inverse.eta=0:1"}, {}, "inverse.eta is no option of inverse.solver=cgls; it"),
        ({"ranges": "model.nf=2:4"}, {}, "model.nf is no option of inverse.solver=cgls"),
        ({"ranges": "sampling.norm=2:4"}, {}, "config.sampling.norm is no number; got 'sample'"),
        ({"ranges": "sampling.size=2:4"}, {}, "config.sampling.size is no number; got None"),
        ({"ranges": "sampling.steps=2:4.5"}, {}, "config.sampling.steps takes whole numbers"),
        ({}, {"inverse.solver": "pinv"}, "inverse.solver=pinv has no options to tune; name"),
        ({"objective": "loss"}, {}, "--objective must be psnr_of_mean, .* got 'loss'"),
        ({"trials": "1"}, {}, "--trials counts .* at least 2; got 1"),
    ],
)
def test_refusals(trained: Path, flags: dict, values: dict, message: str) -> None:
    refused(message, "tune", trained, values=CASE | values, **flags)


def test_optuna_is_missing(trained: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    message = r"needs the package optuna.*pip install .score_sde\[tune\]"
    refused(message, "tune", trained, values=CASE)


def test_the_corrector_is_tuned_where_it_is_used(trained: Path) -> None:
    settings = load_json(trained / "config.json")

    def entries(solver: str, corrector: str) -> set[str]:
        changed = settings.change("inverse", solver=solver).change("sampling", corrector=corrector)
        return set(tuned_entries(changed, None))

    assert entries("projection", "langevin") == {"inverse.strength", "sampling.snr"}
    assert entries("projection", "none") == {"inverse.strength"}
    assert entries("ddnm", "langevin") == {"inverse.eta"}  # it brings its own steps
    assert entries("tv", "langevin") == {"inverse.tv_weight"}
    asked = {"sampling.steps": Range(2, 9)}
    assert tuned_entries(settings.change("inverse", solver="pinv"), asked) == asked
