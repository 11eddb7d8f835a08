"""Blur: convolution with any kernel, circular or valid edges; Gaussian and motion kernels."""

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from score_sde.errors import UserError
from score_sde.inverse.operators import Operator, Spectrum, X, Y, expect, static

Event = tuple[int, int, int]
"""(height, width, channels)."""
Edges = Literal["circular", "valid"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Blur(Operator):
    """Convolution of each channel with a kernel; made by `blur`, which checks.

    y[i, j] = sum_{p, q} k[p, q] x[i + p0 - p, j + q0 - q] with the centre (p0, q0) of the kernel at
    (rows // 2, columns // 2), as `scipy.ndimage.convolve` has it. With circular edges the image
    goes on periodically. Valid edges keep the y that need no pixel outside the image; then there is
    no decomposition.

    Args:
        kernel: (1 or b, rows, columns).
        event: (height, width, channels).
        edges: "circular" or "valid".
    """

    kernel: Float[Array, "rows kh kw"]
    event: Event = static()
    edges: Edges = static(default="circular")
    steps: int = static(default=Operator.steps)

    @property
    def measured(self) -> tuple[int, ...]:
        """The image's shape; with valid edges less by the kernel's size minus 1."""
        if self.edges == "circular":
            return self.event
        (h, w, c), (p, q) = self.event, self.kernel.shape[-2:]
        return h - p + 1, w - q + 1, c

    def _transfer(self, dtype) -> Array:
        """The factor of each frequency, (rows, h, w, 1)."""
        (h, w, _), (_, p, q) = self.event, self.kernel.shape
        padded = jnp.pad(self.kernel.astype(dtype), ((0, 0), (0, h - p), (0, w - q)))
        centred = jnp.roll(padded, (-(p // 2), -(q // 2)), axis=(1, 2))
        return jnp.fft.fft2(centred, axes=(1, 2))[..., None]

    def _filter(self, x: Array, transfer: Array) -> Array:
        h, w, _ = self.event
        f = jnp.fft.rfft2(x, axes=(1, 2))
        half = transfer[:, :, : w // 2 + 1].astype(f.dtype)
        return jnp.fft.irfft2(f * half, s=(h, w), axes=(1, 2))

    @property
    def _margins(self) -> list[tuple[int, int]]:
        """What valid edges leave out, before and behind, of height and width."""
        sizes = self.kernel.shape[1:] if self.edges == "valid" else (1, 1)
        return [((size - 1) // 2, size // 2) for size in sizes]

    def forward(self, x: X) -> Y:
        """By the fast Fourier transform."""
        y = self._filter(expect(x, self.event, "x"), self._transfer(x.dtype))
        (top, bottom), (left, right) = self._margins
        h, w, _ = self.event
        return y[:, top : h - bottom, left : w - right]

    def adjoint(self, y: Y) -> X:
        """Correlation with the kernel, of y with zeros in the margins."""
        padded = jnp.pad(expect(y, self.measured, "y"), [(0, 0), *self._margins, (0, 0)])
        return self._filter(padded, self._transfer(y.dtype).conj())

    def decompose(self) -> Spectrum | None:
        """V = the Hartley transform, s = |transfer|, U = V with the transfer's phase."""
        if self.edges == "valid":
            return None
        transfer = self._transfer(self.kernel.dtype)
        total = jnp.sum(jnp.abs(self.kernel), axis=(1, 2))[:, None, None, None]
        kept = jnp.abs(transfer) > 16 * jnp.finfo(total.dtype).eps * total
        values = jnp.where(kept, jnp.abs(transfer), 0)
        phase = jnp.where(kept, transfer / jnp.where(kept, values, 1).astype(transfer.dtype), 1)
        return Spectrum(
            values,
            from_x=hartley,
            to_x=hartley,
            from_y=lambda y: hartley(self._filter(y, phase.conj())),
            to_y=lambda c: self._filter(hartley(c), phase),
        )


def hartley(x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """The orthogonal two-dimensional Hartley transform, its own inverse: Re F x - Im F x.

    Real where the Fourier transform is complex. A circular convolution turns and scales the plane
    of the frequencies k and -k in its basis.
    """
    f = jnp.fft.fft2(x, axes=(1, 2), norm="ortho")
    return f.real - f.imag


def blur(event: Event, kernel: Num[np.ndarray | Array, "..."], edges: Edges = "circular") -> Blur:
    """Convolution with a kernel (rows, columns), or one for each sample (b, rows, columns).

    Raises:
        UserError: for other edges, a kernel of another number of axes, larger than the image, all
            zero, or not finite.
    """
    k = np.asarray(kernel, float)
    if edges not in ("circular", "valid"):
        raise UserError(f"edges must be 'circular' or 'valid'; got {edges!r}")
    if k.ndim not in (2, 3) or 0 in k.shape or any(np.subtract(event[:2], k.shape[-2:]) < 0):
        raise UserError(
            f"the kernel has shape {k.shape}; it must be (rows, columns) or (number, rows, "
            f"columns), no larger than the image's {event[:2]}"
        )
    if not (np.isfinite(k).all() and k.any(axis=(-2, -1)).all()):
        raise UserError("the kernel is all zero or has values that are not finite")
    return Blur(jnp.asarray(k if k.ndim == 3 else k[None]), event, edges)


def gaussian_kernel(std: float, size: int | None = None) -> Float[np.ndarray, "k k"]:
    """exp(-r^2/(2 std^2)), with sum 1; std and size in pixels.

    `size` is odd, by default the next that reaches 3 std.
    """
    size = 2 * math.ceil(3 * std) + 1 if size is None else size
    if not (std > 0 and size > 0 and size % 2):
        raise UserError(f"a Gaussian kernel has std > 0 and an odd size; got {std} and {size}")
    line = np.exp(-((np.arange(size) - size // 2) ** 2) / (2 * std**2))
    return np.outer(line, line) / line.sum() ** 2


def motion_kernel(length: float, angle: float) -> Float[np.ndarray, "k k"]:
    """A line through the centre, of `length` pixels, with sum 1.

    Points of the line share their weight among the four pixels around, linearly.

    Args:
        length: above 0, in pixels.
        angle: in radians, counterclockwise as seen on the screen; 0 is along a row.
    """
    if not (length > 0 and math.isfinite(length) and math.isfinite(angle)):
        raise UserError(f"a motion has a length > 0 and an angle in radians; got {length}, {angle}")
    half = math.ceil(length / 2)
    count = 32 * half
    along = length * ((np.arange(count) + 0.5) / count - 0.5)
    pixels = np.arange(-half, half + 1)
    rows, columns = (
        np.maximum(0, 1 - np.abs(place[:, None] - pixels))
        for place in (-math.sin(angle) * along, math.cos(angle) * along)
    )
    return rows.T @ columns / count
