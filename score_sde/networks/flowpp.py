"""The conditional flow q(u | image) of variational dequantization.

Source: Flow++ (Ho et al. 2019).
"""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from score_sde.errors import UserError
from score_sde.networks.layers import Image, conv3x3, dense

Half = Float[Array, "batch height half channels"]
Features = Float[Array, "batch height half features"]
PerSample = Float[Array, "batch"]
Mixture = tuple[
    Float[Array, "batch height half channels components"],
    Float[Array, "batch height half channels components"],
    Float[Array, "batch height half channels components"],
]

LEAST_LOG_SCALE = -7.0
"""Logistic components are no narrower than exp of this."""
UNIFORM_STD = 1.6
"""sigmoid(1.6 z), z ~ N(0, 1), is nearly uniform on (0, 1): its entropy lacks 0.015 nats."""


def split(x: Image) -> tuple[Half, Half]:
    """Even columns and odd columns; the odd ones of an odd width get a last column of zeros."""
    even, odd = x[:, :, ::2], x[:, :, 1::2]
    return even, jnp.pad(odd, ((0, 0), (0, 0), (0, x.shape[2] % 2), (0, 0)))


def join(halves: tuple[Half, Half], width: int) -> Image:
    """The image of which `halves` is the `split`."""
    pairs = jnp.stack(halves, axis=3)
    batch, height, half, _, channels = pairs.shape
    return pairs.reshape(batch, height, 2 * half, channels)[:, :, :width]


def concat_elu(x: Array) -> Array:
    """[elu(x), elu(-x)], which loses nothing of x."""
    return nn.elu(jnp.concatenate([x, -x], axis=-1))


def gate(x: Array) -> Array:
    """First half of the channels times the sigmoid of the second."""
    a, b = jnp.split(x, 2, axis=-1)
    return a * nn.sigmoid(b)


class GatedConv(nn.Module):
    """Convolution, nonlinearity, projection to a gated output; the caller adds the shortcut.

    Args (call):
        x: features. context: further features at the same places, or None.
    """

    pixelwise: bool
    """Whether the second map is 1 x 1 rather than 3 x 3."""

    @nn.compact
    def __call__(self, x: Half, context: Features | None = None) -> Half:
        features = x.shape[-1]
        h = conv3x3(features, name="conv_0", dtype=x.dtype)(concat_elu(x))
        if context is not None:
            h = h + dense(features, name="context", dtype=x.dtype)(concat_elu(context))
        last = dense if self.pixelwise else conv3x3
        return gate(last(2 * features, name="conv_1", dtype=x.dtype)(concat_elu(h)))


class GatedAttention(nn.Module):
    """Attention between all places, with several heads and a gated output.

    The caller adds the shortcut.
    """

    heads: int

    @nn.compact
    def __call__(self, x: Half, position: Float[Array, "height half channels"]) -> Half:
        batch, height, width, channels = x.shape
        each = channels // self.heads
        h = dense(3 * channels, name="qkv", dtype=x.dtype)(x + position[None])
        query, key, value = jnp.moveaxis(
            h.reshape(batch, height * width, 3, self.heads, each), 2, 0
        )
        weights = nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", query, key) / math.sqrt(each), axis=-1)
        h = jnp.einsum("bhqk,bkhd->bqhd", weights, value).reshape(x.shape)
        return gate(dense(2 * channels, name="out", dtype=x.dtype)(h))


class ChannelNorm(nn.Module):
    """Standardize the channels of each place, then scale and shift each channel.

    Epsilon is 1e-5.
    """

    @nn.compact
    def __call__(self, x: Half) -> Half:
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:], jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:], jnp.float32)
        centred = x - jnp.mean(x, axis=-1, keepdims=True)
        x = centred * lax.rsqrt(jnp.mean(centred**2, axis=-1, keepdims=True) + 1e-5)
        return x * scale.astype(x.dtype)[None, None, None] + bias.astype(x.dtype)[None, None, None]


def _position(module: nn.Module, x: Array) -> Array:
    value = module.param("position", nn.initializers.normal(0.01), x.shape[1:], jnp.float32)
    return jnp.asarray(value, x.dtype)


class Context(nn.Module):
    """Features of the image, at the places of a half.

    They come from gated convolutions, with attention if `heads` > 0.
    """

    features: int
    layers: int
    heads: int

    @nn.compact
    def __call__(self, halves: tuple[Half, Half]) -> Features:
        h = conv3x3(self.features, name="conv_in", dtype=halves[0].dtype)(
            jnp.concatenate(halves, axis=-1)
        )
        position = _position(self, h) if self.heads else None
        for i in range(self.layers):
            h = h + GatedConv(pixelwise=False, name=f"conv_{i}")(h)
            if position is not None:
                h = ChannelNorm(name=f"norm_{i}_0")(h)
                h = h + GatedAttention(self.heads, name=f"attn_{i}")(h, position)
                h = ChannelNorm(name=f"norm_{i}_1")(h)
        return h


class Conditioner(nn.Module):
    """From one half and the context to the elementwise map of the other half.

    The map is (log-scale, shift, mixture).
    """

    filters: int
    components: int
    blocks: int
    heads: int
    activate_output: bool

    @nn.compact
    def __call__(self, x: Half, context: Features) -> tuple[Half, Half, Mixture]:
        channels = x.shape[-1]
        h = conv3x3(self.filters, name="conv_in", dtype=x.dtype)(x)
        position = _position(self, h) if self.heads else None
        for i in range(self.blocks):
            h = ChannelNorm(name=f"norm_{i}_0")(
                h + GatedConv(pixelwise=True, name=f"conv_{i}")(h, context)
            )
            if position is not None:
                h = h + GatedAttention(self.heads, name=f"attn_{i}")(h, position)
                h = ChannelNorm(name=f"norm_{i}_1")(h)
        h = concat_elu(h) if self.activate_output else h
        outputs = channels * (2 + 3 * self.components)
        h = conv3x3(outputs, name="conv_out", dtype=h.dtype, init_scale=0.01)(h)
        h = h.reshape(*x.shape, 2 + 3 * self.components)
        logits, means, log_scales = jnp.split(h[..., 2:], 3, axis=-1)
        mixture = nn.log_softmax(logits), means, jnp.maximum(log_scales, LEAST_LOG_SCALE)
        return jnp.tanh(h[..., 0]), h[..., 1], mixture


def mixture_logit(x: Half, mixture: Mixture) -> tuple[Half, Half]:
    """(logit F(x), log of its derivative) for a mixture of logistics.

    F is the distribution function of the mixture.

    log F and log(1 - F) are computed apart, so neither tail is lost to rounding.
    """
    log_weights, means, log_scales = mixture
    z = (x[..., None] - means) * jnp.exp(-log_scales)
    below, above = nn.log_sigmoid(z), nn.log_sigmoid(-z)
    total = functools.partial(jax.nn.logsumexp, axis=-1)
    log_f, log_rest = total(log_weights + below), total(log_weights + above)
    log_density = total(log_weights + below + above - log_scales)
    return log_f - log_rest, log_density - log_f - log_rest


def mixture_logit_inverse(y: Half, mixture: Mixture) -> Half:
    """x with logit F(x) = y, by bisection to the last digit.

    Each component alone would have x = mean + scale y; the mixture's x lies between the least and
    the largest of them.
    """
    _, means, log_scales = mixture
    ends = means + jnp.exp(log_scales) * y[..., None]
    steps = 2 * jnp.finfo(y.dtype).nmant

    def halve(_, bracket):
        low, high = bracket
        middle = low + (high - low) / 2
        below = mixture_logit(middle, mixture)[0] < y
        return jnp.where(below, middle, low), jnp.where(below, high, middle)

    low, high = lax.fori_loop(0, steps, halve, (jnp.min(ends, -1), jnp.max(ends, -1)))
    return low + (high - low) / 2


class FlowPP(nn.Module):
    """A flow u = f(eps; image), eps ~ N(0, I), onto (0, 1)^D, with exact inverse and density.

    Couplings in turn rescale, mix the channels of, and bend by the distribution function of a
    mixture of logistics, one half of the values given the other half and the image; a sigmoid ends
    them. The halves are the even and the odd columns throughout and never channels, so any number
    of channels and any size will do, a single pixel included (of an odd width the odd half has one
    column less). A fresh flow is nearly uniform dequantization (see `UNIFORM_STD`).

    The defaults are the flow for CIFAR-10. The published flow for ImageNet 32 x 32 has couplings=8,
    mix_channels=False, context_layers=8, context_heads=4 and activate_output=True. Weight
    normalization and initialization from data are not
    here: they change how a flow is trained, not what it can be.

    Args (call):
        eps: standard normal values, shape of the image, or u for `inverse`.
        images: levels scaled to [0, 1], (batch, height, width, channels).

    Returns:
        u in (0, 1) (eps for `inverse`), shape of the image, and log q(u | image) in nats, shape
        (batch,).

    Source: Ho et al., "Flow++" (2019), sections 3.1, 3.2 and 3.3; dissertation section 9.5.2.
    """

    filters: int = 96
    """Width of the couplings' networks."""
    components: int = 32
    """Logistic distributions in a mixture."""
    blocks: int = 2
    """Gated convolutions, each followed by attention, in a coupling."""
    heads: int = 4
    """Attention heads of the couplings; 0 leaves attention out (it grows with the square of the
    number of pixels)."""
    couplings: int = 4
    mix_channels: bool = True
    """A learned linear map of the channels in front of each coupling."""
    context_filters: int = 32
    context_layers: int = 3
    context_heads: int = 0
    activate_output: bool = False
    """A nonlinearity in front of the couplings' last convolution."""

    def setup(self):
        self._check()
        self.context = Context(self.context_filters, self.context_layers, self.context_heads)
        gain = UNIFORM_STD ** (1 / self.couplings)
        self.scalings = [Scaling(gain, self.mix_channels) for _ in range(self.couplings)]
        self.conditioners = [
            Conditioner(
                self.filters, self.components, self.blocks, self.heads, self.activate_output
            )
            for _ in range(self.couplings)
        ]

    def _check(self):
        for name in ("filters", "components", "blocks", "couplings", "context_filters"):
            if getattr(self, name) < 1:
                raise UserError(
                    f"the dequantizer's {name} must be at least 1; got {getattr(self, name)}"
                )
        for name in ("heads", "context_heads", "context_layers"):
            if getattr(self, name) < 0:
                raise UserError(
                    f"the dequantizer's {name} must be 0 or positive; got {getattr(self, name)}"
                )
        for width, heads in (
            (self.filters, self.heads),
            (self.context_filters, self.context_heads),
        ):
            if heads and width % heads:
                raise UserError(
                    f"the dequantizer's attention heads must divide its width; got {heads} heads, "
                    f"width {width}"
                )

    def __call__(self, eps: Image, images: Image) -> tuple[Image, PerSample]:
        context, masks = self.context(split(images - 0.5)), _places(eps)
        halves, log_det = split(eps), jnp.zeros(len(eps), eps.dtype)
        for scaling, conditioner in zip(self.scalings, self.conditioners):
            halves, scaled = scaling(halves, masks)
            fixed, moved = halves
            log_scale, shift, mixture = conditioner(fixed, context)
            moved, log_slope = mixture_logit(moved, mixture)
            moved = jnp.exp(log_scale) * moved + shift
            log_det = log_det + scaled + _total((log_scale + log_slope) * masks[1])
            halves, masks = (moved * masks[1], fixed), masks[::-1]  # the other half is next
        y = join(halves if self.couplings % 2 == 0 else halves[::-1], eps.shape[2])
        log_det = log_det + _total(nn.log_sigmoid(y) + nn.log_sigmoid(-y))
        log_normal = -0.5 * _total(eps**2 + math.log(2 * math.pi))
        return nn.sigmoid(y), log_normal - log_det

    def inverse(self, u: Image, images: Image) -> tuple[Image, PerSample]:
        """(eps, log q(u | image)) for u in (0, 1).

        Bisection makes it slow, and without gradient.
        """
        context, places = self.context(split(images - 0.5)), _places(u)
        halves = split(jnp.log(u) - jnp.log1p(-u))
        halves = halves if self.couplings % 2 == 0 else halves[::-1]
        for i in reversed(range(self.couplings)):
            masks = places if i % 2 == 0 else places[::-1]
            moved, fixed = halves
            log_scale, shift, mixture = self.conditioners[i](fixed, context)
            moved = mixture_logit_inverse((moved - shift) * jnp.exp(-log_scale), mixture)
            halves = self.scalings[i].inverse((fixed, moved * masks[1]), masks)
        eps = join(halves, u.shape[2])
        return eps, self(eps, images)[1]


class Scaling(nn.Module):
    """Each place's own gain and shift, then, for several channels, a linear map of the channels.

    For both halves.

    Gains are kept as logarithms, and so are positive.
    """

    gain: float
    """Of a fresh one."""
    mix_channels: bool

    def _parameters(self, halves: tuple[Half, Half]) -> list[tuple[Array, Array, Array | None]]:
        found = []
        for name, x in zip("ab", halves):
            log_gain = self.param(
                f"log_gain_{name}",
                nn.initializers.constant(math.log(self.gain)),
                x.shape[1:],
                jnp.float32,
            )
            shift = self.param(f"shift_{name}", nn.initializers.zeros, x.shape[1:], jnp.float32)
            mix = None
            if self.mix_channels and x.shape[-1] > 1:
                mix = self.param(
                    f"mix_{name}", lambda _, n: jnp.eye(n, dtype=jnp.float32), x.shape[-1]
                ).astype(x.dtype)
            found.append((log_gain.astype(x.dtype), shift.astype(x.dtype), mix))
        return found

    @nn.compact
    def __call__(
        self, halves: tuple[Half, Half], masks: tuple[Array, Array]
    ) -> tuple[tuple[Half, Half], Array]:
        """The new halves, and the log-determinant, which is the same for every sample."""
        results, log_det = [], jnp.zeros((), halves[0].dtype)
        for x, mask, (log_gain, shift, mix) in zip(halves, masks, self._parameters(halves)):
            x = x * jnp.exp(log_gain)[None] + shift[None]
            log_det = log_det + jnp.sum(log_gain * mask[0])
            if mix is not None:
                x = x @ mix
                log_det = log_det + jnp.sum(mask) * jnp.linalg.slogdet(mix)[1]
            results.append(x * mask)
        return (results[0], results[1]), log_det

    @nn.compact
    def inverse(self, halves: tuple[Half, Half], masks: tuple[Array, Array]) -> tuple[Half, Half]:
        """The halves that are mapped to `halves`."""
        results = []
        for x, mask, (log_gain, shift, mix) in zip(halves, masks, self._parameters(halves)):
            x = x if mix is None else x @ jnp.linalg.inv(mix)
            results.append((x - shift[None]) * jnp.exp(-log_gain)[None] * mask)
        return results[0], results[1]


def _places(x: Image) -> tuple[Array, Array]:
    """1 where a half has a value, 0 where it is filled up."""
    even, odd = split(jnp.ones((1, *x.shape[1:3], 1), x.dtype))
    return even, odd


def _total(x: Float[Array, "batch height width channels"]) -> PerSample:
    return jnp.sum(x, axis=(1, 2, 3))
