"""Gaussian mixtures: the ground truth against scipy, quadrature and the Fokker-Planck equation."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mathcases import SDES, mixture_2d, mixture_16d, reference_mixture, stored_sde
from scipy.stats import logistic, multivariate_normal

from golden import assert_close, load, names
from score_sde.analytic import GaussianMixture, LogisticMixture
from score_sde.sde import VP, DiscreteChain

ALL = pytest.mark.parametrize("sde", SDES.values(), ids=SDES)


def density(data, process, x, t):
    """The mixture's density by scipy, component by component."""
    alpha, sigma = (float(v) for v in process.marginal(jnp.asarray(t)))
    total, d = 0.0, data.variances.shape[1]
    for k, weight in enumerate(data.weights):
        rotation = np.eye(d) if data.rotations is None else data.rotations[k]
        covariance = alpha**2 * rotation @ np.diag(
            data.variances[k]
        ) @ rotation.T + sigma**2 * np.eye(d)
        total = total + weight * multivariate_normal(alpha * data.means[k].ravel(), covariance).pdf(
            x.reshape(len(x), -1)
        )
    return total


@ALL
def test_log_prob_against_scipy(sde, x64):
    t = 0.3 * sde.t_max
    for data in (mixture_2d(), mixture_16d()):
        x = np.random.default_rng(0).normal(size=(5, *data.event))
        assert_close(
            data.log_prob(sde, jnp.asarray(x), jnp.asarray(t)),
            np.log(density(data, sde, x, t)),
            1e-10,
        )


def test_full_covariances_as_given(x64):
    # Three dimensions: a matrix of eigenvectors in the plane may be its own transpose.
    factors = np.random.default_rng(1).normal(size=(2, 3, 3)) * 0.3
    covariances = factors @ factors.transpose(0, 2, 1) + 0.02 * np.eye(3)
    data = GaussianMixture.full([0.7, 0.3], [[0.0, 1.0, -0.3], [1.0, 0.0, 0.2]], covariances)
    assert not np.allclose(data.rotations, data.rotations.transpose(0, 2, 1), atol=0.1)
    x, clean, t = (
        np.random.default_rng(0).normal(size=(6, 3)),
        DiscreteChain.smld(),
        jnp.asarray(-1.0),
    )
    expected = sum(
        w * multivariate_normal(m, c).pdf(x)
        for w, m, c in zip(data.weights, data.means, covariances, strict=True)
    )
    assert_close(data.log_prob(clean, jnp.asarray(x), t), np.log(expected), 1e-10)
    gradient = jax.grad(lambda x: jnp.sum(data.log_prob(clean, x, t)))(jnp.asarray(x))
    assert_close(data.score(clean, jnp.asarray(x), t), gradient, 1e-10)
    draws = np.asarray(data.sample(jax.random.key(0), 200000))
    mean = np.einsum("k,kd->d", data.weights, data.means)
    second = np.einsum(
        "k,kij->ij", data.weights, covariances + np.einsum("ki,kj->kij", data.means, data.means)
    )
    assert_close(draws.mean(0), mean, 0.005)
    assert_close(np.cov(draws.T), second - np.outer(mean, mean), 0.005)


@pytest.mark.parametrize("data", [mixture_2d(), mixture_16d()], ids=["2d", "16d"])
@ALL
def test_score_is_the_gradient(sde, data, x64):
    t = jnp.asarray([sde.t_min, *(u * sde.t_max for u in (0.1, 0.5, 1.0))])
    x = jax.random.normal(jax.random.key(0), (4, *data.event))

    @jax.jit
    def evaluate(x):
        gradient = jax.grad(lambda x: jnp.sum(data.log_prob(sde, x, t)))(x)
        return gradient, data.score(sde, x, t), data.score_fn(sde)(x, t)

    gradient, score, again = evaluate(x)
    assert_close(score, gradient, 1e-10)
    assert_close(again, gradient, 1e-10)


@pytest.mark.parametrize("file", names("math/losses_dsm_*"))
def test_reference_scores(file, x64):
    stored = load(file)
    sde = stored_sde(stored)
    score = reference_mixture(stored).score(
        sde, jnp.asarray(stored["perturbed"]), jnp.asarray(stored["t"])
    )
    assert_close(score, stored["gmm_score"], 1e-9)


def test_normalised(x64):
    """The density integrates to 1, in one and two dimensions, at several times."""
    line = GaussianMixture.isotropic([0.3, 0.7], [[-1.0], [0.5]], [0.2, 0.1])
    grid = np.linspace(-8, 8, 4001)
    sde = VP()
    for t in (1e-3, 0.2, 1.0):
        logp = line.log_prob(sde, jnp.asarray(grid[:, None]), jnp.asarray(t))
        assert np.trapezoid(np.exp(logp), grid) == pytest.approx(1, abs=1e-9)
    axis = np.linspace(-7, 7, 401)
    points = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    for t in (0.05, 1.0):
        logp = mixture_2d().log_prob(sde, jnp.asarray(points), jnp.asarray(t))
        assert np.exp(logp).sum() * (axis[1] - axis[0]) ** 2 == pytest.approx(1, abs=1e-9)


@ALL
def test_sample_at(sde):
    data, n, t = mixture_2d(), 100000, 0.4 * sde.t_max
    x = np.asarray(data.sample_at(jax.random.key(0), sde, jnp.asarray(t), n), np.float64)
    alpha, sigma = (float(v) for v in sde.marginal(jnp.asarray(t)))
    mean = data.weights @ data.means
    within = np.einsum("kij,kj,klj->kil", data.rotations, data.variances, data.rotations)
    second = np.einsum(
        "k,kij->ij", data.weights, within + np.einsum("ki,kj->kij", data.means, data.means)
    )
    covariance = alpha**2 * (second - np.outer(mean, mean)) + sigma**2 * np.eye(2)
    scale = np.sqrt(np.diag(covariance))
    assert np.all(np.abs(x.mean(0) - alpha * mean) < 4.5 * scale / math.sqrt(n))
    assert np.all(
        np.abs(np.cov(x.T) - covariance) < 4.5 * np.outer(scale, scale) * math.sqrt(2 / n)
    )


@ALL
@pytest.mark.parametrize("data", [mixture_2d(), mixture_16d()], ids=["2d", "16d"])
def test_fokker_planck(sde, data, x64):
    """d/dt log p = -f (D + x . s) + g^2/2 (div s + |s|^2): ties f, g^2, marginals and score."""
    d = math.prod(data.event)
    x = 0.7 * jax.random.normal(jax.random.key(0), (4, d))
    t = jnp.asarray([0.01, 0.1, 0.4, 0.9]) * sde.t_max

    def terms(x, t):
        def logp(x, t):
            return data.log_prob(sde, x.reshape(1, *data.event), t)[0]

        def score(x):
            return data.score(sde, x.reshape(1, *data.event), t).reshape(-1)

        f, g2 = sde.coefficients(t)
        s = score(x)
        right = -f * (d + x @ s) + g2 / 2 * (jnp.trace(jax.jacfwd(score)(x)) + s @ s)
        return jax.grad(logp, 1)(x, t), right

    left, right = jax.jit(jax.vmap(terms))(x, t)
    assert float(jnp.max(jnp.abs(left))) > 0.1
    assert_close(right, left, 1e-9)


@ALL
def test_tweedie_is_the_posterior_mean(sde, x64):
    """E[x_0 | x_t] by Bayes on a grid equals Tweedie's formula with the exact score."""
    data = GaussianMixture.isotropic([0.3, 0.7], [[-1.0], [0.5]], [0.3, 0.2])
    t = jnp.asarray(float(sde.time_at_log_snr(jnp.asarray(1.0))))  # sigma = 0.6 alpha
    alpha, sigma = (float(v) for v in sde.marginal(t))
    x0 = np.linspace(-4, 4, 4001)
    prior = (
        0.3 * np.exp(-0.5 * ((x0 + 1) / 0.3) ** 2) / 0.3
        + 0.7 * np.exp(-0.5 * ((x0 - 0.5) / 0.2) ** 2) / 0.2
    )
    for x in (-1.2, 0.0, 0.9):
        posterior = prior * np.exp(-0.5 * ((x - alpha * x0) / sigma) ** 2)
        expected = np.sum(x0 * posterior) / np.sum(posterior)
        point = jnp.asarray([[x]])
        assert float(sde.tweedie(point, t, data.score(sde, point, t))[0, 0]) == pytest.approx(
            expected, rel=1e-9
        )


def test_point_masses_and_events():
    """std 0 is a set of points: far from noise its denoiser is the nearest point."""
    data = GaussianMixture.isotropic([0.5, 0.5], np.stack([np.zeros((2, 3)), np.ones((2, 3))]), 0.0)
    assert data.event == (2, 3)
    sde, x, t = VP(), jnp.full((1, 2, 3), 0.9), jnp.asarray(0.01)
    assert_close(sde.tweedie(x, t, data.score(sde, x, t)), np.ones((1, 2, 3)), 1e-4)
    draws = data.sample(jax.random.key(0), 10)
    assert set(np.unique(draws)) == {0.0, 1.0}
    assert float(jnp.max(jnp.std(draws.reshape(10, -1), axis=1))) == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: GaussianMixture.isotropic([0.5, 0.4], [[0.0], [1.0]], 1.0),
            "weights must be positive and sum to 1",
        ),
        (
            lambda: GaussianMixture.isotropic([1.5, -0.5], [[0.0], [1.0]], 1.0),
            "weights must be positive",
        ),
        (
            lambda: GaussianMixture(np.ones(1), np.zeros((2, 1)), np.ones((1, 1))),
            "expected 1 means and variances",
        ),
        (
            lambda: GaussianMixture(np.ones(1), np.zeros((1, 2)), np.ones((1, 3))),
            r"variances of shape \(1, 2\)",
        ),
        (
            lambda: GaussianMixture(np.ones(1), np.zeros((1, 1)), -np.ones((1, 1))),
            "positive semi-definite",
        ),
    ],
)
def test_messages(make, message):
    with pytest.raises(ValueError, match=message):
        make()


LOGISTIC = LogisticMixture(
    np.asarray([0.3, 0.7]), np.asarray([[-1.0, 0.5], [0.8, 0.0]]), np.asarray([0.4, 0.9])
)


def test_logistic_mixture_against_scipy(x64):
    x = np.random.default_rng(0).normal(size=(5, 2))
    density = sum(
        weight * np.prod(logistic.pdf(x, mean, scale), axis=1)
        for weight, mean, scale in zip(*dataclasses.astuple(LOGISTIC), strict=True)
    )
    assert_close(LOGISTIC.log_prob(jnp.asarray(x)), np.log(density), 1e-12)


def test_logistic_mixture_by_automatic_differentiation(x64):
    def log_prob(x):
        return LOGISTIC.log_prob(x[None])[0]

    x = jnp.asarray(np.random.default_rng(0).normal(size=(5, 2)))
    assert_close(LOGISTIC.score(x), jax.vmap(jax.grad(log_prob))(x), 1e-12)
    hessians = jax.vmap(jax.hessian(log_prob))(x)
    assert_close(LOGISTIC.hessian_diagonal(x), jnp.diagonal(hessians, axis1=1, axis2=2), 1e-12)
    far = jnp.asarray([[1e4, -1e4]])
    assert_close(LOGISTIC.score(far), [[-1 / 0.9, 1 / 0.9]], 1e-12)


def test_logistic_mixture_samples():
    x = np.asarray(LOGISTIC.sample(jax.random.key(0), 40_000))
    mean = LOGISTIC.weights @ LOGISTIC.means
    offsets = LOGISTIC.means - mean
    within = np.pi**2 / 3 * LOGISTIC.weights @ LOGISTIC.scales**2
    variance = within + LOGISTIC.weights @ offsets**2
    assert np.abs(x.mean(axis=0) - mean).max() < 5 * variance.max() ** 0.5 / 200
    assert x.var(axis=0) == pytest.approx(variance, rel=0.05)


@pytest.mark.parametrize(
    ("weights", "means", "scales", "message"),
    [
        ([0.3, 0.6], [[0.0], [1.0]], [1.0, 1.0], "sum to 1"),
        ([0.5, 0.5], [[0.0]], [1.0, 1.0], "expected means"),
        ([1.0], [[0.0]], [1.0, 1.0], "expected means"),
        ([1.0], [[0.0]], [0.0], "scales must be positive"),
    ],
)
def test_logistic_mixture_messages(weights, means, scales, message):
    with pytest.raises(ValueError, match=message):
        LogisticMixture(np.asarray(weights), np.asarray(means), np.asarray(scales))
