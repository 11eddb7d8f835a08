"""The parts of score networks.

These are embeddings of the noise level, normalization, attention and residual blocks.

Images are NHWC. Parameters are float32; every module computes in its `dtype`, except statistics,
softmax and embeddings of the noise level, which never use less than float32.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Real

from score_sde.errors import UserError
from score_sde.networks import convolution, resample

Image = Float[Array, "batch height width channels"]
Resized = Float[Array, "batch new_height new_width new_channels"]
Embedding = Float[Array, "batch features"]
DType = Any
_conv = functools.partial(nn.Conv, conv_general_dilated=convolution.general)

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "swish": nn.swish,
    "relu": nn.relu,
    "elu": nn.elu,
    "lrelu": lambda x: nn.leaky_relu(x, 0.2),
}


def check_choice(owner: str, field: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise UserError, naming the known choices, if `value` is none of them."""
    if value not in choices:
        known = ", ".join(repr(choice) for choice in choices)
        raise UserError(f"{owner}: {field} must be one of {known}; got {value!r}")


def check_image_size(owner: str, height: int, width: int, levels: int) -> None:
    """Raise UserError unless the image can be halved `levels - 1` times."""
    multiple = 2 ** (levels - 1)
    if height % multiple or width % multiple:
        up = [math.ceil(size / multiple) * multiple for size in (height, width)]
        raise UserError(
            f"{owner}: a network with {levels} levels (entries of ch_mult) halves images "
            f"{levels - 1} times, so height and width must be multiples of {multiple}; got "
            f"{height} x {width}. Resize or pad the images, for example to {up[0]} x {up[1]}, or "
            "give ch_mult fewer entries"
        )


def check_halvings(owner: str, height: int, width: int, halvings: int) -> None:
    """Raise UserError unless the image can be halved so many times."""
    multiple = 2**halvings
    if height % multiple or width % multiple:
        up = [math.ceil(size / multiple) * multiple for size in (height, width)]
        raise UserError(
            f"{owner} halves images {halvings} times, so height and width must be multiples of "
            f"{multiple}; got {height} x {width}. Resize or pad the images, for example to {up[0]} "
            f"x {up[1]}"
        )


def at_least_float32(dtype: DType) -> DType:
    """The type for sums and angles: float32, or float64 where the computation is in float64."""
    return dtype if jnp.finfo(dtype).bits > 32 else jnp.float32


def kernel_init(scale: float = 1.0) -> nn.initializers.Initializer:
    """Uniform with variance `scale` / mean of fan-in and fan-out.

    0 stands for 1e-10, almost zero output.
    """
    return nn.initializers.variance_scaling(scale or 1e-10, "fan_avg", "uniform")


def conv3x3(features: int, *, name: str, dtype: DType, init_scale: float = 1.0) -> nn.Conv:
    """3 x 3 convolution that keeps the image size."""
    return _conv(features, (3, 3), kernel_init=kernel_init(init_scale), dtype=dtype, name=name)


def dense(features: int, *, name: str, dtype: DType, init_scale: float = 1.0) -> nn.Dense:
    """Linear map of the last axis; on images, a 1 x 1 convolution."""
    return nn.Dense(features, kernel_init=kernel_init(init_scale), dtype=dtype, name=name)


def positional_embedding(
    labels: Real[Array, "batch"], features: int, dtype: DType = jnp.float32
) -> Embedding:
    """Sinusoids [sin(t f_k), cos(t f_k)] of the frequencies f_k = 10000^(-k / (features/2 - 1)).

    Args:
        labels: times or indices t; fractions are fine.
        features: size of the embedding, at least 4; an odd size ends with a zero.
        dtype: type of the result, computed in no less than float32.
    Returns:
        Embeddings (batch, features).
    Source: Vaswani et al. 2017, section 3.5, in the form used by DDPM (Ho et al. 2020).
    """
    if features < 4:
        raise UserError(
            f"a positional embedding needs at least 4 features (nf of the network), got {features}"
        )
    half = features // 2
    frequencies = np.exp(-np.arange(half) * (math.log(10000.0) / (half - 1)))
    wide = at_least_float32(dtype)
    angle = labels.astype(wide)[:, None] * jnp.asarray(frequencies, wide)[None, :]
    embedding = jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)
    return jnp.pad(embedding, ((0, 0), (0, features % 2))).astype(dtype)


class FourierFeatures(nn.Module):
    """Random Fourier features of a scalar: [sin(2 pi W v), cos(2 pi W v)].

    The frequencies W ~ N(0, scale^2) are fixed at birth.

    W is kept among the parameters ("frequencies") so that it is saved with them, but no gradient
    reaches it: an optimizer without weight decay never changes it. With scale 16 and v = log(sigma)
    angles reach 10^3 radians, so float32 features are exact to about 1e-4 only.

    Args (call):
        values: v, shape (batch,).
    Returns:
        Features (batch, 2 * features).
    Source: Tancik et al. 2020; for noise levels: Song 2022 (dissertation), section B.5.8.
    """

    features: int
    scale: float = 16.0
    dtype: DType = jnp.float32

    @nn.compact
    def __call__(self, values: Float[Array, "batch"]) -> Embedding:
        wide = at_least_float32(self.dtype)
        initializer = nn.initializers.normal(self.scale)
        frequencies = self.param("frequencies", initializer, (self.features,), jnp.float32)
        fixed = jnp.asarray(lax.stop_gradient(frequencies), wide)
        angle = values.astype(wide)[:, None] * fixed[None, :] * (2 * math.pi)
        return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1).astype(self.dtype)


class GroupNorm(nn.Module):
    """Standardize groups of channels over all pixels, then scale and shift every channel.

    Epsilon is 1e-6.

    Mean and variance are taken in two passes, in float32 or better, first per channel and then over
    the channels of a group, which avoids splitting the innermost axis.

    Args (call):
        x: images (batch, height, width, channels).
    Returns:
        Images of the same shape and type.
    Raises:
        UserError: if the number of groups does not divide the number of channels.
    Source: Wu and He 2018; number of groups as in NCSN++ (min(channels / 4, 32)) and DDPM (32).
    """

    groups: int | None = None
    """Number of groups; None for min(channels // 4, 32), and at least 1."""

    @nn.compact
    def __call__(self, x: Image) -> Image:
        channels = x.shape[-1]
        groups = max(1, min(channels // 4, 32)) if self.groups is None else self.groups
        if channels % groups:
            widths = f"multiples of {self.groups or '4 up to 128 and of 32 above'}"
            raise UserError(
                f"GroupNorm cannot divide {channels} channels into {groups} groups. Choose nf and "
                "ch_mult "
                "so that all widths nf * ch_mult, and sums of two widths that skip connections "
                "join, are "
                f"{widths}"
            )
        scale = self.param("scale", nn.initializers.ones, (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)

        wide = at_least_float32(x.dtype)
        y = x.astype(wide)
        centred = y - _group_mean(y, groups)
        variance = _group_mean(jnp.square(centred), groups)
        gain = lax.rsqrt(variance + 1e-6) * scale.astype(wide)[None, None, None, :]
        return (centred * gain + bias.astype(wide)[None, None, None, :]).astype(x.dtype)


def _group_mean(y: Image, groups: int) -> Float[Array, "batch 1 1 channels"]:
    batch, _, _, channels = y.shape
    per_channel = y.mean(axis=(1, 2)).reshape(batch, groups, channels // groups)
    mean = jnp.broadcast_to(per_channel.mean(axis=-1, keepdims=True), per_channel.shape)
    return mean.reshape(batch, 1, 1, channels)


class Attention(nn.Module):
    """Self-attention of all pixels with one head: x + out(softmax(q k^T / sqrt(channels)) v).

    Args (call):
        x: images (batch, height, width, channels).
    Returns:
        Images of the same shape; with `skip_rescale` the sum is divided by sqrt(2).
    Source: Ho et al. 2020 (DDPM), appendix B.
    """

    skip_rescale: bool = False
    init_scale: float = 0.0
    groups: int | None = None
    dtype: DType = jnp.float32

    @nn.compact
    def __call__(self, x: Image) -> Image:
        batch, height, width, channels = x.shape
        h = GroupNorm(self.groups, name="norm")(x).reshape(batch, height * width, channels)
        q, k, v = (
            dense(channels, name=name, dtype=self.dtype, init_scale=0.1)(h)
            for name in ("query", "key", "value")
        )
        logits = jnp.einsum("bqc,bkc->bqk", q * channels**-0.5, k)
        weights = jax.nn.softmax(logits.astype(at_least_float32(self.dtype)), axis=-1).astype(
            self.dtype
        )
        h = jnp.einsum("bqk,bkc->bqc", weights, v)
        h = dense(channels, name="out", dtype=self.dtype, init_scale=self.init_scale)(h)
        return join(x, h.reshape(x.shape), self.skip_rescale)


def join(x: Image, h: Image, rescale: bool) -> Image:
    """x + h, divided by sqrt(2) if `rescale` so that the variance stays about that of x."""
    return (x + h) / math.sqrt(2) if rescale else x + h


class FIRConv(nn.Module):
    """3 x 3 convolution joined with resampling by 2 and a FIR filter against aliasing.

    Args (call):
        x: images (batch, height, width, channels).
    Returns:
        Images of twice ("up"), half ("down") or the same ("same") height and width.
    Source: StyleGAN2 (Karras et al. 2020), as used by NCSN++.
    """

    features: int
    direction: Literal["up", "down", "same"]
    fir_kernel: tuple[float, ...]
    dtype: DType = jnp.float32

    @nn.compact
    def __call__(self, x: Image) -> Resized:
        shape = (3, 3, x.shape[-1], self.features)
        kernel = self.param("kernel", kernel_init(), shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        x, kernel, bias = (jnp.asarray(array, self.dtype) for array in (x, kernel, bias))
        if self.direction == "up":
            y = resample.upsample_conv_2d(x, kernel, self.fir_kernel)
        elif self.direction == "down":
            y = resample.conv_downsample_2d(x, kernel, self.fir_kernel)
        else:
            y = convolution.convolve(x, kernel)
        return y + bias[None, None, None, :]


def upsample(x: Image, fir_kernel: tuple[float, ...] | None) -> Resized:
    """Double height and width: FIR filter, or repeated pixels if `fir_kernel` is None."""
    return (
        resample.naive_upsample_2d(x) if fir_kernel is None else resample.upsample_2d(x, fir_kernel)
    )


def downsample(x: Image, fir_kernel: tuple[float, ...] | None) -> Resized:
    """Halve height and width: FIR filter, or mean over 2 x 2 pixels if `fir_kernel` is None."""
    return (
        resample.naive_downsample_2d(x)
        if fir_kernel is None
        else resample.downsample_2d(x, fir_kernel)
    )


class Upsample(nn.Module):
    """Double height and width, then apply a 3 x 3 convolution if `with_conv`.

    The convolution is joined with a FIR filter where there is one.

    Args (call):
        x: images (batch, height, width, channels).
    Returns:
        Images (batch, 2 height, 2 width, features).
    """

    features: int | None = None
    """Channels of the result, for `with_conv`; None for those of x."""
    with_conv: bool = False
    fir_kernel: tuple[float, ...] | None = None
    """Taps of the filter; None for repeated pixels."""
    dtype: DType = jnp.float32

    @nn.compact
    def __call__(self, x: Image) -> Resized:
        if not self.with_conv:
            return upsample(x, self.fir_kernel)
        features = self.features or x.shape[-1]
        if self.fir_kernel is not None:
            return FIRConv(features, "up", self.fir_kernel, self.dtype, name="conv")(x)
        return conv3x3(features, name="conv", dtype=self.dtype)(upsample(x, None))


class Downsample(nn.Module):
    """Halve height and width, by a strided 3 x 3 convolution if `with_conv`.

    Args (call):
        x: images (batch, height, width, channels).
    Returns:
        Images (batch, height / 2, width / 2, features).
    """

    features: int | None = None
    """Channels of the result, for `with_conv`; None for those of x."""
    with_conv: bool = False
    fir_kernel: tuple[float, ...] | None = None
    """Taps of the filter; None for the mean over 2 x 2 pixels."""
    dtype: DType = jnp.float32

    @nn.compact
    def __call__(self, x: Image) -> Resized:
        if not self.with_conv:
            return downsample(x, self.fir_kernel)
        features = self.features or x.shape[-1]
        if self.fir_kernel is not None:
            return FIRConv(features, "down", self.fir_kernel, self.dtype, name="conv")(x)
        # One row of zeros below and one column on the right, none above and on the left.
        pad = ((0, 1), (0, 1))
        conv = nn.Conv(
            features, (3, 3), (2, 2), pad, kernel_init=kernel_init(), dtype=self.dtype, name="conv"
        )
        return conv(x)


class Combine(nn.Module):
    """Bring a resampled input image into the network: y = 1 x 1 convolution, then y + h or [y, h].

    Args (call):
        image: images (batch, height, width, any).
        h: hidden images (batch, height, width, channels).
    Returns:
        Images with the channels of h ("sum") or twice as many ("cat").
    """

    method: Literal["sum", "cat"] = "sum"
    dtype: DType = jnp.float32

    @nn.compact
    def __call__(self, image: Float[Array, "batch height width any"], h: Image) -> Resized:
        y = dense(h.shape[-1], name="conv", dtype=self.dtype)(image)
        return y + h if self.method == "sum" else jnp.concatenate([y, h], axis=-1)


class ResNetBlock(nn.Module):
    """Residual block: shortcut(x) + h.

    h goes through two rounds of norm, activation and 3 x 3 convolution.

    The first round may resample before its convolution; the embedding of the noise level, after an
    activation and a linear map, is added behind it. The second round has dropout before its
    convolution.

    With `resample="none"` and `shortcut="nin"` this is the block of DDPM; with `shortcut="conv1x1"`
    that of BigGAN. The shortcut is x itself where the block neither resamples nor changes the
    number of channels.

    Args (call):
        x: images (batch, height, width, channels).
        temb: embedding of the noise level before its activation, or None.
        train: apply dropout (needs the random stream "dropout").
    Returns:
        Images (batch, height', width', features); with `skip_rescale` the sum is divided by
        sqrt(2).
    Source: Ho et al. 2020 (DDPM), appendix B; Brock et al. 2019 (BigGAN); Song 2022 (dissertation),
        section B.5.8.
    """

    features: int
    activation: str = "swish"
    resample: Literal["none", "up", "down"] = "none"
    fir_kernel: tuple[float, ...] | None = None
    """Taps of the resampling filter; None for repeated pixels and 2 x 2 means."""
    shortcut: Literal["conv1x1", "nin", "conv3x3"] = "conv1x1"
    """"conv1x1" and "nin" are the same function; "nin" starts with a tenth of the variance."""
    dropout: float = 0.0
    skip_rescale: bool = False
    init_scale: float = 0.0
    groups: int | None = None
    dtype: DType = jnp.float32

    @nn.compact
    def __call__(self, x: Image, temb: Embedding | None, train: bool = False) -> Resized:
        act = ACTIVATIONS[self.activation]
        changed = self.resample != "none" or x.shape[-1] != self.features
        h = self._resampled(act(GroupNorm(self.groups, name="norm_0")(x)))
        h = conv3x3(self.features, name="conv_0", dtype=self.dtype)(h)
        if temb is not None:
            h = h + dense(self.features, name="time", dtype=self.dtype)(act(temb))[:, None, None, :]
        h = act(GroupNorm(self.groups, name="norm_1")(h))
        h = nn.Dropout(self.dropout, deterministic=not train)(h)
        h = conv3x3(self.features, name="conv_1", dtype=self.dtype, init_scale=self.init_scale)(h)
        return join(self._shortcut(self._resampled(x)) if changed else x, h, self.skip_rescale)

    @nn.nowrap
    def _resampled(self, x: Image) -> Resized:
        if self.resample == "none":
            return x
        return (
            upsample(x, self.fir_kernel)
            if self.resample == "up"
            else downsample(x, self.fir_kernel)
        )

    @nn.nowrap
    def _shortcut(self, x: Image) -> Resized:
        if self.shortcut == "conv3x3":
            return conv3x3(self.features, name="shortcut", dtype=self.dtype)(x)
        init_scale = 0.1 if self.shortcut == "nin" else 1.0
        return dense(self.features, name="shortcut", dtype=self.dtype, init_scale=init_scale)(x)


class TimeMLP(nn.Module):
    """Two linear layers, of 4 nf features: from features of a noise level to its embedding.

    Args (call):
        features: positional or Fourier features (batch, any).
    Returns:
        Embeddings (batch, 4 nf), before the activation that every block applies.
    """

    nf: int
    activation: str = "swish"
    dtype: DType = jnp.float32

    @nn.compact
    def __call__(self, features: Float[Array, "batch any"]) -> Embedding:
        h = dense(4 * self.nf, name="dense_0", dtype=self.dtype)(features)
        return dense(4 * self.nf, name="dense_1", dtype=self.dtype)(ACTIVATIONS[self.activation](h))
