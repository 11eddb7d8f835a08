"""Configurations of the published codes, in their nested JSON form, in the terms of ours.

Ours are a recipe, a data set and changes.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from score_sde.errors import UserError

Values = Mapping[str, Any]
RECIPES = {  # (process, continuous, network): the other networks have no recipe of their own
    ("ve", False, "ncsnpp"): "ve/ncsnpp",
    ("ve", False, None): "ve/ncsnpp",
    ("ve", True, "ncsnpp"): "ve/ncsnpp_cont",
    ("ve", True, None): "ve/ncsnpp_cont",
    ("vp", False, "ddpm"): "vp/ddpm",
    ("vp", False, None): "vp/ddpmpp",
    ("vp", True, "ddpm"): "vp/ddpm_cont",
    ("vp", True, "ncsnpp"): "vp/ncsnpp_cont",
    ("vp", True, None): "vp/ddpmpp_cont",
    ("subvp", True, "ddpm"): "subvp/ddpm_cont",
    ("subvp", True, "ncsnpp"): "subvp/ncsnpp_cont",
    ("subvp", True, None): "subvp/ddpmpp_cont",
}
DATASETS = {  # their name, the category of LSUN or the size of images: ours
    ("CIFAR10", None): "cifar10",
    ("CELEBA", None): "celeba",
    ("MNIST", None): "mnist",
    ("LSUN", "church_outdoor"): "church",
    ("LSUN", "bedroom"): "bedroom",
    ("CELEBAHQ", 256): "celebahq_256",
    ("CELEBAHQ", 1024): "celebahq_1024",
    ("FFHQ", 256): "ffhq_256",
    ("FFHQ", 1024): "ffhq_1024",
    ("BRATS", None): "brats",  # these four of score_inverse_problems
    ("CT2D_320", None): "lidc_320",
    ("LDCT_512", None): "ldct_512",
    ("CT2D", None): "ct_128",
}
PREDICTORS = {"ancestral_sampling": "ancestral"}
CORRECTORS = {"ald": "annealed_langevin"}
AS_HERE: dict[str, tuple[Any, ...]] = {
    "attention_type": ("ddpm",),
    "conv_size": (3,),
    "interpolation": ("bilinear",),
    "spec_norm": (False,),
    "batch_norm": (False,),
}
"""Entries of `model` that change the network, and the values that are here."""
OTHERS = ("beta_min", "beta_max", "sigma_min", "sigma_max", "num_classes", "scale_by_sigma", "ema")
"""Entries of `model` that mean nothing to networks or processes that do not read them."""
VARIANTS = {"ncsnv2_64": "64", "ncsnv2_128": "128", "ncsnv2_256": "256", "ncsn": "64"}


@dataclass(frozen=True)
class Translation:
    """`recipe` is a file under configs/ without its suffix.

    `changes` are plain entries of our sections, by section.
    """

    recipe: str
    dataset: str
    changes: dict[str, dict[str, Any]]


def translate(original: Values) -> Translation:
    """What a published configuration is in ours.

    Args:
        original: sections `training`, `data`, `model`, `optim` and perhaps `sampling`, as the
            codes' config objects are when written as JSON. Those of score_sde, score_flow and
            score_sde_pytorch have `training.sde`; those of ncsn and ncsnv2 `model.sigma_begin`.
    Raises:
        UserError: it is no such configuration, or says something that this library cannot follow.
            No entry of `model` is passed over: it is read, or has the value that is here, or is
            known to mean nothing to this network, or is refused by name.
    """
    if not isinstance(original, Mapping) or not all(
        isinstance(original.get(name), Mapping) for name in ("model", "data", "training")
    ):
        raise UserError(
            "it is no configuration of a published code: those have sections model, data and "
            "training"
        )
    if "sigma_begin" in original["model"]:
        return _checked(_ncsn, original)
    if "sde" not in original["training"]:
        raise UserError(
            "it names neither training.sde, as score_sde's do, nor model.sigma_begin, as ncsn's "
            "and ncsnv2's do"
        )
    return _checked(_score_sde, original)


def _checked(make: Callable[["_Section"], Translation], original: Values) -> Translation:
    read = _Section(original)
    found = make(read)
    for name, value in original["model"].items():
        if f"model.{name}" in read.names or name in OTHERS or value in (None, "", ()):
            continue
        if name not in AS_HERE:
            raise UserError(
                f"its entry model.{name}={value!r:.100} is not known here; take it out of the "
                "configuration if it does not change the network"
            )
        if value not in AS_HERE[name]:
            here = ", ".join(map(repr, AS_HERE[name]))
            raise UserError(f"its model.{name} is {value!r:.100}; only {here} is here")
    return found


class _Section:
    """The entries of a configuration by dotted name, with readable errors.

    names: that were asked for.
    """

    def __init__(self, values: Values):
        self.values = values
        self.names: set[str] = set()

    def __call__(self, name: str, default: Any = None) -> Any:
        self.names.add(name)
        section, _, entry = name.partition(".")
        values = self.values.get(section)
        found = values.get(entry, default) if isinstance(values, Mapping) else default
        return tuple(found) if isinstance(found, list) else found

    def need(self, name: str, kind: Callable[[Any], Any]) -> Any:
        found = self(name)
        try:
            return kind(found)
        except (TypeError, ValueError, OverflowError) as error:
            raise UserError(
                f"its entry {name} must be of type {kind.__name__}; got {found!r:.100}"
            ) from error

    def choose(self, name: str, table: Mapping[Any, Any], default: Any = None) -> Any:
        found = self(name, default)
        if not isinstance(found, str | bool | int) or found not in table:
            raise UserError(
                f"its entry {name} is {found!r}; known here are {', '.join(map(repr, table))}"
            )
        return table[found]

    def some(self, entries: Mapping[str, tuple[str, Callable[[Any], Any]]]) -> dict[str, Any]:
        """{our name: value} of those entries (their name, type) that are there."""
        found = {
            ours: (name, kind) for ours, (name, kind) in entries.items() if self(name) is not None
        }
        return {ours: self.need(name, kind) for ours, (name, kind) in found.items()}


def _score_sde(read: _Section) -> Translation:
    process = read.choose("training.sde", {"vesde": "ve", "vpsde": "vp", "subvpsde": "subvp"})
    continuous = read.need("training.continuous", bool)
    name = read.choose(
        "model.name",
        dict.fromkeys(("ncsnpp", "ddpm", *VARIANTS))
        | {n: n for n in ("ncsnpp", "ddpm", *VARIANTS)},
    )
    if (process, continuous, None) not in RECIPES:
        raise UserError("its training.continuous=False with training.sde=subvpsde does not exist")
    changes = _shared(read)
    n = read.need("model.num_scales", int)
    changes["sampling"] = {"steps": n} | _sampling(read)
    if process == "ve":
        changes["sde"] = {
            "sigma_min": read.need("model.sigma_min", float),
            "sigma_max": read.need("model.sigma_max", float),
        }
    else:
        changes["sde"] = {
            "beta_min": read.need("model.beta_min", float),
            "beta_max": read.need("model.beta_max", float),
        }
    if not continuous:
        changes["sde"]["n"] = n
    if name in VARIANTS:
        if process != "ve" or continuous:
            raise UserError(f"its network {name} goes with the discrete training.sde=vesde alone")
        recipe = "ncsn/ncsn" if name == "ncsn" else "ncsnv2/ncsnv2"
        changes["model"] = _refinenet(read) | {
            "variant": VARIANTS[name],
            "nf": read.need("model.nf", int),
        }
        if name != "ncsn":
            changes["model"]["scale_by_sigma"] = read.need("model.scale_by_sigma", bool)
    else:
        network, changes["model"] = _unet(read, process, continuous, name)
        recipe = RECIPES.get((process, continuous, network)) or RECIPES[process, continuous, None]
    weighting = 1.0 if read("training.likelihood_weighting") else 0.0
    changes["training"] |= {"likelihood_weighting": weighting}
    if read("training.importance_weighting") and weighting:
        changes["training"]["times"] = "log_snr"
    changes["data"] |= {
        "channels": read("data.num_channels") or read.need("data.channels", int),
        "centered": read.need("data.centered", bool),
        "dequantize": bool(read("data.uniform_dequantization", False)),
    }
    return Translation(recipe, _dataset(read), changes)


def _unet(read: _Section, process: str, continuous: bool, name: str) -> tuple[str, dict[str, Any]]:
    """(network as recipes are called, the whole section model)."""
    _check_unet(read, process, continuous, name)
    model = {
        "name": name,
        "prediction": "score" if process == "ve" else "noise",
        "dtype": "float32",
        "remat": False,
        "nf": read.need("model.nf", int),
        "ch_mult": read.need("model.ch_mult", tuple),
        "num_res_blocks": read.need("model.num_res_blocks", int),
        "attn_resolutions": read.need("model.attn_resolutions", tuple),
        "resamp_with_conv": read.need("model.resamp_with_conv", bool),
        "dropout": read.need("model.dropout", float),
        "activation": read.need("model.nonlinearity", str),
    }
    if not read("model.conditional", True):
        model["conditional"] = False
    scaled = bool(read("model.scale_by_sigma", False))
    if name == "ddpm":
        return "ddpm", model | ({"scale_by_sigma": True} if scaled else {})
    model |= {
        "fir": read.need("model.fir", bool),
        "fir_kernel": tuple(float(tap) for tap in read.need("model.fir_kernel", tuple)),
        "skip_rescale": read.need("model.skip_rescale", bool),
        "resblock_type": read.need("model.resblock_type", str),
        "progressive": read.need("model.progressive", str),
        "progressive_input": read.need("model.progressive_input", str),
        "progressive_combine": read.need("model.progressive_combine", str),
        "embedding": read.need("model.embedding_type", str),
        "scale_by_sigma": scaled,
        "fourier_scale": float(read("model.fourier_scale", 16.0)),
        "init_scale": float(read("model.init_scale", 0.0)),
    }
    return "ncsnpp" if model["fir"] or model["progressive_input"] != "none" else "ddpmpp", model


def _check_unet(read: _Section, process: str, continuous: bool, name: str) -> None:
    """Raises UserError for a U-Net that is not here."""
    if read("model.normalization", "GroupNorm") != "GroupNorm":
        raise UserError(
            f"its model.normalization is {read('model.normalization')!r}; only GroupNorm is here"
        )
    if (
        process == "ve"
        and continuous
        and (name == "ddpm" or read("model.embedding_type") != "fourier")
    ):
        raise UserError(
            "it embeds sigma itself by sinusoids (continuous VE without "
            "model.embedding_type=fourier), which is not here"
        )
    if process != "ve" and read("model.scale_by_sigma"):
        raise UserError(
            "its model.scale_by_sigma=True divides a VP network's output by sigmas of VE, which is "
            "not here"
        )
    if name == "ncsnpp" and process != "ve" and read("model.embedding_type") == "fourier":
        raise UserError(
            "it embeds times of VP by Fourier features of noise levels, which is not here"
        )


def _refinenet(read: _Section) -> dict[str, Any]:
    """What NCSN and NCSNv2 share.

    What the file's code decides (`resize`, ...) is not in configurations.
    """
    if read("model.normalization", "InstanceNorm++") != "InstanceNorm++":
        raise UserError(
            f"its model.normalization is {read('model.normalization')!r}; only InstanceNorm++ is "
            "here"
        )
    if read("model.sigma_dist", "geometric") != "geometric":
        raise UserError(
            f"its model.sigma_dist is {read('model.sigma_dist')!r}; only geometric is here"
        )
    return {"activation": read("model.nonlinearity", "elu")}


def _ncsn(read: _Section) -> Translation:
    """Configurations of ncsn and ncsnv2.

    The latter have model.sigma_dist, and their networks follow from the data set.
    """
    second = read("model.sigma_dist") is not None
    for entry in (
        "data.logit_transform",
        "data.gaussian_dequantization",
        "model.spec_norm",
        "model.batch_norm",
    ):
        if read(entry):
            raise UserError(f"its {entry}=True is not here")
    changes = _shared(read)
    levels = {
        "sigma_max": ("model.sigma_begin", float),
        "sigma_min": ("model.sigma_end", float),
        "n": ("model.num_classes", int),
    }
    changes["sde"] = {ours: read.need(name, kind) for ours, (name, kind) in levels.items()}
    changes["sampling"] = {"steps": changes["sde"]["n"]} | read.some(
        {"corrector_steps": ("sampling.n_steps_each", int)}
    )
    if read("sampling.step_lr"):
        step_size = read.need("sampling.step_lr", float)
        changes["sampling"]["snr"] = math.sqrt(step_size / 2) / changes["sde"]["sigma_min"]
    variant = {"FFHQ": "256", "LSUN": "128"}.get(read("data.dataset"), "64") if second else "64"
    changes["model"] = _refinenet(read) | {"variant": variant, "nf": read.need("model.ngf", int)}
    changes["data"] |= {
        "channels": read.need("data.channels", int),
        "centered": bool(read("data.rescaled", False)),
        "dequantize": bool(read("data.uniform_dequantization", False)),
    }
    changes["training"]["reduce"] = "sum"
    if read("model.ema"):
        changes["training"]["ema_rate"] = read.need("model.ema_rate", float)
    changes["optim"].pop("warmup", None)
    return Translation("ncsnv2/ncsnv2" if second else "ncsn/ncsn", _dataset(read), changes)


def _shared(read: _Section) -> dict[str, dict[str, Any]]:
    training = {"batch_size": ("training.batch_size", int), "steps": ("training.n_iters", int)}
    optim = {
        name: (f"optim.{name}", float)
        for name in ("lr", "beta1", "eps", "weight_decay", "grad_clip")
    }
    changes = {
        "data": read.some(
            {"image_size": ("data.image_size", int), "random_flip": ("data.random_flip", bool)}
        ),
        "training": read.some(training | {"ema_rate": ("model.ema_rate", float)}),
        "optim": read.some(optim | {"warmup": ("optim.warmup", int)}),
    }
    if read("training.reduce_mean") is not None:
        changes["training"]["reduce"] = "mean" if read("training.reduce_mean") else "sum"
    if "grad_clip" in changes["optim"]:
        changes["optim"]["grad_clip"] = max(
            changes["optim"]["grad_clip"], 0.0
        )  # -1 stands for none
    return changes


def _sampling(read: _Section) -> dict[str, Any]:
    found = read.some(
        {"snr": ("sampling.snr", float), "corrector_steps": ("sampling.n_steps_each", int)}
    )
    for name, table in (("predictor", PREDICTORS), ("corrector", CORRECTORS)):
        if isinstance(value := read(f"sampling.{name}"), str):
            found[name] = table.get(value, value)
    if read("sampling.probability_flow") and found.get("predictor") == "reverse_diffusion":
        found["predictor"] = "probability_flow"
    return found


def _dataset(read: _Section) -> str:
    name, size, category = (
        str(read("data.dataset")).upper(),
        read("data.image_size"),
        read("data.category"),
    )
    for key in ((name, None), (name, category), (name, size)):
        if key in DATASETS:
            return DATASETS[key]
    return "folder"
