"""Frechet distance: closed forms, SciPy's matrix square root, moments over batches."""

import jax
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
    wanted = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(
        a + b - 2 * np.real(scipy.linalg.sqrtm(a @ b))
    )
    assert frechet_distance(Moments.of(x), Moments.of(y)) == pytest.approx(wanted, rel=1e-8)


def test_closed_form_for_diagonal_gaussians():
    """Of N(m, diag s^2): |m - m'|^2 + |s - s'|^2."""
    m, s, n = np.asarray([1.0, -2.0, 0.0]), np.asarray([1.0, 0.5, 0.0]), np.asarray([0.2, 3.0, 1.0])
    a = Moments(101, m, np.diag(100 * s**2))
    b = Moments(51, np.zeros(3), np.diag(50 * n**2))
    assert frechet_distance(a, b) == pytest.approx((m**2).sum() + ((s - n) ** 2).sum())
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-12)


def test_closed_form_within_sampling_error():
    """Of Gaussians with known means and covariances, from samples.

    The mean over repetitions is within 4 standard errors.
    """
    rng = np.random.default_rng(1)
    means = np.asarray([1.0, -0.5, 0.3]), np.asarray([0.2, 0.4, 0.0])
    roots = rng.normal(size=(2, 3, 3))
    a, b = (root @ root.T for root in roots)
    exact = ((means[0] - means[1]) ** 2).sum() + np.trace(
        a + b - 2 * np.real(scipy.linalg.sqrtm(a @ b))
    )
    found = []
    for _ in range(10):
        sets = (mean + rng.normal(size=(20000, 3)) @ root.T for mean, root in zip(means, roots))
        found.append(frechet_distance(*(Moments.of(x) for x in sets)))
    error = np.std(found, ddof=1) / np.sqrt(len(found))
    assert error < 0.02 * exact
    assert abs(np.mean(found) - exact) < 4 * error


def nuclear(x, y):
    """The distance with tr (C_a^(1/2) C_b C_a^(1/2))^(1/2) by singular values.

    It is the sum of those of X Y^T, X and Y centred.
    """
    x0, y0 = x - x.mean(0), y - y.mean(0)
    scales = len(x) - 1, len(y) - 1
    cross = np.linalg.svd(x0 @ y0.T, compute_uv=False).sum() / np.sqrt(scales[0] * scales[1])
    traces = (x0**2).sum() / scales[0] + (y0**2).sum() / scales[1]
    return ((x.mean(0) - y.mean(0)) ** 2).sum() + traces - 2 * cross


@pytest.mark.parametrize("counts", [(7, 9), (9, 7), (7, 200), (200, 7)])
def test_fewer_vectors_than_dimensions(counts):
    x, y = (some(n, 20, shift) for n, shift in zip(counts, (0.0, 0.3)))
    found = frechet_distance(Moments.of(x), Moments.of(y))
    assert found == pytest.approx(nuclear(x, y), rel=1e-10)
    a, b = np.cov(x.T), np.cov(y.T)
    root = np.real(scipy.linalg.sqrtm(a @ b + 1e-12 * np.eye(20)))
    wanted = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(a + b - 2 * root)
    assert found == pytest.approx(wanted, rel=1e-5)


def test_singular_covariances():
    x = some(4, 20)
    assert frechet_distance(Moments.of(x), Moments.of(x)) == pytest.approx(0, abs=1e-10)
    constant = Moments.of(np.ones((3, 20)))
    assert frechet_distance(constant, constant) == 0
    assert frechet_distance(constant, Moments.of(x)) == pytest.approx(nuclear(np.ones((3, 20)), x))


def test_ill_conditioned_covariances():
    """Standard deviations from 1 to 1e-6, where the closed form is known."""
    s, r = np.logspace(0, -6, 12), np.logspace(-6, 0, 12)
    turn = np.linalg.qr(RNG.normal(size=(12, 12)))[0]
    a, b = (Moments(101, np.zeros(12), 100 * (turn * v**2) @ turn.T) for v in (s, r))
    assert frechet_distance(a, b) == pytest.approx(((s - r) ** 2).sum(), rel=1e-6)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-6)


@pytest.mark.parametrize("cuts", [[1], [7, 8, 40], [25]])
def test_moments_join(cuts):
    x = some() + 1e3
    parts = [Moments.of(part) for part in np.split(x, cuts)]
    whole = sum(parts[1:], parts[0])
    assert whole.n == 50
    np.testing.assert_allclose(whole.mean, x.mean(0), rtol=1e-12)
    np.testing.assert_allclose(whole.covariance, np.cov(x.T), rtol=1e-8)


def test_streaming_loses_nothing_far_from_zero():
    """Mean 1e4, standard deviation 1, in batches of 7."""
    x = some(1001, 5)
    parts = [Moments.of(part + 1e4) for part in np.array_split(x, 143)]
    whole = sum(parts[1:], parts[0])
    np.testing.assert_allclose(whole.mean - 1e4, x.mean(0), atol=1e-11)
    np.testing.assert_allclose(whole.covariance, np.cov(x.T), rtol=1e-10, atol=1e-10)


def test_the_order_of_joining_does_not_matter():
    x = some(500, 5, shift=3.0)
    parts = [Moments.of(part) for part in np.split(x, [1, 40, 41, 200, 333])]
    ahead = sum(parts[1:], parts[0])
    backward = sum(parts[-2::-1], parts[-1])
    tree = (parts[3] + parts[0]) + ((parts[5] + parts[2]) + (parts[4] + parts[1]))
    for other in (backward, tree, Moments.of(x)):
        assert other.n == ahead.n == 500
        np.testing.assert_allclose(other.mean, ahead.mean, rtol=1e-12)
        np.testing.assert_allclose(
            other.scatter, ahead.scatter, rtol=1e-12, atol=1e-12 * ahead.scatter.max()
        )


def test_nothing_joined_changes_nothing():
    nothing, a = Moments.of(np.zeros((0, 6))), Moments.of(some())
    for joined in (nothing + a, a + nothing, nothing + nothing + a):
        assert joined.n == a.n
        np.testing.assert_array_equal(joined.mean, a.mean)
        np.testing.assert_array_equal(joined.scatter, a.scatter)
    assert (nothing + nothing).n == 0


def test_moments_are_a_pytree_in_double_precision():
    a = Moments.of(some().astype(np.float32))
    leaves, form = jax.tree.flatten(a)
    assert [np.asarray(leaf).dtype for leaf in leaves[1:]] == [np.float64] * 2
    again = jax.tree.unflatten(form, leaves)
    assert again.n == 50 and again.scatter is a.scatter
    doubled = jax.tree.map(lambda leaf: 2 * leaf, a)
    assert doubled.n == 100 and doubled.mean.dtype == np.float64


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
    with pytest.raises(UserError, match="of one length; got 6 and 5"):
        frechet_distance(Moments.of(some()), Moments.of(some(50, 5)))
    with pytest.raises(UserError, match="of one length; got 6 and 5"):
        Moments.of(some()) + Moments.of(some(50, 5))
    broken = Moments(50, np.full(6, np.inf), np.eye(6))
    with pytest.raises(UserError, match="not finite"):
        frechet_distance(broken, broken)
