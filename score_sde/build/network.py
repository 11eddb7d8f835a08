"""The network that config.model names, and how its output becomes a score."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from score_sde import parameterize
from score_sde.build.names import blame, choose
from score_sde.build.settings import Section, Settings, check_names
from score_sde.errors import UserError
from score_sde.networks import DDPM, NCSN, NCSNpp, NCSNv2
from score_sde.sde import DiscreteChain, Perturbation

NETWORKS: dict[str, type[nn.Module]] = {
    "ncsnpp": NCSNpp,
    "ddpm": DDPM,
    "ncsn": NCSN,
    "ncsnv2": NCSNv2,
}
"""By the name in config.model.name; the fields of a network are the other entries."""
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
"""By the name in config.model.dtype."""


def _edm(process: Perturbation, label: Any, settings: Settings) -> parameterize.Parameterization:
    made = parameterize.edm_preconditioning(process, settings.data.std)
    if settings.model["name"] == "ncsn":  # it has parameters for each index
        return dataclasses.replace(made, c_noise=label)
    if settings.model.get("embedding") == "fourier":
        return dataclasses.replace(made, c_noise=parameterize.exponential(made.c_noise))
    return made


Prediction = Callable[[Perturbation, Any, Settings], parameterize.Model]
PREDICTIONS: dict[str, Prediction] = {
    "score": lambda process, label, settings: parameterize.network_score(label),
    "noise": lambda process, label, settings: parameterize.noise_prediction(process, label),
    "edm": _edm,
    "v": lambda process, label, settings: parameterize.v_prediction(process, label),
    "velocity": lambda process, label, settings: parameterize.velocity_prediction(process, label),
    "energy": lambda process, label, settings: parameterize.Energy(label, "distance"),
    "energy_product": lambda process, label, settings: parameterize.Energy(label, "product"),
}
"""By the name in config.model.prediction: from the process, the labels of its times and all
settings."""
OWN = {"prediction": "score", "scale_by_sigma": False, "num_classes": 0}
"""Entries of config.model that are the parameterization's, with their defaults."""
DIVIDED = ("ncsnpp", "ncsnv2")
"""Networks whose output is divided by sigma unless `scale_by_sigma` says otherwise."""
SIZES = {"nf": 1, "num_res_blocks": 0}
"""Least values of widths and depths that any network can have."""


def network_fields(name: str) -> dict[str, dataclasses.Field]:
    """The fields of the network `name` that config.model sets."""
    make = choose("model.name", NETWORKS, name)
    derived = ("parent", "name", "num_classes")
    return {f.name: f for f in dataclasses.fields(make) if f.name not in derived}


def model_defaults(name: str) -> dict[str, Any]:
    """Entries of config.model for the network `name` that have defaults of their own."""
    fields = network_fields(name).values()
    found = {f.name: f.default for f in fields if f.default is not dataclasses.MISSING}
    own = OWN | {"scale_by_sigma": name in DIVIDED}
    if name == "ncsn":  # its output is the score itself
        del own["scale_by_sigma"]
    return found | own | {"dtype": "float32"}


def build_network(section: Section, process: Perturbation) -> nn.Module:
    """The network of config.model; what the parameterization reads of it is left to that.

    Raises:
        UserError: an unknown entry, or sizes that no network has.
    """
    known = model_defaults(section["name"])
    values = {name: value for name, value in section.items() if name != "name"}
    check_names("config.model", values, sorted(network_fields(section["name"]) | known))
    _check_sizes(values)
    values["dtype"] = choose("model.dtype", DTYPES, values.get("dtype", "float32"))
    make = NETWORKS[section["name"]]
    number = values.get("num_classes", 0)
    if number < 0 or (number and make is not NCSNpp):
        raise UserError(
            f"config.model.num_classes={number}: it must be 0 (images of any class) or, for "
            "model.name=ncsnpp alone, the number of classes; got model.name="
            f"{section['name']}"
        )
    values = {name: value for name, value in values.items() if name not in OWN}
    if make is NCSN:
        if not isinstance(process, DiscreteChain):
            raise UserError(
                "config.model.name=ncsn has parameters for each noise level of a discrete chain; "
                "set sde.name=smld, or take another network"
            )
        values["num_classes"] = len(process.sigmas)
    with blame("model"):
        return make(**values)


def _check_sizes(values: Mapping[str, Any]) -> None:
    """Raises UserError for widths, depths and rates that no network can have.

    The network checks the rest.
    """
    for name, least in SIZES.items():
        if values.get(name, least) < least:
            raise UserError(f"config.model.{name} must be at least {least}; got {values[name]}")
    levels = values.get("ch_mult", (1,))
    if not levels or any(type(multiple) is not int or multiple < 1 for multiple in levels):
        raise UserError(
            "config.model.ch_mult must be whole numbers from 1 on, one for each level, like "
            f"(1, 2, 2); got {levels}"
        )
    if any(type(size) is not int for size in values.get("attn_resolutions", ())):
        raise UserError(
            "config.model.attn_resolutions must be image heights, like (16,); got "
            f"{values['attn_resolutions']}"
        )
    if not 0 <= values.get("dropout", 0.0) < 1:
        raise UserError(f"config.model.dropout must be in [0, 1); got {values['dropout']}")
    for name in ("fourier_scale", "init_scale"):
        if values.get(name, 0.0) < 0:
            raise UserError(f"config.model.{name} must be 0 or positive; got {values[name]}")


def build_parameterization(settings: Settings, process: Perturbation) -> parameterize.Model:
    """How the output of config.model becomes a score.

    `prediction` says what it is, with the label its embedding is made for: "energy" is |x - F|^2/2,
    "energy_product" -x . F, whose gradient is the score. `scale_by_sigma` divides the output or the
    energy by sigma(t), and data that are not `config.data.centered` are mapped to [-1, 1].

    Raises:
        UserError: an unknown prediction, or a second division by sigma.
    """
    section = settings.model
    prediction = section.get("prediction", OWN["prediction"])
    divided = section.get("scale_by_sigma", section["name"] in DIVIDED)
    label = _label(section, process)
    made = choose("model.prediction", PREDICTIONS, prediction)(process, label, settings)
    if divided and prediction != "score" and not isinstance(made, parameterize.Energy):
        raise UserError(
            "config.model: scale_by_sigma divides the network's output by sigma, and so does "
            f"prediction={prediction}; set scale_by_sigma=False"
        )
    if divided:
        made = parameterize.divided_by_sigma(made, process)
    return dataclasses.replace(made, centre=not settings.data.centered)


def _label(section: Section, process: Perturbation) -> Any:
    """From times to what the network's embedding is made for."""
    if section.get("embedding") == "fourier":
        return parameterize.noise_level_label(process)
    if not isinstance(process, DiscreteChain):
        return parameterize.time_label
    if process.alphas[-1] < 1:  # DDPM counts from the data, SMLD from the noise
        return parameterize.index_label
    return parameterize.reversed_index_label(process)
