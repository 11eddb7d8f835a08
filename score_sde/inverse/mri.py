"""Magnetic resonance imaging: images measured in k-space, with exact adjoints.

`single_coil` and `multi_coil` measure on a grid, with a mask of `kspace_masks`; `radial` along
lines. k-space is that of the centred unitary transform: the pixel (h // 2, w // 2) is at position
0, and frequency 0 is there too.

Images are real with c channels, or complex with 2 c: channel 2 j is the real part of image j and
2 j + 1 its imaginary part, as `data.ComplexRange` has them. Data are complex. They count as pairs
of real numbers, and so does their noise.

Real images have k-space with F x(-k) = conj(F x(k)). So each measured frequency tells of its mirror
too, and data that contradict this are met in the sense of least squares.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float, Inexact, Shaped

from score_sde.errors import UserError
from score_sde.inverse.image_operators import Event
from score_sde.inverse.kspace_masks import GOLDEN_ANGLE
from score_sde.inverse.operators import (
    Mask,
    Masked,
    Operator,
    Shift,
    Spectrum,
    X,
    Y,
    expect,
    reciprocal,
    static,
)

KSpace = Complex[Array, "... h w c"]
"""Complex, the centre of k-space or of the image at (h // 2, w // 2)."""
SPATIAL = (-3, -2)
"""Axes of height and width."""


def centred_fft2(image: Inexact[Array, "... h w c"]) -> KSpace:
    """sum_r image_r exp(-2 pi i k.r)/sqrt(h w), with r and k counted from (h // 2, w // 2)."""
    k = jnp.fft.fft2(jnp.fft.ifftshift(image, SPATIAL), axes=SPATIAL, norm="ortho")
    return jnp.fft.fftshift(k, SPATIAL)


def centred_ifft2(k: KSpace) -> KSpace:
    """The inverse of `centred_fft2`, and its adjoint."""
    image = jnp.fft.ifft2(jnp.fft.ifftshift(k, SPATIAL), axes=SPATIAL, norm="ortho")
    return jnp.fft.fftshift(image, SPATIAL)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Fourier(Operator):
    """T = F of each channel: (b, h, w, c) complex data.

    Args:
        event: shape of one image.
        complex_images: whether channels are pairs of real and imaginary parts. Then T is
            orthogonal. Of real images T^T T = I, but T reaches half of all data.
    """

    event: Event = static()
    complex_images: bool = static(default=False)

    @property
    def measured(self) -> tuple[int, ...]:
        """One complex channel an image."""
        return *self.event[:2], self.event[2] // (1 + self.complex_images)

    @property
    def orthogonal(self) -> bool:  # type: ignore[override]
        """For complex images."""
        return self.complex_images

    def forward(self, x: X) -> Y:
        """F x."""
        return centred_fft2(_complex(expect(x, self.event, "x"), self.complex_images))

    def adjoint(self, y: Y) -> X:
        """F^H y, of real images its real part."""
        return _parts(centred_ifft2(expect(y, self.measured, "y")), self.complex_images)

    def decompose(self) -> Spectrum | None:
        """That of a mask that keeps all."""
        return self.decompose_masked(jnp.ones((1, 1, 1, 1), bool))

    def decompose_masked(self, mask: Mask) -> Spectrum | None:
        """The decomposition of Lambda F, at the cost of one transform each way.

        Complex images: V^T = F, s = Lambda, each frequency being two real coordinates. Real images:
        V is the Hartley transform, Re F x - Im F x, and s^2 = (Lambda(k) + Lambda(-k))/2. A
        frequency measured without its mirror has s^2 = 1/2.

        Source: Bracewell 1983, "Discrete Hartley transform".
        """
        if self.complex_images:
            values = jnp.asarray(mask, jnp.result_type(float))
            if mask.shape[-1] > 1:
                values = jnp.repeat(values, 2, axis=-1)
            return Spectrum(
                values,
                from_x=lambda x: _parts(self.forward(x), True),
                to_x=lambda c: self.adjoint(_complex(c, True)),
                from_y=lambda y: _parts(y, True),
                to_y=lambda c: _complex(c, True),
            )
        known = jnp.asarray(mask, jnp.result_type(float))
        values = jnp.sqrt((known + _mirror(known)) / 2)

        def from_y(y):
            kept = jnp.asarray(mask, y.dtype) * y
            twice = kept + jnp.conj(_mirror(kept))
            return reciprocal(values).astype(twice.real.dtype) / 2 * (twice.real - twice.imag)

        def to_y(c):
            kept = reciprocal(values).astype(c.dtype) * jnp.asarray(mask, c.dtype)
            k = _hermitian(c)
            return kept.astype(k.dtype) * k

        def from_x(x):
            k = self.forward(x)
            return k.real - k.imag

        return Spectrum(
            values, from_x, lambda c: self.adjoint(_hermitian(c)), from_y, to_y, complete=False
        )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Coils(Operator):
    """T x = F S_i x for each coil i: (b, coils, h, w, c) complex data.

    T^H T is the diagonal sum_i |S_i|^2, 1 where the maps are normalized.

    Args:
        maps: (1 or b, coils, h, w) complex sensitivities S_i.
        event: shape of one image.
        complex_images: as `Fourier`.
    """

    maps: Complex[Array, "rows coils h w"]
    event: Event = static()
    complex_images: bool = static(default=False)

    @property
    def measured(self) -> tuple[int, ...]:
        """Coils first."""
        channels = self.event[2] // (1 + self.complex_images)
        return self.maps.shape[1], *self.event[:2], channels

    def forward(self, x: X) -> Y:
        """F S_i x."""
        image = _complex(expect(x, self.event, "x"), self.complex_images)
        return centred_fft2(self._maps(image) * image[:, None])

    def adjoint(self, y: Y) -> X:
        """sum_i conj(S_i) F^H y_i, of real images its real part."""
        images = centred_ifft2(expect(y, self.measured, "y"))
        return _parts(jnp.sum(jnp.conj(self._maps(images)) * images, axis=1), self.complex_images)

    def solve(self, r: Y, a: Shift) -> Y:
        """(r - T (D + a)^-1 T^T r)/a with D = T^T T, for a = 0 T D^-2 T^T r."""
        a = jnp.asarray(a, r.real.dtype)
        back = self.adjoint(r)
        d = self._diagonal(back)
        a_x, a_y = (jnp.reshape(a, (-1,) + (1,) * (v.ndim - 1)) for v in (back, r))
        moved = self.forward(jnp.where(a_x > 0, reciprocal(d + a_x), reciprocal(d) ** 2) * back)
        return jnp.where(a_y > 0, reciprocal(a_y).astype(r.dtype) * (r - moved), moved)

    def pinv(self, y: Y) -> X:
        """D^-1 T^T y, 0 where no coil sees anything."""
        back = self.adjoint(y)
        return reciprocal(self._diagonal(back)) * back

    def norm(self) -> Float[Array, "rows"]:
        """The root of the largest sum of |S_i|^2."""
        return jnp.sqrt(jnp.max(self._diagonal(self.maps.real), axis=(1, 2, 3)))

    def _maps(self, v: Array) -> Array:
        return self.maps[..., None].astype(v.dtype)

    def _diagonal(self, v: Array) -> Array:
        """sum_i |S_i|^2, (rows, h, w, 1)."""
        return jnp.sum(jnp.abs(self.maps) ** 2, axis=1)[..., None].astype(v.dtype)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class NonuniformFourier(Operator):
    """y_j = sum_r x_r exp(-2 pi i k_j.r)/sqrt(h w) at points k_j: (b, points, c) complex data.

    The sum itself, without gridding: exact but for the rounding of k.r, and h w operations a point.
    At the frequencies of the grid it is `Fourier`.

    Args:
        points: (1 or b, m, 2) frequencies (vertical, horizontal) in cycles a pixel, -1/2 to 1/2.
        event: shape of one image.
        complex_images: as `Fourier`.
        block: points at a time, which bounds memory by block h c numbers a sample.
        steps: of conjugate gradients in `solve` and `pinv`.
    """

    points: Float[Array, "rows m 2"]
    event: Event = static()
    complex_images: bool = static(default=False)
    block: int = static(default=256)
    steps: int = static(default=Operator.steps)

    @property
    def measured(self) -> tuple[int, ...]:
        """Points, channels."""
        return self.points.shape[1], self.event[2] // (1 + self.complex_images)

    def forward(self, x: X) -> Y:
        """The sums, a block of points at a time."""
        image = _complex(expect(x, self.event, "x"), self.complex_images)

        def one(points, image):
            def some(points):
                rows, columns = self._waves(points, image.dtype)
                along = jnp.einsum("jw,hwc->jhc", columns, image, precision="highest")
                return jnp.einsum("jh,jhc->jc", rows, along, precision="highest")

            found = jax.lax.map(some, self._blocks(points))
            return found.reshape(-1, found.shape[-1])[: len(points)]

        return self._each(one, image)

    def adjoint(self, y: Y) -> X:
        """sum_j y_j exp(2 pi i k_j.r)/sqrt(h w), of real images its real part."""
        y = expect(y, self.measured, "y")

        def one(points, y):
            def add(image, part):
                points, y = part
                rows, columns = (jnp.conj(wave) for wave in self._waves(points, y.dtype))
                along = rows[:, :, None] * y[:, None]
                more = jnp.einsum("jw,jhc->hwc", columns, along, precision="highest")
                return image + more, None

            start = jnp.zeros((*self.event[:2], y.shape[1]), y.dtype)
            return jax.lax.scan(add, start, (self._blocks(points), self._blocks(y)))[0]

        return _parts(self._each(one, y), self.complex_images)

    def _each(self, one, v: Array) -> Array:
        """`one` of the points and each row of v."""
        if len(self.points) == 1:
            return jax.vmap(lambda v: one(self.points[0], v))(v)
        return jax.vmap(one)(self.points, v)

    def _blocks(self, v: Array) -> Array:
        """(blocks, block, ...), filled up with zeros."""
        size = min(self.block, len(v))
        padded = jnp.pad(v, ((0, -len(v) % size), (0, 0)))
        return padded.reshape(-1, size, v.shape[1])

    def _waves(self, points: Array, dtype: np.dtype) -> list[Array]:
        """exp(-2 pi i k r)/sqrt(n) along rows and columns, (points, n) each."""
        waves = []
        for axis, n in enumerate(self.event[:2]):
            r = jnp.arange(n, dtype=points.dtype) - n // 2
            turns = points[:, axis, None] * r[None]
            angle = -2 * math.pi * (turns - jnp.round(turns))
            wave = jax.lax.complex(jnp.cos(angle), jnp.sin(angle))
            waves.append((wave / math.sqrt(n)).astype(dtype))
        return waves


def single_coil(
    event: Event, mask: Shaped[Array | np.ndarray, "..."], complex_images: bool = False
) -> Masked:
    """Lambda F x: the masked k-space of each channel, (b, h, w, c) complex.

    Its decomposition is cheap, for real images as well.

    Args:
        event: shape of one image.
        mask: booleans, True where measured: (h, w), or (b, h, w) with a mask for each sample.
        complex_images: whether channels are pairs of real and imaginary parts.

    Raises:
        UserError: for another type or shape, masks that measure nothing, and an odd number of
            channels of complex images.
    """
    _check_channels(event, complex_images)
    return Masked(Fourier(event, complex_images), _known(event, mask)[..., None])


def multi_coil(
    event: Event,
    maps: Complex[Array | np.ndarray, "..."],
    mask: Shaped[Array | np.ndarray, "..."],
    complex_images: bool = True,
    steps: int = Operator.steps,
) -> Masked:
    """Lambda F S_i x for each coil i, (b, coils, h, w, c) complex.

    `pinv` and `solve` take conjugate gradients, which converge fast where coils tell the aliases
    apart. Of 8 simulated coils and random images 64 steps leave |A A^+ y - y| = 5e-4 |y| at 2x and
    4e-3 |y| at 3x.

    Args:
        event: shape of one image.
        maps: (coils, h, w), or (b, coils, h, w) with maps for each sample; sum_i |S_i|^2 must be 1,
            or 0 outside the support. `normalized_maps` makes them so.
        mask: as `single_coil`.
        complex_images: as `single_coil`.
        steps: of conjugate gradients.

    Raises:
        UserError: as `single_coil`, and for maps of another shape, not finite or not normalized.
    """
    _check_channels(event, complex_images)
    known, maps = _known(event, mask), np.asarray(maps)
    maps = maps[None] if maps.ndim == 3 else maps
    if maps.ndim != 4 or maps.shape[2:] != event[:2] or not np.iscomplexobj(maps):
        raise UserError(
            f"maps are {maps.dtype} of shape {maps.shape}; images of shape {event} take complex "
            f"ones (coils, {event[0]}, {event[1]}), or with an axis of samples before it"
        )
    total = np.sum(np.abs(maps) ** 2, axis=1)
    if not np.all(np.minimum(np.abs(total - 1), np.abs(total)) < 1e-3):
        raise UserError(
            f"the squared maps sum to {total.min():.3g} .. {total.max():.3g}, not to 1 or, outside "
            "the support, to 0; give `normalized_maps(maps)`"
        )
    coils = Coils(jnp.asarray(maps), event, complex_images)
    return Masked(coils, known[:, None, ..., None], steps)


def radial(
    event: Event,
    spokes: int,
    samples: int | None = None,
    golden: bool = False,
    complex_images: bool = False,
) -> NonuniformFourier:
    """Samples of the Fourier transform along lines through frequency 0, (b, spokes samples, c).

    Point i of a line has the frequency (i - samples // 2)/samples cycles a pixel. Line j has the
    angle j pi/spokes to the horizontal axis, or j times the golden angle of 111.25 degrees.

    Args:
        event: shape of one image.
        spokes: lines.
        samples: points of a line, by default the longer side of the image.
        golden: which angles.
        complex_images: as `single_coil`.

    Raises:
        UserError: for numbers below 1, and an odd number of channels of complex images.
    """
    _check_channels(event, complex_images)
    samples = max(event[:2]) if samples is None else samples
    if spokes < 1 or samples < 1:
        raise UserError(
            f"spokes and samples must be at least 1; got {spokes} spokes, {samples} samples"
        )
    angles = np.arange(spokes) * (GOLDEN_ANGLE if golden else math.pi / spokes)
    k = (np.arange(samples) - samples // 2) / samples
    points = np.stack([np.outer(np.sin(angles), k), np.outer(np.cos(angles), k)], axis=-1)
    rows = jnp.asarray(points.reshape(1, -1, 2), jnp.result_type(float))
    return NonuniformFourier(rows, event, complex_images)


def check_centred(kspace: Complex[Array | np.ndarray, "*rest h w c"]) -> None:
    """Nothing, or what is wrong with the place of frequency 0.

    The central half of rows and columns must have more energy than the corners, which are the
    centre of a k-space that was not shifted.

    Raises:
        UserError: where the corners have more.
    """
    h, w = kspace.shape[-3:-1]
    energy = np.square(np.abs(np.asarray(kspace))).reshape(-1, h, w, kspace.shape[-1])
    energy = energy.sum(axis=(0, 3))
    middle = slice(h // 4, h // 4 + h // 2), slice(w // 4, w // 4 + w // 2)
    centre, corners = energy[middle].sum(), np.fft.fftshift(energy)[middle].sum()
    if corners > centre:
        raise UserError(
            f"k-space is not centred: its corners have the energy {corners:.3g}, its middle "
            f"{centre:.3g}; frequency 0 must be at ({h // 2}, {w // 2}). Apply fftshift to "
            "its height and width"
        )


def _complex(x: X, pairs: bool) -> KSpace:
    """Real images, or pairs of channels, as complex images."""
    if pairs:
        return jax.lax.complex(x[..., 0::2], x[..., 1::2])
    return jax.lax.complex(x, jnp.zeros_like(x))


def _parts(image: KSpace, pairs: bool) -> X:
    """The transpose of `_complex`."""
    if not pairs:
        return image.real
    parts = jnp.stack([image.real, image.imag], axis=-1)
    return parts.reshape(*image.shape[:-1], 2 * image.shape[-1])


def _mirror(k: Inexact[Array, "... h w c"]) -> Inexact[Array, "... h w c"]:
    """k-space at -k. Of an even number of frequencies the first, -n/2, is its own mirror."""
    shifts = tuple(1 - k.shape[axis] % 2 for axis in SPATIAL)
    return jnp.roll(jnp.flip(k, SPATIAL), shifts, SPATIAL)


def _hermitian(c: Float[Array, "... h w c"]) -> KSpace:
    """The k-space of the real image whose Hartley transform Re - Im is c."""
    other = _mirror(c)
    return jax.lax.complex((c + other) / 2, (other - c) / 2)


def _check_channels(event: Event, complex_images: bool) -> None:
    if complex_images and event[2] % 2:
        raise UserError(
            f"complex images have an even number of channels, real and imaginary parts; got shape "
            f"{event}. Give complex_images=False for real images"
        )


def _known(event: Event, mask: Shaped[Array | np.ndarray, "..."]) -> Array:
    """The mask as (1 or b, h, w), or a UserError."""
    known = np.asarray(mask)
    known = known[None] if known.ndim == 2 else known
    if known.dtype != bool or known.ndim != 3 or known.shape[1:] != event[:2]:
        raise UserError(
            f"the mask is {known.dtype} of shape {np.shape(mask)}; images of shape {event} take "
            f"booleans {event[:2]}, or (number, {event[0]}, {event[1]}), True where k-space is "
            "measured. Are height and width exchanged?"
        )
    empty = np.flatnonzero(~known.reshape(len(known), -1).any(axis=1))
    if len(empty) or not len(known):
        raise UserError(
            f"mask number {empty[:5].tolist()} measures nothing; True marks what is measured"
        )
    return jnp.asarray(known)
