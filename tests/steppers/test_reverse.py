"""Predictors: reference steps, measured orders for Gaussian data, and how they compare."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mathcases import (
    SDES,
    mixture_2d,
    one_step,
    propagate,
    reference_chain,
    reference_methods,
    reference_mixture,
    reference_sde,
    slope,
)

from golden import assert_close, cases, load, meta
from score_sde import grids
from score_sde.analytic import GaussianMixture
from score_sde.sde import EDM, VP, DiscreteChain, PublishedSteps
from score_sde.steppers import Ancestral, EulerMaruyama, Identity, ReverseDiffusion


def _published_predictors(name, sde, stored):
    """The predictors of a file of single steps by name."""
    known = {
        "em": EulerMaruyama(sde),
        "em_pf": EulerMaruyama(sde, 0.0),
        "none": Identity(),
    }
    if name == "subvp":  # its published discretisation is Euler's
        return known | {"rd": known["em"], "rd_pf": known["em_pf"]}
    steps = PublishedSteps(reference_chain(name, stored))
    return known | {
        "rd": ReverseDiffusion(steps),
        "rd_pf": ReverseDiffusion(steps, 0.0),
        "as": Ancestral(steps, "posterior" if name == "ve" else "forward"),
    }


@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("case", cases("math/samplers_onestep_*.npz"))
def test_reference_steps(case, precision, request):
    if precision == "float64":
        request.getfixturevalue("x64")
    stored = load(case)
    name, n = meta(stored)["sde"], int(stored["N"])
    sde = reference_sde(name, stored)
    moments, methods = reference_methods(stored)
    known = _published_predictors(name, sde, stored)
    steppers = {key: known[key] for key in methods if key in known}
    rest = [key for key in methods if key not in known]
    assert steppers
    assert all(key.startswith(("langevin_", "ald_", "corrector_none")) for key in rest), rest
    score_fn = reference_mixture(stored).score_fn(sde)

    @jax.jit
    def evaluate(x, t, z):
        return {
            k: one_step(step, score_fn, x, t, t - 1 / n, z[None]) for k, step in steppers.items()
        }

    for moment in moments:
        x, t, z = (jnp.asarray(stored[f"{moment}__{key}"], precision) for key in "xtz")
        same = bool(jnp.all(t == t[0]))  # then one time for the batch gives the same
        for time in (t, t[0]) if same else (t,):
            for key, (y, mean) in evaluate(x, time, z).items():
                tol = 1e-8 if precision == "float64" else 1e-4
                assert_close(y, stored[f"{moment}__{key}__x"], tol, f"{moment} {key} x")
                assert_close(mean, stored[f"{moment}__{key}__mean"], tol, f"{moment} {key} mean")


def _predictors(sde):
    return {
        "em": EulerMaruyama(sde),
        "em_half": EulerMaruyama(sde, 0.5),
        "em_flow": EulerMaruyama(sde, 0.0),
        "rd": ReverseDiffusion(sde),
        "rd_half": ReverseDiffusion(sde, 0.5),
        "rd_flow": ReverseDiffusion(sde, 0.0),
        "ancestral": Ancestral(sde),
        "ancestral_forward": Ancestral(sde, "forward"),
    }


GAUSSIAN = GaussianMixture.isotropic([1.0], [[0.6]], 0.5)


def _law(sde, t):
    alpha, sigma = sde.marginal(jnp.asarray(t))
    return alpha * jnp.asarray([0.6]), ((0.5 * alpha) ** 2 + sigma**2) * jnp.eye(1)


@pytest.mark.parametrize("name", SDES)
def test_weak_order(name, x64):
    """The law of the output, propagated without Monte Carlo, converges with order 1."""
    sde = SDES[name]
    end = float(sde.time_at_log_snr(jnp.asarray(2.0)))
    sizes = (200, 400, 800)
    exact_mean, exact_variance = _law(sde, end)

    @jax.jit
    def run(pairs):
        start = _law(sde, sde.t_max)
        return {
            k: propagate(p, GAUSSIAN.score_fn(sde), pairs, *start)
            for k, p in _predictors(sde).items()
        }

    errors = {key: [] for key in _predictors(sde)}
    for n in sizes:
        grid = grids.log_snr_uniform(sde, n, end)
        for key, (mean, variance) in run(jnp.asarray(grids.as_pairs(grid))).items():
            errors[key].append(
                (float((mean - exact_mean)[0]), float((variance - exact_variance)[0, 0]))
            )
    for key, error in errors.items():
        means, variances = np.asarray(error).T
        assert abs(variances[-1]) < 0.05 * float(exact_variance[0, 0]), (key, variances)
        assert abs(means[-1]) < 0.02, (key, means)
        assert slope(sizes, variances) == pytest.approx(-1, abs=0.13), (key, variances)
        if abs(means[-1]) > 1e-4:  # some predictors have the mean right to second order here
            assert slope(sizes, means) == pytest.approx(-1, abs=0.13), (key, means)


def test_strong_order_with_additive_noise(x64):
    """Euler-Maruyama on the reverse SDE, the same Brownian path at steps h and h/2: order 1."""
    sde, paths, finest = VP(), 200, 1024
    data = mixture_2d()
    x = sde.prior_sample(jax.random.key(0), (paths, 2), jnp.float64)
    increments = jax.random.normal(
        jax.random.key(1), (finest, paths, 2), jnp.float64
    )  # of unit variance
    stepper, score_fn = EulerMaruyama(sde), data.score_fn(sde)

    def run(n):
        pairs = jnp.asarray(grids.as_pairs(np.linspace(1.0, 0.1, n + 1)))
        z = jnp.sum(increments.reshape(n, finest // n, paths, 2), 1) / math.sqrt(finest // n)

        def step(x, i):
            return one_step(stepper, score_fn, x, i[0][0], i[0][1], i[1][None])[0], None

        return jax.jit(lambda x: jax.lax.scan(step, x, (pairs, z))[0])(x)

    sizes = (128, 256, 512, 1024)
    ends = [run(n) for n in sizes]
    differences = [float(jnp.sqrt(jnp.mean((a - b) ** 2))) for a, b in itertools.pairwise(ends)]
    assert slope(sizes[:-1], differences) == pytest.approx(-1, abs=0.15)


def test_small_steps_agree_to_second_order(x64):
    """Predictors of one eta have the drift and noise of the reverse family at first order."""
    sde, data = VP(), mixture_2d()
    x, z = jax.random.normal(jax.random.key(0), (2, 3, 2))
    t, sizes = jnp.asarray(0.4), (1e-2, 1e-3)
    for eta, names in (
        (1.0, ("rd", "ancestral", "ancestral_forward")),
        (0.0, ("rd_flow",)),
        (0.5, ("rd_half",)),
    ):
        drift = sde.reverse_drift(x, t, data.score(sde, x, t), eta)
        for name in names:
            errors, noise = [], []
            for h in sizes:
                y, mean = one_step(_predictors(sde)[name], data.score_fn(sde), x, t, t - h, z[None])
                errors.append(float(jnp.max(jnp.abs((x - mean) / h - drift))))
                noise.append(
                    float(jnp.max(jnp.abs((y - mean) / math.sqrt(h) - eta * sde.diffuse(x, t, z))))
                )
            assert slope(sizes, errors) == pytest.approx(1, abs=0.1), (name, errors)
            assert noise[1] < 0.03 * max(eta, 1e-12) * 10 + 1e-12, (name, noise)


def test_ancestral_is_the_posterior(x64):
    """q(x_s | x_t, x_0) by Bayes: for a point mass the score is exact; mean and std must match."""
    sde, x0 = VP(), 0.7
    t, s = jnp.asarray(0.5), jnp.asarray(0.3)
    point = GaussianMixture.isotropic([1.0], [[x0]], 0.0)
    (a, b), (alpha_s, sigma_s) = sde.transition(t, s), sde.marginal(s)
    precision = 1 / sigma_s**2 + a**2 / b**2
    x = jnp.asarray([[1.3]])
    mean = (alpha_s * x0 / sigma_s**2 + a * x / b**2) / precision
    y, m = one_step(Ancestral(sde), point.score_fn(sde), x, t, s, jnp.ones((1, 1, 1)))
    assert_close(m, mean, 1e-12)
    assert_close(y - m, jnp.ones((1, 1)) / jnp.sqrt(precision), 1e-12)
    y, m = one_step(Ancestral(sde, "forward"), point.score_fn(sde), x, t, s, jnp.ones((1, 1, 1)))
    assert_close(m, mean, 1e-12)
    assert_close(y - m, b * jnp.ones((1, 1)), 1e-12)


@pytest.mark.parametrize("make", [DiscreteChain.smld, DiscreteChain.ddpm], ids=["smld", "ddpm"])
def test_last_ancestral_step_is_tweedie(make, x64):
    """From index 0 to the clean image -1: the denoiser, without noise. One long stride as well."""
    chain, data = make(n=50), mixture_2d()
    x, z = jax.random.normal(jax.random.key(0), (2, 3, 2))
    for i in (0.0, 20.0):
        t = jnp.asarray(i)
        y, mean = one_step(Ancestral(chain), data.score_fn(chain), x, t, jnp.asarray(-1.0), z[None])
        assert_close(mean, chain.tweedie(x, t, data.score(chain, x, t)), 1e-9)
        assert_close(y, mean, 1e-9)


def test_euler_on_edm_by_hand():
    """One Euler step of dx/dt = (x - D)/t, and of dx = -2 t score dt + sqrt(2t) dw."""
    x, z, t, s = jnp.asarray([[2.0]]), jnp.asarray([[[0.5]]]), jnp.asarray(3.0), jnp.asarray(2.0)

    def score(x, t):
        return -x / (t[:, None] ** 2 + 1)

    assert_close(
        one_step(EulerMaruyama(EDM(), 0.0), score, x, t, s, z)[0],
        jnp.asarray([[2 + 3 * -0.2]]),
        1e-6,
    )
    y, mean = one_step(EulerMaruyama(EDM()), score, x, t, s, z)
    assert_close(mean, jnp.asarray([[2 + 6 * -0.2]]), 1e-6)
    assert_close(y - mean, jnp.asarray([[math.sqrt(6) * 0.5]]), 1e-6)
    y, mean = one_step(ReverseDiffusion(EDM()), score, x, t, s, z)
    assert_close(mean, jnp.asarray([[2 + 5 * -0.2]]), 1e-6)  # 3^2 - 2^2 = 5
    assert_close(y - mean, jnp.asarray([[math.sqrt(5) * 0.5]]), 1e-6)


def test_message():
    with pytest.raises(ValueError, match="variance must be 'posterior' or 'forward'; got 'large'"):
        Ancestral(VP(), "large")
