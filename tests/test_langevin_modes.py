"""The modes of NCSN and NCSNv2: suggest, sample, inpaint, interpolate through the noise, select."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from processes import JOIN, run_two
from runs import call, random_run

import run_lib
from score_sde import config as config_lib
from score_sde import measurements
from score_sde.data import digits, take
from score_sde.errors import UserError
from score_sde.metrics import Moments, frechet_distance, small_pixels

RECIPE = "configs/ncsnv2/ncsnv2.py:digits"
SMALL = {
    "sde.n": 3,
    "model.nf": 2,
    "sampling.steps": 3,
    "sampling.corrector_steps": 2,
    "sampling.num_samples": 10,
    "sampling.batch_size": 8,
    "sampling.frames": 2,
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A tiny NCSNv2 with two checkpoints of random weights: compiling a training step would take minutes."""
    return random_run(tmp_path_factory.mktemp("runs") / "tiny", RECIPE, SMALL, steps=(2, 4))


def load(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return dict(file)


def test_sample_shows_intermediate_pictures(trained, capsys):
    call("sample", trained)
    folder = trained / "samples" / "step_4"
    assert load(folder / "samples.npz")["images"].shape == (10, 8, 8, 1)
    assert json.loads((folder / "sampling.json").read_text())["evaluations"] == 3 * 2 + 1
    with Image.open(folder / "intermediate.png") as picture:
        # 8 samples: the start, the state between, the samples; a pitch of 8 + 1 pixels.
        assert picture.size[0] * (1 + 9 * 8) == picture.size[1] * (1 + 9 * 3)
    assert "7 evaluations each" in capsys.readouterr().out
    call("sample", trained, values={"sampling.frames": 0})
    assert (folder / "grid.png").exists() and not list(folder.glob("intermediate.png"))


def test_inpaint_keeps_what_is_known(trained, tmp_path):
    mask = np.zeros((8, 8), np.uint8)
    mask[2:5, 1:7] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    call(
        "inpaint", trained, output=str(tmp_path / "out"), mask=str(tmp_path / "mask.png"), copies=3,
        values={"eval.num_examples": 4},
    )  # fmt: skip
    found = load(tmp_path / "out" / "inpaint.npz")
    images, originals, known = found["images"], found["originals"], found["known"][..., 0]
    np.testing.assert_array_equal(known, mask == 255)
    np.testing.assert_array_equal(originals, take(digits("test"), np.arange(8))["image"])
    assert images.shape == (8, 3, 8, 8, 1) and found["step"] == 4
    np.testing.assert_array_equal(
        images[:, :, known], np.broadcast_to(originals[:, None, known], images[:, :, known].shape)
    )
    unknown = images[:, :, ~known]
    assert (unknown[:, 0] != unknown[:, 1]).any() and (unknown != originals[:, None, ~known]).any()
    assert (tmp_path / "out" / "grid.png").exists()


def test_inpaint_depends_neither_on_the_batch_nor_on_what_is_hidden(trained, tmp_path):
    given, images = take(digits("test"), np.arange(8))["image"], []
    for size in (8, 16):
        np.savez(tmp_path / "given.npz", images=given)
        call(
            "inpaint", trained, output=str(tmp_path / f"{size}"), mask="top", copies=2,
            input=str(tmp_path / "given.npz"), values={"sampling.batch_size": size},
        )  # fmt: skip
        images.append(load(tmp_path / f"{size}" / "inpaint.npz")["images"].astype(int))
        given[:, 4:] = 16 - given[:, 4:]
    assert np.abs(images[0] - images[1]).max() <= 1  # rounding to levels
    assert (images[0] != images[1]).mean() < 0.01


def test_interpolation_through_the_noise(trained, tmp_path):
    """Its ends: the first is the sample itself; all of a row start alike."""
    call("interpolate", trained, output=str(tmp_path / "a"), frames=4)
    call("sample", trained)
    rows = load(tmp_path / "a" / "frames.npz")["images"].astype(int)
    samples = load(trained / "samples" / "step_4" / "samples.npz")["images"].astype(int)
    assert rows.shape == (8, 4, 8, 8, 1)
    assert np.abs(rows[:, 0] - samples[:8]).max() <= 1
    assert (rows[:, 0] != rows[:, -1]).any(axis=(1, 2, 3)).all()
    with pytest.raises(UserError, match="a discrete chain has no latents of images"):
        call("interpolate", trained, temperature=0.5)


def test_interpolation_goes_to_the_noise_of_the_next_sample(trained, tmp_path, monkeypatch):
    asked = {}

    def draw_all(draw, params, keys, given, title):
        asked.update(given, start=keys)
        return np.zeros((len(keys), 8, 8, 1), np.float32)

    monkeypatch.setattr(run_lib, "draw_all", draw_all)
    call("interpolate", trained, output=str(tmp_path), frames=3, values={"sampling.num_samples": 3})
    np.testing.assert_allclose(asked["angle"], np.pi / 4 * np.asarray([0, 1, 2, 0, 1, 2]), rtol=1e-6)
    start, other = (np.asarray(jax.random.key_data(asked[name])) for name in ("start", "keys"))
    np.testing.assert_array_equal(other[0], start[3])  # the first pair ends where the second begins
    assert all((rows == rows[[0, 0, 0, 3, 3, 3]]).all() for rows in (start, other))
    assert (start != other).any(axis=1).all()


def test_select_and_the_best_checkpoint(trained, tmp_path, capsys):
    with pytest.raises(UserError, match=r"best checkpoint of .* has not been sought; do: .*--mode select"):
        call("sample", trained, checkpoint="best")
    call("select", trained, values={"quality.extractor": "pixels"})
    distances = {step: rows[0]["value"] for step, rows in measurements.read(trained).items()}
    chosen = json.loads((trained / "eval" / "selection.json").read_text())
    assert set(distances) == {2, 4} and chosen["how"]["samples"] == 10 and chosen["metric"] == "fid"
    best = min(distances, key=distances.__getitem__)
    assert chosen["best"] == best
    assert f"checkpoint {best:>9}  FID {distances[best]:.5g}  <- best" in capsys.readouterr().out
    call("sample", trained, checkpoint="best")
    assert f"checkpoint {best} " in capsys.readouterr().out
    samples = load(trained / "samples" / f"step_{best}" / "samples.npz")["images"]
    training = take(digits("train"), np.arange(len(digits("train"))))["image"]
    moments = [Moments.of(small_pixels(images / np.float32(16))) for images in (samples, training)]
    assert distances[best] == pytest.approx(frechet_distance(*moments), rel=1e-2)
    with pytest.raises(UserError, match="--checkpoint means nothing to --mode select"):
        call("select", trained, checkpoint="2")


def test_suggest_writes_a_configuration(tmp_path, capsys):
    """On digits: largest distance 4.815; 64 dimensions and the budget of the recipe."""
    call("suggest", config=RECIPE, output=str(tmp_path / "mine" / "c.json"))
    config = config_lib.load(str(tmp_path / "mine" / "c.json"))
    recipe = config_lib.load(RECIPE)
    found = config_lib.differences(recipe, config)
    assert set(found) <= {"sde.sigma_max", "sampling.snr"}
    assert config.sde.sigma_max == pytest.approx(4.815) and config.sde.n == 22
    assert config.sampling.snr == pytest.approx(recipe.sampling.snr, rel=2e-3)
    out = capsys.readouterr().out
    assert "overlap 0.567" in out and "overlap 0.5 " in out.replace("\n", " ") and "published" not in out


def test_suggest_takes_the_variant_of_the_network_for_the_images(tmp_path):
    call("suggest", config=RECIPE, output=str(tmp_path / "c.json"), values={"model.variant": "256"})
    assert config_lib.load(str(tmp_path / "c.json")).model.variant == "64"


def test_suggest_compares_with_the_published_settings(capsys):
    """Shown before the data are opened, which are not here."""
    for dataset, numbers in {"cifar10": (232, 219), "ffhq_256": (2311, 2182)}.items():
        with pytest.raises(UserError):
            call("suggest", config=f"configs/ncsnv2/ncsnv2.py:{dataset}", values={"data.path": "nowhere"})
        line = next(x for x in capsys.readouterr().out.splitlines() if x.startswith("n, number of scales"))
        assert line.split()[-3:] == [str(n) for n in (*numbers, numbers[0])]


def test_suggest_measures_in_the_range_of_the_model(tmp_path):
    """Pixels in [-1, 1] are twice as far apart."""
    recipe, values = "configs/ve/ncsnpp_cont.py:digits", {"data.centered": True}
    call("suggest", config=recipe, output=str(tmp_path / "c.json"), values=values)
    assert config_lib.load(str(tmp_path / "c.json")).sde.sigma_max == pytest.approx(2 * 4.815, abs=2e-3)


def test_suggest_for_a_ve_recipe_changes_sigma_max_alone(tmp_path):
    call("suggest", config="configs/ve/ncsnpp_cont.py:digits", output=str(tmp_path / "c.json"))
    found = config_lib.differences(
        config_lib.load("configs/ve/ncsnpp_cont.py:digits"), config_lib.load(str(tmp_path / "c.json"))
    )
    assert set(found) == {"sde.sigma_max"}


@pytest.mark.parametrize(
    ("mode", "flags", "message"),
    [
        ("suggest", {"config": "configs/vp/ddpmpp_cont.py:digits"}, "vp has no noise scales to choose"),
        ("suggest", {"config": RECIPE, "output": "a.txt"}, "must be a .json file"),
        ("inpaint", {"mask": "middle"}, "--mask middle is no file, and none of the words left, right, top, bottom"),
        ("inpaint", {"mask": "tests"}, "--mask tests is no file"),
        ("inpaint", {"copies": 0}, "--copies is the number of completions of each image, at least 1; got 0"),
        ("sample", {"mask": "left"}, "--mask means nothing to --mode sample; it belongs to inpaint"),
        ("sample", {"values": {"sampling.snr": 1.0}}, "snr must be below 1"),
        ("select", {"values": {"sampling.num_samples": 1}}, "needs config.sampling.num_samples of 2 or more; got 1"),
        ("inpaint", {"values": {"sampling.grid": "uniform"}}, "needs config.sampling.grid=levels"),
    ],
)  # fmt: skip
def test_refusals(trained, mode, flags, message):
    flags = {"workdir": trained if mode != "suggest" else None} | flags
    with pytest.raises(UserError, match=message):
        call(mode, **flags)


def test_masks_that_say_nothing(trained, tmp_path):
    for value, word in ((255, "everything"), (0, "nothing")):
        Image.fromarray(np.full((8, 8), value, np.uint8)).save(tmp_path / "m.png")
        with pytest.raises(UserError, match=f"says that {word} is known"):
            call("inpaint", trained, mask=str(tmp_path / "m.png"))
    Image.fromarray(np.zeros((8, 9), np.uint8)).save(tmp_path / "m.png")
    with pytest.raises(UserError, match=r"m.png: 8 x 9 pixels, not 8 x 8"):
        call("inpaint", trained, mask=str(tmp_path / "m.png"))


PROCESS = """
import sys, run_lib
run_lib.run("sample", None, [], sys.argv[1])
run_lib.run("interpolate", None, [], sys.argv[1])
"""


@pytest.mark.slow
def test_two_processes_give_what_one_gives(trained, tmp_path):
    """Random keys, and what the samples depend on, are split over the devices of both."""
    shutil.copytree(trained, tmp_path / "run")
    run_two(["-c", JOIN + PROCESS, tmp_path / "run"])
    call("sample", trained)
    call("interpolate", trained)
    for name in ("step_4/samples.npz", "interpolate_step_4/frames.npz"):
        both, alone = (load(folder / "samples" / name)["images"] for folder in (tmp_path / "run", trained))
        assert both.shape == alone.shape
        assert np.abs(both.astype(int) - alone.astype(int)).max() <= 1  # rounding to levels
    assert (tmp_path / "run" / "samples" / "step_4" / "intermediate.png").exists()


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["configs/ncsn/ncsn.py:digits", "configs/ncsnv2/ncsnv2.py:digits"])
def test_training_lowers_the_held_out_loss(recipe, tmp_path):
    """From the command line's function to checkpoints: a narrow network, 60 steps."""
    values = SMALL | {
        "model.nf": 8,
        "training.steps": 60,
        "training.eval_every": 30,
        "training.batch_size": 32,
    }
    values |= {"training.checkpoint_every": 30, "training.keep_every": 0, "training.log_every": 10}
    with jax.numpy_dtype_promotion("standard"):
        call("train", tmp_path / "run", recipe, values=values)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [row["eval_loss"] for row in rows if "eval_loss" in row]
    assert losses[-1] < losses[0] < 64
    call("sample", tmp_path / "run")
    assert load(tmp_path / "run" / "samples" / "step_60" / "samples.npz")["finite"].all()
