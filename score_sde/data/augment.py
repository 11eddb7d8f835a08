"""Geometric transformations of training images, with the label that keeps them out of samples.

A network that is told how an image was transformed learns all images, and draws untransformed ones
when the label is 0.

Source: Karras et al. 2022, appendix F.2.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

LABELS = 9
"""Entries of a label."""
STRETCH = 0.2
"""Standard deviation of the base-2 logarithms of both scalings."""
SHIFT = 1 / 8
"""Standard deviation of a translation, in sizes of the image."""

Point = Float[Array, "2"]
"""(x, y): to the right and down, in pixels from the centre of the image."""


@dataclasses.dataclass(frozen=True)
class Augment:
    """`augment(keys, images) -> (images, labels)`: a random affine map of each image.

    One after the other: mirror left to right and upside down, scale by 2^(0.2 s), rotate by an
    angle a, stretch by 2^(0.2 e) along the direction r and shrink by as much across it, and shift
    by 1/8 of the size times (h, v). s, e, h, v are standard normal, a and r uniform in [-pi, pi]
    and [-pi/2, pi/2]. The label is

        (mirrored, upside down, s, cos a - 1, sin a, e cos r, e sin r, h, v).

    Its mirror image takes half of all images. Each other part takes the given share of images and
    leaves the rest alone. A label of zeros is the image itself, exactly.

    Unlike EDM's code, which filters by wavelets, pixels are interpolated by cubic convolution (Keys
    1981). Images continue beyond their edges as mirrored there.

    Args:
        probability: the share, in [0, 1]; 0.12 for CIFAR-10, 0.15 for 64 x 64 images.

    Raises:
        ValueError: probability outside [0, 1].
    """

    probability: float

    def __post_init__(self):
        if not 0 <= self.probability <= 1:
            raise ValueError(
                f"the probability of a transformation must be in [0, 1]; got {self.probability}"
            )

    def __call__(
        self, keys: Key[Array, "batch"], images: Float[Array, "batch height width channels"]
    ) -> tuple[Float[Array, "batch height width channels"], Float[Array, "batch labels"]]:
        """Transformed images and their labels; those of an image depend on its own key alone."""

        def one(key, image):
            matrix, shift, label = self.draw(key)
            return warp(image, matrix, shift), label

        images, labels = jax.vmap(one)(keys, images)
        return images, labels.astype(images.dtype)

    def draw(
        self, key: Key[Array, ""]
    ) -> tuple[Float[Array, "2 2"], Point, Float[Array, "labels"]]:
        """(inverse of the linear map, shift in sizes of the image, label) of one image."""
        on_key, sign_key, normal_key, angle_key = jax.random.split(key, 4)
        on = (jax.random.uniform(on_key, (5,)) < self.probability).astype(float)
        mirror, flip = jax.random.bernoulli(sign_key, shape=(2,)).astype(float)
        scale, stretch, *shift = jax.random.normal(normal_key, (4,))
        angle, axis = jax.random.uniform(angle_key, (2,), minval=-1.0, maxval=1.0)
        flip, scale, angle = flip * on[0], scale * on[1], jnp.pi * angle * on[2]
        stretch, axis = stretch * on[3], jnp.pi / 2 * axis * on[3]
        moved = jnp.stack(shift) * on[4]
        along = jnp.exp2(STRETCH * stretch)
        inverse = (
            jnp.diag(jnp.stack([1 - 2 * mirror, 1 - 2 * flip]) * jnp.exp2(-STRETCH * scale))
            @ rotation(-angle)
            @ rotation(axis)
            @ jnp.diag(jnp.stack([1 / along, along]))
            @ rotation(-axis)
        )
        turned = [jnp.cos(angle) - 1, jnp.sin(angle)]
        stretched = [stretch * jnp.cos(axis), stretch * jnp.sin(axis)]
        return inverse, SHIFT * moved, jnp.stack([mirror, flip, scale, *turned, *stretched, *moved])


def rotation(angle: Float[Array, ""]) -> Float[Array, "2 2"]:
    """The matrix that turns (1, 0) into (cos, sin) of the angle."""
    c, s = jnp.cos(angle), jnp.sin(angle)
    return jnp.stack([jnp.stack([c, -s]), jnp.stack([s, c])])


def warp(
    image: Float[Array, "height width channels"], inverse: Float[Array, "2 2"], shift: Point
) -> Float[Array, "height width channels"]:
    """The image moved by p -> M p + shift * (width, height), with M^-1 = `inverse`.

    The pixel at p comes from M^-1 (p - shift), by cubic convolution of 4 x 4 pixels.
    """
    height, width, _ = image.shape
    size = jnp.asarray([width, height], inverse.dtype)
    centre = (size - 1) / 2
    rows, columns = jnp.mgrid[:height, :width].astype(inverse.dtype)
    x, y = (p - c - d for p, c, d in zip((columns, rows), centre, shift * size))
    xs, in_x = _taps(inverse[0, 0] * x + inverse[0, 1] * y + centre[0], width)
    ys, in_y = _taps(inverse[1, 0] * x + inverse[1, 1] * y + centre[1], height)
    pixels = image[ys[:, None], xs[None]]
    return jnp.einsum("ihw,jhw,ijhwc->hwc", in_y, in_x, pixels).astype(image.dtype)


def _taps(place: Float[Array, "height width"], size: int):
    """The four pixels around a place along one axis, and their weights."""
    first = jnp.floor(place)
    f = place - first
    weights = jnp.stack(
        [
            f * (-0.5 + f * (1 - 0.5 * f)),
            1 + f**2 * (-2.5 + 1.5 * f),
            f * (0.5 + f * (2 - 1.5 * f)),
            f**2 * (-0.5 + 0.5 * f),
        ]
    )
    indices = first.astype(jnp.int32)[None] + jnp.arange(-1, 3)[:, None, None]
    period = max(2 * (size - 1), 1)
    folded = indices % period
    return jnp.minimum(folded, period - folded), weights
