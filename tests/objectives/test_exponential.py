"""Quadratic forms of objectives: against the objectives themselves, minima, fits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from golden import assert_close
from score_sde.analytic import GaussianMixture
from score_sde.networks.kernel_exponential import DeepKernelExponentialFamily
from score_sde.objectives import (
    DenoisingScoreMatching,
    ExactScoreMatching,
    SlicedScoreMatching,
    UniformIndex,
    exponential,
)
from score_sde.parameterize import EnergyScore
from score_sde.sde import VE, DiscreteChain

D, L, SIGMA = 3, 6, 0.3
CHAIN = DiscreteChain(np.ones(1), np.asarray([SIGMA]))
NOW = jnp.zeros(())


@pytest.fixture
def family(x64):
    rng = np.random.default_rng(0)
    points = jnp.asarray(rng.normal(size=(L, D)))
    made = DeepKernelExponentialFamily.create(jax.random.key(0), points, (1.0, 2.0), 5)
    x, z = (jnp.asarray(rng.normal(size=(8, D))) for _ in range(2))
    return made, x, z, jnp.asarray(rng.normal(size=L))


def pairs(x, z, dtype=float):
    """Name -> (form of features, the objective's losses of a score function)."""
    v = SlicedScoreMatching(2).draw(jax.random.key(1), x)
    denoise = DenoisingScoreMatching(CHAIN, UniformIndex(CHAIN), jnp.ones_like, "sum")
    reduced, plain = SlicedScoreMatching(2), SlicedScoreMatching(2, variance_reduced=False)
    return {
        "exact": (
            lambda f: exponential.exact(f, x),
            lambda score_fn: ExactScoreMatching().at(score_fn, x, NOW),
        ),
        "sliced": (
            lambda f: exponential.sliced(f, x, v),
            lambda score_fn: plain.at(score_fn, x, NOW, v),
        ),
        "sliced_vr": (
            lambda f: exponential.sliced(f, x, v, True),
            lambda score_fn: reduced.at(score_fn, x, NOW, v),
        ),
        "denoising": (
            lambda f: exponential.denoising(f, x, z, SIGMA),
            lambda score_fn: denoise.at(score_fn, x, jnp.zeros(len(x), dtype), z),
        ),
    }


def score_of(made, alpha):
    return EnergyScore(lambda x, t: made.log_density(alpha, x))


@pytest.mark.parametrize("name", ["exact", "sliced", "sliced_vr", "denoising"])
def test_forms_are_the_objectives(family, name):
    """Values at any alpha; the solution has no gradient; it is the least-squares solution."""
    made, x, z, alpha = family
    form_of, losses = pairs(x, z)[name]
    ridge = jnp.asarray(0.01)

    def loss(alpha):
        return jnp.mean(losses(score_of(made, alpha))) + 0.5 * ridge * alpha @ alpha

    @jax.jit
    def evaluate(alpha):
        form = form_of(made.features)
        best = exponential.solve_alpha(form, ridge)
        gradients = jax.grad(loss)(best), jax.grad(loss)(0 * alpha)
        direct = losses(score_of(made, alpha))
        return form.losses(alpha), direct, best, gradients, jax.hessian(loss)(alpha)

    ours, direct, best, (at_best, at_zero), hessian = evaluate(alpha)
    assert_close(ours, direct, 1e-11)
    np.testing.assert_allclose(at_best, 0, atol=1e-9)
    assert_close(best, jnp.linalg.lstsq(hessian, -at_zero)[0], 1e-8)


@pytest.mark.parametrize("estimate", ["approximate", "propagated"])
def test_baselines_are_quadratic_too(family, estimate):
    """The solution has no gradient; the rule of a feature is that of the whole network's layers."""
    made, x, _, _ = family
    keys = jax.random.split(jax.random.key(2), len(x)) if estimate == "propagated" else None

    @jax.jit
    def forms(x, keys):
        given = (x,) if keys is None else (x, keys)
        diagonals = jax.vmap(made.hessian_diagonals)(*given)
        form = exponential.with_traces(made.features, x, jax.vmap(made.hessian_traces)(*given))
        best = exponential.solve_alpha(form, jnp.asarray(0.1))
        gradient = jax.grad(lambda a: jnp.mean(form.losses(a)) + 0.05 * a @ a)(best)
        return form, exponential.exact(made.features, x), gradient, jnp.sum(diagonals, axis=2)

    form, exact, gradient, traces = forms(x, keys)
    assert_close(form.slopes, traces, 1e-12)
    np.testing.assert_allclose(gradient, 0, atol=1e-9)
    assert_close(form.rows, exact.rows, 1e-12)
    if estimate == "propagated":
        n = 4000
        keys = jax.random.split(jax.random.key(3), n)
        traces = jax.jit(jax.vmap(lambda key: jnp.sum(made.hessian_diagonals(x[0], key), 1)))
        draws = np.asarray(traces(keys))
        error = draws.std(axis=0) / n**0.5 + 1e-12
        assert np.max(np.abs(draws.mean(axis=0) - exact.slopes[0]) / error) < 5
    else:
        assert float(jnp.max(jnp.abs(form.slopes - exact.slopes))) > 1e-2
        np.testing.assert_allclose(form.slopes[:, -1], exact.slopes[:, -1], rtol=1e-12)


def test_the_ridge_and_the_kernels_are_trained_through_the_solution(family):
    """The derivative of the loss at the solution, against differences."""
    made, x, z, _ = family

    @jax.jit
    def loss(made):
        alpha = exponential.solve_alpha(
            exponential.exact(made.features, x), jnp.exp(made.log_ridge)
        )
        return jnp.mean(exponential.exact(made.features, z).losses(alpha))

    gradient = jax.jit(jax.grad(loss))(made)
    step = 1e-5
    for name in ("log_ridge", "log_widths", "points"):
        value = getattr(made, name)
        direction = jnp.cos(jnp.arange(value.size, dtype=float)).reshape(value.shape)
        up, down = (
            loss(made.replace(**{name: value + sign * step * direction})) for sign in (1, -1)
        )
        expected = jnp.sum(getattr(gradient, name) * direction)
        np.testing.assert_allclose((up - down) / (2 * step), expected, rtol=1e-5, atol=1e-8)


def test_a_density_is_recovered(x64):
    """Fixed kernels and exact score matching: the score of a mixture, where it has mass."""
    data = GaussianMixture.isotropic([0.4, 0.6], [[-1.0, 0.0], [1.0, 0.5]], 0.6)
    clean = VE(1e-9, 1.0)
    x = data.sample(jax.random.key(0), 800, jnp.float64)
    made = DeepKernelExponentialFamily.create(jax.random.key(1), x[:60], (1.0, 3.3), 10)
    v = SlicedScoreMatching(1).draw(jax.random.key(2), x)
    held_out = data.sample(jax.random.key(3), 1000, jnp.float64)
    exact = data.score_fn(clean)(held_out, NOW)

    @jax.jit
    def fitted(x, v):
        forms = exponential.exact(made.features, x), exponential.sliced(made.features, x, v, True)
        alphas = [exponential.solve_alpha(form, jnp.asarray(1e-4)) for form in forms]
        return [score_of(made, alpha)(held_out, NOW) for alpha in alphas]

    for found in fitted(x, v):
        error = jnp.mean(jnp.sum((found - exact) ** 2, 1)) / jnp.mean(jnp.sum(exact**2, 1))
        assert float(error) < 0.1
