"""Probability-flow ODE: published runs, exact maps, counts, and independence of the batch."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mathcases import mixture_2d, mixture_16d, reference_mixture, slope, stored_sde
from scipy.stats import kstest

from golden import assert_close, load, meta, names
from score_sde.analytic import GaussianMixture
from score_sde.flow import AdamsMoulton, Flow, spherical
from score_sde.sde import EDM, VE, VP, SubVP

SDES = {"ve": VE(), "vp": VP(), "subvp": SubVP(), "edm": EDM()}


def _tight(sde, **more):
    return Flow(sde, diffrax.Dopri8(), 1e-11, 1e-11, **more)


@pytest.mark.parametrize("variable", ["t", pytest.param("log_snr", marks=pytest.mark.slow)])
@pytest.mark.parametrize("file", names("math/ode_sample_*"))
class TestPublished:
    def test_high_accuracy(self, file, variable, x64):
        stored = load(file)
        sde = stored_sde(stored)
        score_fn = reference_mixture(stored).score_fn(sde)
        x, success = _decode(_tight(sde, variable=variable), score_fn, stored)
        assert success
        # The other side is SciPy's DOP853 at 1e-12.
        assert_close(x, stored["derived_x_plain_highacc"], 1e-8)
        # SciPy's RK45 at 1e-5 is off by exactly the amount the file states: both sides mean the
        # same number.
        stated = meta(stored)["max_rel_diff_rk45_vs_highacc"]
        assert_close(x, stored["x_plain_float64"], 1.001 * stated)
        with pytest.raises(AssertionError):
            assert_close(x, stored["x_plain_float64"], 0.999 * stated)

    def test_loose(self, file, variable, x64):
        """The default solver at 1e-5 is as near to the solution as RK45.

        It is no farther than 1e-4 + three times RK45's own error.
        """
        stored = load(file)
        sde = stored_sde(stored)
        x, success = _decode(
            Flow(sde, variable=variable), reference_mixture(stored).score_fn(sde), stored
        )
        assert success
        stated = meta(stored)["max_rel_diff_rk45_vs_highacc"]
        assert_close(x, stored["derived_x_plain_highacc"], 1e-4 + 3 * stated)


def _decode(flow, score_fn, stored):
    out = jax.jit(lambda z: flow.decode(score_fn, z))(jnp.asarray(stored["latent"]))
    return out.state, bool(jnp.all(out.success))


class TestExactMaps:
    @pytest.mark.parametrize("variable", ["t", pytest.param("log_snr", marks=pytest.mark.slow)])
    @pytest.mark.parametrize("name", SDES)
    @pytest.mark.parametrize("solver", [diffrax.Dopri5(), diffrax.Dopri8()])
    @pytest.mark.parametrize("tol", [1e-5, pytest.param(1e-6, marks=pytest.mark.slow)])
    def test_round_trip(self, name, variable, tol, solver, x64):
        """To ten times the tolerance."""
        sde, mixture = SDES[name], mixture_16d()
        x = mixture.sample_at(jax.random.key(0), sde, jnp.asarray(sde.t_min), 8, jnp.float64)
        flow, score_fn = Flow(sde, solver, tol, tol, variable=variable), mixture.score_fn(sde)
        z, back = jax.jit(
            lambda x: (z := flow.encode(score_fn, x), flow.decode(score_fn, z.state))
        )(x)
        assert bool(jnp.all(z.success & back.success))
        assert float(jnp.max(jnp.abs(z.state - x))) > 0.1
        np.testing.assert_allclose(back.state, x, rtol=0, atol=10 * tol)

    @pytest.mark.parametrize("variable", ["t", "angle", "log_snr", "angle_log_snr"])
    @pytest.mark.parametrize("name", SDES)
    def test_gaussian_data(self, name, variable, x64):
        """For N(mu, v I) the flow is the affine map that keeps (x - alpha mu)/std.

        This is (7.13) in closed form.
        """
        sde, mu, v = SDES[name], np.array([0.3, -0.5]), 0.09
        mixture = GaussianMixture.isotropic([1.0], mu[None], v**0.5)
        x = jnp.asarray([[0.1, 0.2], [-0.4, 0.8], [1.5, -2.0]])
        out = jax.jit(lambda x: _tight(sde, variable=variable).encode(mixture.score_fn(sde), x))(x)

        def standard(t):
            alpha, sigma = (float(a) for a in sde.marginal(jnp.asarray(t)))
            return alpha * mu, np.sqrt(alpha**2 * v + sigma**2)

        (m0, s0), (m1, s1) = standard(sde.t_min), standard(sde.t_max)
        np.testing.assert_allclose(
            out.state, m1 + s1 * (np.asarray(x) - m0) / s0, rtol=1e-8, atol=1e-8
        )

    @pytest.mark.parametrize("name", SDES)
    def test_latents_are_standard_normal(self, name):
        sde, mixture = SDES[name], mixture_2d()
        x = mixture.sample_at(jax.random.key(1), sde, jnp.asarray(sde.t_min), 4000)
        flow = Flow(sde, rtol=1e-4, atol=1e-4, variable="t")
        out = jax.jit(lambda x: flow.encode(mixture.score_fn(sde), x))(x)
        assert bool(jnp.all(out.success))
        z = np.asarray(out.state) / sde.prior_std
        for values in (*z.T, (z[:, 0] + z[:, 1]) / np.sqrt(2)):
            assert kstest(values, "norm").pvalue > 1e-3
            assert kstest(1.2 * values, "norm").pvalue < 1e-3  # the test has the power to see 20%

    @pytest.mark.parametrize(
        "solver, order",
        [
            (diffrax.Euler(), 1),
            (diffrax.Heun(), 2),
            (diffrax.Tsit5(), 5),
            (AdamsMoulton(2), 2),
            (AdamsMoulton(3), 3),
        ],
    )
    def test_order_of_fixed_steps(self, solver, order, x64):
        sde, mixture = VP(t_min=0.1), mixture_2d()
        x = mixture.sample_at(jax.random.key(2), sde, jnp.asarray(sde.t_min), 4, jnp.float64)
        score_fn = mixture.score_fn(sde)
        z = jax.jit(lambda x: _tight(sde, variable="t").encode(score_fn, x))(x).state
        sizes, errors = np.array([32, 64, 128]), []
        for n in sizes:
            flow = Flow(sde, solver, steps=int(n), variable="t")
            out = jax.jit(lambda x, flow=flow: flow.encode(score_fn, x))(x)
            assert bool(jnp.all(out.success))
            errors.append(float(jnp.max(jnp.abs(out.state - z))))
        assert abs(-slope(sizes, errors) - order) < 0.15 * order + 0.2, errors


class TestCounts:
    """nfe is the number of evaluations that really happen, told by a callback in the score."""

    def _count(self, flow, x, score_fn):
        calls = []

        def counted(x, t):
            jax.debug.callback(lambda t: calls.append(float(t[0])), t)
            return score_fn(x, t)

        out = jax.jit(lambda x: flow.encode(counted, x))(x)
        jax.block_until_ready(out)
        jax.effects_barrier()
        return len(calls), int(out.nfe[0])

    @pytest.mark.parametrize("variable", ["t", "log_snr"])
    @pytest.mark.parametrize(
        "solver", [diffrax.Tsit5(), diffrax.Dopri5(), diffrax.Dopri8(), diffrax.Heun()]
    )
    def test_adaptive(self, solver, variable, x64):
        sde, mixture = VP(), mixture_2d()
        x = mixture.sample(jax.random.key(0), 1, jnp.float64)
        flow = Flow(sde, solver, 1e-4, 1e-4, variable=variable)
        true, reported = self._count(flow, x, mixture.score_fn(sde))
        assert true == reported > 20

    @pytest.mark.parametrize(
        "solver, expected",
        [
            (diffrax.Euler(), 10),
            (diffrax.Heun(), 20),
            (diffrax.Tsit5(), 61),
            (diffrax.Dopri5(), 61),
            (diffrax.Dopri8(), None),
            (AdamsMoulton(), 11),
        ],
    )
    def test_fixed_steps(self, solver, expected, x64):
        sde, mixture = VP(), mixture_2d()
        x = mixture.sample(jax.random.key(0), 1, jnp.float64)
        for variable in ("t", "log_snr"):
            flow = Flow(sde, solver, steps=10, variable=variable)
            true, reported = self._count(flow, x, mixture.score_fn(sde))
            assert true == reported
            assert expected is None or true == expected

    def test_unknown_solver(self, x64):
        """An implicit method works; its evaluations are not known."""
        sde, mixture = VP(), mixture_2d()
        x = mixture.sample(jax.random.key(0), 2, jnp.float64)
        out = jax.jit(
            lambda x: Flow(sde, diffrax.Kvaerno5(), 1e-7, 1e-7, variable="t").encode(
                mixture.score_fn(sde), x
            )
        )(x)
        assert bool(jnp.all(out.success)) and out.nfe.tolist() == [-1, -1]
        truth = jax.jit(lambda x: _tight(sde, variable="t").encode(mixture.score_fn(sde), x))(x)
        np.testing.assert_allclose(out.state, truth.state, atol=1e-4)


class TestAdamsMoulton:
    def test_weights_of_equal_steps(self):
        """Those of textbooks, once the last four derivatives lie at equal distances."""
        nodes, correct, predict = AdamsMoulton(4).tables(12)
        h = nodes[-1] - nodes[-2]
        np.testing.assert_allclose(nodes[:4] / h, [0, 0.25, 0.75, 1.75], rtol=1e-12)
        assert nodes[-1] == 1 and not correct[0].any() and not predict[-1].any()
        np.testing.assert_allclose(correct[7] / h, np.array([9, 19, -5, 1]) / 24, rtol=1e-9)
        np.testing.assert_allclose(predict[7, :3] / h, np.array([23, -16, 5]) / 12, rtol=1e-9)

    @pytest.mark.parametrize("order", [2, 4, 5])
    @pytest.mark.parametrize("steps", [1, 2, 3, 9])
    def test_exact_for_polynomials(self, order, steps):
        """A rate that depends on the place alone: every correction integrates the polynomial."""
        nodes, correct, predict = AdamsMoulton(order).tables(steps)
        for i in range(1, steps + 1):
            known = nodes[max(i - order + 1, 0) : i + 1][::-1]
            for power in range(len(known)):
                wanted = (nodes[i] ** (power + 1) - nodes[i - 1] ** (power + 1)) / (power + 1)
                found = correct[i, : len(known)] @ known**power
                np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-12)
                if i < steps and power < min(len(known), order - 1):
                    known_then = known[: order - 1]
                    wanted = (nodes[i + 1] ** (power + 1) - nodes[i] ** (power + 1)) / (power + 1)
                    found = predict[i, : len(known_then)] @ known_then**power
                    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-12)

    @pytest.mark.parametrize("name", SDES)
    def test_fewer_evaluations_than_steps_chosen_by_the_error(self, name, x64):
        """Latents of a mixture: 33 evaluations err less than 50 or more do."""
        sde, mixture = SDES[name], mixture_16d()
        x = mixture.sample_at(jax.random.key(0), sde, jnp.asarray(sde.t_min), 32, jnp.float64)
        flows = (
            _tight(sde),
            Flow(sde, AdamsMoulton(), steps=32, variable="angle"),
            Flow(sde, rtol=1e-3, atol=1e-3, variable="t"),
        )
        truth, adams, chosen = jax.jit(
            lambda x: [flow.encode(mixture.score_fn(sde), x) for flow in flows]
        )(x)
        assert adams.nfe.tolist() == [33] * 32 and float(chosen.nfe.mean()) > 50
        first, second = (np.abs(f.state - truth.state).max(1) for f in (adams, chosen))
        assert np.median(first) < np.median(second), (np.median(first), np.median(second))

    def test_round_trip(self, x64):
        """There and back, through the quarter steps at either end."""
        sde, mixture = VP(), mixture_16d()
        x = mixture.sample_at(jax.random.key(0), sde, jnp.asarray(sde.t_min), 8, jnp.float64)
        flow, score_fn = (
            Flow(sde, AdamsMoulton(), steps=100, variable="angle"),
            mixture.score_fn(sde),
        )
        back = jax.jit(lambda x: flow.decode(score_fn, flow.encode(score_fn, x).state))(x)
        assert bool(jnp.all(back.success))
        np.testing.assert_allclose(back.state, x, rtol=0, atol=1e-3)


class TestBatch:
    @pytest.mark.parametrize("steps", [0, 20])
    @pytest.mark.parametrize("variable", ["t", "log_snr"])
    @pytest.mark.parametrize("precision", ["float32", "float64"])
    def test_alone_or_together(self, precision, variable, steps, request):
        """To rounding.

        In float32 that of log-SNR as a function of t moves adaptive steps in it, by up to two here.
        """
        if precision == "float64":
            request.getfixturevalue("x64")
        sde, mixture = VP(), mixture_2d()
        x = jnp.asarray([[-0.8, 0.3], [0.1, 0.2], [0.6, 0.5], [3.0, -4.0]], precision)
        moved = precision == "float32" and not steps and variable == "log_snr"
        tol = 5e-5 if moved else 1e-9 if precision == "float64" else 1e-6 if steps else 1e-5
        flow = Flow(sde, variable=variable, steps=steps)
        run = jax.jit(lambda x: flow.encode(mixture.score_fn(sde), x))
        together = run(x)
        assert steps or len(set(together.nfe.tolist())) > 1
        for i in range(len(x)):
            alone = run(x[i : i + 1])
            np.testing.assert_allclose(alone.state[0], together.state[i], rtol=tol, atol=tol)
            assert abs(int(alone.nfe[0]) - int(together.nfe[i])) <= (12 if moved else 0)

    def test_too_many_steps(self, x64):
        sde, mixture = VP(), mixture_2d()
        x = mixture.sample(jax.random.key(0), 8, jnp.float64)
        score_fn = mixture.score_fn(sde)
        full = jax.jit(lambda x: Flow(sde).encode(score_fn, x))(x)
        steps = (np.asarray(full.nfe) - 1) // 6
        limit = int(steps.min() + steps.max()) // 2
        enough = steps <= limit
        assert bool(jnp.all(full.success)) and 0 < enough.sum() < 8
        out = jax.jit(lambda x: Flow(sde, max_steps=limit).encode(score_fn, x))(x)
        np.testing.assert_array_equal(out.success, enough)
        np.testing.assert_allclose(out.state[enough], full.state[enough], rtol=1e-9)

    @pytest.mark.parametrize(
        "steps, solver", [(0, diffrax.Dopri5()), (20, diffrax.Dopri5()), (40, AdamsMoulton())]
    )
    def test_score_that_is_not_finite(self, steps, solver):
        sde, mixture = VP(), mixture_2d()
        x = jnp.concatenate([mixture.sample(jax.random.key(0), 3), 100 * jnp.ones((1, 2))])

        def broken(x, t):
            return jnp.where(
                jnp.max(x, axis=1, keepdims=True) > 50, jnp.nan, mixture.score(sde, x, t)
            )

        flow = Flow(sde, solver, steps=steps, max_steps=200)
        out = jax.jit(lambda x: flow.encode(broken, x))(x)
        assert out.success.tolist() == [True, True, True, False]
        sound = jax.jit(lambda x: flow.encode(mixture.score_fn(sde), x))(x[:3])
        np.testing.assert_allclose(out.state[:3], sound.state, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "steps, solver", [(0, diffrax.Dopri5()), (4, diffrax.Dopri5()), (4, AdamsMoulton())]
)
@pytest.mark.parametrize("variable", ["t", "log_snr", "angle_log_snr"])
def test_the_program_calls_no_python(variable, steps, solver):
    """A program that does is compiled anew by every process."""
    flow, z = Flow(VP(), solver, variable=variable, steps=steps), jnp.ones((2, 3))
    for solve in (flow.encode, flow.decode):
        program = str(jax.make_jaxpr(lambda z, solve=solve: solve(lambda x, t: -x, z))(z))
        assert ("while" in program or "scan" in program) and "callback" not in program


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"variable": "sigma"}, "variable must be one of 't', .*; got 'sigma'"),
        ({"steps": -1}, "steps must be >= 0.*got -1"),
        ({"max_steps": 0}, "max_steps >= 1.*got 0, 0"),
        ({"steps": 10**9}, "steps=1,000,000,000 is more than max_steps=10,000"),
        ({"solver": diffrax.Euler()}, "Euler does not estimate its error.*give steps=N"),
        ({"solver": AdamsMoulton()}, "AdamsMoulton does not estimate its error.*give steps=N"),
        ({"rtol": 0.0}, "tolerances must be positive; got rtol=0.0"),
        ({"atol": -1.0}, "tolerances must be positive.*atol=-1.0"),
    ],
)
def test_refusals(settings, message):
    # The type checker of the tests would refuse a wrong literal before the class does.
    error = Exception if "variable" in settings else ValueError
    with pytest.raises(error, match=None if "variable" in settings else message):
        Flow(VP(), **settings)


@pytest.mark.parametrize("variable", ["angle", "log_snr", "angle_log_snr"])
@pytest.mark.parametrize("name", SDES)
def test_variables_run_in_order_and_back_to_their_times(name, variable, x64):
    flow = Flow(SDES[name], variable=variable)
    t = jnp.linspace(flow.sde.t_min, flow.sde.t_max, 50)
    values = jax.vmap(flow._of_time)(t)
    steps = jnp.diff(values)
    assert bool(jnp.all(steps > 0) if variable != "log_snr" else jnp.all(steps < 0))
    np.testing.assert_allclose(jax.vmap(flow._time_at)(values), t, rtol=1e-9)
    if variable == "angle_log_snr":
        np.testing.assert_allclose(values[jnp.array([0, -1])], [0, 1], atol=1e-12)
        inner = [Flow(SDES[name], variable=one)._of_time(t) for one in ("angle", "log_snr")]
        shares = [(v - v[0]) / (v[-1] - v[0]) for v in inner]
        np.testing.assert_allclose(values, (shares[0] + shares[1]) / 2, rtol=1e-9, atol=1e-12)


def test_order_of_a_correction():
    with pytest.raises(ValueError, match="order must be 2 or more; got 1"):
        AdamsMoulton(1)


class TestSpherical:
    def test_ends_and_known_value(self, x64):
        z0, z1 = jnp.asarray([[1.0, 0.0], [2.0, 0.0]]), jnp.asarray([[0.0, 1.0], [0.0, 2.0]])
        out = spherical(z0, z1, jnp.asarray([0.0, 1 / 3, 1.0]))
        assert out.shape == (3, 2, 2)
        np.testing.assert_allclose(out[0], z0, atol=1e-12)
        np.testing.assert_allclose(out[2], z1, atol=1e-12)
        np.testing.assert_allclose(out[1, 0], [np.cos(np.pi / 6), np.sin(np.pi / 6)], atol=1e-12)

    def test_keeps_the_norm(self, x64):
        z0, z1 = jax.random.normal(jax.random.key(0), (2, 3, 4, 4, 1), jnp.float64)
        z0, z1 = (
            z / jnp.linalg.norm(z.reshape(3, -1), axis=1).reshape(3, 1, 1, 1) for z in (z0, z1)
        )
        out = spherical(z0, z1, jnp.linspace(0, 1, 7)).reshape(7, 3, -1)
        np.testing.assert_allclose(jnp.linalg.norm(out, axis=2), np.ones((7, 3)), rtol=1e-12)
        # Equal weights: equal angles to both ends.
        middle = out[3]
        np.testing.assert_allclose(
            jnp.sum(middle * z0.reshape(3, -1), 1),
            jnp.sum(middle * z1.reshape(3, -1), 1),
            rtol=1e-10,
        )

    def test_parallel(self):
        z = jax.random.normal(jax.random.key(0), (2, 5))
        out = spherical(z, z, jnp.asarray([0.0, 0.3, 1.0]))
        np.testing.assert_allclose(out, jnp.broadcast_to(z, (3, 2, 5)), rtol=1e-5)
        out = spherical(z, 3 * z, jnp.asarray([0.0, 0.5, 1.0]))
        np.testing.assert_allclose(out[1], 2 * z, rtol=1e-3)
        assert bool(jnp.all(jnp.isfinite(out)))
