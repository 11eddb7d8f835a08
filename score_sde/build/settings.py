"""The settings of a run: every entry with its type, default, range and meaning.

A section is a frozen dataclass. From these dataclasses follow
- the configuration that a recipe begins with;
- the checks of names, types and ranges;
- what claims a working directory, and what stored rows depend on;
- docs/settings.md.

A missing entry takes its default. The default of an entry that is added later must mean "as
before", so that runs of older versions open. `added=True` keeps it out of what older rows were
stored with. The sections `sde` and `model` are open: each names a process or a network, whose own
fields are the schema.
"""

import dataclasses
import functools
import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeAlias, get_args, get_origin, get_type_hints

import ml_collections

from score_sde.build.entry import Entry, count, entry, interval
from score_sde.build.sections import (
    ClassifierSettings,
    DequantizerSettings,
    InverseSettings,
    SecondOrderSettings,
)
from score_sde.errors import UserError, nearest

Section: TypeAlias = ml_collections.FrozenConfigDict
"""An open section: the name of an object, and its parameters."""


@dataclasses.dataclass(frozen=True)
class Data:
    """Images: where they are, their size and range, and what training does with them."""

    source: str = entry(
        "folder", "digits, folder, phantoms, prepared, or a TensorFlow Datasets name"
    )
    path: str = entry(
        "", "image folder, or folder of prepared slices or data sets", changeable=True
    )
    image_size: int = count(0, "height and width in pixels; 0: as the files say", 0, weights=True)
    channels: int = count(0, "1 grey, 3 colour; 0: as the files say", 0, weights=True)
    levels: int = entry(
        256, "number of integer levels of a pixel", least=2, most=65536, weights=True
    )
    centered: bool = entry(False, "pixel range [-1, 1]; else [0, 1]", weights=True)
    std: float = entry(
        0.5,
        "standard deviation of pixel values, for EDM's prediction and weight",
        above=0,
        weights=True,
    )
    random_flip: bool = entry(True, "mirror half of the training images")
    augment: float = entry(
        0.0,
        "chance of each labelled transformation of a training image; 0: none",
        least=0,
        most=1,
        weights=True,
    )
    dequantize: bool = entry(False, "spread each level evenly over its cell")
    crop: int = count(0, "central square cut out of prepared images, in pixels; 0: none", 0)
    train_split: str = entry("train", "split that is trained on")
    test_split: str = entry("test", "split that is held out")
    skip_bad: bool = entry(False, "leave out unreadable files of a folder instead of refusing")
    in_memory: bool = entry(True, "decode small sets once and keep them", changeable=True)


@dataclasses.dataclass(frozen=True)
class Optim:
    """Adam with linear warm-up, a schedule and clipping."""

    lr: float = entry(2e-4, "learning rate after the warm-up", above=0)
    beta1: float = entry(0.9, "decay of Adam's first moment", least=0, below=1)
    eps: float = entry(1e-8, "Adam's epsilon", above=0)
    weight_decay: float = entry(0.0, "decoupled weight decay", least=0)
    warmup: int = count(5000, "steps until the full learning rate", 0)
    schedule: Literal["constant", "cosine", "linear", "rsqrt"] = entry(
        "constant",
        "the rate after the warm-up; cosine and linear end at 0, rsqrt falls as 1/sqrt(n)",
    )
    decay_steps: int = count(
        0, "cosine, linear: steps from the warm-up to 0; rsqrt: steps before it falls", 0
    )
    grad_clip: float = entry(1.0, "largest global norm of the gradient; 0: any", least=0)


@dataclasses.dataclass(frozen=True)
class Training:
    """The training loop, its objective and its averages of the weights."""

    batch_size: int = count(128, "images a step, over all devices")
    steps: int = count(1_300_000, "optimizer updates in all", changeable=True)
    steps_per_call: int = count(1, "updates in one call of the compiled program", changeable=True)
    accumulate: int = count(1, "parts that a batch is computed in, to save memory", changeable=True)
    fsdp: int = count(1, "devices that share one copy of the weights", changeable=True)
    objective: str = entry("denoising", "what is minimized; all but denoising know no targets")
    projections: int = count(1, "random directions an image, for sliced objectives")
    projection_kind: Literal["rademacher", "gaussian", "sphere"] = entry(
        "rademacher", "distribution of those directions"
    )
    difference_step: float = entry(
        0.1, "length of finite differences, in units of the noise level", above=0
    )
    likelihood_weighting: float = entry(
        0.0, "k of the weight sigma^(2-2k) g^(2k): 1 is maximum likelihood", least=0, most=1
    )
    weight: str = entry("likelihood", "weight of noise levels in the loss")
    times: str = entry("uniform", "distribution of training times")
    p_mean: float = entry(-1.2, "mean of log(sigma/alpha), for times=log_normal")
    p_std: float = entry(1.2, "standard deviation of log(sigma/alpha) there", above=0)
    label_dropout: float = entry(
        0.1, "share of images whose class a class-conditional network is not told", above=0, below=1
    )
    uncertainty: bool = entry(False, "divide the loss by what is expected at its noise level")
    reduce: Literal["mean", "sum"] = entry("mean", "reduction of the loss over dimensions")
    ema_rate: float = entry(0.9999, "rate of the average of the weights", least=0, below=1)
    ema_warmup: bool = entry(True, "begin with a faster average, but after training.from")
    averages: str = entry("", "NAME:NUMBER,...: averages in place of that one; the first is used")
    log_every: int = interval(50, "steps between rows of metrics.jsonl", 1)
    tracker: Literal["tensorboard", "wandb", "trackio"] = entry(
        "tensorboard", "what shows metrics and samples besides metrics.jsonl", changeable=True
    )
    eval_every: int = interval(5000, "steps between held-out losses; 0: never")
    sample_every: int = interval(50_000, "steps between grids of samples; 0: never")
    checkpoint_every: int = interval(10_000, "steps between checkpoints", 1)
    snapshot_every: int = interval(0, "steps between snapshots of averages power:STD; 0: never")
    keep: int = count(2, "newest checkpoints that are kept", changeable=True)
    keep_every: int = interval(50_000, "checkpoints at multiples of it stay; 0: none")
    quality_every: int = interval(0, "steps between Frechet distances; 0: never")
    quality_samples: int = count(1000, "samples of that distance", 2, changeable=True)
    from_run: str = entry(
        "", "RUN or RUN:STEP: begin with the weights of that checkpoint", name="from"
    )


def sampled(default: Any, meaning: str, **known: Any) -> Any:
    """An entry that a sample depends on."""
    return entry(default, meaning, affects=("samples",), **known)


def option(default: Any, meaning: str, **known: Any) -> Any:
    """An entry of some samplers, which older runs have not."""
    return sampled(default, meaning, added=True, **known)


@dataclasses.dataclass(frozen=True)
class Sampling:
    """The sampler: what a sample depends on, and how many are drawn."""

    predictor: str = sampled("reverse_diffusion", "step from one time to the next")
    corrector: str = sampled("none", "Langevin steps at the new time")
    snr: float = sampled(0.16, "signal-to-noise ratio of the corrector", above=0)
    corrector_steps: int = sampled(1, "corrector updates a step", least=1)
    norm: Literal["sample", "batch"] = sampled(
        "sample",
        "norms of the corrector's step size: each sample's, or means over the batch",
    )
    variance: Literal["posterior", "forward"] = sampled(
        "posterior", "noise of the ancestral predictor"
    )
    order: int = option(0, "order of a fast solver; 0: its usual one", least=0)
    eta: float = option(0.0, "noise of a fast solver; 1: as much as the reverse SDE's", least=0)
    churn: float = option(0.0, "S_churn of EDM's stochastic sampler; 0: none", least=0)
    churn_min: float = option(0.0, "least sigma/alpha that is churned", least=0)
    churn_max: float = option(1e9, "largest sigma/alpha that is churned", above=0)
    churn_noise: float = option(1.0, "S_noise, factor of the noise of churn", above=0)
    rtol: float = option(0.05, "relative tolerance of dpm_solver_adaptive", above=0)
    atol: float = option(0.0078, "absolute tolerance of dpm_solver_adaptive", above=0)
    steps: int = sampled(1000, "steps of the time grid", least=1)
    grid: str = sampled("uniform", "spacing of the time grid")
    exponent: float = option(0.0, "exponent of a grid that has one; 0: its usual one", least=0)
    times: tuple[float, ...] = option((), "times of the grid for grid=times, decreasing")
    start: Literal["prior", "uniform"] = sampled("prior", "what sampling begins with")
    t_end: float = sampled(1e-3, "last time of a continuous process", least=0)
    denoise: Literal["tweedie", "mean", "none"] = sampled("tweedie", "last operation")
    compat: Literal["none", "published"] = sampled(
        "none",
        "published: repeat the published samplers number for number",
    )
    guidance_scale: float = option(
        0.0,
        "weight of the class with --classes: of a classifier's gradient, or w of classifier-free "
        "guidance; 0: none",
    )
    guidance_interval: tuple[float, ...] = option(
        (), "least and largest sigma/alpha at which samples are guided; empty: all"
    )
    num_samples: int = count(64, "samples to draw")
    batch_size: int = count(64, "samples at a time, over all devices")
    frames: int = count(40, "pictures of the reverse diffusion; 0: none", 0)
    files: Literal["npz", "png"] = entry("npz", "png: also a file for each sample")


@dataclasses.dataclass(frozen=True)
class Eval:
    """Evaluation of checkpoints: losses, likelihoods, and the ODE's solver."""

    metrics: str = entry("loss,levels", "what --mode eval measures, with commas between")
    batch_size: int = count(1024, "images at a time, over all devices")
    num_examples: int = count(0, "images that are evaluated; 0: all", 0)
    passes: int = count(1, "draws of noise for each image")
    split: Literal["train", "test"] = entry("test", "images of likelihoods and latents")
    probes: int = entry(
        1,
        "directions of the trace estimate; 0: exact trace; -1: no ODE likelihood",
        least=-1,
        affects=("likelihood",),
    )
    solver: str = entry("dopri5", "ODE solver", affects=("likelihood", "flow"))
    rtol: float = entry(
        1e-4, "relative tolerance of the ODE solver", above=0, affects=("likelihood", "flow")
    )
    atol: float = entry(
        1e-4, "absolute tolerance of the ODE solver", above=0, affects=("likelihood", "flow")
    )
    steps: int = count(
        0,
        "steps of the ODE solver; 0: chosen by the error",
        0,
        affects=("likelihood", "flow"),
        added=True,
    )
    variable: Literal["t", "angle", "log_snr", "angle_log_snr"] = entry(
        "t", "variable of integration", affects=("likelihood", "flow")
    )
    bits_tol: float = entry(
        1e-4, "error of a step of the ODE, in bits/dim", above=0, affects=("likelihood",)
    )
    bound_draws: int = count(
        0, "draws of the variational bound; 0: no bound", 0, affects=("likelihood",)
    )
    dequantization: Literal["uniform", "variational"] = entry(
        "uniform", "noise inside a level's cell"
    )


@dataclasses.dataclass(frozen=True)
class Quality:
    """Measures of samples: features, reference, number of samples."""

    extractor: str = entry("inception", "features: a name, or FILE.py:FUNCTION")
    weights: str = entry("", "weights file of the extractor")
    reference: str = entry("", "statistics file; default: the training images")
    num_samples: int = count(50_000, "samples that are measured", 2)
    seeds: int = count(1, "sets of samples")


SECTIONS: dict[str, type] = {
    "data": Data,
    "optim": Optim,
    "training": Training,
    "sampling": Sampling,
    "eval": Eval,
    "quality": Quality,
    "dequantizer": DequantizerSettings,
    "classifier": ClassifierSettings,
    "second_order": SecondOrderSettings,
    "inverse": InverseSettings,
}
OPEN = ("sde", "model")
"""Sections that name an object; the object's fields are their entries."""
START_ANEW = (
    *("sampling", "eval", "quality"),
    *("dequantizer", "classifier", "second_order", "inverse"),
)
"""Sections all of whose entries may change between starts of a training run."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """All settings of a run. `sde` and `model`: name of the object, and its parameters."""

    name: str
    seed: int
    sde: Section
    model: Section
    data: Data
    optim: Optim
    training: Training
    sampling: Sampling
    eval: Eval
    quality: Quality
    dequantizer: DequantizerSettings
    classifier: ClassifierSettings
    second_order: SecondOrderSettings
    inverse: InverseSettings

    def to_dict(self) -> dict[str, Any]:
        """Nested dictionaries, as `get_config` returns and `config.json` holds them."""
        values: dict[str, Any] = {"name": self.name, "seed": self.seed}
        values |= {section: getattr(self, section).to_dict() for section in OPEN}
        return values | {section: to_dict(getattr(self, section)) for section in SECTIONS}

    def change(self, section: str, **values: Any) -> "Settings":
        """A copy with other values of some entries of a section."""
        old = getattr(self, section)
        if section in OPEN:
            new: Any = Section(old.to_dict() | values)
        else:
            new = dataclasses.replace(old, **values)
        return dataclasses.replace(self, **{section: new})


@functools.cache
def _entries(section: type) -> dict[str, tuple[dataclasses.Field, Entry]]:
    hints, found = get_type_hints(section), {}
    for field in dataclasses.fields(section):
        known: Entry = field.metadata["entry"]
        if get_origin(hints[field.name]) is Literal:
            known = dataclasses.replace(known, choices=get_args(hints[field.name]))
        found[known.name or field.name] = field, known
    return found


def entries(section: Any) -> dict[str, tuple[dataclasses.Field, Entry]]:
    """Name in configurations -> (field, what is known of it) of a section or its class."""
    return _entries(section if isinstance(section, type) else type(section))


def changeable(name: str) -> bool:
    """Whether the entry with this dotted name may change from one start of training to the next."""
    section, _, key = name.partition(".")
    if section in START_ANEW or name in ("model.remat", "model.remat_keep"):
        return True
    known = entries(SECTIONS[section]) if section in SECTIONS else {}
    return key in known and known[key][1].changeable


def to_dict(section: Any) -> dict[str, Any]:
    """A section as configurations have it."""
    return {name: getattr(section, field.name) for name, (field, _) in entries(section).items()}


def defaults() -> dict[str, Any]:
    """What every recipe begins with: all sections of fixed entries."""
    return {name: to_dict(section()) for name, section in SECTIONS.items()}


def depends(section: Any, what: str) -> dict[str, Any]:
    """The entries of a section that stored results of the kind `what` depend on."""
    found = {}
    for name, (field, known) in entries(section).items():
        value = getattr(section, field.name)
        if what in known.affects and not (known.added and value == field.default):
            found[name] = value
    return found


def read(values: Mapping[str, Any]) -> Settings:
    """The settings that nested dictionaries describe; what is missing takes its default.

    Raises:
        UserError: an unknown section or entry, a value of another type or out of range.
    """
    check_names("config", values, ("name", "seed", *OPEN, *SECTIONS))
    for section in (*OPEN, *SECTIONS):
        given = values.get(section, {})
        if not isinstance(given, Mapping):
            raise UserError(f"config.{section} must be a section of entries; got {given!r}")
    name, seed = values.get("name", ""), values.get("seed", 42)
    if not (isinstance(name, str) and name):
        raise UserError(
            "config.name names the default working directory; it must be a text that is not empty, "
            f"got {name!r}"
        )
    if type(seed) is not int or not 0 <= seed < 2**32:
        raise UserError(f"config.seed must be in [0, 2^32); got {seed!r}")
    parts = {part: _open(part, values.get(part, {})) for part in OPEN}
    parts |= {part: _section(part, values.get(part, {})) for part in SECTIONS}
    return Settings(name=name, seed=seed, **parts)


def _open(section: str, given: Mapping[str, Any]) -> Section:
    if not isinstance(given.get("name"), str):
        raise UserError(
            f"config.{section}.name is missing; it says which one, like "
            + {"sde": "ve, vp or subvp", "model": "ncsnpp or ddpm"}[section]
        )
    for name, value in given.items():
        _check_number(f"config.{section}.{name}", value)
    values = {name: tuple(v) if isinstance(v, list) else v for name, v in given.items()}
    try:
        return Section(values)
    except (ValueError, TypeError) as error:
        reason = str(error).splitlines()[0][:200]
        raise UserError(f"config.{section} has a value that none can have ({reason})") from error


def _section(section: str, given: Mapping[str, Any]) -> Any:
    kind = SECTIONS[section]
    known = entries(kind)
    check_names(f"config.{section}", given, known)
    values = {}
    for name, value in given.items():
        field, about = known[name]
        place = f"config.{section}.{name}"
        values[field.name] = value = typed(place, field.default, value)
        _check_number(place, value)
        if not about.holds(value):
            raise UserError(
                f"{place} must be {about.range}; got {value!r}. It is the {about.meaning}"
            )
    return kind(**values)


def typed(place: str, default: Any, value: Any) -> Any:
    """`value` in the type of the default.

    Whole numbers become floats where those are meant, and the reverse. Lists become tuples.

    Raises:
        UserError: it is of another type.
    """
    kind = type(default)
    if kind is float and type(value) is int and abs(value) < 2**1023:
        return float(value)
    if kind is int and type(value) is float and value.is_integer():
        return int(value)  # 1e6 steps
    if kind is tuple and type(value) is list:
        return tuple(value)
    if type(value) is not kind:
        raise UserError(f"{place} must be of type {kind.__name__}, like {default!r}; got {value!r}")
    return value


def _check_number(place: str, value: Any) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{place} must be a finite number; got {value}")
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise UserError(f"{place} must be a number of at most 64 bits; got {value:.3e}")


def check_names(place: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raises UserError, with the nearest known name, for a name that means nothing here."""
    known = list(known)
    for name in given:
        if name not in known:
            hint = nearest(str(name), known)
            raise UserError(
                f"{place}: {name!r} means nothing here.{hint} Known: {', '.join(sorted(known))}"
            )
