"""The U-Net of DDPM."""

from typing import Any, Literal, get_args

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Real

from score_sde.networks import layers
from score_sde.networks.layers import (
    Attention,
    Downsample,
    DType,
    GroupNorm,
    ResNetBlock,
    TimeMLP,
    Upsample,
)
from score_sde.networks.remat import Kept, rematerialized

UpAttention = Literal["last", "every"]


class DDPM(nn.Module):
    """U-Net of residual blocks with attention, for a network conditioned on time or on an index.

    Levels i = 0, 1, ... have nf * ch_mult[i] channels and images of 1/2^i of the size; all are
    joined by skip connections. Every GroupNorm has 32 groups, so all widths must be multiples of
    32.

    Args (call):
        x: images (batch, height, width, channels), centred around 0, any number of channels.
        labels: times or indices (batch,), embedded as they are: 999 t for continuous VP, an index
            for discrete models.
        train: apply dropout; needs `rngs={"dropout": key}`.
    Returns:
        The raw output of the network, of the shape of x, in the type of x or float32, whichever is
        wider.
    Raises:
        UserError: for unknown options, widths or image sizes; the message says which ones work.
    Source: Ho et al. 2020, appendix B, with `up_attention="every"`; Score SDE has "last".
    """

    nf: int = 128
    """Channels of the first level."""
    ch_mult: tuple[int, ...] = (1, 2, 2, 2)
    """Channels of each level, in units of nf."""
    num_res_blocks: int = 2
    """Residual blocks of each level on the way down; one more on the way up."""
    attn_resolutions: tuple[int, ...] = (16,)
    """Heights of images at which attention follows."""
    up_attention: UpAttention = "last"
    """On the way up: attention behind the last block of a level, or behind every block."""
    resamp_with_conv: bool = True
    """Resample with a learned convolution, else by repeated pixels and 2 x 2 means."""
    dropout: float = 0.1
    activation: str = "swish"
    conditional: bool = True
    """Use the labels at all."""
    dtype: DType = jnp.float32
    """Type of the computation; parameters are float32."""
    remat: bool = False
    """Compute blocks again in the backward pass instead of storing them: less memory, more time."""
    remat_keep: Kept = "nothing"
    """With `remat`, what of a block is stored all the same: its products are most of the time."""

    def __post_init__(self) -> None:
        layers.check_choice("DDPM", "activation", self.activation, tuple(layers.ACTIVATIONS))
        layers.check_choice("DDPM", "remat_keep", self.remat_keep, get_args(Kept))
        layers.check_choice("DDPM", "up_attention", self.up_attention, get_args(UpAttention))
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch height width channels"],
        labels: Real[Array, "batch"],
        train: bool = False,
    ) -> Float[Array, "batch height width channels"]:
        layers.check_image_size("DDPM", x.shape[1], x.shape[2], len(self.ch_mult))
        temb = self._embedding(labels)
        h = layers.conv3x3(self.nf, name="conv_in", dtype=self.dtype)(x.astype(self.dtype))
        h, skips = self._down(h, temb, train)
        h = self._block("mid_block_0", h.shape[-1])(h, temb, train)
        h = self._attention("mid_attn")(h)
        h = self._block("mid_block_1", h.shape[-1])(h, temb, train)
        h = self._up(h, skips, temb, train)
        h = layers.ACTIVATIONS[self.activation](GroupNorm(32, name="norm_out")(h))
        h = layers.conv3x3(x.shape[-1], name="conv_out", dtype=self.dtype, init_scale=0.0)(h)
        return h.astype(layers.at_least_float32(x.dtype))

    @nn.nowrap
    def _embedding(self, labels: Real[Array, "batch"]) -> layers.Embedding | None:
        if not self.conditional:
            return None
        features = layers.positional_embedding(labels, self.nf, self.dtype)
        return TimeMLP(self.nf, self.activation, self.dtype, name="time")(features)

    @nn.nowrap
    def _block(self, name: str, features: int) -> nn.Module:
        block: Any = ResNetBlock
        if self.remat:
            block = rematerialized(block, self.remat_keep, static=(3,))  # `train`
        return block(
            features=features,
            activation=self.activation,
            shortcut="nin",
            dropout=self.dropout,
            groups=32,
            dtype=self.dtype,
            name=name,
        )

    @nn.nowrap
    def _attention(self, name: str) -> nn.Module:
        attention: Any = Attention
        if self.remat:
            attention = rematerialized(attention, self.remat_keep)
        return attention(groups=32, dtype=self.dtype, name=name)

    @nn.nowrap
    def _down(
        self, h: Array, temb: layers.Embedding | None, train: bool
    ) -> tuple[Array, list[Array]]:
        skips = [h]
        for level, multiple in enumerate(self.ch_mult):
            for i in range(self.num_res_blocks):
                h = self._block(f"down_{level}_block_{i}", self.nf * multiple)(h, temb, train)
                if h.shape[1] in self.attn_resolutions:
                    h = self._attention(f"down_{level}_attn_{i}")(h)
                skips.append(h)
            if level < len(self.ch_mult) - 1:
                name = f"down_{level}_resample"
                h = Downsample(with_conv=self.resamp_with_conv, dtype=self.dtype, name=name)(h)
                skips.append(h)
        return h, skips

    @nn.nowrap
    def _up(
        self, h: Array, skips: list[Array], temb: layers.Embedding | None, train: bool
    ) -> Array:
        for level, multiple in reversed(list(enumerate(self.ch_mult))):
            for i in range(self.num_res_blocks + 1):
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                h = self._block(f"up_{level}_block_{i}", self.nf * multiple)(h, temb, train)
                if self.up_attention == "every" and h.shape[1] in self.attn_resolutions:
                    h = self._attention(f"up_{level}_attn_{i}")(h)
            if self.up_attention == "last" and h.shape[1] in self.attn_resolutions:
                h = self._attention(f"up_{level}_attn")(h)
            if level > 0:
                name = f"up_{level}_resample"
                h = Upsample(with_conv=self.resamp_with_conv, dtype=self.dtype, name=name)(h)
        return h
