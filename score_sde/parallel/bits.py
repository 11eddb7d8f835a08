"""Bits/dim of discrete images over a device mesh: dequantize, evaluate, one row for each image."""

import dataclasses
import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key, PyTree

from score_sde.arrays import ScoreFn, fold_in, sample_keys
from score_sde.data import Source
from score_sde.data.pixels import PixelRange
from score_sde.data.sources import take
from score_sde.devices import Placement
from score_sde.likelihood.bound import Bound
from score_sde.likelihood.dequantize import Dequantizer, Uniform
from score_sde.likelihood.ode import ODELikelihood
from score_sde.parallel.loop import Rows, each_batch


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluator:
    """`evaluator(params, key, indices, number_of_pass)` makes columns, batch after batch.

    A level k becomes (k + u)/levels of the pixel range with u from q(u | image). There -(log p -
    log q) is taken in bits per dimension and units of the level's width. Its expectation over u is
    an upper bound of -log2 P(image)/D (eq. 9.13). Noise and probes of an image depend on the key,
    its index and the pass alone: not on the batch or the devices.

    Args:
        score_fn: (params) -> score function.
        source: images.
        pixel_range: their range and levels.
        place: devices; batches are split over them.
        batch_size: images at a time.
        ode: exact likelihood, or None to leave it out.
        bound: variational bound, or None to leave it out.
        dequantizer: makes u and log q.
    """

    score_fn: Callable[[PyTree], ScoreFn]
    source: Source
    pixel_range: PixelRange
    place: Placement
    batch_size: int
    ode: ODELikelihood | None
    bound: Bound | None
    dequantizer: Dequantizer = dataclasses.field(default_factory=Uniform)

    def __call__(
        self,
        params: PyTree,
        key: Key[Array, ""],
        indices: Int[np.ndarray, "n"],
        number_of_pass: int,
    ) -> Iterator[dict[str, np.ndarray]]:
        """Columns of the images with these indices, up to `batch_size` rows at a time.

        index, label, pass. log_q: nats, of the dequantization. ODE: logp (nats, of the dequantized
        image), bits_per_dim, standard_error (bits/dim, of the probes), nfe, success. Bound:
        bound_bits_per_dim.
        """
        key = jax.random.fold_in(key, number_of_pass)

        def at(numbers):
            examples, chosen = take(self.source, indices[numbers]), indices[numbers]
            labels = np.asarray(examples["label"])
            return sample_keys(key, jnp.asarray(chosen)), examples["image"], labels

        rows, given = Rows(len(indices), at), (self.dequantizer, params)
        for part, columns in each_batch(self._columns, given, rows, self.batch_size, self.place):
            count = part.stop - part.start
            passes = np.full(count, number_of_pass)
            yield {"index": indices[part], "label": columns.pop("label"), "pass": passes, **columns}

    def reading(self, source: Source) -> "Evaluator":
        """The same for images of another source; what is compiled is shared."""
        other = dataclasses.replace(self, source=source)
        other.__dict__["_columns"] = self._columns
        return other

    @functools.cached_property
    def _columns(self):
        def columns(given, rows):
            (dequantizer, params), (keys, images, labels) = given, rows
            score_fn, dimensions = self.score_fn(params), images[0].size
            u, log_q = dequantizer(fold_in(keys, 0), images)
            x = jnp.asarray(self.pixel_range.dequantize(images, u))
            result: dict[str, Array] = {"label": labels, "log_q": log_q}
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
                bits = self.pixel_range.bits_per_dim(-nats - log_q, dimensions)
                result["bound_bits_per_dim"] = bits
            return result

        return jax.jit(columns, out_shardings=self.place.whole)
