"""Samples over a device mesh: in batches, with progress and intermediate pictures."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, PyTree

from score_sde.arrays import ScoreFn
from score_sde.conditioning import Condition, unconditional
from score_sde.data.pixels import PixelRange
from score_sde.devices import Placement
from score_sde.grids import as_pairs
from score_sde.parallel.loop import (
    Rows,
    Tick,
    batch_size,
    each_batch,
    progress,
    whole_batches,
)
from score_sde.sampling import Sampler, State

SEGMENTS = 40
"""How often a run of the sampler reports its progress, at most."""
STEPS = 5
"""Steps between two reports, at least: each segment transforms the weights of the network anew."""
PICTURES = 64
"""Images in an intermediate picture, at most."""


class Drawn(NamedTuple):
    """images: in the range of the data. nfe: evaluations of the score for each of them."""

    images: Float[np.ndarray, "n h w c"]
    nfe: Int[np.ndarray, "n"]


@dataclasses.dataclass
class Film:
    """Intermediate pictures of the first batch that is drawn.

    Args:
        frames: how many are wanted, at most one for each step; 0 for none.
        pictures: each (some, h, w, c) in [0, 1], of at most `PICTURES` images. With several
            processes they are those of the first device.
        done: whether the first batch has been drawn.
    """

    frames: int
    pictures: list[np.ndarray] = dataclasses.field(default_factory=list)
    done: bool = False

    def stacked(self) -> np.ndarray:
        """(frames + 1, some, h, w, c), the samples last; empty where none are wanted."""
        return np.stack(self.pictures) if self.pictures else np.zeros(0, np.float32)


@dataclasses.dataclass(frozen=True, eq=False)
class Generator:
    """Draws samples: those with given random keys, in batches over the devices.

    Sample i of a run depends on its own key alone, as long as the stepper couples no samples. Batch
    size and devices change it by rounding.

    Args:
        sampler: what to draw with.
        score_fn: (params, given) -> score function.
        shape: (height, width, channels) of an image.
        pixel_range: range of the images.
        place: devices; a batch is split over them.
        batch_size: images at a time, rounded up to a multiple of the devices.
        condition: makes samples depend on something given, see `conditioning`.
    """

    sampler: Sampler
    score_fn: Callable[[PyTree, PyTree], ScoreFn]
    shape: tuple[int, int, int]
    pixel_range: PixelRange
    place: Placement
    batch_size: int
    condition: Condition = unconditional

    def all(
        self,
        params: PyTree,
        keys: Key[Array, "n"],
        given: PyTree = (),
        title: str = "sampling",
        film: Film | None = None,
    ) -> Float[np.ndarray, "n h w c"]:
        """The samples with these keys, in their order; see `batches`."""
        return self.drawn(params, keys, given, title, film).images

    def drawn(
        self,
        params: PyTree,
        keys: Key[Array, "n"],
        given: PyTree = (),
        title: str = "sampling",
        film: Film | None = None,
    ) -> Drawn:
        """The samples with these keys and their evaluations; see `batches`."""
        parts = [part for _, part in self.batches(params, keys, given, title, film)]
        return Drawn(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))

    def batches(
        self,
        params: PyTree,
        keys: Key[Array, "n"],
        given: PyTree = (),
        title: str = "sampling",
        film: Film | None = None,
    ) -> Iterator[tuple[slice, Drawn]]:
        """(which of them, what was drawn) of one batch after another.

        Args:
            params: of the score function.
            keys: one for each sample.
            given: what score and `condition` depend on, arrays with a row for each sample.
            title: of the progress bar; none for "".
            film: gets pictures of the first batch on its way.
        """
        rows = Rows.of((keys, given))
        rounds = self.whole(len(keys)) // batch_size(len(keys), self.batch_size, self.place)
        with progress(rounds * self.sampler.steps, "step", title, hidden=not title) as bar:

            def draw(params: PyTree, batch: Any) -> Drawn:
                return self._draw(params, batch, bar.update, film)

            yield from each_batch(draw, params, rows, self.batch_size, self.place)

    def whole(self, count: int) -> int:
        """`count` rounded up to whole batches.

        So many keys leave nothing to fill up. That matters where the stepper couples samples.
        """
        return whole_batches(count, self.batch_size, self.place)

    def _draw(self, params: PyTree, rows: Any, tick: Tick, film: Film | None) -> Drawn:
        keys, given = rows
        filming = film is not None and film.frames > 0 and not film.done
        count = min(SEGMENTS, max(1, self.sampler.steps // STEPS))
        if film is not None and filming:
            count = film.frames
        state = self._begin(params, given, keys)
        for start, end in itertools.pairwise(self._bounds(count)):
            if film is not None and filming:
                film.pictures.append(self._picture(state.x, int(start)))
            state = self._advance(params, given, keys, state, start, end)
            state.x.block_until_ready()
            tick(int(end - start))
        drawn = Drawn(*self._finish(params, given, state))
        if film is not None and filming:
            images = np.asarray(drawn.images)[: len(film.pictures[0])]
            film.pictures.append(np.asarray(self.pixel_range.unit(images)))
            film.done = True
        return drawn

    def _bounds(self, segments: int) -> np.ndarray:
        return np.unique(np.linspace(0, self.sampler.steps, segments + 1).astype(np.int32))

    def _conditioned(self, params: PyTree, given: PyTree) -> tuple[Sampler, ScoreFn]:
        return self.condition(self.sampler, self.score_fn(params, given), given)

    @functools.cached_property
    def _begin(self):
        rows, whole = self.place.rows(), self.place.whole

        def begin(params, given, keys) -> State:
            shape = (len(keys), *self.shape)
            state = self._conditioned(params, given)[0].begin(keys, shape)
            return jax.tree.map(
                lambda leaf: jax.lax.with_sharding_constraint(leaf, rows if leaf.ndim else whole),
                state,
            )

        return jax.jit(begin)

    @functools.cached_property
    def _advance(self):
        def advance(params, given, keys, state, first, last) -> State:
            sampler, score_fn = self._conditioned(params, given)
            return sampler.advance(keys, score_fn, state, first, last)

        return jax.jit(advance)

    @functools.cached_property
    def _finish(self):
        def finish(params, given, state):
            sampler, score_fn = self._conditioned(params, given)
            nfe = jnp.broadcast_to(sampler.nfe(state), state.x.shape[:1]).astype(jnp.int32)
            return sampler.finish(score_fn, state), nfe

        return jax.jit(finish, out_shardings=self.place.whole)

    def _picture(self, x: Array, step: int) -> np.ndarray:
        """The state before `step`, in [0, 1].

        It is centred and divided by sqrt(alpha^2 + sigma^2), so that noise and data show alike.
        """
        if step == 0 and self.sampler.uniform:
            return np.clip(np.asarray(self.pixel_range.unit(_some(x))), 0.0, 1.0)
        low, high = self.pixel_range.low, self.pixel_range.high
        middle, half = (high + low) / 2, (high - low) / 2
        pairs = as_pairs(self.sampler.times)
        # A step of a grid of levels does not begin where the last one ended.
        t = pairs[step - 1, 1] if step else pairs[0, 0]
        marginal = self.sampler.process.marginal(jnp.asarray(t, jnp.float32))
        alpha, sigma = (float(v) for v in marginal)
        scaled = (_some(x) - alpha * middle) / (half * math.hypot(alpha, sigma / half))
        return np.clip((scaled + 1) / 2, 0.0, 1.0)


def _some(x: Array) -> np.ndarray:
    local = x.addressable_shards[0].data if jax.process_count() > 1 else x
    return np.asarray(local[:PICTURES])
