"""The objects of a run made ready to use: what draws, encodes and evaluates, over its devices."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import PyTree

from score_sde.arrays import ScoreFn
from score_sde.build.data import heldout_batches
from score_sde.build.likelihood import build_flow
from score_sde.build.settings import depends
from score_sde.conditioning import Condition, unconditional
from score_sde.data import Source
from score_sde.errors import UserError
from score_sde.parallel.codec import Codec
from score_sde.parallel.heldout import HeldoutLoss
from score_sde.parallel.levels import IMAGES, LevelLosses, Levels, level_times
from score_sde.parallel.loop import progress
from score_sde.parallel.samples import Generator
from score_sde.training.step import Task
from score_sde.workdir.run import Run
from score_sde.workdir.which import Which, record_of

PREVIEW = 64
"""Images in a grid of samples."""


def make_generator(
    run: Run,
    batch_size: int,
    condition: Condition = unconditional,
    score_fn: Callable[[PyTree, PyTree], ScoreFn] | None = None,
) -> Generator:
    """The run's sampler over its devices.

    `score_fn` (params, given) stands in for the model's score, which nothing is given to.

    Raises:
        UserError: a corrector that takes more than the model's score.
    """
    experiment = run.experiment
    if experiment.settings.sampling.corrector == "ozaki" and score_fn is None:
        raise UserError(
            "config.sampling.corrector=ozaki is for --mode sample, eval and select, which take the "
            "second-order score of the run beside it; take another corrector, like langevin"
        )
    return Generator(
        experiment.sampler,
        score_fn or (lambda params, given: experiment.model.score_fn(params)),
        experiment.shape,
        experiment.pixel_range,
        run.place,
        batch_size,
        condition,
    )


def check_finite(images: np.ndarray, folder: Path) -> None:
    """Raises UserError where images are not finite; then nothing is written to `folder`."""
    bad = int((~np.isfinite(images)).any(axis=(1, 2, 3)).sum())
    if bad:
        raise UserError(
            f"{bad} of {len(images)} samples are not finite, so nothing was written to {folder}; "
            "try a smaller config.sampling.snr."
        )


def make_codec(run: Run) -> Codec:
    """The probability-flow ODE, solved as config.eval says, on images as the run was trained on."""
    return run.once("codec", lambda: _make_codec(run))


def _make_codec(run: Run) -> Codec:
    size, experiment = run.settings.eval.batch_size, run.experiment
    run.place.check_divisible("config.eval.batch_size", size)
    return Codec(
        build_flow(run.settings.eval, experiment.process),
        experiment.model.score_fn,
        experiment.pixel_range,
        run.settings.data.dequantize,
        run.place,
        size,
    )


def solved_with(run: Run, step: Which) -> dict[str, Any]:
    """What a result of the probability flow depends on."""
    return record_of(step) | depends(run.settings.eval, "flow")


def heldout_loss(run: Run, task: Task, source: Source) -> HeldoutLoss:
    """The loss of a task on the part of `source` that config.eval says."""
    section = run.settings.eval
    batches = heldout_batches(run.experiment, source, task is run.experiment.task)
    images = min(section.num_examples or len(source), len(source))
    return HeldoutLoss(task, batches, run.place, images, section.passes)


def level_losses(run: Run, params: PyTree, sources: tuple[Source, Source]) -> Levels:
    """Losses per noise level of training images and as many held-out images.

    As many of each as config.eval says, up to 256. `sources`: of training, held out.
    """
    section, experiment = run.settings.eval, run.experiment
    count = min(section.num_examples or IMAGES, IMAGES, *map(len, sources))
    losses = LevelLosses(
        experiment.model.score_fn,
        experiment.process,
        experiment.pixel_range,
        run.place,
        section.batch_size,
        run.settings.data.dequantize,
    )
    total = 2 * count * len(level_times(experiment.process))
    title = "losses per noise level"
    with progress(total, "loss", title) as bar:
        update: Callable[[int], Any] = bar.update
        key = run.keys()["eval"]
        return losses.compare(params, key, sources, count, update=update)
