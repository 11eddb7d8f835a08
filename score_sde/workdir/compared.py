"""Samples of images compared with what was measured of them, and with the images: what is written.

reconstruction.npz, metrics.parquet, summary.json and grid.png.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from scipy.stats import bootstrap

from score_sde import viz
from score_sde.build.sections import InverseSettings
from score_sde.files import write_npz
from score_sde.inverse.posterior import Moments, coverage, moments, rank_histogram, seam
from score_sde.metrics.image import psnr, ssim
from score_sde.workdir.documents import write_document
from score_sde.workdir.measured import Measured
from score_sde.workdir.parquet import write_table

SHOWN = 16
"""Images in grid.png."""
SHARES = (0.5, 0.9)
"""Of the intervals whose coverage is measured."""


class Found(NamedTuple):
    """samples: in [0, 1] but for what a sampler leaves outside. cost: by name, for each image.

    half_level: half the distance of two grey levels, below which the images say nothing.
    """

    given: Measured
    samples: Float[np.ndarray, "n k h w c"]
    cost: Mapping[str, np.ndarray]
    half_level: float


def save(folder: Path, found: Found, section: InverseSettings, how: Mapping[str, Any]) -> str:
    """Write the files, and say in a line what they show.

    Samples are written as they were drawn, so that they fit the measurement, even where that is
    outside [0, 1]. What is compared, and their moments, are of samples that are cut to it.
    """
    given, samples = found.given, np.clip(found.samples, 0.0, 1.0)
    stats = moments(samples)
    rows = {"residual": _residual(found)} | dict(found.cost)
    summary: dict[str, Any] = {"images": len(samples)} | dict(how)
    if given.originals is not None:
        rows = _likeness(given.originals, samples, stats) | rows
        summary |= _calibration(samples, given.originals, found.half_level)
    if section.task == "inpaint":
        rows |= _seams(given, samples)
    summary["means"] = {name: interval(values) for name, values in rows.items()}
    arrays = {"images": found.samples, "mean": stats.mean, "std": stats.std}
    arrays |= {"mean_error": stats.mean_error, "quantiles": stats.quantiles}
    write_npz(folder / "reconstruction.npz", arrays | given.arrays(section))
    columns = {name: values.tolist() for name, values in rows.items()}
    write_table(folder / "metrics.parquet", {"name": given.names} | columns)
    write_document(folder / "summary.json", summary)
    viz.save_png(folder / "grid.png", _grid(found, samples, stats))
    return _line(folder, section, summary)


def _line(folder: Path, section: InverseSettings, summary: Mapping[str, Any]) -> str:
    means = {name: entry["mean"] for name, entry in summary["means"].items()}
    told = f"|A x - y|/|y| {means['residual']:.1e}: {folder}"
    if "psnr" in means:
        of_mean = f", of the mean of {summary['copies']} samples {means['psnr_of_mean']:.2f} dB"
        told = f"PSNR {means['psnr']:.2f} dB{of_mean if summary['copies'] > 1 else ''}; {told}"
    else:
        told = f"the images are not known, so nothing is compared with them; {told}"
    what = f"{section.task} of {summary['images']} images by {section.solver}"
    return f"{what}, checkpoint {summary['step']}: {told}"


def interval(values: Float[np.ndarray, "n"]) -> dict[str, float]:
    """Mean over images with its interval of 95 % by the bootstrap: "mean", "low" and "high".

    All are nan, not known, where a value is infinite, as the PSNR of an exact image is.
    """
    mean = float(values.mean()) if np.isfinite(values).all() else float("nan")
    if len(values) < 2 or np.isnan(mean) or not np.ptp(values) > 0:
        return {"mean": mean, "low": mean, "high": mean}
    seeded = np.random.default_rng(0)
    found = bootstrap((values,), np.mean, method="percentile", rng=seeded).confidence_interval
    return {"mean": mean, "low": float(found.low), "high": float(found.high)}


def _residual(found: Found) -> Float[np.ndarray, "n"]:
    """|A x - y|/|y|, the mean over samples of an image."""
    operator, y = found.given.measurement.operator, np.asarray(found.given.measurement.y)
    n, k = found.samples.shape[:2]
    residuals = np.empty((n, k))
    for number in range(k):
        off = np.asarray(operator.forward(jnp.asarray(found.samples[:, number]))) - y
        residuals[:, number] = np.linalg.norm(off.reshape(n, -1), axis=1)
    size = np.linalg.norm(y.reshape(n, -1), axis=1)
    return (residuals / size[:, None]).mean(axis=1)


def _likeness(
    originals: np.ndarray, samples: np.ndarray, stats: Moments
) -> dict[str, Float[np.ndarray, "n"]]:
    """PSNR of a sample, and PSNR, SSIM and root mean square error of the mean.

    `spread` is sqrt(mean (1 + 1/k) std^2). For samples of the posterior its square has the
    expectation of that of `rmse_of_mean`.
    """
    k, axes = samples.shape[1], (1, 2, 3)
    size = min(11, *originals.shape[1:3])
    return {
        "psnr": np.mean([psnr(originals, samples[:, i], 1.0) for i in range(k)], axis=0),
        "psnr_of_mean": psnr(originals, stats.mean, 1.0),
        "ssim_of_mean": ssim(originals, stats.mean, 1.0, size=size - 1 + size % 2),
        "rmse_of_mean": np.sqrt(((stats.mean - originals) ** 2).mean(axis=axes)),
        "spread": np.sqrt((1 + 1 / k) * (stats.std**2).mean(axis=axes)),
    }


def _calibration(samples: np.ndarray, originals: np.ndarray, half_level: float) -> dict[str, Any]:
    """Where the truth lies among the samples, of 2 samples and more."""
    if samples.shape[1] < 2:
        return {}
    histogram = rank_histogram(samples, originals, half_level)
    counted = histogram[np.isfinite(histogram).all(axis=1)]
    intervals = [coverage(histogram, share)._asdict() for share in SHARES]
    mean = counted.mean(axis=0).tolist() if len(counted) else []
    return {"rank_histogram": mean, "coverage": intervals}


def _seams(given: Measured, samples: np.ndarray) -> dict[str, Float[np.ndarray, "n"]]:
    """Steps across the border of the mask, of the samples and of the images."""
    found = {"seam": seam(samples, given.known).mean(axis=1)}
    if given.originals is not None:
        found["seam_of_original"] = seam(given.originals, given.known)
    return found


def _grid(found: Found, samples: np.ndarray, stats: Moments) -> np.ndarray:
    """A row an image: A^+ y, up to 6 samples, their mean, twice their std.

    Where the image is known: twice the error of the mean, and the image.
    """
    given = found.given
    seen = np.clip(np.asarray(given.measurement.operator.pinv(given.measurement.y)), 0.0, 1.0)
    columns = [seen[:, None], samples[:, :6], stats.mean[:, None]]
    columns.append(np.clip(2 * stats.std, 0.0, 1.0)[:, None])
    if given.originals is not None:
        error = np.abs(stats.mean - given.originals)
        columns += [np.clip(2 * error, 0.0, 1.0)[:, None], given.originals[:, None]]
    rows = np.concatenate(columns, axis=1)[:SHOWN]
    return viz.image_grid(rows.reshape(-1, *rows.shape[2:]), columns=rows.shape[1])
