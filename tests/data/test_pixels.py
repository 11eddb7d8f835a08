"""PixelRange: exact round trips, cells that tile the range, and bits/dim against known answers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from score_sde.data.pixels import PixelRange

RANGES = [
    PixelRange(),
    PixelRange(low=-1.0),
    PixelRange(17),
    PixelRange(17, -1.0, 1.0),
    PixelRange(2),
    PixelRange(65536),
]


@pytest.mark.parametrize("pixels", RANGES)
@pytest.mark.parametrize("xp", [np, jnp])
def test_every_level_survives_the_round_trip(pixels, xp):
    k = xp.arange(pixels.levels).astype(pixels.dtype)
    x = pixels.encode(k)
    assert isinstance(x, jax.Array if xp is jnp else np.ndarray)
    assert x.dtype == np.float32
    assert float(x[0]) == pixels.low
    assert float(x[-1]) == pixels.high
    back = pixels.decode(x)
    assert back.dtype == pixels.dtype
    np.testing.assert_array_equal(back, k)


def test_levels_are_evenly_spaced():
    x = PixelRange(17, -1.0, 1.0).encode(np.arange(17), np.float64)
    np.testing.assert_allclose(np.diff(x), 2 / 16, rtol=1e-12)


@given(st.integers(2, 65536), st.floats(-100, 100), st.floats(0.01, 100))
def test_round_trip_of_any_range(levels, low, width):
    pixels = PixelRange(levels, low, low + width)
    k = np.array([0, 1, levels // 3, levels // 2, levels - 2, levels - 1])
    np.testing.assert_array_equal(pixels.decode(pixels.encode(k, np.float64)), k)


def test_decode_rounds_and_clips():
    pixels = PixelRange(17, -1.0, 1.0)
    step = 2 / 16
    x = np.array([-5.0, -1 + 0.49 * step, -1 + 0.51 * step, 1 - 0.51 * step, 9.0, np.nan])
    np.testing.assert_array_equal(pixels.decode(x), [0, 0, 1, 15, 16, 0])
    np.testing.assert_array_equal(pixels.decode(jnp.asarray(x, jnp.float32)), [0, 0, 1, 15, 16, 0])


@pytest.mark.parametrize("pixels", [*RANGES[:-1], PixelRange(1000, -3.0, 2.0)])
@pytest.mark.parametrize("xp", [np, jnp])
def test_quantize_finds_the_cell(pixels, xp):
    k = xp.arange(pixels.levels).astype(pixels.dtype)
    for u in (0.01, 0.5, 0.99):
        back = pixels.quantize(pixels.dequantize(k, xp.full(k.shape, u, np.float32)))
        assert back.dtype == pixels.dtype
        np.testing.assert_array_equal(back, k)


def test_quantize_clips():
    x = np.array([-5.0, -1.0, -1 + 1.99 * 2 / 17, -1 + 2.01 * 2 / 17, 1.0, 9.0, np.nan])
    np.testing.assert_array_equal(PixelRange(17, -1.0, 1.0).quantize(x), [0, 0, 1, 2, 16, 16, 0])


def test_unit_is_for_display():
    np.testing.assert_allclose(
        PixelRange(low=-1.0).unit(np.array([-3.0, -1.0, 0.0, 0.5, 1.0, 3.0])),
        [0, 0, 0.5, 0.75, 1, 1],
    )


@pytest.mark.parametrize("pixels", RANGES)
def test_dequantized_cells_tile_the_range(pixels):
    k = np.arange(pixels.levels)
    left = pixels.dequantize(k, np.zeros(len(k)))
    middle = pixels.dequantize(k, np.full(len(k), 0.5))
    width = (pixels.high - pixels.low) / pixels.levels
    assert left[0] == pixels.low
    np.testing.assert_allclose(np.diff(left), width, rtol=1e-6)
    np.testing.assert_allclose(middle - left, width / 2, rtol=1e-6)
    np.testing.assert_allclose(left[-1] + width, pixels.high)


def test_dequantize_keeps_the_type_of_the_noise(x64):
    k = jnp.arange(4, dtype=jnp.uint8)
    for dtype in (jnp.float32, jnp.float64):
        assert PixelRange().dequantize(k, jnp.zeros(4, dtype)).dtype == dtype


def test_methods_work_under_jit():
    pixels = PixelRange(17)
    k = jnp.arange(17, dtype=jnp.uint8)
    np.testing.assert_array_equal(jax.jit(lambda k: pixels.decode(pixels.encode(k)))(k), k)


@pytest.mark.parametrize("pixels", RANGES)
def test_uniform_density_costs_log2_levels(pixels):
    dims = 12
    logp = np.full(3, -dims * np.log(pixels.high - pixels.low))
    np.testing.assert_allclose(pixels.bits_per_dim(logp, dims), np.log2(pixels.levels), rtol=1e-12)


def test_bits_per_dim_of_a_density_that_is_constant_on_each_cell():
    """Then Jensen's bound is tight: bits/dim is the entropy of the levels, whatever the range."""
    probability = np.array([0.1, 0.2, 0.3, 0.4])
    entropy = -(probability * np.log2(probability)).sum()
    for low, high in [(0.0, 1.0), (-1.0, 1.0), (2.0, 7.0)]:
        pixels = PixelRange(4, low, high)
        logp = np.log(probability * 4 / (high - low))
        np.testing.assert_allclose(
            (probability * pixels.bits_per_dim(logp, 1)).sum(), entropy, rtol=1e-12
        )


def test_bits_per_dim_does_not_depend_on_the_range():
    """The same model seen on [0, 1] and on [-1, 1]: p halves per dimension, bits/dim stays."""
    logp, dims = -7.3, 5
    a = PixelRange(256, 0.0, 1.0).bits_per_dim(logp, dims)
    b = PixelRange(256, -1.0, 1.0).bits_per_dim(logp - dims * np.log(2), dims)
    assert a == pytest.approx(b, rel=1e-12)
    assert a == pytest.approx(7.3 / (5 * np.log(2)) + 8, rel=1e-12)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"levels": 1}, "levels must be between 2"),
        ({"levels": 70000}, "levels must be between 2"),
        ({"low": 1.0, "high": 1.0}, "low must be below high"),
        ({"low": 1.0, "high": -1.0}, "got low=1.0, high=-1.0"),
        ({"high": float("inf")}, "finite"),
    ],
)
def test_impossible_ranges_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        PixelRange(**fields)
