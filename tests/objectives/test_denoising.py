"""Denoising score matching: its minimiser, its value, and importance sampling."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mathcases import PROCESSES

from golden import assert_close
from score_sde.analytic import GaussianMixture
from score_sde.arrays import sample_keys
from score_sde.objectives import (
    DenoisingScoreMatching,
    LogSNRUniform,
    UniformIndex,
    UniformTime,
    interpolated_weight,
    likelihood_weight,
    variance_weight,
)
from score_sde.parameterize import (
    index_label,
    network_score,
    noise_prediction,
    reversed_index_label,
)
from score_sde.sde import VE, VP, DiscreteChain, SubVP


def _weight(name, sde):
    return variance_weight(sde) if name == "plain" else likelihood_weight(sde)


def _expected_loss(objective, score_fn, data, t):
    """E over x_0 (point masses) and z of the loss at t, D = 1, by summation."""
    z = np.linspace(-9, 9, 601)
    density = np.exp(-0.5 * z**2) / math.sqrt(2 * math.pi) * (z[1] - z[0])

    @jax.jit
    def expected(point):
        losses = objective.at(
            score_fn, jnp.full((len(z), 1), point), jnp.full(len(z), t), jnp.asarray(z[:, None])
        )
        return jnp.sum(losses * density)

    return sum(
        weight * float(expected(point)) for weight, point in zip(data.weights, data.means[:, 0])
    )


@pytest.mark.parametrize("reduce", ["mean", "sum"])
@pytest.mark.parametrize("name", PROCESSES)
def test_excess_loss_is_the_fisher_divergence(name, reduce, x64):
    """E loss(s) - E loss(exact) = lambda E_p_t |s - exact|^2 (half for "sum"): a minimum."""
    sde = PROCESSES[name]
    data = GaussianMixture.isotropic([0.2, 0.5, 0.3], [[-1.0], [0.4], [0.9]], 0.0)
    t = float(sde.time_at_log_snr(jnp.asarray(1.5)))
    exact = data.score_fn(sde)

    def other(x, t):
        return exact(x, t) * 1.1 + 0.3 * jnp.sin(2 * x) - 0.1

    grid = np.linspace(-12, 12, 4001)
    points = jnp.asarray(grid[:, None])
    difference = (other(points, jnp.asarray(t)) - exact(points, jnp.asarray(t)))[:, 0]
    fisher = np.trapezoid(np.exp(data.log_prob(sde, points, jnp.asarray(t))) * difference**2, grid)
    for weight in (variance_weight(sde), likelihood_weight(sde)):
        objective = DenoisingScoreMatching(sde, UniformTime(sde), weight, reduce)
        excess = _expected_loss(objective, other, data, t) - _expected_loss(
            objective, exact, data, t
        )
        expected = float(weight(jnp.asarray(t))) * fisher * (1.0 if reduce == "mean" else 0.5)
        assert excess == pytest.approx(expected, rel=1e-8)
    assert float(variance_weight(sde)(jnp.asarray(t))) == pytest.approx(
        float(sde.marginal(jnp.asarray(t))[1]) ** 2
    )
    assert float(likelihood_weight(sde)(jnp.asarray(t))) == pytest.approx(
        float(sde.coefficients(jnp.asarray(t))[1])
    )


class TestInterpolatedWeight:
    def test_by_hand(self, x64):
        """sigma^(2 (1 - k)) g^(2 k) for VP, where g^2 = beta and sigma^2 = 1 - exp(-B)."""
        t = jnp.asarray([0.01, 0.3, 1.0])
        beta, variance = 0.1 + 19.9 * t, 1 - jnp.exp(-(0.1 * t + 9.95 * t**2))
        for k in (0.0, 0.3, 1.0):
            expected = variance ** (1 - k) * beta**k
            np.testing.assert_allclose(interpolated_weight(VP(), k)(t), expected, rtol=1e-9)

    @pytest.mark.parametrize("name", PROCESSES)
    def test_ends(self, name):
        sde = PROCESSES[name]
        t = sde.time_at_log_snr(jnp.asarray([3.0, 0.0, -2.0]))
        np.testing.assert_allclose(
            interpolated_weight(sde, 0)(t), variance_weight(sde)(t), rtol=1e-6
        )
        np.testing.assert_allclose(
            interpolated_weight(sde, 1)(t), likelihood_weight(sde)(t), rtol=1e-6
        )

    def test_all_coincide_for_ve(self, x64):
        """Table 9.1, up to the constant (2 log(sigma_max/sigma_min))^k."""
        sde, t = VE(0.01, 50.0), jnp.linspace(0.0, 1.0, 7)
        for k in (0.5, 1.0):
            ratio = interpolated_weight(sde, k)(t) / variance_weight(sde)(t)
            np.testing.assert_allclose(ratio, (2 * math.log(5000)) ** k, rtol=1e-9)

    @pytest.mark.parametrize("k", [-0.01, 1.01, math.nan])
    def test_refusals(self, k):
        with pytest.raises(ValueError, match=r"likelihood_weighting must be in \[0, 1\].*got"):
            interpolated_weight(VP(), k)


def _mean_over_time(sde, h, n=200001):
    """Mean of h over [t_min, t_max], on a grid fine at small times."""
    t = np.geomspace(sde.t_min, sde.t_max, n)
    return np.trapezoid(np.asarray(h(jnp.asarray(t))), t) / (sde.t_max - sde.t_min)


@pytest.mark.parametrize(("name", "weight"), [("vp", "lw"), ("subvp", "lw"), ("edm", "plain")])
def test_value_at_the_exact_score_and_both_time_samplers(name, weight, x64):
    """For N(mu, c^2 I): lambda/sigma^2 alpha^2 c^2/(alpha^2 c^2 + sigma^2), averaged over time."""
    sde, c, n, d = dataclasses.replace(PROCESSES[name], t_min=1e-2), 0.5, 30000, 4
    data = GaussianMixture.isotropic([1.0], np.full((1, d), 0.3), c)

    def h(t):
        (alpha, sigma), (_, g2) = sde.marginal(t), sde.coefficients(t)
        return (
            (1.0 if weight == "plain" else g2 / sigma**2)
            * (alpha * c) ** 2
            / ((alpha * c) ** 2 + sigma**2)
        )

    expected = _mean_over_time(sde, h)
    x0 = data.sample(jax.random.key(0), n, jnp.float64)
    for sampler in (UniformTime(sde), LogSNRUniform(sde)):

        @jax.jit
        def losses(x0, sampler=sampler):
            mean, total = (
                DenoisingScoreMatching(sde, sampler, _weight(weight, sde), r)
                for r in ("mean", "sum")
            )
            return [
                objective(jax.random.key(1), data.score_fn(sde), x0) for objective in (mean, total)
            ]

        mean, total = losses(x0)
        assert_close(total, d / 2 * mean, 1e-10)
        error = float(jnp.std(mean)) / math.sqrt(n)
        assert error < 0.03 * expected
        assert abs(float(jnp.mean(mean)) - expected) < 4.5 * error


def test_importance_sampling_reduces_the_variance(x64):
    """Likelihood weighting, VP from t_min = 1e-5: same mean, a tenth of the variance or less."""
    sde, n = VP(), 40000
    data = GaussianMixture.isotropic([1.0], np.zeros((1, 4)), 0.5)
    x0 = data.sample(jax.random.key(0), n, jnp.float64)
    stats = []
    for sampler in (UniformTime(sde), LogSNRUniform(sde)):
        objective = DenoisingScoreMatching(sde, sampler, likelihood_weight(sde))
        losses = jax.jit(lambda x0, o=objective: o(jax.random.key(2), data.score_fn(sde), x0))(x0)
        stats.append((float(jnp.mean(losses)), float(jnp.var(losses))))
    (mean_a, var_a), (mean_b, var_b) = stats
    assert var_a > 10 * var_b
    assert abs(mean_a - mean_b) < 5 * math.sqrt((var_a + var_b) / n)


@pytest.mark.parametrize(("sde", "least"), [(VP(), 50), (SubVP(), 50), (SubVP(t_min=1e-2), 5)])
def test_importance_sampling_reduces_the_variance_of_an_imperfect_model(sde, least):
    """Likelihood weighting on 8 x 8 images, nine tenths of their score.

    650 and 720 times less from t = 1e-5. From sub-VP's published t_min = 1e-2, where g^2/sigma^2
    varies less, ten times.
    """
    n, means = 20000, np.random.default_rng(1).uniform(-0.7, 0.7, (3, 8, 8, 1))
    data = GaussianMixture.isotropic([0.5, 0.3, 0.2], means, 0.02)
    x0 = data.sample(jax.random.key(0), n)

    def variance(sampler):
        objective = DenoisingScoreMatching(sde, sampler, likelihood_weight(sde))
        return float(jnp.var(jax.jit(lambda x0: objective(jax.random.key(2), score_fn, x0))(x0)))

    def score_fn(x, t):
        return 0.9 * data.score(sde, x, t)

    assert variance(UniformTime(sde)) > least * variance(LogSNRUniform(sde))


def test_ddpm_is_the_error_of_the_predicted_noise():
    """|F - z|^2, and SMLD's sigma^2 |s + z/sigma|^2, by hand."""
    x0, z = jax.random.normal(jax.random.key(0), (2, 5, 3))
    i = jnp.asarray([0.0, 3.0, 10.0, 20.0, 39.0])

    def network(x, labels):
        return jnp.tanh(x) + 0.01 * labels[:, None]

    chain = DiscreteChain.ddpm(n=40)
    objective = DenoisingScoreMatching(chain, UniformIndex(chain), variance_weight(chain))
    alpha, sigma = (v[:, None] for v in chain.marginal(i))
    output = network(alpha * x0 + sigma * z, i)
    losses = objective.at(noise_prediction(chain, index_label).score_fn(network), x0, i, z)
    assert_close(losses, jnp.mean((output - z) ** 2, 1), 1e-5)
    chain = DiscreteChain.smld(0.1, 5.0, 40)
    objective = DenoisingScoreMatching(chain, UniformIndex(chain), variance_weight(chain), "sum")
    sigma = chain.marginal(i)[1][:, None]
    output = network(x0 + sigma * z, 39 - i)
    losses = objective.at(network_score(reversed_index_label(chain)).score_fn(network), x0, i, z)
    assert_close(losses, 0.5 * jnp.sum((sigma * output + z) ** 2, 1), 1e-5)


def test_a_call_draws_times_and_noise():
    """The call is `at` at drawn (t, z), times w; float32 data has float32 losses; keys decide."""
    sde, x0 = VE(), jax.random.normal(jax.random.key(0), (6, 2, 2, 1))
    seen = []

    def score_fn(x, t):
        seen.append((x, t))
        return -x

    objective = DenoisingScoreMatching(sde, UniformTime(sde), variance_weight(sde))
    losses = objective(jax.random.key(1), score_fn, x0)
    x, t = seen[0]
    z = (x - x0) / sde.marginal(t)[1][:, None, None, None]
    assert len(np.unique(t)) == 6
    assert abs(float(jnp.mean(z))) < 1
    assert 0.5 < float(jnp.std(z)) < 1.6
    assert_close(losses, objective.at(score_fn, x0, t, z), 1e-4)
    assert losses.dtype == jnp.float32
    assert_close(objective(jax.random.key(1), score_fn, x0), losses, 0)
    assert float(jnp.max(jnp.abs(objective(jax.random.key(2), score_fn, x0) - losses))) > 1e-3


@pytest.mark.parametrize("discrete", [False, True])
def test_loss_of_an_example_depends_on_its_own_key_alone(discrete):
    """Row i of a batch is the same example alone with the same key; one key gives the same law."""
    process = DiscreteChain.ddpm(n=1000) if discrete else VP()
    times = (UniformIndex if discrete else UniformTime)(process)
    objective = DenoisingScoreMatching(process, times, variance_weight(process))
    x0, keys = jnp.ones((4000, 4)), sample_keys(jax.random.key(3), jnp.arange(4000))

    @jax.jit
    def losses(keys, x0):
        return objective(keys, lambda x, t: -x, x0)

    whole = losses(keys, x0)
    np.testing.assert_allclose(losses(keys[5:8], x0[5:8]), whole[5:8], rtol=1e-5)
    assert len(np.unique(whole)) == 4000
    one = losses(jax.random.key(4), x0)
    error = math.hypot(float(jnp.std(whole)), float(jnp.std(one))) / math.sqrt(4000)
    assert abs(float(jnp.mean(whole) - jnp.mean(one))) < 4 * error


def test_times_and_noise_are_independent():
    """In one dimension a key used twice would make the noise a function of the time."""
    sde, seen = VP(), []

    def score_fn(x, t):
        seen.append((x, t))
        return -x

    objective = DenoisingScoreMatching(sde, UniformTime(sde), variance_weight(sde))
    objective(jax.random.key(0), score_fn, jnp.zeros((1000, 1)))
    objective(sample_keys(jax.random.key(1), jnp.arange(1000)), score_fn, jnp.zeros((1000, 1)))
    for x, t in seen:
        assert abs(np.corrcoef(x[:, 0] / sde.marginal(t)[1], t)[0, 1]) < 0.15


def test_message():
    with pytest.raises(ValueError, match="reduce must be 'mean' or 'sum'; got 'median'"):
        DenoisingScoreMatching(VP(), UniformTime(VP()), variance_weight(VP()), "median")
