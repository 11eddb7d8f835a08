"""Likeness of an image to the true one: peak signal-to-noise ratio and structural similarity."""

import numpy as np
from jaxtyping import Array, Float64, Num
from scipy.ndimage import correlate1d

from score_sde.errors import UserError

Images = Num[np.ndarray, "..."] | Num[Array, "..."]
"""(n, height, width, channels); `_checked` says so where they are not."""


def psnr(a: Images, b: Images, data_range: float, offset: float = 0.0) -> Float64[np.ndarray, "n"]:
    """Peak signal-to-noise ratio of each pair of images, in dB.

    -10 log10(mean ((a - b)/data_range)^2 + offset), the mean over height, width and channels.
    On the host in float64; not for use under `jax.jit`.

    Args:
        a, b: (n, height, width, channels).
        data_range: largest minus smallest possible value: 1 for [0, 1], 2 for [-1, 1], 255 for 8
            bits.
        offset: 1e-8 is what the library piq has, so that equal images have 80 dB; with 0 they have
            infinity.

    Raises UserError for values that are not finite, different shapes, or images that both spread
    further than the range.
    """
    a, b = _checked(a, b, data_range)
    error = (((a - b) / data_range) ** 2).mean(axis=(1, 2, 3)) + offset
    with np.errstate(divide="ignore"):
        return -10 * np.log10(error)


def ssim(
    a: Images,
    b: Images,
    data_range: float,
    size: int = 11,
    sigma: float | None = 1.5,
    downsample: bool = False,
) -> Float64[np.ndarray, "n"]:
    """Structural similarity of each pair of images: a mean over windows and channels.

    A window with means m, variances v and covariance v_ab has

        (2 m_a m_b + C_1)(2 v_ab + C_2) / ((m_a^2 + m_b^2 + C_1)(v_a + v_b + C_2)),

    where C_1 = (0.01 data_range)^2 and C_2 = (0.03 data_range)^2. Windows lie inside the image.
    On the host in float64; not for use under `jax.jit`. Published numbers differ by the window and
    the range; those of scikit-image's defaults are size=7, sigma=None.

    Args:
        a, b: (n, height, width, channels).
        data_range: largest minus smallest possible value: as for `psnr`.
        size: of the window, odd.
        sigma: of its Gaussian weights, in pixels; None for equal weights, with variances divided by
            size^2 - 1.
        downsample: average first over squares of max(1, round(min(height, width)/256)) pixels, as
            Wang's own code does and the library piq by default.

    Returns (n,) values, 1 for equal images.
    Raises UserError for values that are not finite, images that both spread further than the range,
    different shapes, an even or small window, or smaller images. Source: Wang et al. 2004, eq. 13.
    """
    a, b = _checked(a, b, data_range)
    if size < 3 or size % 2 == 0:
        raise UserError(f"the window of SSIM must have an odd size of 3 or more; got size={size}")
    if downsample:
        a, b = _downsampled(a), _downsampled(b)
    if min(a.shape[1:3]) < size:
        raise UserError(
            f"SSIM with a window of {size} pixels needs images of at least that size; got "
            f"{a.shape[1]} x {a.shape[2]}"
        )
    weights, unbiased = _window(size, sigma)
    mean_a, mean_b = _windows(a, weights), _windows(b, weights)
    var_a = unbiased * (_windows(a * a, weights) - mean_a**2)
    var_b = unbiased * (_windows(b * b, weights) - mean_b**2)
    covariance = unbiased * (_windows(a * b, weights) - mean_a * mean_b)
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    likeness = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    likeness /= (mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)
    return likeness.mean(axis=(1, 2, 3))


def _window(size: int, sigma: float | None) -> tuple[np.ndarray, float]:
    """(weights along one axis, factor of the variances) of a window."""
    if sigma is None:
        return np.full(size, 1 / size), size**2 / (size**2 - 1)
    weights = np.exp(-0.5 * ((np.arange(size) - size // 2) / sigma) ** 2)
    return weights / weights.sum(), 1.0


def _checked(a: Images, b: Images, data_range: float) -> tuple[np.ndarray, np.ndarray]:
    if a.ndim != 4:
        raise UserError(
            f"images must be (n, height, width, channels); got shape {a.shape}: reshape them"
        )
    if a.shape != b.shape or 0 in a.shape:
        raise UserError(
            f"images to compare must have one shape, without an axis of 0; got {a.shape} and "
            f"{b.shape}"
        )
    if not (np.isfinite(data_range) and data_range > 0):
        raise UserError(
            f"data_range must be above 0, the largest minus the smallest value; got {data_range}"
        )
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    for name, images in (("a", a), ("b", b)):
        bad = len(images) - int(np.isfinite(images).all(axis=(1, 2, 3)).sum())
        if bad:
            raise UserError(
                f"images must be finite; {bad} of {len(images)} images of {name} hold NaN or "
                "infinity"
            )
    # A reconstruction may overshoot; where both sides do, the range is that of other units.
    spread = min(float(np.ptp(a)), float(np.ptp(b)))
    if spread > data_range * (1 + 1e-6):
        raise UserError(
            f"both sets of images spread over {spread:.6g} and more, but data_range is "
            f"{data_range:g}: give the range of the pixels, 255 for 8 bits"
        )
    return a, b


def _downsampled(images: np.ndarray) -> np.ndarray:
    n, height, width, channels = images.shape
    k = max(1, round(min(height, width) / 256))
    images = images[:, : height // k * k, : width // k * k]
    return images.reshape(n, height // k, k, width // k, k, channels).mean(axis=(2, 4))


def _windows(images: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted means of all windows that lie inside the images."""
    edge = len(weights) // 2
    means = correlate1d(correlate1d(images, weights, axis=1), weights, axis=2)
    return means[:, edge : images.shape[1] - edge, edge : images.shape[2] - edge]
