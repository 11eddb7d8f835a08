"""Processes with matrix diffusion, and forward paths of any process."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mathcases import (
    one_step,
    propagate,
    slope,
)

from golden import assert_close
from score_sde.arrays import fold_in, normal, sample_keys
from score_sde.sde import (
    VP,
    MatrixSDE,
    simulate,
)
from score_sde.steppers import EulerMaruyama


def _matrix_g(x, t):
    one = jnp.ones_like(x[0])
    return jnp.stack(
        [
            jnp.stack([one + 0.3 * jnp.sin(x[1]), 0.2 * x[0]]),
            jnp.stack([0.0 * one, one + 0.1 * x[0] ** 2]),
        ]
    )


def _gram(x):
    """G G^T of `_matrix_g` and its divergence, worked out by hand; x (batch, 2)."""
    p, q = x[:, 0], x[:, 1]
    a, b, c = (
        (1 + 0.3 * np.sin(q)) ** 2 + 0.04 * p**2,
        0.2 * p * (1 + 0.1 * p**2),
        (1 + 0.1 * p**2) ** 2,
    )
    return np.stack([np.stack([a, b], 1), np.stack([b, c], 1)], 1), np.stack(
        [0.08 * p, 0.2 + 0.06 * p**2], 1
    )


class TestMatrixSDE:
    def test_operators(self, x64):
        sde = MatrixSDE(lambda x, t: t * x**2, _matrix_g)
        x, v = np.random.default_rng(0).normal(size=(2, 5, 2))
        t = jnp.linspace(0.1, 0.9, 5)
        gram, divergence = _gram(x)
        x, v = jnp.asarray(x), jnp.asarray(v)
        assert_close(sde.drift(x, t), np.asarray(t)[:, None] * x**2, 1e-12)
        assert_close(sde.gram(x, t, v), np.einsum("bij,bj->bi", gram, v), 1e-12)
        assert_close(sde.gram_divergence(x, t), divergence, 1e-12)
        expected = jax.vmap(lambda x, v: _matrix_g(x, 0.0) @ v)(x, v)
        assert_close(sde.diffuse(x, jnp.asarray(0.3), v), expected, 1e-12)

    def test_detailed_balance(self, x64):
        """f = (div GG^T + GG^T grad log p)/2 makes p stationary.

        There is no flow, and the reversal is -f.
        """
        x = np.random.default_rng(1).normal(size=(6, 2))
        gram, divergence = _gram(x)
        score = jnp.asarray(-x + 0.3 * np.cos(x[:, ::-1]))  # any gradient field serves
        drift = 0.5 * divergence + 0.5 * np.einsum("bij,bj->bi", gram, score)

        def forward(x, t):
            _, rows = _gram_jax(x)
            s = -x + 0.3 * jnp.cos(x[::-1])
            return 0.5 * rows + 0.5 * (_matrix_g(x, t) @ _matrix_g(x, t).T) @ s

        sde, t = MatrixSDE(forward, _matrix_g), jnp.asarray(0.4)
        assert_close(sde.drift(jnp.asarray(x), t), drift, 1e-12)
        assert_close(sde.reverse_drift(jnp.asarray(x), t, score, eta=0.0), np.zeros_like(x), 1e-12)
        assert_close(sde.reverse_drift(jnp.asarray(x), t, score), -drift, 1e-12)
        # eta in between: f - (1 + eta^2)/2 (2 f)
        assert_close(sde.reverse_drift(jnp.asarray(x), t, score, eta=0.5), -0.25 * drift, 1e-12)

    def test_simulation_stays_in_the_stationary_law(self):
        """Same drift with p = N(0, I): after unit time the second moments are still those of p."""

        def forward(x, t):
            _, divergence = _gram_jax(x)
            return 0.5 * divergence - 0.5 * (_matrix_g(x, t) @ _matrix_g(x, t).T) @ x

        sde, n = MatrixSDE(forward, _matrix_g), 40000
        x0 = jax.random.normal(jax.random.key(0), (n, 2))
        path = jax.jit(lambda x: simulate(jax.random.key(1), sde, x, jnp.linspace(0.0, 1.0, 101)))(
            x0
        )
        assert_close(path[0], x0, 0)
        x = np.asarray(path[-1], np.float64)
        assert np.all(np.abs(x.mean(0)) < 4 / math.sqrt(n) + 0.003), x.mean(0)
        assert_close(
            np.cov(x.T), np.eye(2), 4 * math.sqrt(2 / n) + 0.015
        )  # Monte Carlo + step of 0.01

    def test_wraps_vp(self, x64):
        vp = VP()
        sde = MatrixSDE(
            lambda x, t: vp.coefficients(t)[0] * x,
            lambda x, t: jnp.sqrt(vp.coefficients(t)[1]) * jnp.eye(2),
            1e-5,
        )
        x, v, score = jax.random.normal(jax.random.key(0), (3, 4, 2))
        t = jnp.asarray([1e-5, 0.2, 0.6, 1.0])
        assert_close(sde.drift(x, t), vp.drift(x, t), 1e-12)
        assert_close(sde.diffuse(x, t, v), vp.diffuse(x, t, v), 1e-12)
        assert_close(sde.gram(x, t, v), vp.gram(x, t, v), 1e-12)
        assert_close(sde.gram_divergence(x, t), np.zeros((4, 2)), 0)
        for eta in (0.0, 0.4, 1.0):
            assert_close(
                sde.reverse_drift(x, t, score, eta), vp.reverse_drift(x, t, score, eta), 1e-12
            )
        args = (lambda x, t: score, x, jnp.asarray(0.5), jnp.asarray(0.4), v[None])
        ours, theirs = (one_step(EulerMaruyama(each), *args)[0] for each in (sde, vp))
        assert_close(ours, theirs, 1e-12)

    @pytest.mark.parametrize("eta", [1.0, 0.0])
    def test_reversal_of_a_gaussian_process_with_matrix_noise(self, eta, x64):
        """dx = -k/2 x dt + L dw has a covariance in closed form; measured order 1.

        It is e^{-kt} P_0 + (1 - e^{-kt})/k L L^T.
        """
        k, mixing, start = (
            2.0,
            jnp.asarray([[1.0, 0.0], [0.8, 0.5]]),
            jnp.asarray([[0.3, -0.1], [-0.1, 0.2]]),
        )
        mean0 = jnp.asarray([0.7, -0.4])
        sde = MatrixSDE(lambda x, t: -0.5 * k * x, lambda x, t: mixing)

        def law(t):
            decay = jnp.exp(-k * t)
            return jnp.sqrt(decay) * mean0, decay * start + (1 - decay) / k * mixing @ mixing.T

        def score_fn(x, t):
            return jax.vmap(lambda x, t: -jnp.linalg.solve(law(t)[1], x - law(t)[0]))(x, t)

        sizes, errors = (100, 200, 400), []
        for n in sizes:
            grid = jnp.linspace(1.0, 0.0, n + 1)
            pairs = jnp.stack([grid[:-1], grid[1:]], 1)
            mean, covariance = propagate(
                EulerMaruyama(sde, eta), score_fn, pairs, *law(jnp.asarray(1.0))
            )
            errors.append(
                float(jnp.linalg.norm(covariance - start) + jnp.linalg.norm(mean - mean0))
            )
        assert errors[-1] < 0.02
        assert slope(sizes, errors) == pytest.approx(-1, abs=0.1)


def _gram_jax(x):
    """`_gram` of one sample, in jax."""
    return None, jnp.stack([0.08 * x[0], 0.2 + 0.06 * x[0] ** 2])


class TestSimulate:
    """Geometric Brownian motion dX = mu X dt + s X dw: X_T = X_0 exp((mu - s^2/2) T + s W_T)."""

    @staticmethod
    def _run(n, paths, mu, s):
        sde = MatrixSDE(lambda x, t: mu * x, lambda x, t: s * x[:, None])
        key, x0 = jax.random.key(5), jnp.ones((paths, 1))

        @jax.jit
        def run():
            end = simulate(key, sde, x0, jnp.linspace(0.0, 1.0, n + 1))[-1]
            draws = jax.vmap(lambda i: normal(fold_in(key, i), x0.shape, x0.dtype))(jnp.arange(n))
            exact = jnp.exp(mu - s**2 / 2 + s * jnp.sum(draws, 0) / math.sqrt(n))
            return end, exact

        return run()

    def test_law_and_orders(self, x64):
        sizes, strong, weak, paths, mu, sigma = (16, 32, 64), [], [], 40000, 1.0, 0.4
        for n in sizes:
            end, exact = self._run(n, paths, mu, sigma)
            weak.append(float(jnp.mean(end - exact)))
            end_driftless, exact_driftless = self._run(
                n, 4000, 0.0, 1.0
            )  # the drift's own error is of order 1
            strong.append(float(jnp.sqrt(jnp.mean((end_driftless - exact_driftless) ** 2))))
        assert slope(sizes, strong) == pytest.approx(-0.5, abs=0.1)
        assert slope(sizes, weak) == pytest.approx(-1.0, abs=0.1)
        # Moments of Euler-Maruyama itself, known in closed form.
        n, h = sizes[-1], 1 / sizes[-1]
        first, second = (1 + mu * h) ** n, ((1 + mu * h) ** 2 + sigma**2 * h) ** n
        assert abs(float(jnp.mean(end)) - first) < 4 * math.sqrt((second - first**2) / paths)
        assert abs(float(jnp.mean(end**2)) / second - 1) < 0.03

    def test_one_step_by_hand(self):
        """Coefficients at the start of the step, f h and g sqrt(h) z."""
        sde, key, x0 = VP(), jax.random.key(0), jnp.asarray([[1.5, -0.5]])
        end = simulate(key, sde, x0, jnp.asarray([0.2, 0.7]))[1]
        beta, z = 0.1 + 19.9 * 0.2, normal(fold_in(key, 0), (1, 2), jnp.float32)
        assert_close(end, x0 - 0.5 * beta / 2 * x0 + math.sqrt(0.5 * beta) * z, 1e-5)

    def test_additive_noise_has_the_marginals(self):
        sde, n = VP(), 20000
        x0 = jnp.full((n, 2), 0.8)
        grid = jnp.linspace(0.0, 0.5, 201)
        path = jax.jit(lambda: simulate(jax.random.key(0), sde, x0, grid))()
        assert path.shape == (201, n, 2)
        for i in (50, 200):
            alpha, sigma = sde.marginal(grid[i])
            assert (
                abs(float(jnp.mean(path[i])) - 0.8 * float(alpha))
                < 4 * float(sigma) / math.sqrt(2 * n) + 0.005
            )
            assert abs(float(jnp.std(path[i]) / sigma) - 1) < 4 / math.sqrt(4 * n) + 0.005

    def test_a_sample_with_its_own_key_does_not_depend_on_the_batch(self):
        sde, grid = VP(), jnp.linspace(0.0, 1.0, 11)
        keys = sample_keys(jax.random.key(0), jnp.arange(6))
        x0 = jax.random.normal(jax.random.key(1), (6, 3))
        together = simulate(keys, sde, x0, grid)
        apart = simulate(keys[4:], sde, x0[4:], grid)
        assert_close(together[:, 4:], apart, 1e-6)
        assert float(jnp.min(jnp.std(together[-1], axis=0))) > 0.1  # rows differ
