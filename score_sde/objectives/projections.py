"""Random directions v with E v v^T = I, and inner products of samples."""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.arrays import Keys, fold_in, normal

Projections = Float[Array, "projections batch ..."]
Kind = Literal["rademacher", "gaussian", "sphere"]
KINDS = ("rademacher", "gaussian", "sphere")


def check_projections(projections: int, kind: str) -> None:
    """Raises ValueError for fewer than one projection or an unknown kind."""
    if projections < 1:
        raise ValueError(f"projections must be at least 1; got projections={projections}")
    if kind not in KINDS:
        raise ValueError(f"kind must be 'rademacher', 'gaussian' or 'sphere'; got {kind!r}")


def standard(keys: Keys, x: Float[Array, "batch ..."], projections: int) -> Projections:
    """Standard normal draws, `projections` for each example; keys: one, or one an example."""

    def draw(i):
        return normal(fold_in(keys, i), x.shape, x.dtype)

    return jax.vmap(draw)(jnp.arange(projections))


def directions(gauss: Projections, kind: Kind) -> Projections:
    """v from standard normal draws: their signs, themselves, or brought to length sqrt(D).

    All three have E v v^T = I. Published codes give some of the last kind the length 1, which
    divides sliced score matching by D.
    """
    if kind == "gaussian":
        return gauss
    if kind == "rademacher":
        return jnp.where(gauss < 0, -1, 1).astype(gauss.dtype)
    axes = tuple(range(2, gauss.ndim))
    return gauss / jnp.sqrt(jnp.mean(gauss**2, axis=axes, keepdims=True))


def dot(a: Float[Array, "batch ..."], b: Float[Array, "batch ..."]) -> Float[Array, "batch"]:
    """a . b of each example."""
    return jnp.sum((a * b).reshape(len(a), -1), axis=1)
