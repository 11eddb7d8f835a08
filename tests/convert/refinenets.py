"""Published NCSN and NCSNv2 networks: reading their folders of reference values, and our network for each."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from score_sde.convert import read_file
from score_sde.convert.published import recognize
from score_sde.networks import NCSN, NCSNv2

# What the code of each folder does where they differ.
_FLAX = {"resize": "half_pixel", "channel_variance": "C", "narrowed": "last"}
_PYTORCH = {"resize": "corner_aligned", "channel_variance": "C-1", "narrowed": "third"}
PUBLISHED = {
    "score_sde_jax/ncsn": NCSN(**_FLAX),
    "score_sde_jax/ncsnv2_64": NCSNv2(**_FLAX, scale_by_sigma=False),
    "score_sde_jax/ncsnv2_128": NCSNv2(variant="128", **_FLAX, scale_by_sigma=False),
    "score_sde_jax/ncsnv2_256": NCSNv2(variant="256", **_FLAX, scale_by_sigma=False),
    "score_sde_pytorch/ncsnv2_64": NCSNv2(**_PYTORCH, scale_by_sigma=False),
    "score_sde_pytorch/ncsnv2_128": NCSNv2(variant="128", **_PYTORCH, scale_by_sigma=False),
    "score_sde_pytorch/ncsnv2_256": NCSNv2(variant="256", **_PYTORCH, scale_by_sigma=False),
    "ncsn/cond_refinenet_dilated": NCSN(**_PYTORCH),
    "ncsn/cond_refinenet_deeper_dilated": NCSN(variant="128", **_PYTORCH, plus=False),
    "ncsnv2/ncsnv2": NCSNv2(**_PYTORCH, scale_by_sigma=False),
    "ncsnv2/ncsnv2_deeper": NCSNv2(variant="128", **_PYTORCH, scale_by_sigma=False),
    "ncsnv2/ncsnv2_deepest": NCSNv2(variant="256", **_PYTORCH, scale_by_sigma=False),
}


@dataclass(frozen=True)
class Reference:
    """A published network with inputs and outputs in NHWC; weights are as published, "output" and "output_ema"."""

    network: NCSN | NCSNv2
    arrays: Mapping[str, np.ndarray]
    weights: Mapping[str, Mapping[str, Any]]
    torch: bool


def read(folder: Path, dtype: Any = jnp.float32) -> Reference:
    """Read a folder of reference values; the network has the widths and levels of its configuration."""
    name = f"{folder.parent.name}/{folder.name}"
    with np.load(folder / "io.npz") as file:
        arrays = {key: file[key] for key in file.files}
    (path,) = folder.glob("checkpoint*")
    torch = path.suffix == ".pth"
    found = recognize(*read_file(path), path)
    weights = {"output": found.params} | ({"output_ema": found.ema} if found.averaged else {})
    if torch:
        arrays = {key: a.transpose(0, 2, 3, 1) if a.ndim == 4 else a for key, a in arrays.items()}
    config = json.loads((folder / "config.json").read_text())
    return Reference(_network(name, config["model"], dtype), arrays, weights, torch)


def _network(name: str, model: Mapping[str, Any], dtype: Any) -> NCSN | NCSNv2:
    network = PUBLISHED[name].clone(nf=model.get("nf") or model["ngf"], dtype=dtype)
    if isinstance(network, NCSN):
        return network.clone(num_classes=model["num_classes"])
    first, last = ("sigma_begin", "sigma_end") if "ngf" in model else ("sigma_max", "sigma_min")
    count = model["num_classes" if "ngf" in model else "num_scales"]
    sigmas = np.exp(np.linspace(np.log(model[first]), np.log(model[last]), count))
    if "ngf" in model:
        sigmas = sigmas.astype(np.float32)
    return network.clone(scale_by_sigma=True, sigmas=tuple(float(sigma) for sigma in sigmas))
