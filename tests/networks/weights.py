"""Carry weights of the published score networks over to the parameter trees of `score_sde.networks`.

Both published codes create their modules in the order in which they call them: flax names them by class and a
counter per class, PyTorch keeps them in the list `all_modules`. So one list of the modules of a network in
calling order, with our name for each (`calling_order`), maps both.
"""

import functools
import io
import json
import pickle
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.serialization import msgpack_restore

from score_sde.networks import DDPM, NCSNpp

Network = DDPM | NCSNpp
Tree = dict[str, Any]

FAST_COMPILE = {"xla_backend_optimization_level": 0}
"""Compiler options that halve the time to the first result of a network, and more."""

# Names of the children in both published codes, and ours.
_CHILDREN = {
    "GroupNorm_0": "norm_0",
    "Conv_0": "conv_0",
    "Dense_0": "time",
    "GroupNorm_1": "norm_1",
    "Conv_1": "conv_1",
    "Conv_2": "shortcut",
    "NIN_0": "shortcut",
}
_ATTENTION = {
    "GroupNorm_0": "norm",
    "NIN_0": "query",
    "NIN_1": "key",
    "NIN_2": "value",
    "NIN_3": "out",
}
_CONV = {"Conv_0": "conv", "Conv2d_0": "conv"}


@dataclass(frozen=True)
class Published:
    """One module of a published network."""

    name: str
    """Path of its parameters in our tree, joined by "/"."""
    kind: str
    """Name of its class in flax."""
    in_list: bool = True
    """Whether PyTorch keeps it in `all_modules`."""


def from_flax(params: Mapping[str, Any], network: Network, height: int) -> Tree:
    """Parameters for `network` from a published flax tree; attention depends on the height of the images."""
    counter: Counter[str] = Counter()
    modules, used = {}, set()
    for module in calling_order(network, height):
        key = f"{module.kind}_{counter[module.kind]}"
        counter[module.kind] += 1
        if key in params:
            used.add(key)
            modules[module.name] = convert(module.kind, params[key])
    if used != set(params):
        raise ValueError(f"no place for {sorted(set(params) - used)}")
    return nest(modules)


def from_torch(state: Mapping[str, np.ndarray], network: Network, height: int) -> Tree:
    """Parameters for `network` from a published PyTorch state dict, for images of that height."""
    entries = torch_tree({key.removeprefix("module."): value for key, value in state.items()})["all_modules"]
    listed = [module for module in calling_order(network, height) if module.in_list]
    last = max(int(index) for index in entries)
    if last >= len(listed):
        raise ValueError(f"entry {last} of all_modules, but only {len(listed)} modules expected")
    modules = {}
    for index, entry in entries.items():
        if not network.conditional:
            entry.pop("Dense_0", None)  # owned but never used
        modules[listed[int(index)].name] = convert(listed[int(index)].kind, entry)
    return nest(modules)


def torch_tree(state: Mapping[str, np.ndarray]) -> Tree:
    """A PyTorch state dict as a flax tree: dotted names nested, axes and leaves as in flax."""
    leaves: dict[str, Any] = {}
    for key, value in state.items():
        path, _, leaf = key.rpartition(".")
        if leaf == "weight":
            leaf = "scale" if value.ndim == 1 else "kernel"
            value = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T
        leaves["/".join([*path.split("."), leaf]).lstrip("/")] = value
    return nest(leaves)


def convert(kind: str, tree: Mapping[str, Any]) -> Tree:
    """Parameters of one published module (flax layout) under our names."""
    if kind == "GaussianFourierProjection":
        return {"frequencies": tree["W"]}
    if kind.startswith("AttnBlock"):
        children = _ATTENTION
    elif kind in ("Combine", "Downsample", "Upsample"):
        children = _CONV
    else:
        children = _CHILDREN
    if any(isinstance(value, Mapping) for value in tree.values()):
        return {children[key]: _leaves(child) for key, child in tree.items()}
    return _leaves(tree)


def _leaves(tree: Mapping[str, Any]) -> Tree:
    result = {}
    for key, value in tree.items():
        name, array = {"W": "kernel", "b": "bias", "weight": "kernel"}.get(key, key), value
        if name == "kernel" and array.shape[:-2] == (1, 1):
            array = array[0, 0]  # our 1 x 1 convolutions are linear maps
        result[name] = array.reshape(-1) if name in ("scale", "bias") else array
    return result


def nest(modules: Mapping[str, Any]) -> Tree:
    """{"a/b": tree} -> {"a": {"b": tree}}."""
    result: Tree = {}
    for path, tree in modules.items():
        *parents, last = path.split("/")
        node = result
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = tree
    return result


def calling_order(network: Network, height: int) -> Iterator[Published]:
    """The modules of a published network in the order in which they are called."""
    return _ddpm_order(network, height) if isinstance(network, DDPM) else _ncsnpp_order(network, height)


def _ddpm_order(network: DDPM, height: int) -> Iterator[Published]:
    block, attention = "ResnetBlockDDPM", "AttnBlock"
    if network.conditional:
        yield from (Published("time/dense_0", "Dense"), Published("time/dense_1", "Dense"))
    yield Published("conv_in", "Conv")
    last = len(network.ch_mult) - 1
    for level in range(last + 1):
        for i in range(network.num_res_blocks):
            yield Published(f"down_{level}_block_{i}", block)
            if height >> level in network.attn_resolutions:
                yield Published(f"down_{level}_attn_{i}", attention)
        if level < last:
            yield Published(f"down_{level}_resample", "Downsample")
    yield from _middle(block, attention)
    for level in range(last, -1, -1):
        for i in range(network.num_res_blocks + 1):
            yield Published(f"up_{level}_block_{i}", block)
        if height >> level in network.attn_resolutions:
            yield Published(f"up_{level}_attn", attention)
        if level > 0:
            yield Published(f"up_{level}_resample", "Upsample")
    yield from (Published("norm_out", "GroupNorm"), Published("conv_out", "Conv"))


def _ncsnpp_order(network: NCSNpp, height: int) -> Iterator[Published]:
    biggan = network.resblock_type == "biggan"
    block, attention = "ResnetBlockBigGANpp" if biggan else "ResnetBlockDDPMpp", "AttnBlockpp"
    if network.embedding == "fourier":
        yield Published("fourier", "GaussianFourierProjection")
    if network.conditional:
        yield from (Published("time/dense_0", "Dense"), Published("time/dense_1", "Dense"))
    yield Published("conv_in", "Conv")
    last = len(network.ch_mult) - 1
    for level in range(last + 1):
        for i in range(network.num_res_blocks):
            yield Published(f"down_{level}_block_{i}", block)
            if height >> level in network.attn_resolutions:
                yield Published(f"down_{level}_attn_{i}", attention)
        if level < last:
            yield Published(f"down_{level}_resample", block if biggan else "Downsample")
            if network.progressive_input == "input_skip":
                yield Published(f"down_{level}_shrink", "Downsample", in_list=False)
                yield Published(f"down_{level}_pyramid", "Combine")
            elif network.progressive_input == "residual":
                yield Published(f"down_{level}_pyramid", "Downsample")
    yield from _middle(block, attention)
    for level in range(last, -1, -1):
        for i in range(network.num_res_blocks + 1):
            yield Published(f"up_{level}_block_{i}", block)
        if height >> level in network.attn_resolutions:
            yield Published(f"up_{level}_attn", attention)
        if network.progressive == "residual" and level < last:
            yield Published(f"up_{level}_pyramid", "Upsample")
        elif network.progressive != "none":
            if level < last:
                yield Published(f"up_{level}_enlarge", "Upsample", in_list=False)
            yield Published(f"up_{level}_norm_out", "GroupNorm")
            yield Published(f"up_{level}_conv_out", "Conv")
        if level > 0:
            yield Published(f"up_{level}_resample", block if biggan else "Upsample")
    if network.progressive != "output_skip":
        yield from (Published("norm_out", "GroupNorm"), Published("conv_out", "Conv"))


def _middle(block: str, attention: str) -> Iterator[Published]:
    yield from (
        Published("mid_block_0", block),
        Published("mid_attn", attention),
        Published("mid_block_1", block),
    )


def network_from_config(config: Mapping[str, Any], dtype: Any = jnp.float32) -> Network:
    """The network that a published configuration describes."""
    model = config["model"]
    fields: dict[str, Any] = {
        name: tuple(model[name]) if isinstance(model[name], list) else model[name]
        for name in ("nf", "ch_mult", "num_res_blocks", "attn_resolutions", "resamp_with_conv", "dropout")
    }
    fields |= {name: model[name] for name in ("scale_by_sigma", "conditional")}
    fields |= {"activation": model["nonlinearity"], "centered": config["data"]["centered"], "dtype": dtype}
    if model["name"] == "ddpm":
        return DDPM(**fields)
    names = (
        "fir",
        "skip_rescale",
        "resblock_type",
        "progressive",
        "progressive_input",
        "progressive_combine",
    )
    fields |= {name: model[name] for name in (*names, "fourier_scale", "init_scale")}
    fields |= {"embedding": model["embedding_type"], "fir_kernel": tuple(model["fir_kernel"])}
    if model["embedding_type"] == "positional" and model["scale_by_sigma"]:
        log_sigmas = np.linspace(np.log(model["sigma_max"]), np.log(model["sigma_min"]), model["num_scales"])
        fields["sigmas"] = tuple(np.exp(log_sigmas).tolist())
    return NCSNpp(**fields)


@dataclass(frozen=True)
class Reference:
    """A published network with its inputs, weights and outputs, in NHWC."""

    config: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray]
    params: Mapping[str, Tree]
    """Converted weights: raw ones under "output", averaged ones under "output_ema"."""


def read_reference(folder: Path) -> Reference:
    """Read a folder of reference values, of the flax or the PyTorch code."""
    config = json.loads((folder / "config.json").read_text())
    with np.load(folder / "io.npz") as file:
        arrays = {key: file[key] for key in file.files}
    network, height = network_from_config(config), config["data"]["image_size"]
    (path,) = folder.glob("checkpoint_*")
    if path.suffix == ".pth":
        checkpoint = read_pth(path)
        params = {"output": checkpoint["model"], "output_ema": averaged_state(checkpoint)}
        params = {key: from_torch(value, network, height) for key, value in params.items()}
        arrays = {key: a.transpose(0, 2, 3, 1) if a.ndim == 4 else a for key, a in arrays.items()}
    else:
        checkpoint = msgpack_restore(path.read_bytes())
        params = {"output": checkpoint["optimizer"]["target"], "output_ema": checkpoint["params_ema"]}
        params = {key: from_flax(value, network, height) for key, value in params.items()}
    return Reference(config, arrays, params)


@functools.lru_cache(maxsize=32)
def compiled(network: Network) -> Callable[[Tree, jax.Array, jax.Array], jax.Array]:
    """`f(params, x, labels)` in evaluation mode; compiled in a hurry (a third of the time)."""
    return jax.jit(
        lambda params, x, labels: network.apply({"params": params}, x, labels),
        compiler_options=FAST_COMPILE,
    )


def largest_error(folder: Path, dtype: Any) -> float:
    """Largest deviation from the reference in double precision, relative to each sample's size."""
    reference = read_reference(folder)
    network = network_from_config(reference.config, dtype)
    labels = reference.arrays["labels"]
    labels = labels.astype(dtype if labels.dtype.kind == "f" else np.int32)
    errors = []
    for key, params in reference.params.items():
        wide = jax.tree.map(lambda a: jnp.asarray(a, dtype), params)
        x = jnp.asarray(reference.arrays["x"], dtype)
        output = compiled(network)(wide, x, jnp.asarray(labels))
        assert output.dtype == dtype
        expected = reference.arrays[f"{key}_f64"]
        size = np.abs(expected).max(axis=(1, 2, 3))
        errors.append(np.abs(np.asarray(output, np.float64) - expected).max(axis=(1, 2, 3)) / size)
    return float(np.max(errors))


def same_tree(params: Tree, network: Network, reference: Reference) -> bool:
    """Whether the converted weights have exactly the names and shapes that the network makes itself."""
    x, labels = jnp.zeros(reference.arrays["x"].shape), jnp.zeros(reference.arrays["labels"].shape)
    made = jax.eval_shape(network.init, jax.random.key(0), x, labels)["params"]
    return jax.tree.map(jnp.shape, made) == jax.tree.map(jnp.shape, params)


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
        own = {key.removeprefix(f"{name}/"): a for key, a in arrays.items() if key.startswith(f"{name}/")}
        inputs = {key.removeprefix("in/"): a for key, a in own.items() if key.startswith("in/")}
        params = {key.removeprefix("params/"): a for key, a in own.items() if key.startswith("params/")}
        yield LayerCase(
            name,
            json.loads(str(own["meta"])),
            {key: jnp.asarray(_wide(_nhwc(a, key) if torch else a)) for key, a in inputs.items()},
            jax.tree.map(_wide, torch_tree(params) if torch else nest(params)),
            _nhwc(own["out_f64"], "out") if torch else own["out_f64"],
        )


def evaluate(cases: Iterable[LayerCase], layer: Callable[[LayerCase], jax.Array]) -> dict[str, jax.Array]:
    """Results of `layer(case)` by name, all compiled as one program."""
    cases = list(cases)

    def everything(arrays: list[tuple[Mapping[str, jax.Array], Tree]]) -> dict[str, jax.Array]:
        pairs = zip(cases, arrays)
        return {
            case.name: layer(replace(case, inputs=inputs, params=params)) for case, (inputs, params) in pairs
        }

    return jax.jit(everything, compiler_options=FAST_COMPILE)([(case.inputs, case.params) for case in cases])


def _wide(a: np.ndarray) -> np.ndarray:
    return a.astype(np.float64) if a.dtype.kind == "f" else a


def _nhwc(a: np.ndarray, name: str) -> np.ndarray:
    if a.ndim != 4:
        return a
    return a.transpose(2, 3, 1, 0) if name == "w" else a.transpose(0, 2, 3, 1)


def averaged_state(checkpoint: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """State dict of the averaged weights of a PyTorch checkpoint, which lists them without names."""
    names = [name for name in checkpoint["model"] if not name.endswith(("sigmas", "all_modules.0.W"))]
    shadow = checkpoint["ema"]["shadow_params"]
    if len(names) != len(shadow):
        raise ValueError(f"{len(shadow)} averaged parameters for {len(names)} names")
    return {**checkpoint["model"], **dict(zip(names, shadow))}


def read_pth(path: Path) -> Any:
    """Content of a PyTorch file (zip format, 1.6 and later) with arrays for tensors, without PyTorch.

    Only containers, numbers and tensors are admitted; a pickle that asks for anything else is refused.
    """
    with zipfile.ZipFile(path) as file:
        (pickled,) = [name for name in file.namelist() if name.endswith("/data.pkl")]
        return _Unpickler(file, pickled).load()


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: zipfile.ZipFile, pickled: str) -> None:
        super().__init__(io.BytesIO(file.read(pickled)), encoding="latin1")
        self._file = file
        self._folder = pickled.removesuffix("data.pkl") + "data/"

    def find_class(self, module: str, name: str) -> Any:
        known = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
            ("torch", "FloatStorage"): np.dtype("<f4"),
            ("torch", "DoubleStorage"): np.dtype("<f8"),
            ("torch", "LongStorage"): np.dtype("<i8"),
            ("numpy.core.multiarray", "scalar"): _scalar,
            ("numpy", "dtype"): np.dtype,
            ("_codecs", "encode"): _encode,
        }
        if (module, name) not in known:
            raise pickle.UnpicklingError(f"{module}.{name} is not admitted")
        return known[module, name]

    def persistent_load(self, pid: tuple) -> np.ndarray:
        _, dtype, key, _, size = pid
        return np.frombuffer(self._file.read(self._folder + key), dtype, size)


def _rebuild_tensor(
    storage: np.ndarray, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any
) -> np.ndarray:
    flat = storage[offset:]
    return np.lib.stride_tricks.as_strided(flat, shape, [s * flat.itemsize for s in strides]).copy()


def _scalar(dtype: np.dtype, data: bytes) -> Any:
    return np.frombuffer(data, dtype, 1)[0]


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"encoding {encoding} is not admitted")
    return text.encode(encoding)
