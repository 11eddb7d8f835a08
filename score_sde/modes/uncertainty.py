"""How sure a model is of denoised images: variances and principal directions, and their size.

Writes uncertainty.npz, calibration.json and uncertainty.png.
"""

import functools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from score_sde import viz
from score_sde.curvature import CurvatureFn
from score_sde.data import PixelRange
from score_sde.data.inputs import Inputs, join
from score_sde.devices import leads
from score_sde.errors import UserError
from score_sde.files import write_npz, writing
from score_sde.parallel.loop import progress
from score_sde.parallel.uncertainty import (
    PROBES,
    WHOLE,
    Uncertainty,
    calibration,
    largest_count,
)
from score_sde.sde import noise_range, time_at_noise
from score_sde.training.second_order import SecondOrderMatching
from score_sde.workdir.documents import write_document
from score_sde.workdir.folder import result_folder
from score_sde.workdir.inputs import read_given, split_images
from score_sde.workdir.run import Run
from score_sde.workdir.second_order import (
    SecondOrder,
    fitting,
    has_second_order,
    make_second_order,
)
from score_sde.workdir.which import Which, in_name, record_in, record_of, weights_checksum

IMAGES, SHOWN, VECTORS = 64, 16, 5
"""Images unless told otherwise; columns of the picture; principal directions that it shows."""
Curvature = Literal["network", "autodiff"]


def main(
    run: Run,
    checkpoint: Which | None = None,
    input: list[Path] | None = None,
    output: Path | None = None,
    noise: float | None = None,
    directions: int = 5,
    curvature: Curvature | None = None,
) -> Path:
    """Add noise to images, denoise them, and say how sure the model is.

    Args:
        input: image files, folders, npz files with `images`; by default the images of
            config.eval.split, the first 64 unless config.eval.num_examples says otherwise.
        noise: sigma/alpha, in units of the model's pixel range.
        directions: principal directions of each image.
        curvature: where the covariance comes from. "network": the second-order score of the run.
            "autodiff": the derivative of its score. None: the first where it has been trained.

    Raises:
        UserError: noise or directions out of range, or a second-order score that is missing or was
            trained for another checkpoint or other noise.
    """
    time, alpha, noise = _time(run, noise, directions)
    params, step = run.weights(checkpoint)
    second = None
    if curvature == "network" or (curvature is None and has_second_order(run)):
        instead = "take --curvature=autodiff"
        second = fitting(make_second_order(run), (step, params), (noise, noise), instead)
    source = "autodiff" if second is None else "network"
    name = f"{source}_step_{in_name(step)}_noise_{noise:g}"
    folder = result_folder(output, run.folder, name, "uncertainty")
    first = run.settings.eval.num_examples or IMAGES
    given = join(read_given(run, input, ["images"]) if input else split_images(run, first))
    measure, weights = _measure(run, params, second, directions)
    with progress(len(given.values), "image", "denoising") as bar:
        key = run.keys("uncertainty")["eval"]
        columns = measure(weights, key, given.values, time, bar.update)
    if not leads():
        return folder
    _check_finite(columns, folder, noise)
    how = record_of(step) | {"curvature": source, "noise": noise, "time": time, "alpha": alpha}
    how |= {"weights": weights_checksum(params)} | _of_network(second)
    with writing(folder):
        found = _save(folder, columns, given, how, measure)
    _tell(folder, found)
    return folder


def _of_network(second: SecondOrder | None) -> dict[str, int]:
    return {} if second is None else {"second_order_step": second.step}


def _time(run: Run, noise: float | None, directions: int) -> tuple[float, float, float]:
    """(time, alpha, sigma/alpha) there, after a check of both options."""
    process, d = run.experiment.process, math.prod(run.experiment.shape)
    low, high = noise_range(process)
    if noise is None:
        raise UserError(
            "--noise is missing: the standard deviation sigma/alpha of the noise, in units of the "
            f"model's pixel range, in [{low:.4g}, {high:.4g}]; for example --noise=0.5"
        )
    if directions > largest_count(d):
        raise UserError(
            f"--directions is at most {largest_count(d)} for images of {d} pixel values; got "
            f"{directions}"
        )
    try:
        time = time_at_noise(process, noise)
    except ValueError as error:
        raise UserError(f"--noise: {error}") from error
    alpha, sigma = (float(v) for v in process.marginal(jnp.asarray(time, jnp.float32)))
    return time, alpha, float(f"{sigma / alpha:.4g}")


def _check_finite(columns: Mapping[str, np.ndarray], folder: Path, noise: float) -> None:
    finite = np.isfinite(columns["mean"] + columns["variance"]).all(axis=(1, 2, 3))
    if not finite.all():
        raise UserError(
            f"{(~finite).sum()} of {len(finite)} denoised images are not finite, so nothing was "
            f"written to {folder}: the network gives no usable score at noise {noise:g}"
        )


def _measure(
    run: Run, params: Any, second: SecondOrder | None, directions: int
) -> tuple[Uncertainty, Any]:
    """(what measures, the weights it takes)."""
    experiment, weights = run.experiment, {"score": params}
    covariance_fn = None
    if second is not None:
        weights["second_order"] = second.params
        weights["score"] = params if second.score is None else second.score
        covariance_fn = functools.partial(_covariance, second.task)
    measure = Uncertainty(
        experiment.process,
        lambda weights: experiment.model.score_fn(weights["score"]),
        covariance_fn,
        experiment.pixel_range,
        run.settings.data.dequantize,
        directions,
        run.place,
        run.settings.eval.batch_size,
    )
    return measure, weights


def _covariance(task: SecondOrderMatching, weights: Any) -> CurvatureFn:
    return task.covariance_fn(weights["second_order"])


def _save(
    folder: Path,
    columns: Mapping[str, np.ndarray],
    given: Inputs,
    how: Mapping[str, Any],
    measure: Uncertainty,
) -> dict[str, Any]:
    """uncertainty.npz (the columns of `Uncertainty`), calibration.json and uncertainty.png.

    Lengths are in units of the model's pixel range, which calibration.json names.
    """
    pixels, variance = measure.pixel_range, columns["variance"]
    estimated = how["curvature"] == "autodiff" and variance[0].size > WHOLE
    found = dict(how) | {
        "images": len(given.values),
        "pixel_range": [pixels.low, pixels.high],
        "calibration": calibration(columns),
        "mean_standard_deviation": float(np.sqrt(np.maximum(variance, 0)).mean()),
        "negative_variances": float((variance < 0).mean()),
        "variances": f"mean of {PROBES} random directions" if estimated else "exact",
    }
    arrays = dict(columns) | {
        "names": np.asarray(given.names, str),
        "index": np.arange(len(given.values)),
        "label": given.labels,
        "noise": how["noise"],
        "time": how["time"],
        "alpha": how["alpha"],
    }
    write_npz(folder / "uncertainty.npz", arrays | record_in(how))
    write_document(folder / "calibration.json", found)
    viz.save_png(folder / "uncertainty.png", _picture(columns, measure, how["alpha"]))
    return found


def _picture(columns: Mapping[str, np.ndarray], measure: Uncertainty, alpha: float) -> np.ndarray:
    """Rows: noisy (x_t/alpha), clean, denoised, standard deviation (largest: white), directions.

    A column for each image. Directions are grey where they are 0.
    """
    shown = {name: values[:SHOWN] for name, values in columns.items()}
    pixels: PixelRange = measure.pixel_range
    deviation = np.sqrt(np.maximum(shown["variance"], 0))
    images = (shown["noisy"] / np.float32(alpha), shown["clean"], shown["mean"])
    rows = [np.asarray(pixels.unit(image)) for image in images]
    rows.append(deviation / max(float(deviation.max()), 1e-12))
    for i in range(min(VECTORS, shown["vectors"].shape[1])):
        vector = shown["vectors"][:, i]
        size = np.abs(vector).max(axis=(1, 2, 3), keepdims=True)
        rows.append(0.5 + 0.5 * vector / np.maximum(size, 1e-12))
    unit = np.clip(np.concatenate(rows), 0, 1).astype(np.float32)
    return viz.image_grid(unit, columns=len(shown["clean"]))


def _tell(folder: Path, found: Mapping[str, Any]) -> None:
    whole = found["calibration"]["whole"]
    error = whole["standard_error"]
    spread = "" if error is None else f" +- {error:.2g}"
    print(
        f"{found['images']} images with noise {found['noise']:g}, curvature by "
        f"{found['curvature']}: {folder}\n"
        f"mean variance over mean squared error: {whole['ratio']:.3g}{spread} (1: right size)"
    )
