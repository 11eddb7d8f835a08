"""Configurations of diffusers, of UNet2DModel and its schedulers, in our terms and back.

Two families of its blocks are networks here. Blocks without skips, under DDPMScheduler, are DDPM.
Blocks with skips of input and output, under ScoreSdeVeScheduler, are NCSN++.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from score_sde.errors import UserError

Values = Mapping[str, Any]
Changes = dict[str, dict[str, Any]]
Fixed = Mapping[str, tuple[Any, tuple[Any, ...]]]
"""Entries that the networks here have one value of: (diffusers' default, values that are that)."""

UNET: dict[str, Any] = {
    "_class_name": str,
    "sample_size": (int, list, type(None)),
    "in_channels": int,
    "out_channels": int,
    "layers_per_block": int,
    "block_out_channels": [int],
    "down_block_types": [str],
    "up_block_types": [str],
    "attention_head_dim?": (int, type(None)),
    "time_embedding_dim?": (int, type(None)),
    "dropout?": float,
}
"""Entries of a UNet2DModel that are read, as `read_document` takes them."""
SCHEDULER: dict[str, Any] = {"_class_name": str, "num_train_timesteps?": int}
SCHEDULER |= {f"{name}?": float for name in ("beta_start", "beta_end", "sigma_min", "sigma_max")}
SCHEDULER |= {"snr?": float, "sampling_eps?": float, "correct_steps?": int}
"""Entries of a scheduler that are read."""

_NETWORK: Fixed = {
    "act_fn": ("silu", ("silu", "swish")),
    "add_attention": (True, (True,)),
    "attn_norm_num_groups": (None, (None,)),
    "class_embed_type": (None, (None,)),
    "downsample_type": ("conv", ("conv",)),
    "mid_block_type": ("UNetMidBlock2D", ("UNetMidBlock2D",)),
    "norm_eps": (1e-5, (1e-6,)),
    "num_class_embeds": (None, (None,)),
    "resnet_time_scale_shift": ("default", ("default",)),
    "upsample_type": ("conv", ("conv",)),
}
_NOT_FOURIER = ("downsample_padding", "flip_sin_to_cos", "freq_shift")
"""Entries that mean nothing to Fourier features and FIR filters."""
_PASSED = ("_diffusers_version", "_name_or_path", "num_train_timesteps")
_AVERAGING = (
    *("decay", "inv_gamma", "min_decay", "min_value", "optimization_step", "power"),
    *("update_after_step", "use_ema_warmup"),
)
"""Entries about the making of averaged weights, which mean nothing to a network."""
_SAMPLER = (
    *("_diffusers_version", "clip_sample", "clip_sample_range", "dynamic_thresholding_ratio"),
    *("sample_max_value", "steps_offset", "tensor_format", "thresholding", "timestep_spacing"),
)
"""Entries about diffusers' own sampler, which mean nothing to a score."""
VARIANCES = {"fixed_small": "posterior", "fixed_large": "forward"}
VARIANCES |= {f"{name}_log": value for name, value in VARIANCES.items()}
PREDICTIONS = {"epsilon": "noise", "v_prediction": "v"}
MOST_GROUPS = 32
"""Of a GroupNorm; fewer where a group would have less than 4 channels."""


class Family(NamedTuple):
    """What belongs together: blocks by the start of their names, a scheduler, a pipeline.

    model: entries of config.model that all of its networks have.
    """

    recipe: str
    blocks: str
    scheduler: str
    pipeline: str
    fixed: Fixed
    model: Values


FAMILIES = (
    Family(
        *("vp/ddpm", "", "DDPMScheduler", "DDPMPipeline"),
        {
            **_NETWORK,
            "center_input_sample": (False, (False,)),
            "downsample_padding": (1, (0,)),
            "flip_sin_to_cos": (True, (False,)),
            "freq_shift": (0, (1,)),
            "mid_block_scale_factor": (1, (1,)),
            "norm_num_groups": (32, (MOST_GROUPS,)),
            "time_embedding_type": ("positional", ("positional",)),
        },
        {"up_attention": "every", "scale_by_sigma": False},
    ),
    Family(
        *("ve/ncsnpp_cont", "Skip", "ScoreSdeVeScheduler", "ScoreSdeVePipeline"),
        {
            **_NETWORK,
            "center_input_sample": (False, (True,)),
            "mid_block_scale_factor": (1, (math.sqrt(2),)),
            "norm_num_groups": (32, (None,)),
            "time_embedding_type": ("positional", ("fourier",)),
        },
        {
            "prediction": "score",
            "scale_by_sigma": True,
            "embedding": "fourier",
            "fir": True,
            "fir_kernel": (1.0, 3.0, 3.0, 1.0),
            "skip_rescale": True,
            "resblock_type": "biggan",
            "progressive": "output_skip",
            "progressive_input": "input_skip",
            "progressive_combine": "sum",
            "num_classes": 0,
        },
    ),
)


# Configurations


def of_unet(unet: Values) -> tuple[Family, Changes]:
    """(the family, entries of our sections model and data) of a network's configuration.

    No entry is passed over: it is read, has the value that is here, is known to mean nothing, or is
    refused by name. The same holds for `of_scheduler`.

    Args:
        unet: checked by `UNET`.

    Raises:
        UserError: an entry that is not known or has no counterpart here.
    """
    family = FAMILIES[any("Skip" in name for name in unet["down_block_types"])]
    attention = _attention(unet, family)
    size, widths = unet["sample_size"], unet["block_out_channels"]
    _check_sizes({"attention_head_dim": 8, **unet}, family, attention)
    fixed, read = family.fixed, {name.removesuffix("?") for name in UNET} | {*_PASSED, *_AVERAGING}
    if family.blocks and min(widths[0], widths[-1]) >= 4 * MOST_GROUPS:
        fixed = {**fixed, "norm_num_groups": (MOST_GROUPS, (None, MOST_GROUPS))}
    _check_fixed(unet, fixed, read | (set(_NOT_FOURIER) if family.blocks else set()))
    model = {
        "name": "ncsnpp" if family.blocks else "ddpm",
        "nf": widths[0],
        "ch_mult": tuple(width // widths[0] for width in widths),
        "num_res_blocks": unet["layers_per_block"],
        "attn_resolutions": tuple(size >> level for level, there in enumerate(attention) if there),
        "resamp_with_conv": True,
        "dropout": float(unet.get("dropout", 0.0)),
        "activation": "swish",
        "conditional": True,
        **family.model,
    }
    centered = not family.fixed["center_input_sample"][1][0]
    data = {"image_size": size, "channels": unet["in_channels"], "centered": centered}
    return family, {"model": model, "data": data}


def of_scheduler(scheduler: Values, family: Family) -> Changes:
    """Entries of our sections sde, model and sampling of a scheduler's configuration.

    Raises:
        UserError: as `of_unet`, or a scheduler that does not belong to the family.
    """
    if scheduler["_class_name"] != family.scheduler:
        raise UserError(
            f"its _class_name is {scheduler['_class_name']}; with {family.blocks}DownBlock2D only "
            f"{family.scheduler} is here"
        )
    return _of_ve(scheduler) if family.blocks else _of_ddpm(scheduler)


def _attention(unet: Values, family: Family) -> list[bool]:
    """Of each level, whether it has attention: the same on both ways.

    Raises:
        UserError: blocks of other kinds, or ways that differ.
    """
    ways = {}
    for way, names in (("down", unet["down_block_types"]), ("up", unet["up_block_types"])):
        plain = f"{family.blocks}{way.capitalize()}Block2D"
        if foreign := [name for name in names if name not in (plain, f"Attn{plain}")]:
            raise UserError(
                f"its {way}_block_types have {foreign[0]!r:.100}; here are {plain} and Attn{plain}"
            )
        ways[way] = [name != plain for name in names]
    if not ways["down"] or not len(ways["down"]) == len(ways["up"]) == len(
        unet["block_out_channels"]
    ):
        raise UserError(
            "its down_block_types, up_block_types and block_out_channels must have one entry for "
            f"each level; they have {len(ways['down'])}, {len(ways['up'])} and "
            f"{len(unet['block_out_channels'])}"
        )
    if ways["down"] != ways["up"][::-1]:
        raise UserError(
            f"its up_block_types have attention at other levels than its down_block_types: "
            f"{unet['up_block_types']} after {unet['down_block_types']}; here both are at the same"
        )
    return ways["down"]


def _check_sizes(unet: Values, family: Family, attention: list[bool]) -> None:
    """Raises UserError for sizes that the networks here do not have."""
    widths, size, heads = (
        unet[name] for name in ("block_out_channels", "sample_size", "attention_head_dim")
    )
    first = max(1, widths[0])
    attended = [width for width, there in zip(widths, attention, strict=True) if there]
    rules = [
        ("block_out_channels", all(w > 0 and w % first == 0 for w in widths), "multiples of one"),
        ("sample_size", type(size) is int and size > 0, "the height of square images"),
        ("layers_per_block", unet["layers_per_block"] > 0, "1 or more"),
        ("dropout", 0 <= unet.get("dropout", 0.0) < 1, "a rate in [0, 1)"),
        ("in_channels", unet["in_channels"] > 0, "1 or more"),
        ("out_channels", unet["out_channels"] == unet["in_channels"], "in_channels"),
        ("time_embedding_dim", unet.get("time_embedding_dim") in (None, 4 * first), 4 * first),
        (
            "attention_head_dim",
            heads is None or {*attended, widths[-1]} == {heads},
            "one head: null",
        ),
    ]
    if family.blocks:
        wide = min(attended, default=4 * MOST_GROUPS) >= 4 * MOST_GROUPS
        rules += [
            ("in_channels", unet["in_channels"] == 3, "3, with skips"),
            ("block_out_channels", wide, f"{4 * MOST_GROUPS} or more with attention and skips"),
        ]
    for entry, holds, here in rules:
        if not holds:
            raise UserError(f"its {entry} is {unet.get(entry)!r:.100}; only {here} is here")


def _of_ddpm(scheduler: Values) -> Changes:
    """The chain beta_i = linspace(beta_start, beta_end, n)_i and the noise of its sampler."""
    fixed: Fixed = {
        "beta_schedule": ("linear", ("linear",)),
        "trained_betas": (None, (None,)),
        "timestep_values": (None, (None,)),
        "rescale_betas_zero_snr": (False, (False,)),
    }
    read = ("_class_name", "num_train_timesteps", "beta_start", "beta_end")
    _check_fixed(scheduler, fixed, {*read, "prediction_type", "variance_type", *_SAMPLER})
    n = scheduler.get("num_train_timesteps", 1000)
    ends = scheduler.get("beta_start", 1e-4), scheduler.get("beta_end", 0.02)
    # Products of decimal fractions as they were meant: 0.0001 x 1000 is 0.1.
    beta_min, beta_max = (float(f"{beta * n:.12g}") for beta in ends)
    variance = _choose(scheduler, VARIANCES, "variance_type", "fixed_small")
    return {
        "model": {"prediction": _choose(scheduler, PREDICTIONS, "prediction_type", "epsilon")},
        "sde": {"name": "ddpm", "beta_min": beta_min, "beta_max": beta_max, "n": n},
        "sampling": {"steps": n, "variance": variance},
    }


def _of_ve(scheduler: Values) -> Changes:
    """sigma(t) = sigma_min (sigma_max/sigma_min)^t and the predictor-corrector sampler."""
    read = {name.removesuffix("?") for name in SCHEDULER if not name.startswith("beta")}
    _check_fixed(scheduler, {}, read | {"_diffusers_version", "tensor_format"})
    corrections = scheduler.get("correct_steps", 1)
    levels = {"sigma_min": 0.01, "sigma_max": 1348.0}
    return {
        "model": {},
        "sde": {"name": "ve"} | {k: float(scheduler.get(k, v)) for k, v in levels.items()},
        "sampling": {
            "steps": scheduler.get("num_train_timesteps", 2000),
            "snr": float(scheduler.get("snr", 0.15)),
            "t_end": float(scheduler.get("sampling_eps", 1e-5)),
            "corrector": "langevin" if corrections else "none",
            "corrector_steps": corrections or 1,
        },
    }


def _choose(values: Values, table: Mapping[str, Any], name: str, default: str) -> Any:
    value = values.get(name, default)
    if not isinstance(value, str) or value not in table:
        raise UserError(f"its {name} is {value!r:.100}; only {', '.join(table)} is here")
    return table[value]


def _check_fixed(values: Values, fixed: Fixed, known: set[str]) -> None:
    """Raises UserError for entries with other values than those here, and for unknown ones."""
    for name, (default, here) in fixed.items():
        value = values.get(name, default)
        if not any(_same(value, one) for one in here):
            where = "" if name in values else " by default"
            raise UserError(
                f"its {name} is {value!r:.100}{where}; only {' or '.join(map(repr, here))} is here"
            )
    for name in sorted(values.keys() - fixed.keys() - known):
        raise UserError(
            f"its entry {ascii(name)[1:-1][:100]}={values[name]!r:.100} is not known here; take it "
            "out of the file if it does not change the model"
        )


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, int | float) and isinstance(b, int | float) and bool not in (type(a), type(b)):
        return math.isclose(a, b, rel_tol=1e-6)
    return type(a) is type(b) and a == b


# Back


def express(values: Values) -> tuple[Family, dict[str, Any], dict[str, Any]]:
    """(family, config.json, scheduler_config.json) of settings as nested dictionaries.

    Raises:
        UserError: diffusers has no such model; the message says what differs.
    """
    model, data = values["model"], values["data"]
    family = FAMILIES[model["name"] == "ncsnpp"]
    if model["name"] not in ("ddpm", "ncsnpp") or not data["image_size"]:
        raise UserError(f"diffusers has no network config.model.name={model['name']}")
    sizes = [data["image_size"] >> level for level in range(len(model["ch_mult"]))]
    attention = ["Attn" if size in model["attn_resolutions"] else "" for size in sizes]
    unet = {
        "_class_name": "UNet2DModel",
        "sample_size": data["image_size"],
        "in_channels": data["channels"],
        "out_channels": data["channels"],
        "layers_per_block": model["num_res_blocks"],
        "block_out_channels": [model["nf"] * multiple for multiple in model["ch_mult"]],
        "down_block_types": [f"{a}{family.blocks}DownBlock2D" for a in attention],
        "up_block_types": [f"{a}{family.blocks}UpBlock2D" for a in reversed(attention)],
        "attention_head_dim": None,
        "dropout": model["dropout"],
        **{name: here[0] for name, (_, here) in family.fixed.items()},
    }
    scheduler = {"_class_name": family.scheduler}
    scheduler |= (_to_ve if family.blocks else _to_ddpm)(values)
    found, back = of_unet(unet)[1], of_scheduler(scheduler, family)
    wrong = [
        f"config.{section}.{name}={values[section].get(name)} (its is {value})"
        for section, entries in (*found.items(), *back.items())
        for name, value in entries.items()
        if section != "sampling" and not _same(values[section].get(name), value)
    ]
    if wrong:
        raise UserError(f"diffusers has no such model: {', '.join(wrong)}")
    return family, unet, scheduler


def _to_ddpm(values: Values) -> dict[str, Any]:
    sde, n = values["sde"], values["sde"].get("n", 1000)
    kind = {ours: theirs for theirs, ours in PREDICTIONS.items()}
    noise = {ours: theirs for theirs, ours in reversed(VARIANCES.items())}
    return {
        "num_train_timesteps": n,
        "beta_start": sde.get("beta_min", 0.1) / n,
        "beta_end": sde.get("beta_max", 20.0) / n,
        "beta_schedule": "linear",
        "prediction_type": kind.get(values["model"]["prediction"], "epsilon"),
        "variance_type": noise[values["sampling"]["variance"]],
    }


def _to_ve(values: Values) -> dict[str, Any]:
    sampling = values["sampling"]
    langevin = sampling["corrector"] == "langevin"
    return {
        "num_train_timesteps": sampling["steps"],
        "sigma_min": values["sde"].get("sigma_min", 0.01),
        "sigma_max": values["sde"].get("sigma_max", 50.0),
        "snr": sampling["snr"],
        "sampling_eps": sampling["t_end"],
        "correct_steps": sampling["corrector_steps"] if langevin else 0,
    }
