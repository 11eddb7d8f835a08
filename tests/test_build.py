"""From configurations to objects: what is built, and what is refused, with which words."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from mathcases import reference_chain, reference_mixture

from golden import REPOSITORY, assert_close, load, meta
from score_sde import build, grids, objectives, steppers
from score_sde import config as config_lib
from score_sde.errors import UserError
from score_sde.networks import DDPM, NCSNpp
from score_sde.sampling import Sampler
from score_sde.sde import EDM, VE, VP, CosineVP, DiscreteChain, PublishedSteps, SubVP

RECIPES = {
    "ve": "configs/ve/ncsnpp_cont.py:digits",
    "vp": "configs/vp/ddpmpp_cont.py:digits",
    "subvp": "configs/subvp/ddpmpp_cont.py:digits",
    "smld": "configs/ve/ncsnpp.py:digits",
    "ddpm": "configs/vp/ddpm.py:digits",
    "ncsnv2": "configs/ncsnv2/ncsnv2.py:digits",
}


def config(recipe: str, *overrides: str) -> ml_collections.ConfigDict:
    values = config_lib.load(f"{REPOSITORY}/{RECIPES[recipe]}")
    config_lib.override(values, [tuple(o.split("=", 1)) for o in overrides])
    return values


@pytest.fixture
def mixed_types() -> Iterator[None]:
    """optax's Adam mixes types."""
    with jax.numpy_dtype_promotion("standard"):
        yield


# Refusals. Each message names the entry, what was received, and what is possible.


@pytest.mark.parametrize(
    ("recipe", "override", "message"),
    [
        ("ve", "sde.name=foo", r"config.sde.name: unknown name 'foo'; known: ve, vp, subvp, edm, cosine"),
        (
            "ve",
            "sde.name=vp",
            r"config.sde: 'sigma_max' means nothing here; known: beta_min, beta_max, t_min",
        ),
        ("ve", "sde.sigma_min=60", r"config.sde: sigma_min must be in \(0, sigma_max\); got sigma_min=60.0"),
        ("ve", "sde.sigma_min=0", r"config.sde: sigma_min must be in \(0, sigma_max\); got sigma_min=0.0"),
        ("ve", "sde.sigma_max=1e999", r"config.sde.sigma_max must be a finite number; got inf"),
        ("ve", "sde.t_min=-1", r"config.sde: t_min must be in \[0, t_max\); got t_min=-1.0"),
        ("ve", "sde.t_min=2", r"config.sde: t_min must be in \[0, t_max\); got t_min=2.0"),
        ("vp", "sde.beta_min=30", r"config.sde: beta_min must be in \(0, beta_max\]; got beta_min=30.0"),
        ("ddpm", "sde.n=10", r"config.sde: beta_max must be below n.*got beta_max=20.0, n=10"),
        ("ddpm", "sde.n=0", r"config.sde.n must be at least 1; got 0"),
        ("smld", "sde.n=-4", r"config.sde.n must be at least 1; got -4"),
        ("smld", "sde.sigma_min=60", r"config.sde: sigma_min must be in"),
        ("ve", "optim.lr=-1", r"config.optim.lr must be positive; got -1.0"),
        ("ve", "optim.lr=1e999", r"config.optim.lr must be a finite number"),
        ("ve", "optim.eps=0", r"config.optim.eps must be positive"),
        ("ve", "optim.beta1=1", r"config.optim.beta1 must be in \[0, 1\); got 1.0"),
        ("ve", "optim.warmup=-1", r"config.optim.warmup must be 0 or positive; got -1"),
        ("ve", "optim.grad_clip=-1", r"config.optim.grad_clip must be 0 or positive"),
        ("ve", "optim.weight_decay=-1", r"config.optim.weight_decay must be 0 or positive"),
        ("ve", "training.batch_size=0", r"config.training.batch_size must be at least 1; got 0"),
        ("ve", "training.steps_per_call=0", r"config.training.steps_per_call must be at least 1"),
        ("ve", "training.checkpoint_every=0", r"config.training.checkpoint_every must be at least 1"),
        ("ve", "training.keep=0", r"config.training.keep must be at least 1"),
        ("ve", "training.eval_every=-1", r"config.training.eval_every must be at least 0"),
        ("ve", "training.ema_rate=1.0", r"config.training.ema_rate must be in \[0, 1\); got 1.0"),
        (
            "ve",
            "training.likelihood_weighting=2",
            r"config.training: likelihood_weighting must be in \[0, 1\], .*; got 2.0",
        ),
        ("vp", "training.likelihood_weighting=-0.1", r"likelihood_weighting must be in \[0, 1\], .*got -0.1"),
        ("vp", "training.likelihood_weighting=1e999", r"likelihood_weighting must be a finite number"),
        ("ve", "training.times=foo", r"config.training.times: unknown name 'foo'; known: uniform, log_snr"),
        ("ve", "training.reduce=foo", r"config.training: reduce must be 'mean' or 'sum'; got 'foo'"),
        ("ddpm", "training.times=log_snr", r"discrete chain is trained with training.times=uniform.*\*_cont"),
        ("smld", "training.likelihood_weighting=0.5", r"got times=uniform, likelihood_weighting=0.5"),
        (
            "ve",
            "sampling.predictor=foo",
            r"config.sampling.predictor: unknown name 'foo'; known: euler_maruyama",
        ),
        ("ve", "sampling.corrector=foo", r"config.sampling.corrector: unknown name 'foo'; known: langevin"),
        (
            "ve",
            "sampling.grid=foo",
            r"config.sampling.grid: unknown name 'foo'; known: uniform, levels, log_snr, karras",
        ),
        ("ve", "sampling.compat=foo", r"config.sampling.compat: unknown name 'foo'; known: none, published"),
        ("ve", "sampling.norm=foo", r"config.sampling.norm: unknown name 'foo'; known: sample, batch"),
        ("ve", "sampling.variance=foo", r"config.sampling.variance: unknown name 'foo'; known: posterior"),
        ("ve", "sampling.denoise=foo", r"config.sampling: denoise must be 'tweedie', 'mean' or 'none'"),
        ("ve", "sampling.snr=0", r"config.sampling.snr must be positive; got 0.0"),
        ("ve", "sampling.corrector_steps=0", r"config.sampling: n_steps must be at least 1"),
        ("ve", "sampling.steps=0", r"config.sampling: .*at least 1 step; got n=0"),
        ("ve", "sampling.t_end=-1", r"config.sampling.t_end must be in \[0, 1.0\); got -1.0"),
        ("vp", "sampling.t_end=1", r"config.sampling.t_end must be in \[0, 1.0\); got 1.0"),
        ("ve", "sampling.num_samples=0", r"config.sampling.num_samples must be at least 1"),
        (
            "ddpm",
            "sampling.steps=5000",
            r"chain of 1000 noise levels can be sampled in 1 to 1000 steps; got n=5000",
        ),
        (
            "ddpm",
            "sampling.steps=1",
            r"steps must be at least 2 for a discrete chain with denoise=tweedie; got 1",
        ),
        (
            "ncsnv2",
            "sampling.compat=published",
            r"grid=levels is the sampler of the published NCSN codes already",
        ),
        ("ncsnv2", "sde.n=10", r"steps is the number of noise levels to visit, at most sde.n=10; got 22"),
        (
            "ncsnv2",
            "sampling.predictor=ancestral",
            r"predictor must be none.* DiscreteChain, predictor=ancestral",
        ),
        ("ddpm", "sampling.grid=karras", r"only grid=uniform and levels exist for discrete chains"),
        ("ddpm", "sampling.predictor=euler_maruyama", r"use predictor=reverse_diffusion or ancestral"),
        ("ve", "model.name=foo", r"config.model.name: unknown name 'foo'; known: ncsnpp, ddpm"),
        ("ve", "model.dtype=foo", r"config.model.dtype: unknown name 'foo'; known: float32, bfloat16"),
        (
            "ve",
            "model.prediction=foo",
            r"config.model.prediction: unknown name 'foo'; known: score, noise, edm",
        ),
        ("ve", "model.activation=foo", r"config.model: .*activation must be one of 'swish'.*got 'foo'"),
        ("ve", "model.embedding=foo", r"config.model: .*embedding must be one of 'fourier', 'positional'"),
        ("ve", "model.progressive=foo", r"config.model: .*progressive must be one of 'none', 'output_skip'"),
        ("ve", "model.nf=0", r"config.model.nf must be at least 1; got 0"),
        ("ve", "model.nf=7", r"config.model: GroupNorm cannot divide"),
        ("ddpm", "model.nf=48", r"config.model: .*multiples of 32"),
        ("ve", "model.num_res_blocks=-1", r"config.model.num_res_blocks must be at least 0; got -1"),
        ("ve", "model.ch_mult=()", r"config.model.ch_mult must be whole numbers from 1 on.*got \(\)"),
        ("ve", "model.ch_mult=(1,2.5)", r"config.model.ch_mult must be whole numbers.*got \(1, 2.5\)"),
        ("ve", "model.ch_mult=(1,0)", r"config.model.ch_mult must be whole numbers.*got \(1, 0\)"),
        ("ve", "model.ch_mult=(1,2,2,2,2)", r"config.model: .*multiples of 16; got 8 x 8"),
        ("ve", "model.attn_resolutions=('a',)", r"config.model.attn_resolutions must be image heights"),
        ("ve", "model.fir_kernel=()", r"config.model: .*fir_kernel needs taps"),
        ("ve", "model.dropout=1.5", r"config.model.dropout must be in \[0, 1\); got 1.5"),
        ("ve", "model.fourier_scale=-1", r"config.model.fourier_scale must be 0 or positive"),
        ("ve", "model.init_scale=-1", r"config.model.init_scale must be 0 or positive"),
        ("ve", "data.levels=1", r"config.data: levels must be between 2 and 65536.*got levels=1"),
        ("ve", "data.image_size=9", r"config.model: .*multiples of 2; got 9 x 9"),
        (
            "ve",
            "data.image_size=-3",
            r"config.data: images need at least 1 pixel.*Set\s+config.data.image_size",
        ),
        ("ve", "data.channels=0", r"config.data: images need at least 1 pixel and 1 channel"),
        ("ve", "eval.batch_size=0", r"config.eval.batch_size must be at least 1; got 0"),
        ("ve", "eval.passes=0", r"config.eval.passes must be at least 1"),
        ("ve", "seed=-1", r"config.seed must be in \[0, 2\^32\); got -1"),
        ("ve", "seed=4294967296", r"config.seed must be in"),
        ("ve", "name=", r"config.name is empty"),
    ],
)
def test_impossible_values_are_refused(recipe: str, override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build.build(config(recipe, override))


@pytest.mark.parametrize("section", [*build.SECTIONS])
def test_unknown_and_missing_entries_are_refused(section: str) -> None:
    values = config("ve").to_dict()
    values[section]["sigmaa"] = 1.0
    with pytest.raises(UserError, match=rf"config.{section}: 'sigmaa' means nothing here; known: "):
        build.build(ml_collections.ConfigDict(values))
    del values[section]
    with pytest.raises(UserError, match=rf"config lacks {section}"):
        build.build(ml_collections.ConfigDict(values))
    values[section] = 3
    with pytest.raises(UserError, match=rf"config.{section} must be a section of entries; got 3"):
        build.build(ml_collections.ConfigDict(values))


@pytest.mark.parametrize(
    "entry", ["sde.name", "model.prediction", "model.dtype", "optim.lr", "training.times", "sampling.t_end"]
)
def test_missing_entry_is_named(entry: str) -> None:
    section, name = entry.split(".")
    values = config("ve").to_dict()
    del values[section][name]
    with pytest.raises(UserError, match=rf"config.{section} lacks {name}"):
        build.build(ml_collections.ConfigDict(values))


def test_published_sampler_exists_for_published_processes_alone() -> None:
    values = config("ve", "sampling.compat=published")
    for process in (EDM(), CosineVP()):
        with pytest.raises(
            UserError, match=rf"no published sampler for {type(process).__name__}; use compat=none"
        ):
            build.build_sampler(values.sampling, process, build.build_pixel_range(values.data))
    with pytest.raises(UserError, match="and uniform alone for compat=published"):
        build.build(config("ve", "sampling.compat=published", "sampling.grid=log_snr"))


def test_attention_at_a_height_that_does_not_occur_is_accepted() -> None:
    """It means no attention there: the default 16 must not forbid images of other sizes."""
    parameters = []
    for heights in ("(4,)", "(16,)", "()"):
        trainer = build.build(config("vp", f"model.attn_resolutions={heights}")).trainer
        state = jax.eval_shape(lambda trainer=trainer: trainer.init(jax.random.key(0), (8, 8, 1)))
        parameters.append(sum(leaf.size for leaf in jax.tree.leaves(state.params)))
    assert parameters[0] > parameters[1] == parameters[2]


# What is built


def test_experiment_holds_what_the_configuration_says() -> None:
    experiment = build.build(config("ve", "training.batch_size=48", "seed=5", "data.dequantize=True"))
    assert experiment.process == VE(0.01, 10.0, 1e-5)
    assert (experiment.name, experiment.seed, experiment.shape) == ("ve_ncsnpp_cont_digits", 5, (8, 8, 1))
    assert experiment.training["batch_size"] == 48
    assert (experiment.pixel_range.low, experiment.pixel_range.high) == (0.0, 1.0)
    assert experiment.trainer.ema_rate == 0.999 and experiment.trainer.ema_warmup
    network = experiment.model.network
    assert isinstance(network, NCSNpp) and network.fir and network.scale_by_sigma and not network.centered
    assert build.build(config("vp")).pixel_range.low == -1.0
    assert build.build(config("ve"), (16, 24, 3)).shape == (16, 24, 3)


def test_processes() -> None:
    section = ml_collections.ConfigDict
    assert build.build_process(section({"name": "subvp", "beta_max": 10.0})) == SubVP(beta_max=10.0)
    assert build.build_process(section({"name": "edm", "t_max": 50.0})) == EDM(t_max=50.0)
    assert build.build_process(section({"name": "cosine"})) == CosineVP()
    chain = build.build_process(section({"name": "smld", "sigma_min": 0.1, "sigma_max": 10.0, "n": 3}))
    np.testing.assert_allclose(chain.sigmas, [0.1, 1.0, 10.0])
    chain = build.build_process(section({"name": "ddpm", "beta_min": 0.1, "beta_max": 0.3, "n": 2}))
    np.testing.assert_allclose(chain.alphas**2, [0.95, 0.95 * 0.85])


def test_labels_and_scores_of_each_recipe() -> None:
    """The label the embedding is made for, and the factor from the output to the score."""
    t = jnp.asarray([0.25, 0.75])
    found = {}
    for recipe in RECIPES:
        values = config(recipe)
        process = build.build_process(values.sde)
        times = t if recipe in ("ve", "vp", "subvp") else 999 * jnp.asarray([0.0, 1.0])
        made = build.build_parameterization(values.model, process)
        found[recipe] = np.asarray(made.c_noise(times)), np.asarray(made.c_out(times))
    np.testing.assert_allclose(found["ve"][0], 0.01 * 1000 ** np.asarray(t), rtol=1e-5)  # sigma
    np.testing.assert_allclose(found["ve"][1], 1.0)
    np.testing.assert_allclose(found["vp"][0], 999 * t, rtol=1e-6)
    np.testing.assert_allclose(found["vp"][1], -1 / VP().marginal(t)[1], rtol=1e-6)
    np.testing.assert_allclose(found["subvp"][1], -1 / SubVP().marginal(t)[1], rtol=1e-6)
    np.testing.assert_allclose(found["smld"][0], [999, 0])  # 0 is the largest noise
    np.testing.assert_allclose(found["smld"][1], 1.0)
    np.testing.assert_allclose(found["ddpm"][0], [0, 999])
    np.testing.assert_allclose(found["ddpm"][1], [-100.0, -1.0], rtol=1e-4)


def test_discrete_ncsnpp_knows_its_noise_levels_largest_first() -> None:
    values = config("smld")
    process = build.build_process(values.sde)
    network = build.build_network(values, process)
    assert len(network.sigmas) == 1000
    assert network.sigmas[0] == pytest.approx(10.0) and network.sigmas[-1] == pytest.approx(0.01)
    assert isinstance(build.build_network(config("ddpm"), VP()), DDPM)


def test_objectives() -> None:
    made = build.build_objective(config("ve").training, VE())
    assert made.reduce == "sum" and isinstance(made.times, objectives.UniformTime)
    t = jnp.asarray([0.3])
    np.testing.assert_allclose(made.weight(t), VE().marginal(t)[1] ** 2)
    beta, variance = 0.1 + 0.3 * 19.9, VP().marginal(t)[1] ** 2
    for k, expected in ((0, variance), (0.25, variance**0.75 * beta**0.25), (1, beta)):
        values = config("vp", f"training.likelihood_weighting={k}", "training.times=log_snr").training
        made = build.build_objective(values, VP())
        assert made.reduce == "mean" and isinstance(made.times, objectives.LogSNRUniform)
        np.testing.assert_allclose(made.weight(t), expected, rtol=1e-5)
    chain = DiscreteChain.ddpm()
    assert isinstance(build.build_objective(config("ddpm").training, chain).times, objectives.UniformIndex)


# The optimizer


@pytest.mark.parametrize("clip", [1, 5, 50])
def test_gradients_are_clipped_as_published(x64: None, mixed_types: None, clip: int) -> None:
    """g c/max(|g|, c), the JAX code's rule. The PyTorch code's g min(1, c/(|g| + 1e-6)) differs by 1e-6/|g|."""
    arrays = load("math/losses_train_arithmetic")
    optimizer = build.build_optimizer(config("ve", f"optim.grad_clip={clip}").optim)
    gradient = jnp.asarray(arrays["grad"])
    state = optimizer.init(gradient)
    _, state = optimizer.update(gradient, state, gradient)
    first_moment = next(leaf for leaf in jax.tree.leaves(state) if leaf.shape == gradient.shape)
    clipped = first_moment / (1 - 0.9)
    assert_close(clipped, arrays[f"clip{clip}_jax"], 1e-8)
    np.testing.assert_allclose(clipped, arrays[f"clip{clip}_pytorch"], rtol=2e-6)


def test_clipping_can_be_turned_off(mixed_types: None) -> None:
    optimizer = build.build_optimizer(config("ve", "optim.grad_clip=0").optim)
    gradient = jnp.asarray([3e3, 4e3])
    _, state = optimizer.update(gradient, optimizer.init(gradient), gradient)
    assert any(np.allclose(leaf, [300, 400]) for leaf in jax.tree.leaves(state))


@pytest.mark.parametrize("warmup", [0, 1, 4])
def test_adam_with_linear_warmup(mixed_types: None, warmup: int) -> None:
    """A constant gradient moves Adam by the learning rate itself at every step."""
    section = config("ve", "optim.lr=0.5", f"optim.warmup={warmup}", "optim.eps=1e-12").optim
    optimizer = build.build_optimizer(section)
    params = jnp.asarray([1.0, -2.0])
    state, moves = optimizer.init(params), []
    for _ in range(6):
        updates, state = optimizer.update(jnp.asarray([0.3, -0.1]), state, params)
        moves.append(updates)
    rates = 0.5 * np.minimum(1, np.arange(1, 7) / max(warmup, 1))
    np.testing.assert_allclose(moves, np.stack([-rates, rates], axis=1), rtol=1e-4)


def test_adam_moments(mixed_types: None) -> None:
    """beta1 as configured, beta2 = 0.999."""
    optimizer = build.build_optimizer(config("ve", "optim.beta1=0.5", "optim.grad_clip=0").optim)
    state = optimizer.init(jnp.zeros(1))
    _, state = optimizer.update(jnp.asarray([2.0]), state, jnp.zeros(1))
    leaves = [float(leaf[0]) for leaf in jax.tree.leaves(state) if leaf.shape == (1,)]
    np.testing.assert_allclose(sorted(leaves), [0.004, 1.0], rtol=1e-5)


def test_weight_decay_is_decoupled_and_spares_the_fourier_frequencies(mixed_types: None) -> None:
    section = config("ve", "optim.lr=0.5", "optim.warmup=0", "optim.weight_decay=0.1").optim
    optimizer = build.build_optimizer(section)
    params = {"fourier": {"frequencies": jnp.ones(2)}, "conv": {"kernel": jnp.ones(2)}}
    zero = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zero, optimizer.init(params), params)
    np.testing.assert_allclose(updates["conv"]["kernel"], -0.05, rtol=1e-6)
    np.testing.assert_array_equal(updates["fourier"]["frequencies"], 0.0)
    trainer = build.build(config("ve")).trainer
    state = jax.eval_shape(lambda: trainer.init(jax.random.key(0), (8, 8, 1)))
    paths = [jax.tree_util.keystr(p) for p, _ in jax.tree_util.tree_leaves_with_path(state.params)]
    assert sum("frequencies" in path for path in paths) == 1  # the name is still that of the network


# The sampler


def sampler(recipe: str, *overrides: str) -> Sampler:
    values = config(recipe, *overrides)
    return build.build_sampler(
        values.sampling, build.build_process(values.sde), build.build_pixel_range(values.data)
    )


def test_default_sampler_is_predictor_then_corrector_on_a_grid_that_fits() -> None:
    made = sampler(
        "ve", "sampling.snr=0.2", "sampling.corrector_steps=3", "sampling.steps=7", "sampling.t_end=0.1"
    )
    predictor, corrector = made.stepper.steppers
    assert predictor == steppers.ReverseDiffusion(made.process, 1.0)
    assert (corrector.snr, corrector.n_steps, corrector.norm) == (0.2, 3, "sample")
    np.testing.assert_allclose(corrector.alpha(jnp.asarray([0.5])), 1.0)
    np.testing.assert_allclose(made.times, np.linspace(1, 0.1, 8))
    assert made.denoise == "tweedie" and made.nfe == 7 * 4 + 1


def test_predictors_and_grids() -> None:
    plain = ("sampling.corrector=none", "sampling.steps=5", "sampling.t_end=0.1")
    stepper = sampler("vp", *plain, "sampling.predictor=probability_flow").stepper
    assert isinstance(stepper, steppers.ReverseDiffusion) and stepper.eta == 0
    stepper = sampler("vp", *plain, "sampling.predictor=ancestral", "sampling.variance=posterior").stepper
    assert isinstance(stepper, steppers.Ancestral) and stepper.variance == "posterior"
    assert sampler("vp", *plain, "sampling.predictor=euler_maruyama").stepper == steppers.EulerMaruyama(
        VP(), 1.0
    )
    assert isinstance(sampler("vp", *plain, "sampling.predictor=none").stepper, steppers.Identity)
    np.testing.assert_allclose(
        sampler("vp", *plain, "sampling.grid=log_snr").times, grids.log_snr_uniform(VP(), 5, 0.1)
    )
    np.testing.assert_allclose(
        sampler("vp", *plain, "sampling.grid=karras").times, grids.karras(VP(), 5, 0.1)
    )
    with pytest.raises(
        UserError, match=r"t_end must be in \[t_min, t_max\) = \[0.001, 1.0\); got t_end=0.0005"
    ):
        sampler("vp", *plain[:2], "sampling.t_end=0.0005", "sde.t_min=0.001")
    chain = sampler("ddpm", *plain[:2])
    np.testing.assert_array_equal(chain.times, [999, 799, 599, 399, 199])  # then Tweedie's formula, to -1
    assert chain.nfe == 5
    chain = sampler("ddpm", *plain[:2], "sampling.denoise=none")
    np.testing.assert_array_equal(chain.times, [999, 799, 599, 399, 199, -1])


PREDICTORS = {
    "euler_maruyama": "euler_maruyama",
    "reverse_diffusion": "reverse_diffusion",
    "ancestral_sampling": "ancestral",
    "none": "none",
}
CORRECTORS = {"langevin": "langevin", "ald": "annealed_langevin", "none": "none"}


@pytest.mark.parametrize(
    "run",
    [
        "ve_rd_langevin_n2",
        "ve_none_ald_n2",
        "ve_as_none",
        "vp_rd_ald",
        "vp_as_langevin",
        "subvp_rd_none",
        "vp_rdpf_none",
        "vp_em_none",
    ],
)
def test_compat_published_repeats_the_published_runs(x64: None, run: str) -> None:
    stored = load(f"math/samplers_pc_{run}")
    settings, name = meta(stored), run.split("_")[0]
    predictor = PREDICTORS[settings["predictor"]]
    ends = [
        f"sde.{k}={float(stored[k])}"
        for k in ("sigma_min", "sigma_max", "beta_min", "beta_max")
        if k in stored
    ]
    made = sampler(
        name,
        *ends,
        "sampling.compat=published",
        "sampling.predictor=" + ("probability_flow" if settings["probability_flow"] else predictor),
        f"sampling.corrector={CORRECTORS[settings['corrector']]}",
        f"sampling.snr={float(stored['snr'])}",
        f"sampling.corrector_steps={int(stored['n_steps'])}",
        f"sampling.steps={int(stored['N'])}",
        f"sampling.t_end={float(stored['eps'])}",
    )
    assert made.denoise == "mean"
    noise = [stored["noise_corrector"]] if settings["corrector"] != "none" else []
    noise += [stored["noise_predictor"][:, None]] if predictor != "none" else []
    noise = jnp.asarray(np.concatenate(noise, 1), float)
    assert noise.shape[:2] == (made.steps, made.stepper.draws)
    score_fn = reference_mixture(stored).score_fn(made.process)
    follow = jax.jit(lambda x: made.follow(score_fn, x, lambda i: noise[i], 0, made.steps))
    last, mean = follow(jnp.asarray(stored["x_init"], float))
    assert_close(last, stored["final_no_denoise"], 1e-8)
    assert_close(made.finish(score_fn, last, mean), stored["final_denoise"], 1e-8)


def test_compat_published_walks_a_discrete_chain_by_its_index() -> None:
    made = sampler("ddpm", "sampling.compat=published", "sampling.corrector=langevin", "sampling.snr=0.1")
    corrector, predictor = made.stepper.steppers
    assert isinstance(corrector, steppers.at_start) and corrector.stepper.norm == "batch"
    assert isinstance(predictor, steppers.Ancestral) and predictor.process is made.process
    chain = DiscreteChain.ddpm()
    t = jnp.asarray([10.0, 999.0])
    np.testing.assert_allclose(corrector.stepper.alpha(t), chain.transition(t, t - 1)[0] ** 2, rtol=1e-6)


def test_published_view_has_as_many_levels_as_steps() -> None:
    made = sampler("ve", "sampling.compat=published", "sampling.steps=7", "sampling.predictor=ancestral")
    table = made.stepper.steppers[1].process
    assert isinstance(table, PublishedSteps)
    stored = {"sigma_min": 0.01, "sigma_max": 10.0, "N": 7}
    np.testing.assert_allclose(table.chain.sigmas, reference_chain("ve", stored).sigmas)
    np.testing.assert_allclose(made.times, grids.published(7, 1e-5))


# Data


def test_open_source_checks_shape_and_levels() -> None:
    assert build.open_source(config("ve").data, train=True).shape == (8, 8, 1)
    assert len(build.open_source(config("ve").data, train=False)) == 360
    with pytest.raises(UserError, match=r"'digits' has images of shape \(8, 8, 1\).*says \(16, 16, 1\)"):
        build.open_source(config("ve", "data.image_size=16").data, train=True)
    with pytest.raises(UserError, match=r"'digits' has images of shape \(8, 8, 1\).*says \(8, 8, 3\)"):
        build.open_source(config("ve", "data.channels=3").data, train=True)
    with pytest.raises(UserError, match=r"'digits' has 17 levels; set config.data.levels"):
        build.open_source(config("ve", "data.levels=256").data, train=True)
    with pytest.raises(UserError, match=r"no split 'foo'; known splits: train, test"):
        build.open_source(config("ve", "data.train_split=foo").data, train=True)


def test_likelihood_tolerance_is_in_bits_per_dimension():
    section = config("vp", "eval.bits_tol=1e-3", "eval.rtol=1e-2", "eval.variable=log_snr").eval
    ode, bound = build.build_likelihood(section, VP(), (4, 8, 3))
    assert bound is None and ode.flow.rtol == 1e-2 and ode.flow.variable == "log_snr"
    np.testing.assert_allclose(ode.tolerance, 1e-3 * 96 * np.log(2))
    with pytest.raises(UserError, match="one derivative for each of 3072 dimensions, too many above 1024"):
        build.build_likelihood(config("vp", "eval.probes=0").eval, VP(), (32, 32, 3))
