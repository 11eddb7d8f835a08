"""Network outputs as scores: reference values, and what each parameterization is for."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mathcases import PROCESSES, mixture_2d, reference_network

from golden import assert_close, load
from score_sde.analytic import GaussianMixture
from score_sde.parameterize import (
    Parameterization,
    centred,
    divided_by_sigma,
    edm_preconditioning,
    index_label,
    network_score,
    noise_level_label,
    noise_prediction,
    reversed_index_label,
    time_label,
    v_prediction,
    velocity_prediction,
)
from score_sde.sde import EDM, VE, VP, DiscreteChain, PublishedSteps, SubVP, probability_flow


def _reference_case(name, p):
    """(parameterization, time in its own units) of one case of the reference file."""
    p = [float(value) for value in p]
    if name == "ve_cont":
        sde = VE(p[0], p[1])
        return network_score(noise_level_label(sde)), sde, "t"
    if name in ("vp_cont", "subvp_cont"):
        sde = VP(p[0], p[1]) if name == "vp_cont" else SubVP(p[0], p[1])
        return noise_prediction(sde, time_label), sde, "t"
    if name == "ve_disc":
        chain = DiscreteChain.smld(p[0], p[1], int(p[2]))
        return network_score(reversed_index_label(chain)), chain, "reversed"
    chain = DiscreteChain.ddpm(p[0], p[1], int(p[2]))
    return noise_prediction(chain, index_label), chain, "labels"


@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("name", ["ve_cont", "ve_disc", "vp_cont", "vp_disc", "subvp_cont"])
def test_reference_scores(name, precision, request):
    if precision == "float64":
        request.getfixturevalue("x64")
    stored = load("math/sde_score_wrapper")
    case = {k.removeprefix(f"{name}__"): v for k, v in stored.items() if k.startswith(f"{name}__")}
    parameterization, _, kind = _reference_case(name, case["p"])
    labels = case["labels"].astype(precision)
    t = {"t": case["t"], "reversed": case["p"][2] - 1 - labels, "labels": labels}[kind]
    x, t, tol = (
        jnp.asarray(case["x"], precision),
        jnp.asarray(t, precision),
        1e-8 if precision == "float64" else 2e-4,
    )
    np.testing.assert_allclose(parameterization.c_noise(t), labels, rtol=1e-6)
    seen = []

    def network(x, labels):
        seen.append((x, labels))
        with jax.numpy_dtype_promotion("standard"):
            return reference_network(stored)(x, labels).astype(precision)

    score = parameterization.score_fn(network)(x, t)
    assert score.dtype == x.dtype
    assert_close(seen[0][0], case["x"], 1e-6)  # c_in = 1
    assert_close(network(x, jnp.asarray(labels)), case["raw"], tol)
    # Relative, since the scores of the noise predictors are as large as 1/sigma(t_min).
    assert_close(
        score / jnp.asarray(1 + np.abs(case["score"]), precision),
        case["score"] / (1 + np.abs(case["score"])),
        tol,
    )


@pytest.mark.parametrize("eps", ["0.001", "1e-05"])
def test_reversed_index_against_the_rounded_labels(eps, x64):
    """Index time gives N-1-i; round((1-t)(N-1)) is off by one in 499 of 1000 steps."""
    stored = load("math/sde_timegrid")
    chain = DiscreteChain.smld(n=1000)
    index = PublishedSteps(chain).index(jnp.asarray(stored[f"N1000_eps{eps}__t_float64"]))
    labels = reversed_index_label(chain)(index)
    np.testing.assert_array_equal(labels, np.arange(1000))
    difference = np.abs(np.asarray(labels) - stored[f"N1000_eps{eps}__ve_label_float64"])
    assert difference.max() <= 1
    assert difference.sum() == (0 if eps == "1e-05" else 499)


def test_formula():
    """Each coefficient is used in its place; the time reaches a network once per sample."""
    parameterization = Parameterization(
        c_noise=lambda t: 10 * t,
        c_out=lambda t: 2 + t,
        c_in=lambda t: 3 * t,
        c_skip=lambda t: 5 - t,
    )
    score_fn = parameterization.score_fn(lambda x, labels: x**2 + labels[:, None])
    x = jnp.asarray([[1.0, 2.0], [3.0, -1.0]])
    for t in (jnp.asarray([0.5, 0.25]), jnp.asarray(0.5)):
        tb = np.broadcast_to(t, (2,))[:, None]
        assert_close(score_fn(x, t), (2 + tb) * ((3 * tb * x) ** 2 + 10 * tb) + (5 - tb) * x, 1e-6)


def test_formula_with_division_and_centring():
    """F sees 2 c_in x - 1 and is divided by sigma(t); c_skip x is neither mapped nor divided."""
    parameterization = Parameterization(
        c_noise=lambda t: 10 * t,
        c_out=lambda t: 2 + t,
        c_in=lambda t: 3 * t,
        c_skip=lambda t: 5 - t,
        sigma=lambda t: 7 + t,
        centre=True,
    )
    score_fn = parameterization.score_fn(lambda x, labels: x**2 + labels[:, None])
    x, t = jnp.asarray([[1.0, 2.0], [3.0, -1.0]]), jnp.asarray([0.5, 0.25])
    tb = np.asarray(t)[:, None]
    output = ((2 * 3 * tb * np.asarray(x) - 1) ** 2 + 10 * tb) / (7 + tb)
    assert_close(score_fn(x, t), (2 + tb) * output + (5 - tb) * np.asarray(x), 1e-6)


def test_unit_range_is_mapped_to_the_symmetric_one():
    assert_close(centred(jnp.asarray([0.0, 0.25, 0.5, 1.0])), [-1.0, -0.5, 0.0, 1.0], 0)


@pytest.mark.parametrize("name", PROCESSES)
def test_division_by_sigma_of_the_expected_noise_is_the_score(name):
    """A network that returns sigma times the score, as NCSNv2 and NCSN++ learn it."""
    sde, data = PROCESSES[name], mixture_2d()
    t, x = jnp.linspace(0.2, 1.0, 4) * sde.t_max, jax.random.normal(jax.random.key(0), (4, 2))
    exact = data.score(sde, x, t)
    made = divided_by_sigma(network_score(noise_level_label(sde)), sde)
    fn = made.score_fn(lambda x, labels: sde.marginal(t)[1][:, None] * exact)
    assert_close(fn(x, t), exact, 1e-5)


def test_division_by_the_level_of_a_chain_at_its_index():
    """Index i is divided by sigma_i, whatever the label; times below 0 take sigma_0."""
    chain = DiscreteChain(np.ones(3), np.asarray([0.5, 2.0, 8.0]))
    made = divided_by_sigma(network_score(reversed_index_label(chain)), chain)
    fn = made.score_fn(lambda x, labels: jnp.ones_like(x))
    x = jnp.zeros((5, 1))
    score = fn(x, jnp.asarray([-1.0, 0.0, 1.9, 2.0, 7.0]))
    assert_close(score[:, 0], [2.0, 2.0, 0.5, 0.125, 0.125], 1e-7)
    falling = divided_by_sigma(network_score(index_label), DiscreteChain.ddpm(n=100))
    score = falling.score_fn(lambda x, labels: jnp.ones_like(x))(x[:2], jnp.asarray([0.0, 99.0]))
    assert_close(score[:, 0], 1 / DiscreteChain.ddpm(n=100).sigmas[[0, 99]], 1e-5)


def test_division_is_in_single_precision_for_networks_in_half_precision():
    """Half precision of a network costs its output accuracy, and no division or noise level."""
    made = Parameterization(lambda t: t, sigma=lambda t: 3 * t)
    x, t = jnp.ones((2, 1)), jnp.asarray([1.0, 7.0])
    for dtype in (jnp.float32, jnp.bfloat16):
        score = made.score_fn(lambda x, labels, dtype=dtype: x.astype(dtype))(x, t)
        assert score.dtype == jnp.float32
        np.testing.assert_array_equal(score[:, 0], 1 / (3 * t))


class _Conditional(nn.Module):
    """A network (x, labels, given, train) of images and measurements, one row an image."""

    @nn.compact
    def __call__(self, x, labels, given, train=False):
        joined = jnp.concatenate([x, given["image"]], axis=-1)
        h = nn.Dense(8, name="in")(joined) + labels[:, None, None, None]
        h = nn.Dropout(0.5, deterministic=not train)(nn.tanh(h))
        return nn.Dense(x.shape[-1], name="out")(h) * given["scale"][:, None, None, None]


def test_conditional_networks_close_over_what_is_given():
    """score_fn sees (x, t) alone: given rows stay beside their images, unmapped and undivided."""
    sde, network = VE(0.1, 10.0), _Conditional()
    keys = jax.random.split(jax.random.key(0), 3)
    x, image = (jax.random.uniform(key, (3, 4, 4, 1)) for key in keys[:2])
    given = {"image": image, "scale": jnp.asarray([1.0, 2.0, -3.0])}
    t = jnp.asarray([0.1, 0.5, 0.9])
    params = network.init(keys[2], x, t, given)
    made = divided_by_sigma(network_score(noise_level_label(sde)), sde)
    made = dataclasses.replace(made, centre=True)

    @jax.jit
    def score(given, x, t):
        return made.score_fn(lambda x, labels: network.apply(params, x, labels, given))(x, t)

    sigma = sde.marginal(t)[1]
    expected = network.apply(params, 2 * x - 1, sigma, given) / sigma[:, None, None, None]
    found = score(given, x, t)
    assert_close(found, expected, 1e-5)
    for row in range(3):  # each row depends on its own measurements alone
        other = {"image": image.at[row].add(1.0), "scale": given["scale"]}
        changed = np.abs(score(other, x, t) - found).max(axis=(1, 2, 3)) > 1e-4
        assert changed.tolist() == [i == row for i in range(3)]
    doubled = score(given | {"scale": 2 * given["scale"]}, x, t)
    assert_close(doubled, 2 * np.asarray(found), 1e-5)


@pytest.mark.parametrize("name", PROCESSES)
def test_noise_prediction_of_the_noise_is_the_score(name):
    """A network that returns the expected noise, -sigma score, gives the score back."""
    sde, data = PROCESSES[name], mixture_2d()
    t, x = jnp.linspace(0.2, 1.0, 4) * sde.t_max, jax.random.normal(jax.random.key(0), (4, 2))
    exact = data.score(sde, x, t)
    fn = noise_prediction(sde, time_label).score_fn(
        lambda x, labels: -sde.marginal(t)[1][:, None] * exact
    )
    assert_close(fn(x, t), exact, 1e-5)


PREDICTED = {
    "v": (v_prediction, lambda alpha, sigma, x0, z: alpha * z - sigma * x0),
    "velocity": (velocity_prediction, lambda alpha, sigma, x0, z: z - x0),
}
"""Name -> (parameterization, what the network should return)."""


class TestPredictions:
    @pytest.mark.parametrize("name", PROCESSES)
    @pytest.mark.parametrize("kind", PREDICTED)
    def test_prediction_of_the_exact_denoiser_is_the_score(self, kind, name, x64):
        """x0 = E[x_0 | x] and z = -sigma score of a mixture, for any alpha and sigma."""
        sde, data = PROCESSES[name], mixture_2d()
        make, target = PREDICTED[kind]
        t = jnp.linspace(0.01, 1.0, 6) * sde.t_max
        x = jax.random.normal(jax.random.key(0), (6, 2))
        exact = data.score(sde, x, t)
        alpha, sigma = (v[:, None] for v in sde.marginal(t))
        output = target(alpha, sigma, sde.tweedie(x, t, exact), -sigma * exact)
        assert_close(make(sde, time_label).score_fn(lambda x, labels: output)(x, t), exact, 1e-9)

    @pytest.mark.parametrize(("kind", "output"), [("v", -2.2), ("velocity", -3.0)])
    def test_by_hand(self, kind, output):
        """x0 = 2, z = -1, alpha = 0.6, sigma = 0.8: x = 0.4, score = 1.25."""
        chain = DiscreteChain(np.asarray([0.6]), np.asarray([0.8]))
        make, target = PREDICTED[kind]
        assert target(0.6, 0.8, 2.0, -1.0) == pytest.approx(output)
        seen = []

        def network(x, labels):
            seen.append((x, labels))
            return jnp.full_like(x, output)

        score = make(chain, index_label).score_fn(network)(jnp.full((1, 1), 0.4), jnp.zeros(1))
        assert float(score[0, 0]) == pytest.approx(1.25, rel=1e-6)
        assert float(seen[0][0][0, 0]) == pytest.approx(0.4) and float(seen[0][1][0]) == 0

    @pytest.mark.parametrize(
        ("kind", "name"), [("v", "vp"), ("v", "cosine"), ("velocity", "straight")]
    )
    def test_single_precision_at_both_ends(self, kind, name, request):
        """sigma score in float32 errs by rounding alone, from t_min to t_max."""
        sde, data = PROCESSES[name], mixture_2d()
        make, target = PREDICTED[kind]
        ends = [sde.t_min, 2 * sde.t_min, 0.5, 0.999 * sde.t_max, sde.t_max]
        t = np.asarray(ends, np.float32)
        request.getfixturevalue("x64")
        wide = jnp.asarray(t, jnp.float64)
        x0, z = jax.random.normal(jax.random.key(0), (2, 5, 2))
        x = jnp.asarray(sde.perturb(0.5 * x0, wide, z), jnp.float32)
        exact = data.score(sde, x.astype(jnp.float64), wide)
        alpha, sigma = (v[:, None] for v in sde.marginal(wide))
        clean = sde.tweedie(x.astype(jnp.float64), wide, exact)
        output = target(alpha, sigma, clean, -sigma * exact).astype(jnp.float32)
        score = make(sde, time_label).score_fn(lambda x, labels: output)(x, jnp.asarray(t))
        assert score.dtype == jnp.float32
        assert_close(sigma * score.astype(jnp.float64), sigma * exact, 2e-6)

    def test_velocity_is_that_of_the_straight_path(self, x64):
        """u = dx/dt of the probability flow, with the exact score."""
        sde, data = PROCESSES["straight"], mixture_2d()
        t, x = jnp.linspace(0.1, 0.9, 5), jax.random.normal(jax.random.key(0), (5, 2))
        exact = data.score(sde, x, t)
        velocity = -t[:, None] * exact - sde.tweedie(x, t, exact)
        assert_close(probability_flow(sde, data.score_fn(sde))(x, t), velocity, 1e-10)


class TestEDM:
    def test_table_1(self):
        """For alpha = 1: Karras et al. (2022), table 1, written for the denoiser."""
        sde, data_std = EDM(), 0.7
        p = edm_preconditioning(sde, data_std)
        t = jnp.asarray([0.002, 0.5, 3.0, 80.0])
        x = jax.random.normal(jax.random.key(0), (4, 3)) * t[:, None]

        def network(x, labels):
            return jnp.sin(x) + labels[:, None]

        level, total = np.asarray(t)[:, None], np.asarray(t)[:, None] ** 2 + data_std**2
        output = np.sin(np.asarray(x) / np.sqrt(total)) + 0.25 * np.log(level)
        denoiser = data_std**2 / total * x + level * data_std / np.sqrt(total) * output
        assert_close(sde.tweedie(x, t, p.score_fn(network)(x, t)), denoiser, 2e-5)
        assert_close(p.c_in(t), 1 / np.sqrt(total[:, 0]), 1e-6)

    @pytest.mark.parametrize("name", PROCESSES)
    def test_zero_network_is_the_gaussian_of_that_std(self, name, x64):
        sde, data = PROCESSES[name], GaussianMixture.isotropic([1.0], np.zeros((1, 3)), 0.5)
        t = jnp.asarray([0.01, 0.3, 0.6, 1.0]) * sde.t_max
        x = jax.random.normal(jax.random.key(0), (4, 3))
        score = edm_preconditioning(sde).score_fn(lambda x, labels: jnp.zeros_like(x))(x, t)
        assert_close(score, data.score(sde, x, t), 1e-10)

    @pytest.mark.parametrize("name", PROCESSES)
    def test_network_input_and_target_have_unit_variance(self, name):
        """For Gaussian data: c_in x_t and the F of the loss's target are of unit variance."""
        sde, n = PROCESSES[name], 20000
        p = edm_preconditioning(sde)
        t = jnp.full(n, 0.3 * sde.t_max)
        x0, z = jax.random.normal(jax.random.key(0), (2, n, 1))
        x0 = 0.5 * x0
        x = sde.perturb(x0, t, z)
        _, sigma = sde.marginal(t)
        target = (-z / sigma[:, None] - p.c_skip(t)[:, None] * x) / p.c_out(t)[:, None]
        assert float(jnp.std(p.c_in(t)[:, None] * x)) == pytest.approx(1, abs=0.03)
        assert float(jnp.std(target)) == pytest.approx(1, abs=0.03)

    def test_label(self):
        alpha, sigma = VP().marginal(jnp.asarray(0.5))
        label = edm_preconditioning(VP()).c_noise(jnp.asarray(0.5))
        assert float(label) == pytest.approx(float(jnp.log(sigma / alpha)) / 4, rel=1e-6)


def test_labels():
    t = jnp.asarray([0.0, 2.0, 9.0])
    assert_close(time_label(t), 999 * t, 0)
    assert_close(index_label(t), t, 0)
    assert_close(reversed_index_label(DiscreteChain.smld(n=10))(t), [9.0, 7.0, 0.0], 0)
    assert_close(noise_level_label(EDM())(t), t, 0)
    assert_close(noise_level_label(VE(0.5, 8.0))(jnp.asarray(0.25)), 1.0, 1e-6)
