"""What the published measures of scans do before they compare: a circle, and two levels of grey.

`psnr` with offset 1e-8 and `ssim` then give the numbers of Song et al. (2022), their code. For
metal artifacts the images are multiplied by 1 - metal; `ssim` has size 7, sigma None, data_range 2.
"""

import numpy as np
from jaxtyping import Float64
from PIL import Image, ImageDraw

from score_sde.errors import UserError
from score_sde.metrics.image import Images

BINS, DARK = 255, 75
"""Bins of a histogram, and those of them where the darker level is looked for."""


def circle(size: int) -> Float64[np.ndarray, "1 size size 1"]:
    """1 in the published region of interest, a drawn disc of diameter `size`, and 0 outside.

    It is not centred: the disc touches the first row, and passes the last one.
    """
    image = Image.new("L", (size, size), 0)
    ImageDraw.Draw(image).pieslice((0, 0, size, size), 0, 360, fill=1)
    return np.asarray(image, np.float64)[None, :, :, None]


def grey_levels(
    truth: Images, prediction: Images
) -> tuple[Float64[np.ndarray, "n h w c"], Float64[np.ndarray, "n h w c"]]:
    """Both with their two commonest levels at 0 and 1, then divided by the largest of the truth.

    The levels are the fullest bins of a histogram of 255 from the smallest to the largest value:
    p of the first 75, q of the others. An image v becomes max((v - p)/(q - p), 0). As published, a
    bin i stands for i/255 whatever the smallest and the largest value are. The prediction is
    limited to the largest value of the truth.

    Args:
        truth, prediction: (n, height, width, channels), in [0, 1].

    Raises:
        UserError: for different shapes, and a truth that has no value above its darker level.
    """
    if truth.ndim != 4 or truth.shape != prediction.shape:
        raise UserError(
            f"images must have one shape (n, height, width, channels); got {truth.shape} and "
            f"{prediction.shape}"
        )
    a, b = (np.stack([_stretched(v) for v in np.asarray(x, float)]) for x in (truth, prediction))
    most = a.max(axis=(1, 2, 3), keepdims=True)
    if not most.min() > 0:
        raise UserError(
            f"{int((most <= 0).sum())} of {len(a)} true images have no value above their darker "
            "level, in the lowest 75 of 255 bins; compare them without grey levels"
        )
    return a / most, np.minimum(b, most) / most


def _stretched(image: np.ndarray) -> np.ndarray:
    counts, _ = np.histogram(image, BINS)
    dark = np.argmax(counts[:DARK]) / BINS
    bright = (np.argmax(counts[DARK:]) + DARK) / BINS
    return np.maximum((image - dark) / (bright - dark), 0)
