"""The second-order score of a run: whose it is, and what covariances are made with."""

import dataclasses
from typing import Any, NamedTuple

from jaxtyping import PyTree

from score_sde.build.second_order import build_second_order, noise_levels
from score_sde.build.settings import Settings
from score_sde.errors import UserError
from score_sde.training.checkpoint import Checkpoints
from score_sde.training.second_order import SecondOrderMatching
from score_sde.workdir.companion import own_settings, state_of, trained_with
from score_sde.workdir.run import Run
from score_sde.workdir.which import Phema, Which, parse, weights_checksum

FOLDER = "second_order"


class SecondOrder(NamedTuple):
    """A trained one: its task, averaged weights, step, and what it was trained for.

    score: weights of the score that was trained with it, None where that stayed as it was.
    checkpoint: of the score model. noise: its least and largest sigma/alpha. weights: checksum of
    the checkpoint, None where an older version trained it.
    """

    task: SecondOrderMatching
    params: PyTree
    step: int
    checkpoint: int | str
    noise: tuple[float, float]
    score: PyTree | None = None
    weights: str | None = None


def checkpoint_name(step: Which) -> int | str:
    """A checkpoint of the score model, as settings.json has it."""
    return str(step) if isinstance(step, Phema) else step


def second_order_settings(settings: Settings, step: Which) -> dict[str, Any]:
    """What a second-order score depends on.

    Its section but for length and intervals, how it is trained, and for which checkpoint.
    """
    own = trained_with(settings, settings.second_order)
    return {"score_checkpoint": checkpoint_name(step)} | own


def fitting(
    second: SecondOrder,
    score: tuple[Which, PyTree],
    noise: tuple[float, float],
    instead: str,
) -> SecondOrder:
    """The same, where it was trained for this checkpoint and noise from `noise[0]` to `noise[1]`.

    `score` is the checkpoint and its weights. `instead` is what to do otherwise.

    Raises:
        UserError: it was not.
    """
    step, params = score
    if second.checkpoint != checkpoint_name(step):
        raise UserError(
            f"the second-order score was trained for checkpoint {second.checkpoint}, not {step}; "
            f"add --checkpoint {second.checkpoint}, or {instead}"
        )
    if second.weights not in (None, weights_checksum(params)):  # older versions have None
        raise UserError(
            f"the second-order score was trained for other weights than checkpoint {step} has now. "
            f"Move {FOLDER}/ away and train one anew, or {instead}"
        )
    low, high = second.noise
    if not (low * 0.999 <= noise[0] and noise[1] <= high * 1.001):
        asked = f"{noise[0]:.4g}" if noise[0] == noise[1] else f"{noise[0]:.4g} .. {noise[1]:.4g}"
        raise UserError(
            f"noise {asked} is asked for, but the second-order score was trained for noise in "
            f"[{low:.4g}, {high:.4g}]; take such noise, or {instead}"
        )
    return second


def has_second_order(run: Run) -> bool:
    """Whether one has been trained."""
    return bool(Checkpoints(run.folder / FOLDER / "checkpoints", read_only=True).steps())


def make_second_order(run: Run) -> SecondOrder:
    """The second-order score in the run's folder.

    Its own settings count, whatever config.second_order says.

    Raises:
        UserError: there is none.
    """
    settings, there = own_settings(run, FOLDER)
    experiment = dataclasses.replace(run.experiment, settings=settings)
    began = ()
    if settings.second_order.gamma:  # their shapes are part of the state
        began = run.weights(parse(str(there["score_checkpoint"]), run.folder))[0]
    task, trainer = build_second_order(experiment, began)
    state = state_of(run, FOLDER, task, trainer)
    params = state.averages[0]
    noise = noise_levels(settings.second_order, experiment.process)
    score = task.score_of(params) if task.joint else None
    checkpoint, weights = there["score_checkpoint"], there.get("score_weights")
    return SecondOrder(task, params, int(state.step), checkpoint, noise, score, weights)
