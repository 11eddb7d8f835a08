"""Objectives of score matching: reference values, theorem 3.1, unbiasedness, limits, costs."""

import dataclasses
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mathcases import mixture_2d, reference_mixture, reference_network, slope

from golden import assert_close, groups, load
from score_sde.analytic import GaussianMixture
from score_sde.arrays import sample_keys
from score_sde.estimators import parzen_log_likelihood, parzen_width
from score_sde.objectives import (
    DenoisingScoreMatching,
    ExactScoreMatching,
    FiniteDifferenceScoreMatching,
    PerturbedData,
    SlicedScoreMatching,
    UniformIndex,
    UniformTime,
    shifted_nce,
    variance_weight,
)
from score_sde.parameterize import EnergyScore
from score_sde.sde import VE, VP, DiscreteChain

CLEAN = VE(1e-12, 1.0)
NOW = jnp.zeros(())


def arrays_of(name):
    return {k: jnp.asarray(v) for k, v in load(name).items() if v.dtype.kind in "fiu"}


@pytest.fixture
def stored(x64):
    return arrays_of("math/losses_ssm")


def energy(p):
    """The energy |a|^2/2 + v softplus(W a + b) of the reference file."""

    def log_density(x, t):
        hidden = jax.nn.softplus(x @ p["W"].T + p["b"][None])
        return -(0.5 * jnp.sum(x**2, axis=1) + hidden @ p["v"])

    return EnergyScore(log_density)


def tempered(x, t):
    """A smooth score with a derivative that is not symmetric."""
    matrix = jnp.asarray([[-1.0, 0.7], [-0.2, -1.5]], x.dtype)
    return jnp.tanh(x @ matrix.T) - 0.3 * x**3


def denoising_cases():
    """Losses of denoising score matching in the file, or the mark that it is absent."""
    found = groups("math/losses_ssm", "__loss")
    return [k for k in found if not isinstance(k, str) or k.startswith("dsm_energy_sigma")]


class TestReferenceValues:
    @pytest.mark.parametrize("chunk", [1, 4, 32])
    def test_exact(self, stored, chunk):
        objective = ExactScoreMatching(chunk)
        parameters = {k: stored[k] for k in ("W", "b", "v")}

        def loss(parameters):
            losses = objective.at(energy(parameters), stored["x"], NOW)
            return jnp.mean(losses), losses

        (value, losses), gradients = jax.value_and_grad(loss, has_aux=True)(parameters)
        assert_close(losses, stored["exact_sm__per_sample"], 1e-11)
        assert_close(value, stored["exact_sm__loss"], 1e-11)
        for k, gradient in gradients.items():
            assert_close(gradient, stored[f"exact_sm__grad_{k}"], 1e-11, k)
        mixture = reference_mixture(stored).score_fn(CLEAN)
        assert_close(
            objective.at(mixture, stored["x"], NOW), stored["exact_sm_gmm__per_sample"], 1e-9
        )

    @pytest.mark.parametrize("case", groups("math/losses_ssm", "__loss1"))
    def test_parts_of_losses(self, case, stored):
        """The two parts of the losses; published vectors have length 1 where brought to one."""
        reduced, m = "_vr_" in case, int(case.rpartition("_p")[2])
        x = stored["x"]
        kind = "gaussian" if reduced else "sphere"
        objective = SlicedScoreMatching(m, kind, reduced)
        v = objective.vectors(stored[f"gauss_p{m}"].reshape(m, *x.shape))
        v = v if reduced else v / math.sqrt(x.shape[1])

        def network(x, t):
            hidden = jnp.tanh(x @ stored["W"].T + stored["b"][None])
            return hidden @ stored["W2"].T + stored["b2"][None] - x

        score_fn = network if case.startswith("sse") else energy(stored)
        zero = SlicedScoreMatching(m, kind, reduced).at(lambda x, t: 0 * score_fn(x, t), x, NOW, v)
        np.testing.assert_array_equal(zero, 0)
        whole = jnp.mean(objective.at(score_fn, x, NOW, v))
        twice = jnp.mean(objective.at(lambda x, t: 2 * score_fn(x, t), x, NOW, v))
        # loss(c) = c^2 first + c second.
        first = (twice - 2 * whole) / 2
        assert_close(first, stored[f"{case}__loss1"], 1e-12)
        assert_close(whole - first, stored[f"{case}__loss2"], 1e-12)

    def test_scores_of_energies_and_their_derivatives(self, stored):
        score_fn, x = energy(stored), stored["x"]
        for case in groups("math/losses_ssm", "__Hv"):
            kind = case.removesuffix("_energy").rpartition("_")[2]
            v = SlicedScoreMatching(kind=kind).vectors(stored["gauss_n"][None])[0]
            score, product = jax.jvp(lambda x: score_fn(x, NOW), (x,), (v,))
            assert_close(score, stored[f"{case}__grad1"], 1e-12)
            assert_close(product, stored[f"{case}__Hv"], 1e-12)

    @pytest.mark.parametrize("case", denoising_cases())
    def test_denoising_of_energies(self, case, stored):
        sigma = float(case.removeprefix("dsm_energy_sigma"))
        chain = DiscreteChain(np.ones(1), np.asarray([sigma]))
        objective = DenoisingScoreMatching(
            chain, UniformIndex(chain), lambda t: sigma**4 + 0 * t, "sum"
        )
        x = stored["x"]

        def loss(parameters):
            losses = objective.at(energy(parameters), x, jnp.zeros(len(x)), stored["gauss_n"])
            return jnp.mean(losses)

        value, gradients = jax.value_and_grad(loss)({k: stored[k] for k in ("W", "b", "v")})
        assert_close(value, stored[f"{case}__loss"], 1e-11)
        for k, gradient in gradients.items():
            assert_close(gradient, stored[f"{case}__grad_{k}"], 1e-11, k)

    def test_parzen(self, stored):
        x, query = stored["x"], stored["parzen_query"]
        width = jnp.exp(stored["parzen_log_sigma"])
        ours = parzen_log_likelihood(x, query, width)
        constant = 0.5 * x.shape[1] * math.log(2 * math.pi) - math.log(len(x))
        assert_close(ours, stored["parzen_mean_logp"] + constant, 1e-12)
        mixture = GaussianMixture.isotropic(np.full(len(x), 1 / len(x)), x, float(width))
        assert_close(ours, jnp.mean(mixture.log_prob(CLEAN, query, NOW)), 1e-12)

    @pytest.mark.parametrize("case", groups("math/losses_ncsn", "_vectors"))
    def test_annealed_sliced(self, case, x64):
        stored = arrays_of("math/losses_ncsn")
        sigmas = np.asarray(stored["sigmas"])[::-1]
        chain = DiscreteChain(np.ones_like(sigmas), sigmas)
        x, network = stored["x"], reference_network(stored)
        m = len(stored[f"{case}_vectors"]) // len(x)
        objective = PerturbedData(
            SlicedScoreMatching(m, "gaussian"), chain, UniformIndex(chain), variance_weight(chain)
        )
        losses = objective.at(
            lambda x, t: network(x, chain.t_max - t),
            x,
            chain.t_max - stored["labels"].astype(float),
            stored["noise"],
            stored[f"{case}_vectors"].reshape(m, *x.shape),
        )
        assert_close(jnp.mean(losses), stored[f"{case}_loss"], 1e-11)

    def test_single_sigma(self, x64):
        stored = arrays_of("math/losses_ncsn")
        sigma, label = (float(stored[f"dsm_single_{name}"]) for name in ("sigma", "label"))
        chain, network = DiscreteChain(np.ones(1), np.asarray([sigma])), reference_network(stored)
        objective = DenoisingScoreMatching(chain, UniformIndex(chain), jnp.ones_like, "sum")
        losses = objective.at(
            lambda x, t: network(x, label + 0 * t),
            stored["x"],
            jnp.zeros(len(stored["x"])),
            stored["noise"],
        )
        assert_close(jnp.mean(losses), stored["dsm_single_sigma_loss"], 1e-11)

    def test_denoising_with_variance_reduction(self, x64):
        """The published loss: without the constant D/sigma^2, and without the factor 1/2."""
        stored = arrays_of("math/losses_highorder")
        x, z, sigma = stored["x"], stored["z"], float(stored["sigma"])
        chain = DiscreteChain(np.ones(1), np.asarray([sigma]))
        names = [k for k in stored if k.startswith("s1_")]
        plus = next(k for k in names if "plus" in k)
        centre = next(k for k in names if "center" in k or "centre" in k)

        def score_fn(y, t):
            at_centre = jnp.max(jnp.abs(y - x)) < 1e-12
            return jnp.where(at_centre, stored[centre], stored[plus])

        for reduced, name in ((False, "dsm__loss"), (True, "dsm_vr__loss")):
            objective = DenoisingScoreMatching(
                chain, UniformIndex(chain), jnp.ones_like, "sum", reduced
            )
            ours = 2 * jnp.mean(objective.at(score_fn, x, jnp.zeros(len(x)), z))
            constant = x.shape[1] / sigma**2 if reduced else 0
            assert_close(ours - constant, stored[name], 1e-11)


# Theorem 3.1


def integral(values, density, cell):
    return float(jnp.sum(values * density) * cell)


def vectors_of(kind, shape):
    """Directions whose plain mean is the exact mean of what is quadratic in v."""
    d = shape[1]
    if kind == "gaussian":  # Gauss-Hermite with weights 1, 4, 1
        nodes = np.asarray([-1, 0, 0, 0, 0, 1]) * math.sqrt(3)
        v = np.stack(np.meshgrid(*[nodes] * d), axis=-1).reshape(-1, d)
    elif d == 1:
        v = np.asarray([[1.0], [-1.0]])
    elif kind == "sphere":
        angles = 2 * np.pi * np.arange(5) / 5
        v = math.sqrt(2) * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    else:
        v = np.asarray([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])
    return jnp.broadcast_to(jnp.asarray(v)[:, None], (len(v), *shape))


@pytest.mark.parametrize("d", [1, 2])
def test_theorem_3_1(x64, d):
    """loss + E|s_data|^2/2 = E|score - s_data|^2/2, by quadrature."""
    data = (
        mixture_2d()
        if d == 2
        else GaussianMixture.isotropic([0.4, 0.6], [[-1.0], [0.8]], [0.3, 0.5])
    )
    side = np.arange(-3, 3, 0.05) if d == 2 else np.arange(-6, 6, 0.02)
    x = jnp.asarray(np.stack(np.meshgrid(*[side] * d), axis=-1).reshape(-1, d))
    cell, exact = (side[1] - side[0]) ** d, data.score_fn(CLEAN)(x, NOW)
    density = jnp.exp(data.log_prob(CLEAN, x, NOW))
    model = tempered if d == 2 else (lambda x, t: jnp.sin(2 * x) - x)
    divergence = integral(0.5 * jnp.sum((model(x, NOW) - exact) ** 2, axis=1), density, cell)
    constant = integral(0.5 * jnp.sum(exact**2, axis=1), density, cell)
    losses = {"exact": ExactScoreMatching(1).at(model, x, NOW)}
    for kind in ("rademacher", "sphere", "gaussian"):
        v = vectors_of(kind, x.shape)
        for reduced in (False, True, 0.5) + (("optimal",) if kind == "gaussian" else ()):
            objective = SlicedScoreMatching(len(v), kind, reduced)
            losses[kind, reduced] = jax.jit(partial(objective.at, model))(x, NOW, v)
    for name, loss in losses.items():
        assert integral(loss, density, cell) + constant == pytest.approx(divergence, abs=1e-8), name


def test_the_mean_over_all_signs_is_exact_score_matching(x64):
    """Value and gradient, at every sample."""
    d, rng = 6, np.random.default_rng(0)
    signs = 1.0 - 2 * ((np.arange(2**d)[:, None] >> np.arange(d)) & 1)
    x, weight = jnp.asarray(rng.normal(size=(5, d))), jnp.asarray(rng.normal(size=(d, d)))
    v = jnp.broadcast_to(jnp.asarray(signs)[:, None], (2**d, *x.shape))

    def value(objective, *draws):
        def loss(weight):
            return objective.at(lambda x, t: jnp.tanh(x @ weight) - x**3, x, NOW, *draws)

        return loss(weight), jax.jacrev(loss)(weight)

    expected = value(ExactScoreMatching(4))
    for reduced in (True, False, 0.3):
        for ours, exact in zip(
            value(SlicedScoreMatching(2**d, "rademacher", reduced), v), expected, strict=True
        ):
            assert_close(ours, exact, 1e-12)


def test_variance_of_each_control(x64):
    """For s = -x and Gaussian v, |x|^2 = 1.65: 6 with beta = 1, 4.06 with 0, 4 at the best.

    So the variance-reduced loss is not always the one that varies less. Signs have no variance
    with beta = 1 where J is diagonal.
    """
    x = jnp.tile(jnp.asarray([[0.7, -0.4, 1.0]]), (100_000, 1))
    square = 1.65

    def variance(kind, reduced):
        objective = SlicedScoreMatching(1, kind, reduced)
        return float(jnp.var(objective(jax.random.key(2), lambda x, t: -x, x)))

    def expected(beta):  # Var(-v.v + (1 - beta) (v.x)^2/2)
        c = 1 - beta
        return 6 + c**2 * square**2 / 2 - 2 * c * square

    assert expected(1) == 6 and expected(0) == pytest.approx(4.06125)
    best = 1 - 2 / square
    assert expected(best) == pytest.approx(4)
    for name, beta in ((True, 1), (False, 0), (best, best), ("optimal", best), (0.5, 0.5)):
        assert variance("gaussian", name) == pytest.approx(expected(beta), rel=0.03)
    assert variance("rademacher", True) < 1e-20 < variance("rademacher", False)


def test_the_optimal_control_is_right_where_the_score_vanishes(x64):
    objective = SlicedScoreMatching(2, "gaussian", "optimal")
    x, v = jnp.zeros((1, 3)), jnp.ones((2, 1, 3))
    loss, gradient = jax.value_and_grad(lambda a: objective.at(lambda x, t: a * x, x, NOW, v)[0])(
        2.0
    )
    assert loss == pytest.approx(6) and gradient == pytest.approx(3)


# Asymptotics of the estimators in a Gaussian family, theorems 3.2 and 3.3


def estimates(objective, key, replicas, n, d=4):
    """(replicas,) minimizers over theta of the loss of score -theta x, for x ~ N(0, I)."""

    def one(key):
        key_x, key_v = jax.random.split(key)
        x = jax.random.normal(key_x, (n, d))
        draws = objective.draw(key_v, x)

        def loss(theta):
            return jnp.mean(objective.at(lambda x, t: -theta * x, x, jnp.zeros(()), draws))

        zero, up, down = loss(0.0), loss(1.0), loss(-1.0)
        return (down - up) / (2 * (up + down - 2 * zero))

    keys = jax.random.split(key, replicas)
    found = jax.jit(lambda keys: jax.lax.map(one, keys, batch_size=50))(keys)
    return np.asarray(found, float)


CASES = [
    ("exact", 1, True, 1.0),
    ("rademacher", 1, True, 1.0),
    *[(kind, m, False, 1 + 3 / m) for kind in ("rademacher", "sphere") for m in (1, 4)],
    *[("gaussian", m, False, 1 + 5 / m) for m in (1, 4)],
    *[("gaussian", m, True, 1 + 1 / m) for m in (1, 4)],
]


def estimator(kind, m, reduced):
    return ExactScoreMatching() if kind == "exact" else SlicedScoreMatching(m, kind, reduced)


@pytest.mark.parametrize(("kind", "m", "reduced", "factor"), [CASES[2], CASES[8]])
def test_asymptotic_variance(kind, m, reduced, factor):
    """N Var = 2/D times a factor that is known in closed form, D = 4."""
    n, replicas = 400, 1500
    found = estimates(estimator(kind, m, reduced), jax.random.key(3), replicas, n)
    assert n * found.var() == pytest.approx(0.5 * factor, rel=0.12)
    assert found.mean() == pytest.approx(1, abs=5 * found.std() / replicas**0.5 + 4 * factor / n)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "m", "reduced", "factor"), CASES)
def test_asymptotic_normality(kind, m, reduced, factor):
    stats = pytest.importorskip("scipy.stats")
    objective, n, replicas = estimator(kind, m, reduced), 2000, 4000
    found = estimates(objective, jax.random.key(3), replicas, n)
    assert n * found.var() == pytest.approx(0.5 * factor, rel=0.1)
    scaled = (found - found.mean()) / found.std()
    assert stats.kstest(scaled, "norm").pvalue > 1e-3
    sizes = (250, 500, 1000, 2000)
    roots = [
        np.sqrt(np.mean((estimates(objective, jax.random.key(4), replicas, n) - 1) ** 2))
        for n in sizes
    ]
    assert slope(sizes, roots) == pytest.approx(-0.5, abs=0.05)


# Finite differences and noise contrast


def test_limits_of_differences(x64):
    """Errors fall as e^2, and the limits are those of the docstring."""
    data = mixture_2d()
    x = data.sample(jax.random.key(0), 200, jnp.float64)
    flat = EnergyScore(
        lambda x, t: 0.5 * data.log_prob(CLEAN, x, NOW) - 0.1 * jnp.sum(x**4, axis=1)
    )
    v = SlicedScoreMatching(3).draw(jax.random.key(1), x)
    steps = (0.04, 0.02, 0.01)
    for form, reduced in (("score", True), ("energy", False), ("contrast", False)):
        limit = SlicedScoreMatching(3, variance_reduced=reduced).at(flat, x, NOW, v)
        errors = []
        for step in steps:
            objective = FiniteDifferenceScoreMatching(step, 3, form=form)
            losses = jax.jit(partial(objective.at, flat))(x, NOW, v)
            errors.append(float(jnp.mean(jnp.abs(losses - limit))))
        assert slope(steps, errors) == pytest.approx(2, abs=0.1), form


def test_shifted_noise_contrast_is_half_of_sliced_score_matching(x64):
    """(NCE - 2 log 2)/e^2 goes to half of the loss, not to a quarter."""
    flat = EnergyScore(lambda x, t: -0.5 * jnp.sum(x**2, axis=1) - 0.1 * jnp.sum(x**4, axis=1))
    x = jnp.asarray([[0.3, -1.2], [0.8, 0.5]])
    v, e = jnp.asarray([[[1.0, -1.0], [1.0, 1.0]]]), 0.01
    limit = SlicedScoreMatching(1, variance_reduced=False).at(flat, x, NOW, v)
    middle, up, down = (flat.log_density(y, NOW) for y in (x, x + e * v[0], x - e * v[0]))
    # A classifier of x against x + e v: the log-odds of x are l(x) - l(x - e v).
    contrast = -jax.nn.log_sigmoid(middle - down) - jax.nn.log_sigmoid(middle - up)
    half = (contrast - 2 * math.log(2)) / e**2
    np.testing.assert_allclose(half / limit, 0.5, atol=2e-3)
    np.testing.assert_allclose(shifted_nce(e).at(flat, x, NOW, v), 2 * half, rtol=1e-9)


def test_contrast_is_computed_without_cancellation():
    flat = EnergyScore(lambda x, t: -0.5 * jnp.sum(x**2, axis=1))
    x, v = jnp.asarray([[0.3, -1.2]]), jnp.asarray([[[1.0, -1.0]]])
    expected = SlicedScoreMatching(1, variance_reduced=False).at(flat, x, NOW, v)
    for step in (0.03, 0.1):
        np.testing.assert_allclose(shifted_nce(step).at(flat, x, NOW, v), expected, rtol=0.01)
    far = EnergyScore(lambda x, t: -500 * jnp.sum(x**2, axis=1))
    assert np.isfinite(shifted_nce(1.0).at(far, x, NOW, v)).all()


# Every objective on perturbed data, with energies, and with a key for each example

ALL = [
    SlicedScoreMatching(2, "gaussian", "optimal"),
    shifted_nce(0.05),
    *[
        pytest.param(objective, marks=pytest.mark.slow)
        for objective in (
            ExactScoreMatching(2),
            SlicedScoreMatching(2, "sphere", False),
            FiniteDifferenceScoreMatching(0.05, 2),
            FiniteDifferenceScoreMatching(0.05, 2, form="energy"),
        )
    ],
]


@pytest.mark.parametrize(
    "objective", ALL, ids=lambda o: f"{type(o).__name__}-{getattr(o, 'form', '')}"
)
def test_perturbed_data(objective):
    """The exact score of a mixture has the least mean loss among its multiples, at every time."""
    process, data = VP(), GaussianMixture.isotropic([0.5, 0.5], [[-1.0, 0.3], [0.6, 0.2]], 0.4)
    times = UniformTime(VP(t_min=0.2))
    made = PerturbedData(objective, process, times, variance_weight(process))
    exact = EnergyScore(lambda x, t: data.log_prob(process, x, t))
    x, keys = data.sample(jax.random.key(0), 4000), sample_keys(jax.random.key(1), jnp.arange(4000))

    @jax.jit
    def losses(factor, keys, x):
        scaled = EnergyScore(lambda x, t: factor * exact.log_density(x, t))
        halved = dataclasses.replace(made, reduce="mean")
        return made(keys, scaled, x), halved(keys, scaled, x)

    (zero, _), (one, half), (two, _) = (losses(factor, keys, x) for factor in (0.0, 1.0, 2.0))
    assert float(jnp.max(jnp.abs(zero))) < 1e-3
    # E loss(c) = (c^2 - 2 c)/2 E lambda |s|^2, but for O(step^2).
    error = float(jnp.std(two)) / len(x) ** 0.5
    assert float(jnp.mean(two)) == pytest.approx(0, abs=4 * error + 0.03)
    assert float(jnp.mean(one)) < -0.3
    np.testing.assert_allclose(half, one, rtol=1e-3, atol=1e-3)  # 2/D is 1 here
    turned, _ = losses(1.0, keys[::-1], x[::-1])
    np.testing.assert_allclose(turned[::-1], one, rtol=1e-3, atol=1e-3)


def test_denoising_has_the_same_mean_without_its_variance():
    """With and without variance reduction; the plain variance grows as 1/sigma^2."""
    chain = DiscreteChain(np.ones(2), np.asarray([0.01, 0.5]))
    x, n = jnp.tile(jnp.asarray([[0.4, -0.3, 1.0]]), (40_000, 1)), 40_000
    z, t = jax.random.normal(jax.random.key(0), x.shape), jnp.zeros(n)
    for reduce in ("sum", "mean"):
        plain, reduced = (
            DenoisingScoreMatching(chain, UniformIndex(chain), jnp.ones_like, reduce, one)
            for one in (False, True)
        )
        score_fn = lambda x, t: -1.5 * x  # noqa: E731
        for time in (0, 1):
            a, b = (o.at(score_fn, x, t + time, z) for o in (plain, reduced))
            error = (float(jnp.std(a)) + float(jnp.std(b))) / n**0.5
            assert float(jnp.mean(a)) == pytest.approx(float(jnp.mean(b)), abs=4 * error)
            if time == 0:
                assert float(jnp.std(a)) > 1000 * float(jnp.std(b))
    # 1.5^2 |x|^2/2 - 1.5 D + D/(2 sigma^2) at small sigma.
    expected = 1.125 * 1.25 - 4.5 + 1.5e4
    value = DenoisingScoreMatching(chain, UniformIndex(chain), jnp.ones_like, "sum", True).at(
        score_fn, x, t, z
    )
    assert float(jnp.mean(value)) == pytest.approx(expected, abs=0.2)


def test_the_best_parzen_width_is_found():
    rng = np.random.default_rng(0)
    train, held = (jnp.asarray(rng.normal(size=(n, 2)), jnp.float32) for n in (400, 200))
    width = parzen_width(train, held)
    grid = np.geomspace(width / 1.5, width * 1.5, 31)
    values = [float(parzen_log_likelihood(train, held, w)) for w in grid]
    assert grid[int(np.argmax(values))] == pytest.approx(width, rel=0.03)
    with pytest.raises(ValueError, match="largest at the bound"):
        parzen_width(train, train)
    with pytest.raises(ValueError, match="need 0 < low < high; got low=2"):
        parzen_width(train, held, 2.0, 1.0)


def flops(function, *arguments):
    cost = jax.jit(function).lower(*arguments).compile().cost_analysis()
    return (cost[0] if isinstance(cost, list) else cost)["flops"]


def test_costs():
    """Exact score matching takes D passes, sliced one; both counted by the compiler."""
    ratios, relative, sizes = [], [], (32, 128, 512)
    for d in sizes:
        x, weight = jnp.ones((8, d)), jnp.ones((d, d)) / d
        v = jnp.ones((1, 8, d))

        def score_fn(x, t, weight=weight):
            return jnp.sin(jnp.sin(x @ weight) @ weight)

        network = flops(score_fn, x, NOW)
        exact = flops(partial(ExactScoreMatching(d).at, score_fn), x, NOW)
        sliced = flops(partial(SlicedScoreMatching().at, score_fn), x, NOW, v)
        ratios.append(exact / sliced)
        relative.append(sliced / network)
    assert slope(sizes, ratios) == pytest.approx(1, abs=0.1)
    assert max(relative) < 1.2 * min(relative) and max(relative) < 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SlicedScoreMatching(variance_reduced="optimal"), "kind='gaussian' alone"),
        (lambda: SlicedScoreMatching(variance_reduced="best"), "True, False, a number"),
        (lambda: ExactScoreMatching(0), "chunk must be at least 1; got chunk=0"),
        (
            lambda: ExactScoreMatching(largest=5).at(lambda x, t: x, jnp.ones((1, 2, 3)), NOW),
            "6 dim",
        ),
        (lambda: FiniteDifferenceScoreMatching(0.0), "must be positive; got 0.0"),
        (lambda: FiniteDifferenceScoreMatching(form="ratio"), "got 'ratio'"),
        (lambda: FiniteDifferenceScoreMatching(projections=0), "projections must be at least 1"),
        (
            lambda: PerturbedData(
                ExactScoreMatching(), VP(), UniformTime(VP()), jnp.ones_like, "max"
            ),
            "got 'max'",
        ),
    ],
)
def test_refuses(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("form", ["energy", "contrast"])
def test_log_densities_are_asked_of_energy_models_alone(form):
    objective = FiniteDifferenceScoreMatching(form=form)
    with pytest.raises(TypeError, match="a score network has not"):
        objective(jax.random.key(0), lambda x, t: -x, jnp.ones((2, 3)))
