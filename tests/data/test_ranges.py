"""RealRange and ComplexRange: inverses, known values, densities both ways, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from score_sde.data import ComplexRange, RealRange

HOUNSFIELD = RealRange(-1024.0, 3200.0)
REALS = [HOUNSFIELD, RealRange(0.0, 0.5, 0.0, 1.0), RealRange(-3.0, 5.0, 2.0, 2.5)]
SCALES = [1.0, 0.02, 350.0]


def as_kind(xp, values, dtype):
    return xp.asarray(np.asarray(values, dtype))


@pytest.mark.parametrize("xp", [np, jnp])
class TestReal:
    def test_known_values_in_both_directions(self, xp):
        """4224 Hounsfield units are 2 model units: air, water and a point beyond the window."""
        values = as_kind(xp, [-1024.0, 0.0, 1088.0, 3200.0, 5312.0], np.float32)
        x = as_kind(xp, [-1.0, -1.0 + 2 * 1024 / 4224, 0.0, 1.0, 2.0], np.float32)
        np.testing.assert_allclose(HOUNSFIELD.encode(values), x, rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(HOUNSFIELD.decode(x), values, rtol=1e-6, atol=2e-4)

    @pytest.mark.parametrize("data", REALS)
    @pytest.mark.parametrize(("dtype", "tol"), [(np.float32, 1e-6), (np.float64, 1e-14)])
    def test_round_trip(self, xp, data, dtype, tol, request):
        if dtype is np.float64:
            request.getfixturevalue("x64")
        span = data.high - data.low
        values = np.random.default_rng(0).uniform(data.low - span, data.high + span, (2, 5, 4, 1))
        values = as_kind(xp, values, dtype)
        x = data.encode(values)
        assert isinstance(x, jax.Array if xp is jnp else np.ndarray)
        assert x.dtype == dtype and x.shape == values.shape
        assert data.decode(x).dtype == dtype
        scale = max(abs(data.low), abs(data.high)) * max(1, 1 / (data.model_high - data.model_low))
        np.testing.assert_allclose(data.decode(x), values, rtol=0, atol=8 * tol * scale)

    def test_clipping_only_when_asked(self, xp):
        values = as_kind(xp, [-5000.0, 0.0, 5000.0], np.float32)
        np.testing.assert_allclose(HOUNSFIELD.encode(values, clip=True)[jnp.array([0, 2])], [-1, 1])
        assert float(HOUNSFIELD.encode(values)[0]) < -2 and float(HOUNSFIELD.encode(values)[2]) > 1
        x = as_kind(xp, [-2.0, 0.0, 2.0], np.float32)
        np.testing.assert_allclose(HOUNSFIELD.decode(x, clip=True), [-1024, 1088, 3200])
        np.testing.assert_allclose(HOUNSFIELD.decode(x), [-3136, 1088, 5312])

    def test_display(self, xp):
        x = as_kind(xp, [-3.0, -1.0, 0.0, 0.5, 1.0, 3.0], np.float32)
        np.testing.assert_allclose(HOUNSFIELD.unit(x), [0, 0, 0.5, 0.75, 1, 1])
        narrow = RealRange(-3.0, 5.0, 2.0, 2.5)
        shown = narrow.unit(as_kind(xp, [2.0, 2.25, 2.5], np.float32))
        np.testing.assert_allclose(shown, [0, 0.5, 1])

    @pytest.mark.parametrize("dtype", [np.int16, np.complex64])
    def test_other_types_are_refused(self, xp, dtype):
        values = as_kind(xp, [0, 1], dtype)
        for method in (HOUNSFIELD.encode, HOUNSFIELD.decode):
            with pytest.raises(ValueError, match=rf"maps floating values; got {values.dtype}"):
                method(values)


@pytest.mark.parametrize("data", REALS)
def test_density_of_physical_values(data):
    """A Gaussian in physical units, by its own density and by that of its model values."""
    mean, std = 0.3 * data.low + 0.7 * data.high, 0.1 * (data.high - data.low)
    values = np.random.default_rng(0).normal(mean, std, 64)
    direct = norm.logpdf(values, mean, std).sum()
    x, x_mean = data.encode(values), data.encode(np.asarray([mean]))[0]
    model = norm.logpdf(x, x_mean, std * data.scale).sum()
    assert model + len(values) * data.log_density_offset == pytest.approx(direct, rel=1e-10)


def test_offset_in_hounsfield_units():
    """Uniform over the window of 4224 units: density 1/4224 a unit, and 1/2 in model units."""
    offset = HOUNSFIELD.log_density_offset
    assert np.log(1 / 2) + offset == pytest.approx(np.log(1 / 4224), rel=1e-12)


def complex_images(dtype=np.complex64, shape=(3, 5, 4, 2)):
    parts = np.random.default_rng(0).normal(size=(2, *shape))
    return (parts[0] + 1j * parts[1]).astype(dtype)


@pytest.mark.parametrize("xp", [np, jnp])
class TestComplex:
    def test_known_values_in_both_directions(self, xp):
        """Parts lie beside each other, channel after channel."""
        values = as_kind(xp, np.asarray([1 + 2j, -3 + 4j]).reshape(1, 1, 2), np.complex64)
        x = as_kind(xp, np.asarray([0.5, 1.0, -1.5, 2.0]).reshape(1, 1, 4), np.float32)
        data = ComplexRange(2.0)
        np.testing.assert_array_equal(data.encode(values), x)
        np.testing.assert_array_equal(data.decode(x), values)

    @pytest.mark.parametrize("scale", SCALES)
    @pytest.mark.parametrize(
        ("dtype", "real", "tol"),
        [(np.complex64, np.float32, 1e-6), (np.complex128, np.float64, 1e-15)],
    )
    def test_round_trip(self, xp, scale, dtype, real, tol, request):
        if dtype is np.complex128:
            request.getfixturevalue("x64")
        data, values = ComplexRange(scale), as_kind(xp, complex_images(dtype), dtype)
        x = data.encode(values)
        assert isinstance(x, jax.Array if xp is jnp else np.ndarray)
        assert x.dtype == real and x.shape == (3, 5, 4, 4)
        assert data.decode(x).dtype == dtype
        np.testing.assert_allclose(data.decode(x), values, rtol=2 * tol)

    def test_an_image_alone_and_under_jit(self, xp):
        data, values = ComplexRange(3.0), as_kind(xp, complex_images(shape=(5, 4, 1)), np.complex64)
        x = jax.jit(data.encode)(values)
        assert x.shape == (5, 4, 2)
        np.testing.assert_allclose(jax.jit(data.decode)(x), values, rtol=1e-6)

    def test_display(self, xp):
        """The magnitude 5 of 3 + 4i is half of the scale 10; what is above the scale is white."""
        data = ComplexRange(10.0)
        values = np.asarray([3 + 4j, -30j, 0]).reshape(1, 3, 1)
        shown = data.unit(data.encode(as_kind(xp, values, np.complex64)))
        assert shown.shape == (1, 3, 1) and shown.dtype == np.float32
        np.testing.assert_allclose(np.ravel(shown), [0.5, 1.0, 0.0], rtol=1e-6)

    def test_other_types_and_shapes_are_refused(self, xp):
        data = ComplexRange()
        with pytest.raises(
            ValueError, match=r"encodes complex images .* got float32 of shape \(2,"
        ):
            data.encode(as_kind(xp, np.zeros((2, 3, 1)), np.float32))
        with pytest.raises(ValueError, match=r"encodes complex images .* of shape \(3, 1\)"):
            data.encode(as_kind(xp, np.zeros((3, 1)), np.complex64))
        for method in (data.decode, data.unit):
            with pytest.raises(ValueError, match=r"are real .* got complex64"):
                method(as_kind(xp, np.zeros((2, 3, 2)), np.complex64))
            with pytest.raises(ValueError, match=r"are real .* got float32 of shape \(2, 3, 3\)"):
                method(as_kind(xp, np.zeros((2, 3, 3)), np.float32))


@pytest.mark.parametrize("scale", SCALES)
def test_density_of_complex_values(scale):
    """A circular Gaussian, by its own density of real and imaginary parts and by the model's."""
    std, data = 1.7, ComplexRange(scale)
    values = std * complex_images(np.complex128)
    direct = norm.logpdf(values.real, 0, std).sum() + norm.logpdf(values.imag, 0, std).sum()
    x = data.encode(values)
    assert x.size == 2 * values.size
    model = norm.logpdf(x, 0, std / scale).sum()
    assert model + x.size * data.log_density_offset == pytest.approx(direct, rel=1e-10)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RealRange(1.0, 1.0), r"low must be below high.*got low=1\.0, high=1\.0"),
        (lambda: RealRange(2.0, -1.0), "low must be below high"),
        (lambda: RealRange(0.0, float("inf")), "low must be below high, both finite"),
        (lambda: RealRange(float("nan"), 1.0), "low must be below high, both finite"),
        (lambda: RealRange(0.0, 1.0, 1.0, -1.0), "model_low must be below model_high"),
        (lambda: ComplexRange(0.0), "scale must be above 0 and finite; got scale=0.0"),
        (lambda: ComplexRange(-2.0), "scale must be above 0"),
        (lambda: ComplexRange(float("nan")), "scale must be above 0"),
    ],
)
def test_impossible_parameters(make, message):
    with pytest.raises(ValueError, match=message):
        make()
