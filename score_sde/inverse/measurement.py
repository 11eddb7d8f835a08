"""A measurement y = A x + std z, one row a sample, in the range of the model."""

import dataclasses
import itertools
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Inexact

from score_sde.arrays import Keys, left_broadcast, normal
from score_sde.errors import UserError
from score_sde.inverse.operators import Operator


@runtime_checkable
class Range(Protocol):
    """The values of a model for black and white, as `data.PixelRange` has them."""

    @property
    def low(self) -> float:
        """Of black."""

    @property
    def high(self) -> float:
        """Of white."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Measurement:
    """y = A x + std z with standard normal z: a pytree with one row a sample.

    `measure` checks what a user gives; this constructor, which works inside jit, does not.

    Args:
        operator: A; its arrays have b rows or 1.
        y: (b, *operator.measured).
        std: (b,) standard deviations of the noise, >= 0. Of complex data it is that of the real
            and of the imaginary part.
    """

    operator: Operator
    y: Inexact[Array, "b ..."]
    std: Float[Array, "b"]

    def in_range(self, pixels: Range) -> "Measurement":
        """A measurement of images u in [0, 1] as one of x = low + (high - low) u.

        A x = (high - low) A u + A(low 1), so y' = (high - low) y + A(low 1) and
        std' = (high - low) std.
        """
        scale = pixels.high - pixels.low
        black = jnp.full((self.operator.rows, *self.operator.event), pixels.low, self.std.dtype)
        y = scale * self.y + self.operator.forward(black).astype(self.y.dtype)
        return Measurement(self.operator, y, scale * self.std)

    def rows(self, n: int) -> "Measurement":
        """Every array with n rows, those that have one row repeated.

        Raises:
            ValueError: for arrays with neither 1 nor n rows.
        """

        def broadcast(leaf):
            if leaf.shape[0] not in (1, n):
                raise ValueError(
                    f"an array of shape {leaf.shape} has {leaf.shape[0]} rows, and {n} are wanted; "
                    f"give 1 row or {n}"
                )
            return jnp.broadcast_to(leaf, (n, *leaf.shape[1:]))

        return jax.tree.map(broadcast, self)


def measure(operator: Operator, y: Any, std: Any) -> Measurement:
    """A checked measurement, outside jit.

    What is not measured of y, such as unknown pixels, becomes 0, whatever it holds.

    Args:
        operator: A.
        y: (b, *operator.measured).
        std: a number or (b,), >= 0.

    Raises:
        UserError: for y of another shape, rows unlike the operator's, values that are not finite
            where they count, and std that is negative, not finite or of another shape.
    """
    y, std = jnp.asarray(y), np.asarray(std)
    if y.shape[1:] != operator.measured or y.ndim == 0:
        raise UserError(_other_shape(y.shape, operator.measured))
    if operator.rows not in (1, len(y)) or not len(y):
        raise UserError(
            f"y has {len(y)} rows, and the operator is made for {operator.rows} samples; they need "
            "one row of data a sample"
        )
    if std.shape not in ((), (len(y),)) or not np.isfinite(std).all() or (std < 0).any():
        raise UserError(
            f"std must be one finite number >= 0, or one for each of the {len(y)} rows; got "
            f"{std.tolist()}. It is the standard deviation of the noise, in the unit of y"
        )
    y = operator.restrict(y if jnp.iscomplexobj(y) else y.astype(float))
    bad = np.flatnonzero(~np.isfinite(np.asarray(y)).reshape(len(y), -1).all(axis=1))
    if len(bad):
        raise UserError(
            f"{len(bad)} of {len(y)} rows of y have values that are not finite (numbers "
            f"{bad[:5].tolist()}); remove the rows, or mask the values"
        )
    return Measurement(operator, y, jnp.broadcast_to(jnp.asarray(std, y.real.dtype), (len(y),)))


def simulate(
    operator: Operator,
    x: Float[Array, "b ..."],
    std: float | Float[Array, ""] | Float[Array, "b"],
    keys: Keys,
) -> Measurement:
    """The measurement y = A x + std z of images x, with noise only where A measures.

    Args:
        operator: A.
        x: (b, *operator.event).
        std: a number or (b,), >= 0.
        keys: one for the batch, or one a sample: then each row has its own noise.
    """
    y = operator.forward(x)
    std = jnp.broadcast_to(jnp.asarray(std, x.dtype), y.shape[:1])
    if jnp.iscomplexobj(y):
        parts = normal(keys, (*y.shape, 2), x.dtype)
        z = jax.lax.complex(parts[..., 0], parts[..., 1])
    else:
        z = normal(keys, y.shape, y.dtype)
    noise = left_broadcast(std, y).astype(y.dtype) * z
    return Measurement(operator, y + operator.restrict(noise), std)


def _other_shape(shape: tuple[int, ...], measured: tuple[int, ...]) -> str:
    """What is wrong with y of this shape."""
    wanted = ", ".join(map(str, ("number", *measured)))
    orders = itertools.permutations(range(len(measured)))
    turned = [order for order in orders if tuple(measured[i] for i in order) == shape[1:]]
    if shape == measured:
        hint = "Put a first axis of length 1 before it, y[None]"
    elif turned:
        axes = (0, *(1 + int(i) for i in np.argsort(turned[0])))
        hint = f"Its axes seem to be exchanged: try y.transpose{axes}"
    else:
        hint = "Make the operator for images of the size that was measured"
    return f"y has shape {shape}, and the operator gives ({wanted}). {hint}"
