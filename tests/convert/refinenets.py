"""Published NCSN and NCSNv2 networks: reading their reference values, and our network for each."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from networks.published import arrays_of, checkpoint, config_of, is_torch, network_name

from score_sde.convert import read_file
from score_sde.convert.published import recognize
from score_sde.networks import NCSN, NCSNv2

# What the codes do where they differ.
_FLAX = {"resize": "half_pixel", "channel_variance": "C", "narrowed": "last"}
_PYTORCH = {"resize": "corner_aligned", "channel_variance": "C-1", "narrowed": "third"}


@dataclass(frozen=True)
class Reference:
    """A published network with inputs and outputs in NHWC.

    Weights are as published, under "output" and "output_ema".
    """

    network: NCSN | NCSNv2
    config: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray]
    weights: Mapping[str, Mapping[str, Any]]
    torch: bool


def read(folder: str, dtype: Any = jnp.float32) -> Reference:
    """Read a folder of reference values; the network has the widths of its configuration."""
    path, config, torch = checkpoint(folder), config_of(folder), is_torch(folder)
    found = recognize(*read_file(path), path)
    weights = {"output": found.params} | ({"output_ema": found.ema} if found.averaged else {})
    network = _network(network_name(folder), config["model"], found.params, torch, dtype)
    return Reference(network, config, arrays_of(folder), weights, torch)


def _network(
    name: str, model: Mapping[str, Any], params: Mapping[str, Any], torch: bool, dtype: Any
) -> NCSN | NCSNv2:
    fields: dict[str, Any] = dict(_PYTORCH if torch else _FLAX)
    if model.get("interpolation") == "nearest_neighbor":
        fields["resize"] = "nearest"
    fields |= {"nf": model.get("nf") or model["ngf"], "dtype": dtype}
    fields |= {"activation": model.get("nonlinearity", "elu"), "variant": _variant(name, params)}
    if name != "ncsn":
        return NCSNv2(**fields)
    if torch:  # the code for large images keeps gamma and beta alone
        rows = params["normalizer.embed.weight"].shape[1] // params["begin_conv.weight"].shape[0]
        fields["plus"] = rows == 3
    return NCSN(**fields, num_classes=model["num_classes"])


def _variant(name: str, params: Mapping[str, Any]) -> str:
    """Which cascades: score_sde's networks have it in their name, the others in their weights'."""
    if "_" in name:
        return name.split("_")[1]
    stages = {key.split(".")[0] for key in params}
    return "256" if "res31" in stages else "128" if "res5" in stages else "64"
