"""Symmetric linear maps of samples, one map a sample: second-order scores and covariances.

There are three forms, each with `product(v)`, `diagonal` and `dense()`. `LowRank` is what a network
gives, `Dense` what exact mixtures give, and `Product` what the derivative of a score gives.
"""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.arrays import Keys, ScoreFn, Time, batch_time, fold_in, left_broadcast, normal

X = Float[Array, "batch ..."]
"""One vector for each sample, in the shape of the samples."""

LARGEST = 1024
"""The largest D of which a D x D array is made for each sample."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class LowRank:
    """diag(d) + F F^T for each sample (section 4.4.2), without any D x D array.

    Args:
        diagonal_part: d, of the shape of the samples (batch, ...).
        factor: F, (batch, ..., r) with r columns, or None for none.
    """

    diagonal_part: X
    factor: Float[Array, "batch ... r"] | None = None

    @property
    def like(self) -> X:
        """An array of the shape and type of the samples."""
        return self.diagonal_part

    @property
    def event(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return self.diagonal_part.shape[1:]

    @property
    def diagonal(self) -> X:
        """d + the sums of squares of the rows of F."""
        if self.factor is None:
            return self.diagonal_part
        return self.diagonal_part + jnp.sum(self.factor**2, axis=-1)

    def columns(self) -> Float[Array, "batch d r"]:
        """F over the flattened sample; r = 0 without one."""
        batch, d = len(self.diagonal_part), math.prod(self.event)
        if self.factor is None:
            return jnp.zeros((batch, d, 0), self.diagonal_part.dtype)
        return self.factor.reshape(batch, d, -1)

    def product(self, v: X) -> X:
        """d v + F (F^T v)."""
        columns = self.columns()
        along = jnp.einsum("bdr,bd->br", columns, v.reshape(len(v), -1))
        spread = jnp.einsum("bdr,br->bd", columns, along).reshape(v.shape)
        return self.diagonal_part * v + spread

    def affine(self, scale: Float[Array, "batch"], shift: Float[Array, "batch"]) -> "LowRank":
        """scale A + shift I, for scale >= 0."""
        scaled = left_broadcast(scale, self.diagonal_part) * self.diagonal_part
        diagonal = scaled + left_broadcast(shift, self.diagonal_part)
        if self.factor is None:
            return LowRank(diagonal)
        return LowRank(diagonal, left_broadcast(jnp.sqrt(scale), self.factor) * self.factor)

    def dense(self) -> Float[Array, "batch d d"]:
        """The matrices over the flattened samples. Raises ValueError for D above 1024."""
        check_dense(self.event)
        flat, columns = self.diagonal_part.reshape(len(self.diagonal_part), -1), self.columns()
        return jax.vmap(jnp.diag)(flat) + jnp.einsum("bir,bjr->bij", columns, columns)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Dense:
    """A matrix for each sample.

    Args:
        matrix: (batch, *event, *event) for samples of shape `event`.
    """

    matrix: Float[Array, "batch ..."]

    @property
    def like(self) -> X:
        """An array of the shape and type of the samples."""
        return jnp.zeros((len(self.matrix), *self.event), self.matrix.dtype)

    @property
    def event(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return self.matrix.shape[1 : 1 + (self.matrix.ndim - 1) // 2]

    @property
    def diagonal(self) -> X:
        """The entries (i, i), in the shape of the samples."""
        diagonal = jnp.diagonal(self.dense(), axis1=1, axis2=2)
        return diagonal.reshape(len(diagonal), *self.event)

    def product(self, v: X) -> X:
        """A v."""
        return jnp.einsum("bij,bj->bi", self.dense(), v.reshape(len(v), -1)).reshape(v.shape)

    def affine(self, scale: Float[Array, "batch"], shift: Float[Array, "batch"]) -> "Dense":
        """scale A + shift I."""
        flat = self.dense()
        unit = jnp.eye(flat.shape[1], dtype=flat.dtype)[None]
        made = left_broadcast(scale, flat) * flat + left_broadcast(shift, flat) * unit
        return Dense(made.reshape(self.matrix.shape))

    def dense(self) -> Float[Array, "batch d d"]:
        """The matrices over the flattened samples."""
        d = math.prod(self.event)
        return self.matrix.reshape(-1, d, d)


@dataclasses.dataclass(frozen=True, eq=False)
class Product:
    """A map that is known by its products alone. It holds a function: use it inside one jit.

    Args:
        product: v -> A v, linear, one row a sample.
        like: an array of the shape and type of v.
    """

    product: Callable[[Array], Array]
    like: X

    @property
    def event(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return self.like.shape[1:]

    @property
    def diagonal(self) -> X:
        """The entries (i, i), by D products one after the other: exact in memory of the size of x.

        `estimate_diagonal` takes fewer.
        """
        d = math.prod(self.event)

        def entry(i):
            unit = jnp.zeros((d,), self.like.dtype).at[i].set(1)
            column = self.product(jnp.broadcast_to(unit.reshape(self.event)[None], self.like.shape))
            return column.reshape(-1, d)[:, i]

        return jax.lax.map(entry, jnp.arange(d)).T.reshape(self.like.shape)

    def affine(self, scale: Float[Array, "batch"], shift: Float[Array, "batch"]) -> "Product":
        """scale A + shift I."""

        def product(v):
            return left_broadcast(scale, v) * self.product(v) + left_broadcast(shift, v) * v

        return Product(product, self.like)

    def dense(self) -> Float[Array, "batch d d"]:
        """The matrices over the flattened samples, by D products. ValueError for D above 1024."""
        check_dense(self.event)
        d, batch = math.prod(self.event), len(self.like)
        unit = jnp.eye(d, dtype=self.like.dtype).reshape(d, 1, *self.event)
        columns = jax.vmap(self.product)(jnp.broadcast_to(unit, (d, *self.like.shape)))
        return columns.reshape(d, batch, d).transpose(1, 2, 0)


Curvature = LowRank | Dense
"""s2(x, t) of each sample: a pytree."""

CurvatureFn = Callable[[Array, Array], Curvature]
"""`curvature_fn(x, t)`, x (batch, ...), t (batch,): the Hessian of log p_t(x), or a model of it."""


def check_dense(event: tuple[int, ...]) -> None:
    """Raise ValueError where a D x D array would be too large."""
    d = math.prod(event)
    if d > LARGEST:
        raise ValueError(
            f"a matrix for each sample would have {d} x {d} entries, more than {LARGEST}^2; "
            "use products, the diagonal or a low rank instead"
        )


def jacobian_of(score_fn: ScoreFn, x: X, t: Time, symmetrize: bool = False) -> Product:
    """J = d score/dx at x as a map: s2 by differentiating a first-order score.

    The score is evaluated once; a product costs a forward-mode pass of it. J is symmetric for an
    exact score and for an energy model. For others `symmetrize` takes (J + J^T)/2, the nearest
    symmetric matrix, at the price of a reverse-mode pass more.
    """
    time = batch_time(t, x)
    _, push = jax.linearize(lambda x: score_fn(x, time), x)
    if not symmetrize:
        return Product(push, x)
    pull = jax.linear_transpose(push, x)
    return Product(lambda v: 0.5 * (push(v) + pull(v)[0]), x)


def estimate_diagonal(keys: Keys, operator: LowRank | Dense | Product, probes: int) -> X:
    """mean of v (A v) over `probes` random sign vectors v: unbiased for the diagonal of A.

    The variance of entry i is the sum of A_ij^2 over j != i, divided by `probes`.

    Args:
        keys: one, or one for each sample.
        probes: at least 1.
    Source: Bekas, Kokiopoulou and Saad 2007.
    """
    if probes < 1:
        raise ValueError(f"probes must be at least 1; got probes={probes}")

    like = operator.like

    def term(i):
        v = jnp.where(normal(fold_in(keys, i), like.shape, like.dtype) < 0, -1, 1)
        v = v.astype(like.dtype)
        return v * operator.product(v)

    return jnp.mean(jax.lax.map(term, jnp.arange(probes)), axis=0)


def decomposed(
    matrix: Float[Array, "batch n n"],
) -> tuple[Float[Array, "batch n"], Float[Array, "batch n n"]]:
    """(eigenvalues, smallest first; eigenvectors as columns) of the symmetric parts.

    One matrix after the other: on CPUs with several devices, decompositions of a batch can wait for
    each other's threads without end.
    """
    symmetric = 0.5 * (matrix + matrix.swapaxes(1, 2))
    values, vectors = jax.lax.map(lambda one: tuple(jnp.linalg.eigh(one)), symmetric)
    return values, vectors
