"""Networks of second-order scores: a diagonal and the columns of a factor for each image."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.networks import layers
from score_sde.networks.layers import FourierFeatures, GroupNorm, ResNetBlock, TimeMLP

SHARE = 0.1
"""Variance of all columns together when born, relative to the features."""


def outputs(channels: int, pixels: int, rank: int | None) -> tuple[int, int]:
    """Channels of (the diagonal, the factor) for images of so many channels and pixel values.

    rank None stands for whole matrices, which have no diagonal of their own.
    """
    return (0, channels * pixels) if rank is None else (channels, channels * rank)


class SecondOrderUNet(nn.Module):
    """U-Net of residual blocks, with a head for the diagonal and one for the factor.

    Levels i = 0, 1, ... have nf * ch_mult[i] channels and images of 1/2^i of the size; all are
    joined by skip connections. When born the diagonal is 0, and the factor is small.

    Args (call):
        x: images (batch, height, width, channels), centred around 0.
        labels: of the noise level (batch,), of the size of 1, such as log(sigma)/4.
    Returns:
        (batch, height, width, channels (1 + rank)): the diagonal, then the columns of each channel.
        For rank None (batch, height, width, channels D), D numbers for each of D pixel values.
    Raises:
        UserError: for widths or image sizes that do not work; the message says which ones do.
    Source: Song 2022 (dissertation), section 4.4.2 (the outputs); the blocks are those of NCSN++.
    """

    rank: int | None
    """Columns of the factor."""
    nf: int = 64
    """Channels of the first level."""
    ch_mult: tuple[int, ...] = (1, 2, 2)
    """Channels of each level, in units of nf."""
    blocks: int = 1
    """Residual blocks of each level on the way down and on the way up."""

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], labels: Float[Array, "batch"]
    ) -> Float[Array, "batch height width outputs"]:
        layers.check_image_size("SecondOrderUNet", x.shape[1], x.shape[2], len(self.ch_mult))
        temb = TimeMLP(self.nf, name="time")(FourierFeatures(self.nf, 1.0, name="fourier")(labels))
        widths = [self.nf * multiple for multiple in self.ch_mult]
        h = layers.conv3x3(self.nf, name="conv_in", dtype=jnp.float32)(x)
        skips = []
        for level, width in enumerate(widths):
            if level:
                h = self._block(f"down_{level}_resample", h.shape[-1], "down")(h, temb)
            for i in range(self.blocks):
                h = self._block(f"down_{level}_block_{i}", width)(h, temb)
            skips.append(h)
        h = self._block("middle", widths[-1])(h, temb)
        for level in reversed(range(len(widths))):
            h = jnp.concatenate([h, skips[level]], axis=-1)
            for i in range(self.blocks):
                h = self._block(f"up_{level}_block_{i}", widths[level])(h, temb)
            if level:
                h = self._block(f"up_{level}_resample", widths[level], "up")(h, temb)
        h = nn.swish(GroupNorm(name="norm_out")(h))
        diagonal, factor = outputs(x.shape[-1], x[0].size, self.rank)
        scale = SHARE / max(factor // x.shape[-1], 1)
        heads = (("diagonal", diagonal, 0.0), ("factor", factor, scale))
        made = [
            layers.conv3x3(width, name=name, dtype=jnp.float32, init_scale=init)(h)
            for name, width, init in heads
            if width
        ]
        return jnp.concatenate(made, axis=-1)

    @nn.nowrap
    def _block(self, name: str, features: int, resample="none") -> nn.Module:
        return ResNetBlock(features=features, resample=resample, skip_rescale=True, name=name)


class SecondOrderMLP(nn.Module):
    """Multilayer perceptron of flattened images, with the outputs of `SecondOrderUNet`.

    It is made of linear maps with tanh in between. For images of few pixels.

    Args (call):
        x: images (batch, height, width, channels), centred around 0.
        labels: of the noise level (batch,), of the size of 1.
    Source: Song 2022 (dissertation), section B.2.
    """

    rank: int | None
    """Columns of the factor."""
    hidden: int = 256
    """Units of each hidden layer."""
    depth: int = 2
    """Hidden layers."""

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], labels: Float[Array, "batch"]
    ) -> Float[Array, "batch height width outputs"]:
        features = FourierFeatures(self.hidden // 4 + 1, 1.0, name="fourier")(labels)
        h = jnp.concatenate([x.reshape(len(x), -1), features], axis=1)
        for i in range(self.depth):
            h = nn.tanh(layers.dense(self.hidden, name=f"dense_{i}", dtype=jnp.float32)(h))
        diagonal, factor = outputs(x.shape[-1], x[0].size, self.rank)
        scale, sites = SHARE / max(factor // x.shape[-1], 1), x[0].size // x.shape[-1]
        heads = (("diagonal", diagonal, 0.0), ("factor", factor, scale))
        made = [
            layers.dense(sites * width, name=name, dtype=jnp.float32, init_scale=init)(h)
            for name, width, init in heads
            if width
        ]
        return jnp.concatenate([part.reshape(*x.shape[:-1], -1) for part in made], axis=-1)
