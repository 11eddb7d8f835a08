"""Where the metrics of a run are shown besides `metrics.jsonl`: TensorBoard and others, by name."""

import importlib
import os
import re
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np

from score_sde.errors import UserError
from score_sde.files import write_bytes


class Tracker(Protocol):
    """Takes what a run has to show. Made of the run's folder and the last step that was shown."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Show values of a step."""

    def image(self, step: int, name: str, picture: np.ndarray) -> None:
        """Show a picture (height, width, 3), uint8."""

    def close(self) -> None:
        """Write what is left."""


Track = Callable[[Path, int], Tracker]
"""What makes a tracker of a run's folder and its step."""


class TensorBoard:
    """Event files in `tensorboard/` of the folder."""

    def __init__(self, folder: Path, step: int):
        from tensorboardX import SummaryWriter

        begin = step + 1 if step else None  # later ones are of a run that was killed
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=begin)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Show values of a step."""
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def image(self, step: int, name: str, picture: np.ndarray) -> None:
        """Show a picture (height, width, 3), uint8."""
        self._board.add_image(name, picture, step, dataformats="HWC")

    def close(self) -> None:
        """Write what is left."""
        self._board.close()


class WeightsAndBiases:
    """A run of wandb, which its own variables steer: WANDB_PROJECT, WANDB_ENTITY, WANDB_MODE.

    A resumed run goes on in the same one. Its axis is `step`, as wandb refuses steps that come
    again. `options` are those of `wandb.init`.
    """

    def __init__(self, folder: Path, step: int, **options: Any):
        self._package = package("wandb")
        self._run = _begun(
            "wandb",
            self._package.init,
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=folder.name,
            id=_identity(folder),
            resume="allow",
            dir=str(folder),
            **options,
        )
        self._run.define_metric("*", step_metric="step")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Show values of a step."""
        self._run.log({"step": step, **values})

    def image(self, step: int, name: str, picture: np.ndarray) -> None:
        """Show a picture (height, width, 3), uint8."""
        self._run.log({"step": step, name: self._package.Image(picture)})

    def close(self) -> None:
        """Write what is left."""
        self._run.finish()


class Trackio:
    """A run of trackio, whose database TRACKIO_DIR names; it needs no network.

    The project is TRACKIO_PROJECT, or score_sde. `options` are those of `trackio.init`.
    """

    def __init__(self, folder: Path, step: int, **options: Any):
        self._package = package("trackio")
        self._run = _begun(
            "trackio",
            self._package.init,
            project=os.environ.get("TRACKIO_PROJECT", PROJECT),
            name=f"{folder.name}-{_identity(folder)[:8]}",
            resume="allow",
            embed=False,
            **options,
        )

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Show values of a step."""
        self._run.log(dict(values), step=step)

    def image(self, step: int, name: str, picture: np.ndarray) -> None:
        """Show a picture (height, width, 3), uint8."""
        self._run.log({name: self._package.Image(picture)}, step=step)

    def close(self) -> None:
        """Write what is left."""
        self._run.finish()


PROJECT = "score_sde"
"""Where no variable names a project."""
TRACKERS: dict[str, Callable[..., Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "trackio": Trackio,
}
"""By the name in config.training.tracker."""


def package(name: str) -> ModuleType:
    """An optional package.

    Raises:
        UserError: it cannot be imported.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f"config.training.tracker={name} needs the package {name}, which cannot be imported "
            f'({error}). Install it: pip install "score_sde[{name}]", or leave the entry out.'
        ) from error


def _begun(tracker: str, init: Callable[..., Any], **options: Any) -> Any:
    try:
        return init(**options)
    except Exception as error:  # of any kind: a key, a network, a folder
        offline = " WANDB_MODE=offline needs no network." if tracker == "wandb" else ""
        raise UserError(
            f"config.training.tracker={tracker} could not begin ({type(error).__name__}: {error})."
            f"{offline} config.training.tracker=tensorboard needs nothing."
        ) from error


def _identity(folder: Path) -> str:
    """Of the run, for services that keep runs elsewhere; it is made once and stays in the folder.

    Raises:
        UserError: the file that has it holds something else.
    """
    path = folder / "tracker_id.txt"
    if not path.exists():
        write_bytes(path, uuid.uuid4().hex.encode())
    found = path.read_text(errors="replace").strip()
    if not re.fullmatch("[0-9a-f]{32}", found):
        raise UserError(f"{path} is damaged. Remove it; the run is then a new one in its tracker.")
    return found
