"""The 3 x 3 convolution and its gradient: values, derivatives of any order, back ends."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from score_sde.networks import convolution, layers, winograd

SHAPES = [(2, 8, 8, 3, 5), (1, 4, 12, 2, 2), (3, 7, 9, 4, 3), (2, 1, 2, 3, 2)]
"""(batch, height, width, channels, features); tiles divide the first two only."""
BY_TILES = {2: (4, 16, 16, 256, 256), 4: (16, 16, 16, 64, 64)}
"""Shapes that are convolved by this tile."""


def arrays(shape, dtype=jnp.float32, seed: int = 0):
    batch, height, width, channels, features = shape
    rng = np.random.default_rng(seed)
    shapes = (batch, height, width, channels), (3, 3, channels, features)
    return [jnp.asarray(rng.normal(size=s), dtype) for s in (*shapes, (*shapes[0][:3], features))]


def by_definition(x, kernel):
    """y[n, p, q, o] = sum_ijc x[n, p + i - 1, q + j - 1, c] kernel[i, j, c, o]."""
    z = np.pad(np.asarray(x, np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
    height, width = x.shape[1:3]
    return sum(
        np.einsum("npqc,co->npqo", z[:, i : i + height, j : j + width], kernel[i, j])
        for i in range(3)
        for j in range(3)
    )


@pytest.mark.parametrize("m", [2, 4])
@pytest.mark.parametrize("shape", SHAPES)
def test_winograd_is_the_convolution(shape, m: int) -> None:
    with jax.enable_x64(True):
        x, kernel, dy = arrays(shape, jnp.float64)
        y = by_definition(x, np.asarray(kernel))
        np.testing.assert_allclose(winograd.convolve(x, kernel, m), y, atol=1e-12)
        # <dy, convolve(x, kernel)> is linear in the kernel, so its gradient gives the same number.
        gradient = winograd.correlate(x, dy, m)
        np.testing.assert_allclose(jnp.vdot(gradient, kernel), np.vdot(dy, y), rtol=1e-11)
        wanted = jax.grad(lambda k: jnp.vdot(dy, convolution._xla(x, k)))(kernel)
        np.testing.assert_allclose(gradient, wanted, atol=1e-11)


@pytest.mark.parametrize("m, most", [(2, 2e-6), (4, 1e-5)])
def test_error_in_single_precision(m: int, most: float) -> None:
    x, kernel, dy = arrays((4, 16, 16, 64, 64))
    with jax.enable_x64(True):
        exact = [jnp.asarray(np.asarray(a, np.float64)) for a in (x, kernel, dy)]
        truth = convolution._xla(*exact[:2]), convolution._xla_correlate(exact[0], exact[2])
        truth = [np.asarray(a) for a in truth]
    found = winograd.convolve(x, kernel, m), winograd.correlate(x, dy, m)
    for a, b in zip(found, truth, strict=True):
        assert np.abs(np.asarray(a, np.float64) - b).max() < most * np.abs(b).max()


def test_the_plan_depends_on_the_shape() -> None:
    def plan(shape, of="convolve", dtype=jnp.float32):
        return convolution.plan(of, shape[:4], shape[4], dtype)

    for m, shape in BY_TILES.items():
        assert plan(shape) == m
        assert plan(shape, dtype=jnp.float64) == plan(shape, dtype=jnp.bfloat16) == "xla"
    assert plan((4, 4, 4, 256, 256)) == "xla"  # few pixels: the kernels would be most of the work
    assert plan((64, 32, 32, 3, 128)) == plan((64, 32, 32, 128, 3)) == "xla"
    assert plan((4, 32, 32, 128, 128), "correlate") == 4


@pytest.mark.parametrize("m", [2, 4])
def test_derivatives_of_any_order(m: int) -> None:
    x, kernel, _ = arrays(BY_TILES[m])
    assert convolution.plan("convolve", x.shape, kernel.shape[3]) == m

    def value(conv, x, kernel):
        return jnp.mean(jnp.sin(conv(x, kernel / 50)))

    def second(conv, x, kernel):
        """Reverse over forward over reverse."""

        def slope(x, kernel):
            return jax.grad(functools.partial(value, conv))(x, kernel)

        def change(x, kernel):
            return jnp.sum(jax.jvp(slope, (x, kernel), (x, kernel))[1] ** 2)

        return jax.grad(change, (0, 1))(x, kernel)

    for derive in (lambda c, *a: jax.grad(functools.partial(value, c), (0, 1))(*a), second):
        found = jax.jit(functools.partial(derive, convolution.convolve))(x, kernel)
        wanted = jax.jit(functools.partial(derive, convolution._xla))(x, kernel)
        for a, b in zip(found, wanted, strict=True):
            assert np.abs(a - b).max() < 1e-4 * np.abs(b).max()


def test_mapped_over_images_kernels_and_both() -> None:
    x, kernel, dy = arrays((4, 8, 8, 32, 32))
    kernels = jnp.stack([kernel, 2 * kernel])
    pairs = x.reshape(2, 2, *x.shape[1:]), dy.reshape(2, 2, *dy.shape[1:])
    whole = convolution.convolve(x, kernel)
    mapped = jax.vmap(convolution.convolve, (0, None))(pairs[0], kernel)
    np.testing.assert_allclose(mapped.reshape(whole.shape), whole, atol=1e-3)
    last = jax.vmap(convolution.convolve, (3, None))(jnp.moveaxis(pairs[0], 0, 3), kernel)
    np.testing.assert_allclose(last, mapped, atol=1e-3)
    each = jax.vmap(convolution.convolve, (None, 0))(x, kernels)
    np.testing.assert_allclose(each, jnp.stack([whole, 2 * whole]), atol=1e-3)
    both = jax.vmap(convolution.convolve)(pairs[0], kernels)
    wanted = jnp.stack([mapped[0], 2 * mapped[1]])
    np.testing.assert_allclose(both, wanted, atol=1e-3)
    gradients = jax.vmap(convolution.correlate)(*pairs)
    np.testing.assert_allclose(gradients.sum(0), convolution.correlate(x, dy), atol=1e-2)


def test_other_convolutions_are_left_to_xla() -> None:
    x, kernel, _ = arrays((2, 8, 8, 32, 32))
    numbers = ("NHWC", "HWIO", "NHWC")
    for strides, padding, options in (
        ((2, 2), "SAME", {}),
        ((1, 1), "VALID", {}),
        ((1, 1), "SAME", {"rhs_dilation": (2, 2)}),
        ((1, 1), ((1, 1), (1, 1)), {"lhs_dilation": (2, 1)}),
        ((1, 1), "SAME", {"precision": jax.lax.Precision.HIGHEST}),
    ):
        arguments = x, kernel, strides, padding
        found = jax.make_jaxpr(
            lambda *a, o=options: convolution.general(*a, dimension_numbers=numbers, **o),
            static_argnums=(2, 3),
        )(*arguments)
        assert "conv_general_dilated" in str(found) and "3x3" not in str(found)
    grouped = kernel[:, :, :16]
    y = convolution.general(
        x, grouped, (1, 1), "SAME", dimension_numbers=numbers, feature_group_count=2
    )
    assert y.shape == x.shape
    usual = jax.make_jaxpr(
        lambda x, k: convolution.general(x, k, (1, 1), "SAME", dimension_numbers=numbers)
    )(x, kernel)
    assert "convolve_3x3" in str(usual)


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_accelerators_keep_the_convolution_of_xla(platform: str) -> None:
    layer = layers.conv3x3(64, name="conv", dtype=jnp.float32)
    x, _, _ = arrays(BY_TILES[4])
    params = jax.eval_shape(layer.init, jax.random.key(0), x)

    def loss(params, x):
        return jnp.sum(layer.apply(params, x) ** 2)

    shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
    step = jax.jit(jax.grad(loss, (0, 1)))
    text = export.export(step, platforms=[platform])(params, shape).mlir_module()
    on_cpu = platform == "cpu"
    assert ("stablehlo.convolution" in text) != on_cpu
    assert ("stablehlo.dot_general" in text) == on_cpu


def test_a_layer_in_a_loop_is_the_layer() -> None:
    """What XLA's own gradient is slow at: a convolution in `scan`, differentiated."""
    x, kernel, _ = arrays((8, 8, 8, 32, 32))

    def thrice(kernel, loop: bool):
        def body(h, _):
            return jnp.tanh(convolution.convolve(h, kernel / 20)), None

        if loop:
            return jnp.sum(jax.lax.scan(body, x, None, 3)[0])
        h = x
        for _ in range(3):
            h, _ = body(h, None)
        return jnp.sum(h)

    found, wanted = (jax.jit(jax.grad(thrice), static_argnums=1)(kernel, b) for b in (True, False))
    np.testing.assert_allclose(found, wanted, atol=2e-4 * np.abs(wanted).max())
