"""The published Radon transform, by slices of the Fourier transform: to repeat published numbers.

For new work take `ParallelBeam`, `fbp` and `consistent`. Images are square, n x n; they lie in a
square of d = ceil(sqrt(2) n) pixels. There are n views at angles j pi/n. In frequency, a view is a
line of e = K d points (made even) from -(d // 2) to (d - 1) // 2. K, the expansion, is 4 for the
transform of the solver.

Two transforms are used side by side:

- `slice_radon` and `slice_fbp` interpolate frequencies by a Kaiser-Bessel window, a nonuniform fast
  Fourier transform. The known data come from them.
- `FourierSlices` takes the nearest point of a grid. It is the T of the solver.

What is known of a new image is therefore not T of it, but 1 or 2 % away. Several points of T share
a point of the grid; going back, the last one of the last view counts. The ramp filter is wrong
where e is 2 mod 4, as the published one is.

Source: Song et al. (2022), appendix B, and their code; Fessler & Sutton (2003), IEEE Transactions
on Signal Processing 51, 560, for the interpolation; Beatty et al. (2005), IEEE Transactions on
Medical Imaging 24, 799, eq. 5, for the window.
"""

import dataclasses
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Complex, Float

from score_sde.errors import UserError
from score_sde.inverse.ct import Event
from score_sde.inverse.measurement import Measurement, measure
from score_sde.inverse.operators import Masked, Operator, X, Y, expect, static

WIDTH, OVERSAMPLING = 4, 1.25
"""Of the window, in points of the finer grid, and of that grid."""
BETA = math.pi * math.sqrt((WIDTH / OVERSAMPLING * (OVERSAMPLING - 0.5)) ** 2 - 0.8)
TRACE_THRESHOLD = 5.0
"""Of the projection of metal pixels."""


def bessel_i0(x: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """I_0(x) for x >= 0, to 2e-7 of its value: so the published window has it.

    Source: Abramowitz & Stegun (1964), 9.8.1 and 9.8.2.
    """
    near = [1, 3.5156229, 3.0899424, 1.2067492, 0.2659732, 0.0360768, 0.0045813]
    far = [0.39894228, 0.01328592, 0.00225319, -0.00157565, 0.00916281]
    far += [-0.02057706, 0.02635537, -0.01647633, 0.00392377]
    t, large = x / 3.75, np.maximum(x, 3.75)
    small = np.polynomial.polynomial.polyval(np.minimum(t, 1) ** 2, near)
    tail = np.polynomial.polynomial.polyval(3.75 / large, far)
    return np.where(t < 1, small, np.exp(large) / np.sqrt(large) * tail)


def diameter(n: int) -> int:
    """d, the diagonal of the image in whole pixels."""
    return math.ceil(math.sqrt(2) * n)


def expanded(n: int, expansion: float) -> int:
    """e, points of a view: K d, made even."""
    e = int(expansion * diameter(n))
    return e + e % 2


def radii(n: int, expansion: float) -> Float[np.ndarray, "e"]:
    """Frequencies of the points of a view, in units of 1/d a pixel."""
    d = diameter(n)
    return np.linspace(-(d // 2), (d - 1) // 2, expanded(n, expansion))


def lines(n: int, views: int, expansion: float) -> Float[np.ndarray, "2 views e"]:
    """(row, column) frequencies of the points of all views."""
    theta, r = np.arange(views)[:, None] * np.pi / views, radii(n, expansion)[None]
    return np.stack([-r * np.sin(theta), r * np.cos(theta)])


def _finer(d: int) -> int:
    """Points of the finer grid."""
    return math.ceil(OVERSAMPLING * d)


def _near(points: np.ndarray, d: int) -> tuple[np.ndarray, np.ndarray]:
    """(index on the finer grid, weight) of the 4 points that frequencies are interpolated from."""
    g = _finer(d)
    place = points * g / d + g // 2
    index = np.ceil(place - WIDTH / 2)[..., None] + np.arange(WIDTH)
    square = np.maximum(1 - ((index - place[..., None]) / (WIDTH / 2)) ** 2, 0)
    return index.astype(int) % g, bessel_i0(BETA * np.sqrt(square)) / WIDTH


def _apodization(d: int) -> Float[np.ndarray, "d"]:
    """One over the transform of the window, and 1/sqrt(d)."""
    root = np.sqrt(BETA**2 - (np.pi * WIDTH * (np.arange(d) - d // 2) / _finer(d)) ** 2)
    return root / np.sinh(root) / math.sqrt(d)


def _line_transform(points: np.ndarray, d: int) -> Complex[np.ndarray, "points d"]:
    """The matrix that takes d values to frequencies, by interpolation."""
    g, (index, weight) = _finer(d), _near(points, d)
    interpolation = np.zeros((len(points), g))
    np.put_along_axis(interpolation, index, weight, axis=1)
    phase = np.outer(np.arange(g) - g // 2, np.arange(d) - d // 2) / g
    return interpolation @ np.exp(-2j * np.pi * phase) * _apodization(d)[None]


def _plane_transform(
    x: Complex[Array, "b d d c"], points: Float[np.ndarray, "2 views e"]
) -> Complex[Array, "b views e c"]:
    """Images to frequencies, by interpolation."""
    d = x.shape[1]
    g, a = _finer(d), _apodization(d)
    x = x * jnp.asarray(a[:, None] * a[None], x.dtype)[None, :, :, None]
    k = jnp.fft.fftshift(jnp.fft.fft2(_centred(x, g), axes=(1, 2)), axes=(1, 2))
    (row, across), (column, along) = (_near(p, d) for p in points)
    total = jnp.zeros((x.shape[0], *points.shape[1:], x.shape[3]), k.dtype)
    for i, j in np.ndindex(WIDTH, WIDTH):
        weight = jnp.asarray(across[..., i] * along[..., j], k.dtype)[None, :, :, None]
        total = total + weight * k[:, row[..., i], column[..., j]]
    return total


def _centred(x: Array, size: int) -> Array:
    """Images in a square of zeros of this size, the origin at index 0."""
    before = size // 2 - x.shape[1] // 2
    after = size - x.shape[1] - before
    edge = before, after
    return jnp.fft.ifftshift(jnp.pad(x, ((0, 0), edge, edge, (0, 0))), axes=(1, 2))


def _margin(n: int) -> int:
    """Where the image begins in its square."""
    return (diameter(n) - n) // 2


def _in_square(x: Float[Array, "b n n c"]) -> Complex[Array, "b d d c"]:
    n, before = x.shape[1], _margin(x.shape[1])
    edge = before, diameter(n) - n - before
    x = jnp.pad(x, ((0, 0), edge, edge, (0, 0)))
    return jax.lax.complex(x, jnp.zeros_like(x))


def _scale(n: int, expansion: float) -> float:
    """What makes up for the number of points of a view."""
    d = diameter(n)
    return math.sqrt(d) * d / expanded(n, expansion)


def slice_radon(x: Float[Array, "b n n c"], views: int) -> Float[Array, "b views d c"]:
    """The published sinogram: views j pi/views of d bins, expansion 1.25.

    Angle 0 gives sums of columns, pi/2 sums of rows from the bottom up.
    """
    n, d = x.shape[1], diameter(x.shape[1])
    k = _plane_transform(_in_square(x), lines(n, views, OVERSAMPLING))
    back = jnp.asarray(_line_transform(radii(n, OVERSAMPLING), d).conj(), k.dtype)
    y = jnp.einsum("bvec,ed->bvdc", k, back, precision="highest")
    return _scale(n, OVERSAMPLING) * y.real


def slice_filter(n: int, expansion: float) -> Complex[np.ndarray, "e"]:
    """The ramp filter at the points of a view.

    Its taps are those of Kak & Slaney (1988), eq. 3.61, if e is a multiple of 4. Otherwise the
    published numbers of the odd taps are even ones in the second half.
    """
    e = expanded(n, expansion)
    odd = np.concatenate([np.arange(1, e / 2 + 1, 2), np.arange(e / 2 - 1, 0, -2)])
    taps = np.zeros(e)
    taps[0], taps[1::2] = 0.5, -2 / (np.pi * odd) ** 2
    matrix = _line_transform(radii(n, expansion) * e / diameter(n), e)
    return math.sqrt(e) * matrix @ np.fft.fftshift(taps)


def slice_fbp(
    y: Float[Array, "b views d c"], n: int, expansion: float = 2.0
) -> Float[Array, "b n n c"]:
    """The published filtered back-projection of views j pi/views.

    Args:
        y: as `slice_radon` makes it.
        n: size of the image.
        expansion: K. Published are 1.8 (LIDC) and 2.2 (LDCT).

    Raises:
        ValueError: for bins unlike n.
    """
    d, views = diameter(n), y.shape[1]
    if y.shape[2] != d:
        raise ValueError(f"y has {y.shape[2]} bins; an image of size {n} has {d} here")
    matrix = slice_filter(n, expansion)[:, None] * _line_transform(radii(n, expansion), d)
    k = jax.lax.complex(y, jnp.zeros_like(y))
    k = jnp.einsum("bvdc,ed->bvec", k, jnp.asarray(matrix, k.dtype), precision="highest")
    image = jax.ShapeDtypeStruct((y.shape[0], d, d, y.shape[3]), k.dtype)
    points = lines(n, views, expansion)
    (back,) = jax.linear_transpose(lambda x: _plane_transform(x, points), image)(jnp.conj(k))
    first = _margin(n)
    x = back.real[:, first : first + n, first : first + n]
    return math.pi / (2 * views) * _scale(n, expansion) * x


class Cells(NamedTuple):
    """How the points of all views lie on the grid of frequencies."""

    row: np.ndarray
    """(views, e), index of the point's cell."""
    column: np.ndarray
    hit: np.ndarray
    """(e, e), whether a cell has a point."""
    last: np.ndarray
    """(e, e), the flat index of the last point in it, 0 where there is none."""


@functools.lru_cache(maxsize=8)
def cells(n: int, expansion: int) -> Cells:
    """Of n views. The grid has e x e cells, and frequency 0 at index 0."""
    e = expanded(n, expansion)
    row, column = np.round(lines(n, n, expansion) * e / diameter(n)).astype(int) % e
    last = np.full((e, e), -1)
    np.maximum.at(last, (row, column), np.arange(n * e).reshape(n, e))
    return Cells(row, column, last >= 0, np.maximum(last, 0))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class FourierSlices(Operator):
    """The published T of tomography, T x of shape (n + e, e, c) and complex.

    The first n rows are views: the frequencies in the cells of their points, transformed along the
    line. The other e rows are all frequencies of the image. So nothing of an image is lost, and
    what is changed in views takes the place of their cells' frequencies.

    Args:
        event: (n, n, c).
        expansion: K.

    Raises:
        UserError: for images that are not square.
    """

    event: Event = static()
    expansion: int = static(default=4)

    def __post_init__(self):
        if self.event[0] != self.event[1]:
            raise UserError(
                f"the published transform is for square images; got {self.event[:2]}. Take "
                "ParallelBeam"
            )

    @property
    def size(self) -> int:
        """e, points of a view."""
        return expanded(self.event[0], self.expansion)

    @property
    def measured(self) -> tuple[int, ...]:
        """(n + e, e, c)."""
        return self.event[0] + self.size, self.size, self.event[2]

    def forward(self, x: X) -> Y:
        """Views and frequencies."""
        return self.with_views(self.frequencies(expect(x, self.event, "x")))

    def frequencies(self, x: Float[Array, "b n n c"]) -> Complex[Array, "b e e c"]:
        """The Fourier transform of the image in a square of e x e zeros."""
        return jnp.fft.fft2(_centred(_in_square(x), self.size), axes=(1, 2))

    def with_views(self, k: Complex[Array, "b e e c"]) -> Y:
        """The views of frequencies, and these."""
        found = cells(self.event[0], self.expansion)
        views = jnp.fft.ifftshift(k[:, found.row, found.column], axes=2)
        views = jnp.fft.fftshift(jnp.fft.ifft(views, axis=2), axes=2)
        return jnp.concatenate([views, k], axis=1)

    def merge(self, y: Y) -> Complex[Array, "b e e c"]:
        """The frequencies of y, those of the views in place of what their cells have."""
        n, e, c = self.event[0], *self.measured[1:]
        found = cells(n, self.expansion)
        views = jnp.fft.fft(jnp.fft.ifftshift(y[:, :n], axes=2), axis=2)
        flat = jnp.fft.fftshift(views, axes=2).reshape(-1, n * e, c)
        return jnp.where(found.hit[None, :, :, None], flat[:, found.last], y[:, n:])

    def pinv(self, y: Y) -> X:
        """T^-1: T^-1 T x = x. It is no pseudo-inverse where y is not T of an image."""
        y = expect(y, self.measured, "y")
        n = self.event[0]
        x = jnp.fft.fftshift(jnp.fft.ifft2(self.merge(y), axes=(1, 2)).real, axes=(1, 2))
        first = self.size // 2 - diameter(n) // 2 + _margin(n)
        return x[:, first : first + n, first : first + n]

    def gridded(self, y: Float[Array, "b n d c"]) -> Complex[Array, "b e e c"]:
        """The published frequencies of a sinogram of n views, 0 in cells without a point.

        Linear interpolation in angle and radius between its transformed views. Past the last
        angle, that view is repeated.
        """
        n, e = self.event[0], self.size
        d, r, hit = diameter(n), radii(n, self.expansion), cells(n, self.expansion).hit
        matrix = math.sqrt(d) * _line_transform(r, d)
        k = jax.lax.complex(y, jnp.zeros_like(y))
        k = jnp.einsum("bvdc,ed->bvec", k, jnp.asarray(matrix, k.dtype), precision="highest")
        frequency = (np.arange(e) + e // 2) % e - e // 2
        column, row = np.meshgrid(frequency, frequency)
        angle, radius = np.arctan2(-row, column), np.hypot(row, column) * d / e
        view = np.where(angle < 0, angle + np.pi, angle)[hit] / np.pi * n
        place = (np.where(angle < 0, -radius, radius)[hit] - r[0]) / (r[1] - r[0])
        total = jnp.zeros((k.shape[0], len(view), k.shape[3]), k.dtype)
        for (v, a), (p, b) in ((x, y) for x in _between(view, n) for y in _between(place, e)):
            total = total + jnp.asarray(a * b, k.dtype)[None, :, None] * k[:, v, p]
        zero = jnp.zeros((k.shape[0], e, e, k.shape[3]), k.dtype)
        return zero.at[:, hit].set(total)


def _between(place: np.ndarray, size: int) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """(index, weight) of the two neighbours of each place; past the ends the last one."""
    place = np.clip(place, 0, size - 1)
    below = np.floor(place).astype(int)
    part = place - below
    return (below, 1 - part), (np.minimum(below + 1, size - 1), part)


def published_views(n: int, views: int) -> Bool[np.ndarray, "n"]:
    """Which of n views are kept: round(linspace(0, n - 1, views)).

    The first and the last are neighbours on the circle of directions: 23 views are rather 22.

    Raises:
        UserError: unless 1 <= views <= n.
    """
    if not 1 <= views <= n:
        raise UserError(f"views must be from 1 to {n}, the size of the image; got {views}")
    kept = np.zeros(n, bool)
    kept[np.round(np.linspace(0, n - 1, views)).astype(int)] = True
    return kept


def published_scan(
    image: Float[Array, "b n n c"],
    views: int,
    metal: Bool[Array, "b n n c"] | None = None,
    expansion: int = 4,
) -> Measurement:
    """The known data of the published CT, metal artifact and sparse metal artifact tasks.

    With it, `SOLVERS["projection"](strength, published=True)` is the published solver.

    Args:
        image: what is measured, without noise.
        views: that are kept of n; n for metal artifacts with all views.
        metal: pixels of metal (`metal_of` gives the published ones). They are set to 0, and bins
            where their projection is above 5 are not known.
        expansion: K.

    Raises:
        UserError: as `published_views` and `FourierSlices`.
    """
    _, n, width, channels = image.shape
    operator = FourierSlices((n, width, channels), expansion)
    e = operator.size
    known = np.zeros((1, n + e, e, 1), bool)
    known[0, :n] = published_views(n, views)[:, None, None]
    mask: Array = jnp.asarray(known)
    if metal is not None:
        image = jnp.where(metal, 0, image)
        projected = jax.jit(operator.forward)(metal.astype(image.dtype)).real
        mask = mask & ~(projected > TRACE_THRESHOLD)
    y = jax.jit(lambda x: operator.with_views(operator.gridded(slice_radon(x, n))))(image)
    return measure(Masked(operator, mask), y, 0.0)
