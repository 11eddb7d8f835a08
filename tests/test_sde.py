"""Forward processes against reference values, closed forms, differential equations and each other."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mathcases import (
    SDES,
    mixture_2d,
    propagate,
    reference_chain,
    reference_mixture,
    reference_sde,
    slope,
)
from scipy.integrate import solve_ivp
from scipy.stats import norm

from golden import assert_close, load
from score_sde.sde import (
    EDM,
    VE,
    VP,
    CosineVP,
    DiscreteChain,
    MatrixSDE,
    PublishedSteps,
    SubVP,
    probability_flow,
    simulate,
)
from score_sde.steppers import EulerMaruyama, ReverseDiffusion
from score_sde.types import fold_in, left_broadcast, normal, sample_keys

ALL = pytest.mark.parametrize("sde", SDES.values(), ids=SDES)


@pytest.fixture(params=["float64", "float32"])
def dtype(request):
    if request.param == "float64":
        request.getfixturevalue("x64")
    return request.param


def times(sde, n=7):
    """Times over the whole interval, its ends included."""
    return jnp.concatenate([jnp.asarray([sde.t_min]), jnp.linspace(sde.t_min, sde.t_max, n)[1:]])


CASES = pytest.mark.parametrize(("case", "dtype"), [("a", "float64"), ("b", "float64"), ("a", "float32")])


class TestReferenceValues:
    @CASES
    @pytest.mark.parametrize("name", ["ve", "vp", "subvp"])
    def test_coefficients_marginals_and_reversal(self, name, case, dtype, request):
        if dtype == "float64":
            request.getfixturevalue("x64")
        stored = load(f"math/sde_{name}_{case}")
        tol = 1e-8 if dtype == "float64" else 1e-4
        sde, data = reference_sde(name, stored), reference_mixture(stored)

        @jax.jit
        def evaluate(x, t, noise, prior_sample):
            alpha, sigma = sde.marginal(t)
            ones = jnp.ones_like(x)
            score = data.score(sde, x, t)
            return {
                "drift": sde.drift(x, t),
                "diffusion": jnp.sqrt(sde.coefficients(t)[1]),
                "marginal_mean": left_broadcast(alpha, x) * x,
                "marginal_std": sigma,
                "prior_sample": sde.prior_std * noise,
                "prior_logp": sde.prior_logp(prior_sample),
                "score": score,
                "rev_drift": sde.reverse_drift(x, t, score),
                "pf_drift": sde.reverse_drift(x, t, score, eta=0.0),
                "rev_diffusion": sde.diffuse(x, t, ones)[:, 0, 0, 0],
            }, {
                "pf_drift": probability_flow(sde, data.score_fn(sde))(x, t),
                "diffusion": jnp.sqrt(sde.gram(x, t, ones)[:, 0, 0, 0]),
                "marginal_mean": sde.perturb(x, t, 2 * x) - 2 * left_broadcast(sigma, x) * x,
            }

        for values in evaluate(
            *(jnp.asarray(stored[k], dtype) for k in ("x", "t", "prior_noise", "prior_sample"))
        ):
            for key, value in values.items():
                assert_close(value, stored[key], tol, key)

    @CASES
    @pytest.mark.parametrize("name", ["ve", "vp", "subvp"])
    def test_discretisation(self, name, case, dtype, request):
        if dtype == "float64":
            request.getfixturevalue("x64")
        stored = load(f"math/sde_{name}_{case}")
        tol = 1e-8 if dtype == "float64" else 1e-4
        x, t = jnp.asarray(stored["x"], dtype), jnp.asarray(stored["t"], dtype)
        s = t - 1 / int(stored["N"])
        score = jnp.asarray(stored["score"], dtype)
        chain = reference_chain(name if name == "ve" else "vp", stored)
        assert_close(PublishedSteps(chain).index(t), stored["timestep_index"], 0)
        z = jnp.asarray(stored["prior_noise"], dtype)
        if name == "subvp":  # its discretisation is Euler's
            stochastic, flow = (EulerMaruyama(reference_sde(name, stored), eta) for eta in (1.0, 0.0))
        else:
            stochastic, flow = (ReverseDiffusion(PublishedSteps(chain), eta) for eta in (1.0, 0.0))
            a, b = PublishedSteps(chain).transition(t, s)
            assert_close(left_broadcast(a - 1, x) * x, stored["disc_f"], tol, "disc_f")
            assert_close(b, stored["disc_G"], tol, "disc_G")
        y, mean = stochastic(lambda x, t: score, x, t, s, z[None])
        assert_close(x - mean, stored["rev_disc_f"], tol, "rev_disc_f")
        assert_close(
            y - mean, left_broadcast(jnp.asarray(stored["rev_disc_G"], dtype), x) * z, tol, "rev_disc_G"
        )
        y, mean = flow(lambda x, t: score, x, t, s, z[None])
        assert_close(x - mean, stored["pf_disc_f"], tol, "pf_disc_f")
        assert_close(y, mean, 0)

    @pytest.mark.parametrize("case", ["a", "b"])
    def test_tables(self, case):
        stored = load(f"math/sde_ve_{case}")
        assert_close(reference_chain("ve", stored).sigmas, stored["discrete_sigmas"], 1e-13)
        stored = load(f"math/sde_vp_{case}")
        chain = reference_chain("vp", stored)
        assert_close(chain.alphas, stored["sqrt_alphas_cumprod"], 1e-13)
        assert_close(chain.sigmas, stored["sqrt_1m_alphas_cumprod"], 1e-13)

    @pytest.mark.parametrize("name", ["vp", "subvp"])
    def test_score_flow_coefficients(self, name, x64):
        stored = load(f"math/sde_flow_{name}")
        sde = reference_sde(name, stored)
        x, t = jnp.asarray(stored["x"]), jnp.asarray(stored["t"])
        alpha, sigma = sde.marginal(t)
        assert_close(left_broadcast(alpha, x) * x, stored["mean_plain"], 1e-12)
        np.testing.assert_allclose(sigma, stored["std_plain"], rtol=1e-9)
        assert_close(sde.drift(x, t), stored["drift"], 1e-12)
        expected = stored["diffusion_plain" if name == "subvp" else "diffusion"]
        np.testing.assert_allclose(jnp.sqrt(sde.coefficients(t)[1]), expected, rtol=1e-9)
        entropy = -jnp.mean(sde.prior_logp(jnp.asarray([[-1.0] * x[0].size, [1.0] * x[0].size])))  # |z|^2 = D
        assert_close(entropy, stored["prior_entropy"][0], 1e-12)

    def test_score_flow_ve(self, x64):
        stored = load("math/sde_flow_ve")
        sde, t = reference_sde("ve", stored), jnp.asarray(stored["t"])
        assert_close(sde.marginal(t)[1], stored["geometric_std"], 1e-12)
        assert_close(jnp.sqrt(sde.coefficients(t)[1]), stored["geometric_diffusion"], 1e-12)
        chain = reference_chain("ve", stored)
        assert_close(chain.sigmas, stored["geometric_discrete_sigmas"], 1e-12)
        assert_close(PublishedSteps(chain).transition(t, t)[1], stored["geometric_disc_G"], 1e-12)
        assert_close(
            sde.coefficients(t)[1] / sde.marginal(t)[1] ** 2,
            stored["derived_g2_over_var"] * np.ones(6),
            1e-12,
        )

    @pytest.mark.parametrize("case", ["N1000_eps0.001", "N1000_eps1e-05", "N50_eps0.001", "N2000_eps1e-05"])
    def test_table_index_of_a_time(self, case, dtype):
        stored = load("math/sde_timegrid")
        n = int(case.split("_")[0][1:])
        steps = PublishedSteps(DiscreteChain.smld(n=n))
        for source in ["float64"] if dtype == "float64" else ["torch_float32", "jax_float32"]:
            index = steps.index(jnp.asarray(stored[f"{case}__t_{source}"]))
            np.testing.assert_array_equal(index, stored[f"{case}__index_{source}"])


class TestCoefficients:
    """The coefficients follow from the marginals; these are the formulas of the papers."""

    @pytest.mark.parametrize("at", ["scalar", "batch"])
    def test_closed_forms(self, at, x64):
        def check(sde, f, g2):
            t = times(sde) if at == "batch" else jnp.asarray(0.37 * sde.t_max)
            drift, diffusion = sde.coefficients(t)
            np.testing.assert_allclose(drift, f(t) * jnp.ones_like(t), rtol=1e-12)
            np.testing.assert_allclose(diffusion, g2(t), rtol=1e-12)

        ve = VE(0.02, 8.0)
        check(ve, lambda t: 0.0, lambda t: 2 * (0.02 * 400.0**t) ** 2 * math.log(400))

        def beta(t):
            return 0.1 + 19.9 * t

        def integral(t):
            return 0.1 * t + 0.5 * 19.9 * t**2

        check(VP(), lambda t: -0.5 * beta(t), beta)
        check(SubVP(), lambda t: -0.5 * beta(t), lambda t: -beta(t) * jnp.expm1(-2 * integral(t)))
        check(EDM(), lambda t: 0.0, lambda t: 2 * t)

        def tangent(t):
            return math.pi / 2 / 1.008 * jnp.tan(math.pi / 2 * (t + 0.008) / 1.008)

        check(CosineVP(), lambda t: -tangent(t), lambda t: 2 * tangent(t))

    def test_cosine_marginal(self, x64):
        sde, t = CosineVP(), times(CosineVP())
        alpha, sigma = sde.marginal(t)
        expected = np.cos(np.pi / 2 * (t + 0.008) / 1.008) / np.cos(np.pi / 2 * 0.008 / 1.008)
        np.testing.assert_allclose(alpha, expected, rtol=1e-12)
        np.testing.assert_allclose(alpha**2 + sigma**2, 1.0, rtol=1e-12)

    @ALL
    def test_finite_differences(self, sde, x64):
        t, h = times(sde)[1:-1], 1e-5 * sde.t_max
        (a1, s1), (a0, s0), (_, sigma) = sde.marginal(t + h), sde.marginal(t - h), sde.marginal(t)
        f = (jnp.log(a1) - jnp.log(a0)) / (2 * h)
        g2 = (s1**2 - s0**2) / (2 * h) - 2 * f * sigma**2
        assert_close(sde.coefficients(t)[0], f, 1e-6)
        assert_close(sde.coefficients(t)[1], g2, 1e-6)

    @ALL
    def test_moments_obey_their_differential_equations(self, sde, x64):
        coefficients = jax.jit(sde.coefficients)

        def moments(t, y):  # mean factor, variance of x_t given x_{t_min}
            f, g2 = (float(v) for v in coefficients(jnp.asarray(t)))
            return [f * y[0], 2 * f * y[1] + g2]

        end = 0.5 * sde.t_max
        alpha, sigma = (np.array(v) for v in sde.marginal(jnp.asarray([sde.t_min, end])))
        solution = solve_ivp(moments, (sde.t_min, end), [alpha[0], sigma[0] ** 2], rtol=1e-8, atol=1e-12)
        np.testing.assert_allclose(solution.y[:, -1], [alpha[1], sigma[1] ** 2], rtol=1e-6)

    @ALL
    def test_finite_at_time_zero(self, sde, dtype):
        zero, small = jnp.zeros(1, dtype), jnp.full(1, 1e-7 * sde.t_max, dtype)
        (f0, g0), (f1, g1) = sde.coefficients(zero), sde.coefficients(small)
        np.testing.assert_allclose(f0, f1, rtol=1e-4)
        np.testing.assert_allclose(g0, g1, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(sde.marginal(zero)[0], 1.0, rtol=1e-6)

    @ALL
    def test_float32_is_accurate_down_to_t_min(self, sde, request):
        t = np.geomspace(sde.t_min, sde.t_max, 40).astype(np.float32)
        single = [np.asarray(v) for v in (*sde.marginal(jnp.asarray(t)), *sde.coefficients(jnp.asarray(t)))]
        request.getfixturevalue("x64")
        double = [*sde.marginal(jnp.asarray(t, float)), *sde.coefficients(jnp.asarray(t, float))]
        early = t < 0.9 * sde.t_max  # the cosine schedule's alpha vanishes at the end, where cos cancels
        for a, b, name in zip(single, double, ("alpha", "sigma", "f", "g2")):
            np.testing.assert_allclose(a[early], b[early], rtol=2e-6, err_msg=name)
        np.testing.assert_allclose(single[1], double[1], rtol=1e-6)

    @ALL
    def test_log_snr(self, sde, dtype):
        t = times(sde)
        alpha, sigma = sde.marginal(t)
        log_snr = sde.log_snr(t)
        assert_close(jnp.exp(-log_snr / 2) * alpha / sigma, np.ones(len(t)), 1e-5)
        rate = jax.vmap(jax.grad(sde.log_snr))(t)
        np.testing.assert_allclose(
            rate, -sde.coefficients(t)[1] / sigma**2, rtol=2e-4 if dtype == "float32" else 1e-10
        )
        found = sde.time_at_log_snr(log_snr)
        np.testing.assert_allclose(
            found, t, rtol=1e-9 if dtype == "float64" else 2e-4, atol=1e-6 * (dtype == "float32")
        )
        beyond = sde.time_at_log_snr(jnp.stack([log_snr[0] + 5, log_snr[-1] - 5]))
        np.testing.assert_allclose(beyond, [sde.t_min, sde.t_max], rtol=1e-6)

    @ALL
    def test_steps_compose(self, sde, x64):
        t, s, r = (jnp.asarray(u * sde.t_max) for u in (0.8, 0.45, 0.1))
        (a_ts, b_ts), (a_sr, b_sr), (a_tr, b_tr) = (
            sde.transition(t, s),
            sde.transition(s, r),
            sde.transition(t, r),
        )
        np.testing.assert_allclose(a_ts * a_sr, a_tr, rtol=1e-12)
        np.testing.assert_allclose(b_ts**2 + (a_ts * b_sr) ** 2, b_tr**2, rtol=1e-12)
        (alpha_t, sigma_t), (alpha_s, sigma_s) = sde.marginal(t), sde.marginal(s)
        np.testing.assert_allclose(a_ts * alpha_s, alpha_t, rtol=1e-12)
        np.testing.assert_allclose((a_ts * sigma_s) ** 2 + b_ts**2, sigma_t**2, rtol=1e-12)
        # A short step is f h and g sqrt(h).
        h = 1e-6 * sde.t_max
        a, b = sde.transition(t, t - h)
        f, g2 = sde.coefficients(t)
        np.testing.assert_allclose((a - 1) / h, f, rtol=1e-3, atol=1e-8)
        np.testing.assert_allclose(b**2 / h, g2, rtol=1e-3)

    @ALL
    def test_prior(self, sde, dtype):
        x = sde.prior_std * jax.random.normal(jax.random.key(0), (5, 3, 2), dtype)
        expected = norm(0, sde.prior_std).logpdf(np.asarray(x, np.float64)).sum((1, 2))
        assert_close(sde.prior_logp(x), expected, 1e-5 if dtype == "float32" else 1e-12)
        draws = sde.prior_sample(jax.random.key(1), (40000,), jnp.dtype(dtype))
        assert draws.dtype == dtype
        assert abs(float(jnp.std(draws)) / sde.prior_std - 1) < 5 / math.sqrt(2 * 40000)
        # The prior stands for p_{t_max}: data of unit size moves it little.
        alpha, sigma = sde.marginal(jnp.asarray(sde.t_max, dtype))
        assert abs(float(sigma) / sde.prior_std - 1) < 1e-3
        assert float(alpha) / sde.prior_std < 0.15

    @ALL
    def test_tweedie_inverts_the_perturbation_of_a_point(self, sde, x64):
        t = times(sde)
        x0, z = jax.random.normal(jax.random.key(0), (2, len(t), 3))
        _, sigma = sde.marginal(t)
        x = sde.perturb(x0, t, z)
        assert_close(sde.tweedie(x, t, -z / sigma[:, None]), x0, 1e-7)

    def test_ends_that_are_not_one(self, x64):
        for sde in (VE(0.02, 8.0, t_max=0.6), EDM(t_max=3.0)):
            assert sde.prior_std == pytest.approx(float(sde.marginal(jnp.asarray(sde.t_max))[1]))


class TestValidation:
    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (
                lambda: VE(50.0, 0.01),
                r"sigma_min must be in \(0, sigma_max\); got sigma_min=50.0, sigma_max=0.01",
            ),
            (lambda: VE(0.0, 1.0), "sigma_min must be in"),
            (lambda: VP(0.0, 20.0), r"beta_min must be in \(0, beta_max\]; got beta_min=0.0"),
            (lambda: SubVP(20.0, 0.1), "beta_min must be in"),
            (lambda: VP(t_min=1.0), r"t_min must be in \[0, t_max\); got t_min=1.0, t_max=1.0"),
            (lambda: EDM(t_min=-1.0), "t_min must be in"),
            (lambda: CosineVP(t_max=1.0), "t_max must be below 1"),
            (lambda: CosineVP(s=-0.1), "s must be >= 0; got s=-0.1"),
            (lambda: DiscreteChain(np.ones(3), np.ones(4)), "must be one-dimensional and of one length"),
            (lambda: DiscreteChain.smld(2.0, 1.0), "sigma_min must be in"),
            (lambda: DiscreteChain.ddpm(n=10), "beta_max must be below n, .* got beta_max=20.0, n=10"),
            (lambda: MatrixSDE(lambda x, t: x, lambda x, t: x, 2.0, 1.0), "t_min must be in"),
        ],
    )
    def test_messages(self, make, message):
        with pytest.raises(ValueError, match=message):
            make()


class TestRescaling:
    @pytest.mark.parametrize("name", ["ve", "vp", "subvp", "cosine"])
    def test_every_process_is_edm_in_other_units(self, name, x64):
        """x_t/alpha is EDM at noise level nu = sigma/alpha: score(x, t) = score_EDM(x/alpha, nu)/alpha."""
        sde, data = SDES[name], mixture_2d()
        x = jax.random.normal(jax.random.key(0), (6, 2))
        t = times(sde, 7)[:6]
        alpha, sigma = sde.marginal(t)
        level = sigma / alpha
        rescaled = data.score(EDM(), x / alpha[:, None], level) / alpha[:, None]
        assert_close(data.score(sde, x, t), rescaled, 1e-10)
        logp = data.log_prob(EDM(), x / alpha[:, None], level) - 2 * jnp.log(alpha)
        assert_close(data.log_prob(sde, x, t), logp, 1e-10)

    def test_probability_flow_is_one_curve(self, x64):
        """d(x/alpha)/d(nu) of VP's flow is EDM's flow."""
        sde, data = VP(), mixture_2d()
        x, t = jax.random.normal(jax.random.key(0), (6, 2)), jnp.linspace(0.05, 0.9, 6)
        alpha, sigma = sde.marginal(t)
        f, _ = sde.coefficients(t)
        level = sigma / alpha
        d_level = jax.vmap(jax.grad(lambda t: jnp.divide(*sde.marginal(t)[::-1])))(t)
        velocity = probability_flow(sde, data.score_fn(sde))(x, t)
        velocity = (velocity - f[:, None] * x) / alpha[:, None] / d_level[:, None]
        assert_close(
            velocity, probability_flow(EDM(), data.score_fn(EDM()))(x / alpha[:, None], level), 1e-10
        )


class TestDiscreteChain:
    def test_steps(self, x64):
        n = 60
        chain = DiscreteChain.ddpm(n=n)
        betas = np.linspace(0.1, 20.0, n) / n
        i = jnp.arange(n, dtype=float)
        a, b = chain.transition(i, i - 1)
        np.testing.assert_allclose(a, np.sqrt(1 - betas), rtol=1e-12)
        np.testing.assert_allclose(b, np.sqrt(betas), rtol=1e-9)
        chain = DiscreteChain.smld(0.02, 8.0, n)
        a, b = chain.transition(i, i - 1)
        np.testing.assert_allclose(b**2, np.diff(np.concatenate([[0], chain.sigmas**2])), rtol=1e-9)
        np.testing.assert_allclose(a, 1.0)
        np.testing.assert_allclose(chain.sigmas[[0, -1]], [0.02, 8.0])
        np.testing.assert_allclose(chain.sigmas[1:] / chain.sigmas[:-1], (8 / 0.02) ** (1 / (n - 1)))

    @pytest.mark.parametrize(
        "chain", [DiscreteChain.smld(n=40), DiscreteChain.ddpm(n=40)], ids=["smld", "ddpm"]
    )
    def test_strides_compose(self, chain, x64):
        t, s, r = (jnp.asarray(i) for i in (37.0, 12.0, -1.0))
        (a_ts, b_ts), (a_sr, b_sr), (a_tr, b_tr) = (
            chain.transition(t, s),
            chain.transition(s, r),
            chain.transition(t, r),
        )
        np.testing.assert_allclose(a_ts * a_sr, a_tr, rtol=1e-12)
        np.testing.assert_allclose(b_ts**2 + (a_ts * b_sr) ** 2, b_tr**2, rtol=1e-12)
        np.testing.assert_allclose((a_tr, b_tr), chain.marginal(t), rtol=1e-12)
        np.testing.assert_allclose(chain.marginal(r), (1.0, 0.0))

    def test_index(self):
        chain = DiscreteChain.smld(n=10)
        assert (chain.t_min, chain.t_max) == (0.0, 9.0)
        sigmas = chain.marginal(jnp.asarray([-1.0, 0.0, 3.0, 3.9, 9.0, 12.0]))[1]
        np.testing.assert_allclose(sigmas, [0.0, *chain.sigmas[[0, 3, 3, 9, 9]]], rtol=1e-6)

    def test_prior(self):
        assert DiscreteChain.smld(0.01, 7.0, 10).prior_std == pytest.approx(7.0)
        assert DiscreteChain.ddpm().prior_std == 1.0
        view = PublishedSteps(DiscreteChain.smld(0.01, 7.0, 10))
        assert view.prior_std == pytest.approx(7.0)
        x = jnp.asarray([[3.0, -2.0]])
        assert_close(view.prior_logp(x), norm(0, 7.0).logpdf([[3.0, -2.0]]).sum(1), 1e-6)

    def test_chain_converges_to_its_sde(self, x64):
        """SMLD's and DDPM's marginals tend to VE's and VP's as the number of levels grows."""
        t = jnp.linspace(0.05, 1.0, 5)
        errors = {"smld": [], "ddpm": []}
        for n in (500, 1000, 2000):
            for name, sde in (("smld", VE()), ("ddpm", VP())):
                view = PublishedSteps(getattr(DiscreteChain, name)(n=n))
                alpha, sigma = view.marginal(t)
                exact_alpha, exact_sigma = sde.marginal(t)
                errors[name].append(
                    float(jnp.max(jnp.abs(sigma / exact_sigma - 1) + jnp.abs(alpha - exact_alpha)))
                )
        assert all(e[2] < 0.7 * e[0] and e[2] < 0.02 for e in errors.values()), errors


def _matrix_g(x, t):
    one = jnp.ones_like(x[0])
    return jnp.stack(
        [jnp.stack([one + 0.3 * jnp.sin(x[1]), 0.2 * x[0]]), jnp.stack([0.0 * one, one + 0.1 * x[0] ** 2])]
    )


def _gram(x):
    """G G^T of `_matrix_g` and its divergence, worked out by hand; x (batch, 2)."""
    p, q = x[:, 0], x[:, 1]
    a, b, c = (1 + 0.3 * np.sin(q)) ** 2 + 0.04 * p**2, 0.2 * p * (1 + 0.1 * p**2), (1 + 0.1 * p**2) ** 2
    return np.stack([np.stack([a, b], 1), np.stack([b, c], 1)], 1), np.stack([0.08 * p, 0.2 + 0.06 * p**2], 1)


class TestMatrixSDE:
    def test_operators(self, x64):
        sde = MatrixSDE(lambda x, t: t * x**2, _matrix_g)
        x, v = np.random.default_rng(0).normal(size=(2, 5, 2))
        t = jnp.linspace(0.1, 0.9, 5)
        gram, divergence = _gram(x)
        x, v = jnp.asarray(x), jnp.asarray(v)
        assert_close(sde.drift(x, t), np.asarray(t)[:, None] * x**2, 1e-12)
        assert_close(sde.gram(x, t, v), np.einsum("bij,bj->bi", gram, v), 1e-12)
        assert_close(sde.gram_divergence(x, t), divergence, 1e-12)
        expected = jax.vmap(lambda x, v: _matrix_g(x, 0.0) @ v)(x, v)
        assert_close(sde.diffuse(x, jnp.asarray(0.3), v), expected, 1e-12)

    def test_detailed_balance(self, x64):
        """f = (div GG^T + GG^T grad log p)/2 makes p stationary: no flow, and the reversal is -f."""
        x = np.random.default_rng(1).normal(size=(6, 2))
        gram, divergence = _gram(x)
        score = jnp.asarray(-x + 0.3 * np.cos(x[:, ::-1]))  # any gradient field serves
        drift = 0.5 * divergence + 0.5 * np.einsum("bij,bj->bi", gram, score)

        def forward(x, t):
            _, rows = _gram_jax(x)
            s = -x + 0.3 * jnp.cos(x[::-1])
            return 0.5 * rows + 0.5 * (_matrix_g(x, t) @ _matrix_g(x, t).T) @ s

        sde, t = MatrixSDE(forward, _matrix_g), jnp.asarray(0.4)
        assert_close(sde.drift(jnp.asarray(x), t), drift, 1e-12)
        assert_close(sde.reverse_drift(jnp.asarray(x), t, score, eta=0.0), np.zeros_like(x), 1e-12)
        assert_close(sde.reverse_drift(jnp.asarray(x), t, score), -drift, 1e-12)
        # eta in between: f - (1 + eta^2)/2 (2 f)
        assert_close(sde.reverse_drift(jnp.asarray(x), t, score, eta=0.5), -0.25 * drift, 1e-12)

    def test_simulation_stays_in_the_stationary_law(self):
        """Same drift with p = N(0, I): after unit time the second moments are still those of p."""

        def forward(x, t):
            _, divergence = _gram_jax(x)
            return 0.5 * divergence - 0.5 * (_matrix_g(x, t) @ _matrix_g(x, t).T) @ x

        sde, n = MatrixSDE(forward, _matrix_g), 40000
        x0 = jax.random.normal(jax.random.key(0), (n, 2))
        path = jax.jit(lambda x: simulate(jax.random.key(1), sde, x, jnp.linspace(0.0, 1.0, 101)))(x0)
        assert_close(path[0], x0, 0)
        x = np.asarray(path[-1], np.float64)
        assert np.all(np.abs(x.mean(0)) < 4 / math.sqrt(n) + 0.003), x.mean(0)
        assert_close(np.cov(x.T), np.eye(2), 4 * math.sqrt(2 / n) + 0.015)  # Monte Carlo + step of 0.01

    def test_wraps_vp(self, x64):
        vp = VP()
        sde = MatrixSDE(
            lambda x, t: vp.coefficients(t)[0] * x,
            lambda x, t: jnp.sqrt(vp.coefficients(t)[1]) * jnp.eye(2),
            1e-5,
        )
        x, v, score = jax.random.normal(jax.random.key(0), (3, 4, 2))
        t = jnp.asarray([1e-5, 0.2, 0.6, 1.0])
        assert_close(sde.drift(x, t), vp.drift(x, t), 1e-12)
        assert_close(sde.diffuse(x, t, v), vp.diffuse(x, t, v), 1e-12)
        assert_close(sde.gram(x, t, v), vp.gram(x, t, v), 1e-12)
        assert_close(sde.gram_divergence(x, t), np.zeros((4, 2)), 0)
        for eta in (0.0, 0.4, 1.0):
            assert_close(sde.reverse_drift(x, t, score, eta), vp.reverse_drift(x, t, score, eta), 1e-12)
        args = (lambda x, t: score, x, jnp.asarray(0.5), jnp.asarray(0.4), v[None])
        assert_close(EulerMaruyama(sde)(*args)[0], EulerMaruyama(vp)(*args)[0], 1e-12)

    @pytest.mark.parametrize("eta", [1.0, 0.0])
    def test_reversal_of_a_gaussian_process_with_matrix_noise(self, eta, x64):
        """dx = -k/2 x dt + L dw has covariance e^{-kt} P_0 + (1 - e^{-kt})/k L L^T; measured order 1."""
        k, mixing, start = 2.0, jnp.asarray([[1.0, 0.0], [0.8, 0.5]]), jnp.asarray([[0.3, -0.1], [-0.1, 0.2]])
        mean0 = jnp.asarray([0.7, -0.4])
        sde = MatrixSDE(lambda x, t: -0.5 * k * x, lambda x, t: mixing)

        def law(t):
            decay = jnp.exp(-k * t)
            return jnp.sqrt(decay) * mean0, decay * start + (1 - decay) / k * mixing @ mixing.T

        def score_fn(x, t):
            return jax.vmap(lambda x, t: -jnp.linalg.solve(law(t)[1], x - law(t)[0]))(x, t)

        sizes, errors = (100, 200, 400), []
        for n in sizes:
            grid = jnp.linspace(1.0, 0.0, n + 1)
            pairs = jnp.stack([grid[:-1], grid[1:]], 1)
            mean, covariance = propagate(EulerMaruyama(sde, eta), score_fn, pairs, *law(jnp.asarray(1.0)))
            errors.append(float(jnp.linalg.norm(covariance - start) + jnp.linalg.norm(mean - mean0)))
        assert errors[-1] < 0.02
        assert slope(sizes, errors) == pytest.approx(-1, abs=0.1)


def _gram_jax(x):
    """`_gram` of one sample, in jax."""
    return None, jnp.stack([0.08 * x[0], 0.2 + 0.06 * x[0] ** 2])


class TestSimulate:
    """Geometric Brownian motion dX = mu X dt + s X dw: X_T = X_0 exp((mu - s^2/2) T + s W_T)."""

    @staticmethod
    def _run(n, paths, mu, s):
        sde = MatrixSDE(lambda x, t: mu * x, lambda x, t: s * x[:, None])
        key, x0 = jax.random.key(5), jnp.ones((paths, 1))

        @jax.jit
        def run():
            end = simulate(key, sde, x0, jnp.linspace(0.0, 1.0, n + 1))[-1]
            draws = jax.vmap(lambda i: normal(fold_in(key, i), x0.shape, x0.dtype))(jnp.arange(n))
            exact = jnp.exp(mu - s**2 / 2 + s * jnp.sum(draws, 0) / math.sqrt(n))
            return end, exact

        return run()

    def test_law_and_orders(self, x64):
        sizes, strong, weak, paths, mu, sigma = (16, 32, 64), [], [], 40000, 1.0, 0.4
        for n in sizes:
            end, exact = self._run(n, paths, mu, sigma)
            weak.append(float(jnp.mean(end - exact)))
            end_driftless, exact_driftless = self._run(
                n, 4000, 0.0, 1.0
            )  # the drift's own error is of order 1
            strong.append(float(jnp.sqrt(jnp.mean((end_driftless - exact_driftless) ** 2))))
        assert slope(sizes, strong) == pytest.approx(-0.5, abs=0.1)
        assert slope(sizes, weak) == pytest.approx(-1.0, abs=0.1)
        # Moments of Euler-Maruyama itself, known in closed form.
        n, h = sizes[-1], 1 / sizes[-1]
        first, second = (1 + mu * h) ** n, ((1 + mu * h) ** 2 + sigma**2 * h) ** n
        assert abs(float(jnp.mean(end)) - first) < 4 * math.sqrt((second - first**2) / paths)
        assert abs(float(jnp.mean(end**2)) / second - 1) < 0.03

    def test_one_step_by_hand(self):
        """Coefficients at the start of the step, f h and g sqrt(h) z."""
        sde, key, x0 = VP(), jax.random.key(0), jnp.asarray([[1.5, -0.5]])
        end = simulate(key, sde, x0, jnp.asarray([0.2, 0.7]))[1]
        beta, z = 0.1 + 19.9 * 0.2, normal(fold_in(key, 0), (1, 2), jnp.float32)
        assert_close(end, x0 - 0.5 * beta / 2 * x0 + math.sqrt(0.5 * beta) * z, 1e-5)

    def test_additive_noise_has_the_marginals(self):
        sde, n = VP(), 20000
        x0 = jnp.full((n, 2), 0.8)
        grid = jnp.linspace(0.0, 0.5, 201)
        path = jax.jit(lambda: simulate(jax.random.key(0), sde, x0, grid))()
        assert path.shape == (201, n, 2)
        for i in (50, 200):
            alpha, sigma = sde.marginal(grid[i])
            assert (
                abs(float(jnp.mean(path[i])) - 0.8 * float(alpha))
                < 4 * float(sigma) / math.sqrt(2 * n) + 0.005
            )
            assert abs(float(jnp.std(path[i]) / sigma) - 1) < 4 / math.sqrt(4 * n) + 0.005

    def test_a_sample_with_its_own_key_does_not_depend_on_the_batch(self):
        sde, grid = VP(), jnp.linspace(0.0, 1.0, 11)
        keys = sample_keys(jax.random.key(0), jnp.arange(6))
        x0 = jax.random.normal(jax.random.key(1), (6, 3))
        together = simulate(keys, sde, x0, grid)
        apart = simulate(keys[4:], sde, x0[4:], grid)
        assert_close(together[:, 4:], apart, 1e-6)
        assert float(jnp.min(jnp.std(together[-1], axis=0))) > 0.1  # rows differ
