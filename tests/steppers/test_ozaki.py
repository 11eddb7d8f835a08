"""Ozaki's discretization: exact for Gaussians, Langevin's limit, order, caps, and mixing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mathcases import one_step, propagate, slope

from golden import assert_close
from score_sde.analytic import GaussianMixture
from score_sde.curvature import Dense, LowRank
from score_sde.metrics import effective_sample_size
from score_sde.sde import VE, DiscreteChain
from score_sde.steppers import AnnealedLangevin, Ozaki, constant_step, noise_level_step

CLEAN = DiscreteChain.smld()
"""At the time -1 the data are not perturbed."""
NOW = jnp.asarray(-1.0)
STEPS = np.asarray([[-1.0, -1.0]])


@pytest.mark.parametrize("form", ["diagonal", "full"])
@pytest.mark.parametrize("epsilon", [0.01, 1.0, 300.0])
def test_the_law_of_gaussian_data_is_kept(form, epsilon, x64):
    """At any step, and the move to it is that of the exact process: e^(-epsilon/v) a step."""
    covariance = np.diag([0.04, 3.0])
    if form == "full":
        q = np.linalg.qr(np.random.default_rng(0).normal(size=(2, 2)))[0]
        covariance = q @ covariance @ q.T
    mean = np.asarray([0.5, -1.0])
    data = GaussianMixture.full([1.0], mean[None], covariance[None])
    stepper = Ozaki(data.hessian_fn(CLEAN), constant_step(epsilon), form)
    score_fn = data.score_fn(CLEAN)
    after = propagate(stepper, score_fn, STEPS, mean, covariance)
    assert_close(after[0], mean, 1e-10)
    assert_close(after[1], covariance, 1e-10)
    values, vectors = np.linalg.eigh(covariance)
    decay = vectors * np.exp(-epsilon / values) @ vectors.T
    away = propagate(stepper, score_fn, STEPS, mean + 1.0, np.zeros((2, 2)))
    assert_close(away[0], mean + decay @ np.ones(2), 1e-10)
    assert_close(away[1], covariance - decay @ covariance @ decay, 1e-10)


def test_langevin_is_biased_where_this_is_not(x64):
    """Its variance is v/(1 - epsilon/(2 v))."""
    v, epsilon = 0.3, 0.2
    data = GaussianMixture.full([1.0], np.zeros((1, 1)), np.full((1, 1, 1), v))
    process = DiscreteChain(np.ones(1), np.ones(1))
    langevin = AnnealedLangevin.of_step_size(process, epsilon, 1.0, 1)
    biased = np.full((1, 1), v / (1 - epsilon / (2 * v)))

    def score_fn(x, t):
        return data.score(CLEAN, x, NOW)

    after = propagate(langevin, score_fn, np.zeros((1, 2)), np.zeros(1), biased)[1]
    assert_close(after, biased, 1e-12)


@pytest.mark.parametrize("form", ["diagonal", "full"])
def test_without_curvature_it_is_langevin(form, x64):
    process = VE(0.02, 8.0)
    rng, snr = np.random.default_rng(0), 0.3
    x, z = jnp.asarray(rng.normal(size=(3, 2, 2))), rng.normal(size=(2, 3, 2, 2))
    t, s = jnp.asarray(0.6), jnp.asarray(0.5)

    def score_fn(x, t):
        return jnp.sin(x) - x

    def flat(x, t):
        return LowRank(jnp.zeros_like(x))

    ours = Ozaki(flat, noise_level_step(process, snr), form, n_steps=2)
    made = one_step(ours, score_fn, x, t, s, z)
    expected = one_step(AnnealedLangevin(process, snr, 2), score_fn, x, t, s, z)
    jax.tree.map(lambda a, b: assert_close(a, b, 1e-12), made, expected)
    assert ours.draws == 2 and ours.evaluations(STEPS) == 2


def test_one_step_by_hand(x64):
    """Eq. 4.20 with numbers, and the full form in the eigenvectors' coordinates."""
    epsilon, h = 0.7, np.asarray([-2.0, -0.3])
    score, z = np.asarray([0.4, -1.2]), np.asarray([[0.9, -0.5]])
    x, t = jnp.asarray([[0.1, 0.2]]), jnp.asarray(0.5)
    step = np.expm1(epsilon * h) / h * score
    spread = np.sqrt(np.expm1(2 * epsilon * h) / h) * z[0]
    diagonal = Ozaki(lambda x, t: LowRank(jnp.asarray(h)[None]), constant_step(epsilon))
    made, mean = one_step(diagonal, lambda x, t: jnp.asarray(score)[None], x, t, t, z[None])
    assert_close(mean[0], x[0] + step, 1e-12)
    assert_close(made[0], x[0] + step + spread, 1e-12)
    q = np.linalg.qr(np.random.default_rng(0).normal(size=(2, 2)))[0]
    matrix = jnp.asarray(q * h @ q.T)[None]
    full = Ozaki(lambda x, t: Dense(matrix), constant_step(epsilon), "full")
    made, mean = one_step(full, lambda x, t: jnp.asarray(q @ score)[None], x, t, t, [z @ q.T])
    assert_close(mean[0], x[0] + q @ step, 1e-12)
    assert_close(made[0], x[0] + q @ (step + spread), 1e-12)


@pytest.mark.parametrize("form", ["diagonal", "full"])
def test_positive_curvature_is_capped(form):
    """Cap 0: Langevin's step. A cap c > 0: that of h = c. Negative curvatures stay."""
    x, t, z = jnp.ones((1, 2)), jnp.asarray(0.5), jnp.ones((1, 1, 2))

    def mean(h, **options):
        curvature = LowRank(jnp.asarray([h], jnp.float32))
        stepper = Ozaki(lambda x, t: curvature, constant_step(10.0), form, **options)
        return one_step(stepper, lambda x, t: x, x, t, t, z)[1][0] - 1

    np.testing.assert_allclose(mean([1e3, -0.1]), [10, -np.expm1(-1.0) / 0.1], rtol=1e-5)
    np.testing.assert_allclose(
        mean([1e3, 0.05], clip=0.1), np.expm1([1.0, 0.5]) / [0.1, 0.05], 1e-5
    )
    assert not np.isfinite(mean([1e3, 0.0], clip=float("inf"))).all()


def stationary_second_moment(stepper, score_fn):
    """E[x^2] in the limit of many steps on a line, by the transition matrix of a grid."""
    x = np.linspace(-5, 5, 301)
    t = NOW
    z = jnp.stack([jnp.ones((len(x), 1))])
    moved, mean = one_step(stepper, score_fn, jnp.asarray(x)[:, None], t, t, z)
    mean, spread = np.asarray(mean), np.asarray(moved - mean)
    kernel = np.exp(-0.5 * ((x[None] - mean) / spread) ** 2) / spread
    kernel = kernel / kernel.sum(axis=1, keepdims=True)
    for _ in range(12):
        kernel = kernel @ kernel
    return kernel[150] @ x**2


def test_weak_order(x64):
    """Order 1 on a mixture, with curvatures of both signs."""
    data = GaussianMixture.isotropic([0.4, 0.6], [[-0.9], [0.8]], 0.5)
    truth, sizes = float(data.covariance()[0, 0] + data.mean()[0] ** 2), (0.1, 0.05, 0.025)
    errors = [
        stationary_second_moment(
            Ozaki(data.hessian_fn(CLEAN), constant_step(size)), data.score_fn(CLEAN)
        )
        - truth
        for size in sizes
    ]
    assert slope(sizes, errors) == pytest.approx(1, abs=0.2)
    assert abs(errors[0]) < 0.1 * truth


def test_what_is_refused():
    for options in ({"form": "other"}, {"clip": -1.0}, {"n_steps": 0}, {"clip": float("nan")}):
        with pytest.raises(ValueError, match=next(iter(options))):
            Ozaki(lambda x, t: LowRank(x), constant_step(0.1), **options)
    with pytest.raises(ValueError, match="step_size"):
        constant_step(0.0)
    with pytest.raises(ValueError, match=r"second-order score.*got function"):
        one_step(Ozaki(None, constant_step(0.1)), lambda x, t: x, jnp.zeros((1, 2)), NOW, NOW, [])
    with pytest.raises(ValueError, match="snr"):
        noise_level_step(VE(0.02, 8.0), 0.0)


def best_sample_size(data, make, sizes):
    """The largest effective sample size of the steps whose variances are within 5% of the truth."""
    variance, best = np.diag(data.covariance()), 0.0
    known = (data.mean(), variance)
    for size in sizes:
        stepper = make(size)

        @jax.jit
        def run(key, start, stepper=stepper):
            def step(x, key):
                z = jax.random.normal(key, x.shape)
                x = stepper(data.score_fn(CLEAN), x, NOW, NOW, lambda j: z, ())[0]
                return x, x

            return jax.lax.scan(step, start, jax.random.split(key, 3000))[1]

        states = np.asarray(run(jax.random.key(1), data.sample(jax.random.key(0), 64)))
        if np.isfinite(states).all():
            states = states[200:].swapaxes(0, 1)
            if np.abs(states.var(axis=(0, 1)) / variance - 1).max() < 0.05:
                best = max(best, float(effective_sample_size(states, known).min()))
    return best


@pytest.mark.slow
@pytest.mark.parametrize(("stds", "ratio"), [((0.5, 0.5), 1.5), ((0.55, 0.1), 20)])
def test_it_mixes_faster_than_langevin(stds, ratio):
    """Each at its best step among those that keep the variances."""
    covariances = np.stack([np.diag(np.square(stds))] * 2)
    data = GaussianMixture.full([0.5, 0.5], [[-1.0, 0.0], [1.0, 0.0]], covariances)
    sizes = 2.0 ** np.arange(-11.0, 2.0)

    def flat(x, t):
        return LowRank(jnp.zeros_like(x))

    langevin = best_sample_size(data, lambda e: Ozaki(flat, constant_step(e)), sizes)
    ozaki = best_sample_size(data, lambda e: Ozaki(data.hessian_fn(CLEAN), constant_step(e)), sizes)
    assert ozaki > ratio * langevin > 0
