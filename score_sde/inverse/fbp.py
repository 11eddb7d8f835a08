"""Filtered back-projection: an image from a sinogram, for parallel beams and fans.

f = sum_views weight (projection * h), where h is the ramp filter. It is built in space, h(0) =
1/(4 d^2), h(n d) = -1/(pi n d)^2 for odd n and 0 for even n, d the spacing of the bins. Its
spectrum is then not quite 0 at frequency 0, as it must be for projections of finite length: a ramp
sampled in frequency darkens the image.

Source: Kak & Slaney (1988), sections 3.3 and 3.4.
"""

import math
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from score_sde.errors import UserError
from score_sde.inverse.ct import Group, ParallelBeam, point, reversed_views
from score_sde.inverse.fan import FanBeam, bin_of, seen_from
from score_sde.inverse.operators import X, Y, expect

Window = Literal["ramp", "shepp-logan", "cosine", "hamming", "hann"]
"""What the ramp filter is multiplied by in frequency."""


def fbp(operator: ParallelBeam | FanBeam, y: Y, window: Window = "ramp") -> X:
    """The image (b, h, w, c) of a sinogram (b, views, bins, c).

    Angles may be in any order. A view stands for half the gaps to its neighbours: over the circle
    of directions for parallel rays, over the full turn for a full scan. A short scan with a fan has
    Parker's weights. The detector has to cover the image; what it cuts off is taken as 0.

    Args:
        operator: the geometry.
        y: as `operator.forward` makes it.
        window: "ramp" is sharpest; "shepp-logan", "cosine", "hamming" and "hann" suppress noise
            more and more.

    Raises:
        UserError: for another window; for a fan whose views cover less than a short scan.
    """
    if window not in get_args(Window):
        raise UserError(f"the window must be one of {', '.join(get_args(Window))}; got {window!r}")
    y = jnp.asarray(expect(y, operator.measured, "y"))
    if isinstance(operator, FanBeam):
        return _fan(operator, y, window)
    return _parallel(operator, y, window)


def view_weights(angles: Float[np.ndarray, "views"], period: float) -> Float[np.ndarray, "views"]:
    """Half the gaps to the neighbours of each angle on a circle of this length."""
    place = np.mod(angles, period)
    order = np.argsort(place, kind="stable")
    gaps = np.diff(place[order], append=place[order[0]] + period)
    weights = np.empty(len(angles))
    weights[order] = (gaps + np.roll(gaps, 1)) / 2
    return weights


def response(taps: Float[np.ndarray, "n"], window: Window) -> Float[np.ndarray, "frequencies"]:
    """The real spectrum of the even filter h(0), h(1), ..., times the window.

    Its length of the fast Fourier transform is `padded(n)`.
    """
    n, length = len(taps), padded(len(taps))
    even = np.zeros(length)
    even[:n] = taps
    even[length - n + 1 :] = taps[:0:-1]
    part = np.arange(length // 2 + 1) / (length // 2)
    windows = {
        "ramp": np.ones_like(part),
        "shepp-logan": np.sinc(part / 2),
        "cosine": np.cos(np.pi * part / 2),
        "hamming": 0.54 + 0.46 * np.cos(np.pi * part),
        "hann": 0.5 + 0.5 * np.cos(np.pi * part),
    }
    return np.fft.rfft(even).real * windows[window]


def padded(bins: int) -> int:
    """A power of two with room for a projection and a filter as long on either side."""
    return 2 ** math.ceil(math.log2(max(2 * bins - 1, 2)))


def ramp(bins: int, spacing: float) -> Float[np.ndarray, "bins"]:
    """h(0), h(d), ... h((bins - 1) d)."""
    n = np.arange(bins)
    odd = n % 2 == 1
    taps = np.where(odd, -1 / (np.pi * np.where(odd, n, 1) * spacing) ** 2, 0.0)
    taps[0] = 1 / (4 * spacing**2)
    return taps


def _filtered(y: Float[Array, "b views bins c"], spectrum: np.ndarray) -> Array:
    """The convolution along the bins, as a sum: without the factor d."""
    length = 2 * (len(spectrum) - 1)
    factors = jnp.asarray(spectrum, y.dtype)[None, None, :, None]
    f = jnp.fft.rfft(y, length, axis=2)
    return jnp.fft.irfft(f * factors.astype(f.dtype), length, axis=2)[:, :, : y.shape[2]]


def _parallel(beam: ParallelBeam, y: Array, window: Window) -> Array:
    spectrum = response(ramp(beam.bins, beam.spacing), window) * beam.spacing
    weights = view_weights(np.asarray(beam.angles), np.pi)
    q = _filtered(y, spectrum) * jnp.asarray(weights, y.dtype)[None, :, None, None]
    q = jnp.transpose(q, (1, 0, 3, 2)).reshape(len(beam.angles), -1, beam.bins)
    cells = [_on_cells(beam, group, q[group.views]) for group in beam.groups()]
    return beam.spread(cells, point)


def _on_cells(beam: ParallelBeam, group: Group, q: Float[Array, "views n bins"]) -> Array:
    """Filtered projections at the middle of the cells, between the bins."""
    first, width, reverse = group.bin_edges(beam)
    cell = jnp.arange(group.cells, dtype=q.dtype)[None] + 0.5
    start, step = (jnp.asarray(v[:, None], q.dtype) for v in (first, width))
    return cubic(reversed_views(q, reverse), (cell - start) / step - 0.5)


def cubic(values: Float[Array, "views n bins"], place: Float[Array, "views m"]) -> Array:
    """Values at places in units of bins, 0 outside the bins: (views, n, m).

    By the cubic convolution of Keys (1981), eq. 4, with a = -1/2: linear interpolation would blur
    the image.
    """
    size = values.shape[2]
    ends = jnp.pad(values, ((0, 0), (0, 0), (3, 3)))
    below = jnp.clip(jnp.floor(place), -2, size)
    t = jnp.clip(place - below, 0, 1)[:, None]
    index = below.astype(jnp.int32) + 2
    take = jax.vmap(lambda v, i: v.at[:, i].get(mode="promise_in_bounds"))
    weights = (
        t * (-0.5 + t * (1 - 0.5 * t)),
        1 + t**2 * (1.5 * t - 2.5),
        t * (0.5 + t * (2 - 1.5 * t)),
        t**2 * (0.5 * t - 0.5),
    )
    return jnp.asarray(sum(w * take(ends, index + k) for k, w in enumerate(weights)))


def _fan(beam: FanBeam, y: Array, window: Window) -> Array:
    cos = np.cos(beam.gammas())
    if beam.curved:
        step = beam.spacing / beam.source_detector
        angle = step * np.arange(beam.bins)
        taps = ramp(beam.bins, step) / np.sinc(angle / np.pi) ** 2
        before = beam.source_axis * cos
    else:
        step = beam.spacing * beam.source_axis / beam.source_detector
        taps, before = ramp(beam.bins, step), cos
    weights = jnp.asarray(scan_weights(beam) * before[None], y.dtype)
    q = _filtered(y * weights[None, :, :, None], response(taps, window) * step)
    q = jnp.transpose(q, (1, 0, 3, 2)).reshape(len(beam.angles), -1, beam.bins)
    h, w, c = beam.event
    return jnp.moveaxis(_back_project(beam, q).reshape(-1, c, h, w), 1, 3)


def scan_weights(beam: FanBeam) -> Float[np.ndarray, "views bins"]:
    """The angle a view stands for, times the share of each ray among those of the same line.

    In a full scan every line is seen twice, 1/2 each. A scan is short where its largest gap is more
    than 4 times the median one. Then Parker's weights are taken, which are smooth and add up to 1.

    Raises:
        UserError: for a scan that covers less than pi and twice the largest gamma.

    Source: Parker (1982), Medical Physics 9, eq. 12; with wider overlap by Silver (2000).
    """
    beta, gamma = np.mod(beam.angles, 2 * np.pi), beam.gammas()
    gaps = np.diff(np.sort(beta), append=beta.min() + 2 * np.pi)
    gap = float(np.median(gaps))
    share = view_weights(beta, 2 * np.pi)
    if gaps.max() <= 4 * gap:
        return np.broadcast_to(share[:, None] / 2, (len(beta), len(gamma)))
    first = np.sort(beta)[(np.argmax(gaps) + 1) % len(beta)]
    span, needed = 2 * np.pi - gaps.max() + gap, np.pi + 2 * np.abs(gamma).max()
    if span < needed - 1e-6:
        raise UserError(
            f"the views cover {span:.4g} radians, and a short scan with this detector takes at "
            f"least {needed:.4g}. Reconstruct by conjugate gradients, `operator.pinv`, instead"
        )
    share = np.minimum(share, gap)  # the ends stand for a gap as the others
    past = np.mod(beta - first, 2 * np.pi)[:, None] + gap / 2
    over = (span - np.pi) / 2
    up, down = over + gamma[None], over - gamma[None]
    rise = np.clip(past / np.maximum(up, 1e-12), 0, 2)
    fall = np.clip((np.pi + 2 * over - past) / np.maximum(down, 1e-12), 0, 2)
    return share[:, None] * (np.sin(np.pi / 4 * rise) * np.sin(np.pi / 4 * fall)) ** 2


def _back_project(beam: FanBeam, q: Float[Array, "views n bins"]) -> Float[Array, "n h w"]:
    """The sum over views of q where the ray through a pixel meets the detector."""
    h, w, _ = beam.event
    points = np.arange(w)[None] - (w - 1) / 2, (h - 1) / 2 - np.arange(h)[:, None]

    def add(total, arrays):
        beta, values = arrays
        along, across = seen_from(beam, beta, points)
        square = along**2 + across**2 if beam.curved else (along / beam.source_axis) ** 2
        place = bin_of(beam, beta, points).reshape(1, h * w) - 0.5
        seen = cubic(values[None], place).reshape(-1, h, w)
        return total + seen / square[None], None

    zero = jnp.zeros((q.shape[1], h, w), q.dtype)
    return jax.lax.scan(add, zero, (jnp.asarray(beam.angles, q.dtype), q))[0]
