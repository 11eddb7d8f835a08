"""Images that are drawn with their numbers as seeds, and an extractor of random features."""

import numpy as np

from score_sde.metrics.features import Extractor, Features
from score_sde.metrics.statistics import Statistics
from score_sde.parallel.features import Images, collect

COUNT = 203
ABOUT = {"data": "noise", "split": "test", "levels": 17}


def images(numbers: np.ndarray) -> np.ndarray:
    """Image i is drawn with seed i."""
    return np.stack(
        [np.random.default_rng(int(i)).integers(0, 256, (4, 5, 1), np.uint8) for i in numbers]
    )


SET = Images(images, COUNT, ABOUT)


def made(compiled: bool = True, seed: int = 0, checksum: str = "1234") -> Extractor:
    """Random linear features, and classes."""
    matrix = np.random.default_rng(seed).normal(size=(20, 9)).astype(np.float32)

    def fn(batch):
        pool = (batch.reshape(len(batch), -1) / 255).astype(np.float32) @ matrix
        return Features(pool, 3 * pool[:, :4])

    return Extractor("linear", checksum, "as they are", fn, compiled)


def everything(**options) -> Statistics:
    return collect(made(), SET, keep_features=True, **options)
