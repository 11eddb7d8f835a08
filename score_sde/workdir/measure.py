"""What is measured of a checkpoint: a table of measures, each of which makes rows.

A measure of samples is a row of `metrics.measures.MEASURES`; the others are rows of `OWN` here.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import PyTree

from score_sde.build.settings import depends
from score_sde.devices import leads, say
from score_sde.errors import UserError
from score_sde.files import writing
from score_sde.metrics.measures import MEASURES
from score_sde.workdir import levels, measurements
from score_sde.workdir.bits import evaluate_bits
from score_sde.workdir.folder import IN_RUN, check_writable
from score_sde.workdir.likelihoods import bits_rows
from score_sde.workdir.lock import hold
from score_sde.workdir.measurements import Row
from score_sde.workdir.objects import heldout_loss, level_losses
from score_sde.workdir.quality import make_quality, measure_samples
from score_sde.workdir.run import Run
from score_sde.workdir.which import Which, in_name, weights_checksum


def measure(run: Run, checkpoint: Which | None, names: Sequence[str]) -> list[Row]:
    """Rows of a checkpoint's averaged weights; each is written as soon as it is known.

    loss: on held-out images. levels: the loss at each noise level, on training and held-out images
    (eval/levels_step_N.json). bits: bits/dim of config.eval.split, as --mode likelihood; of several
    processes the first alone has these rows. Others: of config.quality.num_samples samples.

    Raises:
        UserError: what a measure needs is not there, or a result is not finite.
    """
    folder = run.folder / "eval"
    check_writable(folder, IN_RUN)
    params, step = run.weights(checkpoint)
    hold(folder / f"step_{in_name(step)}", advice=IN_RUN)
    run.place.check_divisible("config.eval.batch_size", run.settings.eval.batch_size)
    wanted = [name for name in names if name in MEASURES]
    quality = make_quality(run, wanted) if wanted else None  # may lack files
    rows: list[Row] = []
    weights = weights_checksum(params)

    def keep(found: list[Row]) -> None:  # at once: what comes after may fail
        rows.extend(found)
        if found and leads():
            with writing(folder, IN_RUN):
                measurements.record(run.folder, step, found, weights)
            for row in found:
                print(f"checkpoint {step}: {measurements.line(row)}")

    for name, make in OWN.items():
        if name in names:
            keep(make(run, params, step))
    if quality:
        with writing(folder, IN_RUN):
            measured, how = measure_samples(run, quality, params, step)
        keep([{"metric": name, **values, "how": how} for name, values in measured.items()])
    return rows


def _loss(run: Run, params: PyTree, step: Which) -> list[Row]:
    source, training = run.source(train=False), run.settings.training
    losses = heldout_loss(run, run.experiment.task, source)(params, run.keys()["eval"])
    images = losses.mean(axis=0)
    bad = int((~np.isfinite(images)).sum())
    if bad:
        raise UserError(
            f"the held-out loss of {bad} of {len(images)} images at checkpoint {step} is not "
            "finite: the weights give no usable score there. Try another --checkpoint, or "
            "config.model.dtype=float32."
        )
    how = {name: getattr(training, name) for name in ("times", "likelihood_weighting")}
    how |= {"images": len(images), "passes": len(losses)}
    row: Row = {"metric": "loss", "value": float(images.mean()), "how": how}
    if len(images) > 1:
        row["standard_error"] = float(images.std(ddof=1) / math.sqrt(len(images)))
    return [row]


def _levels(run: Run, params: PyTree, step: Which) -> list[Row]:
    found = level_losses(run, params, (run.source(train=True), run.source(train=False)))
    about: dict[str, Any] = {"images": len(found.train), "seed": run.settings.seed}
    about |= {"weights": weights_checksum(params)}
    if leads():
        with writing(run.folder / "eval", IN_RUN):
            path = levels.save_levels(run.folder, step, found.rows(), about)
        say(f"checkpoint {step}: losses per noise level: {path}")
    return []


def _bits(run: Run, params: PyTree, step: Which) -> list[Row]:
    folder, section = evaluate_bits(run, params, step), run.settings.eval
    if not leads():  # the summary is the leading process's
        return []
    how = depends(section, "likelihood") | {
        name: getattr(section, name) for name in ("split", "dequantization")
    }
    del how["bits_tol"]
    return bits_rows(folder, how)


OWN: dict[str, Callable[[Run, PyTree, Which], list[Row]]] = {
    "loss": _loss,
    "levels": _levels,
    "bits": _bits,
}
"""Measures that are not of samples."""
