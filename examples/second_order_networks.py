"""What the two figures of `second_order.py` share: networks, objectives, training."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from score_sde.curvature import Dense, LowRank
from score_sde.objectives import DenoisingScoreMatching, SecondOrderDenoising, UniformIndex
from score_sde.sde import DiscreteChain


class Tanh(nn.Module):
    """Three linear maps with tanh in between (section B.2)."""

    hidden: int
    outputs: int

    @nn.compact
    def __call__(self, x):
        for _ in range(2):
            x = nn.tanh(nn.Dense(self.hidden)(x))
        return nn.Dense(self.outputs)(x)


def score_of(network: Tanh, params: Any):
    """s1 as a function of (x, t)."""
    return lambda x, t: network.apply(params, x)


def low_rank_of(network: Tanh, params: Any):
    """s2 = diag(a) + B B^T with as many columns as the outputs give (section 4.4.2)."""

    def curvature(x, t):
        made = network.apply(params, x).reshape(*x.shape, -1)
        columns = made[..., 1:] / x.shape[1] ** 0.5  # so that B B^T is of the size of a when born
        return LowRank(made[..., 0], columns if columns.shape[-1] else None)

    return curvature


def matrix_of(network: Tanh, params: Any):
    """s2 as a symmetric matrix, for the plane."""

    def curvature(x, t):
        made = network.apply(params, x).reshape(*x.shape, -1)
        return Dense(0.5 * (made + made.swapaxes(1, 2)))

    return curvature


class Training(NamedTuple):
    """How a network is trained: by Adam with the rate 1e-3, or one that falls from it to 0.

    target: of a direct s2, as `objectives` has it.
    """

    steps: int
    batch: int
    falling: bool = False
    target: str = "noise"


def fit(keys: jax.Array, create: Callable, loss: Callable, how: Training, given: Any = ()):
    """Adam on loss(params, key, given), from create(key), for all keys at once.

    `given` has one row a key.

    Returns the parameters, one row a key, and the seconds of one of them, compilation included.
    """
    optimizer = optax.adam(optax.cosine_decay_schedule(1e-3, how.steps) if how.falling else 1e-3)

    @jax.jit
    @jax.vmap
    def run(key, given):
        def step(carry, key):
            params, state = carry
            updates, state = optimizer.update(jax.grad(loss)(params, key, given), state, params)
            return (optax.apply_updates(params, updates), state), None

        params, keys = create(key), jax.random.split(jax.random.fold_in(key, 1), how.steps)
        return jax.lax.scan(step, (params, optimizer.init(params)), keys)[0][0]

    began = time.perf_counter()
    params = jax.block_until_ready(run(keys, given))
    return params, (time.perf_counter() - began) / len(keys)


def objectives(chain: DiscreteChain, reduced: bool, form: str, target: str = "noise"):
    """(first, second) with the weight 1 at all noise levels, as published.

    target: of the second; `noise` is the published one.
    """
    times = UniformIndex(chain)
    first = DenoisingScoreMatching(chain, times, jnp.ones_like, "sum", reduced)
    return first, SecondOrderDenoising(chain, times, jnp.ones_like, form, reduced, target=target)


def spread(values: np.ndarray) -> str:
    """Mean and standard error over seeds."""
    values = np.asarray(values)
    error = values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else np.nan
    return f"{values.mean():.3g} +- {error:.2g}"
