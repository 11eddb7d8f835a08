"""Bits/dim of discrete images: dequantize, evaluate, one row for each image."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Int, Key, PyTree

from score_sde.data import Source
from score_sde.data.pixels import PixelRange
from score_sde.data.sources import take
from score_sde.likelihood.bound import Bound
from score_sde.likelihood.dequantize import Dequantizer, Uniform
from score_sde.likelihood.ode import ODELikelihood
from score_sde.likelihood.rows import Rows
from score_sde.training.sharding import put_whole, replicated
from score_sde.types import ScoreFn, fold_in, sample_keys


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluator:
    """`evaluator(params, key, indices, number_of_pass) -> rows`.

    A level k becomes (k + u)/levels of the pixel range with u from q(u | image), and -(log p - log q) there, in bits per
    dimension and units of the level's width, is an upper bound of -log2 P(image)/D in expectation over u (eq. 9.13).
    Noise and probes of an image depend on the key, its index and the pass alone: not on the batch or the devices.

    Args:
        score_fn: (params) -> score function.
        source: images.
        pixel_range: their range and levels.
        mesh: devices; batches are split over them.
        batch_size: images at a time, a multiple of the devices; the last batch is filled up and the filling left out.
        ode: exact likelihood, or None to leave it out.
        bound: variational bound, or None to leave it out.
        dequantizer: makes u and log q.
    """

    score_fn: Callable[[PyTree], ScoreFn]
    source: Source
    pixel_range: PixelRange
    mesh: Mesh
    batch_size: int
    ode: ODELikelihood | None
    bound: Bound | None
    dequantizer: Dequantizer = dataclasses.field(default_factory=Uniform)

    def __call__(
        self, params: PyTree, key: Key[Array, ""], indices: Int[np.ndarray, "n"], number_of_pass: int
    ) -> Rows:
        """Rows of up to `batch_size` images: index, label, pass, and the columns of what is evaluated.

        log_q (nats, of the dequantization).
        ODE: logp (nats, of the dequantized image), bits_per_dim, standard_error (bits/dim, of the probes), nfe, success.
        Bound: bound_bits_per_dim.
        """
        filled = np.resize(indices, self.batch_size)
        examples = take(self.source, filled)
        keys = sample_keys(jax.random.fold_in(key, number_of_pass), jnp.asarray(filled))
        keys, images = put_whole((keys, examples["image"]), self.mesh)
        columns = self._columns(self.dequantizer, params, keys, images)
        rows = {name: np.asarray(values)[: len(indices)] for name, values in columns.items()}
        labels = examples["label"][: len(indices)]
        return {"index": indices, "label": labels, "pass": np.full(len(indices), number_of_pass), **rows}

    @functools.cached_property
    def _columns(self):
        def columns(dequantizer, params, keys, images):
            score_fn, dimensions = self.score_fn(params), images[0].size
            u, log_q = dequantizer(fold_in(keys, 0), images)
            x = jnp.asarray(self.pixel_range.dequantize(images, u))
            result: dict[str, Array] = {"log_q": log_q}
            if self.ode is not None:
                found = self.ode(fold_in(keys, 1), score_fn, x)
                result |= {
                    "logp": found.logp,
                    "bits_per_dim": self.pixel_range.bits_per_dim(found.logp - log_q, dimensions),
                    "standard_error": found.standard_error / (dimensions * np.log(2).item()),
                    "nfe": found.nfe,
                    "success": found.success,
                }
            if self.bound is not None:
                nats = self.bound(fold_in(keys, 2), score_fn, x)
                result["bound_bits_per_dim"] = self.pixel_range.bits_per_dim(-nats - log_q, dimensions)
            return result

        return jax.jit(columns, out_shardings=replicated(self.mesh))
