"""The score network of the toy experiments."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Real

from score_sde.errors import UserError
from score_sde.networks import layers
from score_sde.networks.layers import DType


class ScoreMLP(nn.Module):
    """Multilayer perceptron for the score of points at one noise level.

    It is made of linear maps with softplus in between.

    Softplus has derivatives of every order, which score matching by Hessians or by slices takes.

    Args (call):
        x: points (batch, features).
        labels: noise levels (batch,); not used, there so that it can stand for other networks.
        train: not used; there is no dropout.
    Returns:
        The score, of the shape of x, in the type of x or float32, whichever is wider.
    Raises:
        UserError: for fewer than one layer.
    Source: Song 2022 (dissertation), section B.3.2.
    """

    hidden: int = 128
    """Units of each layer but the last."""
    depth: int = 3
    """Number of linear maps."""
    dtype: DType = jnp.float32
    """Type of the computation; parameters are float32."""

    def __post_init__(self) -> None:
        if self.depth < 1:
            raise UserError(
                f"ScoreMLP: depth, the number of linear maps, must be 1 or more; got {self.depth}"
            )
        super().__post_init__()

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch features"], labels: Real[Array, "batch"], train: bool = False
    ) -> Float[Array, "batch features"]:
        h = x.astype(self.dtype)
        for i in range(self.depth - 1):
            h = nn.softplus(nn.Dense(self.hidden, dtype=self.dtype, name=f"dense_{i}")(h))
        h = nn.Dense(x.shape[-1], dtype=self.dtype, name=f"dense_{self.depth - 1}")(h)
        return h.astype(layers.at_least_float32(x.dtype))
