"""Training so small that its step compiles in a second: a two-layer network on 4 x 4 images."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from score_sde import objectives, parameterize
from score_sde.arrays import sample_keys
from score_sde.data import Batch
from score_sde.sde import VP
from score_sde.training.ema import Average
from score_sde.training.step import ScoreMatching, ScoreModel, Trainer

SHAPE = (4, 4, 1)


class Dense(nn.Module):
    """Pixels and label through one hidden layer, with dropout."""

    hidden: int = 32
    dropout: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, labels: jax.Array, train: bool = False) -> jax.Array:
        h = jnp.concatenate([x.reshape(len(x), -1), labels[:, None] / 999], axis=1)
        h = nn.swish(nn.Dense(self.hidden, param_dtype=self.dtype)(h))
        h = nn.Dropout(self.dropout, deterministic=not train)(h)
        return nn.Dense(x[0].size, param_dtype=self.dtype)(h).reshape(x.shape)


def model(network: nn.Module | None = None) -> ScoreModel:
    """A noise predictor on the VP process."""
    label = parameterize.time_label
    return ScoreModel(network or Dense(), parameterize.noise_prediction(VP(), label))


def task(
    dropout: float = 0.0, network: nn.Module | None = None, objective: Any = None
) -> ScoreMatching:
    """Fits `model` or another network."""
    sde = VP()
    usual = objectives.DenoisingScoreMatching(
        sde, objectives.UniformTime(sde), objectives.variance_weight(sde)
    )
    return ScoreMatching(model(network or Dense(dropout=dropout)), objective or usual)


def trainer(optimizer: Any = None, averages: tuple[Average, ...] = (Average(0.9),)) -> Trainer:
    """Momentum. (optax's Adam mixes types, which the tests forbid.)"""
    return Trainer(optimizer or optax.sgd(0.1, momentum=0.9), averages)


def batch(*shape: int) -> Batch:
    """Images of one kind, +-1 with all pixels alike; `shape` is (batch,) or (steps, batch)."""
    signs = jax.random.rademacher(jax.random.key(7), (*shape, 1, 1, 1)).astype(jnp.float32)
    return of(jnp.broadcast_to(signs, (*shape, *SHAPE)))


def of(images: Any) -> Batch:
    """A batch of these images, or several stacked ones, without labels and numbered from 0."""
    number = jnp.broadcast_to(jnp.arange(images.shape[-4], dtype=jnp.int32), images.shape[:-3])
    return Batch(images, jnp.zeros_like(number), number)


def keys(key: jax.Array, count: int) -> jax.Array:
    """The keys of the first examples."""
    return sample_keys(key, jnp.arange(count))
