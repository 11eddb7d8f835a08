"""The 3 x 3 convolution that keeps the image size, made fast on CPUs.

XLA's convolution is fast on accelerators. On CPUs it is near the rate of a matrix product forwards,
but its gradient with respect to the kernel takes two to five times as long, and in a loop ten times
(docs/results/benchmarks.md). There a convolution in float32 is written as matrix products instead.
These are those of Winograd's algorithm (`winograd.py`), and the shape says which (`plan`).

It is a pair of primitives of JAX: `convolve`, bilinear in image and kernel, and `correlate`, its
gradient with respect to the kernel. The derivative of each is made of the two again, so that both
modes of differentiation work to any order, and each is fast.
"""

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float

from score_sde.networks import winograd

_DIMENSIONS = ("NHWC", "HWIO", "NHWC")

Plan = Literal["xla", 2, 4]
"""How a convolution is computed: by XLA's own, or by Winograd's algorithm with this tile."""


def convolve(
    x: Float[Array, "batch height width channels"], kernel: Float[Array, "3 3 channels features"]
) -> Float[Array, "batch height width features"]:
    """y[n, p, q, o] = sum_ijc x[n, p + i - 1, q + j - 1, c] kernel[i, j, c, o].

    Outside the image there are zeros. On CPUs and in float32 the result differs from XLA's by
    rounding: the largest error is about 1e-6, and up to 1e-5 for large images, of the largest
    entry.
    """
    return _convolve.bind(x, kernel)


def correlate(
    x: Float[Array, "batch height width channels"], dy: Float[Array, "batch height width features"]
) -> Float[Array, "3 3 channels features"]:
    """The gradient of sum(dy * convolve(x, kernel)) with respect to the kernel."""
    return _correlate.bind(x, dy)


def plan(
    of: Literal["convolve", "correlate"],
    shape: tuple[int, ...],
    features: int,
    dtype: Any = jnp.float32,
) -> Plan:
    """The fastest way on a CPU, by a model of the cost.

    The model counts what matrix products multiply, and what is written for and read from them. Its
    constants are nanoseconds, measured on two cores of an AMD EPYC of the third generation.

    Args:
        of: which of the two.
        shape: (batch, height, width, channels) of the image.
        features: channels of the result.
        dtype: of both.
    """
    batch, height, width, channels = shape
    narrow = min(channels, features)
    if jnp.dtype(dtype) != jnp.float32 or narrow < 16:
        return "xla"
    wide = narrow >= 128
    rate = (110 if wide else 60) if of == "convolve" else (50 if wide else 30)
    costs: dict[Plan, float] = {"xla": 18 * batch * height * width * channels * features / rate}
    tiling: tuple[tuple[Plan, int, float], ...] = ((2, 2, 0.4), (4, 4, 2.0))
    for way, m, each_weight in tiling:
        tiles = batch * -(-height // m) * -(-width // m)
        product = 2 * tiles * channels * features / 120
        moved = 1.2 * tiles * (channels + features) + each_weight * channels * features
        costs[way] = (m + 2) ** 2 * (product + moved)
    return min(costs, key=lambda way: costs[way])


def general(lhs: Array, rhs: Array, window_strides: Any, padding: Any, **options: Any) -> Array:
    """`lax.conv_general_dilated` of NHWC and HWIO, by `convolve` where it computes the same."""
    usual = {"lhs_dilation", "rhs_dilation", "dimension_numbers", "feature_group_count"}
    plain = (
        lhs.ndim == 4
        and rhs.shape[:3] == (3, 3, lhs.shape[-1])
        and tuple(window_strides) == (1, 1)
        and padding in ("SAME", [(1, 1), (1, 1)], ((1, 1), (1, 1)))
        and all(set(options.get(name) or (1,)) == {1} for name in ("lhs_dilation", "rhs_dilation"))
        and all(value is None for name, value in options.items() if name not in usual)
    )
    if plain:
        return convolve(lhs, rhs)
    return lax.conv_general_dilated(lhs, rhs, window_strides, padding, **options)


def _xla(x: Array, kernel: Array) -> Array:
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=_DIMENSIONS)


def _xla_correlate(x: Array, dy: Array) -> Array:
    shape = (3, 3, x.shape[-1], dy.shape[-1])
    zero = jnp.zeros(shape, x.dtype)
    (gradient,) = jax.linear_transpose(lambda kernel: _xla(x, kernel), zero)(dy)
    return gradient


@jax.jit
def _cpu_convolve(x: Array, kernel: Array) -> Array:
    way = plan("convolve", x.shape, kernel.shape[-1], x.dtype)
    return _xla(x, kernel) if way == "xla" else winograd.convolve(x, kernel, way)


@jax.jit
def _cpu_correlate(x: Array, dy: Array) -> Array:
    way = plan("correlate", x.shape, dy.shape[-1], x.dtype)
    return _xla_correlate(x, dy) if way == "xla" else winograd.correlate(x, dy, way)


def _primitive(name: str, shape, everywhere, on_cpu) -> Primitive:
    """A primitive of two arrays of one type: `shape` of the result, and how it is computed."""
    primitive = Primitive(name)
    primitive.def_impl(jax.jit(primitive.bind))
    primitive.def_abstract_eval(lambda a, b: ShapedArray(shape(a.shape, b.shape), a.dtype))
    for function, platform in ((everywhere, None), (on_cpu, "cpu")):
        lowering = mlir.lower_fun(function, multiple_results=False)
        mlir.register_lowering(primitive, lowering, platform=platform)
    batching.primitive_batchers[primitive] = functools.partial(_batch, primitive, everywhere)
    return primitive


def _batch(primitive: Primitive, everywhere, arguments, axes):
    """Mapped images are more images. Everything else is left to XLA's own convolution."""
    x, other = arguments
    if primitive is _convolve and axes[1] is None:
        x = jnp.moveaxis(x, axes[0], 0)
        y = convolve(x.reshape(-1, *x.shape[2:]), other)
        return y.reshape(*x.shape[:2], *y.shape[1:]), 0
    return jax.vmap(everywhere, axes)(x, other), 0


def _rotated(kernel: Array) -> Array:
    """The kernel of the transpose: turned by 180 degrees, channels and features exchanged."""
    return jnp.flip(kernel, (0, 1)).swapaxes(2, 3)


_convolve = _primitive("convolve_3x3", lambda x, kernel: (*x[:3], kernel[3]), _xla, _cpu_convolve)
_correlate = _primitive(
    "correlate_3x3", lambda x, dy: (3, 3, x[3], dy[3]), _xla_correlate, _cpu_correlate
)
ad.defbilinear(
    _convolve,
    lambda dy, x, kernel: convolve(dy, _rotated(kernel)),
    lambda dy, x, kernel: correlate(x, dy),
)
ad.defbilinear(
    _correlate,
    lambda dkernel, x, dy: convolve(dy, _rotated(dkernel)),
    lambda dkernel, x, dy: convolve(x, dkernel),
)
