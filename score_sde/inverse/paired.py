"""A linear map whose transpose is known: derivatives of it use that one."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Map = Callable[[Array], Array]


def paired(
    forward: Map, adjoint: Map, x: Float[Array, "..."], measured: tuple[int, ...]
) -> Float[Array, "..."]:
    """forward(x), a linear map, with `adjoint` as its transpose.

    Reverse and forward derivatives of any order, `jax.vmap` and `jax.linear_transpose` work. They
    call `forward` and `adjoint` alone, and never transpose the code of `forward`.

    Args:
        forward: linear, from arrays of the shape of x.
        adjoint: its transpose.
        x: where it is evaluated.
        measured: shape of forward(x).
    """
    # A solve of I v = (x, 0) by a "solver" (x, 0) -> (0, A x), whose transpose is (0, y) ->
    # (A^T y, 0). Of all that states a transpose, this alone can also be mapped by vmap. One flat
    # array holds both parts, so that no part of a derivative is absent.
    n, m = math.prod(x.shape), math.prod(measured)

    def solve(_, v):
        return jnp.pad(forward(v[:n].reshape(x.shape)).ravel(), (n, 0))

    def transposed(_, v):
        return jnp.pad(adjoint(v[n:].reshape(measured)).ravel(), (0, m))

    flat = jnp.pad(x.ravel(), (0, m))
    return jax.lax.custom_linear_solve(lambda v: v, flat, solve, transposed)[n:].reshape(measured)
