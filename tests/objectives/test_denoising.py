"""Denoising score matching: reference values, its minimiser, its value, and importance sampling."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mathcases import SDES, affine_network, reference_chain, reference_mixture, reference_sde

from golden import assert_close, load
from score_sde.analytic import GaussianMixture
from score_sde.objectives import (
    DenoisingScoreMatching,
    LogSNRUniform,
    UniformIndex,
    UniformTime,
    interpolated_weight,
    likelihood_weight,
    variance_weight,
)
from score_sde.parameterize import index_label, network_score, noise_prediction, reversed_index_label
from score_sde.sde import VE, VP, DiscreteChain, GaussianSDE, SubVP

CASES = [(reduce, weight) for reduce in ("mean", "sum") for weight in ("plain", "lw")]


def _weight(name, sde):
    return variance_weight(sde) if name == "plain" else likelihood_weight(sde)


@dataclasses.dataclass(frozen=True)
class Switched(GaussianSDE):
    """With ScoreFlow's marginals at small times: alpha = 1 - B/2 and sigma = B^power (VP 1/2, sub-VP 1)."""

    sde: GaussianSDE
    power: float
    t_min: float = 1e-5
    t_max: float = 1.0
    prior_std = 1.0

    def marginal(self, t):
        integral = t * (self.sde.beta_min + 0.5 * t * (self.sde.beta_max - self.sde.beta_min))
        small = integral / 2 <= 1e-3
        alpha, sigma = self.sde.marginal(t)
        return jnp.where(small, 1 - integral / 2, alpha), jnp.where(small, integral**self.power, sigma)


class TestReferenceValues:
    @pytest.mark.parametrize("precision", ["float64", "float32"])
    @pytest.mark.parametrize("name", ["ve", "vp", "subvp"])
    def test_losses_and_gradients(self, name, precision, request):
        if precision == "float64":
            request.getfixturevalue("x64")
        stored, tol = load(f"math/losses_dsm_{name}"), 1e-8 if precision == "float64" else 1e-4
        sde, data = reference_sde(name, stored), reference_mixture(stored)
        x, t, z, a, b = (jnp.asarray(stored[k], precision) for k in ("x", "t", "z", "affine_A", "affine_b"))
        assert_close(sde.perturb(x, t, z), stored["perturbed"], tol)
        assert_close(sde.t_min + (sde.t_max - sde.t_min) * stored["u"], stored["t"], 1e-12)
        flow = sde if name == "ve" else Switched(sde, 0.5 if name == "vp" else 1.0)

        @jax.jit
        def evaluate(a, b):
            results = {}
            for reduce, weight in CASES:
                suffix = f"{reduce}_{weight}"
                objective = DenoisingScoreMatching(sde, UniformTime(sde), _weight(weight, sde), reduce)
                switched = DenoisingScoreMatching(flow, UniformTime(sde), _weight(weight, flow), reduce)

                def loss(a, b, objective=objective):
                    per_sample = objective.at(affine_network(a, b, float(stored["affine_c"])), x, t, z)
                    return jnp.mean(per_sample), per_sample

                (value, per_sample), (da, db) = jax.value_and_grad(loss, (0, 1), has_aux=True)(a, b)
                exact = objective.at(data.score_fn(sde), x, t, z)
                results |= {
                    f"loss_affine_{suffix}": value,
                    f"per_sample_affine_{suffix}": per_sample,
                    f"grad_affine_A_{suffix}": da,
                    f"grad_affine_b_{suffix}": db,
                    f"per_sample_gmm_{suffix}": exact,
                    f"loss_gmm_{suffix}": jnp.mean(exact),
                    f"flow_loss_affine_{suffix}": loss(a, b, switched)[0],
                }
            return results

        for key, value in evaluate(a, b).items():
            assert_close(value, stored[key], tol, key)

    @pytest.mark.parametrize("eps", ["1e-5", "1e-3"])
    @pytest.mark.parametrize("name", ["vp", "subvp"])
    def test_importance_sampled_likelihood_loss(self, name, eps, x64):
        """The reference leaves out Z/(t_max - t_min), which our w contains, and switches marginals at small t."""
        stored = load(f"math/losses_dsm_{name}")

        def get(key):
            return stored[f"flow_iw_{key}__eps{eps}"]

        sde = reference_sde(name, stored, t_min=float(eps))
        switched = Switched(sde, 0.5 if name == "vp" else 1.0, t_min=float(eps))
        x, z, t = jnp.asarray(stored["x"]), jnp.asarray(stored["z"]), jnp.asarray(get("t"))
        sampler = LogSNRUniform(sde)
        start = sde.log_snr(jnp.asarray(sde.t_min))
        our_t, w = sampler.at((start - sde.log_snr(t)) / sampler.normalizer(jnp.float64))
        np.testing.assert_allclose(our_t, t, rtol=1e-9)
        scale = float(sampler.normalizer(jnp.float64)) / (sde.t_max - sde.t_min)
        np.testing.assert_allclose(get("Z"), scale * (sde.t_max - sde.t_min), rtol=1e-4)
        for reduce in ("mean", "sum"):

            def per_sample(a, b, process, weight, reduce=reduce):
                network = affine_network(a, b, float(stored["affine_c"]))
                return DenoisingScoreMatching(process, sampler, weight, reduce).at(network, x, t, z)

            a, b = jnp.asarray(stored["affine_A"]), jnp.asarray(stored["affine_b"])
            ours = w * per_sample(a, b, sde, likelihood_weight(sde)) / scale
            late = np.asarray(-0.5 * jnp.log(sde.marginal(t)[0] ** 2)) > 1e-3  # where nothing was switched
            assert_close(np.asarray(ours)[late], get(f"per_sample_affine_{reduce}")[late], 1e-8)
            assert_close(ours, get(f"per_sample_affine_{reduce}"), 2e-3)

            def loss(a, b, per_sample=per_sample):
                return jnp.mean(per_sample(a, b, switched, variance_weight(switched)))

            value, (da, db) = jax.jit(jax.value_and_grad(loss, (0, 1)))(a, b)
            assert_close(value, get(f"loss_affine_{reduce}"), 1e-8)
            assert_close(da, get(f"grad_affine_A_{reduce}"), 1e-8)
            assert_close(db, get(f"grad_affine_b_{reduce}"), 1e-8)

    @pytest.mark.parametrize("case", ["smld_a", "smld_b", "ddpm_a", "ddpm_b"])
    def test_discrete(self, case, x64):
        stored = load("math/losses_discrete")

        def get(key):
            return stored[f"{case}__{key}"]

        low, high, n = get("p")
        keys = ("sigma_min", "sigma_max", "N") if case[:4] == "smld" else ("beta_min", "beta_max", "N")
        chain = reference_chain("ve" if case[:4] == "smld" else "vp", dict(zip(keys, (low, high, n))))
        labels = jnp.asarray(get("labels"), float)
        if case[:4] == "smld":
            t, wrap = n - 1 - labels, network_score(reversed_index_label(chain))
            assert_close(chain.marginal(t)[1], get("sigmas_used"), 1e-12)
        else:
            t, wrap = labels, noise_prediction(chain, index_label)
            assert_close(chain.marginal(t)[0], get("sqrt_acp_used"), 1e-12)
            assert_close(chain.marginal(t)[1], get("sqrt_1macp_used"), 1e-12)
        for reduce in ("mean", "sum"):
            objective = DenoisingScoreMatching(chain, UniformIndex(chain), variance_weight(chain), reduce)

            def loss(a, b, objective=objective):
                network = affine_network(a, b, float(stored["affine_c"]))
                score_fn = wrap.score_fn(lambda x, label: network(x, label / n))
                per_sample = objective.at(score_fn, jnp.asarray(get("x")), t, jnp.asarray(get("z")))
                return jnp.mean(per_sample), per_sample

            gradient = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))
            (value, per_sample), (da, db) = gradient(
                jnp.asarray(stored["affine_A"]), jnp.asarray(stored["affine_b"])
            )
            for key, result in (("loss", value), ("per_sample", per_sample), ("grad_A", da), ("grad_b", db)):
                assert_close(result, get(f"{reduce}_{key}"), 1e-8, key)


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

    return sum(weight * float(expected(point)) for weight, point in zip(data.weights, data.means[:, 0]))


@pytest.mark.parametrize("reduce", ["mean", "sum"])
@pytest.mark.parametrize("name", SDES)
def test_excess_loss_is_the_fisher_divergence(name, reduce, x64):
    """E loss(s) - E loss(exact) = lambda E_p_t |s - exact|^2 (half for "sum"): the score minimises it."""
    sde = SDES[name]
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
        excess = _expected_loss(objective, other, data, t) - _expected_loss(objective, exact, data, t)
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

    @pytest.mark.parametrize("name", SDES)
    def test_ends(self, name):
        sde = SDES[name]
        t = sde.time_at_log_snr(jnp.asarray([3.0, 0.0, -2.0]))
        np.testing.assert_allclose(interpolated_weight(sde, 0)(t), variance_weight(sde)(t), rtol=1e-6)
        np.testing.assert_allclose(interpolated_weight(sde, 1)(t), likelihood_weight(sde)(t), rtol=1e-6)

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
    sde, c, n, d = dataclasses.replace(SDES[name], t_min=1e-2), 0.5, 30000, 4
    data = GaussianMixture.isotropic([1.0], np.full((1, d), 0.3), c)

    def h(t):
        (alpha, sigma), (_, g2) = sde.marginal(t), sde.coefficients(t)
        return (
            (1.0 if weight == "plain" else g2 / sigma**2) * (alpha * c) ** 2 / ((alpha * c) ** 2 + sigma**2)
        )

    expected = _mean_over_time(sde, h)
    x0 = data.sample(jax.random.key(0), n, jnp.float64)
    for sampler in (UniformTime(sde), LogSNRUniform(sde)):

        @jax.jit
        def losses(x0, sampler=sampler):
            mean, total = (
                DenoisingScoreMatching(sde, sampler, _weight(weight, sde), r) for r in ("mean", "sum")
            )
            return [objective(jax.random.key(1), data.score_fn(sde), x0) for objective in (mean, total)]

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
    """Likelihood weighting on 8 x 8 images, nine tenths of their score: 650 and 720 times less from t = 1e-5.

    From sub-VP's published t_min = 1e-2, where g^2/sigma^2 varies less, ten times.
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
    """The call is `at` at drawn (t, z), times w; float32 data keeps float32 losses; the key decides."""
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


def test_times_and_noise_are_independent():
    """In one dimension a key used twice would make the noise a function of the time."""
    sde, seen = VP(), []

    def score_fn(x, t):
        seen.append((x, t))
        return -x

    objective = DenoisingScoreMatching(sde, UniformTime(sde), variance_weight(sde))
    objective(jax.random.key(0), score_fn, jnp.zeros((1000, 1)))
    x, t = seen[0]
    assert abs(np.corrcoef(x[:, 0] / sde.marginal(t)[1], t)[0, 1]) < 0.15


def test_message():
    with pytest.raises(ValueError, match="reduce must be 'mean' or 'sum'; got 'median'"):
        DenoisingScoreMatching(VP(), UniformTime(VP()), variance_weight(VP()), "median")
