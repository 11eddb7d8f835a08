"""Models as folders: those of diffusers, and those of this library that `--mode export` writes."""

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from score_sde.build.published import check_extent, with_original
from score_sde.build.settings import Settings
from score_sde.convert import read_file
from score_sde.convert.diffusers import FAMILIES, SCHEDULER, UNET, of_scheduler, of_unet
from score_sde.convert.diffusers_table import newer
from score_sde.convert.published import Published, named_arrays, recognize
from score_sde.errors import UserError
from score_sde.exchange.find import followed
from score_sde.files import kind_of
from score_sde.workdir import config as configurations
from score_sde.workdir.documents import read_document
from score_sde.workdir.jobs import Overrides

INDEX, UNET_FILE, SCHEDULER_FILE = "model_index.json", "config.json", "scheduler_config.json"
WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
OWN_WEIGHTS = "model.safetensors"
_ADVICE = "Fetch the folder again."


def is_model(folder: Path) -> bool:
    """Whether `folder` is one that `read_folder` takes."""
    names = (INDEX, "unet", SCHEDULER_FILE, OWN_WEIGHTS, *WEIGHTS)
    return os.path.isdir(folder) and any(os.path.lexists(folder / name) for name in names)


def read_folder(folder: Path, overrides: Overrides = ()) -> tuple[Published, Settings, str]:
    """(content, our settings with the overrides, where they are from) of a model.

    It is a pipeline of diffusers, with the folders unet and scheduler; the same files side by side,
    as older pipelines are; or what `write_model` writes where diffusers has no such model.

    Raises:
        UserError: a file is missing or damaged, or says what has no counterpart here.
    """
    own = os.path.lexists(folder / OWN_WEIGHTS)
    published, found, origin = (_own if own else _diffusers)(folder)
    found = configurations.override(found, overrides)
    check_extent(found)
    return published, found, str(origin)


def _own(folder: Path) -> tuple[Published, Settings, Path]:
    path = folder / UNET_FILE
    with followed(path):
        settings = configurations.load_json(path)
    return _published("safetensors", *_read_weights(folder / OWN_WEIGHTS)), settings, path


def _diffusers(folder: Path) -> tuple[Published, Settings, Path]:
    if os.path.lexists(folder / INDEX):
        _read(folder / INDEX, {family.pipeline: {} for family in FAMILIES})
    inner = folder / "unet" if (folder / "unet").is_dir() else folder
    place = folder / "scheduler" if (folder / "scheduler").is_dir() else folder
    path, plan = inner / UNET_FILE, place / SCHEDULER_FILE
    unet = _read(path, {"UNet2DModel": UNET})
    with named(path):
        family, changes = of_unet(unet)
    scheduler = _read(plan, {family.scheduler: SCHEDULER for family in FAMILIES})
    with named(plan):
        for section, entries in of_scheduler(scheduler, family).items():
            changes.setdefault(section, {}).update(entries)
    arrays, texts = _weights(inner)
    today: dict[str, np.ndarray] = {}
    for name, array in arrays.items():
        if not np.array_equal(today.setdefault(newer(name), array), array, equal_nan=True):
            raise UserError(f"{inner} holds {newer(name)} twice, with different numbers")
    with named(path), followed(path):
        settings = with_original(configurations.load(f"{family.recipe}:folder"), changes)
    name = folder.resolve().name or settings.name
    return _published("diffusers", today, texts), dataclasses.replace(settings, name=name), path


def _published(code: str, arrays: Mapping[str, np.ndarray], texts: Mapping[str, str]) -> Published:
    text = texts.get("step", "")
    step = int(text) if text.isdecimal() and len(text) < 10 else None
    return Published(code, "torch", arrays, arrays, step, averaged=False)


def _weights(folder: Path) -> tuple[Mapping[str, np.ndarray], Mapping[str, str]]:
    for name in WEIGHTS:
        if os.path.lexists(folder / name):
            return _read_weights(folder / name)
    if parts := sorted(path.name for path in folder.glob("*.index.json")):
        raise UserError(
            f"{folder / parts[0]}: the weights are in several files, which is not read here; save "
            "them in one, with save_pretrained(..., max_shard_size='100GB')"
        )
    raise UserError(f"{folder} holds no weights: {' or '.join(WEIGHTS)} is missing. {_ADVICE}")


def _read_weights(path: Path) -> tuple[Mapping[str, np.ndarray], Mapping[str, str]]:
    container, content = read_file(path)
    with named(path):
        if container == "safetensors":
            arrays, texts = content
            return named_arrays(arrays), texts
        found = recognize(container, content, path)
        if found.format != "torch":
            raise UserError(f"a file of flax, not of PyTorch. {_ADVICE}")
        return found.params, {}


def _read(path: Path, kinds: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The document at `path`, whose _class_name must be one of `kinds`, checked by what it says."""
    if kind := kind_of(path):
        raise UserError(f"{path} is {kind}. {_ADVICE}")
    name = read_document(path, {"_class_name": str}, _ADVICE)["_class_name"]
    if name not in kinds:
        raise UserError(
            f"{path}: its _class_name is {name!r:.100}; only {' or '.join(kinds)} is here"
        )
    return read_document(path, kinds[name], _ADVICE)


@contextlib.contextmanager
def named(path: Path) -> Iterator[None]:
    """Puts the name of a file in front of what is wrong with it."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
