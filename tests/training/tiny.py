"""A trainer so small that its step compiles in a second: a two-layer network on 4 x 4 images."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from score_sde import objectives, parameterize
from score_sde.sde import VP
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
    return ScoreModel(network or Dense(), parameterize.noise_prediction(VP(), parameterize.time_label))


def trainer(
    dropout: float = 0.0,
    optimizer: Any = None,
    network: nn.Module | None = None,
    objective: Any = None,
    **settings: Any,
) -> Trainer:
    """Fits `model` or another network. (optax's Adam mixes types, which the tests forbid.)"""
    sde = VP()
    objective = objective or objectives.DenoisingScoreMatching(
        sde, objectives.UniformTime(sde), objectives.variance_weight(sde)
    )
    return Trainer(
        task=ScoreMatching(model(network or Dense(dropout=dropout)), objective),
        optimizer=optimizer or optax.sgd(0.1, momentum=0.9),
        **{"ema_rate": 0.9, **settings},
    )


def images(*shape: int) -> jax.Array:
    """Images of one simple kind: +-1, all pixels alike."""
    signs = jax.random.rademacher(jax.random.key(7), (*shape, 1, 1, 1)).astype(jnp.float32)
    return jnp.broadcast_to(signs, (*shape, *SHAPE))
