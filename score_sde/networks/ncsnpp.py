"""The U-Net family of NCSN++ and DDPM++."""

from typing import Any, Literal, get_args

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Real

from score_sde.errors import UserError
from score_sde.networks import layers
from score_sde.networks.layers import (
    Attention,
    Combine,
    Downsample,
    DType,
    FourierFeatures,
    GroupNorm,
    ResNetBlock,
    TimeMLP,
    Upsample,
)
from score_sde.networks.remat import Kept, rematerialized

BlockType = Literal["biggan", "ddpm"]
Progressive = Literal["none", "output_skip", "residual"]
ProgressiveInput = Literal["none", "input_skip", "residual"]
ProgressiveCombine = Literal["sum", "cat"]
EmbeddingType = Literal["fourier", "positional"]


class NCSNpp(nn.Module):
    """U-Net with the architectural options of NCSN++.

    The defaults are continuous NCSN++ for 32 x 32 images.

    DDPM++ is NCSNpp(fir=False, progressive_input="none", embedding="positional").
    Levels i = 0, 1, ... have nf * ch_mult[i] channels and images of 1/2^i of the size; all are
    joined by skip connections. GroupNorms have min(channels // 4, 32) groups.

    What `labels` mean depends on `embedding`, as published:
    - "fourier": the standard deviation sigma > 0 of the noise; the network takes the logarithm
      itself. There is no variant of it for times, so VP and sub-VP models, which pass times, use
      "positional".
    - "positional": a time or an index, embedded as it is: 999 t for continuous VP and sub-VP, the
      index for discrete models.

    Args (call):
        x: images (batch, height, width, channels), centred around 0, any number of channels.
        labels: noise levels (batch,), as said above.
        given: numbers (batch, features) that the image is conditioned on, such as the label of an
            augmentation. Their linear map is added to the embedding. None is the same as zeros.
        train: apply dropout; needs `rngs={"dropout": key}`.
    Returns:
        The raw output of the network, of the shape of x, in the type of x or float32, whichever is
        wider.
    Raises:
        UserError: for unknown options, widths or image sizes; the message says which ones work.
    Source: Song 2022 (dissertation), sections 7.4.4 and B.5.8; Song et al. 2021 (Score SDE).
    """

    nf: int = 128
    """Channels of the first level."""
    ch_mult: tuple[int, ...] = (1, 2, 2, 2)
    """Channels of each level, in units of nf."""
    num_res_blocks: int = 4
    """Residual blocks of each level on the way down; one more on the way up."""
    attn_resolutions: tuple[int, ...] = (16,)
    """Heights of images at which attention follows."""
    resamp_with_conv: bool = True
    """For resblock_type="ddpm": resample with a learned convolution."""
    dropout: float = 0.1
    activation: str = "swish"
    fir: bool = True
    """Resample with FIR filters, else by repeated pixels and 2 x 2 means."""
    fir_kernel: tuple[float, ...] = (1.0, 3.0, 3.0, 1.0)
    """Taps of the FIR filter along one axis; the scale does not matter."""
    skip_rescale: bool = True
    """Divide sums of two branches by sqrt(2)."""
    resblock_type: BlockType = "biggan"
    """"biggan": resampling inside residual blocks; "ddpm": between them."""
    progressive: Progressive = "none"
    """Output: from the last level only, sum of outputs of all levels, or residual pyramid."""
    progressive_input: ProgressiveInput = "residual"
    """Input: into the first level only, resampled into every level, or residual pyramid."""
    progressive_combine: ProgressiveCombine = "sum"
    """For progressive_input="input_skip": add the resampled input or put it in front of the
    channels."""
    embedding: EmbeddingType = "fourier"
    """Of the labels: random Fourier features of log(sigma), or sinusoids of a time or index."""
    fourier_scale: float = 16.0
    """Standard deviation of the Fourier frequencies."""
    init_scale: float = 0.0
    """Variance of the last layer of each branch when born, relative to the others; 0 stands for
    1e-10."""
    conditional: bool = True
    """Let the blocks depend on the labels."""
    dtype: DType = jnp.float32
    """Type of the computation; parameters are float32."""
    remat: bool = False
    """Compute blocks again in the backward pass instead of storing them: less memory, more time."""
    remat_keep: Kept = "nothing"
    """With `remat`, what of a block is stored all the same: its products are most of the time."""

    def __post_init__(self) -> None:
        for field, choices in {
            "resblock_type": get_args(BlockType),
            "progressive": get_args(Progressive),
            "progressive_input": get_args(ProgressiveInput),
            "progressive_combine": get_args(ProgressiveCombine),
            "embedding": get_args(EmbeddingType),
            "activation": tuple(layers.ACTIVATIONS),
            "remat_keep": get_args(Kept),
        }.items():
            layers.check_choice("NCSNpp", field, getattr(self, field), choices)
        if self.fir and not (self.fir_kernel and sum(self.fir_kernel)):
            raise UserError(
                f"NCSNpp: fir_kernel needs taps with a sum other than 0; got {self.fir_kernel}"
            )
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch height width channels"],
        labels: Real[Array, "batch"],
        given: Float[Array, "batch given"] | None = None,
        train: bool = False,
    ) -> Float[Array, "batch height width channels"]:
        layers.check_image_size("NCSNpp", x.shape[1], x.shape[2], len(self.ch_mult))
        if given is not None and not self.conditional:
            raise UserError(
                "NCSNpp: with conditional=False there is no embedding that what is given could be "
                "added to; set conditional=True"
            )
        temb = self._embedding(labels, given)
        h, skips = self._down(x.astype(self.dtype), temb, train)
        h = self._block("mid_block_0", h.shape[-1])(h, temb, train)
        h = self._attention("mid_attn")(h)
        h = self._block("mid_block_1", h.shape[-1])(h, temb, train)
        h, pyramid = self._up(h, skips, temb, train, channels=x.shape[-1])
        if self.progressive == "output_skip":
            assert pyramid is not None
            h = pyramid
        else:
            h = self._output("norm_out", "conv_out", x.shape[-1], self.init_scale, h)
        return h.astype(layers.at_least_float32(x.dtype))

    @nn.nowrap
    def _embedding(
        self, labels: Real[Array, "batch"], given: Float[Array, "batch given"] | None
    ) -> layers.Embedding | None:
        if not self.conditional:
            return None
        if self.embedding == "fourier":
            log_sigma = jnp.log(labels.astype(layers.at_least_float32(self.dtype)))
            features = FourierFeatures(self.nf, self.fourier_scale, self.dtype, name="fourier")(
                log_sigma
            )
        else:
            features = layers.positional_embedding(labels, self.nf, self.dtype)
        if given is not None:  # without bias: zeros add nothing
            features += nn.Dense(
                features.shape[-1],
                use_bias=False,
                kernel_init=layers.kernel_init(),
                dtype=self.dtype,
                name="given",
            )(given)
        return TimeMLP(self.nf, self.activation, self.dtype, name="time")(features)

    @nn.nowrap
    def _down(
        self, image: Array, temb: layers.Embedding | None, train: bool
    ) -> tuple[Array, list[Array]]:
        """From the image to the smallest level.

        Also returns what the way up will be joined with.
        """
        h = layers.conv3x3(self.nf, name="conv_in", dtype=self.dtype)(image)
        pyramid, skips = image, [h]
        for level, multiple in enumerate(self.ch_mult):
            for i in range(self.num_res_blocks):
                h = self._block(f"down_{level}_block_{i}", self.nf * multiple)(h, temb, train)
                if h.shape[1] in self.attn_resolutions:
                    h = self._attention(f"down_{level}_attn_{i}")(h)
                skips.append(h)
            if level < len(self.ch_mult) - 1:
                h = self._resampled("down", level, h, temb, train)
                h, pyramid = self._join_input(f"down_{level}_pyramid", h, pyramid)
                skips.append(h)
        return h, skips

    @nn.nowrap
    def _join_input(self, name: str, h: Array, pyramid: Array) -> tuple[Array, Array]:
        """Bring the input, one level down its pyramid, into h; returns both."""
        if self.progressive_input == "none":
            return h, pyramid
        if self.progressive_input == "input_skip":
            pyramid = layers.downsample(pyramid, self._taps)
            return Combine(self.progressive_combine, self.dtype, name=name)(pyramid, h), pyramid
        smaller = Downsample(h.shape[-1], True, self._taps, self.dtype, name=name)(pyramid)
        h = layers.join(smaller, h, self.skip_rescale)
        return h, h

    @nn.nowrap
    def _up(
        self,
        h: Array,
        skips: list[Array],
        temb: layers.Embedding | None,
        train: bool,
        channels: int,
    ) -> tuple[Array, Array | None]:
        """From the smallest level to the largest.

        Also returns the output pyramid of `progressive`.
        """
        pyramid = None
        for level, multiple in reversed(list(enumerate(self.ch_mult))):
            for i in range(self.num_res_blocks + 1):
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                h = self._block(f"up_{level}_block_{i}", self.nf * multiple)(h, temb, train)
            if h.shape[1] in self.attn_resolutions:
                h = self._attention(f"up_{level}_attn")(h)
            h, pyramid = self._join_output(level, h, pyramid, channels)
            if level > 0:
                h = self._resampled("up", level, h, temb, train)
        return h, pyramid

    @nn.nowrap
    def _join_output(
        self, level: int, h: Array, pyramid: Array | None, channels: int
    ) -> tuple[Array, Array | None]:
        """Take this level's part of the output, one level up its pyramid.

        Returns h and the pyramid.
        """
        norm, conv = f"up_{level}_norm_out", f"up_{level}_conv_out"
        if self.progressive == "none":
            return h, None
        if self.progressive == "output_skip":
            output = self._output(norm, conv, channels, self.init_scale, h)
            return h, output if pyramid is None else layers.upsample(pyramid, self._taps) + output
        if pyramid is None:
            return h, self._output(norm, conv, h.shape[-1], 1.0, h)
        name = f"up_{level}_pyramid"
        larger = Upsample(h.shape[-1], True, self._taps, self.dtype, name=name)(pyramid)
        h = layers.join(larger, h, self.skip_rescale)
        return h, h

    @nn.nowrap
    def _output(self, norm: str, conv: str, channels: int, init_scale: float, h: Array) -> Array:
        h = layers.ACTIVATIONS[self.activation](GroupNorm(name=norm)(h))
        return layers.conv3x3(channels, name=conv, dtype=self.dtype, init_scale=init_scale)(h)

    @property
    def _taps(self) -> tuple[float, ...] | None:
        return self.fir_kernel if self.fir else None

    @nn.nowrap
    def _resampled(
        self,
        direction: Literal["up", "down"],
        level: int,
        h: Array,
        temb: layers.Embedding | None,
        train: bool,
    ) -> Array:
        name = f"{direction}_{level}_resample"
        if self.resblock_type == "biggan":
            return self._block(name, h.shape[-1], direction)(h, temb, train)
        sampler = Upsample if direction == "up" else Downsample
        return sampler(None, self.resamp_with_conv, self._taps, self.dtype, name=name)(h)

    @nn.nowrap
    def _block(
        self, name: str, features: int, resample: Literal["none", "up", "down"] = "none"
    ) -> nn.Module:
        block: Any = ResNetBlock
        if self.remat:
            block = rematerialized(block, self.remat_keep, static=(3,))  # `train`
        return block(
            features=features,
            activation=self.activation,
            resample=resample,
            fir_kernel=self._taps,
            shortcut="conv1x1" if self.resblock_type == "biggan" else "nin",
            dropout=self.dropout,
            skip_rescale=self.skip_rescale,
            init_scale=self.init_scale,
            dtype=self.dtype,
            name=name,
        )

    @nn.nowrap
    def _attention(self, name: str) -> nn.Module:
        attention: Any = Attention
        if self.remat:
            attention = rematerialized(attention, self.remat_keep)
        return attention(self.skip_rescale, self.init_scale, dtype=self.dtype, name=name)
