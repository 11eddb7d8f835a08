"""From a configuration to objects: the only reader of configurations.

Everything is validated here, before any work: each name against an explicit table, each value by the object it makes.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import diffrax
import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from score_sde import grids, objectives, parameterize, steppers
from score_sde.data import (
    ArraySource,
    FolderSource,
    Mapped,
    PixelRange,
    Source,
    TFDSSource,
    crop_resize,
    digits,
    in_memory,
)
from score_sde.errors import UserError
from score_sde.flow import Flow
from score_sde.likelihood import Bound, ODELikelihood
from score_sde.metrics.statistics import METRICS as QUALITY_METRICS
from score_sde.networks import DDPM, NCSN, FlowPP, NCSNpp, NCSNv2
from score_sde.sampling import Sampler
from score_sde.sde import (
    EDM,
    VE,
    VP,
    CosineVP,
    DiscreteChain,
    GaussianSDE,
    Perturbation,
    PublishedSteps,
    SubVP,
)
from score_sde.training.dequantizer import Dequantization
from score_sde.training.step import ScoreMatching, ScoreModel, Trainer

PROCESSES: dict[str, Callable[..., Perturbation]] = {
    "ve": VE,
    "vp": VP,
    "subvp": SubVP,
    "edm": EDM,
    "cosine": CosineVP,
    "smld": DiscreteChain.smld,
    "ddpm": DiscreteChain.ddpm,
}
CHAIN_ENTRIES = {"smld": ("sigma_min", "sigma_max", "n"), "ddpm": ("beta_min", "beta_max", "n")}
NETWORKS: dict[str, type[nn.Module]] = {"ncsnpp": NCSNpp, "ddpm": DDPM, "ncsn": NCSN, "ncsnv2": NCSNv2}
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
EXACT_DIMENSIONS = 1024
"""Largest images whose divergence may be computed exactly."""
IN_MEMORY_BYTES = 2**30
"""Image sets up to this size are decoded once and kept."""


@dataclasses.dataclass(frozen=True, eq=False)
class Experiment:
    """The objects of one run.

    shape: (height, width, channels) of an image. training, sampling, eval, quality: the plain settings of the loops.
    """

    name: str
    seed: int
    process: Perturbation
    model: ScoreModel
    trainer: Trainer
    sampler: Sampler
    pixel_range: PixelRange
    shape: tuple[int, int, int]
    training: dict[str, Any]
    sampling: dict[str, Any]
    eval: dict[str, Any]
    quality: dict[str, Any]


SECTIONS = ("sde", "model", "data", "optim", "training", "sampling", "eval", "quality", "dequantizer")


def build(config: ml_collections.ConfigDict, shape: tuple[int, int, int] | None = None) -> Experiment:
    """The experiment that `config` describes, for images of `shape` (by default as the configuration says).

    Raises UserError, naming the entry, for anything unknown or impossible.
    """
    _check_sections(config)
    if shape is None:
        shape = (config.data.image_size, config.data.image_size, config.data.channels)
    if min(shape) < 1:
        raise UserError(
            f"config.data: images need at least 1 pixel and 1 channel; got (height, width, channels) = {shape}. Set "
            "config.data.image_size and config.data.channels"
        )
    process = build_process(config.sde)
    network = build_network(config, process)
    model = ScoreModel(network, build_parameterization(config.model, process))
    trainer = Trainer(
        task=ScoreMatching(model, build_objective(config.training, process)),
        optimizer=build_optimizer(config.optim),
        ema_rate=_fraction("training.ema_rate", config.training.ema_rate),
        ema_warmup=config.training.ema_warmup,
    )
    experiment = Experiment(
        name=config.name,
        seed=config.seed,
        process=process,
        model=model,
        trainer=trainer,
        sampler=build_sampler(config.sampling, process, build_pixel_range(config.data)),
        pixel_range=build_pixel_range(config.data),
        shape=shape,
        training=_counts("training", config.training, TRAINING_COUNTS),
        sampling=_counts("sampling", config.sampling, SAMPLING_COUNTS),
        eval=_counts("eval", config.eval, EVAL_COUNTS),
        quality=_counts("quality", config.quality, QUALITY_COUNTS),
    )
    _check_intervals(experiment.training)
    _choose("eval.split", {"train": True, "test": False}, config.eval.split)
    metric_names(config.eval)
    _choose("eval.dequantization", dict.fromkeys(("uniform", "variational")), config.eval.dequantization)
    if isinstance(process, GaussianSDE):
        build_likelihood(config.eval, process, shape)
    with _blame("model"):
        jax.eval_shape(lambda: trainer.init(jax.random.key(0), shape))
    if isinstance(process, GaussianSDE):
        build_dequantizer(config, experiment)
    return experiment


def _check_intervals(training: dict[str, int]) -> None:
    """Raises UserError where checkpoints to keep would never be written: they are saved between calls."""
    checkpoint, call = training["checkpoint_every"], training["steps_per_call"]
    if training["keep_every"] and (training["keep_every"] % checkpoint or checkpoint % call):
        raise UserError(
            f"config.training.keep_every must be a multiple of checkpoint_every, and that of steps_per_call; got "
            f"keep_every={training['keep_every']}, checkpoint_every={checkpoint}, steps_per_call={call}"
        )


def _check_sections(config: ml_collections.ConfigDict) -> None:
    """Raises UserError for unknown or missing sections and entries, and for values that fit nowhere."""
    _check_names("config", config, ("name", "seed", *SECTIONS))
    _check_complete("config", config, ("name", "seed", *SECTIONS))
    for section in SECTIONS:
        if not isinstance(config[section], ml_collections.ConfigDict):
            raise UserError(f"config.{section} must be a section of entries; got {config[section]!r}")
        if section in ENTRIES:
            _check_names(f"config.{section}", config[section], ENTRIES[section])
        _check_complete(f"config.{section}", config[section], ENTRIES.get(section) or NEEDED[section])
        for name, value in config[section].items():
            if isinstance(value, float) and not math.isfinite(value):
                raise UserError(f"config.{section}.{name} must be a finite number; got {value}")
    if not config.name:
        raise UserError("config.name is empty; it names the default working directory")
    if not 0 <= config.seed < 2**32:
        raise UserError(f"config.seed must be in [0, 2^32); got {config.seed}")


def build_process(section: ml_collections.ConfigDict) -> Perturbation:
    """The forward process of config.sde: `name` and its parameters."""
    values = dict(section)
    make = _choose("sde.name", PROCESSES, values.pop("name"))
    known = CHAIN_ENTRIES.get(section.name)
    if known and values.get("n", 1) < 1:
        raise UserError(f"config.sde.n must be at least 1; got {values['n']}")
    _check_names("config.sde", values, known or [f.name for f in dataclasses.fields(make)])  # type: ignore[arg-type]
    with _blame("sde"):
        return make(**values)


def build_network(config: ml_collections.ConfigDict, process: Perturbation) -> nn.Module:
    """The network of config.model; noise table and pixel range come from the process and config.data."""
    values = dict(config.model)
    values.pop("prediction")
    make = _choose("model.name", NETWORKS, values.pop("name"))
    derived = {"parent", "name", "sigmas", "num_classes", "centered"}
    fields = {f.name for f in dataclasses.fields(make)} - derived
    _check_names("config.model", values, sorted(fields))
    _check_sizes(values)
    values["dtype"] = _choose("model.dtype", DTYPES, values["dtype"])
    values["centered"] = config.data.centered
    if isinstance(process, DiscreteChain) and values.get("scale_by_sigma"):
        values["sigmas"] = tuple(float(s) for s in process.sigmas[::-1])
    if make is NCSN:
        if not isinstance(process, DiscreteChain):
            raise UserError(
                "config.model.name=ncsn has parameters for each noise level of a discrete chain; set sde.name=smld, or take "
                "another network"
            )
        values["num_classes"] = len(process.sigmas)
    with _blame("model"):
        return make(**values)


def _check_sizes(values: dict[str, Any]) -> None:
    """Raises UserError for widths, depths and rates that no network can have; the network checks the rest."""
    for name, least in (("nf", 1), ("num_res_blocks", 0)):
        if values.get(name, least) < least:
            raise UserError(f"config.model.{name} must be at least {least}; got {values[name]}")
    levels = values.get("ch_mult", (1,))
    if not levels or any(type(multiple) is not int or multiple < 1 for multiple in levels):
        raise UserError(
            f"config.model.ch_mult must be whole numbers from 1 on, one for each level, like (1, 2, 2); got {levels}"
        )
    if any(type(size) is not int for size in values.get("attn_resolutions", ())):
        raise UserError(
            f"config.model.attn_resolutions must be image heights, like (16,); got {values['attn_resolutions']}"
        )
    _fraction("model.dropout", values.get("dropout", 0.0))
    for name in ("fourier_scale", "init_scale"):
        if values.get(name, 0.0) < 0:
            raise UserError(f"config.model.{name} must be 0 or positive; got {values[name]}")


def build_parameterization(
    section: ml_collections.ConfigDict, process: Perturbation
) -> parameterize.Parameterization:
    """How the output of config.model becomes a score: `prediction`, with the label its embedding is made for."""
    if section.get("embedding") == "fourier":
        label = parameterize.noise_level_label(process)
    elif isinstance(process, DiscreteChain):
        ascending = process.alphas[-1] < 1  # DDPM counts from the data, SMLD from the noise
        label = parameterize.index_label if ascending else parameterize.reversed_index_label(process)
    else:
        label = parameterize.time_label
    if section.prediction in ("noise", "edm") and section.get("scale_by_sigma"):
        raise UserError(
            f"config.model: scale_by_sigma divides the network's output by sigma, and so does prediction={section.prediction}; "
            "set scale_by_sigma=False"
        )
    choices = {
        "score": lambda: parameterize.network_score(label),
        "noise": lambda: parameterize.noise_prediction(process, label),
        "edm": lambda: dataclasses.replace(parameterize.edm_preconditioning(process), c_noise=label),
    }
    return _choose("model.prediction", choices, section.prediction)()


def build_objective(
    section: ml_collections.ConfigDict, process: Perturbation
) -> objectives.DenoisingScoreMatching:
    """Denoising score matching with the times, weight and reduction of config.training."""
    discrete = isinstance(process, DiscreteChain)
    likelihood = section.likelihood_weighting
    if discrete and (section.times != "uniform" or likelihood):
        raise UserError(
            f"a discrete chain is trained with training.times=uniform and training.likelihood_weighting=0; got "
            f"times={section.times}, likelihood_weighting={likelihood}. Use a *_cont recipe for the others."
        )
    times = {
        "uniform": objectives.UniformIndex if discrete else objectives.UniformTime,
        "log_snr": objectives.LogSNRUniform,
    }
    with _blame("training"):
        weight = objectives.variance_weight(process)
        if isinstance(process, GaussianSDE):
            weight = objectives.interpolated_weight(process, likelihood)
        return objectives.DenoisingScoreMatching(
            process,
            _choose("training.times", times, section.times)(process),
            weight,
            section.reduce,
        )


def build_optimizer(section: ml_collections.ConfigDict) -> optax.GradientTransformation:
    """Adam with linear warm-up and clipping of the global gradient norm (0 turns either off).

    Step n = 0, 1, ... has the rate lr min(1, (n + 1)/warmup); the published codes have n in place of n + 1, and so
    waste the first step.
    """
    for name in ("lr", "eps"):
        if section[name] <= 0:
            raise UserError(f"config.optim.{name} must be positive; got {section[name]}")
    for name in ("weight_decay", "warmup", "grad_clip"):
        if section[name] < 0:
            raise UserError(f"config.optim.{name} must be 0 or positive; got {section[name]}")
    _fraction("optim.beta1", section.beta1)
    lr, warmup = section.lr, max(section.warmup, 1)

    def rate(count):
        return lr * jnp.minimum(1.0, (count + 1) / warmup)

    clip = optax.clip_by_global_norm(section.grad_clip) if section.grad_clip else optax.identity()
    decay = (
        optax.add_decayed_weights(section.weight_decay, mask=_trained)
        if section.weight_decay
        else optax.identity()
    )
    adam = optax.scale_by_adam(b1=section.beta1, eps=section.eps)
    return optax.chain(clip, adam, decay, optax.scale_by_learning_rate(rate))


def _trained(params: Any) -> Any:
    """False for the random Fourier frequencies, which stay as they were drawn."""
    return jax.tree_util.tree_map_with_path(lambda path, _: "frequencies" not in str(path[-1]), params)


def build_sampler(section: ml_collections.ConfigDict, process: Perturbation, pixels: PixelRange) -> Sampler:
    """The sampler of config.sampling, for images in the range `pixels`.

    compat = "none": the mathematics as it should be: steps that fit the grid, predictor before corrector, Tweedie at the end
    (as `denoise` says). compat = "published": the updates of the published codes: their grid and tables, dt = 1/N, corrector
    before predictor, the VP factor alpha in correctors, plain Euler in place of sub-VP's reverse diffusion, batch norms in
    the Langevin step, and the mean of the last step as the sample.
    """
    _choose("sampling.variance", dict.fromkeys(("posterior", "forward")), section.variance)
    _choose("sampling.norm", dict.fromkeys(("sample", "batch")), section.norm)
    if section.snr <= 0:
        raise UserError(f"config.sampling.snr must be positive; got {section.snr}")
    if not isinstance(process, DiscreteChain) and not 0 <= section.t_end < process.t_max:
        raise UserError(f"config.sampling.t_end must be in [0, {process.t_max}); got {section.t_end}")
    compat = _choose("sampling.compat", {"none": False, "published": True}, section.compat)
    with _blame("sampling"):
        table = _published_table(process, section.steps) if compat else process
        predictor = _choose("sampling.predictor", PREDICTORS, section.predictor)(process, table, section)
        corrector = _choose("sampling.corrector", CORRECTORS, section.corrector)(
            process, table, section, compat
        )
        times = _choose("sampling.grid", GRIDS, section.grid)(process, section, compat)
        if corrector is None:
            stepper = predictor
        elif compat:
            stepper = steppers.chain(steppers.at_start(corrector), predictor)
        elif section.predictor == "none":
            stepper = corrector
        else:
            stepper = steppers.chain(predictor, corrector)
        ranges = {"prior": None, "uniform": (pixels.low, pixels.high)}
        start = _choose("sampling.start", ranges, section.start)
        sampler = Sampler(process, stepper, times, section.denoise, start)
        return dataclasses.replace(sampler, denoise="mean") if compat else sampler


def _published_table(process: Perturbation, steps: int) -> Perturbation:
    if isinstance(process, VE):
        return PublishedSteps(DiscreteChain.smld(process.sigma_min, process.sigma_max, steps))
    if isinstance(process, VP | SubVP):
        return PublishedSteps(DiscreteChain.ddpm(process.beta_min, process.beta_max, steps))
    if isinstance(process, DiscreteChain):
        return process
    raise ValueError(f"there is no published sampler for {type(process).__name__}; use compat=none")


def _euler_maruyama(process, table, section, eta=1.0):
    if not isinstance(process, GaussianSDE):
        raise ValueError("a discrete chain has no drift; use predictor=reverse_diffusion or ancestral")
    return steppers.EulerMaruyama(process, eta)


def _reverse_diffusion(process, table, section, eta=1.0):
    if isinstance(process, SubVP) and table is not process:
        return steppers.EulerMaruyama(process, eta)  # published: sub-VP is discretized by Euler's method
    return steppers.ReverseDiffusion(table, eta)


PREDICTORS: dict[str, Callable] = {
    "euler_maruyama": _euler_maruyama,
    "reverse_diffusion": _reverse_diffusion,
    "probability_flow": functools.partial(_reverse_diffusion, eta=0.0),
    "ancestral": lambda process, table, section: steppers.Ancestral(table, section.variance),
    "none": lambda process, table, section: steppers.Identity(),
}


def _alpha(table: Perturbation, compat: bool) -> dict[str, Callable]:
    return {"alpha": steppers.step_alpha(table)} if compat else {}


CORRECTORS: dict[str, Callable] = {
    "langevin": lambda process, table, section, compat: steppers.Langevin(
        section.snr, section.corrector_steps, "batch" if compat else section.norm, **_alpha(table, compat)
    ),
    "annealed_langevin": lambda process, table, section, compat: steppers.AnnealedLangevin(
        process, section.snr, section.corrector_steps, **_alpha(table, compat)
    ),
    "none": lambda process, table, section, compat: None,
}


def _uniform_grid(process, section, compat):
    if isinstance(process, DiscreteChain):
        if section.steps < 2 and section.denoise == "tweedie" and not compat:
            raise ValueError(
                f"steps must be at least 2 for a discrete chain with denoise=tweedie; got {section.steps}"
            )
        times = grids.chain_steps(process, section.steps)
        # Tweedie's formula is the step to the clean image: a sampled one before it would leave its noise in.
        return times if compat or section.denoise != "tweedie" else times[:-1]
    if compat:
        return grids.published(section.steps, section.t_end)
    return grids.uniform(process, section.steps, section.t_end)


def _continuous(grid: Callable) -> Callable:
    def make(process, section, compat):
        if isinstance(process, DiscreteChain) or compat:
            raise ValueError(
                "only grid=uniform and levels exist for discrete chains, and uniform alone for compat=published"
            )
        return grid(process, section.steps, section.t_end)

    return make


def _levels(process, section, compat):
    if not isinstance(process, DiscreteChain) or section.predictor != "none" or section.corrector == "none":
        raise ValueError(
            "grid=levels stays at each noise level of a discrete chain, so predictor must be none and a corrector must move "
            f"the samples; got {type(process).__name__}, predictor={section.predictor}, corrector={section.corrector}"
        )
    if compat:  # it would replace the denoising at the end, which NCSNv2 has and NCSN has not
        raise ValueError("grid=levels is the sampler of the published NCSN codes already; use compat=none")
    if section.steps > len(process.sigmas):
        raise ValueError(
            f"steps is the number of noise levels to visit, at most sde.n={len(process.sigmas)}; got {section.steps}"
        )
    if section.corrector == "annealed_langevin" and section.snr >= 1:
        raise ValueError(
            f"snr must be below 1: from there on a Langevin step, 2 (snr sigma)^2, is so long that samples diverge; got "
            f"{section.snr}"
        )
    return grids.levels(process, section.steps)


GRIDS: dict[str, Callable] = {
    "uniform": _uniform_grid,
    "levels": _levels,
    "log_snr": _continuous(grids.log_snr_uniform),
    "karras": _continuous(grids.karras),
}

TRAINING_COUNTS = {  # entry: smallest value
    "batch_size": 1,
    "steps": 1,
    "steps_per_call": 1,
    "log_every": 1,
    "eval_every": 0,
    "sample_every": 0,
    "checkpoint_every": 1,
    "keep": 1,
    "keep_every": 0,
    "quality_every": 0,
    "quality_samples": 2,
}
SAMPLING_COUNTS = {"steps": 1, "num_samples": 1, "batch_size": 1, "frames": 0}
SAMPLING_NAMES = (
    *SAMPLING_COUNTS,
    *(
        "predictor",
        "corrector",
        "snr",
        "corrector_steps",
        "norm",
        "variance",
        "grid",
        "start",
        "t_end",
        "denoise",
        "compat",
    ),
)
EVAL_COUNTS = {"batch_size": 1, "num_examples": 0, "passes": 1, "probes": -1, "bound_draws": 0}
EVAL_NAMES = (
    *EVAL_COUNTS,
    *("metrics", "split", "solver", "rtol", "atol", "variable", "bits_tol", "dequantization"),
)
QUALITY_COUNTS = {"num_samples": 2, "seeds": 1}
DEQUANTIZER_COUNTS = {"batch_size": 1, "steps": 1, "log_every": 1, "eval_every": 0, "checkpoint_every": 1}
FLOW_NAMES = (
    *("filters", "components", "blocks", "heads", "couplings"),
    *("context_filters", "context_layers", "context_heads"),
    *("mix_channels", "activate_output"),
)
SOLVERS = {"tsit5": diffrax.Tsit5, "dopri5": diffrax.Dopri5, "dopri8": diffrax.Dopri8}


def build_flow(section: ml_collections.ConfigDict, process: Perturbation) -> Flow:
    """The probability-flow ODE with the solver of config.eval."""
    if not isinstance(process, GaussianSDE):
        raise UserError(
            "likelihoods and encodings need a continuous process, whose probability flow is an ODE; train a *_cont recipe"
        )
    with _blame("eval"):
        solver = _choose("eval.solver", SOLVERS, section.solver)()
        return Flow(process, solver, section.rtol, section.atol, variable=section.variable)


def build_likelihood(
    section: ml_collections.ConfigDict, process: Perturbation, shape: tuple[int, int, int]
) -> tuple[ODELikelihood | None, Bound | None]:
    """(exact likelihood, bound) as config.eval asks: `probes` = -1 leaves the first out, `bound_draws` = 0 the second.

    A step of the ODE may err by `bits_tol` bits/dim.
    """
    flow = build_flow(section, process)
    assert isinstance(process, GaussianSDE)
    with _blame("eval"):
        if section.probes == 0 and math.prod(shape) > EXACT_DIMENSIONS:
            raise UserError(
                f"config.eval.probes=0, the exact trace, takes one derivative for each of {math.prod(shape)} dimensions, too "
                f"many above {EXACT_DIMENSIONS}; use probes >= 1"
            )
        nats = section.bits_tol * math.prod(shape) * math.log(2)
        ode = ODELikelihood(flow, section.probes, tolerance=nats) if section.probes >= 0 else None
        bound = (
            Bound(process, objectives.LogSNRUniform(process), section.bound_draws)
            if section.bound_draws
            else None
        )
    if ode is None and bound is None:
        raise UserError(
            "config.eval leaves no likelihood to evaluate: set probes to 0 or more, or bound_draws to 1 or more"
        )
    return ode, bound


METRICS = ("loss", "levels", "bits", *QUALITY_METRICS)


def metric_names(section: ml_collections.ConfigDict) -> list[str]:
    """config.eval.metrics as names; raises UserError for unknown ones, or none."""
    names = [name.strip() for name in section.metrics.split(",") if name.strip()]
    unknown = [name for name in names if name not in METRICS]
    if unknown or not names:
        raise UserError(
            f"config.eval.metrics: {', '.join(unknown) or 'nothing'} is no metric; known, with commas between them: "
            f"{', '.join(METRICS)}"
        )
    return names


def build_dequantizer(
    config: ml_collections.ConfigDict, experiment: Experiment
) -> tuple[Trainer, dict[str, Any]]:
    """The training of config.dequantizer's flow against the experiment's score model, and the settings of its loop.

    Optimizer and moving average are the score model's, but for the rate `lr`.
    """
    section, process = config.dequantizer, experiment.process
    if not isinstance(process, GaussianSDE):
        raise UserError("a dequantizer is trained with a likelihood bound: train a *_cont recipe")
    optim = config.optim.copy_and_resolve_references()
    optim.lr = section.lr
    with _blame("dequantizer"):
        flow = FlowPP(**{name: section[name] for name in FLOW_NAMES})
        task = Dequantization(
            flow,
            Bound(process, objectives.LogSNRUniform(process)),
            experiment.pixel_range,
            experiment.model.score_fn,
        )
        trainer = Trainer(
            task, build_optimizer(optim), experiment.trainer.ema_rate, experiment.trainer.ema_warmup
        )
        jax.eval_shape(lambda: trainer.init(jax.random.key(0), experiment.shape))
    loop = _counts("dequantizer", section, DEQUANTIZER_COUNTS)
    return trainer, loop | {"steps_per_call": 1, "keep": 1, "keep_every": 0, "sample_every": 0}


def build_pixel_range(section: ml_collections.ConfigDict) -> PixelRange:
    """[-1, 1] for centered data, else [0, 1], with the data set's number of levels."""
    with _blame("data"):
        return PixelRange(section.levels, -1.0 if section.centered else 0.0, 1.0)


DATA_NAMES = (
    *(
        "source",
        "path",
        "image_size",
        "channels",
        "levels",
        "centered",
        "random_flip",
        "dequantize",
        "crop",
    ),
    *("train_split", "test_split", "skip_bad", "in_memory"),
)
ENTRIES = {
    "data": DATA_NAMES,
    "optim": ("lr", "beta1", "eps", "weight_decay", "warmup", "grad_clip"),
    "training": (*TRAINING_COUNTS, "likelihood_weighting", "times", "reduce", "ema_rate", "ema_warmup"),
    "sampling": SAMPLING_NAMES,
    "eval": EVAL_NAMES,
    "quality": (*QUALITY_COUNTS, "extractor", "weights", "reference"),
    "dequantizer": (*DEQUANTIZER_COUNTS, *FLOW_NAMES, "lr"),
}
"""Entries of the sections that are the same for every recipe: these and no others."""
NEEDED = {"sde": ("name",), "model": ("name", "prediction", "dtype")}
"""The other sections name an object; their further entries are its parameters."""


def open_source(section: ml_collections.ConfigDict, train: bool) -> Source:
    """The training or held-out images of config.data.

    Raises UserError where they are missing or unreadable, or are not of the shape and levels that the section says.
    """
    _check_names("config.data", section, DATA_NAMES)
    _check_complete("config.data", section, DATA_NAMES)
    if section.crop and section.source in ("digits", "folder"):
        raise UserError(
            f"config.data.crop={section.crop} is for prepared data sets; image folders are cropped by image_size alone"
        )
    split = section.train_split if train else section.test_split
    size, channels = section.image_size, section.channels
    if section.source == "digits":
        source: Source = digits(split)
    elif section.source == "folder":
        if not section.path:
            raise UserError("config.data.path is empty; name your image folder: --config.data.path=DIR")
        source = FolderSource(section.path, size or None, channels or None, split, skip_bad=section.skip_bad)
    else:
        source = TFDSSource(section.source, split, data_dir=section.path or None)
        if source.shape is None or section.crop:
            crop = functools.partial(crop_resize, size=size, **_crop_options(section))
            source = Mapped(source, crop, (size, size, channels))
    if section.in_memory and source.shape and len(source) * int(np.prod(source.shape)) <= IN_MEMORY_BYTES:
        with _blame("data"):
            source = source if isinstance(source, ArraySource) else in_memory(source, IN_MEMORY_BYTES)
    _check_shape(source, size, channels, section.levels)
    return source


def _crop_options(section: ml_collections.ConfigDict) -> dict[str, Any]:
    return {"crop": section.crop, "method": "bilinear"} if section.crop else {}


def _check_shape(source: Source, size: int, channels: int, levels: int) -> None:
    assert source.shape is not None
    expected = (size or source.shape[0], size or source.shape[1], channels or source.shape[2])
    if source.shape != expected:
        raise UserError(
            f"data set {source.name!r} has images of shape {source.shape} (height, width, channels), but the configuration "
            f"says {expected}; set config.data.image_size and config.data.channels."
        )
    if source.levels != levels:
        raise UserError(
            f"data set {source.name!r} has {source.levels} levels; set config.data.levels accordingly"
        )


def _choose(entry: str, table: dict[str, Any], name: str) -> Any:
    if name not in table:
        raise UserError(f"config.{entry}: unknown name {name!r}; known: {', '.join(table)}")
    return table[name]


def _check_names(section: str, given, known) -> None:
    for name in given:
        if name not in known:
            raise UserError(f"{section}: {name!r} means nothing here; known: {', '.join(known)}")


def _check_complete(section: str, given, needed) -> None:
    missing = [name for name in needed if name not in given]
    if missing:
        raise UserError(
            f"{section} lacks {', '.join(missing)}; the files in configs/ have every entry. To a run of an older version add "
            "them in its config.json"
        )


def _fraction(entry: str, value: float) -> float:
    if not 0 <= value < 1:
        raise UserError(f"config.{entry} must be in [0, 1); got {value}")
    return value


def _counts(section: str, values: ml_collections.ConfigDict, smallest: dict[str, int]) -> dict[str, int]:
    for name, least in smallest.items():
        if values[name] < least:
            raise UserError(f"config.{section}.{name} must be at least {least}; got {values[name]}")
    return {name: values[name] for name in smallest}


class _blame:
    """Turn a ValueError inside into a UserError that names the section."""

    def __init__(self, section: str):
        self.section = section

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind, error, traceback) -> None:
        if isinstance(error, ValueError) and not (
            isinstance(error, UserError) and str(error).startswith("config.")
        ):
            raise UserError(f"config.{self.section}: {error}") from error
