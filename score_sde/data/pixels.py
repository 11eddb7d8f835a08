"""Integer pixel levels <-> the real numbers a model sees, and the bits/dim from them."""

import dataclasses
import math
from types import ModuleType
from typing import Any

import numpy as np
from jaxtyping import Array, Float, Integer, Shaped

Integers = Integer[Array, "..."] | Integer[np.ndarray, "..."]
Floats = Float[Array, "..."] | Float[np.ndarray, "..."]
Shapes = Shaped[Array, "..."] | Shaped[np.ndarray, "..."]


@dataclasses.dataclass(frozen=True)
class PixelRange:
    """The affine map between integer levels k = 0 .. levels - 1 and model values in [low, high].

    There are two conventions, and mixing them up shifts a likelihood:

    - points: `encode` puts level k at x = low + (high - low) k / (levels - 1), so that the darkest
      and the brightest level sit on the ends of the range. `decode` is its inverse. Training and
      display use this one.
    - cells: `dequantize` spreads level k over the cell of width (high - low) / levels that begins
      at low + (high - low) k / levels. The cells tile [low, high), so a density on them gives the
      levels a probability; `quantize` is the inverse, and `bits_per_dim` belongs to this one.

    All methods take NumPy and JAX arrays and return the same kind.

    Args:
        levels: number of integer levels, at least 2 (256 for 8-bit images, 17 for scikit-learn's
            digits).
        low: model value of the darkest level.
        high: model value of the brightest level, above `low`.

    Raises:
        ValueError: when levels < 2, or low < high does not hold, or a bound is not finite.
    """

    levels: int = 256
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if not 2 <= self.levels <= 65536:
            raise ValueError(
                "levels must be between 2 and 65536 (1 to 16 bits a pixel); got "
                f"levels={self.levels}"
            )
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(
                f"low must be below high, both finite; got low={self.low}, high={self.high}. "
                "Usual ranges are low=0, high=1 and low=-1, high=1"
            )

    @property
    def dtype(self) -> type[np.unsignedinteger]:
        """The integer type that stores a level: uint8 up to 256 levels, uint16 above."""
        return np.uint8 if self.levels <= 256 else np.uint16

    def encode(self, k: Integers, dtype: Any = np.float32) -> Floats:
        """x = low + (high - low) k / (levels - 1).

        Args:
            k: integer levels 0 .. levels - 1, any shape.
            dtype: floating-point type of the result.

        Returns:
            Values in [low, high], shape of `k`.
        """
        unit = namespace(k).astype(k, dtype) / (self.levels - 1)
        return self.low + (self.high - self.low) * unit

    def dequantize(self, k: Integers, u: Floats) -> Floats:
        """x = low + (high - low) (k + u) / levels: spread level k over its cell.

        With u uniform on [0, 1) the result has the density that uniform dequantization asks for. In
        float32 k + u can round up to k + 1, for 256 levels once in 100,000 draws. So the cell is
        closed at both ends.

        Args:
            k: integer levels 0 .. levels - 1.
            u: positions inside the cell, in [0, 1), shape of `k`; the result has its type.

        Returns:
            Values in [low, high], shape of `k`.

        Source: dissertation, section 9.5.2 (uniform and variational dequantization).
        """
        return self.low + (self.high - self.low) * (
            (namespace(k).astype(k, u.dtype) + u) / self.levels
        )

    def quantize(self, x: Floats) -> Integers:
        """The level whose cell holds x.

        k = clip(floor(levels (x - low) / (high - low)), 0, levels - 1). The inverse of `dequantize`
        for any u in (0, 1), whatever the noise, so the way back for a model of dequantized images.

        Args:
            x: model values; those outside [low, high] go to the nearest end, NaN to level 0.

        Returns:
            Integers, shape of `x`: uint8, or uint16 for more than 256 levels.
        """
        xp = namespace(x)
        k = xp.clip(xp.floor(self.unit(x) * self.levels), 0, self.levels - 1)
        return xp.astype(xp.where(xp.isnan(k), xp.zeros_like(k), k), self.dtype)

    def decode(self, x: Floats) -> Integers:
        """The level nearest to x.

        k = clip(round((levels - 1) (x - low) / (high - low)), 0, levels - 1).

        Args:
            x: model values; those outside [low, high] go to the nearest end, NaN to level 0.

        Returns:
            Integers, shape of `x`: uint8, or uint16 for more than 256 levels.
        """
        xp = namespace(x)
        k = xp.round(self.unit(x) * (self.levels - 1))
        return xp.astype(xp.where(xp.isnan(k), xp.zeros_like(k), k), self.dtype)

    def unit(self, x: Floats) -> Floats:
        """clip((x - low) / (high - low), 0, 1): x for display, black 0 and white 1."""
        return namespace(x).clip((x - self.low) / (self.high - self.low), 0.0, 1.0)

    def bits_per_dim(self, logp: Shapes | float, dims: int) -> Any:
        """Negative log-likelihood of the integer image in bits per dimension.

        Let x = low + (high - low) (k + u) / levels with u uniform on [0, 1)^D. A density p on x
        gives k + u, whose cells have volume one, the density p(x) ((high - low) / levels)^D by the
        change of variables. By Jensen's inequality its mean log over u is at most the
        log-probability of k, so that

            bits/dim = -log p(x) / (D ln 2) + log2(levels) - log2(high - low)

        is, on average over u, an upper bound on -log2 P(k) / D. The offset is 8 for 256 levels on
        [0, 1] and 7 on [-1, 1]. A density that is uniform on the range scores log2(levels), as it
        must. The formula wants x from `dequantize`, not from `encode`.

        Args:
            logp: log p(x) in nats, of the whole image; any shape.
            dims: D, the number of pixels times channels.

        Returns:
            Bits per dimension, shape of `logp`.

        Source: dissertation, section 9.5.2; Theis, van den Oord and Bethge, "A note on the
        evaluation of generative models" (2016), section 3.1.
        """
        offset = math.log2(self.levels) - math.log2(self.high - self.low)
        return logp / (-dims * math.log(2.0)) + offset


def namespace(x: Any) -> ModuleType:
    """numpy or jax.numpy, whichever made `x`."""
    return x.__array_namespace__()
