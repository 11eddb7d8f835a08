"""How often a classifier of noisy images is right, at each noise level."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, PyTree

from score_sde.arrays import fold_in, sample_keys
from score_sde.data import Batch, pipeline
from score_sde.devices import Placement
from score_sde.parallel.loop import Rows, over_devices
from score_sde.training.classifier import Classification


@dataclasses.dataclass(frozen=True, eq=False)
class Accuracy:
    """`accuracy(params, key, times) -> (images, times)`, 1 where the class is the right one.

    Args:
        task: the classifier's.
        batches: of held-out images, made for evaluation.
        place: devices; batches are split over them.
        images: the first so many of the source are used.
    """

    task: Classification
    batches: pipeline.Batches
    place: Placement
    images: int

    @functools.cached_property
    def _correct(self):
        def correct(given: PyTree, batch: Batch) -> Int[Array, "batch times"]:
            params, key, times = given
            keys = sample_keys(key, batch.index)

            def at(number_and_time):
                number, t = number_and_time
                return self.task.correct(params, fold_in(keys, number), batch, t)

            return jax.lax.map(at, (jnp.arange(len(times)), times)).T

        return jax.jit(correct, out_shardings=self.place.whole)

    def __call__(
        self, params: PyTree, key: Key[Array, ""], times: Float[np.ndarray, "times"]
    ) -> Int[np.ndarray, "images times"]:
        """Of all images, in order."""
        rows, size = Rows(self.images, self.batches.examples), self.batches.batch_size
        given = (params, key, jnp.asarray(times, jnp.float32))
        return over_devices(self._correct, given, rows, size, self.place)
