"""The score network whose training on images without noise shows why noise is needed."""

from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Real

from score_sde.networks import layers
from score_sde.networks.layers import DType, Image, Resized

Resample = Literal["none", "up", "down"]

# (channels in units of nf, resampling) of each residual block; the decoder undoes them from the
# last to the first.
_ENCODER: tuple[tuple[int, Resample], ...] = (
    (1, "none"),
    (2, "down"),
    (2, "none"),
    (4, "down"),
    (4, "none"),
)
_DECODER: tuple[tuple[int, Resample], ...] = (
    (4, "none"),
    (2, "up"),
    (2, "none"),
    (1, "up"),
    (1, "none"),
)


class ResNetAutoencoder(nn.Module):
    """Residual network in the form of an auto-encoder.

    It is for the score of images at one noise level, or of images without noise.

    Five pre-activation residual blocks of 32, 64, 64, 128 and 128 channels down, of which the
    second and fourth halve the images, and their mirror image up; no connections between the two
    sides, and no normalization.

    Args (call):
        x: images (batch, height, width, channels), centred around 0, any number of channels; height
            and width multiples of 4.
        labels: noise levels (batch,); not used, there so that it can stand for other networks.
        train: not used; there is no dropout.
    Returns:
        The score, of the shape of x, in the type of x or float32, whichever is wider.
    Raises:
        UserError: for an unknown activation or impossible image sizes.
    Source: Song 2022 (dissertation), figure 5.1 and section B.3.2.
    """

    nf: int = 32
    """Channels of the first block."""
    activation: str = "elu"
    dtype: DType = jnp.float32
    """Type of the computation; parameters are float32."""

    def __post_init__(self) -> None:
        layers.check_choice(
            "ResNetAutoencoder", "activation", self.activation, tuple(layers.ACTIVATIONS)
        )
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch height width channels"],
        labels: Real[Array, "batch"],
        train: bool = False,
    ) -> Float[Array, "batch height width channels"]:
        layers.check_halvings("ResNetAutoencoder", x.shape[1], x.shape[2], halvings=2)
        h = layers.conv3x3(self.nf, name="conv_in", dtype=self.dtype)(x.astype(self.dtype))
        for side, blocks in (("encoder", _ENCODER), ("decoder", _DECODER)):
            for i, (multiple, resample) in enumerate(blocks):
                name = f"{side}_{i}"
                h = _Block(self.nf * multiple, resample, self.activation, self.dtype, name=name)(h)
        h = layers.ACTIVATIONS[self.activation](h)
        h = layers.conv3x3(x.shape[-1], name="conv_out", dtype=self.dtype)(h)
        return h.astype(layers.at_least_float32(x.dtype))


class _Block(nn.Module):
    """Pre-activation residual block.

    Pixels are repeated in front of it ("up") or averaged behind it ("down").

    The second convolution is born almost zero: without normalization, sums of many branches would
    grow.

    Args (call):
        x: images (batch, height, width, channels).
    Returns:
        Images (batch, height', width', features).
    """

    features: int
    resample: Resample
    activation: str
    dtype: DType

    @nn.compact
    def __call__(self, x: Image) -> Resized:
        act = layers.ACTIVATIONS[self.activation]
        if self.resample == "up":
            x = layers.upsample(x, None)
        h = layers.conv3x3(self.features, name="conv_0", dtype=self.dtype)(act(x))
        h = layers.conv3x3(self.features, name="conv_1", dtype=self.dtype, init_scale=0.0)(act(h))
        if x.shape[-1] != self.features:
            x = layers.dense(self.features, name="shortcut", dtype=self.dtype)(x)
        return layers.downsample(x + h, None) if self.resample == "down" else x + h
