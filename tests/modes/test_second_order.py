"""--mode train_second_order, and --mode uncertainty with what it trained or without."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from commands import SMALL, refused, rows
from PIL import Image
from runs import call, random_run

from score_sde.arrays import sample_keys
from score_sde.build.second_order import build_second_order
from score_sde.modes.report import uncertainties
from score_sde.report import Report, uncertainty_section
from score_sde.steppers import Ozaki, chain, noise_level_step
from score_sde.workdir.config import load_json
from score_sde.workdir.run import Run
from score_sde.workdir.second_order import make_second_order

SECOND = {
    "second_order.form": "full",
    "second_order.network": "mlp",
    "second_order.nf": 8,
    "second_order.batch_size": 16,
    "second_order.steps": 4,
    "second_order.log_every": 2,
    "second_order.eval_every": 2,
    "second_order.checkpoint_every": 2,
    "second_order.noise_min": 0.1,
    "eval.num_examples": 10,
    "eval.batch_size": 16,
}
EVAL = {"eval.num_examples": 10, "eval.batch_size": 16}


def train(workdir: Path, **values: object) -> None:
    """In this process. (optax's Adam mixes types.)"""
    with jax.numpy_dtype_promotion("standard"):
        call("train_second_order", workdir, checkpoint="2", values=SECOND | values)


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A score model of random weights at steps 2 and 4. Not to be changed."""
    folder = tmp_path_factory.mktemp("second") / "run"
    return random_run(folder, "vp/ddpmpp_cont:digits", SMALL, (2, 4))


@pytest.fixture(scope="module")
def trained(untrained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a second-order score of step 2, trained in one go. Not to be changed."""
    folder = tmp_path_factory.mktemp("second_trained") / "run"
    shutil.copytree(untrained, folder)
    train(folder)
    return folder


def results(folder: Path) -> tuple[dict, dict]:
    """(uncertainty.npz, calibration.json)."""
    with np.load(folder / "uncertainty.npz") as file:
        return dict(file), json.loads((folder / "calibration.json").read_text())


def test_it_goes_on_as_if_never_interrupted(trained: Path, untrained: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    shutil.copytree(untrained, again)
    for steps in (2, 4):
        train(again, **{"second_order.steps": steps})
    assert rows(again / "second_order") == rows(trained / "second_order")
    assert [row["step"] for row in rows(again / "second_order") if "eval_loss" in row] == [2, 4]
    weights = [make_second_order(Run.of(load_json(f / "config.json"), f)) for f in (trained, again)]
    for one, other in zip(*(jax.tree.leaves(found.params) for found in weights), strict=True):
        np.testing.assert_array_equal(one, other)
    about = json.loads((trained / "second_order" / "settings.json").read_text())
    assert about["score_checkpoint"] == 2 and about["form"] == "full"


@pytest.mark.parametrize("target", ["residual", "noise"])
def test_entries_reach_the_objective(untrained: Path, target: str) -> None:
    settings = load_json(untrained / "config.json")
    assert settings.second_order.target == "residual" and not settings.second_order.gamma
    changed = settings.change("second_order", target=target, gamma=0.3, variance_reduced=True)
    task, _ = build_second_order(Run.of(changed, untrained).experiment, params=())
    joint = task.objective
    assert (joint.gamma, joint.second.target, joint.second.variance_reduced) == (0.3, target, True)
    t = jnp.asarray([0.2, 0.7])
    _, sigma = joint.first.process.marginal(t)
    np.testing.assert_allclose(joint.first.weight(t), sigma**2, rtol=1e-6)
    np.testing.assert_allclose(joint.second.weight(t), 0.5 * sigma**4, rtol=1e-6)


@pytest.mark.parametrize(
    ("values", "checkpoint", "message"),
    [
        ({"second_order.nf": 9}, "2", "belongs to another second_order .nf: 8 there, 9 here"),
        ({}, "4", "score_checkpoint: 2 there, 4 here.*Go on with --checkpoint 2"),
        ({"optim.warmup": 3}, "2", "warmup: .* there, 3 here"),
        ({"second_order.noise_min": 1e-9}, "2", r"noise_min=1e-09.*in \[0.00.*, the range of"),
        ({"second_order.noise_max": 0.05}, "2", "noise_min=0.1, noise_max=0.05: .* in order"),
        ({"second_order.ch_mult": "()"}, "2", r"second_order.ch_mult=\(\) must be whole numbers"),
        (
            {"second_order.network": "unet", "second_order.ch_mult": "(1, 1, 1, 1, 1)"},
            "2",
            "must be multiples of 16; got 8 x 8",
        ),
    ],
)
def test_what_training_refuses(trained: Path, values: dict, checkpoint: str, message: str) -> None:
    refused(message, "train_second_order", trained, checkpoint=checkpoint, values=SECOND | values)


def test_uncertainty_of_a_trained_network(trained: Path, capsys) -> None:
    call("uncertainty", trained, checkpoint="2", noise="0.5", values=EVAL)
    out = capsys.readouterr().out
    assert "10 images with noise 0.5, curvature by network" in out and "squared error: " in out
    folder = trained / "uncertainty" / "network_step_2_noise_0.5"
    arrays, about = results(folder)
    assert about["second_order_step"] == 4 and about["step"] == 2 and about["images"] == 10
    assert about["variances"] == "exact" and about["negative_variances"] == 0
    assert about["pixel_range"] == [-1.0, 1.0] and len(about["calibration"]["directions"]) == 5
    assert arrays["vectors"].shape == (10, 5, 8, 8, 1) and (arrays["values"] > 0).all()
    run, page = Run.of(load_json(trained / "config.json"), trained), Report("one")
    uncertainty_section(page, uncertainties(run, 2))
    ratio = about["calibration"]["whole"]["ratio"]
    assert "noise 0.5, network, 10 images: all directions" in page.html()
    assert f"{ratio:.3g} +- " in page.html() and not uncertainties(run, 4)
    second = make_second_order(run)
    x, t = jnp.asarray(arrays["noisy"]), jnp.full(10, arrays["time"], jnp.float32)
    covariance = second.task.covariance_fn(second.params)(x, t)
    np.testing.assert_allclose(arrays["variance"], covariance.diagonal, rtol=1e-4)
    first = jnp.asarray(arrays["vectors"][:, 0])
    along = np.asarray(covariance.product(first))
    scaled = arrays["values"][:, 0, None, None, None] * arrays["vectors"][:, 0]
    np.testing.assert_allclose(along, scaled, atol=1e-3)
    with Image.open(folder / "uncertainty.png") as picture:  # 10 columns, 4 + 5 rows
        assert picture.width / 91 == picture.height / 82
    for flags, message in (
        ({"noise": "0.05"}, r"noise 0.05 .* trained for noise in \[0.1, .*--curvature=autodiff"),
        ({"checkpoint": "4"}, "trained for checkpoint 2, not 4; add --checkpoint 2"),
        ({"noise": "1e9"}, "--noise: .*, the range of the process; got 1e.09"),
        ({"noise": None}, "--noise is missing"),
        ({"directions": "65"}, "--directions is at most 64 for images of 64 .* got 65"),
    ):
        flags = {"checkpoint": "2", "noise": "0.5"} | flags
        refused(message, "uncertainty", trained, values=EVAL, **flags)


def test_a_score_that_is_trained_on(untrained: Path, tmp_path: Path) -> None:
    """gamma > 0: the score of second_order/ is another, and uncertainty takes it."""
    folder = tmp_path / "run"
    shutil.copytree(untrained, folder)
    train(folder, **{"second_order.gamma": 0.5, "second_order.steps": 2})
    run = Run.of(load_json(folder / "config.json"), folder)
    second, before = make_second_order(run), run.weights(2)[0]
    moved = jax.tree.map(lambda a, b: float(jnp.max(jnp.abs(a - b))), second.score, before)
    assert max(jax.tree.leaves(moved)) > 1e-6
    call("uncertainty", folder, checkpoint="2", noise="0.5", values=EVAL, output=tmp_path / "u")
    arrays, _ = results(tmp_path / "u")
    t = jnp.full(10, arrays["time"], jnp.float32)
    alpha, sigma = (float(v[0]) for v in run.experiment.process.marginal(t))
    x = jnp.asarray(arrays["noisy"])
    mean, old = (
        np.asarray(x + sigma**2 * run.experiment.model.score_fn(weights)(x, t)) / alpha
        for weights in (second.score, before)
    )
    np.testing.assert_allclose(arrays["mean"], mean, atol=1e-5)
    assert np.abs(mean - old).max() > 1e-4


OZAKI = {
    "sampling.corrector": "ozaki",
    "sampling.steps": 3,
    "sampling.t_end": 0.1,
    "sampling.num_samples": 3,
    "sampling.batch_size": 4,
    "sampling.frames": 0,
}


def test_sampling_with_a_trained_network(trained: Path) -> None:
    """Samples are those of the stepper that is given s2 by hand."""
    call("sample", trained, checkpoint="2", values=OZAKI)
    folder = trained / "samples" / "step_2"
    settings = load_json(trained / "config.json")
    own = {name.removeprefix("sampling."): value for name, value in OZAKI.items()}
    run = Run.of(settings.change("sampling", **own), trained)
    second, sampler = make_second_order(run), run.experiment.sampler
    process, predictor = run.experiment.process, sampler.stepper.steppers[0]
    size = noise_level_step(process, run.settings.sampling.snr)
    stepper = chain(predictor, Ozaki(second.task.curvature_fn(second.params), size))
    score_fn = run.experiment.model.score_fn(run.weights(2)[0])
    keys = sample_keys(run.keys()["sample"], jnp.arange(3))
    expected = dataclasses.replace(sampler, stepper=stepper)(keys, score_fn, (3, 8, 8, 1)).x
    with np.load(folder / "samples.npz") as file:
        images = np.asarray(run.experiment.pixel_range.decode(expected))
        assert np.mean(file["images"] == images) > 0.98  # rounding
        assert file["evaluations"].tolist() == [7, 7, 7]
    about = json.loads((folder / "sampling.json").read_text())
    assert about["corrector"] == "ozaki" and about["second_order_step"] == 4


@pytest.mark.parametrize(
    ("values", "checkpoint", "message"),
    [
        ({"sampling.t_end": 1e-3}, "2", r"noise 0.01.* is asked for, .* noise in \[0.1, "),
        ({}, "4", "trained for checkpoint 2, not 4; add --checkpoint 2, or take another config"),
        (
            {"sampling.compat": "published", "sampling.steps": 30},
            "2",
            "compat=published has no corrector=ozaki",
        ),
    ],
)
def test_what_sampling_refuses(trained: Path, values: dict, checkpoint: str, message: str) -> None:
    refused(message, "sample", trained, checkpoint=checkpoint, values=OZAKI | values)


def test_other_modes_refuse_the_corrector(untrained: Path) -> None:
    where = {"checkpoint": "2", "values": OZAKI}
    refused("holds no second_order; train one: .*train_second_order", "sample", untrained, **where)
    refused("corrector=ozaki is for --mode sample, eval", "inpaint", untrained, **where)


def test_uncertainty_without_a_network(untrained: Path, tmp_path: Path, capsys) -> None:
    """By the derivative of the score: columns of the covariance by finite differences."""
    where = {"checkpoint": "2", "noise": "0.5", "values": EVAL}
    message = "holds no second_order; train one: .*--mode train_second_order"
    refused(message, "uncertainty", untrained, curvature="network", **where)
    call("uncertainty", untrained, directions="2", output=tmp_path / "u", **where)
    assert "curvature by autodiff" in capsys.readouterr().out
    arrays, about = results(tmp_path / "u")
    assert "second_order_step" not in about and arrays["vectors"].shape == (10, 2, 8, 8, 1)
    run = Run.of(load_json(untrained / "config.json"), untrained)
    score_fn = run.experiment.model.score_fn(run.weights(2)[0])
    t = jnp.full(10, arrays["time"], jnp.float32)
    alpha, sigma = (float(v[0]) for v in run.experiment.process.marginal(t))
    assert sigma / alpha == pytest.approx(0.5, rel=1e-3) == about["noise"]
    x = jnp.asarray(arrays["noisy"])
    mean = (x + sigma**2 * score_fn(x, t)) / alpha
    np.testing.assert_allclose(arrays["mean"], mean, atol=1e-4)
    step = 0.03 * jnp.zeros_like(x).at[:, 3, 4].set(1)
    slope = (score_fn(x + step, t) - score_fn(x - step, t))[:, 3, 4, 0] / 0.06
    expected = 0.25 * (1 + sigma**2 * slope)
    np.testing.assert_allclose(arrays["variance"][:, 3, 4, 0], expected, atol=0.01)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"noise": "loud"}, "--noise is a standard deviation; it must be a positive .*got loud"),
        ({"directions": "0"}, "--directions is the number .*, at least 1; got 0"),
        ({"curvature": "hessian"}, "--curvature must be network or autodiff; got 'hessian'"),
    ],
)
def test_flags_that_make_no_sense(flags: dict, message: str) -> None:
    refused(message, "uncertainty", "nowhere", **flags)
