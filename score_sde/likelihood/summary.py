"""The mean of per-image results with its errors, and where the variance comes from."""

import math

import numpy as np

Rows = dict[str, np.ndarray]
"""Columns of equal length; every row is one image in one pass, named by `index` and `pass`."""


def summarize(rows: Rows, column: str = "bits_per_dim") -> dict[str, float]:
    """Mean over images with its standard error and 95% interval by Student's t.

    It also says where the variance comes from. Images are the independent units; the passes of an
    image are averaged first. With several passes the variance between passes of one image is that
    of dequantization and probes together; the probes' share is known where several were drawn
    (`standard_error` column), the rest is dequantization; what remains between images is the
    data's. Of a bound the draws of time and noise come in between, and only the data's share is
    told.
    """
    from scipy.special import stdtrit

    values, index = rows[column].astype(np.float64), rows["index"]
    passes = len(np.unique(rows["pass"]))
    images = len(np.unique(index))
    table = values[np.lexsort((rows["pass"], index))].reshape(images, passes)
    means = table.mean(axis=1)
    spread = float(means.var(ddof=1)) if images > 1 else math.nan
    error = math.sqrt(spread / images) if images > 1 else math.nan
    radius = float(stdtrit(images - 1, 0.975)) * error if images > 1 else math.nan
    within = float(table.var(axis=1, ddof=1).mean()) if passes > 1 else math.nan
    # Whose probes the standard error is of:
    exact = column == "bits_per_dim" and "standard_error" in rows
    probe = float(np.mean(rows["standard_error"].astype(np.float64) ** 2)) if exact else math.nan
    return {
        "mean": float(means.mean()),
        "standard_error": error,
        "low": float(means.mean()) - radius,
        "high": float(means.mean()) + radius,
        "images": images,
        "passes": passes,
        "variance_data": spread - within / passes if passes > 1 else math.nan,
        "variance_probe": probe,
        "variance_dequantization": within - probe if passes > 1 else math.nan,
    }


def summarize_image(values: np.ndarray) -> dict[str, float]:
    """The mean over passes (n,) of one image, with the standard error of that mean.

    The passes differ by dequantization and probes, which are independent draws. The error is NaN of
    a single pass.
    """
    values = values.astype(np.float64)
    passes = len(values)
    error = float(values.std(ddof=1)) / math.sqrt(passes) if passes > 1 else math.nan
    return {"mean": float(values.mean()), "standard_error": error, "passes": passes}
