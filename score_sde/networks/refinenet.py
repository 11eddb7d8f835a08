"""RefineNet with normalization of instances.

The layers of NCSN and NCSNv2, and the body that both share.

Conditional layers have one set of normalization parameters for each noise level, chosen by its
index.
"""

import dataclasses
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from score_sde.networks import layers
from score_sde.networks.layers import DType, Image, Resized

ChannelVariance = Literal["C", "C-1"]
Resize = Literal["half_pixel", "corner_aligned", "nearest"]
Pooling = Literal["average", "max"]
Levels = Int[Array, "batch"] | None

EPSILON = 1e-5
"""Added to both variances of InstanceNorm++."""


@dataclasses.dataclass(frozen=True)
class Options:
    """What all layers of one network have in common."""

    num_classes: int | None = None
    """Number of noise levels that the layers are conditioned on; None for unconditional layers,
    which leaves the normalization out of the refine blocks and makes their pooling that of
    maxima."""
    activation: str = "elu"
    channel_variance: ChannelVariance = "C"
    """Divisor of the variance of the channel means, for C channels."""
    plus: bool = True
    """For conditional layers: CondInstanceNorm++ rather than CondInstanceNorm."""
    resize: Resize = "half_pixel"
    """How small images are enlarged for fusion."""
    dtype: DType = jnp.float32

    def norm(self, name: str) -> nn.Module:
        """InstanceNorm++ or CondInstanceNorm++; called with (x, levels)."""
        if self.num_classes is None:
            return InstanceNormPlus(self.channel_variance, name=name)
        return CondInstanceNormPlus(self.num_classes, self.channel_variance, self.plus, name=name)


class InstanceNormPlus(nn.Module):
    """InstanceNorm++, the normalization of NCSN and NCSNv2.

    z_k = gamma_k ((x_k - mu_k) / s_k + alpha_k (mu_k - m) / v) + beta_k for channel k.

    mu_k and s_k are mean and standard deviation of the pixels of channel k, m and v those of mu_1
    .. mu_C. The published codes have gamma in front of alpha too; the formula in print has gamma_k
    alpha_k for alpha_k.

    Args (call):
        x: images (batch, height, width, channels).
        levels: not used; there so that it can stand for CondInstanceNormPlus.
    Returns:
        Images of the same shape and type.
    Source: Song 2022 (dissertation), section B.3.1, with one class as in B.4.1.
    """

    channel_variance: ChannelVariance = "C"

    @nn.compact
    def __call__(self, x: Image, levels: Levels = None) -> Image:
        alpha = self.param("alpha", _around_one, (x.shape[-1],), jnp.float32)
        gamma = self.param("gamma", _around_one, (x.shape[-1],), jnp.float32)
        beta = self.param("beta", nn.initializers.zeros, (x.shape[-1],), jnp.float32)
        return _standardized(
            x, gamma[None, :], alpha[None, :], beta[None, :], self.channel_variance
        )


class CondInstanceNormPlus(nn.Module):
    """CondInstanceNorm++: InstanceNorm++ with its own gamma, alpha and beta for each noise level.

    Args (call):
        x: images (batch, height, width, channels).
        levels: indices of noise levels (batch,), in [0, num_classes).
    Returns:
        Images of the same shape and type.
    Source: Song 2022 (dissertation), section B.3.1.
    """

    num_classes: int
    channel_variance: ChannelVariance = "C"
    plus: bool = True
    """Use the means of channels; if False, this is CondInstanceNorm, without alpha."""

    @nn.compact
    def __call__(self, x: Image, levels: Levels) -> Image:
        assert levels is not None
        parts = 3 if self.plus else 2
        shape = (self.num_classes, parts * x.shape[-1])
        rows = self.param("embedding", self._embedding_init, shape, jnp.float32)[levels]
        gamma, *alpha, beta = jnp.split(rows, parts, axis=-1)
        return _standardized(x, gamma, alpha[0] if alpha else None, beta, self.channel_variance)

    @nn.nowrap
    def _embedding_init(self, key: Array, shape: tuple[int, ...], dtype: DType) -> Array:
        """Rows [gamma, alpha, beta], or [gamma, beta]: around one, and beta zero."""
        channels = shape[1] // (3 if self.plus else 2)
        return _around_one(key, shape, dtype).at[:, -channels:].set(0)


def _around_one(key: Array, shape: tuple[int, ...], dtype: DType) -> Array:
    return 1 + nn.initializers.normal(0.02)(key, shape, dtype)


def _standardized(
    x: Image,
    gamma: Float[Array, "rows channels"],
    alpha: Float[Array, "rows channels"] | None,
    beta: Float[Array, "rows channels"],
    channel_variance: ChannelVariance,
) -> Image:
    """InstanceNorm++ with given parameters, one row for all images or one for each.

    `alpha` None stands for 0.
    """
    wide = layers.at_least_float32(x.dtype)
    y = x.astype(wide)
    mean = y.mean(axis=(1, 2), keepdims=True)
    centred = y - mean
    z = centred * lax.rsqrt(jnp.square(centred).mean(axis=(1, 2), keepdims=True) + EPSILON)
    if alpha is not None:
        ddof = 1 if channel_variance == "C-1" else 0
        deviation = mean - mean.mean(axis=-1, keepdims=True)
        standard_mean = deviation * lax.rsqrt(mean.var(axis=-1, keepdims=True, ddof=ddof) + EPSILON)
        z = z + alpha.astype(wide)[:, None, None, :] * standard_mean
    z = gamma.astype(wide)[:, None, None, :] * z + beta.astype(wide)[:, None, None, :]
    return z.astype(x.dtype)


def _conv(
    features: int, options: Options, name: str, dilation: int = 1, use_bias: bool = True
) -> nn.Conv:
    return nn.Conv(
        features,
        (3, 3),
        kernel_dilation=dilation,
        use_bias=use_bias,
        kernel_init=_kernel_init,
        dtype=options.dtype,
        name=name,
    )


_kernel_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class ResidualBlock(nn.Module):
    """Pre-activation residual block: shortcut(x) + h.

    h is two rounds of InstanceNorm++, activation and convolution.

    With `down` the block of the next cascade: by dilation 1 it halves the images (the mean over 2 x
    2 pixels behind the second convolution and the shortcut); by a greater dilation it keeps their
    size. The shortcut is x itself unless `down` or the number of channels changes; then a 1 x 1
    convolution, or a 3 x 3 one if dilated.

    Args (call):
        x: images (batch, height, width, channels).
        levels: indices of noise levels (batch,), for conditional layers.
    Returns:
        Images (batch, height', width', features).
    Source: Song 2022 (dissertation), sections B.3.1 and B.4.1.
    """

    features: int
    options: Options
    down: bool = False
    dilation: int = 1

    @nn.compact
    def __call__(self, x: Image, levels: Levels) -> Resized:
        act = layers.ACTIVATIONS[self.options.activation]
        norm_0, norm_1 = self.options.norm("norm_0"), self.options.norm("norm_1")
        between = x.shape[-1] if self.down else self.features
        h = _conv(between, self.options, "conv_0", self.dilation)(act(norm_0(x, levels)))
        h = _conv(self.features, self.options, "conv_1", self.dilation)(act(norm_1(h, levels)))
        if self.down and self.dilation == 1:
            h, x = layers.downsample(h, None), layers.downsample(x, None)
        return h + (self._shortcut(x) if self.down or x.shape[-1] != self.features else x)

    @nn.nowrap
    def _shortcut(self, x: Image) -> Resized:
        if self.dilation > 1:
            return _conv(self.features, self.options, "shortcut", self.dilation)(x)
        dtype = self.options.dtype
        return nn.Dense(self.features, kernel_init=_kernel_init, dtype=dtype, name="shortcut")(x)


class ResidualConv(nn.Module):
    """RCU: `blocks` residual units x + h.

    h is two rounds of (norm,) activation and 3 x 3 convolution without bias.

    Args (call):
        x: images (batch, height, width, channels).
        levels: indices of noise levels (batch,), for conditional layers, the only ones with
            normalization.
    Returns:
        Images of the same shape.
    Source: Lin et al. 2017 (RefineNet), section 3.2, with more units.
    """

    options: Options
    blocks: int = 2

    @nn.compact
    def __call__(self, x: Image, levels: Levels) -> Image:
        act = layers.ACTIVATIONS[self.options.activation]
        for block in range(self.blocks):
            h = x
            for stage in range(2):
                if self.options.num_classes is not None:
                    h = self.options.norm(f"norm_{block}_{stage}")(h, levels)
                name = f"conv_{block}_{stage}"
                h = _conv(x.shape[-1], self.options, name, use_bias=False)(act(h))
            x = x + h
        return x


class ChainedPooling(nn.Module):
    """CRP, chained residual pooling.

        y_0 = act(x), p_0 = y_0; p_i = conv(pool(norm(p_{i-1}))), y_i = y_{i-1} + p_i for i = 1, 2.

    Pools are over 5 x 5 pixels with stride 1; averages count the zeros beyond the edge, as
    published.

    Args (call):
        x: images (batch, height, width, channels).
        levels: indices of noise levels (batch,), for conditional layers, the only ones with
            normalization.
    Returns:
        y_2, of the same shape.
    Source: Lin et al. 2017 (RefineNet), section 3.2; average pooling: Song 2022 (dissertation),
    section B.3.1.
    """

    options: Options
    pooling: Pooling = "max"

    @nn.compact
    def __call__(self, x: Image, levels: Levels) -> Image:
        x = path = layers.ACTIVATIONS[self.options.activation](x)
        for i in range(2):
            if self.options.num_classes is not None:
                path = self.options.norm(f"norm_{i}")(path, levels)
            path = self._pool(path)
            path = _conv(x.shape[-1], self.options, f"conv_{i}", use_bias=False)(path)
            x = x + path
        return x

    @nn.nowrap
    def _pool(self, x: Image) -> Image:
        if self.pooling == "max":
            return nn.max_pool(x, (5, 5), padding="SAME")
        return nn.pool(x, 0.0, lax.add, (5, 5), (1, 1), "SAME") / 25


class Fusion(nn.Module):
    """MSF: the sum of 3 x 3 convolutions of images, all enlarged to the size of the first.

    Args (call):
        images: images (batch, height_i, width_i, channels_i), the first the largest.
        levels: indices of noise levels (batch,), for conditional layers, the only ones with
            normalization.
    Returns:
        Images (batch, height_0, width_0, features).
    Source: Lin et al. 2017 (RefineNet), section 3.2.
    """

    features: int
    options: Options

    @nn.compact
    def __call__(self, images: tuple[Array, ...], levels: Levels) -> Resized:
        _, height, width, _ = images[0].shape
        parts = []
        for i, h in enumerate(images):
            if self.options.num_classes is not None:
                h = self.options.norm(f"norm_{i}")(h, levels)
            h = _conv(self.features, self.options, f"conv_{i}")(h)
            parts.append(resized(h, height, width, self.options.resize))
        return sum(parts[1:], parts[0])


def resized(x: Image, height: int, width: int, resize: Resize) -> Resized:
    """Interpolate images to a larger size.

    Pixel i of n' new ones along an axis lies at (i + 1/2) n / n' - 1/2 ("half_pixel" and "nearest",
    which takes the pixel around that place) or i (n - 1) / (n' - 1) ("corner_aligned") of the n old
    ones; bilinear in between, and the edge continues outside.

    Args:
        x: images (batch, height, width, channels).
        height, width: the new size.
        resize: where the new pixels lie, as said above.
    Returns:
        Images (batch, height, width, channels).
    """
    if x.shape[1:3] == (height, width):
        return x
    rows, columns = (
        jnp.asarray(_interpolation(old, new, resize), x.dtype)
        for old, new in zip(x.shape[1:3], (height, width))
    )
    return jnp.einsum("bhwc,ih,jw->bijc", x, rows, columns)


def _interpolation(old: int, new: int, resize: Resize) -> np.ndarray:
    """The matrix (new, old) that interpolates along one axis."""
    i = np.arange(new)
    if resize == "corner_aligned":
        place = i * ((old - 1) / max(new - 1, 1))
    else:
        place = (i + 0.5) * (old / new) - 0.5
    if resize == "nearest":
        place = np.floor(place + 0.5)
    return np.maximum(0, 1 - np.abs(np.clip(place, 0, old - 1)[:, None] - np.arange(old)[None, :]))


class RefineBlock(nn.Module):
    """RefineBlock: RCU of each image, fusion if there are several, chained pooling, RCU.

    Args (call):
        images: images (batch, height_i, width_i, channels_i), the first the largest.
        levels: indices of noise levels (batch,), for conditional layers.
    Returns:
        Images (batch, height_0, width_0, features); for a single image `features` must be its
        channels.
    Source: Lin et al. 2017 (RefineNet), section 3.2, as used by Song 2022 (dissertation), section
    B.4.1.
    """

    features: int
    options: Options
    last: bool = False
    """Three units instead of one in the RCU at the end."""

    @nn.compact
    def __call__(self, images: tuple[Array, ...], levels: Levels) -> Resized:
        adapted = tuple(
            ResidualConv(self.options, name=f"adapt_{i}")(image, levels)
            for i, image in enumerate(images)
        )
        h = adapted[0]
        if len(adapted) > 1:
            h = Fusion(self.features, self.options, name="fusion")(adapted, levels)
        pooling: Pooling = "max" if self.options.num_classes is None else "average"
        h = ChainedPooling(self.options, pooling, name="pooling")(h, levels)
        return ResidualConv(self.options, blocks=3 if self.last else 1, name="out")(h, levels)


class RefineNet(nn.Module):
    """The body of NCSN and NCSNv2: cascades of residual blocks down, refine blocks up, all joined.

    Args (call):
        x: images (batch, height, width, channels).
        levels: indices of noise levels (batch,), for conditional layers.
    Returns:
        Images of the shape of x.
    Source: Song 2022 (dissertation), tables B.7 and B.8.
    """

    nf: int
    """Channels of the first cascade."""
    cascades: tuple[tuple[int, int], ...]
    """(channels in units of nf, dilation) of the two residual blocks of each cascade."""
    refined: tuple[int, ...]
    """Channels behind each refine block, in units of nf, from the last cascade to the first."""
    options: Options
    remat: bool = False

    @nn.compact
    def __call__(self, x: Image, levels: Levels) -> Image:
        residual_block = nn.remat(ResidualBlock) if self.remat else ResidualBlock
        refine_block = nn.remat(RefineBlock) if self.remat else RefineBlock
        h = _conv(self.nf, self.options, "conv_in")(x)
        stored = []
        for i, (multiple, dilation) in enumerate(self.cascades):
            for j in range(2):
                down, name = i > 0 and j == 0, f"cascade_{i}_block_{j}"
                block = residual_block(self.nf * multiple, self.options, down, dilation, name=name)
                h = block(h, levels)
            stored.append(h)
        for i, multiple in enumerate(self.refined):
            images = (stored.pop(), h) if i > 0 else (stored.pop(),)
            last = i == len(self.refined) - 1
            h = refine_block(self.nf * multiple, self.options, last, name=f"refine_{i}")(
                images, levels
            )
        h = layers.ACTIVATIONS[self.options.activation](self.options.norm("norm_out")(h, levels))
        return _conv(x.shape[-1], self.options, "conv_out")(h)
