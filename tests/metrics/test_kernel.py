"""Kernel distance: its definition, exact expectations, and a right standard error."""

import numpy as np
import pytest

from score_sde.errors import UserError
from score_sde.metrics import kernel, kernel_distance

RNG = np.random.default_rng(0)


def written_out(a, b, degree, gamma, coef0):
    def k(x, y):
        return (gamma * np.dot(x, y) + coef0) ** degree

    def within(x):
        pairs = [k(x[i], x[j]) for i in range(len(x)) for j in range(len(x)) if i != j]
        return sum(pairs) / (len(x) * (len(x) - 1))

    across = sum(k(x, y) for x in a for y in b) / (len(a) * len(b))
    return within(a) + within(b) - 2 * across


def jackknife(a, b, **kwargs):
    """Delete one vector after another, and measure again."""
    without_a = [written_out(np.delete(a, i, 0), b, **kwargs) for i in range(len(a))]
    without_b = [written_out(a, np.delete(b, i, 0), **kwargs) for i in range(len(b))]
    return np.sqrt(sum((len(v) - 1) * np.var(v) for v in (without_a, without_b)))


@pytest.mark.parametrize("block", [3, 4, 2048])
@pytest.mark.parametrize(
    ("degree", "gamma", "coef0"), [(3, None, 1.0), (1, 0.7, 0.0), (2, 0.3, -2.0)]
)
def test_definition(monkeypatch, block, degree, gamma, coef0):
    monkeypatch.setattr(kernel, "BLOCK", block)
    a, b = RNG.normal(size=(11, 4)), RNG.normal(size=(8, 4)) + 0.5
    found = kernel_distance(a, b, degree, gamma, coef0)
    numbers = {"degree": degree, "gamma": 1 / 4 if gamma is None else gamma, "coef0": coef0}
    assert found.value == pytest.approx(written_out(a, b, **numbers), rel=1e-10)
    assert found.standard_error == pytest.approx(jackknife(a, b, **numbers), rel=1e-8)
    exchanged = kernel_distance(b, a, degree, gamma, coef0)
    assert exchanged == pytest.approx(found, rel=1e-10)


def moments(mean, deviation):
    """E x, E x^2, E x^3 of a Gaussian."""
    return np.asarray([mean, mean**2 + deviation**2, mean**3 + 3 * mean * deviation**2])


@pytest.mark.parametrize(("degree", "weights"), [(1, [1.0, 0, 0]), (3, [3.0, 3.0, 1.0])])
def test_expected_value_for_gaussians(degree, weights):
    """In one dimension, from 4 and 3 vectors each.

    E (gamma x y + c)^3 = sum_i binom(3, i) c^(3-i) gamma^i E x^i E y^i.
    """
    gamma, c = 0.8, 0.6
    scales = np.asarray([gamma * c ** (degree - 1), gamma**2 * c, gamma**3]) * weights
    exact = (scales * (moments(0.5, 0.8) - moments(-0.2, 0.5)) ** 2).sum()
    rng, found = np.random.default_rng(1), []
    for _ in range(4000):
        a, b = 0.5 + 0.8 * rng.normal(size=(4, 1)), -0.2 + 0.5 * rng.normal(size=(3, 1))
        found.append(kernel_distance(a, b, degree, gamma, c).value)
    error = np.std(found) / np.sqrt(len(found))
    assert error < 0.08 * exact
    assert abs(np.mean(found) - exact) < 4 * error


def test_two_halves_of_one_set():
    """The mean is 0 within 3 standard errors.

    The jackknife is on the safe side, sqrt(2) times the true deviation.
    """
    rng, found = np.random.default_rng(2), []
    for _ in range(400):
        x = np.maximum(rng.normal(size=(80, 6)) + 0.3, 0)
        found.append(kernel_distance(x[:40], x[40:]))
    values, errors = np.asarray(found).T
    deviation = values.std(ddof=1)
    assert abs(values.mean()) < 3 * deviation / np.sqrt(len(values))
    assert np.sqrt((errors**2).mean()) / deviation == pytest.approx(np.sqrt(2), rel=0.2)


def test_standard_error_of_different_distributions():
    rng, found = np.random.default_rng(3), []
    for _ in range(600):
        a, b = rng.normal(size=(150, 5)), 0.8 * rng.normal(size=(100, 5)) + 0.8
        found.append(kernel_distance(a, b))
    values, errors = np.asarray(found).T
    assert np.sqrt((errors**2).mean()) == pytest.approx(values.std(ddof=1), rel=0.15)


def test_small_distances_between_large_kernels():
    """Vectors far from zero, float32.

    Kernel values are near 1e6, a distance is 1e-5 of that, known to 1e-6.
    """
    a, b = (RNG.normal(size=(50, 64)).astype(np.float32) + 10 for _ in range(2))
    found = kernel_distance(a, b).value
    wide = [x.astype(np.longdouble) for x in (a, b)]
    grams = [
        (x @ y.T / 64 + 1) ** 3 for x, y in ((wide[0], wide[0]), (wide[1], wide[1]), tuple(wide))
    ]
    exact = sum((g.sum() - np.trace(g)) / (50 * 49) for g in grams[:2]) - 2 * grams[2].mean()
    assert abs(exact) < 1e-3 * grams[2].mean()
    assert found == pytest.approx(float(exact), rel=1e-6)


def test_messages():
    a = RNG.normal(size=(9, 4))
    with pytest.raises(UserError, match="b must hold at least 3 vectors; got 2"):
        kernel_distance(a, a[:2])
    with pytest.raises(UserError, match="a and b must have vectors of one length; got 4 and 3"):
        kernel_distance(a, a[:, :3])
    with pytest.raises(UserError, match="degree of a polynomial kernel must be 1 or more; got 0"):
        kernel_distance(a, a, degree=0)
    with pytest.raises(UserError, match="gamma=nan"):
        kernel_distance(a, a, gamma=float("nan"))
    a[1, 2] = np.nan
    with pytest.raises(UserError, match="a: 1 of 9 vectors are not finite"):
        kernel_distance(a, RNG.normal(size=(9, 4)))
