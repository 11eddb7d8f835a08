"""--mode tune_steps: the grid it finds is better on other latents, and the run samples with it."""

import json
import shutil

import jax
import numpy as np
import pytest
from commands import refused
from runs import call


def test_the_run_samples_with_what_was_found(trained, tmp_path, capsys):
    workdir = tmp_path / "run"
    shutil.copytree(trained, workdir)
    values = {"sampling.batch_size": 16, "sampling.t_end": 1e-3}
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam mixes types
        call("tune_steps", workdir, evaluations=4, solvers="ddim,dpmpp_2m", values=values)
    out = capsys.readouterr().out
    assert "  ddim               3 steps" in out and "  dpmpp_2m           3 steps" in out
    found = json.loads((workdir / "eval/solver_4_step_60.json").read_text())
    assert found["step"] == 60 and found["evaluations"] == 4
    assert found["error"] < min(found["errors_of_other_grids"].values())
    own = json.loads((workdir / "config.json").read_text())["sampling"]
    assert {name: own[name] for name in found["sampling"]} == found["sampling"]
    assert (own["grid"], own["corrector"], own["steps"]) == ("times", "none", 3)
    assert np.shape(own["times"]) == (4,) and own["times"][-1] == pytest.approx(1e-3)
    call("sample", workdir, values={"sampling.num_samples": 4, "sampling.frames": 0})
    assert "4 samples of checkpoint 60 (4 evaluations each)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"solvers": "euler_ancestral"}, "solvers without noise .*; got 'euler_ancestral'"),
        ({"solvers": "dpm_solver_adaptive"}, "steps of a grid: ddim, .*got 'dpm_solver_adaptive'"),
        ({"solvers": "dpm_solver", "evaluations": 3}, "one step of dpm_solver makes 4 .*got 3"),
        ({"evaluations": 1}, "--evaluations .* at least 2; got 1"),
    ],
)
def test_refusals(trained, flags, message):
    refused(message, "tune_steps", trained, **flags)
