"""Drawing many samples: a sampler compiled for a device mesh, in batches, with progress and intermediate pictures."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Key, PyTree

from score_sde.data.pixels import PixelRange
from score_sde.grids import as_pairs
from score_sde.sampling import Sampler
from score_sde.steppers import InpaintingLangevin
from score_sde.training.sharding import batched, put_whole, replicated
from score_sde.types import ScoreFn, sample_keys

SEGMENTS = 40
"""How often a run of the sampler reports its progress."""


def advance(
    sampler: Sampler,
    given: PyTree,
    keys: Key[Array, "batch"],
    score_fn: ScoreFn,
    x: Float[Array, "batch ..."],
    first: Int[Array, ""],
    last: Int[Array, ""],
) -> tuple[Float[Array, "batch ..."], Float[Array, "batch ..."]]:
    """Steps first .. last-1 of the sampler as it is; nothing is given."""
    return sampler.advance(keys, score_fn, x, first, last)


def inpaint(sampler, given, keys, score_fn, x, first, last):
    """Steps of annealed Langevin dynamics that keep what is known (alg. B.2): given {"image", "known"}, each (batch, ...)."""
    stepper = InpaintingLangevin(sampler.stepper, given["image"], given["known"])
    return dataclasses.replace(sampler, stepper=stepper).advance(keys, score_fn, x, first, last)


def between(sampler, given, keys, score_fn, x, first, last):
    """Steps with noise cos(angle) z + sin(angle) z', z' that of other samples: given {"keys", "angle"}, each (batch,) (B.4.1).

    The start is the first sample's.
    """

    def draw(i):
        angle = given["angle"][(None, slice(None), *[None] * (x.ndim - 1))].astype(x.dtype)
        z, other = (sampler.noise(k, i, x) for k in (keys, given["keys"]))
        return jnp.cos(angle) * z + jnp.sin(angle) * other

    return sampler.follow(score_fn, x, draw, first, last)


@dataclasses.dataclass(frozen=True, eq=False)
class Generator:
    """`generator(params, key, first, tick) -> (images, frames)`: samples number first, first+1, ... of a run with `key`.

    Sample i depends on the key and i alone, not on batch size or devices, as long as the stepper couples no samples.

    Args:
        sampler: what to draw with.
        score_fn: (params) -> score function.
        shape: (height, width, channels) of an image.
        pixel_range: range of the images.
        mesh: devices; the batch is split over them.
        wanted: images per call, rounded up to a multiple of the devices (`batch_size`).
        frames: number of intermediate pictures; at most `PICTURES` images are in them, with several processes those of the
            first device.
        advance: how the sampler steps; `inpaint` and `between` are others, which depend on something given.
    """

    sampler: Sampler
    score_fn: Callable[[PyTree], ScoreFn]
    shape: tuple[int, int, int]
    pixel_range: PixelRange
    mesh: Mesh
    wanted: int
    frames: int = 0
    advance: Callable = advance

    PICTURES = 64

    @property
    def batch_size(self) -> int:
        """Samples per call."""
        return -(-self.wanted // self.mesh.size) * self.mesh.size

    def __call__(
        self,
        params: PyTree,
        key: Key[Array, ""],
        first: int = 0,
        tick: Callable[[int], object] = lambda steps: None,
        given: PyTree = None,
    ) -> tuple[Float[np.ndarray, "batch h w c"], Float[np.ndarray, "..."]]:
        """(images, frames): frames (frames + 1, some, h, w, c) in [0, 1] at constant contrast; tick(n) after n steps.

        `given`: what `advance` depends on, arrays with a row for each sample.
        """
        return self.draw(params, sample_keys(key, jnp.arange(first, first + self.batch_size)), tick, given)

    def draw(self, params: PyTree, keys: Key[Array, "batch"], tick, given: PyTree = None):
        """The samples with these keys, `batch_size` of them; see `__call__`."""
        keys, given = put_whole((keys, given), self.mesh)
        x = mean = self._begin(keys)
        bounds = np.unique(np.linspace(0, self.sampler.steps, (self.frames or SEGMENTS) + 1).astype(np.int32))
        pictures = []
        for start, end in itertools.pairwise(bounds):
            if self.frames:
                pictures.append(self._picture(x, int(start)))
            x, mean = self._advance(params, given, keys, x, start, end)
            x.block_until_ready()
            tick(int(end - start))
        images = np.asarray(self._finish(params, x, mean))
        if self.frames:
            pictures.append(np.asarray(self.pixel_range.unit(images[: len(pictures[0])])))
        return images, np.stack(pictures) if pictures else np.zeros(0, np.float32)

    @functools.cached_property
    def _begin(self):
        shape = (self.batch_size, *self.shape)
        return jax.jit(lambda keys: self.sampler.begin(keys, shape), out_shardings=batched(self.mesh))

    @functools.cached_property
    def _advance(self):
        def advance(params, given, keys, x, first, last):
            return self.advance(self.sampler, given, keys, self.score_fn(params), x, first, last)

        return jax.jit(advance)

    @functools.cached_property
    def _finish(self):
        def finish(params, x, mean):
            return self.sampler.finish(self.score_fn(params), x, mean)

        return jax.jit(finish, out_shardings=replicated(self.mesh))

    def _picture(self, x: Array, step: int) -> np.ndarray:
        """The state before `step`, centred and divided by sqrt(alpha^2 + sigma^2) so that noise and data show alike."""
        if step == 0 and self.sampler.uniform:
            return np.clip(np.asarray(self.pixel_range.unit(self._some(x))), 0.0, 1.0)
        low, high = self.pixel_range.low, self.pixel_range.high
        middle, half = (high + low) / 2, (high - low) / 2
        pairs = as_pairs(self.sampler.times)  # grids of levels do not begin a step where the last one ended
        t = pairs[step - 1, 1] if step else pairs[0, 0]
        alpha, sigma = (float(v) for v in self.sampler.process.marginal(jnp.asarray(t, jnp.float32)))
        scaled = (self._some(x) - alpha * middle) / (half * math.hypot(alpha, sigma / half))
        return np.clip((scaled + 1) / 2, 0.0, 1.0)

    def _some(self, x: Array) -> np.ndarray:
        local = x.addressable_shards[0].data if jax.process_count() > 1 else x
        return np.asarray(local[: self.PICTURES])
