"""Bits/dim of a checkpoint, row by row into a folder that survives a kill."""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import PyTree

from score_sde.build.likelihood import build_likelihood
from score_sde.build.settings import depends
from score_sde.data import ArraySource, Source, fingerprint
from score_sde.data.inputs import Inputs
from score_sde.devices import leads, say
from score_sde.errors import UserError, command, quoted
from score_sde.likelihood.summary import summarize_image
from score_sde.parallel.bits import Evaluator
from score_sde.parallel.loop import progress
from score_sde.workdir.dequantizer import make_dequantizer
from score_sde.workdir.folder import IN_RUN
from score_sde.workdir.likelihoods import (
    check_solved,
    likelihood_folder,
    rows_name,
    save_likelihood,
)
from score_sde.workdir.lock import hold
from score_sde.workdir.rows import Pieces
from score_sde.workdir.run import Run
from score_sde.workdir.which import Which, average_of, weights_checksum


def evaluate_bits(run: Run, params: PyTree, step: Which, shard: tuple[int, int] = (0, 1)) -> Path:
    """Bits/dim of the images of config.eval.split, under eval/likelihood_SPLIT_step_N/.

    A killed evaluation goes on where it stopped. Shard (i, n) evaluates the images i, i + n,
    i + 2n, ...; noise and probes do not depend on batch size, devices or shards, so the rows agree
    to the solver's tolerance. Without shards the summary and its pictures are written in the end.
    """
    section, pixels = run.settings.eval, run.experiment.pixel_range
    source = run.source(train=section.split == "train")
    run.place.check_divisible("config.eval.batch_size", section.batch_size)
    images = min(section.num_examples or len(source), len(source))
    mine = np.arange(images)[shard[0] :: shard[1]]
    if not len(mine):
        raise UserError(f"shard {shard[0]}/{shard[1]} is empty: there are {images} images")
    evaluator, used = _evaluator(run, source, len(mine))
    settings = depends(section, "likelihood") | {"dtype": run.settings.model.dtype} | used
    settings |= {"seed": run.settings.seed, "images": images, "source": fingerprint(source)}
    settings |= average_of(step) | {"weights": weights_checksum(params)}
    folder = likelihood_folder(run.folder, rows_name(section), step)
    hold(folder, shard, IN_RUN)
    pieces = Pieces(folder, settings)

    todo = [pieces.missing(mine, number) for number in range(section.passes)]
    total = len(mine) * section.passes
    done = total - sum(map(len, todo))
    with progress(total, "image", done=done) as bar:
        for number, missing in enumerate(todo):
            for rows in evaluator(params, run.keys()["eval"], missing, number):
                check_solved(rows, pieces.folder)
                if leads():
                    pieces.write(rows)
                bar.update(len(rows["index"]))
    if shard[1] > 1:
        again = command(f"--mode summarize --workdir {quoted(run.folder)}")
        say(f"shard {shard[0]}/{shard[1]} done; when all are: {again}")
    elif leads():
        save_likelihood(pieces, source, pixels, (images, section.passes), step)
    return pieces.folder


def _evaluator(run: Run, source: Source, count: int) -> tuple[Evaluator, dict[str, Any]]:
    """What evaluates `count` images of a source as config.eval says, and its dequantizer."""
    section, experiment = run.settings.eval, run.experiment
    ode, bound = build_likelihood(section, experiment.process, experiment.shape)
    dequantizer, used = make_dequantizer(run)
    pixels, score_fn = experiment.pixel_range, experiment.model.score_fn
    size = min(section.batch_size, run.place.round_up(count))
    made = Evaluator(score_fn, source, pixels, run.place, size, ode, bound, dequantizer)
    return made, used


def image_bits(run: Run, given: Inputs, checkpoint: Which | None = None) -> list[dict[str, float]]:
    """Bits/dim of each of some images, of config.eval.passes draws of its dequantization.

    "mean", "standard_error" (of that mean, by the spread of the passes), "passes" and "nfe".

    Raises:
        UserError: a discrete chain, or an ODE that cannot be solved.
    """
    params, _ = run.weights(checkpoint)
    passes, levels = run.settings.eval.passes, run.experiment.pixel_range.levels
    repeated = given.values.repeat(passes, axis=0)  # each has a draw of its own, in one program
    source = ArraySource(repeated, given.labels.repeat(passes), levels, "given images")
    made = run.once(("bits", len(repeated)), lambda: _evaluator(run, source, len(repeated))[0])
    evaluator, numbers = made.reading(source), np.arange(len(repeated))
    parts: list[dict[str, np.ndarray]] = []
    with progress(len(repeated), "pass", "likelihood") as bar:
        for rows in evaluator(params, run.keys()["eval"], numbers, 0):
            parts.append(rows)
            bar.update(len(rows["index"]))
    rows = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    if not np.isfinite(rows["bits_per_dim"]).all() or not rows["success"].all():
        raise UserError(
            "the ODE of an image could not be solved, so there is no likelihood of it; try larger "
            "config.eval.rtol and atol"
        )
    owner = numbers // passes
    return [
        summarize_image(rows["bits_per_dim"][owner == i])
        | {"nfe": float(rows["nfe"][owner == i].mean())}
        for i in range(len(given.names))
    ]
