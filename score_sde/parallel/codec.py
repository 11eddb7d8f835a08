"""A trained model as a code: images to latents and back by the probability-flow ODE."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Integer, Key, PyTree

from score_sde.arrays import ScoreFn, fold_in, sample_keys
from score_sde.data.pixels import PixelRange
from score_sde.devices import Placement
from score_sde.errors import UserError
from score_sde.flow import Flow, spherical
from score_sde.parallel.loop import Rows, Tick, over_devices, silent


class Mapped(NamedTuple):
    """What came out of the ODE.

    values: latents or data, (n, h, w, c). nfe: evaluations of the score for each, -1 where unknown.
    """

    values: Float[np.ndarray, "n h w c"]
    nfe: Int[np.ndarray, "n"]


@dataclasses.dataclass(frozen=True, eq=False)
class Codec:
    """Encode images, decode latents, in batches over a device mesh.

    Each sample is solved by itself, so batch size and devices change a result by rounding alone.

    Args:
        flow: the ODE and its solver.
        score_fn: (params) -> score function.
        pixel_range: range and levels of the images.
        dequantized: whether the model was trained on dequantized images. Then level k enters as the
            centre of its cell and comes back as the cell it falls in. Else it enters as the point
            `PixelRange.encode` and comes back by rounding. Both are deterministic. A round trip
            with an error below half a level's width gives back the same levels.
        place: devices; batches are split over them.
        batch_size: images at a time.
    """

    flow: Flow
    score_fn: Callable[[PyTree], ScoreFn]
    pixel_range: PixelRange
    dequantized: bool
    place: Placement
    batch_size: int

    def encode(
        self,
        params: PyTree,
        images: Integer[np.ndarray, "n h w c"],
        names: Sequence[str],
        tick: Tick = silent,
    ) -> Mapped:
        """Latents of images; tick(n) after each n.

        Raises:
            UserError: the ODE of some cannot be solved; it tells their `names`.
        """
        return self._map(self._encode, params, self.values(images), names, tick)

    def decode(
        self,
        params: PyTree,
        z: Float[np.ndarray, "n h w c"],
        names: Sequence[str],
        tick: Tick = silent,
    ) -> Mapped:
        """Data of latents, in the model's range; `levels` makes images of them.

        Raises:
            UserError: as `encode`.
        """
        return self._map(self._decode, params, z, names, tick)

    def values(self, images: Integer[np.ndarray, "n h w c"]) -> Float[np.ndarray, "n h w c"]:
        """What the model sees of levels."""
        if self.dequantized:
            return np.asarray(
                self.pixel_range.dequantize(images, np.full(images.shape, 0.5, np.float32))
            )
        return np.asarray(self.pixel_range.encode(images))

    def levels(self, x: Float[np.ndarray, "n h w c"]) -> Integer[np.ndarray, "n h w c"]:
        """The inverse of `values`."""
        return np.asarray(
            self.pixel_range.quantize(x) if self.dequantized else self.pixel_range.decode(x)
        )

    @property
    def level_width(self) -> float:
        """Distance of neighbouring levels in the model's range."""
        steps = self.pixel_range.levels - (0 if self.dequantized else 1)
        return (self.pixel_range.high - self.pixel_range.low) / steps

    def prior(
        self, key: Key[Array, ""], indices: Int[np.ndarray, "n"], shape: tuple[int, int, int]
    ) -> Float[np.ndarray, "n h w c"]:
        """Latents number `indices` from N(0, prior_std^2 I).

        They are those that a `Sampler` with this key begins with.
        """
        keys = fold_in(sample_keys(key, jnp.asarray(indices)), 0)
        return np.asarray(self.flow.sde.prior_sample(keys, (len(indices), *shape), jnp.float32))

    @functools.cached_property
    def _encode(self):
        return self._compiled(self.flow.encode)

    @functools.cached_property
    def _decode(self):
        return self._compiled(self.flow.decode)

    def _compiled(self, solve):
        return jax.jit(
            lambda params, state: solve(self.score_fn(params), state),
            out_shardings=self.place.whole,
        )

    def _map(
        self, solve, params: PyTree, states: np.ndarray, names: Sequence[str], tick: Tick
    ) -> Mapped:
        values, nfe, success = over_devices(
            solve, params, Rows.of(states), self.batch_size, self.place, tick
        )
        failed = [name for name, fine in zip(names, success) if not fine]
        if failed:
            raise UserError(
                f"the ODE of {len(failed)} of {len(names)} could not be solved "
                f"({', '.join(failed[:5])}): too many steps, or values that are not finite. "
                "Try larger config.eval.rtol and atol"
            )
        return Mapped(values, nfe)


def interpolate(
    z: Float[np.ndarray, "n h w c"], frames: int, names: Sequence[str]
) -> Float[np.ndarray, "n_less_one frames h w c"]:
    """Spherical interpolation from each latent to the next, ends included.

    Raises:
        UserError: fewer than two latents, or neighbours that are opposite or zero: then no path is
            shortest.
    """
    if len(z) < 2:
        raise UserError(f"there is one thing to interpolate, {names[0]}; name two or more")
    flat = z.reshape(len(z), -1).astype(np.float64)
    norms = np.linalg.norm(flat, axis=1)
    for pair in range(len(z) - 1):
        if not flat[pair] @ flat[pair + 1] > -0.9999 * norms[pair] * norms[pair + 1]:
            raise UserError(
                f"the latents of {names[pair]} and {names[pair + 1]} are opposite or zero: no path "
                "between them is shortest"
            )
    path = spherical(jnp.asarray(z[:-1]), jnp.asarray(z[1:]), jnp.linspace(0.0, 1.0, frames))
    return np.swapaxes(np.asarray(path), 0, 1)
