"""Computed tomography with a fan of rays from a point, on a flat or a curved detector.

Geometry, with the axes of `ct`. R is `source_axis`, D `source_detector`. At angle beta the source
stands at R (sin(beta), -cos(beta)). A ray at gamma from the one through the origin is the line of
`ct` with theta = beta - gamma and s = R sin(gamma). A flat detector, D away from the source, has
bins at u = D tan(gamma), a curved one, an arc around the source, at u = D gamma.

Projector. Along each row of the image, or column for rays that are flatter than 45 degrees, the
edges of a bin cut out an interval. A bin sees the mean of the row over it, times the length of the
ray in the row. Forward and adjoint read the same intervals, the one for each bin, the other for
each pixel: neither scatters. Views go one after another, so that memory is bounded.

Source: De Man & Basu (2004), distance-driven projection.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from score_sde.errors import UserError
from score_sde.inverse.ct import (
    Event,
    bin_places,
    check_lengths,
    checked_angles,
    common,
    turned,
)
from score_sde.inverse.operators import Operator, X, Y, expect, static
from score_sde.inverse.paired import paired

STEEPEST = 3.0
"""Slopes that no ray of a group has; those of other rays are cut here."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class FanBeam(Operator):
    """Sinograms (b, views, bins, c) of images (b, h, w, c), in value times length.

    A full scan has beta over a full turn, a short one over pi and twice the largest gamma.

    Args:
        event: (height, width, channels).
        angles: beta of the views, in radians, in any order; it may be any sequence of numbers.
        bins: of the detector.
        spacing: of the bins on the detector.
        source_axis: R, distance of the source to the origin; more than half the image's diagonal.
        source_detector: D, distance of the source to the detector.
        offset: u of the detector's centre.
        pixel: size of a pixel, in the unit of all other lengths.
        curved: whether the detector is an arc around the source.
        steps: of conjugate gradients in `solve` and `pinv`.

    Raises:
        UserError: for angles or lengths as `ParallelBeam`, a source inside the image, and an arc
            that reaches beyond a right angle.
    """

    event: Event = static()
    angles: Sequence[float] | np.ndarray = static()
    bins: int = static()
    spacing: float = static()
    source_axis: float = static()
    source_detector: float = static()
    offset: float = static(default=0.0)
    pixel: float = static(default=1.0)
    curved: bool = static(default=False)
    steps: int = static(default=Operator.steps)

    def __post_init__(self):
        object.__setattr__(self, "angles", checked_angles(self.angles))
        names = ("spacing", "pixel", "source_axis", "source_detector")
        check_lengths(bins=self.bins, **{name: getattr(self, name) for name in names})
        corner = math.hypot(*self.event[:2]) * self.pixel / 2
        if self.source_axis <= corner:
            raise UserError(
                f"source_axis is {self.source_axis}, and the corner of the image is {corner:g} "
                "from its centre: the source must stand outside. Are pixel and source_axis in one "
                "unit?"
            )
        widest = np.abs(self._gamma(self.edges())).max()
        if widest >= np.pi / 2:
            raise UserError(
                f"the detector reaches to {widest:g} from the middle ray, in radians; it must stay "
                "below pi/2"
            )

    @property
    def measured(self) -> tuple[int, ...]:
        """(views, bins, channels)."""
        return len(self.angles), self.bins, self.event[2]

    def views(self, rows: Sequence[int] | np.ndarray) -> "FanBeam":
        """The operator of some of the views: the others are not computed."""
        return dataclasses.replace(self, angles=tuple(np.asarray(self.angles)[np.asarray(rows)]))

    def places(self) -> Float[np.ndarray, "bins"]:
        """u of the middle of each bin."""
        return bin_places(self.bins, self.spacing, self.offset)

    def edges(self) -> Float[np.ndarray, "edges"]:
        """u of the edges of the bins."""
        return bin_places(self.bins + 1, self.spacing, self.offset)

    def gammas(self) -> Float[np.ndarray, "bins"]:
        """gamma of the middle of each bin."""
        return self._gamma(self.places())

    def rays(self) -> tuple[Float[np.ndarray, "views bins"], Float[np.ndarray, "views bins"]]:
        """(theta, s) of the middle of each bin."""
        gamma = self.gammas()
        theta = np.asarray(self.angles)[:, None] - gamma[None]
        return theta, np.broadcast_to(self.source_axis * np.sin(gamma), theta.shape)

    def forward(self, x: X) -> Y:
        """Projections."""
        shape = (x.shape[0], *self.measured)
        return paired(self._project, self._back, expect(x, self.event, "x"), shape)

    def adjoint(self, y: Y) -> X:
        """Back-projection without filter, with the weights of `forward`."""
        shape = (y.shape[0], *self.event)
        return paired(self._back, self._project, expect(y, self.measured, "y"), shape)

    def _gamma(self, u: np.ndarray) -> np.ndarray:
        u = u / self.source_detector
        return u if self.curved else np.arctan(u)

    def _project(self, x: Array) -> Array:
        images = jnp.moveaxis(x, 3, 1).reshape(-1, *self.event[:2])
        y = jnp.zeros((len(self.angles), len(images), self.bins), x.dtype)
        for side in self._sides():
            seen = turned(images) if side.turned else images
            y = y.at[side.views].add(_forward(side, seen))
        y = y.reshape(len(self.angles), x.shape[0], self.event[2], self.bins)
        return jnp.transpose(y, (1, 0, 3, 2))

    def _back(self, y: Array) -> Array:
        h, w, c = self.event
        y = jnp.transpose(y, (1, 0, 3, 2)).reshape(len(self.angles), -1, self.bins)
        total: Any = 0
        for side in self._sides():
            images = _adjoint(self, side, y[side.views])
            total = total + (turned(images) if side.turned else images)
        return jnp.moveaxis(jnp.asarray(total).reshape(-1, c, h, w), 1, 3)

    def _sides(self) -> list["Side"]:
        """The rays that cross the rows, and those that cross the columns, where there are any."""
        return [side for side in (_side(self, False), _side(self, True)) if len(side.views)]


def fan_beam(event: Event, views: int, curved: bool = False) -> FanBeam:
    """Angles 2 pi j/views for j < views; the fan sees the whole image.

    The source stands two sides of the image from its centre, and the detector as far behind it. The
    bins have two pixels, which is one at the centre.

    Args:
        event: (height, width, channels).
        views: at least 1.
        curved: as `FanBeam`.

    Raises:
        UserError: for fewer than one view.
    """
    if views < 1:
        raise UserError(f"views must be at least 1; got {views}")
    axis = 2.0 * max(event[:2])
    gamma = math.asin(math.hypot(*event[:2]) / 2 / axis)
    reach = 2 * axis * (gamma if curved else math.tan(gamma))
    angles = tuple(np.arange(views) * 2 * np.pi / views)
    return FanBeam(event, angles, math.ceil(reach), 2.0, axis, 2 * axis, curved=curved)


class Side(NamedTuple):
    """Rays of some views that are steep in the image (h, w), which is turned or not.

    Lengths are in pixels. On row r the edge k of view v is at column origin[v] + scale[v, r]
    slope[v, k], where a pixel i covers [i, i + 1].
    """

    views: np.ndarray
    turned: bool
    h: int
    w: int
    beta: np.ndarray
    origin: np.ndarray
    scale: np.ndarray
    slope: np.ndarray
    factor: np.ndarray
    """Length of a ray in a row of height 1, over the difference of slopes; 0 for other rays."""
    widths: tuple[float, float]
    """Of the narrowest and the widest interval, in pixels."""


def _side(beam: FanBeam, turn: bool) -> Side:
    h, w = beam.event[1::-1] if turn else beam.event[:2]
    theta, _ = beam.rays()
    flat = np.abs(np.cos(theta)) < np.abs(np.sin(theta))
    own = flat == turn
    views = np.flatnonzero(own.any(axis=1))
    own, theta, beta = own[views], theta[views], np.asarray(beam.angles)[views]
    edges = beta[:, None] - beam._gamma(beam.edges())[None]
    source = beam.source_axis / beam.pixel * np.stack([np.sin(beta), -np.cos(beta)])
    if turn:
        source, theta, edges = source[::-1], np.pi / 2 - theta, np.pi / 2 - edges
    slope = np.clip(-np.tan(edges), -STEEPEST, STEEPEST)
    step = np.abs(np.diff(slope, axis=1))
    scale = (h - 1) / 2 - np.arange(h)[None] - source[1][:, None]
    length = np.hypot(1, np.tan(np.where(own, theta, 0)))
    factor = np.where(own, beam.pixel * length / np.where(own, step, 1), 0)
    near, far = np.abs(scale).min(1), np.abs(scale).max(1)
    narrow = float((np.where(own, step, np.inf).min(1) * near).min(initial=np.inf))
    wide = float((np.where(own, step, 0).max(1) * far).max(initial=0))
    return Side(views, turn, h, w, beta, source[0] + w / 2, scale, slope, factor, (narrow, wide))


def _by_view(side: Side, dtype) -> list[Array]:
    """Origin, scale, slope, factor and beta of each view."""
    arrays = (side.origin, side.scale, side.slope, side.factor, side.beta)
    return [jnp.asarray(values, dtype) for values in arrays]


def _forward(side: Side, images: Float[Array, "n h w"]) -> Float[Array, "views n bins"]:
    """Each bin reads the pixels of each row that its interval touches."""
    n, h, w = images.shape
    flat = jnp.pad(images, ((0, 0), (0, 0), (1, 1))).reshape(n, h * (w + 2))
    row = (w + 2) * jnp.arange(h, dtype=jnp.int32)[:, None]
    taps = math.ceil(side.widths[1]) + 1

    def view(_, arrays):
        origin, scale, slope, factor, _ = arrays
        place = origin + scale[:, None] * slope[None]  # (h, edges)
        one, other = place[:, :-1], place[:, 1:]
        left, right = jnp.minimum(one, other), jnp.maximum(one, other)
        below = jnp.floor(left)
        total: Any = 0
        for k in range(taps):
            pixel = below + k
            weight = common(left, right, pixel, pixel + 1) / jnp.abs(scale)[:, None]
            index = row + jnp.clip(pixel + 1, 0, w + 1).astype(jnp.int32)
            total = total + weight[None] * _read(flat, index)
        return None, jnp.sum(jnp.asarray(total), axis=1) * factor[None]

    return jax.lax.scan(view, None, _by_view(side, images.dtype))[1]


def _adjoint(beam: FanBeam, side: Side, y: Float[Array, "views n bins"]) -> Float[Array, "n h w"]:
    """The transpose of `_forward`: each pixel reads the bins whose intervals touch it."""
    n, bins = y.shape[1:]
    column = jnp.arange(side.w, dtype=y.dtype)[None]
    corners = np.arange(side.w + 1)[None] - side.w / 2
    rows = (side.h - 1) / 2 - np.arange(side.h)[:, None]
    points = (rows, corners) if side.turned else (corners, rows)
    taps = math.ceil(1 / side.widths[0] + 2e-3) + 1

    def view(total, arrays):
        origin, scale, slope, factor, beta, y = arrays
        places = bin_of(beam, beta, points)
        # A hair too low, where rounding might miss the first bin.
        near = jnp.floor(jnp.minimum(places[:, :-1], places[:, 1:]) - 1e-3)
        # `taps` bins without values at both ends, so that no index is outside.
        index = jnp.clip(near, -taps, bins).astype(jnp.int32) + taps
        values = jnp.pad(y * factor[None], ((0, 0), (taps, taps)))
        slope = jnp.pad(slope, (taps, taps), mode="edge")[None]

        def edge(k):
            return origin + scale[:, None] * _read(slope, index + k)[0]

        one = edge(0)
        for k in range(taps):
            other = edge(k + 1)
            left, right = jnp.minimum(one, other), jnp.maximum(one, other)
            weight = common(left, right, column, column + 1) / jnp.abs(scale)[:, None]
            total = total + weight[None] * _read(values, index + k)
            one = other
        return total, None

    zero = jnp.zeros((n, side.h, side.w), y.dtype)
    return jax.lax.scan(view, zero, (*_by_view(side, y.dtype), y))[0]


def bin_of(
    beam: FanBeam, beta: Float[Array, ""], points: tuple[np.ndarray, np.ndarray]
) -> Float[Array, "h w"]:
    """Where points fall on the detector in the view at beta, in bins from its first edge.

    Args:
        beam: the geometry.
        beta: angle of the view.
        points: x and y in pixels; they broadcast with one another.
    """
    along, across = seen_from(beam, beta, points)
    ratio = jnp.arctan2(across, along) if beam.curved else across / along
    u = ratio * beam.source_detector
    return (u - float(beam.edges()[0])) / beam.spacing


def seen_from(
    beam: FanBeam, beta: Float[Array, ""], points: tuple[np.ndarray, np.ndarray]
) -> tuple[Float[Array, "h w"], Float[Array, "h w"]]:
    """Distances of points from the source along the middle ray and across it, in lengths."""
    x, y = (jnp.asarray(p * beam.pixel, beta.dtype) for p in points)
    cos, sin = jnp.cos(beta), jnp.sin(beta)
    return beam.source_axis - x * sin + y * cos, x * cos + y * sin


def _read(values: Float[Array, "n m"], index: Array) -> Float[Array, "n ..."]:
    """values[:, index] for indices that are inside."""
    return jax.vmap(lambda v: v.at[index].get(mode="promise_in_bounds"))(values)
