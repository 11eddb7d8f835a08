"""Resampling of images by factors, with FIR filters (anti-aliasing) or without.

All filters here are fixed, separable and short. They are written as sums of shifted slices, one
axis at a time, which XLA fuses into a single pass over memory; a depthwise convolution computes the
same numbers but is one to two orders of magnitude slower on CPU, forwards and backwards. Images are
NHWC; outside the image there are zeros.
"""

import functools
from collections.abc import Iterable, Sequence

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

_DIMENSIONS = ("NHWC", "HWIO", "NHWC")


def upfirdn2d(
    x: Float[Array, "batch height width channels"],
    kernel: Float[Array, "rows columns"],
    up: tuple[int, int] = (1, 1),
    down: tuple[int, int] = (1, 1),
    pad: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0)),
) -> Float[Array, "batch out_height out_width channels"]:
    """Zero-stuff, pad, filter and keep every `down`-th pixel.

    y[m] = sum_k kernel[k] z[m down + K - 1 - k].

    z is x with `up - 1` zeros after every pixel, then padded. This is the definition, for any
    filter of length K; the resampling below uses faster special cases.

    Args:
        x: images.
        kernel: filter of a true convolution (not flipped by the caller).
        up: factors (rows, columns) of zero-stuffing.
        down: factors (rows, columns) of decimation.
        pad: zeros ((top, bottom), (left, right)); negative values crop.
    Returns:
        Images of height (height up + top + bottom - rows) // down + 1, likewise in width.
    """
    rows, columns = kernel.shape
    (top, bottom), (left, right) = pad
    edges = [
        (0, 0, 0),
        (top, bottom + up[0] - 1, up[0] - 1),
        (left, right + up[1] - 1, up[1] - 1),
        (0, 0, 0),
    ]
    z = lax.pad(x, jnp.zeros((), x.dtype), edges)
    height, width = z.shape[1] - rows + 1, z.shape[2] - columns + 1
    flipped = kernel[::-1, ::-1].astype(x.dtype)
    terms = [
        flipped[i, j] * z[:, i : i + height : down[0], j : j + width : down[1]]
        for i in range(rows)
        for j in range(columns)
    ]
    return functools.reduce(jnp.add, terms)


def upsample_2d(
    x: Float[Array, "batch height width channels"], taps: Sequence[float], factor: int = 2
) -> Float[Array, "batch out_height out_width channels"]:
    """Enlarge by `factor`, keeping the mean.

    Zeros go between the pixels, then the outer product of `taps` filters them.

    Args:
        x: images.
        taps: one-dimensional filter, normalized to sum 1 here, then multiplied by `factor` per
            axis.
        factor: integer enlargement of height and width.
    Returns:
        Images `factor` times as high and wide.
    Source: resampling of StyleGAN2 (Karras et al. 2020), as used by NCSN++.
    """
    filter_ = factor * _normalized(taps)
    return _upsample_axis(_upsample_axis(x, 1, filter_, factor), 2, filter_, factor)


def downsample_2d(
    x: Float[Array, "batch height width channels"], taps: Sequence[float], factor: int = 2
) -> Float[Array, "batch out_height out_width channels"]:
    """Shrink by `factor`: filter with the outer product of `taps`, keep every `factor`-th pixel.

    Args:
        x: images.
        taps: one-dimensional filter, normalized to sum 1 here.
        factor: integer reduction of height and width.
    Returns:
        Images of 1/`factor` of the height and width.
    Source: resampling of StyleGAN2 (Karras et al. 2020), as used by NCSN++.
    """
    filter_ = _normalized(taps)
    p = len(filter_) - factor
    return _filter_2d(x, filter_, ((p + 1) // 2, p // 2), stride=factor)


def naive_upsample_2d(
    x: Float[Array, "batch height width channels"], factor: int = 2
) -> Float[Array, "batch out_height out_width channels"]:
    """Enlarge by repeating every pixel `factor` times in both directions (nearest neighbour)."""
    box = np.ones(factor)
    return _upsample_axis(_upsample_axis(x, 1, box, factor), 2, box, factor)


def naive_downsample_2d(
    x: Float[Array, "batch height width channels"], factor: int = 2
) -> Float[Array, "batch out_height out_width channels"]:
    """Shrink by taking the mean of every `factor` x `factor` block of pixels."""
    return _filter_2d(x, _normalized(np.ones(factor)), (0, 0), stride=factor)


def upsample_conv_2d(
    x: Float[Array, "batch height width channels"],
    kernel: Float[Array, "size size channels features"],
    taps: Sequence[float],
    factor: int = 2,
) -> Float[Array, "batch out_height out_width features"]:
    """Transposed convolution with stride `factor`, followed by a FIR filter.

    The filter removes the checkerboard of the convolution.

    Args:
        x: images.
        kernel: learned kernel (HWIO), correlated with the zero-stuffed images with full padding.
        taps: one-dimensional filter, normalized to sum 1 here, then multiplied by `factor` per
            axis.
        factor: integer enlargement of height and width.
    Returns:
        Images `factor` times as high and wide.
    """
    size = kernel.shape[0]
    filter_ = factor * _normalized(taps)
    full = ((size - 1, size - 1),) * 2
    y = lax.conv_general_dilated(
        x, kernel, (1, 1), full, lhs_dilation=(factor, factor), dimension_numbers=_DIMENSIONS
    )
    p = len(filter_) - factor - (size - 1)
    return _filter_2d(y, filter_, ((p + 1) // 2 + factor - 1, p // 2 + 1), stride=1)


def conv_downsample_2d(
    x: Float[Array, "batch height width channels"],
    kernel: Float[Array, "size size channels features"],
    taps: Sequence[float],
    factor: int = 2,
) -> Float[Array, "batch out_height out_width features"]:
    """FIR filter against aliasing, followed by a convolution with stride `factor`.

    Args:
        x: images.
        kernel: learned kernel (HWIO).
        taps: one-dimensional filter, normalized to sum 1 here.
        factor: integer reduction of height and width.
    Returns:
        Images of 1/`factor` of the height and width.
    """
    filter_ = _normalized(taps)
    p = len(filter_) - factor + kernel.shape[0] - 1
    y = _filter_2d(x, filter_, ((p + 1) // 2, p // 2), stride=1)
    return lax.conv_general_dilated(
        y, kernel, (factor, factor), "VALID", dimension_numbers=_DIMENSIONS
    )


def _normalized(taps: Sequence[float] | np.ndarray) -> np.ndarray:
    taps = np.asarray(taps, np.float64)
    return taps / taps.sum()


def _filter_2d(x: Array, filter_: np.ndarray, pad: tuple[int, int], stride: int) -> Array:
    return _filter_axis(_filter_axis(x, 1, filter_, pad, stride), 2, filter_, pad, stride)


def _filter_axis(
    x: Array, axis: int, filter_: np.ndarray, pad: tuple[int, int], stride: int
) -> Array:
    """Convolve along one axis of the padded x and keep every `stride`-th value.

    Negative padding crops.
    """
    x = _pad_axis(x, axis, *pad)
    last = x.shape[axis] - len(filter_)
    return _weighted_sum(
        (tap, lax.slice_in_dim(x, k, k + last + 1, stride, axis))
        for k, tap in enumerate(filter_[::-1])
    )


def _upsample_axis(x: Array, axis: int, filter_: np.ndarray, factor: int) -> Array:
    """Zero-stuff along one axis and convolve with the centred filter.

    The axis becomes `factor` times as long.

    Output m = factor q + phase meets tap k of the flipped filter at x[q + (phase + k - pad) /
    factor] where that is an integer, and at a zero elsewhere, so that each phase is a short filter
    of x itself. The phases are then interleaved.
    """
    pad = (len(filter_) - factor + 1) // 2 + factor - 1
    size = x.shape[axis]
    phases: list[list[tuple[float, int]]] = [[] for _ in range(factor)]
    for k, tap in enumerate(filter_[::-1]):
        phase = (pad - k) % factor
        phases[phase].append((tap, (phase + k - pad) // factor))
    shifts = [shift for terms in phases for _, shift in terms]
    before, after = max(0, -min(shifts)), max(0, max(shifts))
    z = _pad_axis(x, axis, before, after)
    outputs = [
        _weighted_sum(
            (tap, lax.slice_in_dim(z, before + shift, before + shift + size, 1, axis))
            for tap, shift in terms
        )
        if terms
        else jnp.zeros_like(x)
        for terms in phases
    ]
    shape = list(x.shape)
    shape[axis] = factor * size
    return jnp.stack(outputs, axis + 1).reshape(shape)


def _pad_axis(x: Array, axis: int, before: int, after: int) -> Array:
    edges = [(0, 0, 0)] * x.ndim
    edges[axis] = (before, after, 0)
    return lax.pad(x, jnp.zeros((), x.dtype), edges)


def _weighted_sum(terms: Iterable[tuple[float, Array]]) -> Array:
    return functools.reduce(
        jnp.add, (term if weight == 1 else float(weight) * term for weight, term in terms)
    )
