"""What a training step will cost, from shapes alone: nothing is compiled or run."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from score_sde.training.step import ScoreModel, Trainer


def count(tree: PyTree) -> int:
    """Number of array entries."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def count_bytes(tree: PyTree) -> int:
    """Bytes of all arrays."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def estimate(
    trainer: Trainer, model: ScoreModel, shape: tuple[int, int, int], batch_size: int
) -> dict[str, Any]:
    """Costs of training `model` on a batch of one device.

    Returns:
        parameters: number of weights. state_bytes: weights, moving average and optimizer. activation_bytes: what the forward
        pass keeps for the backward pass (an upper bound: the compiler may compute some again). forward_flops: one network
        evaluation on one image, as XLA counts them before optimizing. step_flops: three times that, for the batch.
    """
    state = jax.eval_shape(lambda: trainer.init(jax.random.key(0), shape))
    one, two = (jax.ShapeDtypeStruct((n, *shape), jnp.float32) for n in (1, 2))

    def residuals(params, images):
        return jax.vjp(lambda p: trainer.loss(p, jax.random.key(0), images), params)[1]

    def forward(params, images):
        return model.score_fn(params)(images, jnp.full((1,), 0.5))

    # What does not grow with the batch are weights.
    kept = [count_bytes(jax.eval_shape(residuals, state.params, images)) for images in (one, two)]
    analysis: Any = jax.jit(forward).lower(state.params, one).cost_analysis()
    flops = analysis["flops"]
    return {
        "parameters": count(state.params),
        "state_bytes": count_bytes(state),
        "activation_bytes": batch_size * (kept[1] - kept[0]),
        "forward_flops": flops,
        "step_flops": 3 * flops * batch_size,
    }
