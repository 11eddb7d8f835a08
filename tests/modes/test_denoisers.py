"""Short runs of EDM, v-prediction and flow matching, from training to samples."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import rows, train_here
from runs import call

from score_sde.workdir import config as configurations
from score_sde.workdir.run import Run

SHORT: dict[str, Any] = {
    "training.steps": 4,
    "training.log_every": 2,
    "training.eval_every": 0,
    "training.checkpoint_every": 4,
    "training.sample_every": 0,
    "sampling.num_samples": 8,
    "sampling.batch_size": 8,
}


def trained(recipe: str, folder: Path, values: dict[str, Any]) -> set[str]:
    """The parts of the weights after a few steps, whose losses are finite."""
    train_here(folder, SHORT | values, recipe)
    found = [row for row in rows(folder) if "loss" in row]
    assert [row["step"] for row in found] == [2, 4]
    assert all(np.isfinite(row["loss"]) and row["grad_norm"] > 0 for row in found)
    params, _ = Run.of(configurations.load_json(folder / "config.json"), folder).weights()
    return set(params)


def test_edm_from_training_to_samples(tmp_path: Path) -> None:
    """With everything: augmentation, learned uncertainty, a held-out loss without either."""
    folder = tmp_path / "run"
    values = {"data.augment": 0.5, "training.uncertainty": True, "training.eval_every": 4}
    assert {"given", "uncertainty"} <= trained("edm/ddpmpp:digits", folder, values)
    (held_out,) = [row["eval_loss"] for row in rows(folder) if "eval_loss" in row]
    assert 1 < held_out < 200  # half a sum over 64 pixels; learned weights would make it near 1
    call("sample", folder)
    with np.load(folder / "samples" / "step_4" / "samples.npz") as arrays:
        assert [a.shape for a in arrays.values() if a.ndim == 4] == [(8, 8, 8, 1)]


@pytest.mark.parametrize(
    ("recipe", "values"),
    [
        ("straight/ddpmpp:digits", {}),
        ("vp/ddpmpp_cont:digits", {"model.prediction": "v", "training.weight": "output"}),
    ],
)
def test_predictions_are_trained(recipe: str, values: dict[str, Any], tmp_path: Path) -> None:
    assert not {"given", "uncertainty"} & trained(recipe, tmp_path / "run", values)
