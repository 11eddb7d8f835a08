"""Kernel estimators of scores: reference values, consistency, equivariance."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from golden import assert_close, groups, load, meta
from score_sde.estimators import (
    SpectralEstimator,
    SteinEstimator,
    entropy_surrogate,
    kernel_width,
)

FILE = "math/losses_kernel_score"


def cases(start):
    """Settings in the file: parts of the keys `START_SETTING_samples`."""
    found = groups(FILE, "_samples")
    return [k for k in found if not isinstance(k, str) or k.startswith(start)]


@pytest.fixture
def stored(x64):
    return {k: jnp.asarray(v) for k, v in load(FILE).items() if v.dtype.kind in "fiu"}


def apply(estimator, *sets):
    return jax.jit(jax.vmap(estimator))(*sets)


def test_published_widths(stored):
    x, query = stored["samples"], stored["query"]
    np.testing.assert_array_equal(jax.vmap(kernel_width)(x), stored["kernel_width_samples"])
    both = jax.vmap(kernel_width)(jnp.concatenate([x, query], axis=1))
    np.testing.assert_array_equal(both, stored["kernel_width_samples_query"])


@pytest.mark.parametrize("case", cases("stein_"))
def test_published_stein(case, stored):
    estimator = SteinEstimator(float(case.partition("eta")[2]))
    assert_close(apply(estimator, stored["samples"]), stored[f"{case}_samples"], 1e-9)
    found = apply(estimator, stored["samples"], stored["query"])
    assert_close(found, stored[f"{case}_query"], 1e-9)


@pytest.mark.parametrize("case", cases("spectral_"))
def test_published_spectral(case, stored):
    """One number of eigenfunctions for both sets, as the file says and the rule gives."""
    default = meta(load(FILE))["spectral_default_threshold"]
    kind, number = re.fullmatch(r"spectral_([a-z]+)([\d.]+)", case).groups()
    options = {"thr": "threshold", "n": "n_eigen", "eta": "eta"}
    value = int(number) if kind == "n" else float(number)
    rule = SpectralEstimator(**({"threshold": default} | {options[kind]: value}))
    x, query = stored["samples"], stored["query"]
    for name, sets in (("samples", (x,)), ("query", (x, query))):
        used = int(stored[f"{case}_{name}__n_eigen"])
        if kind != "n":
            assert int(rule.number(*sets)) == used
        fixed = SpectralEstimator(used, eta=rule.eta)
        assert_close(apply(fixed, *sets), stored[f"{case}_{name}"], 1e-9)


@pytest.mark.parametrize("estimator", [SteinEstimator(0.1), SpectralEstimator()])
def test_error_on_a_gaussian_falls_with_the_samples(estimator):
    """Scores of N(0, C) in the plane, at the samples and at other points."""
    root = jnp.asarray([[1.0, 0.0], [0.6, 0.8]])
    precision = jnp.linalg.inv(root @ root.T)
    query = jax.random.normal(jax.random.key(1), (200, 2)) @ root.T
    errors = []
    for n in (50, 200, 800):
        x = jax.random.normal(jax.random.key(0), (n, 2)) @ root.T
        pairs = ((jax.jit(estimator)(x), x), (jax.jit(estimator)(x, query), query))
        errors.append(
            [
                float(jnp.mean((found + at @ precision) ** 2) / jnp.mean((at @ precision) ** 2))
                for found, at in pairs
            ]
        )
    errors = np.asarray(errors)
    assert np.all(errors[-1] < 0.6 * errors[0]) and np.all(errors[-1] < 0.35), errors


@pytest.mark.parametrize("estimator", [SteinEstimator(0.05), SpectralEstimator(6)])
def test_similar_samples_have_similar_scores(estimator, x64):
    """x -> c Q x + b takes scores to Q score/c."""
    rng = np.random.default_rng(0)
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    x, query = (jnp.asarray(rng.normal(size=(n, 3))) for n in (30, 7))
    move = partial(lambda a: 2.5 * a @ rotation.T + jnp.asarray([[1.0, -2, 3]]))
    run = jax.jit(estimator)
    assert_close(run(move(x)), run(x) @ rotation.T / 2.5, 1e-8)
    assert_close(run(move(x), move(query)), run(x, query) @ rotation.T / 2.5, 1e-8)


def test_the_spectral_estimate_at_samples_is_that_of_queries_of_one_width(x64):
    """With the samples as the query the width is the same, so are the scores."""
    x = jax.random.normal(jax.random.key(0), (25, 2), jnp.float64)
    doubled = jnp.concatenate([x, x])
    assert float(abs(kernel_width(doubled) - kernel_width(x)) / kernel_width(x)) < 0.05
    found = SpectralEstimator(5)(x)
    assert_close(SpectralEstimator(5)(x, x), found, 0.3)


def test_the_surrogate_has_the_gradient_of_the_entropy(x64):
    """z = A eps has the entropy log det A and the exact score -(A A^T)^-1 z."""
    a = jnp.asarray([[1.3, 0.2], [-0.4, 0.7]])
    eps = jax.random.normal(jax.random.key(0), (200_000, 2), jnp.float64)

    def loss(a):
        z = eps @ a.T
        score = -z @ jnp.linalg.inv(a @ a.T)
        return -jnp.mean(entropy_surrogate(score, z))

    exact = jax.grad(lambda a: jnp.linalg.slogdet(a)[1])(a)
    np.testing.assert_allclose(jax.grad(loss)(a), exact, atol=0.02)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SteinEstimator(0.0), "must be positive; got 0.0"),
        (lambda: SpectralEstimator(eta=-1.0), "must be at least 0; got -1.0"),
        (lambda: SpectralEstimator(threshold=0.0), r"in \(0, 1\]; got 0.0"),
        (lambda: SpectralEstimator(0), "n_eigen must be at least 1; got 0"),
    ],
)
def test_refuses(make, message):
    with pytest.raises(ValueError, match=message):
        make()
