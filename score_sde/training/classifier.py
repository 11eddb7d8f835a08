"""Training of a classifier of noisy images (dissertation 7.5, B.5.9)."""

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, PyTree

from score_sde.arrays import batch_time, fold_in, left_broadcast, normal
from score_sde.data import Batch
from score_sde.guidance import LogProbs
from score_sde.objectives.times import TimeSampler
from score_sde.sde import Perturbation
from score_sde.training import dropout


class Classification(flax.struct.PyTreeNode):
    """The task of minimizing -log p_t(label | x_t), with x_t = alpha x_0 + sigma z.

    The network is given x_t/sqrt(alpha^2 std^2 + sigma^2), which is of size 1 at all times, and the
    noise level sigma/alpha. For VE that is sigma, as published. Under VP sigma tends to 1 and would
    not tell the late times apart. Gradients with respect to x go through the division.

    Args:
        network: (x, sigma/alpha (batch,), train) -> logits (batch, classes).
        process: the perturbation.
        times: t and the weight of its loss, which is 1 for `UniformTime`.
        data_std: std, the standard deviation of pixels.
        centre: whether images in [0, 1] are mapped to [-1, 1] first.

    Source: Song 2022 (dissertation), eq. B.34, B.35; there x_t is not divided.
    """

    network: nn.Module = flax.struct.field(pytree_node=False)
    process: Perturbation = flax.struct.field(pytree_node=False)
    times: TimeSampler = flax.struct.field(pytree_node=False)
    data_std: float = flax.struct.field(pytree_node=False, default=0.5)
    centre: bool = flax.struct.field(pytree_node=False, default=False)

    def init(self, key: Key[Array, ""], shape: tuple[int, ...]) -> PyTree:
        """Fresh parameters of the network."""
        return self.network.init(key, jnp.zeros((1, *shape)), jnp.ones((1,)))["params"]

    def log_probs(self, params: PyTree, keys: Key[Array, "batch"] | None = None) -> LogProbs:
        """(x, t) -> (batch, classes) log p_t(class | x).

        Args:
            params: of the network.
            keys: one an example, turn dropout on.
        """

        def probabilities(x, t):
            alpha, sigma = (v.astype(x.dtype) for v in self.process.marginal(batch_time(t, x)))
            if self.centre:  # alpha (2 x_0 - 1) + 2 sigma z
                x, sigma = 2 * x - left_broadcast(alpha, x), 2 * sigma
            scaled = x / left_broadcast(jnp.sqrt((alpha * self.data_std) ** 2 + sigma**2), x)
            arguments: tuple[Any, ...] = ({"params": params}, scaled, sigma / alpha)
            logits: Any
            if keys is None:
                logits = self.network.apply(*arguments, train=False)
            else:
                logits = dropout.apply(self.network, keys, *arguments)
            return jax.nn.log_softmax(logits, axis=1)

        return probabilities

    def losses(
        self, params: PyTree, keys: Key[Array, "batch"], batch: Batch, train: bool
    ) -> Float[Array, "batch"]:
        """Cross entropy of each image at a random time, with the example's own key."""
        x0 = jnp.asarray(batch.image)
        t, w = self.times(fold_in(keys, 0), len(x0))
        every = self.log_probs(params, fold_in(keys, 2) if train else None)
        found = every(self.perturbed(fold_in(keys, 1), x0, t), t)
        return -w * jnp.take_along_axis(found, batch.label[:, None], axis=1)[:, 0]

    def correct(
        self, params: PyTree, keys: Key[Array, "batch"], batch: Batch, t: Float[Array, ""]
    ) -> Int[Array, "batch"]:
        """1 where the most probable class of the image at time t is its own, else 0."""
        x = self.perturbed(fold_in(keys, 1), jnp.asarray(batch.image), t)
        return (self.log_probs(params)(x, t).argmax(axis=1) == batch.label).astype(jnp.int32)

    def perturbed(self, keys: Key[Array, "batch"], x0: Array, t: Array) -> Array:
        """x_t with noise of these keys."""
        return self.process.perturb(x0, t, normal(keys, x0.shape, x0.dtype))
