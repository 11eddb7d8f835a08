"""Short runs of other objectives and of energy models, from training to samples."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from commands import SMALL, rows
from runs import call

TINY: dict[str, Any] = {
    "training.batch_size": 8,
    "training.steps": 4,
    "training.log_every": 2,
    "training.eval_every": 0,
    "training.checkpoint_every": 4,
    "training.sample_every": 0,
    "sampling.num_samples": 4,
    "sampling.batch_size": 4,
    "sampling.frames": 0,
}


def trained(recipe: str, folder: Path, values: dict[str, Any]) -> None:
    """A few steps with finite losses, then samples."""
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam mixes types
        call("train", folder, recipe, values=values | TINY)
    found = [row for row in rows(folder) if "loss" in row]
    assert [row["step"] for row in found] == [2, 4]
    assert all(np.isfinite(row["loss"]) and row["grad_norm"] > 0 for row in found)
    call("sample", folder)
    with np.load(folder / "samples" / "step_4" / "samples.npz") as arrays:
        assert [a.shape for a in arrays.values() if a.ndim == 4] == [(4, 8, 8, 1)]


def test_noise_levels_are_trained_by_sliced_score_matching(tmp_path: Path) -> None:
    values = SMALL | {"sde.n": 4, "model.nf": 4, "training.objective": "sliced_vr"}
    trained("ve/ncsnpp:digits", tmp_path / "run", values)


@pytest.mark.slow
def test_an_ncsn_is_trained_by_sliced_score_matching(tmp_path: Path) -> None:
    values = {"model.nf": 4, "sde.n": 3, "sampling.steps": 3, "sampling.corrector_steps": 1}
    trained("ncsn/ncsn:digits", tmp_path / "run", values | {"training.objective": "sliced_vr"})


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["denoising", "sliced_vr", "shifted_nce"])
def test_energy_models(objective: str, tmp_path: Path) -> None:
    values = SMALL | {"model.prediction": "energy", "training.objective": objective}
    trained("ve/ncsnpp_cont:digits", tmp_path / "run", values)
