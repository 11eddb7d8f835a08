"""Measurements: the range of the model, rows, noise, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from operatorcases import OPERATORS, HalfFourier

from score_sde import inverse
from score_sde.arrays import sample_keys
from score_sde.data import PixelRange
from score_sde.errors import UserError

pytestmark = pytest.mark.usefixtures("x64")
STD = np.array([0.02, 0.0, 0.3])
RANGES = [PixelRange(256, -1.0, 1.0), PixelRange(256, 0.0, 1.0), PixelRange(17, -0.5, 2.5)]


simulate = jax.jit(inverse.simulate)
in_range = jax.jit(inverse.Measurement.in_range, static_argnums=1)


@pytest.mark.parametrize("pixels", RANGES)
@pytest.mark.parametrize("name", ["inpainting, a mask a row", "blur, then a mask"])
def test_in_range_measures_the_images_of_the_model(name: str, pixels: PixelRange) -> None:
    """What A sees of x = low + (high - low) u plus noise, from what it sees of u plus noise."""
    operator, rng = OPERATORS[name](), np.random.default_rng(0)
    b = max(operator.rows, 2)
    u, std, keys = rng.random((b, *operator.event)), STD[:b], jax.random.key(1)
    after = in_range(simulate(operator, u, std, keys), pixels)
    x = pixels.low + (pixels.high - pixels.low) * u
    wanted = simulate(operator, x, (pixels.high - pixels.low) * std, keys)
    np.testing.assert_allclose(after.y, wanted.y, atol=1e-13)
    np.testing.assert_allclose(after.std, wanted.std, rtol=1e-14)
    assert jax.tree.structure(after) == jax.tree.structure(wanted)


def test_noise_has_the_std_of_its_row_and_lives_where_something_is_measured() -> None:
    known = np.zeros((60, 60, 1), bool)
    known[:, :40] = True
    operator = inverse.inpainting((60, 60, 1), known)
    x, std = np.ones((3, 60, 60, 1)), np.array([0.5, 0.0, 2.0])
    keys = sample_keys(jax.random.key(0), jnp.arange(3))
    made = simulate(operator, x, std, keys)
    noise = np.asarray(made.y)[:, known] - 1
    np.testing.assert_allclose(noise.std(axis=1), std, rtol=0.06)  # 4 standard errors
    np.testing.assert_array_equal(np.asarray(made.y)[:, ~known], 0)
    alone = simulate(operator, x[2:], std[2:], keys[2:])
    np.testing.assert_array_equal(alone.y[0], made.y[2])


def test_noise_of_complex_data_has_its_std_in_both_parts() -> None:
    operator = HalfFourier((60, 60, 1))
    made = simulate(operator, np.zeros((1, 60, 60, 1)), 0.5, jax.random.key(0))
    for part in (made.y.real, made.y.imag):
        assert np.std(part) == pytest.approx(0.5, rel=0.07)


def test_rows() -> None:
    operator = inverse.inpainting((3, 4, 1), np.arange(4) < [[1], [2], [3]])
    one = inverse.measure(operator, np.ones((1, 3, 4, 1)), 0.1)
    five = one.rows(5)
    assert [len(leaf) for leaf in jax.tree.leaves(five)] == [5, 5, 5]
    assert five.operator.rows == 5 and five.rows(5).y.shape == five.y.shape
    with pytest.raises(ValueError, match="5 rows, and 3 are wanted"):
        five.rows(3)
    part = jax.tree.map(lambda leaf: leaf[1:3], five)
    np.testing.assert_array_equal(part.operator.adjoint(part.y)[0], one.operator.adjoint(one.y)[0])


def test_a_measurement_passes_through_jit_and_is_not_compiled_anew() -> None:
    traced = []

    @jax.jit
    def residual(m, x):
        traced.append(x.shape)
        return m.rows(2).y - m.operator.forward(x)

    x = jnp.ones((2, 3, 4, 1))
    for seed in range(2):
        mask = np.random.default_rng(seed).random((3, 4)) < 0.5
        operator = inverse.inpainting((3, 4, 1), mask)
        made = inverse.measure(operator, np.full((1, 3, 4, 1), 3), 0)
        np.testing.assert_array_equal(residual(made, x)[1, :, :, 0], 2.0 * mask)
    assert len(traced) == 1


def test_what_is_not_measured_does_not_count() -> None:
    mask = np.eye(3, dtype=bool)
    y = np.where(mask, 2.0, np.nan)[None, :, :, None]
    made = inverse.measure(inverse.inpainting((3, 3, 1), mask), y, 0.0)
    np.testing.assert_array_equal(made.y[0, :, :, 0], 2 * mask)


MEANS = inverse.block_mean((4, 6, 3), 2)
Y = np.zeros((2, 2, 3, 3))
BAD = np.where(np.arange(2)[:, None, None, None] == 1, np.inf, Y)


@pytest.mark.parametrize(
    ("y", "std", "message"),
    [
        (
            np.zeros((5, 3, 2, 3)),
            0.1,
            r"\(5, 3, 2, 3\).*\(number, 2, 3, 3\).*transpose\(0, 2, 1, 3\)",
        ),
        (np.zeros((5, 3, 3, 2)), 0.1, r"\(5, 3, 3, 2\).*exchanged"),
        (np.zeros((2, 3, 3)), 0.1, r"\(2, 3, 3\).*y\[None\]"),
        (np.zeros((5, 4, 6, 3)), 0.1, r"\(5, 4, 6, 3\).*\(number, 2, 3, 3\).*size"),
        (np.float64(1), 0.1, r"shape \(\)"),
        (Y, -0.1, "got -0.1"),
        (Y, np.nan, "got nan"),
        (Y, np.zeros(3), "2 rows"),
        (np.where(BAD > 0, np.nan, Y), 0.1, r"1 of 2 rows.*\[1\]"),
        (BAD, 0.1, r"1 of 2 rows.*\[1\]"),
    ],
)
def test_what_is_no_measurement_is_refused(y, std, message: str) -> None:
    with pytest.raises(UserError, match=message):
        inverse.measure(MEANS, y, std)


def test_the_hint_for_exchanged_axes_is_right() -> None:
    operator, y = inverse.crop((4, 6, 3), 0, 0, (2, 5)), np.zeros((1, 3, 2, 5))
    with pytest.raises(UserError, match=r"y.transpose\(0, 2, 3, 1\)"):
        inverse.measure(operator, y, 0.0)
    assert y.transpose(0, 2, 3, 1).shape[1:] == operator.measured


def test_rows_of_data_and_operator_must_agree() -> None:
    masks = np.random.default_rng(0).random((3, 4, 4, 1)) < 0.5
    operator = inverse.inpainting((4, 4, 1), masks)
    with pytest.raises(UserError, match="2 rows, and the operator is made for 3"):
        inverse.measure(operator, np.zeros((2, 4, 4, 1)), 0.0)
