"""Where the metrics of a run are shown besides `metrics.jsonl`: TensorBoard and others, by name."""

import os
import re
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np

from score_sde.errors import UserError, optional
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


class Service:
    """A run in a service that keeps runs elsewhere.

    run: of its package, begun. log: takes a step and values by name. picture: what makes a picture
    a value.
    """

    def __init__(
        self,
        run: Any,
        log: Callable[[int, Mapping[str, Any]], None],
        picture: Callable[[np.ndarray], Any],
    ):
        self._run, self._log, self._picture = run, log, picture

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Show values of a step."""
        self._log(step, values)

    def image(self, step: int, name: str, picture: np.ndarray) -> None:
        """Show a picture (height, width, 3), uint8."""
        self._log(step, {name: self._picture(picture)})

    def close(self) -> None:
        """Write what is left."""
        self._run.finish()


def weights_and_biases(folder: Path, step: int, **options: Any) -> Service:
    """A run of wandb, which its own variables steer: WANDB_PROJECT, WANDB_ENTITY, WANDB_MODE.

    A resumed run goes on in the same one. Its axis is `step`, as wandb refuses steps that come
    again. `options` are those of `wandb.init`.
    """
    wandb = package("wandb")
    run = _begun(
        "wandb",
        wandb.init,
        project=os.environ.get("WANDB_PROJECT", PROJECT),
        name=folder.resolve().name,
        id=_identity(folder),
        resume="allow",
        dir=str(folder),
        **options,
    )
    run.define_metric("*", step_metric="step")
    return Service(run, lambda step, values: run.log({"step": step, **values}), wandb.Image)


def trackio(folder: Path, step: int, **options: Any) -> Service:
    """A run of trackio, whose database TRACKIO_DIR names; it needs no network.

    The project is TRACKIO_PROJECT, or score_sde. `options` are those of `trackio.init`.
    """
    module = package("trackio")
    run = _begun(
        "trackio",
        module.init,
        project=os.environ.get("TRACKIO_PROJECT", PROJECT),
        name=f"{folder.resolve().name}-{_identity(folder)[:8]}",
        resume="allow",
        embed=False,
        **options,
    )
    return Service(run, lambda step, values: run.log(dict(values), step=step), module.Image)


PROJECT = "score_sde"
"""Where no variable names a project."""
TRACKERS: dict[str, Callable[..., Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": weights_and_biases,
    "trackio": trackio,
}
"""By the name in config.training.tracker."""


def package(name: str) -> ModuleType:
    """The package of a tracker; raises UserError where it cannot be imported."""
    instead = ", or leave the entry out"
    return optional(name, name, f"config.training.tracker={name}", instead)


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
