"""Bounds: published numbers, equality for exact scores, the price of a wrong score, variance."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mathcases import kind_of, mixture_2d, reference_mixture, stored_sde
from scipy.integrate import quad, solve_ivp

from golden import assert_close, load, meta, names
from score_sde.analytic import GaussianMixture
from score_sde.arrays import sample_keys
from score_sde.data.pixels import PixelRange
from score_sde.likelihood import Bound, kl_bound
from score_sde.objectives.times import LogSNRUniform, UniformTime
from score_sde.sde import EDM, VE, VP, SubVP

KINDS = {"dsm": "dsm", "sm": "ssm"}
FILES = names("math/ode_bound_*")
UNIFORM = "times_uniform__eps"


def _cases():
    """ "FILE EPS" for every t_min = EPS that a file of bounds has integrands of."""
    found = []
    for file in FILES:
        if isinstance(file, str):
            starts = [key for key in load(file) if key.startswith(UNIFORM)]
            found += [f"{file} {key.removeprefix(UNIFORM)}" for key in starts]
    return found or FILES


def _integrated_beta(sde, t):
    return t * (sde.beta_min + 0.5 * t * (sde.beta_max - sde.beta_min))


def _switched(kind, sde, t):
    """Where score_flow replaces s(t): B/2 <= 1e-3."""
    return np.zeros(np.shape(t), bool) if kind == "ve" else _integrated_beta(sde, t) / 2 <= 1e-3


def _switched_std(kind, sde, t):
    """s(t) as score_flow has it.

    Below B/2 = 1e-3 it takes sqrt(B) (VP) or B (sub-VP) for the exact value.
    """
    if kind == "ve":
        return np.asarray(sde.marginal(jnp.asarray(t).reshape(-1))[1]).reshape(np.shape(t))
    b = _integrated_beta(sde, t)
    exact = -np.expm1(-b)
    exact, early = (np.sqrt(exact), np.sqrt(b)) if kind == "vp" else (exact, b)
    return np.where(_switched(kind, sde, t), early, exact)


def _change(kind, sde):
    """How much the switch changes s(t_min), relative."""
    switched = float(_switched_std(kind, sde, np.asarray(sde.t_min)))
    return abs(switched / float(sde.marginal(jnp.asarray(sde.t_min))[1]) - 1)


def _pixels(stored):
    """The range of pixels with the file's inverse scaler and offset of bits/dim."""
    scaler, offset = meta(stored)["inverse_scaler"].split(", bpd offset ")
    low = {"(x+1)/2": -1.0, "x": 0.0}[scaler]
    assert math.log2(256 / (1.0 - low)) == float(offset)
    return PixelRange(256, low, 1.0)


@pytest.mark.parametrize("case", _cases())
class TestPublished:
    def _case(self, case):
        file, eps = case.split()
        stored = load(file)
        sde = stored_sde(stored, float(eps))
        return stored, sde, reference_mixture(stored).score_fn(sde), jnp.asarray(stored["x"]), eps

    def _integrands(self, stored, sde, x, kind, times, probes):
        bound = Bound(sde, UniformTime(sde), kind=kind)
        score_fn = reference_mixture(stored).score_fn(sde)

        def one(t, z, v):
            return bound.integrand(score_fn, x, t, z, v)

        arrays = (times, stored["noise"], probes)
        return np.asarray(jax.jit(jax.vmap(one))(*(jnp.asarray(v, jnp.float64) for v in arrays)))

    @pytest.mark.parametrize("kind", KINDS)
    def test_integrand(self, case, kind, x64):
        """At the stored times, noise and probes.

        The reference estimates the divergence of the linear drift, D f, by f |probe|^2: equal for
        signs, corrected here for Gaussian probes. Its switch changes s(t) by up to 5e-4 (VP) or
        1e-3 (sub-VP), relative, where B(t)/2 <= 1e-3, and with it dsm, where z/s dominates, by
        twice that; elsewhere the numbers are the same.
        """
        stored, sde, _, x, eps = self._case(case)
        pattern = rf"integrand_{KINDS[kind]}_(iw|uniform)_(rademacher|gaussian)__eps{eps}"
        found = [match for key in stored if (match := re.fullmatch(pattern, key))]
        assert found
        compared = 0
        for match in found:
            expected, (weighting, probe) = stored[match.string], match.groups()
            t, v = stored[f"times_{weighting}__eps{eps}"], stored[f"epsilon_{probe}"]
            ours = self._integrands(stored, sde, x, kind, t, v)
            flat = jnp.asarray(t.reshape(-1))
            f, g2 = (np.asarray(c).reshape(t.shape) for c in sde.coefficients(flat))
            squares = np.sum(v.astype(float) ** 2, axis=(2, 3, 4))
            ours = ours - 2 * f * (squares - x[0].size)
            std = np.asarray(sde.marginal(flat)[1]).reshape(t.shape)
            plain = np.abs(_switched_std(kind_of(stored), sde, t) / std - 1) < 1e-12
            np.testing.assert_array_equal(plain, ~_switched(kind_of(stored), sde, t))
            if weighting == "iw":
                ours = ours * float(stored[f"Z__eps{eps}"]) * std**2 / g2
            # g of the reference's sub-VP has a switch of its own, 2B <= 1e-3, inside that of s.
            if plain.any():
                assert_close(ours[plain], expected[plain], 1e-9, match.string)
            scale = np.abs(expected).max()
            np.testing.assert_allclose(ours, expected, rtol=5e-3, atol=5e-3 * scale)
            compared += plain.sum()
        assert compared >= len(x)

    def test_importance_times(self, case, x64):
        """The reference's times are ours but at small times.

        There it replaces ln(exp(B) - 1) by ln(B).
        """
        stored, sde, _, _, eps = self._case(case)
        sampler = LogSNRUniform(sde)
        for column, u in enumerate(jnp.asarray(stored["u"]).T):
            t, w = sampler.at(u)
            uniform = stored[f"{UNIFORM}{eps}"][:, column]
            if kind_of(stored) == "ve":
                assert_close(t, uniform, 1e-9)
                assert_close(w, np.ones(len(u)), 1e-9)
                continue
            np.testing.assert_allclose(t, stored[f"times_iw__eps{eps}"][:, column], rtol=3e-3)
            np.testing.assert_allclose(UniformTime(sde).at(u)[0], uniform, rtol=1e-9)
            factor = (
                float(stored[f"Z__eps{eps}"]) * sde.marginal(t)[1] ** 2 / sde.coefficients(t)[1]
            )
            np.testing.assert_allclose(w * (sde.t_max - sde.t_min), factor, rtol=1e-3)

    def test_prior(self, case, x64):
        stored, sde, _, x, _ = self._case(case)
        noise = jnp.asarray(stored["prior_noise"], jnp.float64)
        at_draw = -sde.prior_logp(sde.perturb(x, jnp.asarray(sde.t_max), noise))
        assert_close(at_draw, stored["neg_prior_logp"], 1e-9)
        draws = jax.random.normal(jax.random.key(0), (4000, *x.shape), jnp.float64)
        end = jnp.asarray(sde.t_max)
        values = jax.vmap(lambda z: -sde.prior_logp(sde.perturb(x, end, z)))(draws)
        error = np.asarray(values.std(0)) / np.sqrt(len(draws))
        assert error.max() < 0.0144 * np.sqrt(x[0].size)  # 0.05 for 12 dimensions
        closed = Bound(sde, UniformTime(sde)).prior_term(x)
        assert np.all(np.abs(values.mean(0) - closed) < 4 * error)

    def test_offset_and_total(self, case, x64):
        stored, sde, score_fn, x, eps = self._case(case)
        bound, noise = (
            Bound(sde, UniformTime(sde)),
            jnp.asarray(stored["offset_noise"], jnp.float64),
        )
        offset = jax.jit(lambda z: bound.offset_term(score_fn, x, z))(noise)
        # The switch of s(t_min): up to 5e-4 relative on s at 1e-3, nothing to speak of at 1e-5.
        change = _change(kind_of(stored), sde)
        tol = 1e-8 + 40 * change
        assert tol < 5e-3
        assert_close(offset, stored[f"offset_eps{eps}"], tol)
        if change > 1e-6:
            return
        t, probes = stored[f"{UNIFORM}{eps}"], stored["epsilon_rademacher"]
        integrand = self._integrands(stored, sde, x, "dsm", t, probes)
        nats = stored["neg_prior_logp"] + integrand.mean(0) / 2
        totals = {"nooffset": nats, "offset": nats + np.asarray(offset)}
        keys = {name: f"bpd_dsm_uniform_rademacher_{name}__eps{eps}" for name in totals}
        assert keys["offset"] in stored
        for name in (name for name in totals if keys[name] in stored):
            bits = _pixels(stored).bits_per_dim(-totals[name], x[0].size)
            assert_close(bits, stored[keys[name]], 1e-4)


@pytest.mark.parametrize("file", FILES)
def test_published_offsets_without_switch(file, x64):
    """At a large t_min, say 0.05, a wrong factor in Tweedie's mean or in the width would show."""
    stored, compared = load(file), 0
    noise, x = jnp.asarray(stored["offset_noise"], jnp.float64), jnp.asarray(stored["x"])
    for key in (key for key in stored if key.startswith("offset_eps")):
        sde = stored_sde(stored, float(key.removeprefix("offset_eps")))
        if _change(kind_of(stored), sde) > 1e-12:
            continue
        score_fn = reference_mixture(stored).score_fn(sde)
        offset = Bound(sde, UniformTime(sde)).offset_term(score_fn, x, noise)
        assert_close(offset, stored[key], 1e-9, key)
        compared += sde.t_min >= 0.01
    assert compared


SDES = {"vp": VP(), "subvp": SubVP(t_min=1e-3), "ve": VE(), "edm": EDM()}


def _estimates(bound, score_fn, x, keys):
    return np.asarray(jax.jit(lambda keys, x: bound(keys, score_fn, x))(keys, x), np.float64)


def _check_mean(values, expected, width):
    """Mean within 4 standard errors of `expected`, and the error small enough to see `width`."""
    error = values.std(ddof=1) / np.sqrt(len(values))
    assert 4 * error < width, error
    assert abs(values.mean() - expected) < 4 * error, (values.mean(), expected, error)


class TestExactScore:
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("times", ["log_snr", "uniform"])
    @pytest.mark.parametrize("name", SDES)
    def test_tight_for_each_sample(self, name, times, kind):
        """bound(x) = -log p_0(x), for every x by itself.

        So the mean is the negative log-likelihood.
        """
        sde, mixture = SDES[name], mixture_2d()
        if times == "uniform" and name != "ve":  # its variance grows without limit as t_min -> 0
            sde = {"vp": VP(t_min=2e-3), "subvp": SubVP(t_min=2e-2), "edm": EDM(0.05, 10.0)}[name]
        sampler = LogSNRUniform(sde) if times == "log_snr" else UniformTime(sde)
        x = jnp.asarray([[-0.8, 0.3], [0.3, -0.5], [1.4, 1.2]])
        repeats = 2048
        bound = Bound(sde, sampler, draws=128, kind=kind)
        many = jnp.repeat(x, repeats, axis=0)
        values = _estimates(bound, mixture.score_fn(sde), many, jax.random.key(1)).reshape(
            3, repeats
        )
        truth = mixture.log_prob(
            VP(t_min=0.0), x, jnp.zeros(())
        )  # alpha = 1, sigma = 0: the data themselves
        for row, logp in zip(values, np.asarray(truth), strict=True):
            # Every term is of the order of a nat or more; a factor 2 in any would be seen.
            _check_mean(row, -logp, 0.5)

    @pytest.mark.parametrize("kind", KINDS)
    def test_without_offset(self, kind):
        """Then it is the mean of -log p_e over x_e = alpha x + sigma z, e = t_min."""
        sde, mixture = VP(t_min=2e-3), mixture_2d()
        x = jnp.repeat(jnp.asarray([[-0.8, 0.3]]), 4096, axis=0)
        bound = Bound(sde, LogSNRUniform(sde), 64, kind, offset=False)
        values = _estimates(bound, mixture.score_fn(sde), x, jax.random.key(2))
        start = jnp.asarray(sde.t_min)
        xe = sde.perturb(x, start, jax.random.normal(jax.random.key(3), x.shape))
        _check_mean(values, -float(mixture.log_prob(sde, xe, start).mean()), 0.5)


class TestWrongScore:
    """Gaussian data and 1.2 times their score.

    The model's density is Gaussian as well, so all sides are known.
    """

    sde, v, factor = VP(t_min=1e-3), 0.05, 1.2

    def _curves(self, t):
        """(beta, variance of p_t) in NumPy."""
        alpha2 = np.exp(-(0.1 * t + 9.95 * t**2))
        return 0.1 + 19.9 * t, alpha2 * self.v + 1 - alpha2

    def _price(self):
        """1/2 integral of g^2 E|0.2 s*|^2 dt, with E|s*|^2 = 2/variance in the plane."""

        def rate(t):
            beta, variance = self._curves(t)
            return 0.5 * beta * (self.factor - 1) ** 2 * 2 / variance

        return quad(rate, self.sde.t_min, self.sde.t_max, epsabs=1e-10)[0]

    def _model(self):
        """Variance of the reverse SDE's samples at t_min."""

        def growth(t, variance):
            beta, marginal = self._curves(t)
            return 2 * (-0.5 * beta + self.factor * beta / marginal) * variance - beta

        return solve_ivp(growth, (1.0, self.sde.t_min), [1.0], rtol=1e-10, atol=1e-12).y[0, -1]

    def _data(self):
        data = GaussianMixture.isotropic([1.0], np.zeros((1, 2)), self.v**0.5)
        return data, data.sample(jax.random.key(0), 16384)

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("times", [LogSNRUniform, UniformTime])
    def test_price(self, times, kind):
        """The bound grows by what theorem 9.1 says."""
        data, x = self._data()
        bound = Bound(self.sde, times(self.sde), 64, kind, offset=False)
        keys = jax.random.key(1)
        right = _estimates(bound, data.score_fn(self.sde), x, keys)
        wrong = _estimates(bound, lambda x, t: self.factor * data.score(self.sde, x, t), x, keys)
        _check_mean(wrong - right, self._price(), 0.5 * self._price())

    def test_above_the_likelihood_of_the_model(self):
        """-E log p_model < bound = entropy of p_{t_min} + price.

        The reverse SDE is solved exactly.
        """

        model, (_, marginal) = self._model(), self._curves(self.sde.t_min)
        assert abs(model / marginal - 1) > 0.05
        data, x = self._data()
        bound = Bound(self.sde, LogSNRUniform(self.sde), 64, offset=False)
        wrong = _estimates(
            bound, lambda x, t: self.factor * data.score(self.sde, x, t), x, jax.random.key(1)
        )
        _check_mean(wrong, 1 + np.log(2 * np.pi * marginal) + self._price(), 0.5)
        cross_entropy = np.log(2 * np.pi * model) + marginal / model
        assert wrong.mean() - 4 * wrong.std() / np.sqrt(len(wrong)) > cross_entropy

    def test_kl_bound(self):
        """Theorem 9.1 for a score that is nobody's.

        The bound is the price, and more than the divergence itself.
        """
        data, _ = self._data()

        def score_fn(x, t):
            return self.factor * data.score(self.sde, x, t)

        value, error = kl_bound(jax.random.key(0), self.sde, data, score_fn, 40000)
        assert 4 * error < 0.1 * self._price()
        assert abs(value - self._price()) < 4 * error  # the prior is right to 1e-9 nats
        model, (_, marginal) = self._model(), self._curves(self.sde.t_min)
        divergence = marginal / model - 1 - np.log(marginal / model)  # in the plane
        assert 0.01 < divergence < value - 4 * error


class TestCall:
    @pytest.mark.parametrize("sde", [VP(t_max=0.3), SubVP(t_max=0.4), VE(0.1, 3.0), EDM(0.01, 2.0)])
    def test_prior_in_closed_form(self, sde, x64):
        """The mean of a quadratic over N(0, I) is that over the 2 D points +-sqrt(D) e_i.

        It is exact, without draws.
        """
        x = jnp.asarray([[0.5, -1.0, 2.0]])
        points = jnp.sqrt(3.0) * jnp.concatenate([jnp.eye(3), -jnp.eye(3)])
        xt = sde.perturb(jnp.repeat(x, 6, axis=0), jnp.asarray(sde.t_max), points)
        np.testing.assert_allclose(
            Bound(sde, UniformTime(sde)).prior_term(x)[0], -sde.prior_logp(xt).mean(), rtol=1e-12
        )

    def test_any_batching(self):
        sde, mixture = VP(), mixture_2d()
        x = mixture.sample(jax.random.key(0), 5)
        keys = sample_keys(jax.random.key(1), jnp.arange(5))
        for kind in KINDS:
            bound = Bound(sde, LogSNRUniform(sde), draws=3, kind=kind)
            together = _estimates(bound, mixture.score_fn(sde), x, keys)
            alone = [
                _estimates(bound, mixture.score_fn(sde), x[i : i + 1], keys[i : i + 1])[0]
                for i in range(5)
            ]
            np.testing.assert_allclose(alone, together, rtol=1e-5, atol=1e-5)
            assert len(set(together)) == 5

    def test_draws_are_averaged(self, x64):
        """Twice the draws, half the variance of the integral."""
        sde, mixture = VP(t_min=1e-2), mixture_2d()
        x = jnp.repeat(jnp.asarray([[-0.8, 0.3]], jnp.float64), 20000, axis=0)
        score_fn = mixture.score_fn(sde)
        variance = [
            _estimates(
                Bound(sde, LogSNRUniform(sde), draws=n, offset=False),
                score_fn,
                x,
                jax.random.key(0),
            ).var()
            for n in (1, 4)
        ]
        assert abs(variance[0] / variance[1] - 4) < 0.6

    @pytest.mark.parametrize("settings", [{"draws": 0}, {"kind": "ism"}])
    def test_refusals(self, settings):
        # The type checker of the tests would refuse a wrong literal before the class does.
        with pytest.raises(Exception if "kind" in settings else ValueError):
            Bound(VP(), UniformTime(VP()), **settings)


def test_variance():
    """Log-SNR times: at least ten times less variance than uniform ones for VP from t = 1e-5.

    For data with detail finer than the pixel noise at most times, as quantised images are. In the
    training loss, where |z/sigma|^2 is not subtracted, for all data.
    """
    sde, means = VP(), np.random.default_rng(1).uniform(-0.7, 0.7, (3, 8, 8, 1))
    fine = GaussianMixture.isotropic([0.5, 0.3, 0.2], means, 0.003)
    x = jnp.repeat(fine.sample(jax.random.key(0), 1), 8192, axis=0)
    for kind in KINDS:
        variances = {}
        for name, times in {"log_snr": LogSNRUniform(sde), "uniform": UniformTime(sde)}.items():
            bound = Bound(sde, times, kind=kind)
            variances[name] = _estimates(bound, fine.score_fn(sde), x, jax.random.key(0)).var()
        assert variances["uniform"] > 10 * variances["log_snr"], variances

    smooth = mixture_2d()
    x = jnp.repeat(jnp.asarray([[-0.8, 0.3]]), 20000, axis=0)
    variances = {}
    for name, times in {"log_snr": LogSNRUniform(sde), "uniform": UniformTime(sde)}.items():
        t, w = times(jax.random.key(1), len(x))
        z = jax.random.normal(jax.random.key(2), x.shape)
        _, sigma = sde.marginal(t)
        error = sigma[:, None] * smooth.score(sde, sde.perturb(x, t, z), t) + z
        loss = w * sde.coefficients(t)[1] / sigma**2 * jnp.sum(error**2, axis=1)
        variances[name] = float(loss.var())
    assert variances["uniform"] > 10 * variances["log_snr"], variances
