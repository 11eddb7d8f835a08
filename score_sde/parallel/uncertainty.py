"""Denoised images with their uncertainty over a device mesh, and whether it has the right size."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Integer, Key, PyTree

from score_sde.arrays import Keys, ScoreFn, batch_time, fold_in, normal, sample_keys, uniform
from score_sde.curvature import (
    CurvatureFn,
    Dense,
    LowRank,
    Product,
    estimate_diagonal,
    exact_directions,
    jacobian_of,
    subspace_directions,
    tweedie_covariance,
)
from score_sde.data import PixelRange
from score_sde.devices import Placement
from score_sde.parallel.loop import Rows, Tick, over_devices, silent
from score_sde.sde import Perturbation

WHOLE = 256
"""The largest D of which a whole matrix is made for each image; then everything is exact."""
EXTRA, STEPS, PROBES = 4, 20, 64
"""Above it: further vectors and steps of subspace iteration, and random directions of variances."""


@dataclasses.dataclass(frozen=True, eq=False)
class Uncertainty:
    """E[x_0 | x_t] and what is known of Cov[x_0 | x_t], for images with noise of one time.

    Image i has noise of the key fold_in(key, i), whatever the batch size and the devices are.

    Args:
        process: the perturbation.
        score_fn: (params) -> s1.
        covariance_fn: (params) -> the covariance; None takes it from the derivative of s1, made
            symmetric (eq. 4.18).
        pixel_range, dequantize: of the images, as in training.
        directions: how many principal directions, at most D, and D - 4 for D above 256.
        place: devices; batches are split over them.
        batch_size: images at a time.
    """

    process: Perturbation
    score_fn: Callable[[PyTree], ScoreFn]
    covariance_fn: Callable[[PyTree], CurvatureFn] | None
    pixel_range: PixelRange
    dequantize: bool
    directions: int
    place: Placement
    batch_size: int

    def __call__(
        self,
        params: PyTree,
        key: Key[Array, ""],
        images: Integer[np.ndarray, "images h w c"],
        time: float,
        tick: Tick = silent,
    ) -> dict[str, np.ndarray]:
        """Columns, one row for each image.

        clean, noisy (x_t), mean (E[x_0 | x_t]), variance (the diagonal of the covariance): of the
        shape of the image. values (k,), vectors (k, h, w, c), residuals (k,): see `Directions`.
        Variances of a covariance that is no exact one may be negative, and are kept.
        """
        numbers = jnp.arange(len(images))
        rows = Rows.of((sample_keys(key, numbers), images))
        given = (params, jnp.asarray(time, jnp.float32))
        return over_devices(self._columns, given, rows, self.batch_size, self.place, tick)

    @functools.cached_property
    def _columns(self):
        def columns(given, rows):
            (params, time), (keys, images) = given, rows
            x0 = jnp.asarray(self.pixel_range.encode(images))
            if self.dequantize:
                u = uniform(fold_in(keys, 0), images.shape, jnp.float32)
                x0 = jnp.asarray(self.pixel_range.dequantize(images, u))
            t = batch_time(time, x0)
            x = self.process.perturb(x0, t, normal(fold_in(keys, 1), x0.shape, x0.dtype))
            score = self.score_fn(params)(x, t)
            covariance = self.covariance(params, x, t)
            found = principal(fold_in(keys, 2), covariance, self.directions)
            return {
                "clean": x0,
                "noisy": x,
                "mean": self.process.tweedie(x, t, score),
                "variance": variances(fold_in(keys, 3), covariance),
                **found._asdict(),
            }

        # Left to itself, XLA gathers all rows on every device to decompose their matrices.
        rows = self.place.rows().spec
        split = jax.shard_map(
            columns,
            mesh=self.place.mesh,
            in_specs=(PartitionSpec(), rows),
            out_specs=rows,
            check_vma=False,
        )
        return jax.jit(split, out_shardings=self.place.whole)

    def covariance(
        self, params: PyTree, x: Float[Array, "batch ..."], t: Float[Array, "batch"]
    ) -> LowRank | Dense | Product:
        """Cov[x_0 | x_t = x]; a whole matrix by derivatives of s1 up to D = 256."""
        if self.covariance_fn is not None:
            return self.covariance_fn(params)(x, t)
        score_fn = self.score_fn(params)
        if math.prod(x.shape[1:]) <= WHOLE:
            return tweedie_covariance(self.process, _matrix(jacobian_of(score_fn, x, t)), t)
        s2 = jacobian_of(score_fn, x, t, symmetrize=True)
        return tweedie_covariance(self.process, s2, t)


def _matrix(operator: Product) -> Dense:
    """The whole symmetric part, by products one after the other."""
    event, d, batch = operator.event, math.prod(operator.event), len(operator.like)
    units = jnp.eye(d, dtype=operator.like.dtype).reshape(d, *event)

    def column(unit):
        return operator.product(jnp.broadcast_to(unit[None], operator.like.shape))

    matrix = jax.lax.map(column, units).reshape(d, batch, d).swapaxes(0, 1)
    return Dense((0.5 * (matrix + matrix.swapaxes(1, 2))).reshape(batch, *event, *event))


def principal(keys: Keys, covariance: LowRank | Dense | Product, k: int) -> Any:
    """k principal directions: by decomposition up to D = 256, by subspace iteration above."""
    if math.prod(covariance.event) <= WHOLE:
        return exact_directions(covariance, k)
    return subspace_directions(keys, covariance, k, STEPS, EXTRA)


def variances(keys: Keys, covariance: LowRank | Dense | Product) -> Float[Array, "batch ..."]:
    """The diagonal; of a map that is known by products alone, an unbiased estimate."""
    if isinstance(covariance, Product):
        return estimate_diagonal(keys, covariance, PROBES)
    return covariance.diagonal


def largest_count(d: int) -> int:
    """The most principal directions of images of D pixel values."""
    return d if d <= WHOLE else d - EXTRA


def calibration(columns: Mapping[str, np.ndarray], directions: int = 5) -> dict[str, Any]:
    """Predicted over true squared errors of the denoised image, in all and along directions.

    Each is a ratio of means over images: tr Cov to |x_0 - E|^2, and an eigenvalue to the square of
    the error along its vector. It is 1 where the covariance is right. Above 1 the model is too
    unsure, below 1 too sure.

    Args:
        columns: of `Uncertainty`.
        directions: the first so many.

    Returns:
        "whole" and "directions": predicted and true mean squares, their ratio and its standard
        error, None for a single image.
    """
    axes = tuple(range(1, columns["clean"].ndim))
    error = columns["clean"].astype(np.float64) - columns["mean"]
    trace = columns["variance"].astype(np.float64).sum(axis=axes)
    vectors = columns["vectors"][:, :directions].astype(np.float64)
    along = np.einsum("nkd,nd->nk", vectors.reshape(*vectors.shape[:2], -1), _flat(error)) ** 2
    values = columns["values"].astype(np.float64)
    return {
        "whole": _ratio(trace, (error**2).sum(axis=axes)),
        "directions": [_ratio(values[:, i], along[:, i]) for i in range(along.shape[1])],
    }


def _flat(x: np.ndarray) -> np.ndarray:
    return x.reshape(len(x), -1)


def _ratio(predicted: np.ndarray, true: np.ndarray) -> dict[str, float | None]:
    """mean(predicted)/mean(true); its error is that of the mean of predicted - ratio true."""
    n, mean = len(true), float(true.mean())
    ratio = float(predicted.mean()) / mean if mean > 0 else math.nan
    error = None
    if n > 1 and mean > 0:
        error = float((predicted - ratio * true).std(ddof=1)) / math.sqrt(n) / mean
    return {
        "predicted": float(predicted.mean()),
        "true": mean,
        "ratio": ratio,
        "standard_error": error,
    }
