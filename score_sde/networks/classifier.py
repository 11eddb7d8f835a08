"""The classifier of noisy images that guides conditional generation."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Real

from score_sde.errors import UserError
from score_sde.networks import layers
from score_sde.networks.layers import DType, FourierFeatures, GroupNorm, Image, Resized, TimeMLP


class WideResNet(nn.Module):
    """Wide residual network that classifies noisy images.

    The defaults are Wide-ResNet-28-10 for CIFAR-10.

    Three groups of (depth - 4) / 6 residual blocks of 16, 32 and 64 times `widen` channels; the
    second and third halve the images. It is conditioned on log(sigma) by random Fourier features,
    which pass through the same two layers as in NCSN++ and are added, after a linear map, between
    the two convolutions of every block.

    Normalization is by groups of channels, not by batches: in training a batch mixes all noise
    levels, in guidance all its images have one, so statistics of batches would be others; and the
    gradient of one image's log p(class | x) must not depend on the images beside it.

    Args (call):
        x: images (batch, height, width, channels) of any size, centred around 0.
        labels: standard deviations sigma > 0 of the noise (batch,).
        train: apply dropout; needs `rngs={"dropout": key}`.
    Returns:
        Logits (batch, num_classes), in the type of x or float32, whichever is wider.
    Raises:
        UserError: for an impossible depth or activation.
    Source: Zagoruyko and Komodakis 2016; Song 2022 (dissertation), section B.5.9.
    """

    num_classes: int = 10
    depth: int = 28
    """Number of convolutions in a row: 6 n + 4."""
    widen: int = 10
    """Channels of the groups, in units of 16, 32 and 64."""
    dropout: float = 0.0
    """Between the two convolutions of every block."""
    activation: str = "relu"
    nf: int = 128
    """Number of Fourier frequencies; the embedding has 4 nf features."""
    fourier_scale: float = 16.0
    """Standard deviation of the Fourier frequencies."""
    dtype: DType = jnp.float32
    """Type of the computation; parameters are float32."""

    def __post_init__(self) -> None:
        layers.check_choice("WideResNet", "activation", self.activation, tuple(layers.ACTIVATIONS))
        if self.depth < 10 or self.depth % 6 != 4:
            raise UserError(
                f"WideResNet: depth must be 6 n + 4, say 10, 16 or 28; got {self.depth}"
            )
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch height width channels"],
        labels: Real[Array, "batch"],
        train: bool = False,
    ) -> Float[Array, "batch classes"]:
        log_sigma = jnp.log(labels.astype(layers.at_least_float32(self.dtype)))
        features = FourierFeatures(self.nf, self.fourier_scale, self.dtype, name="fourier")(
            log_sigma
        )
        temb = TimeMLP(self.nf, self.activation, self.dtype, name="time")(features)
        h = _conv(16, "conv_in", self.dtype)(x.astype(self.dtype))
        for group in range(3):
            for i in range((self.depth - 4) // 6):
                stride = 2 if group > 0 and i == 0 else 1
                h = _WideBlock(
                    16 * 2**group * self.widen,
                    stride,
                    self.dropout,
                    self.activation,
                    self.dtype,
                    name=f"group_{group}_block_{i}",
                )(h, temb, train)
        h = layers.ACTIVATIONS[self.activation](GroupNorm(name="norm_out")(h))
        wide = layers.at_least_float32(self.dtype)
        pooled = h.astype(wide).mean(axis=(1, 2))
        logits = nn.Dense(self.num_classes, dtype=wide, name="dense_out")(pooled)
        return logits.astype(layers.at_least_float32(x.dtype))


class _WideBlock(nn.Module):
    """Pre-activation block.

    Where the shape changes, the shortcut starts behind the first activation.

    Args (call):
        x: images (batch, height, width, channels).
        temb: embedding of the noise level before its activation.
        train: apply dropout.
    Returns:
        Images (batch, height', width', features), smaller by the stride.
    """

    features: int
    stride: int
    dropout: float
    activation: str
    dtype: Any

    @nn.compact
    def __call__(self, x: Image, temb: layers.Embedding, train: bool) -> Resized:
        act = layers.ACTIVATIONS[self.activation]
        h = act(GroupNorm(name="norm_0")(x))
        if self.stride > 1 or x.shape[-1] != self.features:
            x = _conv(self.features, "shortcut", self.dtype, self.stride, size=1)(h)
        h = _conv(self.features, "conv_0", self.dtype, self.stride)(h)
        h = (
            h
            + layers.dense(self.features, name="time", dtype=self.dtype)(act(temb))[
                :, None, None, :
            ]
        )
        h = act(GroupNorm(name="norm_1")(h))
        h = nn.Dropout(self.dropout, deterministic=not train)(h)
        return x + _conv(self.features, "conv_1", self.dtype)(h)


def _conv(features: int, name: str, dtype: DType, stride: int = 1, size: int = 3) -> nn.Conv:
    """Convolution without bias.

    With a stride, the first pixel is the middle of the first window.
    """
    return nn.Conv(
        features,
        (size, size),
        stride,
        padding=size // 2,
        use_bias=False,
        kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
        dtype=dtype,
        name=name,
    )
