import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks.published import listed
from networks.weights import FAST_COMPILE, LayerCase, evaluate, layer_cases

from golden import assert_close, golden
from score_sde.networks import resample
from score_sde.networks.layers import FIRConv


def _layer(case: LayerCase) -> jax.Array:
    """What a case describes; `fn` says in words which function it is."""
    meta, x = case.meta, case.inputs["x"]
    if meta.get("block") == "Conv2d":
        direction = "up" if meta["up"] else "down" if meta["down"] else "same"
        layer = FIRConv(meta["fmaps"], direction, tuple(meta["resample_kernel"]), jnp.float64)
        params = {"kernel": case.params["weight"], "bias": case.params["bias"]}
        return layer.apply({"params": params}, x)
    if "kernel" in case.inputs:
        up, down = meta.get("up", 1), meta.get("down", 1)
        rows, columns = meta.get("pad", (0, 0)), meta.get("pad", (0, 0))
        if "padx0" in meta:
            rows, columns = (meta["pady0"], meta["pady1"]), (meta["padx0"], meta["padx1"])
        up, down = (
            (meta.get(f"{name}y", n), meta.get(f"{name}x", n))
            for name, n in (("up", up), ("down", down))
        )
        pad = (tuple(rows), tuple(columns))
        return resample.upfirdn2d(x, case.inputs["kernel"], up, down, pad)
    grows = case.output.shape[1] > x.shape[1]
    if "kernel" not in meta:
        naive = resample.naive_upsample_2d if grows else resample.naive_downsample_2d
        return naive(x)
    if "w" in case.inputs:
        function = resample.upsample_conv_2d if grows else resample.conv_downsample_2d
        return function(x, case.inputs["w"], meta["kernel"])
    function = resample.upsample_2d if grows else resample.downsample_2d
    taps = meta["kernel"] or [1.0] * meta["factor"]
    return meta.get("gain", 1.0) * function(x, taps, meta["factor"])


@pytest.mark.parametrize("file", listed("layers_*/fir*.npz"))
def test_resampling_agrees_with_published_values(file, x64):
    cases = list(layer_cases(golden(f"nets/{file}")))
    results = evaluate(cases, _layer)
    for case in cases:
        assert_close(results[case.name], case.output, 1e-13, case.name)


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_fast_resampling_is_upfirdn_with_the_outer_product(factor, x64):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 6, 12, 3)))
    filters = [(1.0, 3.0, 3.0, 1.0), (1.0, 4.0, 2.0, 1.0), (2.0,), (1.0, 2.0, 4.0, 2.0, 1.0, 5.0)]

    def both(x):
        results = []
        for taps in filters:
            kernel = jnp.asarray(np.outer(taps, taps) / np.sum(taps) ** 2)
            p = len(taps) - factor
            pad = ((p + 1) // 2 + factor - 1, p // 2)
            up = resample.upfirdn2d(x, kernel * factor**2, up=(factor, factor), pad=(pad, pad))
            pad = ((p + 1) // 2, p // 2)
            down = resample.upfirdn2d(x, kernel, down=(factor, factor), pad=(pad, pad))
            results.append((resample.upsample_2d(x, taps, factor), up))
            results.append((resample.downsample_2d(x, taps, factor), down))
        return results

    for actual, expected in jax.jit(both, compiler_options=FAST_COMPILE)(x):
        assert_close(actual, expected, 1e-13)


def test_naive_resampling_repeats_and_averages():
    x = jnp.arange(12.0).reshape(1, 2, 6, 1)
    up = resample.naive_upsample_2d(x)
    np.testing.assert_array_equal(up, np.asarray(x).repeat(2, 1).repeat(2, 2))
    np.testing.assert_array_equal(resample.naive_downsample_2d(up), x)
    np.testing.assert_array_equal(resample.naive_downsample_2d(x).ravel(), [3.5, 5.5, 7.5])


def test_resampling_keeps_the_type():
    x = jnp.ones((1, 4, 4, 2), jnp.bfloat16)
    for y in (
        resample.upsample_2d(x, (1.0, 3.0, 3.0, 1.0)),
        resample.downsample_2d(x, (1.0, 3.0, 3.0, 1.0)),
    ):
        assert y.dtype == jnp.bfloat16
        # Inside, constants stay; at the edges, the zeros outside the image shine in.
        assert float(y[0, y.shape[1] // 2, y.shape[2] // 2, 0]) == pytest.approx(
            1.0 if y.shape[1] > 2 else 0.765, abs=0.01
        )
