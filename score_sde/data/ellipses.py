"""Ellipses: their images, line integrals and Fourier transforms in closed form.

A picture is a sum of ellipses, a table with one row each: (value, a, b, x, y, phi). The half-axes
are a and b, the centre is (x, y), and the half-axis a makes the angle phi with the x-axis. x grows
to the right, y upwards, angles counterclockwise in radians. Measured data that are computed from
the table owe nothing to a grid of pixels. All is done in double precision on the host.
"""

import math

import numpy as np
from jaxtyping import Float
from scipy import special

Table = Float[np.ndarray, "n 6"]
"""(value, a, b, x, y, phi) of each ellipse."""

_DEGREES_18 = math.pi / 10
SHEPP_LOGAN: Table = np.array(
    [
        [1.0, 0.69, 0.92, 0.0, 0.0, 0.0],
        [-0.8, 0.6624, 0.874, 0.0, -0.0184, 0.0],
        [-0.2, 0.11, 0.31, 0.22, 0.0, -_DEGREES_18],
        [-0.2, 0.16, 0.41, -0.22, 0.0, _DEGREES_18],
        [0.1, 0.21, 0.25, 0.0, 0.35, 0.0],
        [0.1, 0.046, 0.046, 0.0, 0.1, 0.0],
        [0.1, 0.046, 0.046, 0.0, -0.1, 0.0],
        [0.1, 0.046, 0.023, -0.08, -0.605, 0.0],
        [0.1, 0.023, 0.023, 0.0, -0.606, 0.0],
        [0.1, 0.023, 0.046, 0.06, -0.605, 0.0],
    ]
)
"""The head phantom in the square [-1, 1]^2, with values in [0, 1].

Source: Shepp & Logan (1974), with the contrasts of Toft (1996), table B.3.
"""


def scaled(table: Table, length: float) -> Table:
    """The picture `length` times as large."""
    return table * np.array([1, length, length, length, length, 1.0])


def line_integrals(
    table: Table, theta: Float[np.ndarray, "..."], s: Float[np.ndarray, "..."]
) -> Float[np.ndarray, "..."]:
    """Integrals along the lines x cos(theta) + y sin(theta) = s.

    One ellipse gives 2 value a b sqrt(r^2 - u^2)/r^2, with r^2 = a^2 cos^2(theta - phi) +
    b^2 sin^2(theta - phi) and u = s - x cos(theta) - y sin(theta). `rays()` of the operators of
    tomography gives theta and s, of parallel rays and of fans.

    Args:
        table: ellipses.
        theta: angles in radians; theta and s broadcast with one another.
        s: distances from the origin.

    Source: Kak & Slaney (1988), section 3.1.
    """
    total = np.zeros(np.broadcast_shapes(theta.shape, s.shape))
    for value, a, b, x, y, phi in table:
        square = (a * np.cos(theta - phi)) ** 2 + (b * np.sin(theta - phi)) ** 2
        u = s - x * np.cos(theta) - y * np.sin(theta)
        total += 2 * value * a * b * np.sqrt(np.maximum(square - u**2, 0)) / square
    return total


def strip_integrals(
    table: Table,
    theta: Float[np.ndarray, "..."],
    s: Float[np.ndarray, "..."],
    width: float,
) -> Float[np.ndarray, "..."]:
    """Means of `line_integrals` over strips of this width around s: what a bin of that width sees.

    One ellipse gives value a b (F((u + width/2)/r) - F((u - width/2)/r))/width, with F(v) =
    v sqrt(1 - v^2) + arcsin(v) for v in [-1, 1].
    """
    total = np.zeros(np.broadcast_shapes(theta.shape, s.shape))
    for value, a, b, x, y, phi in table:
        r = np.sqrt((a * np.cos(theta - phi)) ** 2 + (b * np.sin(theta - phi)) ** 2)
        u = s - x * np.cos(theta) - y * np.sin(theta)
        low, high = (np.clip((u + side * width / 2) / r, -1, 1) for side in (-1, 1))
        area = [v * np.sqrt(1 - v**2) + np.arcsin(v) for v in (low, high)]
        total += value * a * b * (area[1] - area[0]) / width
    return total


def fourier_transform(
    table: Table, kx: Float[np.ndarray, "..."], ky: Float[np.ndarray, "..."]
) -> np.ndarray:
    """The integral of the picture times exp(-2 pi i (kx x + ky y)), complex.

    One ellipse gives value a b J_1(2 pi rho)/rho exp(-2 pi i (kx x + ky y)), where (a k', b k'')
    has the length rho and (k', k'') is k in the directions of the half-axes.

    Args:
        table: ellipses.
        kx: frequencies in cycles per length; kx and ky broadcast with one another.
        ky: as kx.

    Source: Koay, Sarlls & Ozarslan (2007).
    """
    total = np.zeros(np.broadcast_shapes(kx.shape, ky.shape), complex)
    for value, a, b, x, y, phi in table:
        along = kx * np.cos(phi) + ky * np.sin(phi)
        across = ky * np.cos(phi) - kx * np.sin(phi)
        rho = np.hypot(a * along, b * across)
        safe = np.where(rho > 0, rho, 1)
        size = np.where(rho > 0, special.j1(2 * np.pi * safe) / safe, np.pi)
        total += value * a * b * size * np.exp(-2j * np.pi * (kx * x + ky * y))
    return total


def picture(
    table: Table, size: tuple[int, int], pixel: float, fine: int = 8
) -> Float[np.ndarray, "h w"]:
    """The mean of the picture over each pixel, by `fine`^2 points in it.

    Args:
        table: ellipses, the origin in the middle of the image.
        size: (height, width) in pixels.
        pixel: size of a pixel.
        fine: points of a pixel along each axis.
    """
    h, w = size
    x = ((np.arange(w * fine) + 0.5) / fine - w / 2) * pixel
    y = (h / 2 - (np.arange(h * fine) + 0.5) / fine) * pixel
    total = np.zeros((h * fine, w * fine))
    for value, a, b, x0, y0, phi in table:
        dx, dy = x[None] - x0, y[:, None] - y0
        along = (dx * np.cos(phi) + dy * np.sin(phi)) / a
        across = (dy * np.cos(phi) - dx * np.sin(phi)) / b
        total += value * (along**2 + across**2 <= 1)
    return total.reshape(h, fine, w, fine).mean(axis=(1, 3))
