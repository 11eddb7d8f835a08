"""--mode train_classifier, and samples of classes by it and by a class-conditional network."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from commands import SMALL, refused, rows
from PIL import Image
from runs import call, random_run

from score_sde.data import digits

CLASSIFIER = {
    "classifier.depth": 10,
    "classifier.widen": 1,
    "classifier.nf": 4,
    "classifier.batch_size": 16,
    "classifier.steps": 4,
    "classifier.log_every": 2,
    "classifier.eval_every": 2,
    "classifier.checkpoint_every": 2,
    "eval.num_examples": 40,
}
DRAWN = {"sampling.num_samples": 7, "sampling.batch_size": 8, "sampling.frames": 0}


def train(workdir: Path, **values: float) -> None:
    """In this process. (optax's Adam mixes types.)"""
    with jax.numpy_dtype_promotion("standard"):
        call("train_classifier", workdir, values=CLASSIFIER | values)


def samples(workdir: Path, classes: str | None, step: int, **values: object) -> dict:
    call("sample", workdir, classes=classes, values=DRAWN | values)
    with np.load(workdir / f"samples/step_{step}/samples.npz") as file:
        return dict(file)


def test_a_trained_classifier_goes_on_and_guides(trained: Path, tmp_path: Path, capsys) -> None:
    """Trained for 2 and then 2 more steps as for 4 at once; then samples of the asked classes."""
    workdir, again = tmp_path / "run", tmp_path / "again"
    shutil.copytree(trained, workdir)
    refused("holds no classifier; train one: .*train_classifier", "sample", workdir, classes="all")
    shutil.copytree(workdir, again)
    train(workdir)
    out = capsys.readouterr().out
    assert "classifier trained for 4 steps; right for " in out and "of 40 held-out images" in out
    assert f"--mode sample --workdir {workdir} --classes all" in out
    for steps in (2, 4):
        train(again, **{"classifier.steps": steps})
    assert rows(again / "classifier") == rows(workdir / "classifier")
    found = json.loads((workdir / "classifier/accuracy.json").read_text())
    assert found["images"] == 40 and len(found["levels"]) == 12
    assert all(0 <= row["accuracy"] <= 1 for row in found["levels"])
    assert (workdir / "classifier/accuracy.png").exists()
    for values in ({"classifier.widen": 2}, {"classifier.lr": 0.1}, {"optim.warmup": 3}):
        refused("belongs to another classifier", "train_classifier", workdir, values=values)
    refused("sigma_max|does not fit", "train_classifier", workdir, values={"sde.beta_max": 5.0})

    plain = samples(workdir, None, 60)
    assert "label" not in plain
    zero = samples(workdir, "3,8", 60, **{"sampling.guidance_scale": 0.0})
    assert "the classifier is not used" in capsys.readouterr().out
    np.testing.assert_array_equal(zero["images"], plain["images"])
    assert zero["label"].tolist() == [3, 8, 3, 8, 3, 8, 3]
    guided = samples(workdir, "3,8", 60, **{"sampling.guidance_scale": 50.0})
    assert (guided["images"] != plain["images"]).any()
    assert (guided["evaluations"] == plain["evaluations"]).all()
    one = samples(workdir, "3,8", 60, **{"sampling.guidance_scale": 50.0, **SMALLER})
    assert np.abs(one["images"].astype(int) - guided["images"].astype(int)).max() <= 1
    about = json.loads((workdir / "samples/step_60/sampling.json").read_text())
    assert about["classifier_step"] == 4 and about["guidance_scale"] == 50.0
    every = samples(workdir, "all", 60, **{"sampling.guidance_scale": 50.0})["images"]
    values = {"eval.metrics": "fid", "quality.extractor": "pixels", "quality.num_samples": 7}
    call(
        "eval", workdir, checkpoint="60", values=DRAWN | values | {"sampling.guidance_scale": 50.0}
    )
    (piece,) = workdir.glob("eval/samples/*/seed_*/samples_0000000_0000007.npz")
    with np.load(piece) as file:  # of all classes in turn, by the classifier
        np.testing.assert_array_equal(file["images"], every)
    off = {"sampling.guidance_scale": 50.0, "sampling.guidance_interval": "(1e6, 1e7)"}
    np.testing.assert_array_equal(samples(workdir, "3,8", 60, **off)["images"], plain["images"])


SMALLER = {"sampling.batch_size": 3}


@pytest.fixture(scope="module")
def conditional(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A class-conditional network with random weights."""
    folder = tmp_path_factory.mktemp("classes") / "run"
    return random_run(folder, "vp/ddpmpp_cont:digits", SMALL | {"model.num_classes": 10}, (2,))


def test_a_class_conditional_network_draws_classes(conditional: Path) -> None:
    plain, told = samples(conditional, None, 2), samples(conditional, "all", 2)
    assert told["label"].tolist() == list(range(7))
    with Image.open(conditional / "samples/step_2/grid.png") as grid:
        assert grid.width > 5 * grid.height  # a column for each class
    samples(conditional, "3,7", 2, **{"sampling.num_samples": 16})
    with Image.open(conditional / "samples/step_2/grid.png") as grid:
        assert grid.width == grid.height  # two columns for each
    assert (told["images"] != plain["images"]).any(axis=(1, 2, 3)).sum() >= 3
    assert (told["evaluations"] == plain["evaluations"]).all()
    three = samples(conditional, "3", 2)
    np.testing.assert_array_equal(three["images"][3], told["images"][3])
    guided = samples(conditional, "3", 2, **{"sampling.guidance_scale": 1.0})
    assert (guided["images"] != three["images"]).any(axis=(1, 2, 3)).sum() >= 3
    assert (guided["evaluations"] == 2 * three["evaluations"]).all()
    whole = samples(conditional, "3", 2, **{"sampling.guidance_scale": -1.0})
    np.testing.assert_array_equal(whole["images"], plain["images"])


@pytest.mark.parametrize(
    ("classes", "values", "message"),
    [
        (None, {"sampling.guidance_scale": 2.0}, "guidance_scale=2.0 .*nothing without --classes"),
        ("10", {}, "--classes 10: there are the classes 0 .. 9"),
        ("three", {}, "--classes must be numbers of classes, like 0,3,7, or all; got 'three'"),
        ("3", {"sampling.guidance_interval": "(2.0, 1.0)"}, "guidance_interval must be .*2.0, 1.0"),
    ],
)
def test_refusals(conditional: Path, classes: str | None, values: dict, message: str) -> None:
    refused(message, "sample", conditional, classes=classes, values=values)


def test_measured_samples_have_all_classes(conditional: Path) -> None:
    """The first ones are those of --classes=all; the way of sampling names them."""
    values = {"eval.metrics": "fid", "quality.extractor": "pixels", "quality.num_samples": 7}
    told = samples(conditional, "all", 2)["images"]
    call("eval", conditional, values=DRAWN | values)
    (piece,) = conditional.glob("eval/samples/*/seed_*/samples_0000000_0000007.npz")
    with np.load(piece) as file:
        np.testing.assert_array_equal(file["images"], told)
    assert json.loads((piece.parent / "settings.json").read_text())["classes"] == "all"


def test_data_have_as_many_classes_as_the_network(tmp_path: Path) -> None:
    values = SMALL | {"model.num_classes": 3}
    message = "num_classes=3, but data set 'digits' has 10 classes; set model.num_classes=10"
    refused(message, "train", tmp_path, config="vp/ddpmpp_cont:digits", values=values)
    assert digits("test").classes == 10


def test_a_classifier_needs_classes(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(4):
        Image.fromarray(np.full((8, 8), 60 * number, np.uint8)).save(folder / f"{number}.png")
    values = SMALL | {"data.path": folder, "data.image_size": 8, "data.channels": 1}
    workdir = random_run(tmp_path / "run", "vp/ddpmpp_cont:folder", values, (2,))
    refused("has no classes, and a classifier needs two", "train_classifier", workdir)
