"""Guidance: exact special cases, mistakes that they show, and what is evaluated."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from inverse.dense import Dense
from mathcases import SDES, one_step

from golden import assert_close
from score_sde import guidance
from score_sde.analytic import GaussianMixture
from score_sde.inverse.dps import DPS
from score_sde.inverse.measurement import Measurement, simulate
from score_sde.inverse.mri import single_coil
from score_sde.inverse.operators import Identity, Masked
from score_sde.sde import VP, Perturbation
from score_sde.steppers import Ancestral, EulerMaruyama, Langevin, ReverseDiffusion

THREE = pytest.mark.parametrize("name", ["ve", "vp", "subvp"])
EVENT = (2, 2, 1)
STDS = (0.4, 0.05, 0.0)
SHARES = (0.05, 0.3, 0.6)
"""Noise of the measurement, and time as a share of t_max: one of each for a sample."""


def rotation(seed, d=4):
    """(d, d) orthogonal."""
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(d, d)))[0]


def gaussian(covariance, seed=0):
    """One Gaussian over images of shape EVENT."""
    mean = np.random.default_rng(seed).normal(size=(1, *EVENT))
    return GaussianMixture.full([1.0], mean, np.asarray(covariance)[None])


def problem(data, matrices, seed=1):
    """(measurement, posteriors): one matrix, one y and one of STDS for each sample."""
    rng = np.random.default_rng(seed)
    operators = [Dense(jnp.asarray(matrix)[None], EVENT) for matrix in matrices]
    ys = rng.normal(size=(3, len(matrices[0]))) + np.stack(matrices) @ data.mean().ravel()
    posteriors = [data.condition(o, y, std) for o, y, std in zip(operators, ys, STDS, strict=True)]
    operator = Dense(jnp.asarray(np.stack(matrices)), EVENT)
    return Measurement(operator, jnp.asarray(ys), jnp.asarray(STDS)), posteriors


def states(sde, seed=2):
    """(x, t): three samples at three times."""
    x = jax.random.normal(jax.random.key(seed), (3, *EVENT))
    return x, jnp.asarray(SHARES) * sde.t_max


def oracle(posteriors, sde, x, t):
    """The exact conditional score of each sample."""
    rows = [p.score(sde, x[i : i + 1], t[i : i + 1]) for i, p in enumerate(posteriors)]
    return jnp.concatenate(rows)


def full(seed):
    """A covariance without symmetries: eigenvalues 0.05 to 1.5."""
    q = rotation(seed)
    return q * [0.05, 0.2, 0.6, 1.5] @ q.T


RANDOM = [np.random.default_rng(seed).normal(size=(3, 4)) for seed in (10, 11, 12)]
ROWS = [rotation(seed)[:3] for seed in (13, 14, 15)]
C = 0.7
MU_C = C**2 * np.eye(4)


def _eigenrows():
    """Rows along eigenvectors of full(5), each of another length: A V A^T is diagonal."""
    lengths = np.asarray([[0.5], [1.5], [3.0]])
    return [lengths * rotation(5).T[list(order)] for order in ((0, 1, 2), (3, 1, 0), (2, 3, 1))]


EXACT = {
    "dps": (guidance.dps, (C,), MU_C, ROWS),
    "pigdm": (guidance.pigdm, (C,), MU_C, RANDOM),
    "tmpd": (guidance.tmpd, (), full(5), _eigenrows()),
    "mmps": (guidance.mmps, (4,), full(5), RANDOM),
    "mmps, one step": (guidance.mmps, (1,), MU_C, ROWS),
}
"""Method -> (function, its options, covariance of the data, a matrix for each sample)."""


def test_known_pixels(x64):
    """All methods are exact for known pixels of N(mu, c^2 I), each sample with its own mask."""
    sde, data = VP(), gaussian(MU_C)
    mask = np.random.default_rng(4).uniform(size=(3, *EVENT)) < 0.5
    operator = Masked(Identity(EVENT), jnp.asarray(mask))
    z = jax.random.normal(jax.random.key(0), (3, *EVENT))
    measurement = Measurement(operator, operator.restrict(z), jnp.asarray(STDS))
    one = [Masked(Identity(EVENT), jnp.asarray(row[None])) for row in mask]
    posteriors = map(data.condition, one, measurement.y, STDS)
    x, t = states(sde)
    expected = oracle(posteriors, sde, x, t)

    @jax.jit
    def evaluate(x, t):
        known = {"dps": (C,), "pigdm": (C,), "tmpd": (), "mmps": ()}
        score_fn = data.score_fn(sde)
        made = {k: getattr(guidance, k)(score_fn, sde, measurement, *v) for k, v in known.items()}
        return {key: guided(x, t) for key, guided in made.items()}

    for key, score in evaluate(x, t).items():
        assert_close(score, expected, 1e-8, key)


def test_complex_data(x64):
    """For N(mu, c^2 I) and a masked unitary transform the diagonal of TMPD is that of PiGDM."""
    event, sde = (4, 4, 2), VP()
    mask = np.random.default_rng(5).uniform(size=(4, 4)) < 0.5
    mean = np.random.default_rng(6).normal(size=event)
    data = GaussianMixture.isotropic([1.0], [mean], C)
    operator = single_coil(event, mask, complex_images=True)
    x = jax.random.normal(jax.random.key(1), (2, *event))
    measurement = simulate(operator, x, jnp.asarray([0.2, 0.7]), jax.random.key(2))
    t = jnp.asarray([0.2, 0.5])
    plain = data.score_fn(sde)
    wanted = guidance.pigdm(plain, sde, measurement, C)(x, t)
    assert_close(guidance.tmpd(plain, sde, measurement)(x, t), wanted, 1e-9)
    assert float(jnp.abs(wanted - plain(x, t)).max()) > 0.1


@dataclasses.dataclass(frozen=True, eq=False)
class Marginals(Perturbation):
    """A process at the times of one call: alpha and sigma are given."""

    alpha: jax.Array
    sigma: jax.Array

    def marginal(self, t):
        return self.alpha, self.sigma

    @property
    def prior_std(self):
        return 1.0


@functools.cache
def compiled(method):
    """One program for all processes: (x, alpha and sigma, those believed, measurement) -> scores.

    They are the guided and the plain score. A faulty formula believes another alpha or sigma.
    """
    make, options, covariance, _ = EXACT[method]
    data = gaussian(covariance)

    @jax.jit
    def evaluate(x, true, believed, measurement):
        score_fn = data.score_fn(Marginals(*true))
        guided = make(score_fn, Marginals(*believed), measurement, *options)
        return guided(x, true[0]), score_fn(x, true[0])

    return evaluate


@pytest.mark.parametrize("method", EXACT)
@THREE
def test_exact_for_gaussians(method, name, x64):
    """The guided score is the exact conditional score; std = 0 included."""
    sde, (_, _, covariance, matrices) = SDES[name], EXACT[method]
    measurement, posteriors = problem(gaussian(covariance), matrices)
    x, t = states(sde)
    marginals = sde.marginal(t)
    guided, plain = compiled(method)(x, marginals, marginals, measurement)
    expected = oracle(posteriors, sde, x, t)
    assert_close(guided, expected, 1e-8, method)
    assert float(jnp.max(jnp.abs(expected - plain))) > 0.1


@pytest.mark.parametrize("method", EXACT)
def test_mistakes_are_seen(method, x64):
    """A factor 2, alpha missing or squared, sigma for sigma^2: none passes the test above."""
    sde, (_, _, covariance, matrices) = VP(), EXACT[method]
    measurement, posteriors = problem(gaussian(covariance), matrices)
    x, t = states(sde)
    expected, evaluate = oracle(posteriors, sde, x, t), compiled(method)
    alpha, sigma = sde.marginal(t)
    right, plain = evaluate(x, (alpha, sigma), (alpha, sigma), measurement)
    squared = dataclasses.replace(measurement, std=measurement.std**2)
    wrong = {
        "factor 2": 2 * right - plain,
        "sign": 2 * plain - right,
        "no alpha": evaluate(x, (alpha, sigma), (alpha**0, sigma), measurement)[0],
        "alpha^2": evaluate(x, (alpha, sigma), (alpha**2, sigma), measurement)[0],
        "sigma for sigma^2": evaluate(x, (alpha, sigma), (alpha, sigma**0.5), measurement)[0],
        "sigma^4 for sigma^2": evaluate(x, (alpha, sigma), (alpha, sigma**2), measurement)[0],
        "std^4 for std^2": evaluate(x, (alpha, sigma), (alpha, sigma), squared)[0],
    }
    for mistake, score in wrong.items():
        assert not float(jnp.max(jnp.abs(score - expected))) <= 1e-2, mistake


@pytest.mark.parametrize("make", [guidance.dps, guidance.pigdm])
def test_a_wrong_spread_is_seen(make, x64):
    """c for c^2, and r for r^2 where c = 1."""
    sde, matrices = VP(), ROWS if make is guidance.dps else RANDOM
    data = gaussian(MU_C)
    measurement, posteriors = problem(data, matrices)
    x, t = states(sde)
    expected = oracle(posteriors, sde, x, t)
    for c in (C**0.5, C**2, 1.0):
        score = jax.jit(make(data.score_fn(sde), sde, measurement, c))(x, t)
        assert float(jnp.max(jnp.abs(score - expected))) > 1e-2


def test_approximations_miss_a_mixture(x64):
    """Where no method is exact, none repeats the oracle: they would not be told apart by it."""
    sde = VP()
    means = np.random.default_rng(3).normal(size=(2, *EVENT))
    data = GaussianMixture.full([0.4, 0.6], means, [full(6), full(7)])
    measurement, posteriors = problem(data, RANDOM)
    x, t = states(sde)
    score_fn, expected = data.score_fn(sde), oracle(posteriors, sde, *states(sde))
    made = [guidance.dps, guidance.pigdm, guidance.tmpd, guidance.mmps]

    @jax.jit
    def evaluate(x, t):
        every = {make.__name__: make(score_fn, sde, measurement)(x, t) for make in made}
        return every | {"mmps 4": guidance.mmps(score_fn, sde, measurement, 4)(x, t)}

    every = evaluate(x, t)
    errors = {key: float(jnp.mean((v - expected)[1:] ** 2)) ** 0.5 for key, v in every.items()}
    assert min(errors.values()) > 1e-3
    assert errors["mmps 4"] < min(errors["dps"], errors["pigdm"])


def test_dps_is_a_gradient(x64):
    """-grad |y - A x0|^2/(2 (std^2 + r^2)); with c = 0 the paper's likelihood, r = 0."""
    sde = VP()
    data = GaussianMixture.isotropic([0.4, 0.6], [np.ones(EVENT), -np.ones(EVENT)], 0.5)
    measurement, _ = problem(data, RANDOM)
    measurement = dataclasses.replace(measurement, std=jnp.asarray([0.1, 0.5, 1.0]))
    x, t = states(sde)
    score_fn = data.score_fn(sde)
    alpha, sigma = sde.marginal(t)

    def loss(x, c):
        x0 = sde.tweedie(x, t, score_fn(x, t))
        squares = jnp.sum((measurement.y - measurement.operator.forward(x0)) ** 2, axis=1)
        spread = c**2 * sigma**2 / (alpha**2 * c**2 + sigma**2)
        return jnp.sum(squares / (2 * (measurement.std**2 + spread)))

    for c in (0.0, 0.5):
        expected = score_fn(x, t) - jax.grad(loss)(x, c)
        assert_close(guidance.dps(score_fn, sde, measurement, c)(x, t), expected, 1e-10)


class TestStepper:
    """DPS as in its authors' code."""

    def _made(self, predictor, seed=1, zeta=0.7):
        data = GaussianMixture.isotropic([0.4, 0.6], [np.ones(EVENT), -np.ones(EVENT)], 0.5)
        measurement, _ = problem(data, RANDOM, seed)
        return DPS(predictor, SDES["vp"], measurement, zeta), data

    @pytest.mark.parametrize("kind", [Ancestral, ReverseDiffusion, EulerMaruyama])
    def test_one_step(self, kind, x64):
        """The predictor's step minus zeta grad |y - A x0(x_t)|: the gradient at x_t, not at x_s."""
        sde = SDES["vp"]
        stepper, data = self._made(kind(sde))
        x, _ = states(sde)
        z = jax.random.normal(jax.random.key(3), (1, *x.shape))
        t, s = jnp.asarray(0.4), jnp.asarray(0.3)
        score_fn, measurement = data.score_fn(sde), stepper.measurement

        def norms(x):
            x0 = sde.tweedie(x, t, score_fn(x, jnp.full(3, t)))
            residual = measurement.y - measurement.operator.forward(x0)
            return jnp.sum(jnp.linalg.norm(residual, axis=1))

        @jax.jit
        def evaluate(x):
            guided = one_step(stepper, score_fn, x, t, s, z)
            return guided, one_step(kind(sde), score_fn, x, t, s, z), jax.grad(norms)(x)

        (guided, guided_mean), (plain, mean), gradient = evaluate(x)
        assert_close(guided, plain - 0.7 * gradient, 1e-10)
        assert_close(guided_mean, mean - 0.7 * gradient, 1e-10)
        pairs = np.asarray([[0.4, 0.3]])
        assert (stepper.draws, stepper.evaluations(pairs), stepper.spent((), pairs)) == (1, 1, 1)

    def test_a_met_measurement_is_left_alone(self):
        """|r| has no gradient at r = 0; the sample is not moved there, and is no NaN."""
        stepper, data = self._made(Ancestral(SDES["vp"]))
        met = Measurement(Dense(jnp.zeros((1, 3, 4)), EVENT), jnp.zeros((3, 3)), jnp.zeros(3))
        x, t, s = states(SDES["vp"])[0], jnp.asarray(0.4), jnp.asarray(0.3)
        both = (stepper.stepper, dataclasses.replace(stepper, measurement=met))

        @jax.jit
        def evaluate(x):
            z, score_fn = jnp.zeros((1, *x.shape)), data.score_fn(SDES["vp"])
            return [one_step(stepper, score_fn, x, t, s, z)[0] for stepper in both]

        plain, guided = evaluate(x)
        assert_close(guided, plain, 1e-6)

    def test_other_steppers_are_refused(self):
        with pytest.raises(ValueError, match="Langevin may ask for others"):
            self._made(Langevin(0.1))


def measured_guidances(score_fn, sde, measurement):
    """Name -> guided score, of those that take a measurement."""
    return {
        "dps": guidance.dps(score_fn, sde, measurement),
        "pigdm": guidance.pigdm(score_fn, sde, measurement),
        "tmpd": guidance.tmpd(score_fn, sde, measurement),
        "mmps": guidance.mmps(score_fn, sde, measurement, 3),
    }


def two_modes():
    """Two modes of images."""
    return GaussianMixture.isotropic([0.4, 0.6], [np.ones(EVENT), -0.5 * np.ones(EVENT)], 0.5)


def test_samples_are_independent():
    """A sample alone is the sample among others, and one measurement serves them all."""
    sde, data = VP(), two_modes()
    measurement, _ = problem(data, RANDOM)
    measurement = jax.tree.map(lambda v: v.astype(jnp.float32), measurement)
    measurement = dataclasses.replace(measurement, std=jnp.full(3, 0.2))
    x, t = states(sde)

    @jax.jit
    def evaluate(measurement, x, t):
        every = measured_guidances(data.score_fn(sde), sde, measurement)
        return {key: guided(x, t) for key, guided in every.items()}

    together = evaluate(measurement, x, t)
    rows = [jax.tree.map(lambda v, i=i: v[i : i + 1], (measurement, x, t)) for i in range(3)]
    alone = [evaluate(*row) for row in rows]
    for key, value in together.items():
        assert value.dtype == jnp.float32
        assert_close(value, jnp.concatenate([one[key] for one in alone]), 1e-4, key)
    same = jnp.tile(x[:1], (3, 1, 1, 1)), jnp.tile(t[:1], 3)
    for key, value in evaluate(rows[0][0], *same).items():
        assert_close(value, jnp.tile(alone[0][key], (3, 1, 1, 1)), 1e-4, key)


@pytest.fixture
def counted():
    """(score function, {"evaluations": n, "vjps": n}), counting what is computed, not traced."""
    counts = {"evaluations": 0, "vjps": 0}

    def count(what, v):
        counts[what] += not isinstance(v, jax.core.Tracer)

    @jax.custom_vjp
    def score(x):
        return forward(x)[0]

    def forward(x):
        count("evaluations", x)
        return -x, None

    def backward(_, v):
        count("vjps", v)
        return (-v,)

    score.defvjp(forward, backward)
    return (lambda x, t: score(x)), counts


@pytest.mark.parametrize("method", ["dps", "pigdm", "tmpd", "mmps", "classifier", "mix"])
def test_cost(method, counted):
    score_fn, counts = counted
    sde, data = VP(), two_modes()
    matrix = jnp.asarray([[[1.0, 2.0, 0.0, 1.0], [0.0, 1.0, 3.0, -1.0]]])
    measurement = Measurement(Dense(matrix, EVENT), jnp.ones((3, 2)), jnp.ones(3))
    known = measured_guidances(score_fn, sde, measurement) | {
        "classifier": guidance.classifier(
            score_fn, data.class_posterior(sde), jnp.zeros(3, jnp.int32)
        ),
        "mix": guidance.mix(score_fn, lambda x, t: score_fn(x, t) / 2, 1.0),
    }
    with jax.disable_jit():
        known[method](*states(sde))
    assert guidance.Cost(**counts) == guidance.cost(method, steps=3)


class TestClasses:
    @THREE
    def test_exact_classifier_gives_the_component(self, name, x64):
        """score + grad log p_t(k | x) = score of component k; so is the mix with weight w."""
        sde = SDES[name]
        means = np.random.default_rng(4).normal(size=(3, *EVENT))
        covariances = [full(6), full(7), full(8)]
        data = GaussianMixture.full([0.5, 0.2, 0.3], means, covariances)
        parts = [
            GaussianMixture.full([1.0], means[k : k + 1], covariances[k][None]) for k in (2, 0)
        ]
        x, t = (v[1:] for v in states(sde))
        labels = jnp.asarray([2, 0])
        score_fn, log_probs = data.score_fn(sde), data.class_posterior(sde)

        def logits(x, t):
            return log_probs(x, t) + jnp.sum(x, axis=(1, 2, 3))[:, None]

        def component(x, t):
            return oracle(parts, sde, x, t)

        @jax.jit
        def evaluate(x, t):
            return {
                "once": guidance.classifier(score_fn, log_probs, labels)(x, t),
                "logits": guidance.classifier(score_fn, logits, labels, 1)(x, t),
                "scaled": guidance.classifier(score_fn, log_probs, labels, 2.5)(x, t),
                "each": guidance.classifier(score_fn, log_probs, labels, scales)(x, t),
                "mix": guidance.mix(component, score_fn, 1.5)(x, t),
            }

        scales = jnp.asarray([2.5, 0.0])
        got, plain, exact = evaluate(x, t), score_fn(x, t), component(x, t)
        assert_close(got["once"], exact, 1e-8)
        assert_close(got["logits"], exact, 1e-8)
        assert_close(got["scaled"], plain + 2.5 * (exact - plain), 1e-8)
        assert_close(got["each"], jnp.stack([got["scaled"][0], plain[1]]), 1e-8)
        assert_close(got["mix"], got["scaled"], 1e-8)
        assert float(jnp.min(jnp.max(jnp.abs(exact - plain), axis=(1, 2, 3)))) > 0.01

    def test_no_guidance_is_the_plain_score(self):
        """Not nearly: the same function, so a run is repeated bit for bit."""
        score_fn, other = two_modes().score_fn(VP()), lambda x, t: x
        log_probs, labels = two_modes().class_posterior(VP()), jnp.zeros(3, jnp.int32)
        assert guidance.classifier(score_fn, log_probs, labels, 0) is score_fn
        assert guidance.classifier(score_fn, log_probs, labels, 0.0) is score_fn
        assert guidance.mix(score_fn, other, 0.0) is score_fn
        assert guidance.mix(other, score_fn, -1.0) is score_fn


class TestWithin:
    @THREE
    def test_each_sample_by_its_noise_level(self, name, x64):
        """low < sigma/alpha <= high, in a batch of three levels and in batches of one."""
        sde, plain = SDES[name], two_modes().score_fn(SDES[name])
        x, t = states(sde)
        alpha, sigma = sde.marginal(t)
        levels = sigma / alpha
        low, high = float(levels[0]), float(levels[1])
        limited = guidance.within(lambda x, t: 2 * plain(x, t), plain, sde, low, high)
        factors = jnp.asarray([1.0, 2.0, 1.0])[:, None, None, None]
        assert_close(limited(x, t), factors * plain(x, t), 1e-12)
        for i, factor in enumerate((1, 2, 1)):
            same = jnp.full(3, t[i])
            assert_close(limited(x, same), factor * plain(x, same), 1e-12)

    def test_guidance_is_evaluated_inside_only(self, counted):
        guided, counts = counted
        limited = guidance.within(guided, lambda x, t: x, VP(), 0.5, 5.0)
        with jax.disable_jit():
            for share, evaluations in ((0.01, 0), (0.3, 1), (0.99, 1)):
                limited(states(VP())[0], jnp.full(3, share))
                assert counts["evaluations"] == evaluations

    @pytest.mark.parametrize("interval", [(-1.0, 1.0), (1.0, 1.0), (2.0, 1.0)])
    def test_empty_intervals_are_refused(self, interval):
        with pytest.raises(ValueError, match="0 <= low < high"):
            guidance.within(lambda x, t: x, lambda x, t: x, VP(), *interval)


def test_steps_are_checked():
    measurement, _ = problem(two_modes(), RANDOM)
    with pytest.raises(ValueError, match="at least 1; got 0"):
        guidance.mmps(lambda x, t: x, VP(), measurement, 0)
