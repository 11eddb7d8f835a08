"""Operators that are a small matrix along each axis."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from score_sde.inverse.operators import Operator, Spectrum, X, Y, expect, static


@dataclasses.dataclass(frozen=True, eq=False)
class Factor:
    """A matrix (m, n), m <= n, along one axis of an image. Equal ones compile once.

    Raises:
        ValueError: for another number of axes, more rows than columns, or values not finite.
    """

    matrix: Float[np.ndarray, "m n"]

    def __post_init__(self):
        m = self.matrix
        if m.ndim != 2 or m.shape[0] > m.shape[1] or not np.isfinite(m).all():
            raise ValueError(
                "a factor is a finite matrix with no more rows than columns; got shape "
                f"{m.shape}{'' if np.isfinite(m).all() else ' with values that are not finite'}. "
                "Taller matrices need an operator of their own"
            )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Factor) and np.array_equal(self.matrix, other.matrix)

    def __hash__(self) -> int:
        return self._hash

    @functools.cached_property
    def _hash(self) -> int:
        return hash((self.matrix.shape, self.matrix.tobytes()))

    @functools.cached_property
    def svd(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """U (m, n), whose columns after the m-th are 0, s (n,) and V^T (n, n), in float64."""
        m, n = self.matrix.shape
        u, s, vt = np.linalg.svd(self.matrix)
        s = np.where(s > n * np.finfo(float).eps * s.max(), s, 0)
        return np.pad(u, ((0, 0), (0, n - m))), np.pad(s, (0, n - m)), vt


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Separable(Operator):
    """A = A_1 x A_2 x ...: a matrix along each axis of x, or None for the identity.

    Its singular value decomposition is that of the small matrices. A lone matrix (m, n) is
    `Separable((n,), (Factor(matrix),))`.

    Raises:
        ValueError: unless there is a factor or None for each axis, of the size of that axis.
    """

    event: tuple[int, ...] = static()
    factors: tuple[Factor | None, ...] = static()

    def __post_init__(self):
        sizes = tuple(f.matrix.shape[1] if f else n for f, n in zip(self.factors, self.event))
        if sizes != self.event or len(self.factors) != len(self.event):
            raise ValueError(
                f"factors for the axes {self.event} must have so many columns, one factor or None "
                f"an axis; got {[f and f.matrix.shape for f in self.factors]}"
            )

    @property
    def measured(self) -> tuple[int, ...]:
        """The rows of the factors."""
        return tuple(f.matrix.shape[0] if f else n for f, n in zip(self.factors, self.event))

    @property
    def orthogonal(self) -> bool:  # type: ignore[override]
        """Whether each factor is, to 1e-12."""
        squares = self.measured == self.event
        return squares and all(np.allclose(f.svd[1], 1, 0, 1e-12) for f in self.factors if f)

    def _each(self, choose: Callable[[Factor], np.ndarray], v: Array) -> Array:
        """v with the chosen matrix of each factor applied along its axis."""
        for axis, factor in enumerate(self.factors, start=1):
            if factor:
                matrix = jnp.asarray(choose(factor), v.dtype)
                moved = jnp.tensordot(matrix, v, (1, axis), precision="highest")
                v = jnp.moveaxis(moved, 0, axis)
        return v

    def forward(self, x: X) -> Y:
        """The factors along their axes."""
        return self._each(lambda f: f.matrix, expect(x, self.event, "x"))

    def adjoint(self, y: Y) -> X:
        """Their transposes."""
        return self._each(lambda f: f.matrix.T, expect(y, self.measured, "y"))

    def decompose(self) -> Spectrum:
        """Products of the decompositions of the factors."""
        values = np.ones((1,) * (1 + len(self.event)))
        for axis, factor in enumerate(self.factors, start=1):
            if factor:
                shape = (-1,) + (1,) * (len(self.event) - axis)
                values = values * factor.svd[1].reshape(shape)
        return Spectrum(
            jnp.asarray(values, jnp.result_type(float)),
            from_x=lambda x: self._each(lambda f: f.svd[2], x),
            to_x=lambda c: self._each(lambda f: f.svd[2].T, c),
            from_y=lambda y: self._each(lambda f: f.svd[0].T, y),
            to_y=lambda c: self._each(lambda f: f.svd[0], c),
        )
