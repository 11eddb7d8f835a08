"""Networks, weights and outputs of the published codes, read by `score_sde.convert`."""

import dataclasses
import functools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from networks.published import arrays_of, checkpoint, config_of, relative_error

from score_sde.convert import read_file, unet
from score_sde.convert.published import recognize
from score_sde.convert.table import flatten, nest
from score_sde.convert.unet import LEAVES, PARTS
from score_sde.networks import DDPM, NCSNpp
from score_sde.parameterize import (
    Parameterization,
    divided_by_sigma,
    network_score,
    noise_level_label,
    reversed_index_label,
)
from score_sde.sde import EDM, DiscreteChain

Network = DDPM | NCSNpp
Tree = dict[str, Any]

FAST_COMPILE = {"xla_backend_optimization_level": 0}
"""Compiler options that halve the time to the first result of a network, and more."""


def convert(kind: str, tree: Mapping[str, Any]) -> Tree:
    """Parameters of one published module (flax layout) under our names."""
    given, leaves = dict(flatten(tree)), {}
    for ours, published, layer in (*PARTS[kind], ("shortcut", "Conv_2", "pointwise")):
        for name, in_flax, _, layout in LEAVES[layer]:
            path = f"{published}/{in_flax}".lstrip("/")
            if path in given:
                array = given.pop(path)
                if layout == "vector":
                    array = array.reshape(-1)
                if layout == "pointwise" and array.shape[:2] == (1, 1):
                    array = array[0, 0]
                leaves[f"{ours}/{name}".lstrip("/")] = array
    if given:
        raise ValueError(f"no place for {list(given)}")
    return nest(leaves)


def torch_tree(state: Mapping[str, np.ndarray]) -> Tree:
    """A PyTorch state dict as a flax tree: dotted names nested, axes and leaves as in flax."""
    leaves: dict[str, Any] = {}
    for key, value in state.items():
        path, _, leaf = key.rpartition(".")
        if leaf == "weight":
            leaf = "scale" if value.ndim == 1 else leaf if path.endswith("Conv2d_0") else "kernel"
            value = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T
        leaves["/".join([*path.split("."), leaf]).lstrip("/")] = value
    return nest(leaves)


def network_from_config(config: Mapping[str, Any], dtype: Any = jnp.float32) -> Network:
    """The U-Net that a published configuration describes."""
    model = config["model"]
    names = ("nf", "ch_mult", "num_res_blocks", "attn_resolutions", "resamp_with_conv", "dropout")
    fields: dict[str, Any] = {
        name: tuple(model[name]) if isinstance(model[name], list) else model[name]
        for name in (*names, "conditional")
    }
    fields |= {"activation": model["nonlinearity"], "dtype": dtype}
    if model["name"] == "ddpm":
        return DDPM(**fields)
    names = ("fir", "skip_rescale", "resblock_type", "progressive", "progressive_input")
    names = (*names, "progressive_combine", "fourier_scale", "init_scale")
    fields |= {name: model[name] for name in names}
    fields |= {"embedding": model["embedding_type"], "fir_kernel": tuple(model["fir_kernel"])}
    return NCSNpp(**fields)


def around_network(
    config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> tuple[Parameterization, np.ndarray]:
    """(what published networks contain beside ours, times): 2 x - 1 and the division by sigma.

    Published labels are sigma ("fourier"), an index of a table of noise levels or, where nothing is
    divided, anything that is embedded.
    """
    model, data, labels = config["model"], config["data"], arrays["labels"]
    newer = "scale_by_sigma" in model  # of score_sde, else of ncsn or ncsnv2
    mapped = data.get("centered") or data.get("rescaled") or data.get("logit_transform")
    divided = model["scale_by_sigma"] if newer else "sigma_dist" in model
    if not divided:
        return Parameterization(lambda t: t, centre=not mapped), labels
    if model.get("embedding_type") == "fourier":
        process: Any = EDM()  # whose time is sigma
        made, times = network_score(noise_level_label(process)), labels
    else:
        process = DiscreteChain(
            np.ones(len(noise_levels(config, arrays))), noise_levels(config, arrays)
        )
        made, times = network_score(reversed_index_label(process)), process.t_max - labels
    return dataclasses.replace(divided_by_sigma(made, process), centre=not mapped), times


def noise_levels(config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """The table of noise levels, the smallest first; that of a file is in single precision."""
    model = config["model"]
    if "sigmas" in arrays:
        return arrays["sigmas"][::-1].astype(np.float64)
    ends = np.log(model["sigma_max"]), np.log(model["sigma_min"])
    return np.exp(np.linspace(*ends, model["num_scales"]))[::-1]


@dataclass(frozen=True)
class Reference:
    """A published network with its inputs, weights and outputs, in NHWC."""

    config: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray]
    params: Mapping[str, Tree]
    """Converted weights: raw ones under "output", averaged ones under "output_ema"."""


def read_reference(folder: str) -> Reference:
    """Read a folder of reference values, of the flax or the PyTorch code."""
    config, arrays, path = config_of(folder), arrays_of(folder), checkpoint(folder)
    network, height = network_from_config(config), arrays["x"].shape[1]
    x, labels = (jnp.zeros(arrays[name].shape) for name in ("x", "labels"))
    like = jax.eval_shape(network.init, jax.random.key(0), x, labels)["params"]
    raw, averaged = recognize(*read_file(path), path).convert(unet.table(network, height), like)
    return Reference(config, arrays, {"output": raw, "output_ema": averaged})


@functools.lru_cache(maxsize=32)
def compiled(network: nn.Module) -> Callable[[Tree, jax.Array, jax.Array], jax.Array]:
    """`f(params, x, labels)` in evaluation mode; compiled in a hurry (a third of the time)."""
    return jax.jit(
        lambda params, x, labels: network.apply({"params": params}, x, labels),
        compiler_options=FAST_COMPILE,
    )


def published_output(
    network: nn.Module, params: Tree, config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> jax.Array:
    """What the published network computes: ours inside of its parameterization, in its dtype."""
    around, times = around_network(config, arrays)
    wide = jax.tree.map(lambda a: jnp.asarray(a, network.dtype), params)
    x, t = (jnp.asarray(array, network.dtype) for array in (arrays["x"], times))
    output = around.score_fn(functools.partial(compiled(network), wide))(x, t)
    assert output.dtype == network.dtype
    return output


def largest_error(folder: str, dtype: Any) -> float:
    """Largest deviation from the reference in double precision, relative to each sample's size."""
    reference = read_reference(folder)
    network = network_from_config(reference.config, dtype)
    return max(
        relative_error(
            published_output(network, params, reference.config, reference.arrays),
            reference.arrays[f"{key}_f64"],
        )
        for key, params in reference.params.items()
    )


@dataclass(frozen=True)
class LayerCase:
    """One layer with its inputs, parameters and output, in NHWC and double precision."""

    name: str
    meta: Mapping[str, Any]
    inputs: Mapping[str, jax.Array]
    params: Tree
    output: np.ndarray


def layer_cases(path: Path) -> Iterator[LayerCase]:
    """All cases of a file of single layers; parameters keep the published names, in flax layout."""
    torch = "torch" in path.parent.name
    with np.load(path) as file:
        arrays = {key: file[key] for key in file.files}
    for name in sorted({key.split("/")[0] for key in arrays}):
        own = {
            key.removeprefix(f"{name}/"): a
            for key, a in arrays.items()
            if key.startswith(f"{name}/")
        }
        inputs = {key.removeprefix("in/"): a for key, a in own.items() if key.startswith("in/")}
        params = {
            key.removeprefix("params/"): a for key, a in own.items() if key.startswith("params/")
        }
        yield LayerCase(
            name,
            json.loads(str(own["meta"])),
            {key: jnp.asarray(_wide(_nhwc(a, key) if torch else a)) for key, a in inputs.items()},
            jax.tree.map(_wide, torch_tree(params) if torch else nest(params)),
            _nhwc(own["out_f64"], "out") if torch else own["out_f64"],
        )


def evaluate(
    cases: Iterable[LayerCase], layer: Callable[[LayerCase], jax.Array]
) -> dict[str, jax.Array]:
    """Results of `layer(case)` by name, all compiled as one program."""
    cases = list(cases)

    def everything(arrays: list[tuple[Mapping[str, jax.Array], Tree]]) -> dict[str, jax.Array]:
        pairs = zip(cases, arrays)
        return {
            case.name: layer(replace(case, inputs=inputs, params=params))
            for case, (inputs, params) in pairs
        }

    return jax.jit(everything, compiler_options=FAST_COMPILE)(
        [(case.inputs, case.params) for case in cases]
    )


def _wide(a: np.ndarray) -> np.ndarray:
    return a.astype(np.float64) if a.dtype.kind == "f" else a


def _nhwc(a: np.ndarray, name: str) -> np.ndarray:
    if a.ndim != 4:
        return a
    return a.transpose(2, 3, 1, 0) if name == "w" else a.transpose(0, 2, 3, 1)
