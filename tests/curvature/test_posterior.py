"""Tweedie's covariance and principal directions against exact posteriors of mixtures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mathcases import mixture_16d

from golden import assert_close
from score_sde.curvature import (
    Dense,
    LowRank,
    exact_directions,
    jacobian_of,
    subspace_directions,
    tweedie_covariance,
)
from score_sde.sde import VE, VP, SubVP


@pytest.mark.parametrize("process", [VE(0.02, 8.0), VP(), SubVP()], ids=["ve", "vp", "subvp"])
def test_covariance_of_the_clean_image(process, x64):
    """Eq. 4.18 by the exact Hessian and by products with the derivative of the score."""
    data, t = mixture_16d(), 0.3 * process.t_max
    x = np.asarray(data.sample_at(jax.random.key(0), process, jnp.asarray(t), 2, jnp.float64))
    exact = np.stack([data.posterior(process, one, t).covariance() for one in x])
    t = jnp.full(2, t)
    score_fn = data.score_fn(process)
    by_hessian = tweedie_covariance(process, data.hessian(process, jnp.asarray(x), t), t)
    by_passes = tweedie_covariance(process, jacobian_of(score_fn, jnp.asarray(x), t), t)
    for covariance in (by_hessian, by_passes):
        np.testing.assert_allclose(covariance.dense(), exact, rtol=0, atol=1e-10)
    uncertainty = np.einsum("bii->bi", exact).reshape(x.shape)
    np.testing.assert_allclose(by_passes.diagonal, uncertainty, rtol=0, atol=1e-10)


def rotated(values):
    """A matrix with these eigenvalues, and its eigenvectors in columns."""
    q = np.linalg.qr(np.random.default_rng(0).normal(size=(len(values),) * 2))[0]
    return q * np.asarray(values) @ q.T, q


def test_principal_directions(x64):
    values = [5.0, 3.0, 1.0, 0.5, 0.2, 0.1, 0.05, 0.01]
    matrix, q = rotated(values)
    operator = Dense(jnp.asarray(np.stack([matrix, 2 * matrix])).reshape(2, 2, 4, 2, 4))
    exact = exact_directions(operator, 3)
    keys = jax.random.split(jax.random.key(0), 2)
    found = jax.jit(lambda keys: subspace_directions(keys, operator, 3, steps=30, extra=2))(keys)
    for directions in (exact, found):
        assert directions.vectors.shape == (2, 3, 2, 4)
        assert_close(directions.values, np.outer([1, 2], values[:3]), 1e-10)
        along = np.einsum("bkd,dj->bkj", directions.vectors.reshape(2, 3, 8), q)
        assert_close(np.abs(along), np.stack([np.eye(3, 8)] * 2), 1e-9)
        assert np.max(directions.residuals) < 1e-8


def test_residuals_tell_of_too_few_steps_and_bound_the_error(x64):
    matrix, _ = rotated([1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3])
    found = subspace_directions(
        jax.random.key(0), Dense(jnp.asarray(matrix)[None]), 2, steps=1, extra=0
    )
    nearest = np.abs(np.asarray(found.values)[0][:, None] - np.linspace(0.3, 1, 8)).min(axis=1)
    assert np.all(found.residuals[0] > 1e-3) and np.all(nearest <= found.residuals[0] + 1e-12)


def test_negative_eigenvalues_are_reported(x64):
    """Of a wrong second-order score: nothing is clipped."""
    operator = LowRank(jnp.asarray([[1.0, -2.0, 3.0]]))
    assert_close(exact_directions(operator, 3).values, np.asarray([[3.0, 1.0, -2.0]]), 1e-12)
    both = subspace_directions(jax.random.key(0), operator, 3, steps=5, extra=0)
    assert_close(both.values, np.asarray([[3.0, 1.0, -2.0]]), 1e-12)
    t = jnp.asarray(0.5)
    covariance = tweedie_covariance(VP(), LowRank(jnp.full((1, 3), -1e3)), t)
    assert bool(jnp.all(covariance.diagonal < 0))


def test_what_is_refused():
    operator = LowRank(jnp.ones((1, 3)))
    with pytest.raises(ValueError, match="directions"):
        exact_directions(operator, 4)
    with pytest.raises(ValueError, match="directions"):
        subspace_directions(jax.random.key(0), operator, 2, steps=1)
    for k in (0, -1):
        with pytest.raises(ValueError, match=f"directions.*got {k}"):
            subspace_directions(jax.random.key(0), operator, k, steps=1, extra=2)
    with pytest.raises(ValueError, match="steps"):
        subspace_directions(jax.random.key(0), operator, 1, steps=0, extra=0)
