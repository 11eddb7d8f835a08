"""General Ito processes: drift and matrix diffusion as functions of one sample."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.arrays import Time, batch_time
from score_sde.sde.base import SDE, check_times


@dataclasses.dataclass(frozen=True)
class MatrixSDE(SDE):
    """dx = f(x, t) dt + G(x, t) dw with matrix diffusion that may depend on the state.

    Args:
        drift_fn: (x (d,), t ()) -> f (d,), for one sample.
        diffusion_fn: (x (d,), t ()) -> G (d, d), for one sample.
        t_min, t_max: time interval.

    Source: dissertation B.5.1.
    """

    drift_fn: Callable[[Array, Array], Array]
    diffusion_fn: Callable[[Array, Array], Array]
    t_min: float = 0.0
    t_max: float = 1.0

    def __post_init__(self):
        check_times(self.t_min, self.t_max)

    def drift(self, x: Float[Array, "batch d"], t: Time) -> Float[Array, "batch d"]:
        """f(x, t)."""
        return jax.vmap(self.drift_fn)(x, batch_time(t, x))

    def diffuse(
        self, x: Float[Array, "batch d"], t: Time, v: Float[Array, "batch d"]
    ) -> Float[Array, "batch d"]:
        """G(x, t) v."""
        return jax.vmap(lambda x, t, v: self.diffusion_fn(x, t) @ v)(x, batch_time(t, x), v)

    def gram(
        self, x: Float[Array, "batch d"], t: Time, v: Float[Array, "batch d"]
    ) -> Float[Array, "batch d"]:
        """G(x, t) G(x, t)^T v."""
        return jax.vmap(lambda x, t, v: self._gram_matrix(x, t) @ v)(x, batch_time(t, x), v)

    def gram_divergence(self, x: Float[Array, "batch d"], t: Time) -> Float[Array, "batch d"]:
        """sum_j d/dx_j (G G^T)_ij by forward differentiation: d forward passes."""

        def divergence(x, t):
            return jnp.einsum("ijj->i", jax.jacfwd(self._gram_matrix)(x, t))

        return jax.vmap(divergence)(x, batch_time(t, x))

    def _gram_matrix(self, x: Float[Array, "d"], t: Float[Array, ""]) -> Float[Array, "d d"]:
        matrix = self.diffusion_fn(x, t)
        return matrix @ matrix.T
