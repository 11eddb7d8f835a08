"""Hamiltonian Monte Carlo and annealed importance sampling against exact integrals."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.likelihood.annealed import (
    AnnealedImportanceSampling,
    hamiltonian_step,
    temperatures,
)

NORMAL = 0.5 * math.log(2 * math.pi)


def test_hamiltonian_steps_keep_a_gaussian():
    """From exact samples of N(m, C), with a step that is often refused: moments and acceptance."""
    root, mean = jnp.asarray([[1.2, 0.0], [0.5, 0.6]]), jnp.asarray([0.3, -1.0])
    precision = jnp.linalg.inv(root @ root.T)

    def density(x):
        return -0.5 * (x - mean) @ precision @ (x - mean)

    x = mean[None] + jax.random.normal(jax.random.key(0), (40_000, 2)) @ root.T

    @jax.jit
    def chain(key, x):
        def one(key, x):
            rates = []
            for i in range(3):
                key_i = jax.random.fold_in(key, i)
                x, accepted = hamiltonian_step(key_i, density, x, jnp.asarray(0.9), 3)
                rates.append(accepted)
            return x, jnp.stack(rates)

        return jax.vmap(one)(jax.random.split(key, len(x)), x)

    moved, accepted = chain(jax.random.key(1), x)
    assert 0.3 < float(jnp.mean(accepted.astype(float))) < 0.95
    assert float(jnp.mean(jnp.abs(moved - x))) > 0.3
    np.testing.assert_allclose(jnp.mean(moved, axis=0), mean, atol=0.03)
    np.testing.assert_allclose(jnp.cov(moved.T), root @ root.T, atol=0.04)
    # Started from one point, it forgets it.
    for _ in range(8):
        moved, _ = chain(
            jax.random.fold_in(jax.random.key(2), _), moved * 0 + 3 if _ == 0 else moved
        )
    np.testing.assert_allclose(jnp.mean(moved, axis=0), mean, atol=0.04)
    np.testing.assert_allclose(jnp.cov(moved.T), root @ root.T, atol=0.05)


def test_temperatures():
    betas = np.asarray(temperatures(8))
    assert betas[0] == 0 and betas[-1] == 1 and len(betas) == 9
    np.testing.assert_allclose(betas + betas[::-1], 1, atol=1e-6)
    assert np.all(np.diff(betas) > 0) and np.argmax(np.diff(betas)) in (3, 4)
    with pytest.raises(ValueError, match="at least one temperature; got 0"):
        temperatures(0)


def log_energy_ratio(log_density):
    return lambda z: log_density(z) + 0.5 * jnp.sum(z**2) + NORMAL * len(z)


def gaussian(z):
    return -0.5 * jnp.sum((z - 1.0) ** 2 / jnp.asarray([0.09, 1.0, 0.25])) + 0.7


def mixture(z):
    modes = jnp.stack([jnp.full((2,), -1.5), jnp.full((2,), 1.0)])
    squares = jnp.sum((z[None] - modes) ** 2, axis=1)
    return jax.nn.logsumexp(-0.5 * squares / 0.16 + jnp.log(jnp.asarray([3.0, 1.0])))


CONSTANTS = {
    "gaussian": (gaussian, 3, 3 * NORMAL + math.log(0.3 * 1 * 0.5) + 0.7),
    "mixture": (mixture, 2, math.log(4) + 2 * NORMAL + 2 * math.log(0.4)),
}


@pytest.mark.parametrize("name", CONSTANTS)
def test_constants_of_energies(name):
    density, d, expected = CONSTANTS[name]
    sampler = AnnealedImportanceSampling(200, 5, 2000, step=0.3)
    found = jax.jit(lambda key: sampler(key, log_energy_ratio(density), d))(jax.random.key(0))
    assert float(found.value) == pytest.approx(expected, abs=0.02)
    assert 0.4 < float(found.acceptance) < 0.95 and float(found.effective) > 100


def test_mean_weight_is_the_integral_for_any_number_of_temperatures():
    """So with one, which is plain importance sampling: its log-weights are log-ratios of draws."""
    density, d, expected = CONSTANTS["gaussian"]
    ratio = log_energy_ratio(density)
    for n in (1, 4):
        sampler = AnnealedImportanceSampling(n, 2, 40_000, step=0.2)
        weights = np.exp(
            np.asarray(
                jax.jit(lambda key, s=sampler: s.log_weights(key, ratio, d))(jax.random.key(1)),
                float,
            )
        )
        error = weights.std() / len(weights) ** 0.5
        assert weights.mean() == pytest.approx(math.exp(expected), abs=4 * error)
        assert error < 0.1 * math.exp(expected)


def test_likelihood_of_a_linear_decoder():
    """p(x) = N(b, W W^T + s^2 I), within 0.05 nats; more temperatures than one are needed."""
    rng = np.random.default_rng(0)
    w, b, s = rng.normal(size=(6, 2)), rng.normal(size=6), 0.3
    x = w @ rng.normal(size=2) + b + s * rng.normal(size=6)
    covariance = w @ w.T + s**2 * np.eye(6)
    exact = -0.5 * (x - b) @ np.linalg.solve(covariance, x - b)
    exact -= 0.5 * np.linalg.slogdet(2 * np.pi * covariance)[1]
    weight, offset = jnp.asarray(w, jnp.float32), jnp.asarray(x - b, jnp.float32)

    def ratio(z):
        return -0.5 * jnp.sum((offset - weight @ z) ** 2) / s**2 - 6 * (NORMAL + math.log(s))

    sampler = AnnealedImportanceSampling(300, 8, 200, step=0.3)
    found = jax.jit(lambda key: sampler(key, ratio, 2))(jax.random.key(0))
    assert float(found.value) == pytest.approx(exact, abs=0.05)
    assert float(found.log_variance) < 0.5


def test_refuses():
    for options in ({"n": 0}, {"leapfrog": 0}, {"chains": 1}, {"step": 0.0}):
        with pytest.raises(ValueError, match="need n >= 1"):
            AnnealedImportanceSampling(**options)
