"""One training step, or several in one call: pure functions for `jax.jit`."""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key, PyTree

from score_sde.arrays import Keys, ScoreFn, fold_in, sample_keys, uniform
from score_sde.data import Batch
from score_sde.devices import Placement
from score_sde.parameterize import Model
from score_sde.training import dropout
from score_sde.training.ema import Profile, ema_update
from score_sde.training.gradients import mean_and_grad
from score_sde.training.state import TrainState

Objective = Callable[[Keys, ScoreFn, Float[Array, "batch ..."]], Float[Array, "batch"]]
"""`(keys, score_fn, x0) -> losses (batch,)`; keys: one, or one for each example."""


Augmentation = Callable[[Keys, Float[Array, "batch ..."]], tuple[Array, Array]]
"""`(keys, images) -> (images, labels)`, keys one for each example."""
UNCERTAINTY = "uncertainty"
"""The entry of the parameters that belongs to learned loss weights."""


@dataclasses.dataclass(frozen=True, eq=False)
class ScoreModel:
    """A network and what turns its output into a score.

    Args:
        network: flax module, called as network(x, labels, train=...). A conditional one is called
            as network(x, labels, given, train=...).
        parameterization: turns its output into a score.
        given: what a conditional network is given of one example, as shapes: a pytree of
            `jax.ShapeDtypeStruct` without the batch axis. `()` is nothing.
        classes: how many classes a class-conditional network tells apart, 0 for none. It is given
            a vector that begins with the class, see `of_classes`.
    """

    network: nn.Module
    parameterization: Model
    given: Any = ()
    classes: int = 0

    def of_classes(self, labels: Int[Array, "batch"]) -> Float[Array, "batch given"]:
        """What the network is given of images of these classes; -1 is no class, all zeros."""
        one_hot = jax.nn.one_hot(labels, self.classes)
        return jnp.pad(one_hot, ((0, 0), (0, self.given.shape[0] - self.classes)))

    def init(self, key: Key[Array, ""], shape: tuple[int, ...]) -> PyTree:
        """Fresh parameters for images of `shape` (height, width, channels)."""
        given = jax.tree.map(lambda a: jnp.zeros((1, *a.shape), a.dtype), self.given)
        arguments = (jnp.zeros((1, *shape)), jnp.ones((1,)), *_third(given))
        return self.network.init(key, *arguments)["params"]

    def score_fn(
        self, params: PyTree, given: Any = (), keys: Key[Array, "batch"] | None = None
    ) -> ScoreFn:
        """The network's score.

        Args:
            params: the network's.
            given: what a conditional network is given, with one row an example; `()` is nothing.
            keys: one an example, turn dropout on (`flax.linen.Dropout`). The mask of an example
                depends on its key alone.
        """

        def network(x, labels):
            arguments = ({"params": params}, x, labels, *_third(given))
            if keys is None:
                return self.network.apply(*arguments, train=False)
            return dropout.apply(self.network, keys, *arguments)

        return self.parameterization.score_fn(network)


def _third(given: Any) -> tuple:
    """`given` as a further positional argument, unless it is `()`."""
    return () if isinstance(given, tuple) and not given else (given,)


@runtime_checkable
class Task(Protocol):
    """What is trained: parameters and a loss of each example.

    A task is a frozen pytree. Its arrays are frozen weights, which the losses need and nobody
    trains. They reach a compiled step as arguments. What is no array is static and hashable.
    """

    def init(self, key: Key[Array, ""], shape: tuple[int, ...]) -> PyTree:
        """Fresh parameters for images of `shape` (height, width, channels)."""
        ...

    def losses(
        self, params: PyTree, keys: Key[Array, "batch"], batch: Batch, train: bool
    ) -> Float[Array, "batch"]:
        """Loss of each example, with the example's own key; `train` turns dropout on.

        The loss of an example does not depend on the others in the batch.
        """
        ...


class ScoreMatching(flax.struct.PyTreeNode):
    """The task of fitting a score model by an objective.

    augment: changes training images, and gives the labels that the model is given of them; at all
        other times it is given nothing. None changes nothing.
    uncertainty: u(label) with labels log(sigma/alpha)/4 (batch,). The training loss of an example
        becomes loss/e^u + u, least where e^u is the loss to be expected at that noise level. So all
        levels count alike whatever their losses. The objective is `DenoisingScoreMatching` then.
        The parameters are the network's, with those of u as one more entry, "uncertainty".
        Losses without training are not changed. Source: Karras et al. 2024 (EDM2), after Kendall
        et al. 2018.
    label_dropout: share of training images whose class a class-conditional network is not told, so
        that it learns the score of all images too. Source: Ho & Salimans 2022.
    """

    model: ScoreModel = flax.struct.field(pytree_node=False)
    objective: Objective = flax.struct.field(pytree_node=False)
    augment: Augmentation | None = flax.struct.field(pytree_node=False, default=None)
    uncertainty: nn.Module | None = flax.struct.field(pytree_node=False, default=None)
    label_dropout: float = flax.struct.field(pytree_node=False, default=0.0)

    def init(self, key: Key[Array, ""], shape: tuple[int, ...]) -> PyTree:
        """Fresh parameters of the network."""
        params = self.model.init(key, shape)
        if self.uncertainty is None:
            return params
        own = self.uncertainty.init(fold_in(key, 0), jnp.zeros((1,)))["params"]
        return {**params, UNCERTAINTY: own}

    def losses(
        self, params: PyTree, keys: Key[Array, "batch"], batch: Batch, train: bool
    ) -> Float[Array, "batch"]:
        """The objective, at the same times and noise with and without dropout."""
        x0, given = self._told(keys, batch, train)
        score_fn = self.model.score_fn(params, given, fold_in(keys, 1) if train else None)
        if not train or self.uncertainty is None:
            return self.objective(fold_in(keys, 0), score_fn, x0)
        objective: Any = self.objective
        t, w, z = objective.draw(fold_in(keys, 0), x0)
        labels = -objective.process.log_snr(t) / 8
        u: Any = self.uncertainty.apply({"params": params[UNCERTAINTY]}, labels)
        return w * objective.at(score_fn, x0, t, z) * jnp.exp(-u) + u

    def _told(self, keys: Key[Array, "batch"], batch: Batch, train: bool) -> tuple[Array, Any]:
        """(images, what the network is given of them)."""
        x0, given, classes = jnp.asarray(batch.image), batch.given, self.model.classes
        if classes:
            labels = jnp.asarray(batch.label)
            dropped = uniform(fold_in(keys, 3), labels.shape, x0.dtype) < self.label_dropout
            given = self.model.of_classes(jnp.where(dropped & train, -1, labels))
        if train and self.augment is not None:
            x0, augmented = self.augment(fold_in(keys, 2), x0)
            given = jnp.concatenate([given[:, :classes], augmented], 1) if classes else augmented
        return x0, given


def mean_loss(
    params: PyTree, task: Task, keys: Key[Array, "batch"], batch: Batch
) -> Float[Array, ""]:
    """Mean training loss of a batch."""
    return jnp.mean(task.losses(params, keys, batch, True))


@dataclasses.dataclass(frozen=True, eq=False)
class Trainer:
    """How the parameters of a task are trained, and which averages of them are kept.

    The task is an argument of every function. So its frozen weights are inputs of
    `jax.jit(trainer.step)`, not constants.

    Args:
        optimizer: optax transformation.
        averages: profiles of the moving averages, at least one.
        accumulate: the gradient of a batch is computed in so many parts, to save memory.
        place: where batches and weights lie; None is one device.

    Raises:
        ValueError: no average.
    """

    optimizer: optax.GradientTransformation
    averages: tuple[Profile, ...]
    accumulate: int = 1
    place: Placement | None = None

    def __post_init__(self):
        if not self.averages:
            raise ValueError(
                "averages is empty, but evaluation and sampling use the first average; give one, "
                "such as Average(0.999), or Average(0.0) for the weights themselves"
            )

    def init(self, task: Task, key: Key[Array, ""], shape: tuple[int, ...]) -> TrainState:
        """Fresh state for images of `shape` (height, width, channels)."""
        return _fresh(task, key, shape, self.optimizer.init, len(self.averages))

    def compiled_init(
        self, task: Task, key: Key[Array, ""], shape: tuple[int, ...], **options: Any
    ) -> TrainState:
        """`init` as one program, with options of `jax.jit`. It shares the trace of `like`."""
        program = jax.jit(_fresh, static_argnums=(2, 3, 4), **options)
        return program(task, key, shape, self.optimizer.init, len(self.averages))

    def like(self, task: Task, shape: tuple[int, ...]) -> TrainState:
        """Shapes and types of `init`; a network is traced once, however often they are asked."""
        key = jax.eval_shape(lambda: jax.random.key(0))
        program = jax.jit(_fresh, static_argnums=(2, 3, 4))
        return program.eval_shape(task, key, shape, self.optimizer.init, len(self.averages))

    def step(
        self, task: Task, state: TrainState, key: Key[Array, ""], batch: Batch
    ) -> tuple[TrainState, dict[str, Array]]:
        """One update with the run's `key`; returns the new state and {"loss", "grad_norm"}.

        Example i of the global batch has the key fold_in(fold_in(key, step), i).
        """
        keys = sample_keys(jax.random.fold_in(key, state.step), jnp.arange(batch.image.shape[0]))
        gradient = mean_and_grad(mean_loss, self.place, self.accumulate)
        loss, grads = gradient(state.params, task, keys, batch)
        updates, opt_state = self.optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        averages = tuple(
            ema_update(average, params, profile.share(state.step + 1))
            for average, profile in zip(state.averages, self.averages, strict=True)
        )
        metrics = {"loss": loss, "grad_norm": optax.global_norm(grads)}
        return TrainState(state.step + 1, params, averages, opt_state), metrics

    def steps(
        self, task: Task, state: TrainState, key: Key[Array, ""], batches: Batch
    ) -> tuple[TrainState, dict[str, Array]]:
        """One update for each of the stacked `batches`, in one call; metrics (steps,).

        Several steps in a call hide the dispatch on accelerators. On CPUs they are to be avoided:
        XLA computes gradients of convolutions in a loop body some twenty times slower.
        """
        if batches.image.shape[0] == 1:
            state, metrics = self.step(task, state, key, jax.tree.map(lambda a: a[0], batches))
            return state, {name: value[None] for name, value in metrics.items()}
        return jax.lax.scan(lambda state, batch: self.step(task, state, key, batch), state, batches)


def _fresh(
    task: Task,
    key: Key[Array, ""],
    shape: tuple[int, ...],
    optimizer_init: Callable[[PyTree], PyTree],
    averages: int,
) -> TrainState:
    params = task.init(key, shape)
    # Copies, because a buffer may be donated once only.
    copies = tuple(jax.tree.map(jnp.copy, params) for _ in range(averages))
    return TrainState(jnp.zeros((), jnp.int32), params, copies, optimizer_init(params))


def state_like(
    task: Task, trainer: Trainer, shape: tuple[int, ...], place: Placement
) -> TrainState:
    """Shapes, types and places of a train state."""
    like = trainer.like(task, shape)
    return jax.tree.map(
        lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
        like,
        place.weights(like),
    )
