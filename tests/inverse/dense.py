"""An operator given by its matrix, exact in all its parts."""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.inverse.operators import Operator, static


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Dense(Operator):
    """y = A vec(x), with one matrix for all samples or one for each."""

    matrix: Float[Array, "rows m d"]
    event: tuple[int, ...] = static()

    def forward(self, x):
        """A vec(x)."""
        x = x.reshape(len(x), math.prod(self.event))
        return jnp.einsum("bij,bj->bi", self._each(x), x)

    def solve(self, r, a):
        """(A A^T + a I)^-1 r."""
        matrix = self._each(r)
        shift = jnp.broadcast_to(jnp.asarray(a, r.dtype), r.shape[:1])[:, None, None]
        gram = matrix @ matrix.mT + shift * jnp.eye(r.shape[1], dtype=r.dtype)[None]
        return jnp.linalg.solve(gram, r[..., None])[..., 0]

    def _each(self, v):
        """The matrix of each row of v."""
        matrix = self.matrix.astype(v.dtype)
        return jnp.broadcast_to(matrix, (len(v), *matrix.shape[1:]))
