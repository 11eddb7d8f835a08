"""3 x 3 convolutions with fewer multiplications: Winograd's F(m x m, 3 x 3).

An m x m tile of the result depends on an (m+2) x (m+2) tile d of the padded image. With the
matrices of Lavin and Gray 2016,

    Y = A^T [(G k G^T) * (B^T d B)] A.

The product is summed over the channels: one matrix product for each of the (m+2)^2 positions in a
tile. They take (m+2)^2/(9 m^2) of the definition's multiplications, which is 1/2.25 for m = 2 and
1/4 for m = 4. In exact arithmetic the result is the same. In float32 the largest error is some 1e-6
of the largest entry for m = 2, and up to 1e-5 for m = 4.

The transforms are sums of shifted slices, each of one pass over memory, and the products of all
positions are one batched product: the compiler has little to do, and loops are as fast as what is
outside of them. Images are NHWC, kernels HWIO, and outside the image there are zeros.

Source: Lavin and Gray 2016, "Fast algorithms for convolutional neural networks".
"""

import functools
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

Image = Float[Array, "batch height width channels"]
Kernel = Float[Array, "3 3 channels features"]

_B = {
    2: np.array([[1, 0, 0, 0], [0, 1, -1, 1], [-1, 1, 1, 0], [0, 0, 0, -1]]),
    4: np.array(
        [
            [4, 0, 0, 0, 0, 0],
            [0, -4, 4, -2, 2, 4],
            [-5, -4, -4, -1, -1, 0],
            [0, 1, -1, 2, -2, -5],
            [1, 1, 1, 1, 1, 0],
            [0, 0, 0, 0, 0, 1],
        ]
    ),
}
_G = {
    2: np.array([[1, 0, 0], [1 / 2, 1 / 2, 1 / 2], [1 / 2, -1 / 2, 1 / 2], [0, 0, 1]]),
    4: np.array(
        [
            [1 / 4, 0, 0],
            [-1 / 6, -1 / 6, -1 / 6],
            [-1 / 6, 1 / 6, -1 / 6],
            [1 / 24, 1 / 12, 1 / 6],
            [1 / 24, -1 / 12, 1 / 6],
            [0, 0, 1],
        ]
    ),
}
_A = {
    2: np.array([[1, 0], [1, 1], [1, -1], [0, -1]]),
    4: np.array(
        [[1, 0, 0, 0], [1, 1, 1, 1], [1, -1, 1, -1], [1, 2, 4, 8], [1, -2, 4, -8], [0, 0, 0, 1]]
    ),
}


def convolve(x: Image, kernel: Kernel, m: int) -> Float[Array, "batch height width features"]:
    """The convolution that keeps the image size, by tiles of m x m (m is 2 or 4)."""
    batch, height, width, _ = x.shape
    rows, columns = -(-height // m), -(-width // m)
    taps = _combine(_G[m], [kernel[i] for i in range(3)], 0)
    taps = _combine(_G[m], [taps[:, j] for j in range(3)], 1)
    y = _product(_image_tiles(x, m), taps.reshape(-1, *kernel.shape[2:]), contract=(2, 1))
    y = y.reshape(m + 2, m + 2, batch, rows, columns, -1)
    y = _combine(_A[m].T, [y[i] for i in range(m + 2)], 3)
    y = _combine_apart(_A[m].T, [y[j] for j in range(m + 2)], 4)
    return y.reshape(batch, rows * m, columns * m, -1)[:, :height, :width]


def correlate(x: Image, dy: Float[Array, "batch height width features"], m: int) -> Kernel:
    """The gradient of sum(dy * convolve(x, kernel, m)) with respect to the kernel."""
    batch, height, width, features = dy.shape
    rows, columns = -(-height // m), -(-width // m)
    dy = jnp.pad(dy, ((0, 0), (0, rows * m - height), (0, columns * m - width), (0, 0)))
    dy = dy.reshape(batch, rows, m, columns, m, features)
    g = _combine(_A[m], [dy[:, :, i] for i in range(m)], 0)
    g = _combine(_A[m], [g[:, :, :, :, j] for j in range(m)], 1)
    g = g.reshape((m + 2) ** 2, -1, features)
    taps = _product(_image_tiles(x, m), g, contract=(1, 1))
    taps = taps.reshape(m + 2, m + 2, -1, features)
    taps = _combine(_G[m].T, [taps[i] for i in range(m + 2)], 0)
    return _combine_apart(_G[m].T, [taps[:, j] for j in range(m + 2)], 1)


def _image_tiles(x: Image, m: int) -> Float[Array, "positions tiles channels"]:
    """B^T d B of every tile d of the padded image."""
    _, height, width, channels = x.shape
    down, right = -height % m, -width % m
    z = jnp.pad(x, ((0, 0), (1, 1 + down), (1, 1 + right), (0, 0)))

    def every(z: Array, start: int, axis: int, size: int) -> Array:
        return lax.slice_in_dim(z, start, start + size - m + 1, m, axis)

    rows = _combine(_B[m].T, [every(z, i, 1, height + down) for i in range(m + 2)], 0)
    tiles = _combine(_B[m].T, [every(rows, j, 3, width + right) for j in range(m + 2)], 1)
    return tiles.reshape((m + 2) ** 2, -1, channels)


def _combine(weights: np.ndarray, arrays: Sequence[Array], axis: int) -> Array:
    """Sums of the arrays, one for each row of weights, side by side along a new axis."""
    shape = [1] * (arrays[0].ndim + 1)
    shape[axis] = len(weights)
    terms = (
        jnp.asarray(column.reshape(shape), array.dtype) * jnp.expand_dims(array, axis)
        for column, array in zip(weights.T, arrays, strict=True)
    )
    return functools.reduce(jnp.add, terms)


def _combine_apart(weights: np.ndarray, arrays: Sequence[Array], axis: int) -> Array:
    """The same, and the result is written once: XLA computes no concatenation in its users."""
    sums = [
        functools.reduce(jnp.add, [float(w) * a for w, a in zip(row, arrays, strict=True) if w])
        for row in weights
    ]
    return jnp.stack(sums, axis)


def _product(a: Array, b: Array, contract: tuple[int, int]) -> Array:
    """Products over one axis of each, for every position."""
    axes = ((contract[:1], contract[1:]), ((0,), (0,)))
    return lax.dot_general(a, b, axes, precision=lax.Precision.HIGHEST)
