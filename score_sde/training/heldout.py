"""The held-out loss: the training objective on images that training never sees, without dropout."""

import dataclasses
import functools

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Key, PyTree

from score_sde.data import PixelRange, Source, pipeline
from score_sde.training.sharding import put_batch, replicated
from score_sde.training.step import Trainer


@dataclasses.dataclass(frozen=True, eq=False)
class HeldoutLoss:
    """`heldout(params, key, frozen) -> losses (passes, images)`; the same key gives the same times and noise.

    So curves over training steps have no noise of their own beyond what the choice of times and noise fixes.

    Args:
        trainer: gives the losses; `frozen` is what they need beside the parameters.
        source: held-out images; the first `images` of them are used.
        pixel_range, dequantize, seed: as in training.
        batch_size: a multiple of the devices; the last batch is filled up and the filling left out.
        passes: times and noises drawn for each image.
    """

    trainer: Trainer
    source: Source
    pixel_range: PixelRange
    mesh: Mesh
    batch_size: int
    images: int
    passes: int = 1
    dequantize: bool = False
    seed: int = 0

    @functools.cached_property
    def _losses(self):
        return jax.jit(self.trainer.eval_losses, out_shardings=replicated(self.mesh))

    def __call__(
        self, params: PyTree, key: Key[Array, ""], frozen: PyTree = None
    ) -> Float[np.ndarray, "passes images"]:
        """Losses of all images, in order."""
        keys = [jax.random.fold_in(key, i) for i in range(self.passes)]
        return np.stack([self._pass(params, key, frozen) for key in keys])

    def _pass(self, params: PyTree, key: Key[Array, ""], frozen: PyTree) -> np.ndarray:
        devices = self.mesh.size
        size = min(self.batch_size, -(-self.images // devices) * devices)  # no larger than the images need
        batches = pipeline.batches(
            self.source, self.pixel_range, size, self.seed, train=False, dequantize=self.dequantize
        )
        share = size // jax.process_count()
        mine = slice(jax.process_index() * share, (jax.process_index() + 1) * share)
        losses: list[np.ndarray] = []
        for i in range(-(-self.images // size)):
            images = next(batches)["image"]
            filling = np.zeros((size - len(images), *images.shape[1:]), images.dtype)
            batch = put_batch(np.concatenate([images, filling])[mine], self.mesh)
            losses.append(np.asarray(self._losses(params, jax.random.fold_in(key, i), batch, frozen)))
        return np.concatenate(losses)[: self.images]
