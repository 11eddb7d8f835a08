"""--mode train_dequantizer, and likelihoods with what it trained."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
from commands import refused, rows, table
from runs import call

FLOW = {
    "dequantizer.filters": 4,
    "dequantizer.components": 2,
    "dequantizer.couplings": 2,
    "dequantizer.context_filters": 4,
    "dequantizer.context_layers": 1,
    "dequantizer.heads": 0,
    "dequantizer.batch_size": 16,
    "dequantizer.steps": 4,
    "dequantizer.log_every": 2,
    "dequantizer.eval_every": 2,
    "dequantizer.checkpoint_every": 2,
}


def train(workdir: Path, values: dict) -> None:
    """In this process. (optax's Adam mixes types.)"""
    with jax.numpy_dtype_promotion("standard"):
        call("train_dequantizer", workdir, checkpoint="20", values=FLOW | values)


def test_a_trained_dequantizer_is_used_and_goes_on(
    evaluated: Path, tmp_path: Path, bits: dict[str, float], capsys
) -> None:
    """Trained for 2 and then 2 more steps as for 4 at once; its rows lie beside uniform ones."""
    workdir, again = tmp_path / "run", tmp_path / "again"
    variational = bits | {"eval.dequantization": "variational"}
    shutil.copytree(evaluated, workdir)
    message = "holds no dequantizer; train one: .*--mode train_dequantizer"
    refused(message, "likelihood", workdir, values=variational)
    values = FLOW | {"dequantizer.heads": 3}
    refused("heads, width 4", "train_dequantizer", workdir, values=values)
    shutil.copytree(workdir, again)
    train(workdir, bits)
    out = capsys.readouterr().out
    assert "dequantizer of checkpoint 20 trained for 4 steps. Use it: " in out
    assert f"--mode likelihood --workdir {workdir} --checkpoint 20" in out
    for steps in (2, 4):
        train(again, bits | {"dequantizer.steps": steps})
    assert rows(again / "dequantizer") == rows(workdir / "dequantizer")
    assert [row["step"] for row in rows(workdir / "dequantizer") if "eval_loss" in row] == [2, 4]
    for values, flags, message in (
        ({"dequantizer.lr": 0.1}, {}, "belongs to another dequantizer .lr: 0.001 there, 0.1 here"),
        ({"optim.warmup": 3}, {}, "warmup: .* there, 3 here"),
        ({}, {"checkpoint": "10"}, "score_checkpoint: 20 there, 10 here"),
    ):
        flags = {"checkpoint": "20"} | flags
        refused(message, "train_dequantizer", workdir, values=FLOW | values, **flags)
    assert (workdir / "metrics.jsonl").read_text() == (evaluated / "metrics.jsonl").read_text()

    call("likelihood", workdir, checkpoint="20", values=variational)
    folder = workdir / "eval" / "likelihood_test_variational_step_20"
    found, uniform = table(folder), table(workdir / "eval" / "likelihood_test_step_20")
    assert (np.abs(found["log_q"]) > 1e-3).all() and (uniform["log_q"] == 0).all()
    logp = -(found["bits_per_dim"] - np.log2(17) + 1) * 64 * np.log(2)
    np.testing.assert_allclose(logp, found["logp"] - found["log_q"], rtol=1e-4)
    settings = json.loads((folder / "settings.json").read_text())
    assert settings["source"].startswith("digits") and "360 images" in settings["source"]
    used = settings["dequantizer"]
    assert used["score_checkpoint"] == 20 and used["step"] == 4
    capsys.readouterr()
    call("summarize", workdir, values=variational)
    assert "likelihood_test_variational_step_20" in capsys.readouterr().out
