"""Published configurations are our recipes at published sizes; what we lack is refused."""

import copy

import pytest
from networks.published import config_of, find

from score_sde.convert.originals import translate
from score_sde.errors import UserError
from score_sde.workdir import config as configurations

SIZES = {
    "nf": 128,
    "ch_mult": [1, 2, 2, 2],
    "attn_resolutions": [16],
    "num_res_blocks": 4,
    "resamp_with_conv": True,
}
JAX, PYTORCH = "score_sde_jax", "score_sde_pytorch"
VE, VP = {"training__sde": "vesde"}, {"training__sde": "vpsde"}
CONT, DISC = {"training__continuous": True}, {"training__continuous": False}
PLUS = {"model__name": "ncsnpp", "model__resblock_type": "biggan", "model__progressive": "none"}
NCSNPP = PLUS | {"model__progressive_input": "residual"}
DDPMPP = PLUS | {"model__progressive_input": "none", "model__fir": False}
VP_CONT = find(JAX, **DDPMPP, **VP, **CONT)
VE_CONT = find(JAX, **NCSNPP, **VE, **CONT)
VP_DISC = find(JAX, **DDPMPP, **VP, **DISC)
NCSN, NCSNV2 = find("ncsn", data__dataset="MNIST"), find("ncsnv2", data__dataset="CIFAR10")
JAX_NCSNV2 = find(JAX, model__name="ncsnv2_64")


@pytest.mark.parametrize(
    ("folder", "recipe", "model"),
    [
        (VE_CONT, "ve/ncsnpp_cont", SIZES),
        (find(PYTORCH, **NCSNPP, **VE, **DISC), "ve/ncsnpp", SIZES),
        (VP_CONT, "vp/ddpmpp_cont", SIZES),
        (VP_DISC, "vp/ddpmpp", SIZES),
        (find(JAX, model__name="ddpm", **VP, **DISC), "vp/ddpm", SIZES | {"num_res_blocks": 2}),
        (NCSN, "ncsn/ncsn", {"ngf": 64}),
        (NCSNV2, "ncsnv2/ncsnv2", {"ngf": 128}),
        (JAX_NCSNV2, "ncsnv2/ncsnv2", {"nf": 128}),
        (find(JAX, model__name="ncsn"), "ncsn/ncsn", {"nf": 128}),
    ],
)
def test_at_published_sizes_it_is_the_recipe(folder: str, recipe: str, model: dict) -> None:
    values = config_of(folder)
    values["model"] |= model
    if folder != NCSN:  # MNIST
        values["data"]["image_size"] = 32
    found = translate(values)
    dataset = "mnist" if folder == NCSN else "cifar10"
    assert (found.recipe, found.dataset) == (recipe, dataset)
    ours = configurations.load(f"{recipe}:{dataset}").to_dict()
    for section in ("sde", "model", "data"):
        for name, value in found.changes.get(section, {}).items():
            assert ours[section][name] == value, (section, name)
    assert (
        found.changes["training"]["ema_rate" if recipe != "ncsn/ncsn" else "reduce"]
        == (ours["training"]["ema_rate" if recipe != "ncsn/ncsn" else "reduce"])
    )
    assert found.changes["training"]["reduce"] == ours["training"]["reduce"]
    assert found.changes["sampling"]["steps"] == ours["sampling"]["steps"]


@pytest.mark.parametrize(
    ("name", "dataset"),
    [("brats", "brats"), ("ct2d_320", "lidc_320"), ("ldct_512", "ldct_512"), ("ct2d", "ct_128")],
)
def test_scans_are_data_sets_of_their_own(name: str, dataset: str) -> None:
    ours = configurations.load(f"ve/ncsnpp_cont:{dataset}").to_dict()
    values = config_of(VE_CONT)
    values["data"] |= {"dataset": name, "image_size": ours["data"]["image_size"]}
    found = translate(values)
    assert (found.recipe, found.dataset) == ("ve/ncsnpp_cont", dataset)


def test_settings_of_training_and_sampling_carry_over() -> None:
    values = config_of(VP_CONT)
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
    values = config_of(NCSNV2) | {"sampling": {"step_lr": 6.2e-6, "n_steps_each": 5}}
    found = translate(values).changes["sampling"]
    ours = configurations.load("ncsnv2/ncsnv2:cifar10").sampling
    assert found["snr"] == pytest.approx(ours.snr, rel=1e-12)
    assert (
        (found["corrector_steps"], found["steps"]) == (ours.corrector_steps, ours.steps) == (5, 232)
    )


@pytest.mark.parametrize(
    ("folder", "section", "entries", "message"),
    [
        (
            VP_CONT,
            "training",
            {"sde": "edm"},
            r"training\.sde is 'edm'; known here are 'vesde'",
        ),
        (VP_DISC, "training", {"sde": "subvpsde"}, "does not exist"),
        (
            VP_CONT,
            "training",
            {"sde": "vesde"},
            "embeds sigma itself by sinusoids",
        ),
        (
            VE_CONT,
            "training",
            {"sde": "vpsde"},
            "scale_by_sigma=True divides a VP",
        ),
        (
            VP_CONT,
            "model",
            {"embedding_type": "fourier"},
            "embeds times of VP by Fourier",
        ),
        (
            VP_CONT,
            "model",
            {"normalization": "BatchNorm"},
            "only GroupNorm is here",
        ),
        (
            VP_CONT,
            "model",
            {"nf": "wide"},
            r"model\.nf must be of type int; got 'wide'",
        ),
        (VP_CONT, "model", {"name": "adm"}, r"model\.name is 'adm'"),
        (JAX_NCSNV2, "training", {"continuous": True}, "goes with the discrete"),
        (NCSNV2, "model", {"sigma_dist": "uniform"}, "only geometric is here"),
        (
            JAX_NCSNV2,
            "model",
            {"interpolation": "nearest_neighbor"},
            "interpolation is 'nearest_neighbor'; only 'bilinear' is here",
        ),
        (VP_CONT, "model", {"conv_size": 5}, "conv_size is 5; only 3 is here"),
        (VE_CONT, "model", {"attention_type": "gated"}, "only 'ddpm' is here"),
        (VP_CONT, "model", {"pixel_shuffle": True}, r"model\.pixel_shuffle=True is not known here"),
        (
            NCSN,
            "data",
            {"logit_transform": True},
            "logit_transform=True is not here",
        ),
    ],
)
def test_what_is_not_here_is_refused(
    folder: str, section: str, entries: dict, message: str
) -> None:
    values = copy.deepcopy(config_of(folder))
    values[section] |= entries
    with pytest.raises(UserError, match=message):
        translate(values)


def test_entries_without_a_value_or_a_meaning_are_passed_over() -> None:
    values = copy.deepcopy(config_of(VP_CONT))
    wanted = translate(values)
    values["model"] |= {"pixel_shuffle": None, "sigma_max": 378, "num_classes": 10}
    assert translate(values) == wanted


@pytest.mark.parametrize(
    "values", [{}, {"model": {}, "data": {}}, {"model": [], "data": {}, "training": {}}]
)
def test_other_documents_are_refused(values: dict) -> None:
    with pytest.raises(UserError, match="it is no configuration of a published code"):
        translate(values)
