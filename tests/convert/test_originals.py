"""Published configurations in terms of ours: at published sizes they are the recipes, and what we lack is refused."""

import copy
import json

import pytest

from golden import golden
from score_sde import config as config_lib
from score_sde.convert.originals import translate
from score_sde.errors import UserError

SIZES = {
    "nf": 128,
    "ch_mult": [1, 2, 2, 2],
    "attn_resolutions": [16],
    "num_res_blocks": 4,
    "resamp_with_conv": True,
}


def original(folder: str) -> dict:
    return json.loads((golden(f"nets/{folder}") / "config.json").read_text())


@pytest.mark.parametrize(
    ("folder", "recipe", "model"),
    [
        ("score_sde_jax/ncsnpp_ve_continuous", "ve/ncsnpp_cont", SIZES),
        ("score_sde_pytorch/ncsnpp_ve_discrete", "ve/ncsnpp", SIZES),
        ("score_sde_jax/ddpmpp_vp_continuous", "vp/ddpmpp_cont", SIZES),
        ("score_sde_jax/ddpmpp_vp_discrete", "vp/ddpmpp", SIZES),
        ("score_sde_jax/ddpm_vp_discrete", "vp/ddpm", SIZES | {"num_res_blocks": 2}),
        ("ncsn/cond_refinenet_dilated", "ncsn/ncsn", {"ngf": 64}),
        ("ncsnv2/ncsnv2", "ncsnv2/ncsnv2", {"ngf": 128}),
        ("score_sde_jax/ncsnv2_64", "ncsnv2/ncsnv2", {"nf": 128}),
        ("score_sde_jax/ncsn", "ncsn/ncsn", {"nf": 128}),
    ],
)
def test_at_published_sizes_it_is_the_recipe(folder: str, recipe: str, model: dict) -> None:
    values = original(folder)
    values["model"] |= model
    if folder != "ncsn/cond_refinenet_dilated":  # MNIST
        values["data"]["image_size"] = 32
    found = translate(values)
    dataset = "mnist" if folder == "ncsn/cond_refinenet_dilated" else "cifar10"
    assert (found.recipe, found.dataset) == (recipe, dataset)
    ours = config_lib.load(f"configs/{recipe}.py:{dataset}").to_dict()
    for section in ("sde", "model", "data"):
        for name, value in found.changes.get(section, {}).items():
            assert ours[section][name] == value, (section, name)
    assert (
        found.changes["training"]["ema_rate" if recipe != "ncsn/ncsn" else "reduce"]
        == (ours["training"]["ema_rate" if recipe != "ncsn/ncsn" else "reduce"])
    )
    assert found.changes["training"]["reduce"] == ours["training"]["reduce"]
    assert found.changes["sampling"]["steps"] == ours["sampling"]["steps"]


def test_settings_of_training_and_sampling_carry_over() -> None:
    values = original("score_sde_jax/ddpmpp_vp_continuous")
    values["training"] |= {
        "sde": "subvpsde",
        "n_iters": 950_001,
        "likelihood_weighting": True,
        "importance_weighting": True,
    }
    values["optim"] |= {"lr": 1e-4, "grad_clip": -1.0, "warmup": 7}
    values["data"] |= {"dataset": "LSUN", "category": "bedroom", "uniform_dequantization": True}
    values["sampling"] = {
        "predictor": "reverse_diffusion",
        "corrector": "ald",
        "snr": 0.2,
        "n_steps_each": 3,
        "probability_flow": True,
    }
    found = translate(values)
    assert (found.recipe, found.dataset) == ("subvp/ddpmpp_cont", "bedroom")
    changes = found.changes
    assert changes["training"] | {"batch_size": 0, "ema_rate": 0} == {
        "batch_size": 0,
        "ema_rate": 0,
        "steps": 950_001,
        "reduce": "mean",
        "likelihood_weighting": 1.0,
        "times": "log_snr",
    }
    assert (changes["optim"]["lr"], changes["optim"]["grad_clip"], changes["optim"]["warmup"]) == (
        1e-4,
        0.0,
        7,
    )
    assert changes["data"]["dequantize"] and changes["data"]["centered"]
    assert changes["sampling"] == {
        "steps": 1000,
        "snr": 0.2,
        "corrector_steps": 3,
        "predictor": "probability_flow",
        "corrector": "annealed_langevin",
    }


def test_steps_of_ncsnv2_become_a_ratio() -> None:
    values = original("ncsnv2/ncsnv2") | {"sampling": {"step_lr": 6.2e-6, "n_steps_each": 5}}
    found = translate(values).changes["sampling"]
    ours = config_lib.load("configs/ncsnv2/ncsnv2.py:cifar10").sampling
    assert found["snr"] == pytest.approx(ours.snr, rel=1e-12)
    assert (found["corrector_steps"], found["steps"]) == (ours.corrector_steps, ours.steps) == (5, 232)


@pytest.mark.parametrize(
    ("folder", "section", "entries", "message"),
    [
        (
            "score_sde_jax/ddpmpp_vp_continuous",
            "training",
            {"sde": "edm"},
            r"training\.sde is 'edm'; known here are 'vesde'",
        ),
        ("score_sde_jax/ddpmpp_vp_discrete", "training", {"sde": "subvpsde"}, "does not exist"),
        (
            "score_sde_jax/ddpmpp_vp_continuous",
            "training",
            {"sde": "vesde"},
            "embeds sigma itself by sinusoids",
        ),
        (
            "score_sde_jax/ncsnpp_ve_continuous",
            "training",
            {"sde": "vpsde"},
            "scale_by_sigma=True divides a VP",
        ),
        (
            "score_sde_jax/ddpmpp_vp_continuous",
            "model",
            {"embedding_type": "fourier"},
            "embeds times of VP by Fourier",
        ),
        (
            "score_sde_jax/ddpmpp_vp_continuous",
            "model",
            {"normalization": "BatchNorm"},
            "only GroupNorm is here",
        ),
        (
            "score_sde_jax/ddpmpp_vp_continuous",
            "model",
            {"nf": "wide"},
            r"model\.nf must be of type int; got 'wide'",
        ),
        ("score_sde_jax/ddpmpp_vp_continuous", "model", {"name": "adm"}, r"model\.name is 'adm'"),
        ("score_sde_jax/ncsnv2_64", "training", {"continuous": True}, "goes with the discrete"),
        ("ncsnv2/ncsnv2", "model", {"sigma_dist": "uniform"}, "only geometric is here"),
        (
            "ncsn/cond_refinenet_dilated",
            "data",
            {"logit_transform": True},
            "logit_transform=True is not here",
        ),
    ],
)
def test_what_is_not_here_is_refused(folder: str, section: str, entries: dict, message: str) -> None:
    values = copy.deepcopy(original(folder))
    values[section] |= entries
    with pytest.raises(UserError, match=message):
        translate(values)


@pytest.mark.parametrize("values", [{}, {"model": {}, "data": {}}, {"model": [], "data": {}, "training": {}}])
def test_other_documents_are_refused(values: dict) -> None:
    with pytest.raises(UserError, match="it is no configuration of a published code"):
        translate(values)
