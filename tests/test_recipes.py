"""The recipes: the published settings, and that every recipe fits every data set."""

import re

import jax
import numpy as np
import pytest

from golden import REPOSITORY
from score_sde.build.assemble import build
from score_sde.build.data import build_pixel_range, open_source
from score_sde.build.network import build_network, build_parameterization
from score_sde.build.process import build_process
from score_sde.build.sampler import build_sampler
from score_sde.build.settings import OPEN, SECTIONS, Settings
from score_sde.build.task import build_objective, build_optimizer
from score_sde.data import take
from score_sde.errors import UserError
from score_sde.noise_scales import suggest
from score_sde.recipes import DATASETS, RECIPES
from score_sde.recipes.langevin import LEVELS
from score_sde.sde import EDM, VE, VP, DiscreteChain, StraightPath, SubVP
from score_sde.steppers import HEUN, RungeKutta
from score_sde.workdir import config as configurations

LANGEVIN = ["ncsn/ncsn", "ncsnv2/ncsnv2"]
DENOISERS = ["edm/ddpmpp", "edm/ncsnpp", "straight/ddpmpp"]
PROMISED = [
    *LANGEVIN,
    *DENOISERS,
    *(
        f"{sde}/{network}{deep}_cont"
        for sde in ("ve", "vp", "subvp")
        for network in ("ncsnpp", "ddpmpp", "ddpm")
        for deep in ("", "_deep")
    ),
    *("ve/ncsnpp", "vp/ddpmpp", "vp/ddpm"),
    *(f"{sde}/ddpmpp{deep}_cont_lik" for sde in ("vp", "subvp") for deep in ("", "_deep")),
]

SDES = [recipe for recipe in RECIPES if recipe not in (*LANGEVIN, *DENOISERS)]


def datasets(recipe: str) -> list[str]:
    return list(LEVELS if recipe in LANGEVIN else DATASETS)


def load(recipe: str, dataset: str = "") -> Settings:
    return configurations.load(recipe + (f":{dataset}" if dataset else ""))


def test_all_promised_recipes_and_data_sets_exist() -> None:
    assert sorted(PROMISED) == sorted(RECIPES)
    assert {
        "digits",
        "mnist",
        "cifar10",
        "folder",
        "celeba",
        "ffhq_256",
        "celebahq_1024",
    } <= DATASETS.keys()


@pytest.mark.parametrize("recipe", RECIPES)
def test_names_and_documentation(recipe: str) -> None:
    config, file = load(recipe), REPOSITORY / "configs" / f"{recipe}.py"
    folder = "" if recipe in LANGEVIN else f"{file.parent.name}_"
    assert config.name == f"{folder}{file.stem}_cifar10"
    assert config.data.source == "cifar10"
    assert file.read_text().startswith('"""')
    assert load(recipe, "mnist").name.endswith("_mnist")
    with pytest.raises(
        UserError, match="unknown data set 'nothing' after the colon; known: digits, mnist"
    ):
        load(recipe, "nothing")


@pytest.mark.parametrize("recipe", SDES)
def test_published_data_and_training_on_cifar10(recipe: str) -> None:
    """Dissertation B.5.8 and appendix C."""
    config, (sde, name) = load(recipe), recipe.split("/")
    assert (config.data.image_size, config.data.channels, config.data.levels) == (32, 3, 256)
    assert config.data.random_flip and config.data.dequantize is name.endswith("_lik")
    assert config.data.centered is (sde != "ve")
    optim = (config.optim.lr, config.optim.beta1, config.optim.eps, config.optim.weight_decay)
    assert optim == (2e-4, 0.9, 1e-8, 0.0)
    assert (config.optim.warmup, config.optim.grad_clip) == (5000, 1.0)
    assert config.training.batch_size == 128
    assert config.training.ema_rate == (0.999 if sde == "ve" else 0.9999)


@pytest.mark.parametrize("recipe", SDES)
def test_published_networks_on_cifar10(recipe: str) -> None:
    """Dissertation B.5.8 and appendix C."""
    config, (sde, name) = load(recipe), recipe.split("/")
    model = config.model
    assert (model.nf, model.ch_mult, model.attn_resolutions) == (128, (1, 2, 2, 2), (16,))
    assert (model.dropout, model.activation, model.resamp_with_conv) == (0.1, "swish", True)
    blocks = 2 if name.startswith("ddpm_") or name == "ddpm" else 4
    assert model.num_res_blocks == blocks * (2 if "deep" in name else 1)
    if model.name == "ncsnpp":
        assert (model.resblock_type, model.skip_rescale, model.fourier_scale) == (
            "biggan",
            True,
            16.0,
        )
        assert (model.progressive, model.init_scale, model.fir_kernel) == (
            "none",
            0.0,
            (1, 3, 3, 1),
        )
        ncsnpp = name.startswith("ncsnpp")
        assert model.fir is ncsnpp
        assert model.progressive_input == ("residual" if ncsnpp else "none")
        fourier = ncsnpp and sde == "ve" and "cont" in name
        assert model.embedding == ("fourier" if fourier else "positional")
        assert model.scale_by_sigma is (ncsnpp and sde == "ve")


@pytest.mark.parametrize("recipe", SDES)
def test_published_processes_and_samplers_on_cifar10(recipe: str) -> None:
    """Dissertation B.5.8 and appendix C."""
    config, (sde, name) = load(recipe), recipe.split("/")
    process = build_process(config.sde)
    subvp_t_min = 1e-2 if name.endswith("_lik") else 1e-5
    wanted = {
        "ve": VE(0.01, 50.0, 1e-5),
        "vp": VP(0.1, 20.0, 1e-5),
        "subvp": SubVP(0.1, 20.0, subvp_t_min),
    }
    if "cont" in name:
        assert process == wanted[sde]
    else:
        assert isinstance(process, DiscreteChain) and len(process.sigmas) == 1000
        first, last = (0.01, 50.0) if sde == "ve" else (1e-4**0.5, 1.0)
        assert process.sigmas[0] == pytest.approx(first) and process.sigmas[-1] == pytest.approx(
            last, 1e-4
        )
    assert config.sampling.steps == 1000
    published = {"ve": ("reverse_diffusion", "langevin"), "subvp": ("euler_maruyama", "none")}
    published["vp"] = ("euler_maruyama" if "cont" in name else "ancestral", "none")
    assert (config.sampling.predictor, config.sampling.corrector) == published[sde]
    if sde == "ve":
        assert config.sampling.snr == 0.16 and config.training.reduce == "sum"


@pytest.mark.parametrize("network", ["ddpmpp", "ncsnpp"])
def test_published_settings_of_edm(network: str) -> None:
    """Karras et al. 2022, tables 1, 6 and 7, for CIFAR-10."""
    config = load(f"edm/{network}")
    assert build_process(config.sde) == EDM(0.002, 80.0)
    model, optim, training = config.model, config.optim, config.training
    assert (model.nf, model.ch_mult, model.num_res_blocks) == (128, (2, 2, 2), 4)
    assert (model.attn_resolutions, model.dropout, model.prediction) == ((16,), 0.13, "edm")
    ncsnpp = network == "ncsnpp"
    assert model.fir is ncsnpp and model.fourier_scale == 16.0
    assert model.progressive_input == ("residual" if ncsnpp else "none")
    assert model.embedding == ("fourier" if ncsnpp else "positional")
    assert (optim.lr, optim.beta1, optim.eps, optim.weight_decay) == (1e-3, 0.9, 1e-8, 0.0)
    assert optim.grad_clip == 0 and optim.warmup * 512 == pytest.approx(10e6, rel=1e-4)
    assert (training.batch_size, training.steps * training.batch_size) == (512, 200_000_000)
    assert training.ema_rate ** (500_000 / 512) == pytest.approx(0.5)
    assert (training.times, training.p_mean, training.p_std) == ("log_normal", -1.2, 1.2)
    assert (training.weight, config.data.std, config.data.augment) == ("edm", 0.5, 0.12)
    assert config.data.centered and not config.data.random_flip


def test_edm_on_other_data_sets() -> None:
    """At 64 pixels as EDM's FFHQ; digits and grey images keep what fits their small networks."""
    celeba = load("edm/ddpmpp", "celeba")
    assert (celeba.model.ch_mult, celeba.model.dropout) == ((1, 2, 2, 2), 0.05)
    assert (celeba.optim.lr, celeba.training.batch_size) == (2e-4, 256)
    assert celeba.data.augment == 0.15
    digits = load("edm/ddpmpp", "digits")
    assert (digits.optim.lr, digits.optim.warmup, digits.training.steps) == (1e-3, 200, 2500)
    assert (digits.data.augment, digits.model.nf, digits.training.weight) == (0, 32, "edm")
    images = np.asarray(take(open_source(digits.data, True), np.arange(500))["image"], float)
    assert (images / 8 - 1).std() == pytest.approx(digits.data.std, abs=0.01)


@pytest.mark.parametrize("dataset", ["cifar10", "digits"])
def test_samplers_of_edm_and_flow_matching(dataset: str) -> None:
    """EDM's noise levels and 35 evaluations, by the probability flow alone."""
    sampler = build(load("edm/ddpmpp", dataset)).sampler
    assert sampler.evaluations == 35 and sampler.denoise == "tweedie"
    times = (80 ** (1 / 7) + np.arange(18) / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    np.testing.assert_allclose(sampler.times, times, rtol=1e-12)
    straight = build(load("straight/ddpmpp", dataset))
    assert straight.process == StraightPath() and straight.sampler.evaluations == 35
    assert sampler.stepper == RungeKutta(EDM(), HEUN)
    assert straight.sampler.stepper == RungeKutta(StraightPath(), HEUN)


def test_settings_of_flow_matching() -> None:
    found = configurations.differences(load("vp/ddpmpp_cont"), load("straight/ddpmpp"))
    kept = {name for name in found if not name.startswith(("sde.", "sampling."))}
    assert kept == {"name", "model.prediction", "training.weight"}
    assert load("straight/ddpmpp").training.times == "uniform"


@pytest.mark.parametrize(
    "row",
    [
        ("brats", 240, 128.0, 64, 0.999, 0.517, 32, (1, 1, 2, 2, 2), 2, (30,)),
        ("lidc_320", 320, 128.0, 64, 0.999, 0.246, 32, (1, 1, 2, 2, 2, 2, 2), 2, (20,)),
        ("ldct_512", 512, 220.0, 16, 0.9999, 0.4, 16, (1, 2, 4, 8, 16, 32, 32), 1, (16,)),
        ("ct_128", 128, 55.0, 64, 0.999, 0.16, 64, (1, 1, 2, 2, 2, 2), 2, (16,)),
    ],
)
def test_published_settings_of_scans(row: tuple) -> None:
    """The configurations released with Song et al. 2022 (score_inverse_problems)."""
    dataset, size, sigma_max, batch, ema, snr, nf, ch_mult, blocks, attention = row
    config = load("ve/ncsnpp_cont", dataset)
    model, sampling, inverse = config.model, config.sampling, config.inverse
    assert (config.data.image_size, config.data.channels) == (size, 1)
    assert not config.data.random_flip and not config.data.centered and not config.data.dequantize
    assert (config.sde.sigma_min, config.sde.sigma_max) == (0.01, sigma_max)
    assert (config.training.batch_size, config.training.ema_rate) == (batch, ema)
    assert (config.training.steps, config.training.reduce) == (2_400_000, "sum")
    assert (model.nf, model.ch_mult, model.num_res_blocks) == (nf, ch_mult, blocks)
    assert (model.attn_resolutions, model.dropout, model.fir) == (attention, 0.0, True)
    assert (model.progressive, model.progressive_input) == ("output_skip", "input_skip")
    assert (model.embedding, model.scale_by_sigma, model.init_scale) == ("fourier", True, 0.0)
    assert (sampling.predictor, sampling.corrector) == ("reverse_diffusion", "langevin")
    assert (sampling.steps, sampling.snr, sampling.denoise) == (1000, snr, "tweedie")
    assert inverse.solver == "projection"
    strength = {"lidc_320": 0.841, "ldct_512": 0.72}
    assert inverse.strength == strength.get(dataset, 1.0)
    if dataset == "brats":
        assert (inverse.task, inverse.kspace, inverse.acceleration) == ("mri", "published", 8.0)
    else:
        assert (inverse.task, inverse.views) == ("ct", 16 if dataset == "ct_128" else 23)


@pytest.mark.parametrize(
    "row",
    [
        ("cifar10", 32, 50, 232, 5, 6.2e-6, 128, 300_000, "64"),
        ("celeba", 64, 90, 500, 5, 3.3e-6, 128, 210_000, "64"),
        ("church", 96, 140, 788, 4, 4.9e-6, 128, 200_000, "128"),
        ("bedroom", 128, 190, 1086, 3, 1.8e-6, 128, 150_000, "128"),
        ("ffhq_256", 256, 348, 2311, 3, 9e-7, 32, 80_000, "256"),
    ],
)
def test_published_settings_of_ncsn(row: tuple) -> None:
    """Table B.9, B.3.2 and B.4.1; step sizes are those of algorithm 6.1, 2 (snr sigma_min)^2."""
    dataset, size, sigma_max, levels, updates, step_size, batch, steps, variant = row
    for recipe, (top, n, t, epsilon) in {
        LANGEVIN[0]: (1.0, 10, 100, 2e-5),
        LANGEVIN[1]: (sigma_max, levels, updates, step_size),
    }.items():
        config = load(recipe, dataset)
        first = recipe == LANGEVIN[0]
        assert dict(config.sde) == {"name": "smld", "sigma_min": 0.01, "sigma_max": top, "n": n}
        sampling = config.sampling
        assert (sampling.steps, sampling.corrector_steps) == (n, t)
        assert 2 * (sampling.snr * 0.01) ** 2 == pytest.approx(epsilon, rel=1e-12)
        assert (sampling.grid, sampling.predictor, sampling.corrector) == (
            "levels",
            "none",
            "annealed_langevin",
        )
        assert sampling.denoise == ("none" if first else "tweedie")
        assert (
            config.data.image_size == size and not config.data.centered and config.data.random_flip
        )
        assert (config.optim.lr, config.optim.warmup, config.optim.grad_clip) == (
            1e-3 if first else 1e-4,
            0,
            0,
        )
        assert config.optim.eps == (1e-3 if dataset == "ffhq_256" else 1e-8)
        assert config.training.ema_rate == (0.0 if first else 0.999)
        assert (config.training.reduce, config.model.nf, config.model.variant) == (
            "sum",
            128,
            variant,
        )
        if not first:
            assert (config.training.batch_size, config.training.steps) == (batch, steps)
    assert load(LANGEVIN[0], "mnist").model.nf == 64
    sampler = build(load(LANGEVIN[1], "cifar10")).sampler
    assert sampler.evaluations == 232 * 5 + 1 and sampler.uniform == (0.0, 1.0)


@pytest.mark.parametrize("dataset", ["digits", "mnist"])
def test_ncsnv2_settings_of_no_paper_follow_from_the_techniques(dataset: str) -> None:
    config = load(LANGEVIN[1], dataset)
    dimension, steps = (
        config.data.image_size**2 * config.data.channels,
        config.sampling.corrector_steps,
    )
    found = suggest(config.sde.sigma_max, dimension, config.sde.sigma_min, steps=steps)
    assert config.sde.n == config.sampling.steps == found.n
    assert config.sampling.snr == pytest.approx(found.snr, rel=2e-3)


def test_the_single_noise_baseline() -> None:
    """B.3.2: NCSN with sigma_1 = 0.01 alone.

    1000 plain Langevin updates of step 2e-5 begin at uniform noise.
    """
    overrides = {"sde.n": "1", "sampling.steps": "1", "sampling.corrector_steps": "1000"}
    experiment = build(configurations.override(load(LANGEVIN[0], "digits"), overrides.items()))
    assert experiment.process.sigmas.tolist() == pytest.approx([0.01])
    assert experiment.sampler.evaluations == 1000 and experiment.model.network.num_classes == 1


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("sde", ["vp", "subvp"])
def test_maximum_likelihood_training(sde: str, deep: bool) -> None:
    """B.7.1, B.7.2: the recipe of chapter 7, but for weighting, times and dequantization.

    The first time of sub-VP differs too.
    """
    plain = f"{sde}/ddpmpp{'_deep' * deep}_cont"
    found = configurations.differences(load(plain), load(f"{plain}_lik"))
    assert found.pop("name")
    expected = {
        "training.likelihood_weighting": (0.0, 1.0),
        "training.times": ("uniform", "log_snr"),
        "data.dequantize": (False, True),
    }
    if sde == "subvp":
        expected |= {"sde.t_min": (1e-5, 1e-2), "sampling.t_end": (1e-3, 1e-2)}
    assert found == expected
    assert load(plain).training.steps == (950_000 if deep else 1_300_000)
    assert load(f"{plain}_lik", "digits").training.steps == 7000
    assert load(plain, "digits").training.steps == 2500


@pytest.mark.parametrize(
    "row",
    [
        ("celeba", 64, 90.0, 128, 0.999, 0.17, 1000, 128, (1, 2, 2, 2), 4),
        ("church", 256, 380.0, 64, 0.999, 0.075, 2000, 128, (1, 1, 2, 2, 2, 2, 2), 2),
        ("bedroom", 256, 378.0, 64, 0.999, 0.075, 2000, 128, (1, 1, 2, 2, 2, 2, 2), 2),
        ("celebahq_256", 256, 348.0, 64, 0.999, 0.075, 2000, 128, (1, 1, 2, 2, 2, 2, 2), 2),
        ("ffhq_256", 256, 348.0, 64, 0.999, 0.075, 2000, 128, (1, 1, 2, 2, 2, 2, 2), 2),
        ("celebahq_1024", 1024, 1348.0, 8, 0.9999, 0.15, 2000, 16, (1, 2, 4, 8, 16, 32, 32, 32), 1),
        ("ffhq_1024", 1024, 1348.0, 8, 0.9999, 0.15, 2000, 16, (1, 2, 4, 8, 16, 32, 32, 32), 1),
    ],
)
def test_published_settings_of_larger_images(row: tuple) -> None:
    dataset, size, sigma_max, batch, ema, snr, steps, nf, ch_mult, blocks = row
    config = load("ve/ncsnpp_cont", dataset)
    model = config.model
    assert (config.data.image_size, config.data.channels) == (size, 3)
    assert (config.sde.sigma_min, config.sde.sigma_max) == (0.01, sigma_max)
    assert (config.training.batch_size, config.training.ema_rate) == (batch, ema)
    assert (config.sampling.snr, config.sampling.steps) == (snr, steps)
    assert (model.nf, model.ch_mult, model.num_res_blocks, model.attn_resolutions) == (
        nf,
        ch_mult,
        blocks,
        (16,),
    )
    if size > 64:
        assert (model.progressive, model.progressive_input) == ("output_skip", "input_skip")
        assert model.fir and model.dropout == 0.0 and model.embedding == "fourier"
    else:
        assert (model.progressive, model.progressive_input, config.data.crop) == (
            "none",
            "residual",
            140,
        )


def test_published_settings_that_are_not_those_of_ncsnpp() -> None:
    """DDPM at 256 pixels keeps its 1000 noise levels and steps.

    DDPM++ has no progressive input or output (B.5.8).
    """
    ddpm = load("vp/ddpm", "church")
    assert (ddpm.sde.n, ddpm.sampling.steps, ddpm.optim.lr) == (1000, 1000, 2e-5)
    smld = load("ve/ncsnpp", "church")
    assert (smld.sde.n, smld.sampling.steps) == (2000, 2000)
    plusplus = load("vp/ddpmpp_cont", "church").model
    assert (plusplus.progressive, plusplus.progressive_input, plusplus.fir) == (
        "none",
        "none",
        False,
    )


@pytest.mark.parametrize("dataset", DATASETS)
def test_evaluation_and_samples_need_no_more_memory_than_training(dataset: str) -> None:
    config = load("ve/ncsnpp_cont", dataset)
    if config.data.image_size > 64:
        assert max(config.eval.batch_size, config.sampling.batch_size) <= config.training.batch_size


def test_every_entry_of_a_data_set_means_something_to_a_recipe() -> None:
    known: dict[str, set[str]] = {}
    for recipe in RECIPES:
        values = load(recipe, "cifar10").to_dict()
        for section in (*OPEN, *SECTIONS):
            known.setdefault(section, set()).update(values[section])
    for dataset, sections in DATASETS.items():
        for section, entries in sections.items():
            assert set(entries) <= known[section], (dataset, section)


def pieces(config: Settings) -> None:
    """Everything that `build` makes, but for tracing the network."""
    process = build_process(config.sde)
    build_network(config.model, process)
    made = build_parameterization(config, process)
    build_objective(config, process, made)
    build_optimizer(config.optim)
    build_sampler(config.sampling, process, build_pixel_range(config.data))


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_fits_every_data_set(recipe: str) -> None:
    for dataset in datasets(recipe):
        config = load(recipe, dataset)
        pieces(config)
        assert config.training.batch_size % 8 == config.eval.batch_size % 8 == 0, dataset
        if recipe in LANGEVIN:
            continue
        widths = [config.model.nf * multiple for multiple in config.model.ch_mult]
        if config.model.name == "ddpm":
            assert all(width % 32 == 0 for width in widths), (dataset, widths)
        size = config.data.image_size or 64
        assert size % 2 ** (len(widths) - 1) == 0, (dataset, size)
        if config.data.image_size:
            heights = [size // 2**i for i in range(len(widths))]
            assert set(config.model.attn_resolutions) <= set(heights), (dataset, heights)


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_builds_on_digits(recipe: str) -> None:
    experiment = build(load(recipe, "digits"))
    assert experiment.shape == (8, 8, 1) and experiment.pixel_range.levels == 17


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "dataset"), [(r, dataset) for r in RECIPES for dataset in datasets(r)]
)
def test_every_recipe_builds_on_every_data_set(recipe: str, dataset: str) -> None:
    config = load(recipe, dataset)
    build(config, (64, 64, 3) if dataset == "folder" else None)


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("ve/ncsnpp_cont", 62.76),
        ("vp/ddpmpp_cont", 61.80),
        ("vp/ddpm", 35.22),
        ("edm/ddpmpp", 55.73),
    ],
)
def test_sizes_of_the_published_networks(name: str, millions: float) -> None:
    """DDPM: 35.75 million (Ho et al. 2020, appendix B), less two attentions on the way up.

    An attention has 4 x 256 x 257 + 512.
    """
    experiment = build(load(name))
    params = jax.eval_shape(lambda: experiment.task.init(jax.random.key(0), experiment.shape))
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert count / 1e6 == pytest.approx(millions, abs=0.1)


def test_readme_recipes_exist() -> None:
    text = (REPOSITORY / "README.md").read_text()
    files = re.findall(r"configs/(\w+/\w+)\.py", text)
    named = re.findall(r"--config (\w+/\w+)(?!\w*/)", text)
    assert files and named and {*files, *named} <= RECIPES.keys()
