"""Fits by each objective: the score of a mixture, and the moments of a Gaussian by its energy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from mathcases import mixture_2d

from score_sde.arrays import batch_time
from score_sde.networks import ScoreMLP
from score_sde.objectives import (
    DenoisingScoreMatching,
    ExactScoreMatching,
    FiniteDifferenceScoreMatching,
    SlicedScoreMatching,
    UniformIndex,
)
from score_sde.parameterize import Energy, time_label
from score_sde.sde import DiscreteChain

SIGMA = 0.1
NOISY = DiscreteChain(np.ones(1), np.asarray([SIGMA]))
CLEAN = DiscreteChain(np.ones(1), np.zeros(1))


def fit(objective, score_of, params, draw, steps, batch):
    """Parameters after Adam with a falling rate."""
    optimizer = optax.adam(optax.cosine_decay_schedule(3e-3, steps))

    def step(carry, key):
        params, state = carry
        key_data, key_loss = jax.random.split(key)

        def loss(params):
            return jnp.mean(objective(key_loss, score_of(params), draw(key_data, batch)))

        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    keys = jax.random.split(jax.random.key(1), steps)
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam mixes types
        start = (params, optimizer.init(params))
        (params, _), _ = jax.jit(lambda start: jax.lax.scan(step, start, keys))(start)
    return params


OBJECTIVES = {
    "sliced_vr": (SlicedScoreMatching(), CLEAN),
    "exact": (ExactScoreMatching(), CLEAN),
    "denoising": (
        DenoisingScoreMatching(NOISY, UniformIndex(NOISY), lambda t: SIGMA**2 + 0 * t, "sum", True),
        NOISY,
    ),
    "finite_difference": (FiniteDifferenceScoreMatching(0.02), CLEAN),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_score_of_a_mixture(name):
    """Relative error below 0.1 where the density is above 5% of its largest value."""
    objective, process = OBJECTIVES[name]
    data, network = mixture_2d(), ScoreMLP()

    def score_of(params):
        return lambda x, t: network.apply(params, x, batch_time(t, x))

    params = network.init(jax.random.key(0), jnp.zeros((1, 2)), jnp.zeros(1))
    params = fit(objective, score_of, params, data.sample, 6000, 512)
    side = jnp.linspace(-2, 2, 81)
    x, now = jnp.stack(jnp.meshgrid(side, side), -1).reshape(-1, 2), jnp.zeros(())
    density = jnp.exp(data.log_prob(process, x, now))
    inside = density > 0.05 * density.max()
    weights = jnp.where(inside, density, 0)
    exact, found = data.score(process, x, now), score_of(params)(x, now)
    error = jnp.sum(weights * jnp.sum((found - exact) ** 2, 1))
    assert float(error / jnp.sum(weights * jnp.sum(exact**2, 1))) ** 0.5 < 0.1


def test_a_gaussian_by_its_energy():
    """E = x A^T A x/2 - b x by sliced score matching: mean and covariance to 3%."""
    root, mean = jnp.asarray([[1.0, 0.0], [0.6, 0.5]]), jnp.asarray([[0.5, -1.0]])

    def draw(key, n):
        return mean + jax.random.normal(key, (n, 2)) @ root.T

    def score_of(params):
        def energy(y, label):
            return 0.5 * jnp.sum((y @ params["a"]) ** 2, 1) - y @ params["b"]

        return Energy(time_label).score_fn(energy)

    start = {"a": jnp.eye(2), "b": jnp.zeros(2)}
    params = fit(SlicedScoreMatching(4), score_of, start, draw, 10_000, 1024)
    precision = params["a"] @ params["a"].T
    covariance = jnp.linalg.inv(precision)
    np.testing.assert_allclose(covariance, root @ root.T, atol=0.03)
    np.testing.assert_allclose(covariance @ params["b"], mean[0], atol=0.03)
    jacobian = jax.jacobian(lambda x: score_of(params)(x[None], jnp.zeros(()))[0])(mean[0])
    np.testing.assert_allclose(jacobian, jacobian.T, atol=1e-6)


@pytest.mark.parametrize("form", ["scalar", "distance", "product"])
def test_forms_of_energies(form):
    """Scores of each form against derivatives by hand, for F = c y; a wrong shape is refused."""
    c, x = 0.3, jnp.asarray([[1.0, -2.0], [0.5, 0.2]])
    energy = Energy(time_label, form, sigma=lambda t: 2 + t)
    t = jnp.asarray([0.0, 1.0])

    def network(y, label):
        return 0.5 * c * jnp.sum(y**2, 1) if form == "scalar" else c * y

    factor = {"scalar": -c, "distance": -((1 - c) ** 2), "product": 2 * c}[form]
    expected = factor * x / jnp.asarray([[2.0], [3.0]])
    np.testing.assert_allclose(energy.score_fn(network)(x, t), expected, rtol=1e-6)
    with pytest.raises(ValueError, match=f"energy of the form '{form}'"):
        energy.score_fn(lambda y, label: jnp.zeros((2, 3)))(x, t)
    with pytest.raises(ValueError, match="got 'norm'"):
        Energy(time_label, "norm")
