"""What the tests of import and export share: published checkpoints as runs and as states."""

import functools
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs
from networks.published import checkpoint, config_of, find, folders

from score_sde.build.assemble import build
from score_sde.build.experiment import Experiment
from score_sde.build.settings import Settings
from score_sde.convert import read_file, write_torch
from score_sde.convert.published import recognize
from score_sde.exchange.states import to_pytorch
from score_sde.modes import import_checkpoint
from score_sde.training.state import TrainState
from score_sde.workdir import config as configurations
from score_sde.workdir.run import Run

FOLDERS = folders("ncsnpp", "ddpm", "ncsn", "ncsnv2")
PYTORCH, FLAX = "score_sde_pytorch", "score_sde_jax"
_VP = {"training__sde": "vpsde", "training__continuous": True}
_VE = {"training__sde": "vesde", "training__continuous": False}
VP = find(PYTORCH, model__name="ncsnpp", model__fir=False, **_VP)
DISCRETE = find(PYTORCH, model__name="ncsnpp", **_VE)
FLAX_DISCRETE = find(FLAX, model__name="ncsnpp", **_VE)
NCSN, NCSNV2 = find("ncsn"), find("ncsnv2")


class Imported(NamedTuple):
    """A published checkpoint as a run of ours."""

    settings: Settings
    experiment: Experiment
    state: TrainState


@functools.cache
def step_of(folder: str) -> int:
    """The number of updates that a checkpoint says, 0 where it says none."""
    path = checkpoint(folder)
    return recognize(*read_file(path), path).step or 0


def import_file(source: Path, recipe: str | None = None, **options: Any) -> Path:
    """`--mode import` of a file, with its options by name; the folder of the run."""
    folder = options.pop("workdir")
    return import_checkpoint.main(source, recipe, workdir=str(folder), **options)


def import_(folder: str, workdir: Path, *overrides: tuple[str, str], **options: Any) -> Path:
    """`--mode import` of a published checkpoint."""
    options |= {"overrides": overrides, "workdir": workdir}
    return import_file(checkpoint(folder), options.pop("recipe", None), **options)


def restored(workdir: Path) -> Imported:
    """A run as the other modes read it."""
    run = Run.of(configurations.load_json(Path(workdir) / "config.json"), Path(workdir))
    return Imported(run.settings, run.experiment, jax.device_get(run.restore()))


@functools.cache
def kept(folder: str) -> Imported:
    """An import that is not written: writing is slow."""
    found: dict[str, Any] = {}
    convert = import_checkpoint.to_state

    def to_state(published, experiment):
        found["experiment"] = experiment
        return convert(published, experiment)

    def write_folder(_, state, documents):
        found["state"], found["settings"] = jax.device_get(state), documents["config.json"]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(import_checkpoint, "to_state", to_state)
        patch.setattr(import_checkpoint, "write_folder", write_folder)
        import_file(checkpoint(folder), workdir="runs/that-is-not-there")
    settings = configurations.of(found["settings"])
    return Imported(settings, found["experiment"], found["state"])


def times(settings: Settings, labels: np.ndarray) -> jax.Array:
    """The times at which the model gives its network these labels."""
    sde = settings.sde
    if sde.name == "ve":
        t = np.log(labels / sde.sigma_min) / np.log(sde.sigma_max / sde.sigma_min)
    elif sde.name == "smld":
        t = sde.n - 1 - labels
    else:
        t = labels / (1 if sde.name == "ddpm" else 999)
    return jnp.asarray(t, jnp.float32)


def beside(path: Path, folder: str, entries: Mapping[str, Any]) -> Path:
    """A checkpoint in a folder of its own, beside its configuration with other entries."""
    path.mkdir(parents=True)
    config = config_of(folder)
    for name, value in entries.items():
        section, entry = name.split(".")
        config.setdefault(section, {})[entry] = value
    (path / "config.json").write_text(json.dumps(config))
    shutil.copy(checkpoint(folder), path)
    return path / checkpoint(folder).name


def bare_file(recipe: str, path: Path, values: Mapping[str, Any] | None = None) -> Path:
    """Random weights of a recipe's network in PyTorch's form, without a configuration."""
    experiment = build(runs.load(recipe, values))
    write_torch(path, to_pytorch(experiment, random_state(experiment)))
    return path


def random_state(experiment: Experiment) -> TrainState:
    """Random numbers in every place of a train state at step 7."""
    rng = np.random.default_rng(0)
    state = jax.eval_shape(
        lambda: experiment.trainer.init(experiment.task, jax.random.key(0), experiment.shape)
    )
    state = jax.tree.map(lambda a: rng.normal(size=a.shape).astype(a.dtype), state)
    return state.replace(step=np.int32(7))
