"""The denoising loss at each noise level, on training and on held-out images.

Where the first is smaller, the model has learned its images by heart.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Float64, Int, Key, PyTree

from score_sde.arrays import ScoreFn, fold_in, normal, sample_keys, uniform
from score_sde.data import PixelRange, Source, take
from score_sde.devices import Placement
from score_sde.objectives import DenoisingScoreMatching, LogSNRUniform, UniformTime, variance_weight
from score_sde.parallel.loop import Rows, Tick, batch_size, over_devices, silent
from score_sde.sde import GaussianSDE, Perturbation

IMAGES, LEVELS = 256, 12
"""Images of each set and noise levels, unless told otherwise."""


@dataclasses.dataclass(frozen=True, eq=False)
class Levels:
    """E|sigma score + z|^2/D, the mean square error of the predicted noise.

    1 is what the score 0 gives, 0 is perfect. Row i of `train` and row i of `heldout` are losses
    with one and the same noise. So their difference is known better than either of them.

    Args:
        times: of the levels, from least to most noise; indices of a discrete chain.
        alphas, sigmas: x_t = alpha x_0 + sigma z there.
        train, heldout: losses of the images.
    """

    times: Float64[np.ndarray, "levels"]
    alphas: Float64[np.ndarray, "levels"]
    sigmas: Float64[np.ndarray, "levels"]
    train: Float64[np.ndarray, "images levels"]
    heldout: Float64[np.ndarray, "images levels"]

    def rows(self) -> list[dict[str, float | None]]:
        """For JSON, one for each level: time, alpha, sigma, and three means with their errors.

        The means are of train, heldout and gap = heldout - train. Standard errors are those of a
        mean over images. None: not finite, or the error of a single image.
        """
        columns = {"time": self.times, "alpha": self.alphas, "sigma": self.sigmas}
        n = len(self.train)
        parts = {
            "train": self.train,
            "heldout": self.heldout,
            "gap": self.heldout - self.train,
        }
        for name, losses in parts.items():
            columns[name] = losses.mean(axis=0)
            squares = ((losses - columns[name][None]) ** 2).sum(axis=0)
            columns[f"{name}_error"] = (
                np.sqrt(squares / (n * (n - 1))) if n > 1 else squares * np.nan
            )
        return [
            {name: float(v[i]) if np.isfinite(v[i]) else None for name, v in columns.items()}
            for i in range(len(self.times))
        ]


def level_times(process: Perturbation, count: int = LEVELS) -> Float32[np.ndarray, "levels"]:
    """Times from t_min to t_max, evenly spaced in log-SNR.

    Of a discrete chain up to `count` evenly spaced indices.
    """
    if isinstance(process, GaussianSDE):
        times, _ = LogSNRUniform(process).at(jnp.linspace(0, 1, count, dtype=jnp.float32))
        return np.asarray(times)
    return np.unique(np.rint(np.linspace(process.t_min, process.t_max, count))).astype(np.float32)


@dataclasses.dataclass(frozen=True, eq=False)
class LevelLosses:
    """`losses(params, key, source, indices, times) -> (images, levels)`, without dropout.

    They are |sigma score(x_t, t) + z|^2/D. Row i has the noise of number i, whatever
    source[indices[i]] is, the batch size and the devices: two sources are compared with the same
    noise.

    Args:
        score_fn: (params) -> score function.
        process: the perturbation.
        pixel_range, dequantize: as in training; the dequantization, too, is that of number i.
        place: devices; batches are split over them.
        batch_size: images at a time.
    """

    score_fn: Callable[[PyTree], ScoreFn]
    process: Perturbation
    pixel_range: PixelRange
    place: Placement
    batch_size: int
    dequantize: bool = False

    def __call__(
        self,
        params: PyTree,
        key: Key[Array, ""],
        source: Source,
        indices: Int[np.ndarray, "images"],
        times: Float32[np.ndarray, "levels"],
        update: Tick = silent,
    ) -> Float64[np.ndarray, "images levels"]:
        """The losses; `update` is told how many more there are, level after level of a batch."""
        size = batch_size(len(indices), self.batch_size, self.place)
        lengths = iter([min(size, len(indices) - i) for i in range(0, len(indices), size)])

        def at(numbers: np.ndarray) -> Any:
            images = take(source, indices[numbers])["image"]
            return sample_keys(key, jnp.asarray(numbers)), images

        def losses(params: PyTree, rows: Any) -> list[Array]:
            columns, length = [], next(lengths)  # without what the last batch is filled up with
            for level, time in enumerate(times):
                columns.append(self._losses(params, *rows, level, time).block_until_ready())
                update(length)
            return columns

        rows = Rows(len(indices), at)
        columns = over_devices(losses, params, rows, self.batch_size, self.place)
        return np.stack(columns, axis=1).astype(np.float64)

    def compare(
        self,
        params: PyTree,
        key: Key[Array, ""],
        sources: tuple[Source, Source],
        images: int = IMAGES,
        levels: int = LEVELS,
        update: Tick = silent,
    ) -> Levels:
        """Losses of evenly spaced images of (training, held-out) sources at `levels` noise levels.

        `images` of each, and as many of one as of the other. `update` is as in a call.
        """
        count = min(images, *(len(source) for source in sources))
        times = level_times(self.process, levels)
        marginal = self.process.marginal(jnp.asarray(times))
        alphas, sigmas = (np.asarray(v, np.float64) for v in marginal)
        losses = []
        for source in sources:
            indices = np.linspace(0, len(source) - 1, count).astype(int)
            losses.append(self(params, key, source, indices, times, update))
        return Levels(times.astype(np.float64), alphas, sigmas, *losses)

    @functools.cached_property
    def _losses(self):
        # lambda = sigma^2 and the mean over dimensions leave |sigma score + z|^2/D, whatever the
        # training objective is.
        error = DenoisingScoreMatching(
            self.process, UniformTime(self.process), variance_weight(self.process), "mean"
        )

        def losses(params, keys, images, level, time) -> Float[Array, "batch"]:
            if self.dequantize:
                u = uniform(fold_in(keys, 0), images.shape, jnp.float32)
                x0 = self.pixel_range.dequantize(images, u)
            else:
                x0 = self.pixel_range.encode(images)
            z = normal(fold_in(fold_in(keys, 1), level), images.shape, jnp.float32)
            t = jnp.full(len(images), time, jnp.float32)
            return error.at(self.score_fn(params), jnp.asarray(x0), t, z)

        return jax.jit(losses, out_shardings=self.place.whole)
