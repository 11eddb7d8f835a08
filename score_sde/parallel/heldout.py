"""The held-out loss: the training objective on images that training never sees, without dropout."""

import dataclasses
import functools

import jax
import numpy as np
from jaxtyping import Array, Float, Key, PyTree

from score_sde.arrays import sample_keys
from score_sde.data import Batch, pipeline
from score_sde.devices import Placement
from score_sde.parallel.loop import Rows, over_devices
from score_sde.training.step import Task


@dataclasses.dataclass(frozen=True, eq=False)
class HeldoutLoss:
    """`heldout(params, key) -> losses (passes, images)`.

    The same key gives the same times and noise. So curves over training steps have no noise beyond
    what the choice of times and noise fixes. Example i of the source has the key fold_in(key of the
    pass, i): its loss depends neither on the batch size nor on the devices nor on other images.

    Args:
        task: gives the losses.
        batches: of held-out images, made for evaluation; they give the images and the batch size.
        place: devices; batches are split over them.
        images: the first so many of the source are used.
        passes: times and noises drawn for each image.
    """

    task: Task
    batches: pipeline.Batches
    place: Placement
    images: int
    passes: int = 1

    @functools.cached_property
    def _losses(self):
        def losses(given: PyTree, batch: Batch) -> Float[Array, "batch"]:
            task, params, key = given
            return task.losses(params, sample_keys(key, batch.index), batch, False)

        return jax.jit(losses, out_shardings=self.place.whole)

    def __call__(self, params: PyTree, key: Key[Array, ""]) -> Float[np.ndarray, "passes images"]:
        """Losses of all images, in order."""
        rows, size = Rows(self.images, self.batches.examples), self.batches.batch_size

        def losses(number: int) -> np.ndarray:
            given = (self.task, params, jax.random.fold_in(key, number))
            return over_devices(self._losses, given, rows, size, self.place)

        return np.stack([losses(number) for number in range(self.passes)])
