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
    "training.steps": 6,
    "training.log_every": 2,
    "training.eval_every": 6,
    "training.checkpoint_every": 6,
    "training.sample_every": 0,
    "sampling.num_samples": 4,
    "sampling.batch_size": 4,
}


@pytest.mark.parametrize(
    ("recipe", "values"),
    [
        ("edm/ddpmpp:digits", {"data.augment": 0.5, "training.uncertainty": True}),
        ("straight/ddpmpp:digits", {}),
        ("vp/ddpmpp_cont:digits", {"model.prediction": "v", "training.weight": "output"}),
    ],
)
def test_from_training_to_samples(recipe: str, values: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    train_here(folder, SHORT | values, recipe)
    found = rows(folder)
    assert [row["step"] for row in found if "loss" in row] == [2, 4, 6]
    assert all(np.isfinite(row["loss"]) and row["grad_norm"] > 0 for row in found if "loss" in row)
    (held_out,) = [row["eval_loss"] for row in found if "eval_loss" in row]
    assert 0 < held_out < 200
    params, _ = Run.of(configurations.load_json(folder / "config.json"), folder).weights()
    assert ("given" in params) == ("data.augment" in values)
    assert ("uncertainty" in params) == ("training.uncertainty" in values)
    call("sample", folder)
    with np.load(folder / "samples" / "step_6" / "samples.npz") as arrays:
        images = arrays[arrays.files[0]]
    assert images.shape == (4, 8, 8, 1)
