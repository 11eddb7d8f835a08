"""Published checkpoints into working directories of ours, and back: which configuration a file is of, and its writing."""

import contextlib
import importlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from score_sde import config as config_lib
from score_sde.build import FLOW_NAMES, SECTIONS, Experiment, build_network, build_process
from score_sde.convert.flow import flow_of, from_published
from score_sde.convert.originals import translate
from score_sde.convert.published import UNAVERAGED, Published, entries, module_names, state_names
from score_sde.convert.table import flatten, to_torch
from score_sde.errors import UserError
from score_sde.networks import FlowPP
from score_sde.training.checkpoint import Checkpoints
from score_sde.training.state import TrainState
from score_sde.training.step import Trainer
from score_sde.workdir import write_json

UNUSED_SIGMAS = {"sigma_min": 0.01, "sigma_max": 50.0, "n": 1000}
"""The noise levels that PyTorch's VP models carry along, those of its default configurations."""
EXTENT = {
    "sde.n": 100_000,
    "sampling.steps": 100_000,
    "data.image_size": 8192,
    "data.channels": 1024,
    "model.nf": 8192,
    "model.num_res_blocks": 32,
    "model.ch_mult": 16,
    "model.attn_resolutions": 16,
    "model.fir_kernel": 64,
}
"""The most of each that is imported, with room to spare; of tuples, entries."""


# Which configuration


def find_config(
    published: Published,
    source: Path,
    config_file: str | None,
    source_config: Path | None,
    overrides: Sequence[tuple[str, str]],
    command: str,
) -> tuple[ml_collections.ConfigDict, str]:
    """(configuration of ours, where it is from) for the content of the file `source`.

    In this order: `config_file` (a recipe, or config.json of a run); `source_config`, a configuration of the original code as
    JSON; a config.json beside the file; the one recipe whose network has these arrays. `overrides` come last.

    Raises:
        UserError: none or several fit, or a configuration that is named cannot be followed.
    """
    beside = source.parent / "config.json"
    if config_file:
        config, origin = config_lib.load(config_file), config_file
        follow_code(config, published)
    elif source_config or beside.is_file():
        path = source_config or beside
        with followed(path):
            config, origin = _read_original(path, published)
    else:
        config, origin = _recognize(published, overrides, command)
    config_lib.override(config, overrides)
    _check_extent(config)
    return config, origin


@contextlib.contextmanager
def followed(origin: str | Path) -> Iterator[None]:
    """Raises UserError for whatever a configuration that others wrote can cause in this context."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # the one place where all of that ends
        raise UserError(
            f"the configuration {origin} cannot be followed ({type(error).__name__}: {error!s:.200}); name another with --config"
        ) from error


def _check_extent(config: ml_collections.ConfigDict) -> None:
    """Raises UserError for numbers that no published model comes near, and that would take the memory or for ever."""
    for name, most in EXTENT.items():
        section, entry = name.split(".")
        value = config[section].get(entry, 0)
        size = len(value) if isinstance(value, tuple) else value
        if isinstance(size, int | float) and not size <= most:
            raise UserError(
                f"config.{name}={value!r:.100} is more than {most}, the most that can be imported"
            )


def _read_original(path: Path, published: Published) -> tuple[ml_collections.ConfigDict, str]:
    """The configuration that a JSON file describes in the original code's terms, or in ours."""
    original = _read_json(path)
    if set(SECTIONS) <= original.keys():
        return config_lib.load_json(path), str(path)
    try:
        found = translate(original)
    except UserError as error:
        raise UserError(f"{path}: {error}. Name a recipe of this library with --config instead") from error
    location = f"{_configs() / found.recipe}.py:{found.dataset}"
    try:
        config = config_lib.load(location)
    except UserError:  # the recipe does not have this data set
        location = f"{_configs() / found.recipe}.py:folder"
        config = config_lib.load(location)
    for section, values in found.changes.items():
        if section == "model" and values.get("name", config.model.name) != config.model.name:
            config.model = ml_collections.ConfigDict(values)
        else:
            config[section].update(values)
    follow_code(config, published)
    if config.model.name in ("ncsn", "ncsnv2"):
        config.model.variant = _variant(published)
    return config, f"{path} (as {location})"


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path} cannot be read as JSON ({error}); name a recipe with --config instead"
        ) from error
    if not isinstance(values, dict):
        raise UserError(
            f"{path} holds {type(values).__name__}, not sections; name a recipe with --config instead"
        )
    return values


def follow_code(config: ml_collections.ConfigDict, published: Published) -> None:
    """Set what the codes differ in and their configurations do not say: how RefineNets resize, normalize and narrow."""
    if config.model.name not in ("ncsn", "ncsnv2"):
        return
    flax = published.format == "msgpack"
    config.model.resize = "half_pixel" if flax else "corner_aligned"
    config.model.channel_variance = "C" if flax else "C-1"
    config.model.narrowed = "last" if flax else "third"
    if config.model.name == "ncsn":
        config.model.plus = _has_means(published)


def _has_means(published: Published) -> bool:
    """Whether conditional normalizations have a gain for channel means (CondInstanceNorm++): 3 numbers a channel, not 2."""
    for name, array in flatten(published.params):
        if name in ("normalizer.embed.weight", "ConditionalInstanceNorm2dPlus_0/Embed_0/embedding"):
            return array.ndim == 2 and array.shape[1] % 3 == 0 and (array.shape[1] // 3) == _width(published)
    return True


def _width(published: Published) -> int:
    """Channels behind the first convolution, which are those in front of the last normalization."""
    first = {"begin_conv.bias", "Conv_0/bias"}
    return next((array.size for name, array in flatten(published.params) if name in first), 0)


def _variant(published: Published) -> str:
    """Of a RefineNet, by the number of its refine blocks, which configurations do not always tell."""
    count = sum("refine" in name.lower() for name in published.modules)
    return {5: "128", 6: "256"}.get(count, "64")


def _configs() -> Path:
    """The folder of recipes: configs/ where the command runs, else that of the program."""
    here = Path("configs")
    return (
        here
        if (here / "datasets.py").is_file()
        else Path(str(importlib.import_module("configs").__file__)).parent
    )


def recipes() -> Iterator[tuple[str, ml_collections.ConfigDict]]:
    """("configs/GROUP/FILE.py:DATASET", configuration) of everything in configs/."""
    datasets = importlib.import_module("configs.datasets").DATASETS
    for path in sorted(_configs().glob("*/*.py")):
        for dataset in datasets:
            try:
                yield f"{path}:{dataset}", config_lib.load(f"{path}:{dataset}")
            except UserError:  # the recipe does not have this data set
                continue


def _recognize(
    published: Published, overrides: Sequence[tuple[str, str]], command: str
) -> tuple[ml_collections.ConfigDict, str]:
    """The recipe whose network, with the overrides, is that of the weights."""
    found: dict[str, list[tuple[str, ml_collections.ConfigDict]]] = {}  # by what names and shapes depend on
    for location, config in recipes():
        try:
            follow_code(config, published)
            config_lib.override(config, overrides)
        except UserError:  # an override that means nothing to this recipe
            continue
        if config.data.image_size:
            found.setdefault(_structure(config), []).append((location, config))
    if not found:
        raise UserError("no recipe in configs/ takes these overrides; name one with --config")
    modules = {key: _module_names(configs[0][1], published) for key, configs in found.items()}
    if not any(names & published.modules for names in modules.values()):
        listed = ", ".join(sorted(published.modules)[:5])
        raise UserError(f"the weights are of no network here: none has any of their modules ({listed}, ...)")
    distances = {key: len(names ^ published.modules) for key, names in modules.items()}
    fitting, reasons = [], []
    for key in (key for key, distance in distances.items() if distance == min(distances.values())):
        foreign, reason = _misfit(published, found[key][0][1])
        for location, config in found[key]:
            why = reason or sigmas_differ(published, config)
            if why:
                reasons.append((foreign, location, why))
            else:
                fitting.append((location, config))
    if len(fitting) == 1:
        return fitting[0][1], fitting[0][0]
    if fitting:
        listed = "\n".join(f"  {command} --config {location}" for location, _ in fitting)
        raise UserError(
            f"{len(fitting)} recipes have the network of these weights, which do not tell process, image size and pixel range. "
            f"Say which one it is:\n{listed}"
        )
    _, location, reason = min(reasons)
    raise UserError(
        f"no recipe in configs/ has the network of these weights. The nearest is {location}: {reason}. Name a recipe and what "
        f"is other, like: {command} --config {location} --config.model.nf=NUMBER, or the original configuration as JSON with "
        "--source_config"
    )


def _structure(config: ml_collections.ConfigDict) -> str:
    """What names and shapes of a network depend on."""
    only = (
        "dropout",
        "activation",
        "dtype",
        "remat",
        "prediction",
        "scale_by_sigma",
        "init_scale",
        "fourier_scale",
    )
    model = {name: value for name, value in config.model.items() if name not in only}
    values = model | {name: config.data[name] for name in ("image_size", "channels")}
    if config.model.name == "ncsn":
        values["n"] = config.sde.n
    return repr(sorted(values.items()))


def _module_names(config: ml_collections.ConfigDict, published: Published) -> frozenset[str]:
    network: Any = build_network(config, build_process(config.sde))
    return module_names(network, config.data.image_size, published.format)


def _misfit(published: Published, config: ml_collections.ConfigDict) -> tuple[int, str | None]:
    """(arrays that the file or the network has alone, why the weights are not the network's or None)."""
    network: Any = build_network(config, build_process(config.sde))
    shape = (config.data.image_size, config.data.image_size, config.data.channels)
    table, unused = entries(network, shape[0])
    names = {entry.flax if published.format == "msgpack" else entry.torch for entry in (*table, *unused)}
    return len(names ^ published.names), published.misfit(table, _shapes(network, shape), unused)


def _shapes(network: nn.Module, shape: tuple[int, int, int]) -> Any:
    x, labels = jnp.zeros((1, *shape)), jnp.ones((1,))
    return jax.eval_shape(network.init, jax.random.key(0), x, labels)["params"]


def sigmas_differ(published: Published, config: ml_collections.ConfigDict) -> str | None:
    """How the noise levels in the file differ from those of a VE configuration; None where they do not or are not there."""
    if published.sigmas is None or config.sde.name not in ("ve", "smld") or not published.sigmas.size:
        return None
    ends = (float(published.sigmas.min()), float(published.sigmas.max()))
    ours = (config.sde.sigma_min, config.sde.sigma_max)
    count = published.sigmas.size
    if np.allclose(ends, ours, rtol=1e-3) and count == config.sde.get("n", count):
        return None
    return (
        f"its {count} noise levels run from {ends[0]:.6g} to {ends[1]:.6g}, those of the configuration from {ours[0]} to "
        f"{ours[1]}{', ' + str(config.sde.n) + ' of them' if 'n' in config.sde else ''} (config.sde)"
    )


# Import


def to_state(published: Published, experiment: Experiment, config: ml_collections.ConfigDict) -> TrainState:
    """The train state of a file: its step and weights, and an optimizer as at the start.

    Raises:
        UserError: the weights or noise levels are not those of the configuration.
    """
    network: Any = experiment.model.network
    table, unused = entries(network, experiment.shape[0])
    params, ema = published.convert(table, _shapes(network, experiment.shape), unused)
    if reason := sigmas_differ(published, config):
        raise UserError(f"{reason}. Set config.sde.sigma_min, sigma_max and, for a discrete process, n")
    params, ema = (jax.tree.map(jnp.asarray, tree) for tree in (params, ema))
    step = jnp.asarray(published.step or 0, jnp.int32)
    return TrainState(step, params, ema, experiment.trainer.optimizer.init(params))


def to_dequantizer(
    published: Published, source: Path, source_config: Path | None, config: ml_collections.ConfigDict
) -> FlowPP:
    """The flow of a published dequantizer; config.dequantizer becomes it.

    Attention heads leave no trace in the weights: their number is `attn_heads` of a JSON file (`source_config`, or
    config.json beside the file), else config.dequantizer.heads.
    """
    path = source_config or source.parent / "config.json"
    heads = config.dequantizer.heads
    if path.is_file():
        heads = _read_json(path).get("attn_heads", heads)
    if type(heads) is not int:
        raise UserError(f"{path}: attn_heads must be a whole number; got {heads!r:.100}")
    flow = flow_of(published.params, heads)
    config.dequantizer.update({name: getattr(flow, name) for name in FLOW_NAMES})
    return flow


def to_dequantizer_state(
    published: Published, flow: FlowPP, trainer: Trainer, shape: tuple[int, ...]
) -> TrainState:
    """The train state of a dequantizer: its step and weights, and an optimizer as at the start."""
    like = jax.eval_shape(lambda: trainer.task.init(jax.random.key(0), shape))
    params, ema = (
        jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), from_published(tree, flow, like))
        for tree in (published.params, published.ema)
    )
    step = jnp.asarray(published.step or 0, jnp.int32)
    return TrainState(step, params, ema, trainer.optimizer.init(params))


def check_free(folder: Path) -> None:
    """Raises UserError where a new folder of that name cannot be made."""
    try:
        free = not any(folder.iterdir()) if folder.is_dir() else not folder.exists()
    except OSError as error:  # no permission, or a name that is too long
        raise UserError(f"cannot write to {folder} ({error}); choose another --workdir") from error
    if not free:
        raise UserError(f"{folder} exists already, and nothing is imported into it; choose another --workdir")


def write_folder(folder: Path, state: TrainState, documents: Mapping[str, Mapping[str, Any]]) -> None:
    """Make a folder with one checkpoint and JSON files: as a hidden one beside it first, and then by one rename.

    Raises:
        UserError: it cannot be written, or something has come to be there.
    """
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.importing")
    try:
        temporary.mkdir(parents=True)
        checkpoints = Checkpoints(temporary / "checkpoints")
        # The published data order is not known; a run that goes on takes the batches that follow this many of its own.
        checkpoints.save(state, {"data": {"next_index": int(state.step)}, "window": {}})
        checkpoints.close()
        for name, values in documents.items():
            write_json(temporary / name, dict(values))
        os.rename(temporary, folder)
    except OSError as error:
        raise UserError(
            f"cannot write to {folder} ({error.strerror or error}); choose another --workdir"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


# Export


def to_pytorch(experiment: Experiment, config: ml_collections.ConfigDict, state: TrainState) -> Any:
    """What the PyTorch codes save of such a model: a dictionary for NCSN++, DDPM++ and DDPM, a list for NCSNv2.

    The optimizer is empty, as before its first step. Arrays that the code owns and never uses are zeros, and VP models
    carry the noise levels of its default configurations, which they never use either.

    Raises:
        UserError: the PyTorch code cannot express this model.
    """
    _check_expressible(config)
    network: Any = experiment.model.network
    table, unused = entries(network, experiment.shape[0])
    names = state_names(network, experiment.shape[0])
    zeros = {str(entry.torch): np.zeros(shape, np.float32) for entry, shape in unused.items()}
    weights = [to_torch(table, jax.device_get(tree)) | zeros for tree in (state.params, state.ema_params)]
    raw, ema = ({name: np.ascontiguousarray(tree[name]) for name in names} for tree in weights)
    step, sigmas, optimizer = int(state.step), _sigmas(config), _empty_adam(config.optim, len(raw))
    model = {f"module.{name}": array for name, array in raw.items()}
    if config.model.name == "ncsnv2":
        return [{"module.sigmas": sigmas.astype(np.float32)} | model, optimizer, 0, step, ema]
    shadow = [ema[name] for name in names if name not in UNAVERAGED]
    averages = {"decay": config.training.ema_rate, "num_updates": step, "shadow_params": shadow}
    return {"optimizer": optimizer, "model": {"module.sigmas": sigmas} | model, "ema": averages, "step": step}


def _check_expressible(config: ml_collections.ConfigDict) -> None:
    """Raises UserError, saying why, for a model that the PyTorch codes do not have."""
    model, process = config.model, config.sde.name
    ve = process in ("ve", "smld")
    needed: dict[str, Any] = {"prediction": "score" if ve else "noise"}
    if model.name == "ncsn":
        raise UserError(
            "the code of NCSN keeps one set of weights, not averaged ones beside them; it is not exported"
        )
    if process not in ("ve", "smld", "vp", "ddpm", "subvp"):
        raise UserError(
            f"the PyTorch code has no process config.sde.name={process}; it has ve, smld, vp, ddpm and subvp"
        )
    if model.name == "ncsnv2":
        needed |= {
            "resize": "corner_aligned",
            "channel_variance": "C-1",
            "narrowed": "third",
            "scale_by_sigma": True,
        }
        if process != "smld":
            raise UserError(f"NCSNv2's code has discrete noise levels alone (sde.name=smld), not {process}")
    elif model.name == "ddpm" and process == "ve":
        raise UserError(
            "the PyTorch code gives sigma itself, not time, to a DDPM network under the continuous VE SDE"
        )
    elif model.name == "ncsnpp":
        needed["embedding"] = "fourier" if process == "ve" else "positional"
    if wrong := [
        f"{name}={model[name]} (its is {value})" for name, value in needed.items() if model[name] != value
    ]:
        raise UserError(f"the PyTorch code has no such model: config.model.{', '.join(wrong)}")


def _sigmas(config: ml_collections.ConfigDict) -> np.ndarray:
    """The table of noise levels in double precision, the largest first."""
    levels: dict[str, Any] = dict(UNUSED_SIGMAS)
    if config.sde.name in ("ve", "smld"):
        levels = {"n": config.sampling.steps} | config.sde.to_dict()
    elif config.sde.name == "ddpm":
        levels["n"] = config.sde.n
    return np.exp(np.linspace(np.log(levels["sigma_max"]), np.log(levels["sigma_min"]), levels["n"]))


def _empty_adam(optim: ml_collections.ConfigDict, count: int) -> dict[str, Any]:
    """The state dict of Adam over `count` parameters before its first step."""
    group = {
        "lr": optim.lr,
        "betas": (optim.beta1, 0.999),
        "eps": optim.eps,
        "weight_decay": optim.weight_decay,
    }
    return {"state": {}, "param_groups": [group | {"amsgrad": False, "params": list(range(count))}]}
