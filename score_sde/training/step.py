"""One training step, several of them in one call, and the held-out loss: pure functions for `jax.jit`."""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key, PyTree

from score_sde.parameterize import Parameterization
from score_sde.training.ema import ema_decay, ema_update
from score_sde.training.state import TrainState
from score_sde.types import ScoreFn

Objective = Callable[[Key[Array, ""], ScoreFn, Float[Array, "batch ..."]], Float[Array, "batch"]]


@dataclasses.dataclass(frozen=True, eq=False)
class ScoreModel:
    """A network and what turns its output into a score.

    Args:
        network: flax module called as network(x, labels, train).
        parameterization: turns its output into a score.
    """

    network: nn.Module
    parameterization: Parameterization

    def init(self, key: Key[Array, ""], shape: tuple[int, ...]) -> PyTree:
        """Fresh parameters for images of `shape` (height, width, channels)."""
        return self.network.init(key, jnp.zeros((1, *shape)), jnp.ones((1,)))["params"]

    def score_fn(self, params: PyTree, dropout_key: Key[Array, ""] | None = None) -> ScoreFn:
        """The network's score; with a dropout key in training mode, else in evaluation mode."""
        train = dropout_key is not None
        rngs: Any = {"dropout": dropout_key} if train else None

        def network(x, labels):
            return self.network.apply({"params": params}, x, labels, train=train, rngs=rngs)

        return self.parameterization.score_fn(network)


class Task(Protocol):
    """What is trained: parameters and a loss for each image."""

    def init(self, key: Key[Array, ""], shape: tuple[int, ...]) -> PyTree:
        """Fresh parameters for images of `shape` (height, width, channels)."""
        ...

    def losses(
        self,
        params: PyTree,
        key: Key[Array, ""],
        images: Float[Array, "batch h w c"],
        frozen: PyTree = None,
        train: bool = False,
    ) -> Float[Array, "batch"]:
        """Loss of each image. `frozen`: what it needs and does not train. `train`: with dropout."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class ScoreMatching:
    """The task of fitting a score model by an objective (key, score_fn, x0) -> per-example loss."""

    model: ScoreModel
    objective: Objective

    def init(self, key: Key[Array, ""], shape: tuple[int, ...]) -> PyTree:
        """Fresh parameters of the network."""
        return self.model.init(key, shape)

    def losses(
        self,
        params: PyTree,
        key: Key[Array, ""],
        images: Float[Array, "batch h w c"],
        frozen: PyTree = None,
        train: bool = False,
    ) -> Float[Array, "batch"]:
        """The objective; nothing is frozen."""
        if not train:
            return self.objective(key, self.model.score_fn(params), images)
        key_dropout, key_objective = jax.random.split(key)
        return self.objective(key_objective, self.model.score_fn(params, key_dropout), images)


@dataclasses.dataclass(frozen=True, eq=False)
class Trainer:
    """A task and its optimizer, joined.

    Args:
        task: gives parameters and losses.
        optimizer: optax transformation.
        ema_rate, ema_warmup: see `ema_decay`.
    """

    task: Task
    optimizer: optax.GradientTransformation
    ema_rate: float
    ema_warmup: bool = True

    def init(self, key: Key[Array, ""], shape: tuple[int, ...]) -> TrainState:
        """Fresh state for images of `shape` (height, width, channels)."""
        params = self.task.init(key, shape)
        copy = jax.tree.map(jnp.copy, params)  # a buffer may be donated once only
        return TrainState(jnp.zeros((), jnp.int32), params, copy, self.optimizer.init(params))

    def loss(
        self,
        params: PyTree,
        key: Key[Array, ""],
        images: Float[Array, "batch h w c"],
        frozen: PyTree = None,
    ) -> Float[Array, ""]:
        """Mean training loss of a batch."""
        return jnp.mean(self.task.losses(params, key, images, frozen, train=True))

    def step(
        self,
        state: TrainState,
        key: Key[Array, ""],
        images: Float[Array, "batch h w c"],
        frozen: PyTree = None,
    ) -> tuple[TrainState, dict[str, Array]]:
        """One update with the run's `key`; returns the new state and {"loss", "grad_norm"}."""
        key = jax.random.fold_in(key, state.step)
        loss, grads = jax.value_and_grad(self.loss)(state.params, key, images, frozen)
        updates, opt_state = self.optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        decay = ema_decay(state.step + 1, self.ema_rate, self.ema_warmup)
        ema_params = ema_update(state.ema_params, params, decay)
        metrics = {"loss": loss, "grad_norm": optax.global_norm(grads)}
        return TrainState(state.step + 1, params, ema_params, opt_state), metrics

    def steps(
        self,
        state: TrainState,
        key: Key[Array, ""],
        images: Float[Array, "steps batch h w c"],
        frozen: PyTree = None,
    ) -> tuple[TrainState, dict[str, Array]]:
        """One update per leading entry of `images`, in one call; metrics (steps,).

        Several steps per call hide the dispatch on accelerators. On CPUs they are to be avoided: XLA computes gradients of
        convolutions in a loop body some twenty times slower.
        """
        if images.shape[0] == 1:
            state, metrics = self.step(state, key, images[0], frozen)
            return state, {name: value[None] for name, value in metrics.items()}
        return jax.lax.scan(lambda state, batch: self.step(state, key, batch, frozen), state, images)

    def eval_losses(
        self,
        params: PyTree,
        key: Key[Array, ""],
        images: Float[Array, "batch h w c"],
        frozen: PyTree = None,
    ) -> Float[Array, "batch"]:
        """Loss of each image without dropout; the same key gives the same times and noise."""
        return self.task.losses(params, key, images, frozen)
