"""The dequantizer of a run: whose it is, and what evaluates with it."""

import dataclasses
from typing import Any

from score_sde.build.dequantizer import build_dequantizer
from score_sde.build.settings import Settings
from score_sde.likelihood import Dequantizer, Uniform, Variational
from score_sde.workdir.companion import own_settings, state_of, trained_with
from score_sde.workdir.run import Run
from score_sde.workdir.which import Phema, Which


def dequantizer_settings(settings: Settings, step: Which) -> dict[str, Any]:
    """What a dequantizer depends on.

    Its section but for length and intervals, how it is trained, and on which checkpoint.
    """
    checkpoint = str(step) if isinstance(step, Phema) else step
    return {"score_checkpoint": checkpoint} | trained_with(settings, settings.dequantizer)


def make_dequantizer(run: Run) -> tuple[Dequantizer, dict[str, Any]]:
    """What config.eval.dequantization asks for, and what rows depend on through it.

    A trained dequantizer gives a bound with every score model, tightest with the one it was trained
    for. Its own settings count, whatever config.dequantizer says; rows keep them, and its step.
    """
    if run.settings.eval.dequantization == "uniform":
        return Uniform(), {}
    settings, there = own_settings(run, "dequantizer")
    experiment = dataclasses.replace(run.experiment, settings=settings)
    task, trainer = build_dequantizer(experiment, params=())
    state = state_of(run, "dequantizer", task, trainer)
    used = {"dequantizer": there | {"step": int(state.step)}}
    levels = experiment.pixel_range.levels
    return Variational(state.averages[0], task.flow, levels), used
