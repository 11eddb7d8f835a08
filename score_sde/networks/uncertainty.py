"""The network of learned loss weights."""

import flax.linen as nn
from jaxtyping import Array, Float

from score_sde.networks.layers import FourierFeatures


class Uncertainty(nn.Module):
    """u = a linear map of random Fourier features of a noise level; 0 when born.

    Args (call):
        labels: (batch,), of the size of 1, such as log(sigma)/4.
    Returns:
        u (batch,): the logarithm of the loss to be expected there.
    Source: Karras et al. 2024 (EDM2).
    """

    features: int = 64
    """Frequencies; there are twice as many features."""

    @nn.compact
    def __call__(self, labels: Float[Array, "batch"]) -> Float[Array, "batch"]:
        h = FourierFeatures(self.features, scale=1.0, name="fourier")(labels)
        return nn.Dense(1, kernel_init=nn.initializers.zeros, name="out")(h)[:, 0]
