"""What is trained beside a score model and lies in a folder of its run: dequantizer, classifier.

The folder has settings.json, which says what its owner depends on, and checkpoints of its own.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from score_sde.build.settings import Settings, to_dict
from score_sde.devices import leads
from score_sde.errors import UserError, command, quoted
from score_sde.files import write_json
from score_sde.training.checkpoint import Checkpoints
from score_sde.training.state import TrainState
from score_sde.training.step import Task, Trainer
from score_sde.workdir.run import Run, restore, state_like


def trained_with(settings: Settings, section: Any) -> dict[str, Any]:
    """How a companion is trained: its section but for length and intervals, and what it shares."""
    own = to_dict(section).items()
    kept = {name: v for name, v in own if name != "steps" and not name.endswith("_every")}
    names = ("ema_rate", "ema_warmup", *(["averages"] if settings.training.averages else []))
    training = {name: getattr(settings.training, name) for name in names}
    optim = {name: value for name, value in to_dict(settings.optim).items() if name != "lr"}
    return {"seed": settings.seed} | kept | training | optim


def claim(folder: Path, mine: Mapping[str, Any], advice: str) -> None:
    """Make the folder the owner's of these settings.

    Args:
        folder: its name is what lies in it.
        mine: what it depends on.
        advice: with what it is gone on, "with its settings"; {name} stands for a setting there.

    Raises:
        UserError: it belongs to another.
    """
    path = folder / "settings.json"
    if not path.exists():
        if leads():
            write_json(path, dict(mine))
        return
    there = json.loads(path.read_text())
    listed = [
        f"{k}: {there[k]!r} there, {v!r} here" for k, v in mine.items() if there.get(k, v) != v
    ]
    if listed:
        raise UserError(
            f"{folder} belongs to another {folder.name} ({'; '.join(listed)}). Go on "
            f"{advice.format(**there)}, or move the folder away to train one anew."
        )


def settings_of(run: Run, name: str) -> dict[str, Any]:
    """What the companion `name` of a run depends on.

    Raises:
        UserError: there is none.
    """
    folder = run.folder / name
    if not Checkpoints(folder / "checkpoints", read_only=True).steps():
        train = command(f"--mode train_{name} --workdir {quoted(run.folder)}")
        raise UserError(f"{folder} holds no {name}; train one: {train}")
    return json.loads((folder / "settings.json").read_text())


def state_of(run: Run, name: str, task: Task, trainer: Trainer) -> TrainState:
    """Its last train state."""
    like = state_like(task, trainer, run.experiment.shape, run.place)
    return restore(like, run.folder / name)
