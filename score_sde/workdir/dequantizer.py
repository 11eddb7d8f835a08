"""The dequantizer of a run: whose it is, and what evaluates with it."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from score_sde.build.dequantizer import build_dequantizer
from score_sde.build.settings import Settings, to_dict
from score_sde.devices import leads
from score_sde.errors import UserError, command, quoted
from score_sde.files import write_json
from score_sde.likelihood import Dequantizer, Uniform, Variational
from score_sde.training.checkpoint import Checkpoints
from score_sde.workdir.run import Run, restore, state_like
from score_sde.workdir.which import Phema, Which


def dequantizer_settings(settings: Settings, step: Which) -> dict[str, Any]:
    """What a dequantizer depends on.

    Its section but for length and intervals, how it is trained, and on which checkpoint.
    """
    section = to_dict(settings.dequantizer)
    kept = {
        name: v for name, v in section.items() if name != "steps" and not name.endswith("_every")
    }
    names = ("ema_rate", "ema_warmup", *(["averages"] if settings.training.averages else []))
    training = {name: getattr(settings.training, name) for name in names}
    optim = {name: value for name, value in to_dict(settings.optim).items() if name != "lr"}
    checkpoint = str(step) if isinstance(step, Phema) else step
    return {"score_checkpoint": checkpoint, "seed": settings.seed} | kept | training | optim


def claim_dequantizer(folder: Path, settings: Settings, step: Which) -> None:
    """Make the folder this dequantizer's; raises UserError where it belongs to another."""
    path, mine = folder / "settings.json", dequantizer_settings(settings, step)
    if not path.exists():
        if leads():
            write_json(path, mine)
        return
    there = json.loads(path.read_text())
    listed = [
        f"{k}: {there[k]!r} there, {v!r} here" for k, v in mine.items() if there.get(k, v) != v
    ]
    if listed:
        raise UserError(
            f"{folder} belongs to another dequantizer ({'; '.join(listed)}). Go on with "
            f"--checkpoint {there['score_checkpoint']} and its settings, or move the folder away "
            "to train one anew."
        )


def make_dequantizer(run: Run) -> tuple[Dequantizer, dict[str, Any]]:
    """What config.eval.dequantization asks for, and what rows depend on through it.

    A trained dequantizer gives a bound with every score model, tightest with the one it was trained
    for. Its own settings count, whatever config.dequantizer says; rows keep them, and its step.
    """
    if run.settings.eval.dequantization == "uniform":
        return Uniform(), {}
    folder = run.folder / "dequantizer"
    if not Checkpoints(folder / "checkpoints", read_only=True).steps():
        train = command(f"--mode train_dequantizer --workdir {quoted(run.folder)}")
        raise UserError(f"{folder} holds no dequantizer; train one: {train}")
    there = json.loads((folder / "settings.json").read_text())
    names = {field.name for field in dataclasses.fields(run.settings.dequantizer)}
    own = {name: value for name, value in there.items() if name in names}
    experiment = dataclasses.replace(
        run.experiment, settings=run.settings.change("dequantizer", **own)
    )
    task, trainer = build_dequantizer(experiment, params=())
    like = state_like(task, trainer, experiment.shape, run.place)
    state = restore(like, folder)
    used = {"dequantizer": there | {"step": int(state.step)}}
    levels = experiment.pixel_range.levels
    return Variational(state.averages[0], task.flow, levels), used
