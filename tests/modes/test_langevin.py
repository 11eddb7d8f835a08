"""--mode sample and interpolate of NCSN: intermediate pictures, ways through the noise."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from commands import refused, rows
from PIL import Image
from processes import JOIN, run_two
from runs import call

from score_sde.parallel.samples import Generator


def read(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return dict(file)


def test_sample_shows_intermediate_pictures(langevin, capsys):
    call("sample", langevin)
    folder = langevin / "samples" / "step_4"
    assert read(folder / "samples.npz")["images"].shape == (10, 8, 8, 1)
    assert json.loads((folder / "sampling.json").read_text())["evaluations"] == 3 * 2 + 1
    with Image.open(folder / "intermediate.png") as picture:
        # 8 samples: the start, the state between, the samples; a pitch of 8 + 1 pixels.
        assert picture.size[0] * (1 + 9 * 8) == picture.size[1] * (1 + 9 * 3)
    assert "7 evaluations each" in capsys.readouterr().out
    call("sample", langevin, values={"sampling.frames": 0})
    assert (folder / "grid.png").exists() and not list(folder.glob("intermediate.png"))


def test_interpolation_through_the_noise(langevin, tmp_path):
    """Its ends: the first is the sample itself; all of a row start alike."""
    call("interpolate", langevin, output=tmp_path / "a", frames=4)
    call("sample", langevin)
    found = read(tmp_path / "a" / "frames.npz")["images"].astype(int)
    samples = read(langevin / "samples" / "step_4" / "samples.npz")["images"].astype(int)
    assert found.shape == (8, 4, 8, 8, 1)
    assert np.abs(found[:, 0] - samples[:8]).max() <= 1
    assert (found[:, 0] != found[:, -1]).any(axis=(1, 2, 3)).all()
    message = "a discrete chain has no latents of images"
    refused(message, "interpolate", langevin, temperature=0.5)


def test_interpolation_goes_to_the_noise_of_the_next_sample(langevin, tmp_path, monkeypatch):
    asked = {}

    def draw_all(draw, params, keys, given, title):
        asked.update(given, start=keys)
        return np.zeros((len(keys), 8, 8, 1), np.float32)

    monkeypatch.setattr(Generator, "all", draw_all)
    values = {"sampling.num_samples": 3}
    call("interpolate", langevin, output=tmp_path, frames=3, values=values)
    angles = np.pi / 4 * np.asarray([0, 1, 2, 0, 1, 2])
    np.testing.assert_allclose(asked["angle"], angles, rtol=1e-6)
    start, other = (np.asarray(jax.random.key_data(asked[name])) for name in ("start", "keys"))
    np.testing.assert_array_equal(other[0], start[3])  # the first pair ends where the second begins
    assert all((part == part[[0, 0, 0, 3, 3, 3]]).all() for part in (start, other))
    assert (start != other).any(axis=1).all()


def test_refusals(langevin):
    refused("--copies=1,000,000,000 takes .* GiB", "inpaint", langevin, copies=10**9)
    refused("--frames=1,000,000,000 takes .* GiB", "interpolate", langevin, frames=10**9)
    message = "--mask means nothing to --mode sample; it belongs to inpaint"
    refused(message, "sample", langevin, mask="left")
    refused("snr must be below 1", "sample", langevin, values={"sampling.snr": 1.0})


PROCESS = """
import sys, run_lib
run_lib.run("sample", workdirs=[sys.argv[1]])
run_lib.run("interpolate", workdirs=[sys.argv[1]])
"""


@pytest.mark.slow
def test_two_processes_give_what_one_gives(langevin, tmp_path):
    """Random keys, and what the samples depend on, are split over the devices of both."""
    shutil.copytree(langevin, tmp_path / "run")
    run_two(["-c", JOIN + PROCESS, tmp_path / "run"])
    call("sample", langevin)
    call("interpolate", langevin)
    for name in ("step_4/samples.npz", "interpolate_step_4/frames.npz"):
        folders = (tmp_path / "run", langevin)
        both, alone = (read(folder / "samples" / name)["images"] for folder in folders)
        assert both.shape == alone.shape
        assert np.abs(both.astype(int) - alone.astype(int)).max() <= 1  # rounding to levels
    assert (tmp_path / "run" / "samples" / "step_4" / "intermediate.png").exists()


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["ncsn/ncsn:digits", "ncsnv2/ncsnv2:digits"])
def test_training_lowers_the_held_out_loss(recipe, tmp_path, langevin_values):
    """From the command line's function to checkpoints: a narrow network, 60 steps."""
    values = langevin_values | {
        "model.nf": 8,
        "training.steps": 60,
        "training.eval_every": 30,
        "training.batch_size": 32,
        "training.checkpoint_every": 30,
        "training.keep_every": 0,
        "training.log_every": 10,
    }
    with jax.numpy_dtype_promotion("standard"):
        call("train", tmp_path / "run", recipe, values=values)
    losses = [row["eval_loss"] for row in rows(tmp_path / "run") if "eval_loss" in row]
    assert losses[-1] < losses[0] < 64
    call("sample", tmp_path / "run")
    assert read(tmp_path / "run" / "samples" / "step_60" / "samples.npz")["finite"].all()
