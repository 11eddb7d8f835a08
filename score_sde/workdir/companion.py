"""What is trained beside a score model and lies in a folder of its run: a dequantizer, say.

The folder has settings.json, which says what its owner depends on, and checkpoints of its own.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from score_sde.build.data import training_batches
from score_sde.build.settings import Settings, to_dict
from score_sde.build.task import loop_settings
from score_sde.data import Source
from score_sde.devices import leads, say
from score_sde.errors import UserError, command, quoted
from score_sde.training.checkpoint import Checkpoints
from score_sde.training.loop import Loop
from score_sde.training.state import TrainState
from score_sde.training.step import Task, Trainer, state_like
from score_sde.workdir import config as configurations
from score_sde.workdir.documents import read_document, write_document
from score_sde.workdir.folder import IN_RUN
from score_sde.workdir.lock import hold
from score_sde.workdir.objects import heldout_loss
from score_sde.workdir.run import Run, restore

LIKE = {"classes?": int, "score_checkpoint?": (int, str), "score_weights?": str}
"""What is needed of settings.json."""


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
            write_document(path, dict(mine))
        return
    there, mine = _read(path), json.loads(json.dumps(dict(mine)))  # tuples: lists
    listed = [
        f"{k}: {there[k]!r} there, {v!r} here" for k, v in mine.items() if there.get(k, v) != v
    ]
    if listed:
        raise UserError(
            f"{folder} belongs to another {folder.name} ({'; '.join(listed)}). Go on "
            f"{advice.format(**(dict(mine) | there))}, or move the folder away to train one anew."
        )


def train(
    run: Run,
    name: str,
    fit: tuple[Task, Trainer],
    sources: tuple[Source, Source],
    mine: Mapping[str, Any],
    advice: str,
) -> TrainState:
    """Train the companion `name` to the end, in its folder of the run; its last state.

    Where nothing is left to train it says so.

    Args:
        run: of the score model; the section `name` has batch size, steps and intervals.
        name: of the companion.
        fit: its task and trainer.
        sources: training and held-out images.
        mine, advice: see `claim`.

    Raises:
        Stopped: by a signal; the same call goes on from there.
    """
    (task, trainer), section = fit, getattr(run.settings, name)
    run.place.check_divisible(f"config.{name}.batch_size", section.batch_size)
    run.place.check_divisible("config.eval.batch_size", run.settings.eval.batch_size)
    folder, keys = run.folder / name, run.keys(name)
    hold(folder, advice=IN_RUN)
    claim(folder, mine, advice)
    batches = training_batches(run.experiment, sources[0], section.batch_size)
    loop = Loop(folder, trainer, task, loop_settings(section), batches, run.place)
    if not loop.begin(keys["init"], run.experiment.shape):
        say(
            f"{folder} has been trained for {loop.step} steps already; raise config.{name}.steps "
            "to go on."
        )
        return loop.state
    losses = heldout_loss(run, task, sources[1])
    loop.run(keys["train"], lambda params: losses(params, keys["eval"]))
    return loop.state


def settings_of(run: Run, name: str) -> dict[str, Any]:
    """What the companion `name` of a run depends on.

    Raises:
        UserError: there is none.
    """
    folder = run.folder / name
    if not Checkpoints(folder / "checkpoints", read_only=True).steps():
        train = command(f"--mode train_{name} --workdir {quoted(run.folder)}")
        raise UserError(f"{folder} holds no {name}; train one: {train}")
    return _read(folder / "settings.json")


def own_settings(run: Run, name: str) -> tuple[Settings, dict[str, Any]]:
    """(the settings of a run with those of its companion `name`, all that it depends on).

    Raises:
        UserError: there is none, or a value that its section cannot have.
    """
    there, whole = settings_of(run, name), run.settings.to_dict()
    own = {n: tuple(v) if isinstance(v, list) else v for n, v in there.items() if n in whole[name]}
    try:
        return configurations.of(whole | {name: whole[name] | own}), there
    except UserError as error:
        path = run.folder / name / "settings.json"
        raise UserError(f"{path} is damaged ({error}). {_again(path)}") from error


def _again(path: Path) -> str:
    return f"Restore it, or move {path.parent} away and train it anew."


def _read(path: Path) -> dict[str, Any]:
    """Like the settings that its owner wrote."""
    return read_document(path, LIKE, _again(path))


def state_of(run: Run, name: str, task: Task, trainer: Trainer) -> TrainState:
    """Its last train state."""
    like = state_like(task, trainer, run.experiment.shape, run.place)
    return restore(like, run.folder / name)
