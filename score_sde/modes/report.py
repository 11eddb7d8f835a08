"""Write report.html: samples, losses, measurements, nearest training images, settings, versions."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from score_sde import __version__, viz
from score_sde.build.metrics import extractor_at_hand
from score_sde.devices import leads
from score_sde.errors import UserError, command, quoted
from score_sde.files import read_npz, write_bytes, writing
from score_sde.report import (
    Memorization,
    Report,
    environment,
    levels_section,
    memorization_section,
    uncertainty_section,
)
from score_sde.training import costs
from score_sde.workdir import measurements
from score_sde.workdir.documents import read_document
from score_sde.workdir.folder import IN_RUN, check_writable
from score_sde.workdir.inputs import some_images
from score_sde.workdir.levels import load_levels
from score_sde.workdir.lock import hold_file
from score_sde.workdir.run import Run
from score_sde.workdir.which import Phema, Which, average_of, in_name, step_of, weights_checksum

CALIBRATION: dict[str, Any] = {"noise": float, "curvature": str, "images": int, "weights?": str}
CALIBRATION |= {"calibration": {"whole": dict, "directions": [dict]}}
"""What is needed of calibration.json."""


def main(run: Run, checkpoint: Which | None = None) -> Path:
    """Make the page of a checkpoint whose samples have been drawn.

    Nearest images are sought in pixels, and in the features of config.quality.extractor where that
    is at hand.
    """
    step = checkpoint if isinstance(checkpoint, Phema) else run.checkpoints().choose(checkpoint)
    folder, path = run.folder / "samples" / f"step_{in_name(step)}", run.folder / "report.html"
    if not (folder / "samples.npz").exists():
        draw = command(f"--mode sample --workdir {quoted(run.folder)}")
        raise UserError(f"{folder} holds no samples; draw them first: {draw}")
    check_writable(run.folder, IN_RUN)
    hold_file(path, IN_RUN)
    samples = read_npz(folder / "samples.npz", ["images"])["images"]
    again = "Draw the samples again."
    how = read_document(folder / "sampling.json", {"evaluations": float, "weights?": str}, again)
    levels, uncertain = load_levels(run.folder, step), uncertainties(run, step)
    _check_weights(run, step, how, levels, [found for found, _ in uncertain])
    about = [f"{len(samples)} samples after {step_of(step)} training steps"]
    page = Report(run.settings.name, ", ".join([*about, *average_of(step).values()]))
    rows, pictures = _rows(run, step), {}
    _summary(page, run, step, rows, how["evaluations"])
    _samples(page, folder)
    if rows:
        curves = viz.loss_curves(rows)
        caption = "Training loss and held-out loss of the averaged weights."
        page.heading("Losses").picture(curves, caption, chart=True)
        pictures["loss_curves.png"] = curves
    measure = command(
        f"--mode eval --workdir {quoted(run.folder)} --checkpoint {step} "
        "--config.eval.metrics=levels"
    )
    levels_section(page, levels, measure)
    _measurements(page, run, step)
    uncertainty_section(page, uncertain)
    pictures["neighbors.png"] = _memorization(page, run, samples)
    made, new = quoted(run.folder / "config.json"), quoted(f"{run.folder}-again")
    page.heading("How it was made").command(
        command(f"--config {made} --mode train --workdir {new}")
    )
    settings = run.settings.to_dict() | {"sampling": how}
    page.table(environment() | {"score_sde": __version__}).settings(settings)
    if leads():
        with writing(run.folder, IN_RUN):
            for name, picture in pictures.items():
                write_bytes(run.folder / name, picture)
            page.write(path)
        print(f"report: {path}")
    return path


def _check_weights(
    run: Run,
    step: Which,
    samples: Mapping[str, Any],
    levels: Mapping[str, Any] | None,
    uncertain: Sequence[Mapping[str, Any]],
) -> None:
    """Raises UserError where what was made of a checkpoint is of other weights than it has."""
    weights = weights_checksum(run.weights(step)[0])
    made = {"samples": samples, "losses per noise level": levels or {}}
    made |= {f"uncertainties of noise {found['noise']:g}": found for found in uncertain}
    for name, how in made.items():
        if how.get("weights", weights) != weights:  # older versions do not say it
            raise UserError(
                f"the {name} in {run.folder} are of other weights than those that checkpoint {step}"
                " has now, since it was trained anew. Make them again: --mode sample, uncertainty, "
                "or eval with config.eval.metrics=levels"
            )
    measurements.check_weights(run.folder, step, weights)


def _rows(run: Run, step: Which) -> list[dict[str, Any]]:
    """Rows of metrics.jsonl up to a step; an imported run has none."""
    log = run.folder / "metrics.jsonl"
    rows = viz.read_metrics(log) if log.exists() else []
    return [row for row in rows if row["step"] <= step_of(step)]


def _summary(page: Report, run: Run, step: Which, rows: list[dict[str, Any]], nfe: int) -> None:
    experiment = run.experiment
    shapes = jax.eval_shape(lambda: experiment.task.init(jax.random.key(0), experiment.shape))

    def last(name: str) -> str:
        values = [row[name] for row in rows if row.get(name) is not None]
        return f"{values[-1]:.4g}" if values else "-"

    page.summary(
        {
            "training steps": f"{step_of(step):,}",
            "images seen": f"{step_of(step) * run.settings.training.batch_size:,}",
            "parameters": f"{costs.count(shapes):,}",
            "training loss": last("loss"),
            "held-out loss": last("eval_loss"),
            "evaluations per sample": nfe,
        }
    )


def _samples(page: Report, folder: Path) -> None:
    caption = "Samples of the averaged weights, in the order they were drawn."
    pictures = [((folder / "grid.png").read_bytes(), caption)]
    animation = folder / "reverse_diffusion.gif"
    if animation.exists():
        caption = "Reverse diffusion from noise to data, scaled to constant contrast."
        pictures.append((animation.read_bytes(), caption))
    page.heading("Samples").pictures(*pictures)


def _measurements(page: Report, run: Run, step: Which) -> None:
    measured = measurements.read(run.folder).get(step, [])
    if not measured:
        return
    page.heading("Measurements").table([measurements.told(row) for row in measured])
    if any("extractor" in row["how"] for row in measured):
        page.text(
            "FID and the like of fewer than 50,000 samples, or of other features than those of "
            "Inception with its published weights, cannot be compared with published numbers."
        )


def uncertainties(run: Run, step: Which) -> list[tuple[dict[str, Any], bytes]]:
    """(calibration.json, picture) of every call of --mode uncertainty with a checkpoint."""
    folders = (run.folder / "uncertainty").glob(f"*_step_{in_name(step)}_noise_*")
    found = [folder for folder in sorted(folders) if (folder / "uncertainty.png").exists()]
    again = "Move its folder away; --mode uncertainty makes it again."
    return [
        (
            read_document(folder / "calibration.json", CALIBRATION, again),
            (folder / "uncertainty.png").read_bytes(),
        )
        for folder in found
    ]


def _memorization(page: Report, run: Run, samples: np.ndarray) -> bytes:
    source, heldout = run.source(train=True), run.source(train=False)
    training = some_images(source)
    held = some_images(heldout, limit=max(500, len(samples)))
    part = "" if len(training) == len(source) else f"{len(training):,} of "
    check = Memorization(
        samples,
        held,
        training,
        run.experiment.pixel_range.levels,
        run.settings.data.random_flip,
        f"{part}{len(source):,} training images",
    )
    return memorization_section(page, check, extractor_at_hand(run.settings.quality))
