"""Layered networks: derivatives against automatic ones, what is exact, biased and unbiased."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from golden import assert_close
from score_sde.networks.curvature import (
    Coupling,
    Elementwise,
    GaussianBump,
    Linear,
    Scale,
    Skip,
    approximate_backpropagation,
    curvature_propagation,
    evaluate,
    perceptron,
)

D = 5


def key(i):
    return jax.random.key(i)


def couplings(n):
    """Couplings of alternating parity, a scale, and the density of a logistic at the end."""
    layers = []
    for i in range(n):
        stay, shifted = ((D + 1) // 2, D // 2) if i % 2 == 0 else (D // 2, (D + 1) // 2)
        layers.append(Coupling(perceptron(key(i), (stay, 6, shifted), scale=4.0), bool(i % 2)))
    scale = Scale(jnp.linspace(0.0, 1.0, D))
    prior = Elementwise(lambda h: -2 * jax.nn.softplus(h) + h)
    return (*layers, scale, prior, Linear(jnp.ones((1, D))))


NETWORKS = {
    "one hidden layer": perceptron(key(0), (D, 7, 1), scale=3.0),
    "three hidden layers": perceptron(key(1), (D, 7, 7, 7, 1), scale=3.0),
    "skip": (
        Skip(perceptron(key(2), (D, 6, 4), jnp.tanh), jax.random.normal(key(3), (4, D)) * 0.4),
        GaussianBump(jnp.asarray([0.3, -0.1, 0.2, 0.5]), jnp.asarray(1.5)),
    ),
    "coupling": couplings(1),
    "couplings of both parities": couplings(2),
}
X = jax.random.normal(key(9), (D,))


@jax.jit
def truth(layers, x):
    """Gradient and diagonal of the Hessian, by automatic differentiation."""

    def value(x):
        return evaluate(layers, x)[0]

    return jax.grad(value)(x), jnp.diag(jax.hessian(value)(x))


@jax.jit
def estimates(layers, x):
    """The same by both baselines, one draw of curvature propagation."""
    return approximate_backpropagation(layers, x), curvature_propagation(key(0), layers, x)


@jax.jit
def draws(keys, layers):
    """Diagonals by curvature propagation, one for each key."""
    return jax.vmap(lambda key: curvature_propagation(key, layers, X)[1])(keys)


def test_gradients_are_exact_and_approximate_diagonals_are_not():
    """They are exact for one hidden layer alone; with three the error is as large as the entries.

    So nobody should trust approximate back-propagation.
    """
    errors = {}
    for name, layers in NETWORKS.items():
        gradient, expected = truth(layers, X)
        (first, diagonal), (second, _) = estimates(layers, X)
        assert_close(first, gradient, 1e-5, name)
        assert_close(second, gradient, 1e-5, name)
        errors[name] = float(jnp.max(jnp.abs(diagonal - expected)))
    assert errors["one hidden layer"] < 1e-5
    for name in ("three hidden layers", "skip", "couplings of both parities"):
        assert errors[name] > 1e-2, name


@pytest.mark.parametrize("name", ["three hidden layers", "skip", "couplings of both parities"])
def test_curvature_propagation_is_unbiased(name):
    layers, n = NETWORKS[name], 20_000
    _, expected = truth(layers, X)
    found = np.asarray(draws(jax.random.split(key(4), n), layers))
    error = found.std(axis=0) / n**0.5
    assert np.all(np.abs(found.mean(axis=0) - expected) < 5 * error + 1e-4)
    assert np.all(error > 0)


def test_variance_of_curvature_propagation_grows_with_depth():
    deviations = []
    for depth in (1, 2, 4):
        layers = perceptron(key(5), (D, *[8] * depth, 1), scale=3.0)
        _, expected = truth(layers, X)
        spread = jnp.std(draws(jax.random.split(key(6), 2000), layers), axis=0)
        deviations.append(float(jnp.mean(spread) / jnp.mean(jnp.abs(expected))))
    assert deviations == sorted(deviations)


def test_gradients_through_both_are_finite():
    """Where f'' g has either sign: the root has the derivative 0 at 0."""

    @jax.jit
    @jax.grad
    def gradient(layers, key):
        _, a = approximate_backpropagation(layers, X)
        _, b = curvature_propagation(key, layers, X)
        return jnp.sum(a + b)

    zeros = jax.tree.map(jnp.zeros_like, NETWORKS["three hidden layers"])
    for layers in (NETWORKS["couplings of both parities"], zeros):
        for leaf in jax.tree.leaves(gradient(layers, key(7))):
            assert np.isfinite(leaf).all()


@pytest.mark.parametrize("odd_stay", [False, True])
def test_couplings_are_inverted(odd_stay):
    stay, shifted = (2, 3) if odd_stay else (3, 2)
    layer = Coupling(perceptron(key(8), (stay, 6, shifted)), odd_stay)
    y = layer(X)
    assert_close(layer.inverse(y), X, 1e-6)
    np.testing.assert_array_equal((y == X)[int(odd_stay) :: 2], True)
    np.testing.assert_allclose(jnp.linalg.det(jax.jacobian(layer)(X)), 1, rtol=1e-5)
