"""The RefineNets of NCSN and NCSNv2.

NCSN is conditioned on the index of the noise level; NCSNv2 needs no condition.
"""

from typing import Literal, get_args

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Real

from score_sde.networks import layers
from score_sde.networks.layers import DType
from score_sde.networks.refinenet import ChannelVariance, Options, RefineNet, Resize

Variant = Literal["64", "128", "256"]
Narrowed = Literal["third", "last"]

# (channels in units of nf, dilation) of each cascade; every one but the first starts with a block
# that halves the images, or is dilated instead.
_CASCADES = {
    "64": ((1, 1), (2, 1), (2, 2), (2, 4)),
    "128": ((1, 1), (2, 1), (2, 1), (4, 2), (4, 4)),
    "256": ((1, 1), (2, 1), (2, 1), (2, 1), (4, 2), (4, 4)),
}
# Channels behind each refine block, in units of nf.
_REFINED = {"64": (2, 2, 1, 1), "128": (4, 2, 2, 1, 1), "256": (4, 2, 2, 2, 1, 1)}


class NCSN(nn.Module):
    """Noise conditional score network.

    A RefineNet whose normalization depends on the index of the noise level.

    Pre-activation residual blocks, CondInstanceNorm++ in front of every convolution and pool,
    average pooling. The output is not divided by sigma.

    Three fields exist because the published codes differ; an imported model sets what its code had,
    and the defaults are for new models:
    - `resize`: PyTorch "corner_aligned", flax "half_pixel" or "nearest". Half pixels keep small and
      large images in place; aligned corners stretch them by up to half a pixel and depend on the
      size.
    - `channel_variance`: PyTorch "C-1", flax "C". C is the divisor of every other variance in these
      networks.
    - `narrowed`: PyTorch "third", flax "last". The third is what table B.7 prints.

    Args (call):
        x: images (batch, height, width, channels), centred around 0, any number of channels; height
            and width are multiples of 2 ("64"), 4 ("128") or 8 ("256").
        labels: indices of noise levels (batch,), 0 for the largest; fractions are cut off, and
            labels beyond the levels take the nearest.
        train: not used; there is no dropout.
    Returns:
        The score, of the shape of x, in the type of x or float32, whichever is wider.
    Raises:
        UserError: for unknown options or impossible image sizes; the message says which ones work.
    Source: Song 2022 (dissertation), section B.3.1 and table B.7.
    """

    nf: int = 128
    """Channels of the first level; 64 for MNIST."""
    variant: Variant = "64"
    """Size of images it is meant for: up to 64 x 64 or 128 x 128, or 256 x 256 (which is only
    published for NCSNv2)."""
    num_classes: int = 10
    """Number of noise levels."""
    activation: str = "elu"
    plus: bool = True
    """Use CondInstanceNorm++; the published PyTorch code for 128 x 128 images has
    CondInstanceNorm."""
    resize: Resize = "half_pixel"
    """How refine blocks enlarge images, bilinear except for "nearest"."""
    channel_variance: ChannelVariance = "C"
    """Divisor of the variance of the means of C channels."""
    narrowed: Narrowed = "third"
    """For the variant "64": the refine block that goes from 2 nf to nf channels."""
    dtype: DType = jnp.float32
    """Type of the computation; parameters are float32."""
    remat: bool = False
    """Compute blocks again in the backward pass instead of storing them: less memory, more time."""

    def __post_init__(self) -> None:
        _check("NCSN", self)
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch height width channels"],
        labels: Real[Array, "batch"],
        train: bool = False,
    ) -> Float[Array, "batch height width channels"]:
        levels = jnp.clip(labels.astype(jnp.int32), 0, self.num_classes - 1)
        options = Options(
            self.num_classes,
            self.activation,
            self.channel_variance,
            self.plus,
            self.resize,
            self.dtype,
        )
        _check_image_size("NCSN", self.variant, x.shape[1], x.shape[2])
        h = x.astype(self.dtype)
        h = _body(self.nf, self.variant, self.narrowed, options, self.remat)(h, levels)
        return h.astype(layers.at_least_float32(x.dtype))


class NCSNv2(nn.Module):
    """NCSNv2: a RefineNet that does not know the noise level; its output is sigma times the score.

    Pre-activation residual blocks with InstanceNorm++; refine blocks with max pooling and no
    normalization. The parameterization divides by sigma (`parameterize.divided_by_sigma`). Because
    nothing else depends on sigma, any number of noise levels costs nothing.

    Three fields exist because the published codes differ; an imported model sets what its code had,
    and the defaults are for new models:
    - `resize`: PyTorch "corner_aligned", flax "half_pixel" or "nearest". Half pixels keep small and
      large images in place; aligned corners stretch them by up to half a pixel and depend on the
      size.
    - `channel_variance`: PyTorch "C-1", flax "C". C is the divisor of every other variance in these
      networks.
    - `narrowed`: PyTorch "third", flax "last". The third is what table B.8 prints.

    Args (call):
        x: images (batch, height, width, channels), centred around 0, any number of channels; height
            and width are multiples of 2 ("64"), 4 ("128") or 8 ("256").
        labels: noise levels (batch,); not used, there so that it can stand for other networks.
        train: not used; there is no dropout.
    Returns:
        sigma times the score, of the shape of x, in the type of x or float32, whichever is wider.
    Raises:
        UserError: for unknown options or impossible image sizes; the message says which ones work.
    Source: Song 2022 (dissertation), technique 6.3, section B.4.1 and table B.8; the cascade that
        the variant "256" has more than "128" is not in the table but in all published codes.
    """

    nf: int = 128
    """Channels of the first level."""
    variant: Variant = "64"
    """Size of images it is meant for: up to 64 x 64, 128 x 128 or 256 x 256."""
    activation: str = "elu"
    resize: Resize = "half_pixel"
    """How refine blocks enlarge images, bilinear except for "nearest"."""
    channel_variance: ChannelVariance = "C"
    """Divisor of the variance of the means of C channels."""
    narrowed: Narrowed = "third"
    """For the variant "64": the refine block that goes from 2 nf to nf channels."""
    dtype: DType = jnp.float32
    """Type of the computation; parameters are float32."""
    remat: bool = False
    """Compute blocks again in the backward pass instead of storing them: less memory, more time."""

    def __post_init__(self) -> None:
        _check("NCSNv2", self)
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch height width channels"],
        labels: Real[Array, "batch"],
        train: bool = False,
    ) -> Float[Array, "batch height width channels"]:
        options = Options(
            activation=self.activation,
            channel_variance=self.channel_variance,
            resize=self.resize,
            dtype=self.dtype,
        )
        _check_image_size("NCSNv2", self.variant, x.shape[1], x.shape[2])
        h = x.astype(self.dtype)
        h = _body(self.nf, self.variant, self.narrowed, options, self.remat)(h, None)
        return h.astype(layers.at_least_float32(x.dtype))


def variant_for(height: int, width: int) -> Variant:
    """The smallest variant meant for images of this size; "256" for larger ones."""
    size = max(height, width)
    return "64" if size <= 64 else "128" if size <= 128 else "256"


def cascades(variant: Variant) -> tuple[tuple[int, int], ...]:
    """(channels in units of nf, dilation) of each cascade.

    From the second on, dilation 1 halves the images.
    """
    return _CASCADES[variant]


def _body(
    nf: int, variant: Variant, narrowed: Narrowed, options: Options, remat: bool
) -> RefineNet:
    refined = _REFINED[variant]
    if variant == "64" and narrowed == "last":
        refined = (2, 2, 2, 1)
    return RefineNet(nf, _CASCADES[variant], refined, options, remat, name="refinenet")


def _check(owner: str, network: NCSN | NCSNv2) -> None:
    for field, choices in {
        "variant": get_args(Variant),
        "activation": tuple(layers.ACTIVATIONS),
        "resize": get_args(Resize),
        "channel_variance": get_args(ChannelVariance),
        "narrowed": get_args(Narrowed),
    }.items():
        layers.check_choice(owner, field, getattr(network, field), choices)


def _check_image_size(owner: str, variant: Variant, height: int, width: int) -> None:
    halvings = sum(dilation == 1 for _, dilation in _CASCADES[variant][1:])
    layers.check_halvings(f"{owner} of variant {variant!r}", height, width, halvings)
