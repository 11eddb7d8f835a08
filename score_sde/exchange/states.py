"""Published weights as train states of ours, and our weights as the PyTorch codes keep them."""

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from score_sde.build.dequantizer import FLOW_NAMES
from score_sde.build.experiment import Experiment
from score_sde.build.published import (
    check_expressible,
    empty_adam,
    published_sigmas,
    shapes_of,
    sigmas_differ,
)
from score_sde.build.settings import Settings
from score_sde.convert import diffusers_table
from score_sde.convert.flow import flow_of, from_published
from score_sde.convert.published import UNAVERAGED, Published, entries, state_names
from score_sde.convert.table import Entry, by_path, to_torch
from score_sde.errors import UserError
from score_sde.exchange.find import read_json
from score_sde.networks import FlowPP
from score_sde.training.checkpoint import Checkpoints
from score_sde.training.dequantizer import Dequantization
from score_sde.training.ema import Average
from score_sde.training.state import TrainState
from score_sde.training.step import Trainer
from score_sde.workdir.documents import write_document


def to_state(published: Published, experiment: Experiment) -> TrainState:
    """The train state of a file: its step and weights, and an optimizer as at the start.

    Raises:
        UserError: the weights or noise levels are not those of the settings.
    """
    params, ema = published.convert(*places(published.code, experiment))
    if reason := sigmas_differ(published, experiment.settings):
        raise UserError(
            f"{reason}. Set config.sde.sigma_min, sigma_max and, for a discrete process, n"
        )
    params, ema = (jax.tree.map(jnp.asarray, tree) for tree in (params, ema))
    return _state(published, params, ema, experiment.trainer)


def places(code: str, experiment: Experiment) -> tuple[list[Entry], Any, Any]:
    """(table, our tree of shapes, what is never used) of a network in files of a code."""
    network: Any = experiment.model.network
    if code == "safetensors":
        task, shape = experiment.task, experiment.shape
        like = jax.eval_shape(lambda: task.init(jax.random.key(0), shape))
        return by_path(like), like, ()
    like = shapes_of(network, experiment.shape)
    if code == "diffusers":
        return diffusers_table.table(network, like), like, ()
    table, unused = entries(network, experiment.shape[0])
    return table, like, unused


def _state(published: Published, params: Any, ema: Any, trainer: Trainer) -> TrainState:
    step = jnp.asarray(published.step or 0, jnp.int32)
    averages = tuple(ema for _ in trainer.averages)
    return TrainState(step, params, averages, trainer.optimizer.init(params))


def to_dequantizer(
    published: Published, source: Path, original: Path | None, settings: Settings
) -> tuple[FlowPP, Settings]:
    """(the flow of a published dequantizer, the settings with it as their dequantizer).

    Attention heads leave no trace in the weights: their number is `attn_heads` of a JSON file
    (`original`, or config.json beside the file), else config.dequantizer.heads.
    """
    path, heads = original or source.parent / "config.json", settings.dequantizer.heads
    if path.is_file():
        heads = read_json(path).get("attn_heads", heads)
    if type(heads) is not int:
        raise UserError(f"{path}: attn_heads must be a whole number; got {heads!r:.100}")
    flow = flow_of(published.params, heads)
    values = {name: getattr(flow, name) for name in FLOW_NAMES}
    return flow, settings.change("dequantizer", **values)


def to_dequantizer_state(
    published: Published, task: Dequantization, trainer: Trainer, shape: tuple[int, ...]
) -> TrainState:
    """The train state of a dequantizer: its step and weights, and an optimizer as at the start."""
    like, flow = jax.eval_shape(lambda: task.init(jax.random.key(0), shape)), task.flow
    assert isinstance(flow, FlowPP)
    params, ema = (
        jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), from_published(tree, flow, like))
        for tree in (published.params, published.ema)
    )
    return _state(published, params, ema, trainer)


def check_free(folder: Path, flag: str = "--workdir") -> None:
    """Raises UserError where a new folder of that name cannot be made; the flag names it."""
    try:
        free = not any(folder.iterdir()) if folder.is_dir() else not folder.exists()
    except OSError as error:  # no permission, or a name that is too long
        raise UserError(f"cannot write to {folder} ({error}); choose another {flag}") from error
    if not free:
        raise UserError(
            f"{folder} exists already, and nothing is written into it; choose another {flag}"
        )


@contextlib.contextmanager
def new_folder(folder: Path, flag: str = "--workdir") -> Iterator[Path]:
    """A folder to fill, hidden beside `folder`, which it becomes by one rename at the end.

    Raises:
        UserError: it cannot be written, or something has come to be there; the flag names it.
    """
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.importing")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        os.rename(temporary, folder)
    except OSError as error:
        raise UserError(
            f"cannot write to {folder} ({error.strerror or error}); choose another {flag}"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_folder(
    folder: Path, state: TrainState, documents: Mapping[str, Mapping[str, Any]]
) -> None:
    """Make a folder with one checkpoint and JSON files.

    Raises:
        UserError: it cannot be written, or something has come to be there.
    """
    with new_folder(folder) as temporary:
        checkpoints = Checkpoints(temporary / "checkpoints")
        # The published data order is not known; a run that goes on takes the batches that follow
        # this many of its own.
        host = {"data": {"next_index": int(state.step)}, "window": {}}
        checkpoints.save(state, host)
        checkpoints.close()
        for name, values in documents.items():
            write_document(temporary / name, values)


def to_pytorch(experiment: Experiment, state: TrainState) -> Any:
    """What the PyTorch codes save of such a model: a dictionary, for NCSNv2 a list.

    The optimizer is empty, as before its first step. Arrays that the code owns and never uses are
    zeros. VP models carry the noise levels of its default configurations, and never use them.

    Raises:
        UserError: the PyTorch code cannot express this model.
    """
    settings = experiment.settings
    check_expressible(settings)
    network: Any = experiment.model.network
    table, unused = entries(network, experiment.shape[0])
    names = state_names(network, experiment.shape[0])
    zeros = {str(entry.torch): np.zeros(shape, np.float32) for entry, shape in unused.items()}
    trees = (state.params, state.averages[0])
    weights = [to_torch(table, jax.device_get(tree)) | zeros for tree in trees]
    raw, ema = ({name: np.ascontiguousarray(tree[name]) for name in names} for tree in weights)
    step, sigmas = int(state.step), published_sigmas(settings)
    optimizer = empty_adam(settings.optim, len(raw))
    model = {f"module.{name}": array for name, array in raw.items()}
    if settings.model.name == "ncsnv2":
        first = {"module.sigmas": sigmas.astype(np.float32)}
        return [first | model, optimizer, 0, step, ema]
    shadow = [ema[name] for name in names if name not in UNAVERAGED]
    profile = experiment.trainer.averages[0]
    rate = profile.rate if isinstance(profile, Average) else settings.training.ema_rate
    averages = {"decay": rate, "num_updates": step, "shadow_params": shadow}
    model = {"module.sigmas": sigmas} | model
    return {"optimizer": optimizer, "model": model, "ema": averages, "step": step}
