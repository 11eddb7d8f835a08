"""What samples of a posterior say of an image: moments, and how often the truth lies among them."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
"""Those that are written of each pixel."""


class Moments(NamedTuple):
    """Of the samples of each image, pixel by pixel.

    mean, std: of the posterior, estimated; std is that with k - 1, and 0 for one sample.
    mean_error: the standard error of `mean`, std/sqrt(k). quantiles: those of `QUANTILES`.
    """

    mean: Float[np.ndarray, "n *event"]
    std: Float[np.ndarray, "n *event"]
    mean_error: Float[np.ndarray, "n *event"]
    quantiles: Float[np.ndarray, "q n *event"]


def moments(samples: Float[np.ndarray, "n k *event"]) -> Moments:
    """Mean, spread and quantiles over the k samples of each image."""
    k = samples.shape[1]
    std = samples.std(axis=1, ddof=1) if k > 1 else np.zeros_like(samples[:, 0])
    quantiles = np.quantile(samples, QUANTILES, axis=1).astype(samples.dtype)
    return Moments(samples.mean(axis=1), std, std / np.sqrt(k).astype(std.dtype), quantiles)


def rank_histogram(
    samples: Float[np.ndarray, "n k *event"], truth: Float[np.ndarray, "n *event"], apart: float
) -> Float[np.ndarray, "n bins"]:
    """Shares of each image's pixels whose true value has k samples' ranks 0 .. k.

    Where samples are of the posterior, truth and samples are exchangeable, and each of the k + 1
    ranks has the share 1/(k + 1) on average. Samples too narrow show as large ends, samples too
    wide as a hump (Hamill 2001; Talts et al. 2018).

    A sample within `apart` of the truth ties with it, and the pixel counts in equal parts for the
    ranks it may have. Pixels where all of them tie say nothing and are left out; an image of such
    pixels alone has nan.

    Args:
        samples: of each image.
        truth: the images.
        apart: half the distance of two grey levels.
    """
    n, k = samples.shape[:2]
    flat, true = samples.reshape(n, k, -1), truth.reshape(n, 1, -1)
    less, tied = (flat < true - apart).sum(axis=1), (np.abs(flat - true) <= apart).sum(axis=1)
    share = np.where(tied == k, 0.0, 1.0 / (tied + 1))
    steps, rows = np.zeros((n, k + 2)), np.broadcast_to(np.arange(n)[:, None], less.shape)
    np.add.at(steps, (rows, less), share)
    np.add.at(steps, (rows, less + tied + 1), -share)
    counts = np.cumsum(steps, axis=1)[:, :-1]
    total = (tied < k).sum(axis=1, keepdims=True)
    return np.where(total > 0, counts / np.maximum(total, 1), np.nan)


class Coverage(NamedTuple):
    """How often the truth lies between two of the samples.

    nominal: for samples of the posterior. found, standard_error: the mean over images and its
    error, from their spread; nan where there is one image.
    """

    nominal: float
    found: float
    standard_error: float


def coverage(histogram: Float[np.ndarray, "n bins"], share: float) -> Coverage:
    """Of the interval from the a-th smallest to the a-th largest of k samples.

    Its nominal coverage is (k + 1 - 2 a)/(k + 1), exactly and for any k. a >= 1 is the one that
    comes nearest to `share`; the widest interval is that of the smallest and largest sample.

    Args:
        histogram: of `rank_histogram`, k >= 2.
        share: wanted, in (0, 1): 0.9 for intervals of 90 %.
    """
    bins = histogram.shape[1]
    most = max(1, (bins - 1) // 2)
    a = int(np.clip(round((1 - share) / 2 * bins), 1, most))
    each = histogram[:, a : bins - a].sum(axis=1)
    each = each[np.isfinite(each)]
    found = float(each.mean()) if len(each) else float("nan")
    error = float(each.std(ddof=1) / np.sqrt(len(each))) if len(each) > 1 else float("nan")
    return Coverage((bins - 2 * a) / bins, found, error)


def seam(
    images: Float[np.ndarray, "*n h w c"], known: Bool[np.ndarray, "h w 1"]
) -> Float[np.ndarray, "*n"]:
    """Mean |x_i - x_j| over neighbouring pixels i, j of which one is known and the other not.

    A completion without a seam has as much of it as real images have.
    """
    total, pairs = np.zeros(images.shape[:-3]), 0
    for axis in (-3, -2):
        border = np.diff(known.astype(np.int8), axis=axis)[..., 0] != 0
        steps = np.abs(np.diff(images, axis=axis)).mean(axis=-1)
        total = total + steps[..., border].sum(axis=-1)
        pairs += int(border.sum())
    return total / max(pairs, 1)
