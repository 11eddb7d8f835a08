"""Images from linear measurements of them: inpainting, colorization, super-resolution, deblurring.

Writes reconstruction.npz, metrics.json and grid.png.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PyTree

from score_sde import viz
from score_sde.arrays import sample_keys
from score_sde.build.inverse import build_operator, build_solver
from score_sde.build.names import blame
from score_sde.build.settings import to_dict
from score_sde.data.inputs import join, read_mask
from score_sde.devices import leads
from score_sde.errors import UserError
from score_sde.files import write_json, write_npz, writing
from score_sde.inverse import Measurement, Operator, simulate
from score_sde.metrics.image import psnr, ssim
from score_sde.parallel.samples import Drawn
from score_sde.sde import GaussianSDE
from score_sde.solvers import Solver
from score_sde.workdir.folder import result_folder
from score_sde.workdir.inputs import read_given, split_images
from score_sde.workdir.objects import check_finite, make_generator
from score_sde.workdir.run import Run
from score_sde.workdir.which import Which, in_name, record_of

SHOWN = 16
"""Images in grid.png."""


class Found(NamedTuple):
    """In [0, 1]: originals (n, h, w, c), what was measured of them, samples (n, copies, h, w, c).

    residual: (n, copies) |A x - y|/|y| of the samples.
    """

    originals: np.ndarray
    measurement: Measurement
    samples: np.ndarray
    residual: np.ndarray


def main(
    run: Run,
    checkpoint: Which | None = None,
    input: list[Path] | None = None,
    output: Path | None = None,
    mask: str | None = None,
    copies: int = 8,
) -> Path:
    """Measure images as config.inverse says, and draw `copies` images that fit each measurement.

    `input`: image files, folders, npz files with `images`; by default the first 8 images of
    config.eval.split. The noise of the measurement and sample k of image i depend on the seed, i
    and k alone. `mask`: known pixels of the task inpaint, by default the left half.

    Raises:
        UserError: a discrete chain, a mask for another task, what solver or operator refuse, or
            samples that are not finite.
    """
    section, experiment = run.settings.inverse, run.experiment
    if not isinstance(experiment.process, GaussianSDE):
        raise UserError(
            "--mode reconstruct needs a continuous process; train a *_cont recipe. For NCSN and "
            "NCSNv2 there is --mode inpaint"
        )
    if mask and section.task != "inpaint":
        raise UserError(f"--mask means nothing to config.inverse.task={section.task}; leave it out")
    known = read_mask(mask or "left", experiment.shape)
    operator = build_operator(section, experiment.shape, known)
    solver = build_solver(run.settings)
    given = join(read_given(run, input, ["images"]) if input else split_images(run, first=8))
    params, step = run.weights(checkpoint)
    folder = result_folder(output, run.folder, f"reconstruct_step_{in_name(step)}", "samples")
    pixels = experiment.pixel_range
    originals = given.values.astype(np.float32) / (pixels.levels - 1)
    measurement = _measured(run, operator, originals)
    drawn, nfe = _drawn(run, params, solver, measurement.in_range(pixels), copies)
    advice = "take more config.sampling.steps, a smaller config.sampling.snr, or another solver"
    check_finite(drawn, folder, advice)
    if leads():
        unit = (drawn - pixels.low) / (pixels.high - pixels.low)
        found = _compared(operator, originals, measurement, unit)
        how = record_of(step) | {"seed": run.settings.seed, "copies": copies}
        how |= {"mask": mask or "left"} if section.task == "inpaint" else {}
        how["evaluations"] = float(nfe.mean()) * solver.cost.evaluations
        how["vector_jacobian_products"] = float(nfe.mean()) * solver.cost.vjps
        how |= {"inverse": to_dict(section), "sampling": to_dict(run.settings.sampling)}
        with writing(folder):
            summary = _save(folder, found, given.names, how)
        print(
            f"{section.task} of {len(originals)} images by {section.solver}, checkpoint {step}: "
            f"PSNR {summary['psnr']:.2f} dB, of the mean of {copies} samples "
            f"{summary['psnr_of_mean']:.2f} dB; |A x - y|/|y| {summary['residual']:.1e}: {folder}"
        )
    return folder


def _measured(run: Run, operator: Operator, originals: np.ndarray) -> Measurement:
    """With noise that depends on the seed and an image's number."""
    keys = sample_keys(run.keys()["eval"], jnp.arange(len(originals)))
    return simulate(operator, jnp.asarray(originals), run.settings.inverse.std, keys)


def _drawn(
    run: Run, params: PyTree, solver: Solver, measurement: Measurement, copies: int
) -> Drawn:
    """`copies` samples of each row of the measurement, which is in the model's range."""
    count, experiment = len(measurement.y), run.experiment
    rows = measurement.rows(count)
    with blame("inverse"):  # before the work: inside jit it would be a traceback
        solver.check(rows)
        sampler = solver.prepare(experiment.sampler)
        solver(sampler, experiment.model.score_fn(params), rows)
    rows = jax.tree.map(lambda leaf: jnp.repeat(leaf, copies, axis=0), rows)
    images = sample_keys(run.keys()["sample"], jnp.arange(count))
    keys = jax.vmap(sample_keys, (0, None))(images, jnp.arange(copies)).reshape(-1)
    draw = make_generator(run, run.settings.sampling.batch_size, solver)
    draw = dataclasses.replace(draw, sampler=sampler)
    title = f"{run.settings.inverse.task} by {run.settings.inverse.solver}"
    return draw.drawn(params, keys, rows, title)


def _compared(
    operator: Operator, originals: np.ndarray, measurement: Measurement, drawn: np.ndarray
) -> Found:
    n = len(originals)
    samples = drawn.reshape(n, -1, *originals.shape[1:])
    again = np.asarray(operator.forward(jnp.asarray(drawn)))
    y = np.asarray(measurement.y).reshape(n, 1, -1)
    misfit = np.linalg.norm(again.reshape(n, samples.shape[1], -1) - y, axis=2)
    return Found(originals, measurement, samples, misfit / np.linalg.norm(y, axis=2))


def _save(folder: Path, found: Found, names: list[str], how: Mapping[str, Any]) -> dict[str, float]:
    samples = np.clip(found.samples, 0.0, 1.0)
    mean, std = samples.mean(axis=1), samples.std(axis=1)
    each = np.stack([psnr(found.originals, samples[:, k], 1.0) for k in range(samples.shape[1])])
    rows = {
        "psnr": each.mean(axis=0),
        "psnr_of_mean": psnr(found.originals, mean, 1.0),
        "ssim_of_mean": _ssim(found.originals, mean),
        "residual": found.residual.mean(axis=1),
    }
    arrays = {"images": samples, "mean": mean, "std": std, "originals": found.originals}
    measured = {"y": np.asarray(found.measurement.y), "y_std": np.asarray(found.measurement.std)}
    write_npz(folder / "reconstruction.npz", arrays | measured | {"names": np.asarray(names, str)})
    summary = {name: float(np.mean(values)) for name, values in rows.items()}
    table = [
        {"name": name} | {key: float(values[i]) for key, values in rows.items()}
        for i, name in enumerate(names)
    ]
    write_json(folder / "metrics.json", dict(how) | {"means": summary, "rows": table})
    operator, y = found.measurement.operator, found.measurement.y
    seen = np.clip(np.asarray(operator.pinv(y)), 0.0, 1.0)
    viz.save_png(folder / "grid.png", _grid(found.originals, seen, samples, mean, std))
    return summary


def _ssim(a: np.ndarray, b: np.ndarray) -> Float[np.ndarray, "n"]:
    """With the usual window of 11 pixels, or the largest odd one that fits."""
    side = min(11, *a.shape[1:3])
    return ssim(a, b, 1.0, size=side - 1 + side % 2)


def _grid(
    originals: np.ndarray, seen: np.ndarray, samples: np.ndarray, mean: np.ndarray, std: np.ndarray
) -> np.ndarray:
    """A row an image: A^+ y, up to 6 samples, their mean, twice their std, the original."""
    columns = [seen[:, None], samples[:, :6], mean[:, None], np.clip(2 * std, 0, 1)[:, None]]
    rows = np.concatenate([*columns, originals[:, None]], axis=1)[:SHOWN]
    return viz.image_grid(rows.reshape(-1, *rows.shape[2:]), columns=rows.shape[1])
