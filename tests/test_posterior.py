"""Exact posteriors of mixtures: Bayes' rule, formulas written anew, and samples of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from inverse.dense import Dense
from jax.scipy.stats import multivariate_normal as normal
from mathcases import SDES, mixture_2d
from scipy.stats import multivariate_normal

from golden import assert_close
from score_sde import grids
from score_sde.analytic import GaussianMixture
from score_sde.sampling import Sampler
from score_sde.sde import VE, DiscreteChain
from score_sde.steppers import HEUN, RungeKutta

WIDE = SDES | {"ve": VE(0.005, 1000.0)}
"""With priors that know nothing of the data, up to what 4000 samples can show."""

THREE = pytest.mark.parametrize("name", ["ve", "vp", "subvp"])


def mixture(seed, event, components=3, scale=0.4):
    """(mixture, its covariances): unequal weights, full covariances."""
    rng, d = np.random.default_rng(seed), int(np.prod(event))
    factors = scale * rng.normal(size=(components, d, d)) / d**0.5
    covariances = factors @ factors.transpose(0, 2, 1) + 0.01 * np.eye(d)
    weights = rng.uniform(0.5, 1.5, components)
    means = rng.normal(size=(components, *event))
    return GaussianMixture.full(weights / weights.sum(), means, covariances), covariances


def measure(seed, data, m, std):
    """(operator, matrix, y): a random A and a measurement of a sample of the mixture."""
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(m, data.variances.shape[1]))
    x0 = np.asarray(data.sample(jax.random.key(seed), 1)).reshape(-1)
    y = matrix @ x0 + std * rng.normal(size=m)
    return Dense(jnp.asarray(matrix)[None], data.event), matrix, y


def covariances_of(data):
    """(K, D, D) from eigenvalues and eigenvectors."""
    return np.einsum("kij,kj,klj->kil", data.rotations, data.variances, data.rotations)


@pytest.mark.parametrize("std", [0.5, 1e-3, 0.0])
def test_weights_means_and_covariances(std, x64):
    data, covariances = mixture(0, (2, 1, 3))
    operator, matrix, y = measure(1, data, 4, std)
    posterior = data.condition(operator, y, std)
    flat = data.means.reshape(3, -1)
    s = matrix @ covariances @ matrix.T + std**2 * np.eye(4)
    residual = y - flat @ matrix.T
    solved = np.linalg.solve(s, residual[..., None])[..., 0]
    logs = np.log(data.weights) - 0.5 * (
        np.sum(residual * solved, axis=1) + np.linalg.slogdet(s)[1]
    )
    weights = np.exp(logs - logs.max())
    gains = covariances @ matrix.T
    means = flat + np.einsum("kij,kj->ki", gains, solved)
    assert_close(posterior.weights, weights / weights.sum(), 1e-10)
    assert_close(posterior.means, means.reshape(data.means.shape), 1e-10)
    expected = covariances - gains @ np.linalg.solve(s, gains.transpose(0, 2, 1))
    assert_close(covariances_of(posterior), expected, 1e-10)


def test_bayes_rule_at_points(x64):
    """log p(x | y) = log p(x) + log p(y | x) - log p(y)."""
    std, clean, t = 0.3, DiscreteChain.smld(), jnp.asarray(-1.0)
    data, covariances = mixture(2, (2, 2, 1))
    operator, matrix, y = measure(3, data, 3, std)
    x = np.random.default_rng(4).normal(size=(20, 2, 2, 1))
    posterior = data.condition(operator, y, std)
    spreads = matrix @ covariances @ matrix.T + std**2 * np.eye(3)
    centers = data.means.reshape(3, -1) @ matrix.T
    evidence = sum(
        weight * multivariate_normal(center, spread).pdf(y)
        for weight, center, spread in zip(data.weights, centers, spreads, strict=True)
    )
    noise = multivariate_normal(np.zeros(3), std**2 * np.eye(3))
    likelihood = noise.logpdf(y - x.reshape(20, -1) @ matrix.T) - np.log(evidence)
    expected = data.log_prob(clean, jnp.asarray(x), t) + likelihood
    assert_close(posterior.log_prob(clean, jnp.asarray(x), t), expected, 1e-10)


def joint_log_prob(data, operator_matrix, std, alpha, sigma):
    """(x_t, y) -> log p(x_t, y) for one flat x_t, from the covariance of both together."""
    means = data.means.reshape(len(data.means), -1)
    covariances = covariances_of(data)

    def log_prob(x, y):
        terms = []
        for weight, mean, c in zip(data.weights, means, covariances, strict=True):
            cross = alpha * c @ operator_matrix.T
            noise = sigma**2 * jnp.eye(len(mean))
            spread = operator_matrix @ c @ operator_matrix.T + std**2 * np.eye(len(y))
            both = jnp.block([[alpha**2 * c + noise, cross], [cross.T, spread]])
            center = jnp.concatenate([alpha * mean, operator_matrix @ mean])
            terms.append(jnp.log(weight) + normal.logpdf(jnp.concatenate([x, y]), center, both))
        return jax.nn.logsumexp(jnp.stack(terms))

    return log_prob


@THREE
def test_its_score_is_the_conditional_score(name, x64):
    """grad_x log p(x_t, y) of the joint law of x_t = alpha x_0 + sigma z and y = A x_0 + std z'.

    So it minus the prior's score is the exact guidance grad_x log p_t(y | x).
    """
    sde, std = SDES[name], 0.2
    data, _ = mixture(5, (2, 2, 1))
    operator, matrix, y = measure(6, data, 3, std)
    posterior = data.condition(operator, y, std)
    x = jax.random.normal(jax.random.key(0), (3, 2, 2, 1))
    t = jnp.asarray([0.05, 0.4, 0.9]) * sde.t_max
    marginals = [sde.marginal(time) for time in t]

    @jax.jit
    def evaluate(x):
        exact = [
            jax.grad(joint_log_prob(data, matrix, std, *marginal))(row.reshape(-1), jnp.asarray(y))
            for row, marginal in zip(x, marginals, strict=True)
        ]
        return jnp.stack(exact).reshape(x.shape), posterior.score(sde, x, t)

    exact, score = evaluate(x)
    assert_close(score, exact, 1e-9)
    assert float(jnp.max(jnp.abs(score - data.score(sde, x, t)))) > 0.1


def test_redundant_measurements_without_noise(x64):
    """A row that repeats others tells nothing new; one that contradicts them is refused."""
    data, _ = mixture(7, (5,))
    _, matrix, y = measure(8, data, 3, 0.0)
    twice = np.concatenate([matrix, matrix[:1] - 2 * matrix[1:2]])
    repeated = np.append(y, y[0] - 2 * y[1])
    plain = data.condition(Dense(jnp.asarray(matrix)[None], (5,)), y, 0.0)
    operator = Dense(jnp.asarray(twice)[None], (5,))
    posterior = data.condition(operator, repeated, 0.0)
    assert_close(posterior.weights, plain.weights, 1e-9)
    assert_close(posterior.means, plain.means, 1e-9)
    assert_close(posterior.covariance(), plain.covariance(), 1e-9)
    assert_close(posterior.means @ twice.T, np.tile(repeated, (3, 1)), 1e-9)
    # The limit of little noise.
    near = data.condition(operator, repeated, 1e-5)
    assert_close(near.weights, plain.weights, 1e-5)
    assert_close(near.means, plain.means, 1e-5)
    with pytest.raises(ValueError, match="no component can give this y"):
        data.condition(operator, repeated + np.asarray([0, 0, 0, 0.01]), 0.0)


def test_singular_covariances_without_noise():
    """Point masses: those that y excludes are dropped. Different subspaces are refused."""
    points = GaussianMixture.isotropic([0.2, 0.3, 0.5], [[0.0, 0.0], [1.0, 2.0], [1.0, 3.0]], 0.0)
    operator = Dense(jnp.asarray([[[1.0, 0.0]]]), (2,))
    posterior = points.condition(operator, np.ones(1), 0.0)
    assert_close(posterior.weights, [0.375, 0.625], 1e-12)
    assert_close(posterior.means, points.means[1:], 1e-12)
    assert posterior.variances.max() == 0
    unequal = GaussianMixture.isotropic([0.5, 0.5], [[0.0, 0.0], [1.0, 2.0]], [0.0, 0.1])
    with pytest.raises(ValueError, match="different subspaces"):
        unequal.condition(operator, np.zeros(1), 0.0)
    assert len(unequal.condition(operator, np.zeros(1), 0.1).weights) == 2


class Fourier:
    """The discrete Fourier transform of real samples."""

    def forward(self, x):
        return jnp.fft.fft(x, axis=1)


class Kept:
    """A mask with any number of rows."""

    def __init__(self, mask):
        self.mask = mask

    def forward(self, x):
        return self.mask * x


def test_complex_data_are_pairs_of_real_numbers(x64):
    data, _ = mixture(11, (4,))
    y = np.random.default_rng(0).normal(size=(2, 4))
    rows = np.fft.fft(np.eye(4), axis=0)
    operator = Dense(jnp.asarray(np.concatenate([rows.real, rows.imag]))[None], (4,))
    expected = data.condition(operator, y.ravel(), 0.3)
    posterior = data.condition(Fourier(), y[0] + 1j * y[1], 0.3)
    assert_close(posterior.weights, expected.weights, 1e-10)
    assert_close(posterior.means, expected.means, 1e-10)


@pytest.mark.parametrize(
    ("rows", "y", "std", "message"),
    [
        (1, np.zeros(2), -0.1, "std must be >= 0"),
        (1, np.zeros(2), np.nan, "std must be >= 0"),
        (1, np.full(2, np.inf), 0.1, "y finite"),
        (1, np.zeros((1, 2)), 0.1, "without a batch axis"),
        (1, np.zeros(3), 0.1, r"\(1, 2\) of one sample"),
        (2, np.zeros(2), 0.1, r"\(2, 2\) of one sample"),  # as many rows as x has entries
    ],
)
def test_what_is_refused(rows, y, std, message):
    with pytest.raises(ValueError, match=message):
        mixture_2d().condition(Kept(jnp.ones((rows, 2))), y, std)


def test_mean_and_covariance(x64):
    data, covariances = mixture(9, (2, 2, 1))
    flat = data.means.reshape(3, -1)
    mean = data.weights @ flat
    second = np.einsum("k,kij->ij", data.weights, covariances)
    second += np.einsum("k,ki,kj->ij", data.weights, flat, flat)
    assert_close(data.mean(), mean.reshape(2, 2, 1), 1e-12)
    assert_close(data.covariance(), second - np.outer(mean, mean), 1e-12)
    single = GaussianMixture.isotropic([1.0], [[1.0, 2.0]], 0.3)
    assert_close(single.mean(), [1.0, 2.0], 1e-12)
    assert_close(single.covariance(), 0.09 * np.eye(2), 1e-12)


@THREE
def test_class_posterior(name, x64):
    """Bayes' rule for the component."""
    sde, (data, covariances) = SDES[name], mixture(10, (3,))
    x, t = jax.random.normal(jax.random.key(0), (2, 3)), jnp.asarray([0.1, 0.6]) * sde.t_max
    log_probs = np.asarray(data.class_posterior(sde)(x, t))
    for row, time, got in zip(x, t, log_probs, strict=True):
        alpha, sigma = (float(v) for v in sde.marginal(time))
        joint = [
            weight * multivariate_normal(alpha * mean, alpha**2 * c + sigma**2 * np.eye(3)).pdf(row)
            for weight, mean, c in zip(data.weights, data.means, covariances, strict=True)
        ]
        assert_close(np.exp(got), np.asarray(joint) / sum(joint), 1e-9)


CASES = [
    pytest.param(8, 0.05, "vp", id="8-0.05-vp"),
    *(
        pytest.param(d, std, name, id=f"{d}-{std}-{name}", marks=pytest.mark.slow)
        for d, std, name in (
            *((8, 0.5, "ve"), (16, 0.05, "subvp"), (16, 0.5, "vp"), (32, 0.05, "ve")),
            *((32, 0.5, "subvp"), (64, 0.05, "vp"), (64, 0.5, "ve")),
        )
    ),
]


@pytest.mark.parametrize(("d", "std", "name"), CASES)
def test_samples_of_the_posterior(d, std, name):
    """4000 samples by the flow with the exact conditional score against the exact moments.

    Errors of covariances are in units of the two standard deviations. Their root mean square over
    all pairs is judged, since the largest of d^2 of them exceeds 5 % by chance alone.
    """
    n, sde = 4000, WIDE[name]
    data, _ = mixture(d, (d,), scale=0.7)
    operator, _, y = measure(d + 1, data, d // 2, std)
    posterior = data.condition(operator, y, std)
    times = grids.log_snr_uniform(sde, 60, sde.t_min)
    sampler = Sampler(sde, RungeKutta(sde, HEUN), times)
    score_fn = posterior.score_fn(sde)
    run = jax.jit(lambda key: sampler(key, score_fn, (n, d)).x)
    x = np.asarray(run(jax.random.key(0)), np.float64)
    mean, covariance = posterior.mean(), posterior.covariance()
    scale = np.sqrt(np.diag(covariance))
    assert np.max(np.abs(x.mean(0) - mean) / scale) < 4 / n**0.5
    error = (np.cov(x.T) - covariance) / np.outer(scale, scale)
    assert np.sqrt(np.mean(error**2)) < 0.05
    assert abs(np.mean(np.diag(error))) < 0.05
    truth = np.asarray(posterior.sample(jax.random.key(1), n))
    low, high = np.quantile(x, [0.05, 0.95], axis=0)
    assert 0.87 < np.mean((low < truth) & (truth < high)) < 0.93
    assert np.all(np.mean((low < truth) & (truth < high), axis=0) > 0.87)
    assert np.all(np.mean((low < truth) & (truth < high), axis=0) < 0.93)
