"""Real and complex data <-> the real numbers a model sees, beside `PixelRange` for levels.

Both maps are affine and invertible: they round nothing, and clip nothing unless asked. A density
changes with them by a constant factor, so that

    log p(data) = log p(model values) + offset,    offset = dims * log_density_offset

in nats, `dims` the number of real numbers. All methods take NumPy and JAX arrays, return the same
kind, and keep single and double precision as they are.
"""

import dataclasses
import math
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Complex, Float

from score_sde.data.pixels import Floats, Shapes, namespace

Complexes = Complex[Array, "*batch h w c"] | Complex[np.ndarray, "*batch h w c"]
Channels = Float[Array, "*batch h w c2"] | Float[np.ndarray, "*batch h w c2"]
Magnitudes = Float[Array, "*batch h w c"] | Float[np.ndarray, "*batch h w c"]


@dataclasses.dataclass(frozen=True)
class RealRange:
    """The affine map between physical values in a window [low, high] and model values.

    The ends of the window go to model_low and model_high; values outside it go on along the line.

        hounsfield = RealRange(-1024.0, 3200.0)
        hounsfield.encode(np.float32([1088.0]))  # [0.0]: the middle of the window

    Args:
        low: physical value of model_low, say -1024 Hounsfield units.
        high: physical value of model_high, above `low`.
        model_low: model value of `low`.
        model_high: model value of `high`, above `model_low`.

    Raises:
        ValueError: when low < high or model_low < model_high does not hold, or a bound is not
            finite; in `encode` and `decode`, values that are not floating.
    """

    low: float
    high: float
    model_low: float = -1.0
    model_high: float = 1.0

    def __post_init__(self) -> None:
        for name, low, high in (
            ("", self.low, self.high),
            ("model_", self.model_low, self.model_high),
        ):
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise ValueError(
                    f"{name}low must be below {name}high, both finite; got {name}low={low}, "
                    f"{name}high={high}. A usual window is low=-1024, high=3200 (Hounsfield units) "
                    "with model_low=-1, model_high=1"
                )

    @property
    def scale(self) -> float:
        """(model_high - model_low)/(high - low): model units in one physical unit."""
        return (self.model_high - self.model_low) / (self.high - self.low)

    def encode(self, values: Shapes, clip: bool = False) -> Floats:
        """x = model_low + scale (values - low).

        Args:
            values: physical values, floating, any shape.
            clip: clip the values to the window [low, high] first.

        Returns:
            Model values, shape and type of `values`.
        """
        _check_floating(values)
        if clip:
            values = namespace(values).clip(values, self.low, self.high)
        return self.model_low + self.scale * (values - self.low)

    def decode(self, x: Shapes, clip: bool = False) -> Floats:
        """low + (x - model_low)/scale, the inverse of `encode` up to rounding.

        Args:
            x: model values, floating, any shape.
            clip: clip the result to the window [low, high].

        Returns:
            Physical values, shape and type of `x`.
        """
        _check_floating(x)
        values = self.low + (x - self.model_low) / self.scale
        return namespace(x).clip(values, self.low, self.high) if clip else values

    def unit(self, x: Floats) -> Floats:
        """clip((x - model_low)/(model_high - model_low), 0, 1): x for display, white at `high`."""
        share = (x - self.model_low) / (self.model_high - self.model_low)
        return namespace(x).clip(share, 0.0, 1.0)

    @property
    def log_density_offset(self) -> float:
        """log(scale) in nats for each dimension.

        A density q of model values gives p(values) = q(x) scale^D, a density in 1/(physical
        unit)^D. So log p(values) = log q(x) + D log_density_offset.
        """
        return math.log(self.scale)


@dataclasses.dataclass(frozen=True)
class ComplexRange:
    """The map between complex images and twice as many real channels, divided by a scale.

    Channel j of the complex image goes to the channels 2 j (its real part) and 2 j + 1 (its
    imaginary part).

    Args:
        scale: the magnitude that goes to model magnitude 1, above 0, in the unit of the data. For
            MRI a high quantile of the magnitudes is usual.

    Raises:
        ValueError: unless scale is finite and above 0; images of other types or shapes.
    """

    scale: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise ValueError(
                f"scale must be above 0 and finite; got scale={self.scale}. Give the magnitude "
                "that is to become 1, say the largest one"
            )

    def encode(self, values: Shapes) -> Channels:
        """x[..., 2 j] = Re values[..., j]/scale, x[..., 2 j + 1] = Im values[..., j]/scale.

        Args:
            values: complex images (..., h, w, c).

        Returns:
            Real images (..., h, w, 2 c): float32 of complex64, float64 of complex128.
        """
        xp = namespace(values)
        if not xp.issubdtype(values.dtype, np.complexfloating) or values.ndim < 3:
            raise ValueError(
                f"ComplexRange encodes complex images (..., h, w, c); got {values.dtype} of shape "
                f"{values.shape}. Real data have `RealRange`"
            )
        parts = xp.stack([values.real, values.imag], axis=-1)
        return parts.reshape(*values.shape[:-1], 2 * values.shape[-1]) / self.scale

    def decode(self, x: Shapes) -> Complexes:
        """scale (x[..., 2 j] + i x[..., 2 j + 1]), the inverse of `encode` up to rounding.

        Args:
            x: real images (..., h, w, 2 c).

        Returns:
            Complex images (..., h, w, c).
        """
        self._check_channels(x)
        real, imaginary = self.scale * x[..., 0::2], self.scale * x[..., 1::2]
        if isinstance(x, jax.Array):
            return jax.lax.complex(real, imaginary)
        values = np.empty(real.shape, np.result_type(real, np.complex64))
        values.real, values.imag = real, imaginary
        return values

    def unit(self, x: Shapes) -> Magnitudes:
        """clip(|values|, 0, scale)/scale: the magnitude for display, (..., h, w, c)."""
        self._check_channels(x)
        xp = namespace(x)
        return xp.clip(xp.hypot(x[..., 0::2], x[..., 1::2]), 0.0, 1.0)

    @property
    def log_density_offset(self) -> float:
        """-log(scale) in nats for each real dimension, of which a complex number has two.

        A density q of the D model values gives p(values) = q(x) scale^-D on real and imaginary
        parts.
        """
        return -math.log(self.scale)

    def _check_channels(self, x: Any) -> None:
        real = namespace(x).issubdtype(x.dtype, np.floating)
        if not real or x.ndim < 3 or x.shape[-1] % 2:
            raise ValueError(
                "model values of complex images are real (..., h, w, 2 c), real and imaginary part "
                f"beside each other; got {x.dtype} of shape {x.shape}"
            )


def _check_floating(values: Any) -> None:
    if not namespace(values).issubdtype(values.dtype, np.floating):
        raise ValueError(
            f"RealRange maps floating values; got {values.dtype}. Convert integers first, say "
            "values.astype('float32'); complex data have `ComplexRange`"
        )
