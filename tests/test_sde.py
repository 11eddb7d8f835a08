"""Forward processes against reference values, closed forms and each other."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mathcases import (
    PROCESSES,
    kind_of,
    mixture_2d,
    one_step,
    reference_chain,
    reference_mixture,
    stored_sde,
)
from scipy.integrate import solve_ivp
from scipy.stats import norm

from golden import assert_close, groups, load, names
from score_sde.arrays import left_broadcast
from score_sde.sde import (
    EDM,
    VE,
    VP,
    CosineVP,
    DiscreteChain,
    MatrixSDE,
    PublishedSteps,
    StraightPath,
    SubVP,
    probability_flow,
)
from score_sde.steppers import EulerMaruyama, ReverseDiffusion

ALL = pytest.mark.parametrize("sde", PROCESSES.values(), ids=PROCESSES)


@pytest.fixture(params=["float64", "float32"])
def dtype(request):
    if request.param == "float64":
        request.getfixturevalue("x64")
    return request.param


def times(sde, n=7):
    """Times over the whole interval, its ends included."""
    return jnp.concatenate([jnp.asarray([sde.t_min]), jnp.linspace(sde.t_min, sde.t_max, n)[1:]])


FILES = pytest.mark.parametrize("file", names("math/sde_ve_*", "math/sde_vp_*", "math/sde_subvp_*"))


class TestReferenceValues:
    @FILES
    def test_coefficients_marginals_and_reversal(self, file, dtype):
        stored = load(file)
        tol = 1e-8 if dtype == "float64" else 1e-4
        sde, data = stored_sde(stored), reference_mixture(stored)

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

    @FILES
    def test_discretisation(self, file, dtype):
        stored = load(file)
        kind, sde = kind_of(stored), stored_sde(stored)
        tol = 1e-8 if dtype == "float64" else 1e-4
        x, t = jnp.asarray(stored["x"], dtype), jnp.asarray(stored["t"], dtype)
        s = t - 1 / int(stored["N"])
        score = jnp.asarray(stored["score"], dtype)
        chain = reference_chain("ve" if kind == "ve" else "vp", stored)
        assert_close(PublishedSteps(chain).index(t), stored["timestep_index"], 0)
        z = jnp.asarray(stored["prior_noise"], dtype)
        if kind == "subvp":  # its discretisation is Euler's
            stochastic, flow = (EulerMaruyama(sde, eta) for eta in (1.0, 0.0))
        else:
            stochastic, flow = (ReverseDiffusion(PublishedSteps(chain), eta) for eta in (1.0, 0.0))
            a, b = PublishedSteps(chain).transition(t, s)
            assert_close(left_broadcast(a - 1, x) * x, stored["disc_f"], tol, "disc_f")
            assert_close(b, stored["disc_G"], tol, "disc_G")
        y, mean = one_step(stochastic, lambda x, t: score, x, t, s, z[None])
        assert_close(x - mean, stored["rev_disc_f"], tol, "rev_disc_f")
        noise = left_broadcast(jnp.asarray(stored["rev_disc_G"], dtype), x) * z
        assert_close(y - mean, noise, tol, "rev_disc_G")
        y, mean = one_step(flow, lambda x, t: score, x, t, s, z[None])
        assert_close(x - mean, stored["pf_disc_f"], tol, "pf_disc_f")
        assert_close(y, mean, 0)

    @pytest.mark.parametrize("file", names("math/sde_ve_*"))
    def test_table_of_noise_levels(self, file):
        stored = load(file)
        assert_close(reference_chain("ve", stored).sigmas, stored["discrete_sigmas"], 1e-13)

    @pytest.mark.parametrize("file", names("math/sde_vp_*"))
    def test_table_of_variance_preservation(self, file):
        stored = load(file)
        chain = reference_chain("vp", stored)
        assert_close(chain.alphas, stored["sqrt_alphas_cumprod"], 1e-13)
        assert_close(chain.sigmas, stored["sqrt_1m_alphas_cumprod"], 1e-13)

    @pytest.mark.parametrize("file", names("math/sde_flow_vp*", "math/sde_flow_subvp*"))
    def test_score_flow_coefficients(self, file, x64):
        stored = load(file)
        sde = stored_sde(stored)
        x, t = jnp.asarray(stored["x"]), jnp.asarray(stored["t"])
        alpha, sigma = sde.marginal(t)
        assert_close(left_broadcast(alpha, x) * x, stored["mean_plain"], 1e-12)
        np.testing.assert_allclose(sigma, stored["std_plain"], rtol=1e-9)
        assert_close(sde.drift(x, t), stored["drift"], 1e-12)
        expected = stored["diffusion_plain" if kind_of(stored) == "subvp" else "diffusion"]
        np.testing.assert_allclose(jnp.sqrt(sde.coefficients(t)[1]), expected, rtol=1e-9)
        # At |z|^2 = D the negative log-density is the entropy.
        ends = jnp.asarray([[-1.0] * x[0].size, [1.0] * x[0].size])
        entropy = jnp.broadcast_to(-jnp.mean(sde.prior_logp(ends)), len(x))
        assert_close(entropy, stored["prior_entropy"], 1e-12)

    @pytest.mark.parametrize("file", names("math/sde_flow_ve*"))
    def test_score_flow_ve(self, file, x64):
        stored = load(file)
        sde, t = stored_sde(stored), jnp.asarray(stored["t"])
        assert_close(sde.marginal(t)[1], stored["geometric_std"], 1e-12)
        assert_close(jnp.sqrt(sde.coefficients(t)[1]), stored["geometric_diffusion"], 1e-12)
        chain = reference_chain("ve", stored)
        assert_close(chain.sigmas, stored["geometric_discrete_sigmas"], 1e-12)
        steps = PublishedSteps(chain)
        assert_close(steps.transition(t, t)[1], stored["geometric_disc_G"], 1e-12)
        rate = sde.coefficients(t)[1] / sde.marginal(t)[1] ** 2
        assert_close(rate, np.full(len(t), stored["derived_g2_over_var"]), 1e-12)

    @pytest.mark.parametrize("case", groups("math/sde_timegrid", "__t_float64"))
    def test_table_index_of_a_time(self, case, dtype):
        stored = load("math/sde_timegrid")
        steps = PublishedSteps(DiscreteChain.smld(n=len(stored[f"{case}__t_float64"])))
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
        check(StraightPath(), lambda t: -1 / (1 - t), lambda t: 2 * t / (1 - t))

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
        solution = solve_ivp(
            moments, (sde.t_min, end), [alpha[0], sigma[0] ** 2], rtol=1e-8, atol=1e-12
        )
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
        single = [
            np.asarray(v)
            for v in (*sde.marginal(jnp.asarray(t)), *sde.coefficients(jnp.asarray(t)))
        ]
        request.getfixturevalue("x64")
        double = [*sde.marginal(jnp.asarray(t, float)), *sde.coefficients(jnp.asarray(t, float))]
        early = (
            t < 0.9 * sde.t_max
        )  # the cosine schedule's alpha vanishes at the end, where cos cancels
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
            (lambda: StraightPath(t_max=1.0), "t_max must be below 1 .*got t_max=1.0"),
            (lambda: StraightPath(t_min=-0.1), "t_min must be in"),
            (lambda: CosineVP(s=-0.1), "s must be >= 0; got s=-0.1"),
            (
                lambda: DiscreteChain(np.ones(3), np.ones(4)),
                "must be one-dimensional and of one length",
            ),
            (lambda: DiscreteChain.smld(2.0, 1.0), "sigma_min must be in"),
            (
                lambda: DiscreteChain.ddpm(n=10),
                "beta_max must be below n, .* got beta_max=20.0, n=10",
            ),
            (lambda: MatrixSDE(lambda x, t: x, lambda x, t: x, 2.0, 1.0), "t_min must be in"),
        ],
    )
    def test_messages(self, make, message):
        with pytest.raises(ValueError, match=message):
            make()


class TestRescaling:
    @pytest.mark.parametrize("name", ["ve", "vp", "subvp", "cosine", "straight"])
    def test_every_process_is_edm_in_other_units(self, name, x64):
        """x_t/alpha is EDM at noise level nu = sigma/alpha.

        score(x, t) = score_EDM(x/alpha, nu)/alpha.
        """
        sde, data = PROCESSES[name], mixture_2d()
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
            velocity,
            probability_flow(EDM(), data.score_fn(EDM()))(x / alpha[:, None], level),
            1e-10,
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
        np.testing.assert_allclose(
            chain.sigmas[1:] / chain.sigmas[:-1], (8 / 0.02) ** (1 / (n - 1))
        )

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
