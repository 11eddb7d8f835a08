"""The checkpoint whose samples are nearest to the training images; then --checkpoint best."""

import dataclasses
import functools
from collections.abc import Sequence

from score_sde.devices import leads
from score_sde.errors import UserError
from score_sde.files import writing
from score_sde.workdir import measurements
from score_sde.workdir.folder import IN_RUN
from score_sde.workdir.jobs import attempt, checkpoint_steps, raise_failed
from score_sde.workdir.measure import measure
from score_sde.workdir.run import Run

PUBLISHED_SELECTION = 1000
"""Samples of each checkpoint (B.3.2)."""


def main(run: Run, checkpoint: Sequence[str] = ("all",)) -> None:
    """Compare config.sampling.num_samples samples of every checkpoint, with the same noise.

    The comparison is by Frechet distance (B.3.2, B.4.1). `checkpoint` may name some, as on the
    command line, averages made of snapshots too.
    """
    there = run.checkpoints().steps()
    if not there:
        raise UserError(f"{run.folder} holds no checkpoints to choose from; train first")
    number = run.settings.sampling.num_samples
    if number < 2:
        raise UserError(
            f"--mode select needs config.sampling.num_samples of 2 or more; got {number}"
        )
    settings = run.settings.change("quality", num_samples=number)
    experiment = dataclasses.replace(run.experiment, settings=settings)
    run = dataclasses.replace(run, settings=settings, experiment=experiment)
    steps = checkpoint_steps(checkpoint, run.folder)
    jobs = {f"checkpoint {step}": functools.partial(measure, run, step, ["fid"]) for step in steps}
    done, failed = attempt(jobs)
    if done and leads():
        with writing(run.folder / "eval", IN_RUN):
            rows = [row for rows in done.values() for row in rows]
            measurements.choose(run.folder, rows, there)
        if number < PUBLISHED_SELECTION:
            print(
                f"{number} samples each tell little; published: {PUBLISHED_SELECTION} "
                "(--config.sampling.num_samples)"
            )
    raise_failed(failed, len(jobs))
