"""Frechet distance: closed forms, SciPy's matrix square root, and moments that do not depend on the batches."""

import numpy as np
import pytest
import scipy.linalg

from score_sde.errors import UserError
from score_sde.metrics import Moments, frechet_distance, small_pixels

RNG = np.random.default_rng(0)


def some(n=50, d=6, shift=0.0):
    return RNG.normal(size=(n, d)) @ RNG.normal(size=(d, d)) + shift


def test_against_the_matrix_square_root():
    x, y = some(), some(70, shift=0.5)
    a, b = np.cov(x.T), np.cov(y.T)
    wanted = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(a + b - 2 * np.real(scipy.linalg.sqrtm(a @ b)))
    assert frechet_distance(Moments.of(x), Moments.of(y)) == pytest.approx(wanted, rel=1e-8)


def test_closed_form_for_diagonal_gaussians():
    """Of N(m, diag s^2): |m - m'|^2 + |s - s'|^2."""
    m, s, n = np.asarray([1.0, -2.0, 0.0]), np.asarray([1.0, 0.5, 0.0]), np.asarray([0.2, 3.0, 1.0])
    a = Moments(101, m, np.diag(100 * s**2))
    b = Moments(51, np.zeros(3), np.diag(50 * n**2))
    assert frechet_distance(a, b) == pytest.approx((m**2).sum() + ((s - n) ** 2).sum())
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-12)


def test_singular_covariances():
    x = some(4, 20)
    assert frechet_distance(Moments.of(x), Moments.of(x)) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("cuts", [[1], [7, 8, 40], [25]])
def test_moments_join(cuts):
    x = some() + 1e3
    parts = [Moments.of(part) for part in np.split(x, cuts)]
    whole = sum(parts[1:], parts[0])
    assert whole.n == 50
    np.testing.assert_allclose(whole.mean, x.mean(0), rtol=1e-12)
    np.testing.assert_allclose(whole.covariance, np.cov(x.T), rtol=1e-8)


def test_small_pixels():
    images = RNG.uniform(size=(2, 6, 6, 3))
    np.testing.assert_array_equal(small_pixels(images, 6), images.reshape(2, -1))
    halved = small_pixels(images, 3).reshape(2, 3, 3, 3)
    np.testing.assert_allclose(halved[1, 2, 0], images[1, 4:6, 0:2].mean(axis=(0, 1)))
    assert small_pixels(images, 4).shape == (2, 27)
    assert small_pixels(RNG.uniform(size=(1, 7, 7, 1)), 4).shape == (1, 9)


def test_messages():
    one, x = Moments.of(some(1)), some()
    with pytest.raises(UserError, match="at least 2 images on either side; got 1 and 50"):
        frechet_distance(one, Moments.of(x))
    x[3, 1] = np.nan
    with pytest.raises(UserError, match="not finite"):
        frechet_distance(Moments.of(x), Moments.of(some()))
