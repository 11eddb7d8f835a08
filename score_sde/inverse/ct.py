"""Computed tomography with parallel rays: line integrals of images, and their exact adjoint.

Geometry. The centre of the image, pixel ((h - 1)/2, (w - 1)/2), is the origin, x grows to the
right and y upwards. At angle theta a bin at s sees the line x cos(theta) + y sin(theta) = s. So
angle 0 gives sums of columns, from left to right, and pi/2 sums of rows, from the bottom up.

Projector. A pixel is a square of constant value. On the axis that the rays cross, its shadow is
taken as a box of width `pixel` * max(|cos|, |sin|), as in distance-driven projection, and a bin
sees its mean over the bin. Forward and adjoint are two passes each, with the same weights:

1. All rows of an image, shifted against one another by row * tan(theta), are added on cells of half
   a pixel. Shifts of the 8 rows of a slab differ by less than 8 pixels, so that a small dense
   matrix makes them for all views; the slab as a whole moves by whole cells.
2. Cells are shared out among bins by what they have in common.

Views with |sin| > |cos| see the transposed image. There is no gather over pixels.

Source: De Man & Basu (2004), distance-driven projection, for the weights.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from score_sde.errors import UserError
from score_sde.inverse.operators import Operator, X, Y, expect, static
from score_sde.inverse.paired import paired

Event = tuple[int, int, int]
"""(height, width, channels)."""

SLAB = 8
"""Rows that one small matrix adds."""
CELLS = 2
"""Cells to a pixel."""


def common(low: Array, high: Array, other_low: Array, other_high: Array) -> Array:
    """The length of what two intervals have in common."""
    return jnp.maximum(jnp.minimum(high, other_high) - jnp.maximum(low, other_low), 0)


Shadow = Callable[[Array, Array], Array]
"""(left edge of a pixel of size 1, left edge of a cell) -> the share of the cell in the pixel."""


def box(left: Array, cell: Array) -> Array:
    """What the pixel and the cell have in common."""
    return common(left, left + 1, cell, cell + 1 / CELLS)


def point(left: Array, cell: Array) -> Array:
    """Linear interpolation between the middles of cells, at the middle of the pixel."""
    return jnp.maximum(1 - jnp.abs(CELLS * (left + 0.5 - cell) - 0.5), 0)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class ParallelBeam(Operator):
    """Sinograms (b, views, bins, c) of images (b, h, w, c), in value times length.

    A bin is the mean over its width of the line integrals. The sum of a view over its bins, times
    `spacing`, is the sum of the image times `pixel`^2, where the detector covers all of it.

    Args:
        event: (height, width, channels).
        angles: of the views, in radians, in any order; it may be any sequence of numbers.
        bins: of the detector.
        spacing: of the bins.
        offset: s of the detector's centre.
        pixel: size of a pixel, in the unit of `spacing` and `offset`.
        steps: of conjugate gradients in `solve` and `pinv`.

    Raises:
        UserError: for no views, angles that are not finite or look like degrees, fewer than one
            bin, and lengths that are not above 0.
    """

    event: Event = static()
    angles: Sequence[float] | np.ndarray = static()
    bins: int = static()
    spacing: float = static(default=1.0)
    offset: float = static(default=0.0)
    pixel: float = static(default=1.0)
    steps: int = static(default=Operator.steps)

    def __post_init__(self):
        object.__setattr__(self, "angles", checked_angles(self.angles))
        check_lengths(bins=self.bins, spacing=self.spacing, pixel=self.pixel)

    @property
    def measured(self) -> tuple[int, ...]:
        """(views, bins, channels)."""
        return len(self.angles), self.bins, self.event[2]

    def views(self, rows: Sequence[int] | np.ndarray) -> "ParallelBeam":
        """The operator of some of the views: the others are not computed."""
        return dataclasses.replace(self, angles=tuple(np.asarray(self.angles)[np.asarray(rows)]))

    def rays(self) -> tuple[Float[np.ndarray, "views bins"], Float[np.ndarray, "views bins"]]:
        """(theta, s) of the middle of each bin."""
        s = bin_places(self.bins, self.spacing, self.offset)
        theta, s = np.broadcast_arrays(np.asarray(self.angles)[:, None], s[None])
        return theta, s

    def forward(self, x: X) -> Y:
        """Projections."""
        shape = (x.shape[0], *self.measured)
        return paired(self._project, self._back, expect(x, self.event, "x"), shape)

    def adjoint(self, y: Y) -> X:
        """Back-projection without filter, with the weights of `forward`."""
        shape = (y.shape[0], *self.event)
        return paired(self._back, self._project, expect(y, self.measured, "y"), shape)

    def _project(self, x: Array) -> Array:
        images = jnp.moveaxis(x, 3, 1).reshape(-1, *self.event[:2])
        parts = [
            group.to_bins(self, shear(image, group.shifts)) for group, image in self._sides(images)
        ]
        order = np.argsort(np.concatenate([group.views for group in self.groups()]))
        y = jnp.concatenate(parts)[order]  # (views, b * c, bins)
        y = y.reshape(len(self.angles), x.shape[0], self.event[2], self.bins)
        return jnp.transpose(y, (1, 0, 3, 2))

    def _back(self, y: Array) -> Array:
        y = jnp.transpose(y, (1, 0, 3, 2)).reshape(len(self.angles), -1, self.bins)
        return self.spread([group.to_cells(self, y[group.views]) for group in self.groups()])

    def spread(
        self, cells: list[Float[Array, "..."]], shadow: Shadow = box
    ) -> Float[Array, "b h w c"]:
        """Sums over views of what the cells under each pixel hold: the transpose of pass 1.

        Args:
            cells: (views, b * c, cells) for the views of each group, in the order of `groups`.
            shadow: the share of each cell.
        """
        h, w, c = self.event
        total: Any = 0
        for group, values in zip(self.groups(), cells, strict=True):
            images = unshear(values, group.shifts, shadow)
            total = total + (turned(images) if group.turned else images)
        return jnp.moveaxis(jnp.asarray(total).reshape(-1, c, h, w), 1, 3)

    def _sides(self, images: Array) -> list[tuple["Group", Array]]:
        return [(g, turned(images) if g.turned else images) for g in self.groups()]

    def groups(self) -> list["Group"]:
        """The views whose rays are steeper than 45 degrees, and the others, where there are any."""
        h, w, _ = self.event
        theta = np.asarray(self.angles)
        steep = np.abs(np.cos(theta)) >= np.abs(np.sin(theta))
        groups = [
            Group(np.flatnonzero(steep), False, theta[steep], shifts_of(theta[steep], h, w)),
            Group(
                np.flatnonzero(~steep),
                True,
                np.pi / 2 - theta[~steep],
                shifts_of(np.pi / 2 - theta[~steep], w, h),
            ),
        ]
        return [group for group in groups if len(group.views)]


class Shifts(NamedTuple):
    """Where the rows of an image (h, w) fall on the cells, for each view.

    Cells begin at `-half` pixels from the shadow of the origin.
    """

    h: int
    w: int
    half: int
    slopes: np.ndarray
    """tan(theta), (views,)."""
    whole: np.ndarray
    """Whole pixels by which a slab is moved, (slabs, views)."""
    rest: np.ndarray
    """The rest of that, in [0, 1), (slabs, views)."""


def shifts_of(theta: Float[np.ndarray, "views"], h: int, w: int) -> Shifts:
    """The shifts of views with |tan(theta)| <= 1."""
    slopes = np.tan(theta)
    slabs = -(-h // SLAB)
    half = (h + w + 1) // 2 + SLAB + 1
    middle = (h - 1) / 2 - (SLAB * np.arange(slabs) + (SLAB - 1) / 2)
    left = half - w / 2 + middle[:, None] * slopes[None]
    return Shifts(h, w, half, slopes, np.floor(left).astype(np.int32), left - np.floor(left))


class Group(NamedTuple):
    """Views that see the image from the same side, the image turned or not."""

    views: np.ndarray
    turned: bool
    theta: np.ndarray
    """Angle in the coordinates of the image that is seen."""
    shifts: Shifts

    @property
    def cells(self) -> int:
        """Cells of a view."""
        return 2 * CELLS * self.shifts.half

    def bin_edges(self, beam: ParallelBeam) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(first edge, width) of the bins in cells, and whether their order is reversed."""
        cos = np.cos(self.theta)
        left = beam.offset - np.sign(cos) * beam.bins * beam.spacing / 2
        scale = CELLS / (cos * beam.pixel)
        return left * scale + CELLS * self.shifts.half, np.abs(beam.spacing * scale), cos < 0

    def to_bins(self, beam: ParallelBeam, cells: Array) -> Array:
        """(views, n, cells) -> (views, n, bins)."""
        first, width, reverse = self.bin_edges(beam)
        y = share_out(cells, first, width, beam.bins)
        return reversed_views(y, reverse) * (beam.pixel**2 / beam.spacing)

    def to_cells(self, beam: ParallelBeam, y: Array) -> Array:
        """The transpose of `to_bins`."""
        first, width, reverse = self.bin_edges(beam)
        cells = collect(reversed_views(y, reverse), first, width, self.cells)
        return cells * (beam.pixel**2 / beam.spacing)


def shear(images: Float[Array, "n h w"], shifts: Shifts) -> Float[Array, "views n cells"]:
    """The sum of each view's shifted rows: of a pixel as much as lies over the cell."""
    n, reach, views = len(images), SLAB // 2, len(shifts.slopes)
    length = shifts.w + SLAB + 1
    slabs = jnp.pad(images, ((0, 0), (0, -shifts.h % SLAB), (SLAB + 1, SLAB + 1)))
    slabs = jnp.moveaxis(slabs.reshape(n, -1, SLAB, slabs.shape[2]), 1, 0)

    def add(cells, slab):
        rows, start, rest = slab
        near = jnp.stack(
            [rows[..., SLAB + 1 - k : SLAB + 1 - k + length] for k in range(SLAB + 2)], axis=2
        )  # (n, rows, shift, length): row r moved by k - reach pixels
        weights = _weights(shifts, rest, box)
        local = jnp.einsum("vsrk,nrkj->vsnj", weights, near, precision="highest")
        return jax.vmap(_add_at)(cells, local, start), None

    cells = jnp.zeros((views, CELLS, n, 2 * shifts.half), images.dtype)
    starts = jnp.asarray(shifts.whole - reach)
    cells, _ = jax.lax.scan(add, cells, (slabs, starts, jnp.asarray(shifts.rest, images.dtype)))
    return jnp.moveaxis(cells, 1, 3).reshape(views, n, -1)


def unshear(
    cells: Float[Array, "views n cells"], shifts: Shifts, shadow: Shadow = box
) -> Float[Array, "n h w"]:
    """The transpose of `shear`."""
    views, n, _ = cells.shape
    length, width = shifts.w + SLAB + 1, shifts.w
    apart = jnp.moveaxis(cells.reshape(views, n, -1, CELLS), 3, 1)

    def take(_, slab):
        start, rest = slab
        local = jax.vmap(lambda c, i: _part(c, i, length))(apart, start)
        weights = _weights(shifts, rest, shadow)
        near = jnp.einsum("vsrk,vsnj->rknj", weights, local, precision="highest")
        rows = sum(near[:, k, :, k : k + width] for k in range(SLAB + 2))
        return None, rows

    starts = jnp.asarray(shifts.whole - SLAB // 2)
    _, rows = jax.lax.scan(take, None, (starts, jnp.asarray(shifts.rest, cells.dtype)))
    return jnp.moveaxis(rows, 2, 0).reshape(n, -1, width)[:, : shifts.h]


def _weights(shifts: Shifts, rest: Array, shadow: Shadow) -> Array:
    """The share of a cell in a pixel of row r, (views, cell of a pixel, row, shift)."""
    offsets = (SLAB - 1) / 2 - np.arange(SLAB)
    left = rest[:, None] + jnp.asarray(shifts.slopes[:, None] * offsets[None], rest.dtype)
    places = np.arange(SLAB + 2)[None] - SLAB // 2 + np.arange(CELLS)[:, None] / CELLS
    cell = jnp.asarray(places, rest.dtype)[None, :, None, :]
    return shadow(left[:, None, :, None], cell)


def share_out(
    cells: Float[Array, "views n cells"],
    first: Float[np.ndarray, "views"],
    width: Float[np.ndarray, "views"],
    count: int,
) -> Float[Array, "views n count"]:
    """Integrals over bins of a function that is constant on cells [m, m + 1].

    Args:
        cells: its values; it is 0 elsewhere.
        first: the first edge of the bins of each view, in cells.
        width: of a bin, in cells.
        count: of bins.
    """
    edges = _edges(first, width, cells.dtype)
    index = jnp.arange(count, dtype=cells.dtype)[None]
    left, right = edges(index), edges(index + 1)
    below = jnp.floor(left)
    total: Any = 0
    for k in range(int(np.ceil(width.max())) + 1):
        index = below + k
        weight = common(left, right, index, index + 1)
        total = total + weight[:, None] * _at(cells, index)
    return jnp.asarray(total)


def collect(
    bins: Float[Array, "views n bins"],
    first: Float[np.ndarray, "views"],
    width: Float[np.ndarray, "views"],
    count: int,
) -> Float[Array, "views n count"]:
    """The transpose of `share_out`, with the same weights, for `count` cells."""
    edges = _edges(first, width, bins.dtype)
    cell = jnp.arange(count, dtype=bins.dtype)[None]
    # A hair too low, where rounding might miss the first bin; one more bin makes up for it.
    near = jnp.floor((cell - edges(jnp.zeros_like(cell))) / _column(width, bins.dtype) - 1e-3)
    total: Any = 0
    for k in range(int(np.ceil(1 / width.min() + 2e-3)) + 1):
        weight = common(edges(near + k), edges(near + (k + 1)), cell, cell + 1)
        total = total + weight[:, None] * _at(bins, near + k)
    return jnp.asarray(total)


def _edges(first: np.ndarray, width: np.ndarray, dtype) -> Callable[[Array], Array]:
    """Bin -> its left edge, rounded alike wherever it is asked for."""
    return lambda index: _column(first, dtype) + _column(width, dtype) * index


def _column(values: np.ndarray, dtype) -> Array:
    return jnp.asarray(values[:, None], dtype)


def _at(values: Array, index: Array) -> Array:
    """values[v, :, index[v]], and 0 outside."""
    size = values.shape[2]
    padded = jnp.pad(values, ((0, 0), (0, 0), (1, 1)))
    place = jnp.clip(index + 1, 0, size + 1).astype(jnp.int32)
    return jax.vmap(lambda v, i: v.at[:, i].get(mode="promise_in_bounds"))(padded, place)


def _add_at(cells: Array, local: Array, start: Array) -> Array:
    """cells with local added from `start` on, along the last axis."""
    there = _part(cells, start, local.shape[-1])
    zero = jnp.zeros_like(start)
    return jax.lax.dynamic_update_slice(cells, there + local, (zero, zero, start))


def _part(cells: Array, start: Array, length: int) -> Array:
    return jax.lax.dynamic_slice_in_dim(cells, start, length, axis=2)


def turned(images: Float[Array, "n h w"]) -> Float[Array, "n w h"]:
    """x and y exchanged."""
    return jnp.swapaxes(images[:, ::-1, ::-1], 1, 2)


def reversed_views(
    y: Float[Array, "views n bins"], reverse: np.ndarray
) -> Float[Array, "views n bins"]:
    """The bins of some views from the other end."""
    if not reverse.any():
        return y
    return jnp.where(jnp.asarray(reverse)[:, None, None], y[..., ::-1], y)


def bin_places(bins: int, spacing: float, offset: float) -> Float[np.ndarray, "bins"]:
    """The middle of each bin."""
    return (np.arange(bins) - (bins - 1) / 2) * spacing + offset


def checked_angles(angles: Sequence[float] | np.ndarray) -> tuple[float, ...]:
    """The angles as a tuple of numbers."""
    found = np.asarray(angles, float)
    if found.ndim != 1 or not len(found) or not np.isfinite(found).all():
        raise UserError(
            f"angles must be a row of at least one finite number, in radians; got {angles}"
        )
    if np.abs(found).max() > 8 * np.pi:
        raise UserError(
            f"angles must be in radians, and the largest is {np.abs(found).max():g}: these look "
            "like degrees. Multiply them by pi/180"
        )
    return tuple(map(float, found))


def check_lengths(bins: int, **lengths: float) -> None:
    """A UserError unless there is a bin and all lengths are above 0."""
    if bins < 1:
        raise UserError(f"a detector has at least one bin; got {bins}")
    for name, value in lengths.items():
        if not (value > 0 and math.isfinite(value)):
            raise UserError(f"{name} must be a length above 0; got {value}")


def parallel_beam(event: Event, views: int | None = None) -> ParallelBeam:
    """Angles j pi/views for j < views, and enough bins of a pixel for the diagonal.

    Args:
        event: (height, width, channels).
        views: by default as many as pixels on the longer side.

    Raises:
        UserError: for fewer than one view.
    """
    side = max(event[:2])
    views = side if views is None else views
    if views < 1:
        raise UserError(f"views must be at least 1; got {views}")
    angles = tuple(np.arange(views) * np.pi / views)
    return ParallelBeam(event, angles, math.ceil(math.hypot(*event[:2])))
