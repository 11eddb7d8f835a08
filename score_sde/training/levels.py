"""The denoising loss at each noise level, on training and on held-out images: where a model has learned its images by heart."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Float32, Float64, Int, Key, PyTree

from score_sde.data import PixelRange, Source, take
from score_sde.objectives import DenoisingScoreMatching, LogSNRUniform, UniformTime, variance_weight
from score_sde.sde import GaussianSDE, Perturbation
from score_sde.training.sharding import put_whole, replicated
from score_sde.types import ScoreFn, fold_in, normal, sample_keys, uniform

IMAGES, LEVELS = 256, 12
"""Images of each set and noise levels, unless told otherwise."""


@dataclasses.dataclass(frozen=True, eq=False)
class Levels:
    """E|sigma score + z|^2/D, the mean square error of the predicted noise: 1 is what the score 0 gives, 0 is perfect.

    Row i of `train` and row i of `heldout` are losses with one and the same noise, so their difference is known better than
    either of them.

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
        """For JSON, one for each level: time, alpha, sigma, and of train, heldout and gap = heldout - train the mean and error.

        Standard errors are those of a mean over images. None: not finite, or the error of a single image.
        """
        columns = {"time": self.times, "alpha": self.alphas, "sigma": self.sigmas}
        n = len(self.train)
        for name, losses in (
            ("train", self.train),
            ("heldout", self.heldout),
            ("gap", self.heldout - self.train),
        ):
            columns[name] = losses.mean(axis=0)
            squares = ((losses - columns[name][None]) ** 2).sum(axis=0)
            columns[f"{name}_error"] = np.sqrt(squares / (n * (n - 1))) if n > 1 else squares * np.nan
        return [
            {name: float(v[i]) if np.isfinite(v[i]) else None for name, v in columns.items()}
            for i in range(len(self.times))
        ]


def level_times(process: Perturbation, count: int = LEVELS) -> Float32[np.ndarray, "levels"]:
    """Times from t_min to t_max, evenly spaced in log-SNR; of a discrete chain up to `count` evenly spaced indices."""
    if isinstance(process, GaussianSDE):
        times, _ = LogSNRUniform(process).at(jnp.linspace(0, 1, count, dtype=jnp.float32))
        return np.asarray(times)
    return np.unique(np.rint(np.linspace(process.t_min, process.t_max, count))).astype(np.float32)


@dataclasses.dataclass(frozen=True, eq=False)
class LevelLosses:
    """`losses(params, key, source, indices, times) -> (images, levels)`: |sigma score(x_t, t) + z|^2/D without dropout.

    Row i has the noise of number i, whatever source[indices[i]] is, the batch size and the devices: two sources are
    compared with the same noise.

    Args:
        score_fn: (params) -> score function.
        process: the perturbation.
        pixel_range, dequantize: as in training; the dequantization, too, is that of number i.
        mesh: devices; batches are split over them.
        batch_size: images at a time, a multiple of the devices; the last batch is filled up and the filling left out.
    """

    score_fn: Callable[[PyTree], ScoreFn]
    process: Perturbation
    pixel_range: PixelRange
    mesh: Mesh
    batch_size: int
    dequantize: bool = False

    def __call__(
        self,
        params: PyTree,
        key: Key[Array, ""],
        source: Source,
        indices: Int[np.ndarray, "images"],
        times: Float32[np.ndarray, "levels"],
        update: Callable[[int], Any] = lambda done: None,
    ) -> Float64[np.ndarray, "images levels"]:
        """The losses; `update` is told of every finished batch how many losses there are more."""
        parts = []
        for first in range(0, len(indices), self.batch_size):
            numbers = np.arange(first, min(first + self.batch_size, len(indices)))
            filled = np.resize(numbers, self.batch_size)
            images = take(source, indices[filled])["image"]
            keys, images = put_whole((sample_keys(key, jnp.asarray(filled)), images), self.mesh)
            columns = []
            for level, time in enumerate(times):
                columns.append(np.asarray(self._losses(params, keys, images, level, time))[: len(numbers)])
                update(len(numbers))
            parts.append(np.stack(columns, axis=1))
        return np.concatenate(parts).astype(np.float64)

    def compare(
        self,
        params: PyTree,
        key: Key[Array, ""],
        train: Source,
        heldout: Source,
        images: int = IMAGES,
        levels: int = LEVELS,
        update: Callable[[int], Any] = lambda done: None,
    ) -> Levels:
        """The losses of evenly spaced images of both sources, as many of one as of the other, at `levels` noise levels."""
        count = min(images, len(train), len(heldout))
        times = level_times(self.process, levels)
        alphas, sigmas = (np.asarray(v, np.float64) for v in self.process.marginal(jnp.asarray(times)))
        losses = [
            self(params, key, source, np.linspace(0, len(source) - 1, count).astype(int), times, update)
            for source in (train, heldout)
        ]
        return Levels(times.astype(np.float64), alphas, sigmas, *losses)

    @functools.cached_property
    def _losses(self):
        # lambda = sigma^2 and the mean over dimensions leave |sigma score + z|^2/D, whatever the training objective is.
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

        return jax.jit(losses, out_shardings=replicated(self.mesh))
