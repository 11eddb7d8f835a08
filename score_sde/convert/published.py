"""What a published checkpoint holds, and the parameters of ours it becomes.

Any of the published codes may have written it.

The readers give plain containers and arrays (`read_file`); nothing here opens a file.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import ml_dtypes
import numpy as np

from score_sde.convert import refinenet, unet
from score_sde.convert.table import Entry, Tree, flatten, from_flax, from_torch
from score_sde.errors import UserError
from score_sde.networks import DDPM, NCSN, NCSNpp, NCSNv2

Format = Literal["msgpack", "torch"]
Network = NCSNpp | DDPM | NCSN | NCSNv2
UNAVERAGED = ("sigmas", "all_modules.0.W")
"""Entries of a PyTorch state dict that its list of averaged parameters leaves out: a buffer,
frequencies never trained."""
MODELS = ("model", "state_dict", "model_state_dict")
"""Entries of a dictionary that hold weights by name."""
AVERAGES = ("ema", "model_ema", "ema_state_dict", "params_ema")
"""Entries that hold averaged weights."""
MAX_NAME = 200  # characters of an array's name, with those of the modules around it


@dataclass(frozen=True)
class Published:
    """A published training state.

    code: "score_sde" (flax), "score_flow" (flax, a dequantizer), "score_sde_pytorch", "ncsn",
    "ncsnv2", "diffusers", "safetensors" where names are those of this library, or "weights" where
    the file holds one set of them and nothing else.
    params, ema: the weights as published: a flax tree, or a PyTorch state dict without "module."
    and without buffers.
    step: optimizer updates made; None where the file does not say.
    sigmas: the table of noise levels stored with a PyTorch model, largest first.
    averaged: whether the file holds averaged weights; without, `ema` are `params`.
    """

    code: str
    format: Format
    params: Mapping[str, Any]
    ema: Mapping[str, Any]
    step: int | None = None
    sigmas: np.ndarray | None = None
    averaged: bool = True

    def convert(
        self, table: Sequence[Entry], like: Mapping[str, Any], unused: Iterable[Entry] = ()
    ) -> tuple[Tree, Tree]:
        """(raw, averaged) parameters of ours in float32, by the table of a network.

        `like` has the shapes of its parameters.

        Raises UserError for other names or shapes, and for numbers that are not finite.
        """
        read = from_flax if self.format == "msgpack" else from_torch

        def convert(weights: Mapping[str, Any], name: str) -> Tree:
            given = self._needed(weights, unused)
            read(
                table, _outlines(given), like
            )  # before anything is copied: names may be many, of the same array
            given = {key: _single(key, array) for key, array in given.items()}
            if bad := [key for key, array in given.items() if not np.isfinite(array).all()]:
                raise UserError(
                    f"{len(bad)} of the {name} are not finite numbers, the first {bad[0]}"
                )
            return read(table, given, like)

        params = convert(self.params, "weights")
        return params, convert(self.ema, "averaged weights") if self.averaged else params

    def misfit(
        self, table: Sequence[Entry], like: Mapping[str, Any], unused: Iterable[Entry] = ()
    ) -> str | None:
        """Why the weights are not those of a network with this table; None where they are.

        Looks at names and shapes alone.
        """
        read = from_flax if self.format == "msgpack" else from_torch
        try:
            read(table, _outlines(self._needed(self.params, unused)), like)
        except UserError as error:
            return str(error)
        return None

    def _needed(self, weights: Mapping[str, Any], unused: Iterable[Entry]) -> dict[str, np.ndarray]:
        """The arrays by name, without those that the published network owns and never uses."""
        extra = {entry.flax if self.format == "msgpack" else entry.torch for entry in unused}
        flat = flatten(weights) if self.format == "msgpack" else weights.items()
        return {name: array for name, array in flat if name not in extra}

    @property
    def types(self) -> frozenset[str]:
        """Types of all arrays; converted ones are float32."""
        return frozenset(str(array.dtype) for array in self._needed(self.params, ()).values())

    @property
    def names(self) -> frozenset[str]:
        """Names of all arrays."""
        return frozenset(self._needed(self.params, ()))

    @property
    def modules(self) -> frozenset[str]:
        """Names of the modules that own parameters, down to the number of each."""
        return frozenset(_module(name) for name in self.params)


def entries(network: Network, height: int) -> tuple[list[Entry], dict[Entry, tuple[int, ...]]]:
    """(table, what the published codes have besides and never use) of a network.

    Images have that height.
    """
    if isinstance(network, NCSN | NCSNv2):
        return refinenet.table(network), {}
    return unet.table(network, height), unet.unused(network, height)


def state_names(network: Network, height: int) -> list[str]:
    """Names of the PyTorch state dict, without "module." and buffers, in its order."""
    if isinstance(network, NCSN | NCSNv2):
        return [entry.torch for entry in refinenet.table(network) if entry.torch]
    return unet.state_names(network, height)


def module_names(network: Network, height: int, format: Format) -> frozenset[str]:
    """Names of the network's published modules that own parameters.

    `Published.modules` gives those of a file.
    """
    if isinstance(network, NCSN | NCSNv2):
        names = [
            entry.flax if format == "msgpack" else entry.torch for entry in refinenet.table(network)
        ]
        return frozenset(_module(name) for name in names if name)
    owners = unet.owners(network, height)
    return frozenset(flax if format == "msgpack" else torch for flax, torch in owners)


def _module(name: str) -> str:
    """ "The part "all_modules.3" of "all_modules.3.Conv_0.weight", else the first part."""
    parts = name.split("/")[0].split(".")
    return ".".join(parts[: 2 if parts[0] == "all_modules" else 1])


def recognize(container: str, tree: Any, path: Path | None = None) -> Published:
    """What the content of a file is.

    Args:
        container: "msgpack" (flax), "zip" or "pickle" (PyTorch), as `read_file` says.
        tree: the content.
        path: of the file; NCSN's checkpoints say their step in the name only.
    Raises:
        UserError: none of the published forms; the message says what was found and which are known.
    """
    if container == "safetensors":
        raise UserError(
            "safetensors files say nothing of a model; name the folder that holds this one beside "
            "its config.json"
        )
    found = _flax(tree) if container == "msgpack" else _torch(tree, path)
    if found is None:
        raise UserError(
            f"this is no checkpoint of a published code: it holds {_describe(tree)}. Known are the "
            "flax states of score_sde and "
            "score_flow (optimizer, params_ema, step, ...), the dictionaries of score_sde_pytorch "
            "(model, ema, optimizer, step), the lists of ncsn and ncsnv2, weights alone, and "
            f"dictionaries with weights in {', '.join(MODELS)}, averaged ones in "
            f"{', '.join(AVERAGES)}"
        )
    return found


def named_arrays(tree: Any) -> dict[str, np.ndarray]:
    """The arrays of a PyTorch state dict without what wrappers put in front of names.

    Raises:
        UserError: there are none, or their names cannot be shown.
    """
    return _state(tree)[0]


def _flax(tree: Any) -> Published | None:
    if not isinstance(tree, Mapping):
        return None
    if {"optimizer", "params_ema"} <= tree.keys():
        params, ema = _at(tree, "optimizer", "target"), tree["params_ema"]
        if isinstance(params, Mapping) and set(params) == {"params"}:
            params, ema = params["params"], _at(ema, "params")
        if not (_is_weights(params) and _is_weights(ema)):
            return None
        return Published(_flax_code(params), "msgpack", params, ema, _count(tree.get("step")))
    params = tree["params"] if set(tree) == {"params"} else tree
    if not _is_weights(params):
        return None
    code = "score_flow" if _flax_code(params) == "score_flow" else "weights"
    return Published(code, "msgpack", params, params, averaged=False)


def _flax_code(params: Mapping[str, Any]) -> str:
    return "score_flow" if "MixLogisticAttnCoupling_0" in params else "score_sde"


def _torch(tree: Any, path: Path | None) -> Published | None:
    if isinstance(tree, Mapping) and (held := _dictionary(tree)):
        return held
    if isinstance(tree, list | tuple) and len(tree) == 2 and isinstance(tree[0], Mapping):
        state, sigmas = _state(tree[0])
        return Published(
            "ncsn", "torch", state, state, _optimizer_step(tree[1], path), sigmas, averaged=False
        )
    if isinstance(tree, list | tuple) and len(tree) in (4, 5) and isinstance(tree[0], Mapping):
        state, sigmas = _state(tree[0])
        averaged = len(tree) == 5
        ema = {**state, **_state(tree[4])[0]} if averaged else state
        return Published("ncsnv2", "torch", state, ema, _count(tree[3]), sigmas, averaged)
    if isinstance(tree, Mapping) and _is_weights(tree):
        state, sigmas = _state(tree)
        return Published("weights", "torch", state, state, None, sigmas, averaged=False)
    return None


def _dictionary(tree: Mapping[str, Any]) -> Published | None:
    """Weights, averaged ones or both by the names of their entries; None without such an entry."""
    weights, averages = (
        next((tree[name] for name in names if tree.get(name) is not None), None)
        for names in (MODELS, AVERAGES)
    )
    step = _count(tree.get("step"))
    if isinstance(weights, Mapping):
        state, sigmas = _state(weights)
        if averages is None:
            return Published("weights", "torch", state, state, step, sigmas, averaged=False)
        ema = _averages(averages, state)
        return Published("score_sde_pytorch", "torch", state, ema, step, sigmas)
    if not isinstance(averages, Mapping):
        return None
    if "shadow_params" in averages:
        raise UserError(
            f"it has averaged weights without names, and none of {', '.join(MODELS)}, which would "
            f"name them; it holds {_describe(tree)}"
        )
    state, sigmas = _state(averages)
    return Published("weights", "torch", state, state, step, sigmas)


def _averages(found: Any, state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Averaged weights by name, of a list in the order of the model's names, or by name already."""
    if isinstance(found, Mapping) and "shadow_params" in found:
        names = [name for name in state if name not in UNAVERAGED]
        shadow = found["shadow_params"]
        arrays = isinstance(shadow, list | tuple) and all(
            isinstance(array, np.ndarray) for array in shadow
        )
        if not arrays or len(shadow) != len(names):
            count = len(shadow) if arrays else "no"
            raise UserError(
                f"{count} averaged parameters for {len(names)} names: the checkpoint is damaged"
            )
        return {**state, **dict(zip(names, shadow, strict=True))}
    if not _is_weights(found):
        raise UserError(
            "its averaged weights have an unknown layout; known are a list `shadow_params`, and a "
            f"dictionary by name. It is {_describe(found)}"
        )
    given, _ = _state(found)
    if unknown := sorted(given.keys() - state.keys()):
        raise UserError(
            f"{len(unknown)} of its averaged weights, like {unknown[0]}, have no weights of that "
            "name beside them"
        )
    return {**state, **given}


def _state(state: Any) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
    """(parameters, noise levels) of a PyTorch state dict.

    Names come without what data parallelism ("module.") and compilation ("_orig_mod.") put there.
    """
    if not (isinstance(state, Mapping) and _is_weights(state)):
        raise UserError(
            f"a PyTorch checkpoint without its dictionary of weights: {_describe(state)}"
        )
    bare = {_bare(str(name)): array for name, array in state.items()}
    if len(bare) < len(state):
        raise UserError(f"{len(state) - len(bare)} of its weights have the name of another")
    sigmas = bare.pop("sigmas", None)
    if sigmas is not None and sigmas.dtype.kind != "f":
        raise UserError(f"its noise levels are of type {sigmas.dtype}: the checkpoint is damaged")
    return bare, sigmas


def _bare(name: str) -> str:
    name = ".".join(part for part in name.split(".") if part != "_orig_mod")
    return name.removeprefix("module.")


def _optimizer_step(optimizer: Any, path: Path | None) -> int | None:
    """Updates that Adam counted, else N of the file name checkpoint_N.pth."""
    states = optimizer.get("state") if isinstance(optimizer, Mapping) else None
    for state in states.values() if isinstance(states, Mapping) else ():
        if isinstance(state, Mapping) and (step := _count(state.get("step"))) is not None:
            return step
    number = path.stem.rpartition("_")[2] if path else ""
    return _count(int(number)) if number.isdecimal() else None


def _count(value: Any) -> int | None:
    """A step, stored as a number or as an array.

    The array has one number or, for a state kept for several devices, equal numbers.
    """
    if not isinstance(
        value, int | float | np.ndarray | np.generic
    ):  # of lists, NumPy would copy every entry
        return None
    numbers = np.asarray(value).reshape(-1)
    if numbers.dtype.kind not in "iuf" or not numbers.size or not (numbers == numbers[0]).all():
        return None
    return int(numbers[0]) if 0 <= numbers[0] < 2**31 else None


def _single(name: str, array: np.ndarray) -> np.ndarray:
    """In float32: half precision is widened, double precision rounded."""
    if array.dtype.kind != "f" and array.dtype != ml_dtypes.bfloat16:
        raise UserError(f"{name} is of type {array.dtype}, not a weight")
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused as that
        return array.astype(np.float32)


def _outlines(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Arrays of the same shapes that take no memory."""
    zero = np.zeros((), np.float32)
    return {name: np.broadcast_to(zero, array.shape) for name, array in arrays.items()}


def _at(tree: Any, *path: str) -> Any:
    for name in path:
        if not (isinstance(tree, Mapping) and name in tree):
            raise UserError(f"the checkpoint has no entry {'.'.join(path)}: it is damaged")
        tree = tree[name]
    return tree


def _is_weights(tree: Any) -> bool:
    """Whether it is a tree of arrays, at least one, under names that can be shown."""
    if not isinstance(tree, Mapping) or not all(isinstance(name, str) for name in tree):
        return False
    leaves = dict(flatten(tree))
    shown = all(len(name) <= MAX_NAME and name.isprintable() for name in leaves)
    return bool(leaves) and shown and all(isinstance(leaf, np.ndarray) for leaf in leaves.values())


def _describe(tree: Any) -> str:
    if isinstance(tree, Mapping):
        names = [ascii(name)[:40].strip("'") for name in tree]
        return (
            f"entries {', '.join(names[:6])}{' ...' if len(names) > 6 else ''}"
            if names
            else "nothing"
        )
    if isinstance(tree, list | tuple):
        return f"a list of {len(tree)}: {', '.join(type(part).__name__ for part in tree[:6])}"
    return f"a {type(tree).__name__}"
