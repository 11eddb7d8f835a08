"""Bits/dim of a checkpoint, row by row into a folder that survives a kill."""

from pathlib import Path

import numpy as np
from jaxtyping import PyTree

from score_sde.build.likelihood import build_likelihood
from score_sde.build.settings import depends
from score_sde.data import fingerprint
from score_sde.devices import leads, say
from score_sde.errors import UserError, command, quoted
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
    section, experiment = run.settings.eval, run.experiment
    source = run.source(train=section.split == "train")
    run.place.check_divisible("config.eval.batch_size", section.batch_size)
    ode, bound = build_likelihood(section, experiment.process, experiment.shape)
    dequantizer, used = make_dequantizer(run)
    images = min(section.num_examples or len(source), len(source))
    mine = np.arange(images)[shard[0] :: shard[1]]
    if not len(mine):
        raise UserError(f"shard {shard[0]}/{shard[1]} is empty: there are {images} images")
    pixels, score_fn = experiment.pixel_range, experiment.model.score_fn
    size = min(section.batch_size, run.place.round_up(len(mine)))
    evaluator = Evaluator(score_fn, source, pixels, run.place, size, ode, bound, dequantizer)
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
