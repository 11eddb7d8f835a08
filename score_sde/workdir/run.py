"""A run: its settings, its folder, its objects, its random keys and its weights."""

import dataclasses
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from score_sde.build.assemble import build
from score_sde.build.data import image_shape, open_source
from score_sde.build.experiment import Experiment
from score_sde.build.settings import Settings
from score_sde.data import Source, classes
from score_sde.devices import Placement, say
from score_sde.errors import UserError
from score_sde.training.checkpoint import Checkpoints
from score_sde.training.snapshots import reconstruct
from score_sde.training.state import TrainState
from score_sde.training.step import state_like
from score_sde.workdir.which import Phema, Which

Made = TypeVar("Made")
Kept = dict[Hashable, Any]
MOST_KEPT = 6
"""Things that a warm run keeps, weights that warm runs share, and warm runs of the app."""
PURPOSES = ("init", "train", "eval", "sample")
"""What random keys are for."""


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """What every mode is given.

    Args:
        settings: of the run; what they leave open of the images' size is read off the files.
        folder: its working directory.
        experiment: the objects that the settings describe.
        place: the devices.
        kept: what `once` has made, the newest last; None keeps nothing.
        weights_kept: weights of checkpoints, the newest last; several warm runs may share them.
    """

    settings: Settings
    folder: Path
    experiment: Experiment
    place: Placement
    kept: Kept | None = dataclasses.field(default=None, init=False, repr=False)
    weights_kept: Kept = dataclasses.field(default_factory=dict, init=False, repr=False)

    @classmethod
    def of(cls, settings: Settings, folder: Path) -> "Run":
        """The run of these settings in `folder`, which need not exist.

        Raises:
            UserError: settings that describe nothing, or data that are not there.
        """
        shape, data = image_shape(settings.data)
        settings = dataclasses.replace(settings, data=data)
        return cls(settings, Path(folder), build(settings, shape), Placement.of())

    def warm(self, weights: Kept | None = None) -> "Run":
        """The same run, which keeps weights and compiled programs from one use to the next.

        Args:
            weights: what keeps the weights; runs that share it have one copy in memory.
        """
        return self._keeping({}, {} if weights is None else weights)

    def seeded(self, seed: int, number: int = 0) -> "Run":
        """The same with other random draws, and where given another number of samples.

        No program depends on them, so it shares what is kept.
        """
        sampling = self.settings.sampling
        sampling = dataclasses.replace(sampling, num_samples=number or sampling.num_samples)
        settings = dataclasses.replace(self.settings, seed=seed, sampling=sampling)
        made = dataclasses.replace(self, settings=settings)
        return made._keeping(self.kept, self.weights_kept)

    def _keeping(self, kept: Kept | None, weights: Kept) -> "Run":
        object.__setattr__(self, "kept", kept)
        object.__setattr__(self, "weights_kept", weights)
        return self

    def once(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """What `make` gives; of a `warm` run what it gave before for this key.

        The key must have all that it depends on, but for the settings.
        """
        return make() if self.kept is None else once(self.kept, key, make)

    def keys(self, part: str = "model", seed: int | None = None) -> dict[str, jax.Array]:
        """The random keys by purpose; those of training a dequantizer and the like are others."""
        root = jax.random.key(self.settings.seed if seed is None else seed)
        *keys, other = jax.random.split(root, len(PURPOSES) + 1)
        if part != "model":
            number = {"classifier": 1, "second_order": 2, "uncertainty": 3}.get(part)
            other = other if number is None else jax.random.fold_in(other, number)
            keys = list(jax.random.split(other, len(PURPOSES)))
        return dict(zip(PURPOSES, keys, strict=True))

    def source(self, train: bool) -> Source:
        """The training or held-out images.

        Raises:
            UserError: they have other classes than a class-conditional network.
        """
        source, number = open_source(self.settings.data, train), self.experiment.model.classes
        if number and classes(source) != number:
            raise UserError(
                f"config.model.num_classes={number}, but data set {source.name!r} has "
                f"{classes(source) or 'no'} classes; set model.num_classes={classes(source)}"
            )
        return source

    def checkpoints(self) -> Checkpoints:
        """The checkpoints, for reading."""
        return Checkpoints(self.folder / "checkpoints", read_only=True)

    def like(self) -> TrainState:
        """Shapes, types and places of its train state."""
        experiment = self.experiment
        return state_like(experiment.task, experiment.trainer, experiment.shape, self.place)

    def restore(self, checkpoint: Which | None = None) -> TrainState:
        """The train state of a checkpoint, by default the last.

        Where it is an average made of snapshots, the weights and their one average are that, and
        there is no state of the optimizer.
        """
        like = self.like()
        if not isinstance(checkpoint, Phema):
            return restore(like, self.folder, checkpoint)
        step, std = checkpoint.step, checkpoint.std
        made, misfit = reconstruct(self.folder / "snapshots", step, std, like.params)
        say(f"{checkpoint}: made of the snapshots, its profile met to {misfit:.2%}")
        average = jax.tree.map(
            lambda leaf, to: jax.device_put(leaf.astype(to.dtype), to.sharding), made, like.params
        )
        return TrainState(jnp.asarray(step, jnp.int32), average, (average,), ())

    def weights(self, checkpoint: Which | None = None) -> tuple[PyTree, Which]:
        """(averaged weights, which they are) of a checkpoint, by default the last."""
        if self.kept is None:
            return self._weights(checkpoint)
        if checkpoint is None:  # which is the last changes meanwhile
            checkpoint = self.checkpoints().choose(None)
        key = (str(self.folder), checkpoint, self._written(checkpoint))
        return once(self.weights_kept, key, lambda: self._weights(checkpoint))

    def _written(self, checkpoint: Which) -> tuple[int, int]:
        """Tells files of a checkpoint from those of another training in the same folder."""
        snapshots = isinstance(checkpoint, Phema)
        part = "snapshots" if snapshots else f"checkpoints/{checkpoint}"
        try:
            found = (self.folder / part).stat()
        except OSError:
            return 0, 0  # reading it says what is wrong
        return found.st_ino, found.st_mtime_ns

    def _weights(self, checkpoint: Which | None) -> tuple[PyTree, Which]:
        state = self.restore(checkpoint)
        found = checkpoint if isinstance(checkpoint, Phema) else int(state.step)
        return state.averages[0], found


def once(kept: Kept, key: Hashable, make: Callable[[], Made]) -> Made:
    """What `kept` has for this key, or what `make` gives, which is kept as the newest."""
    found = kept.pop(key) if key in kept else make()
    kept[key] = found
    while len(kept) > MOST_KEPT:
        del kept[next(iter(kept))]
    return found


def restore(like: TrainState, folder: Path, checkpoint: int | None = None) -> TrainState:
    """The train state of a checkpoint in `folder`, by default the last; placed as `like`."""
    checkpoints = Checkpoints(folder / "checkpoints", read_only=True)
    state, _ = checkpoints.restore(like, checkpoint)
    checkpoints.close()
    return state
