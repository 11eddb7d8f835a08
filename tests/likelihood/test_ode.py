"""Exact likelihood: true log-densities, Hutchinson's estimate, published numbers."""

import math

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mathcases import mixture_2d, mixture_16d, reference_mixture, stored_sde

from golden import assert_close, load, meta, names
from score_sde.analytic import GaussianMixture
from score_sde.arrays import sample_keys
from score_sde.data.pixels import PixelRange
from score_sde.flow import AdamsMoulton, Flow
from score_sde.likelihood import ODELikelihood
from score_sde.sde import EDM, VE, VP, SubVP

SDES = {"ve": VE(), "vp": VP(), "subvp": SubVP(), "edm": EDM()}


def _images():
    """Three modes among 8 x 8 x 1 images."""
    means = np.random.default_rng(1).uniform(-0.7, 0.7, (3, 8, 8, 1))
    return GaussianMixture.isotropic([0.5, 0.3, 0.2], means, [0.2, 0.3, 0.25])


MIXTURES = {"2": mixture_2d, "16": mixture_16d, "8x8": _images}


def _log_prob(likelihood, mixture, x, key=None):
    key = jax.random.key(0) if key is None else key
    score_fn = mixture.score_fn(likelihood.flow.sde)
    return jax.jit(lambda key, x: likelihood(key, score_fn, x))(key, x)


def _errors(likelihood, mixture, x):
    """Log-density by the ODE less the true one.

    The method takes N(0, prior_std^2 I) for p_{t_max}: that difference, which no solver can mend,
    is taken out.
    """
    sde = likelihood.flow.sde
    out = _log_prob(likelihood, mixture, x)
    assert bool(jnp.all(out.success))
    corrected = (
        out.logp - sde.prior_logp(out.z) + mixture.log_prob(sde, out.z, jnp.asarray(sde.t_max))
    )
    return np.asarray(corrected - mixture.log_prob(sde, x, jnp.asarray(sde.t_min)))


def _data(mixture, sde, n, dtype=jnp.float64):
    return mixture.sample_at(jax.random.key(0), sde, jnp.asarray(sde.t_min), n, dtype)


SOLVERS = {"dopri5": diffrax.Dopri5(), "tsit5": diffrax.Tsit5(), "dopri8": diffrax.Dopri8()}
CASES = [
    (d, name, variable, solver)
    for d in MIXTURES
    for name in SDES
    for variable in ("t", "log_snr")
    for solver in SOLVERS
]
CASES += [("8x8", "vp", "angle", "dopri5")]
FAST = {
    ("8x8", "vp", "angle", "dopri5"),
    ("2", "ve", "log_snr", "dopri5"),
    ("2", "subvp", "t", "tsit5"),
    ("16", "edm", "t", "dopri8"),
    ("8x8", "vp", "t", "dopri5"),
    ("8x8", "subvp", "log_snr", "dopri5"),
    ("8x8", "edm", "log_snr", "dopri5"),
}


class TestExactness:
    @pytest.mark.parametrize(
        "dimensions, name, variable, solver",
        [pytest.param(*case, marks=() if case in FAST else pytest.mark.slow) for case in CASES],
    )
    def test_mixtures(self, dimensions, name, variable, solver, x64):
        """1e-4 nats at rtol = atol = 1e-5."""
        mixture, sde = MIXTURES[dimensions](), SDES[name]
        likelihood = ODELikelihood(Flow(sde, SOLVERS[solver], variable=variable), probes=0)
        assert np.abs(_errors(likelihood, mixture, _data(mixture, sde, 32))).max() < 1e-4

    @pytest.mark.parametrize("variable", ["angle", "angle_log_snr"])
    @pytest.mark.parametrize("name", SDES)
    def test_fixed_steps_of_one_evaluation(self, name, variable, x64):
        """33 evaluations: below 0.01 nats in the median; twice the steps: a sixth or less."""
        mixture, sde, errors = mixture_16d(), SDES[name], []
        for steps in (32, 64):
            flow = Flow(sde, AdamsMoulton(), steps=steps, variable=variable)
            found = _errors(ODELikelihood(flow, probes=0), mixture, _data(mixture, sde, 32))
            errors.append(float(np.median(np.abs(found))))
        assert errors[0] < 1e-2 and errors[1] < errors[0] / 6, errors

    def test_more_probes_do_not_loosen_the_tolerance(self, x64):
        """The directions are constants of the path and take no part in the error.

        So basis vectors 1 or 20 times give one answer.
        """
        mixture, sde = mixture_2d(), VP()
        x = _data(mixture, sde, 4)
        score_fn = mixture.score_fn(sde)
        runs = []
        for copies in (1, 20):
            likelihood = ODELikelihood(Flow(sde), probes=2 * copies)
            v = jnp.tile(jnp.eye(2)[None], (4, copies, 1))
            runs.append(jax.jit(lambda x, v, run=likelihood: run.with_probes(score_fn, x, v))(x, v))
        assert runs[0].nfe.tolist() == runs[1].nfe.tolist()
        np.testing.assert_allclose(runs[0].z, runs[1].z, rtol=1e-10)

    def test_float32(self):
        mixture, sde = mixture_16d(), VP()
        errors = _errors(
            ODELikelihood(Flow(sde), probes=0), mixture, _data(mixture, sde, 8, jnp.float32)
        )
        assert np.abs(errors).max() < 1e-2

    def test_wrong_score_is_seen(self, x64):
        mixture, sde = mixture_2d(), VP()
        x = _data(mixture, sde, 8)
        likelihood = ODELikelihood(Flow(sde), probes=0)
        wrong = jax.jit(
            lambda x: likelihood(jax.random.key(0), lambda x, t: 1.05 * mixture.score(sde, x, t), x)
        )
        assert np.abs(wrong(x).logp - mixture.log_prob(sde, x, jnp.asarray(sde.t_min))).max() > 0.02


class TestHutchinson:
    @pytest.mark.parametrize("distribution", ["rademacher", "gaussian"])
    @pytest.mark.parametrize("name", ["vp", pytest.param("edm", marks=pytest.mark.slow)])
    def test_unbiased_within_its_standard_error(self, name, distribution, x64):
        mixture, sde, n, probes = mixture_16d(), SDES[name], 128, 24
        x = _data(mixture, sde, n)
        flow = Flow(sde, rtol=1e-5, atol=1e-5, variable="t")
        exact = _log_prob(ODELikelihood(flow, 0), mixture, x)
        assert not np.any(exact.standard_error)
        keys = sample_keys(jax.random.key(3), jnp.arange(n))
        out = _log_prob(ODELikelihood(flow, probes, distribution), mixture, x, keys)
        error, stated = np.asarray(out.logp - exact.logp), np.asarray(out.standard_error)
        assert stated.min() > 1e-3  # above the solver's error
        scores = error / stated  # Student's t with 23 degrees of freedom: variance 23/21
        assert abs(scores.mean()) < 4 / np.sqrt(n)
        assert 0.65 < scores.var() < 1.6
        assert abs(error.mean()) < 4 * np.sqrt(np.sum(stated**2)) / n

    def test_standard_error_is_that_of_separate_runs(self, x64):
        mixture, sde, n, probes = mixture_16d(), VP(), 3, 5
        x = _data(mixture, sde, n)
        flow = Flow(sde, diffrax.Dopri8(), 1e-9, 1e-9, variable="t")
        several = ODELikelihood(flow, probes, "gaussian")
        v = several.draw(jax.random.key(4), x)
        assert v.shape == (n, probes, 4, 4, 1)
        score_fn = mixture.score_fn(sde)
        out = jax.jit(lambda x, v: several.with_probes(score_fn, x, v))(x, v)
        one = jax.jit(lambda x, v: ODELikelihood(flow, 1, "gaussian").with_probes(score_fn, x, v))
        runs = [one(x, v[:, i : i + 1]) for i in range(probes)]
        assert all(np.isnan(run.standard_error).all() for run in runs)
        values = np.stack([run.logp for run in runs])
        np.testing.assert_allclose(out.logp, values.mean(0), atol=1e-6)
        np.testing.assert_allclose(
            out.standard_error, values.std(0, ddof=1) / np.sqrt(probes), atol=1e-6
        )

    def test_exact_trace_is_the_sum_over_the_basis(self, x64):
        mixture, sde = mixture_2d(), SubVP()
        x = _data(mixture, sde, 3)
        flow = Flow(sde, diffrax.Dopri8(), 1e-9, 1e-9, variable="t")
        exact = _log_prob(ODELikelihood(flow, 0), mixture, x)
        basis = ODELikelihood(flow, 0).draw(jax.random.key(0), x)
        np.testing.assert_array_equal(basis[1], np.eye(2))
        score_fn = mixture.score_fn(sde)
        out = jax.jit(lambda x, v: ODELikelihood(flow, 2).with_probes(score_fn, x, v))(x, basis)
        prior = sde.prior_logp(out.z)
        np.testing.assert_allclose(prior + 2 * (out.logp - prior), exact.logp, atol=1e-6)

    def test_signs_are_exact_for_diagonal_jacobians(self, x64):
        covariance = np.diag([0.04, 0.3, 1.1])
        mixture, sde = GaussianMixture.full([1.0], np.zeros((1, 3)), covariance[None]), VP()
        x = _data(mixture, sde, 4)
        flow = Flow(sde, diffrax.Dopri8(), 1e-9, 1e-9, variable="t")
        exact = _log_prob(ODELikelihood(flow, 0), mixture, x).logp
        signs = _log_prob(ODELikelihood(flow, 3), mixture, x)
        np.testing.assert_allclose(signs.logp, exact, atol=1e-6)
        assert np.asarray(signs.standard_error).max() < 1e-6
        normal = _log_prob(ODELikelihood(flow, 3, "gaussian"), mixture, x)
        assert np.asarray(normal.standard_error).min() > 0.01

    def test_draws(self):
        x = jnp.zeros((200, 4, 5, 1))
        signs = np.asarray(ODELikelihood(Flow(VP()), 6).draw(jax.random.key(0), x))
        assert set(np.unique(signs)) == {-1.0, 1.0} and abs(signs.mean()) < 4 / np.sqrt(signs.size)
        normal = np.asarray(ODELikelihood(Flow(VP()), 6, "gaussian").draw(jax.random.key(0), x))
        assert abs(normal.var() - 1) < 4 * np.sqrt(2 / normal.size)
        flat = normal.transpose(1, 0, 2, 3, 4).reshape(6, -1)
        assert np.abs(np.corrcoef(flat) - np.eye(6)).max() < 5 / np.sqrt(flat.shape[1])

    @pytest.mark.parametrize(
        "settings", [{"probes": -1}, {"tolerance": 0.0}, {"distribution": "sphere"}]
    )
    def test_refusals(self, settings):
        # The type checker of the tests would refuse a wrong literal before the class does.
        with pytest.raises(Exception if "distribution" in settings else ValueError):
            ODELikelihood(Flow(VP()), **settings)


class TestBatch:
    @pytest.mark.parametrize("precision, steps", [("float64", 0), ("float32", 0), ("float32", 20)])
    def test_any_batching(self, precision, steps, request):
        """One key for each sample: alone, in threes or all together, the same numbers to rounding.

        Programs for different batches round differently. An adaptive solve at 1e-5 in single
        precision amplifies that, since its error estimate is a small difference: then the same to
        its tolerance, some 1e-4 nats.
        """
        if precision == "float64":
            request.getfixturevalue("x64")
        mixture, sde, n = mixture_2d(), VP(), 7
        x = _data(mixture, sde, n, jnp.dtype(precision))
        keys = sample_keys(jax.random.key(5), jnp.arange(n))
        flow = Flow(sde, steps=steps)
        likelihood = ODELikelihood(flow, probes=2, distribution="gaussian")
        run = jax.jit(lambda keys, x: likelihood(keys, mixture.score_fn(sde), x))
        together = run(keys, x)
        assert steps or len(set(together.nfe.tolist())) > 1
        tol = 1e-9 if precision == "float64" else 5e-6 if steps else 1e-3
        for size in (1, 3):
            for start in range(0, n, size):
                part = run(keys[start : start + size], x[start : start + size])
                for name in ("logp", "standard_error", "z"):
                    expected = getattr(together, name)[start : start + size]
                    np.testing.assert_allclose(getattr(part, name), expected, rtol=tol, atol=tol)
                if tol < 1e-4:
                    assert part.nfe.tolist() == together.nfe[start : start + size].tolist()

    def test_failure_stays_with_its_sample(self):
        mixture, sde = mixture_2d(), VP()
        x = jnp.concatenate([_data(mixture, sde, 3, jnp.float32), jnp.full((1, 2), jnp.nan)])
        likelihood = ODELikelihood(Flow(sde, max_steps=200), probes=0)
        out, sound = _log_prob(likelihood, mixture, x), _log_prob(likelihood, mixture, x[:3])
        assert out.success.tolist() == [True, True, True, False]
        np.testing.assert_allclose(out.logp[:3], sound.logp, rtol=1e-6, atol=1e-6)


RANGES = {"identity": (0.0, 1.0), "centered": (-1.0, 1.0)}
"""Pixel ranges of the published inverse scalers."""


@pytest.mark.parametrize("variable", ["t", pytest.param("log_snr", marks=pytest.mark.slow)])
@pytest.mark.parametrize("file", names("math/ode_likelihood_*"))
class TestPublished:
    def _solve(self, file, variable, probes, tol):
        stored = load(file)
        sde = stored_sde(stored)
        likelihood = ODELikelihood(Flow(sde, diffrax.Dopri8(), tol, tol, variable=variable), probes)
        mixture, x = reference_mixture(stored), jnp.asarray(stored["x"])
        run = jax.jit(lambda v: likelihood.with_probes(mixture.score_fn(sde), x, v))
        return stored, sde, run, likelihood, x

    def test_exact_divergence(self, file, variable, x64):
        stored, sde, run, likelihood, x = self._solve(file, variable, 0, 1e-10)
        out = run(likelihood.draw(jax.random.key(0), x))
        assert bool(jnp.all(out.success))
        assert_close(out.z, stored["derived_z_highacc"], 1e-8)
        assert_close(
            out.logp - sde.prior_logp(out.z), stored["derived_delta_logp_exact_divergence"], 1e-7
        )
        assert_close(out.logp, stored["derived_logp_exact_divergence"], 1e-7)

    def test_stored_probes(self, file, variable, x64):
        """SciPy's RK45 at 1e-5 is itself off the exact latents by `off`.

        The integral is held to that, times its size. A wrong factor or sign of the divergence
        changes it by more than 8 nats.
        """
        stored, sde, run, _, _ = self._solve(file, variable, 1, 1e-10)
        offsets = meta(stored)["bpd_offset"]
        kinds = [key.removeprefix("hutchinson_") for key in stored if key.startswith("hutchinson_")]
        assert kinds and offsets
        for kind in kinds:
            out = run(jnp.asarray(stored[f"hutchinson_{kind}"], jnp.float64)[:, None])
            reference_z = stored[f"z_{kind}_float64"]
            off = np.abs(reference_z - stored["derived_z_highacc"]).max()
            np.testing.assert_allclose(out.z, reference_z, rtol=0, atol=1.01 * off)
            # The prior is the same function: checked at the reference's latents, to rounding.
            assert_close(
                sde.prior_logp(jnp.asarray(reference_z)),
                stored[f"prior_logp_{kind}_float64"],
                1e-10,
            )
            delta = np.asarray(out.logp - sde.prior_logp(out.z))
            assert_close(delta, stored[f"delta_logp_{kind}_float64"], 2e-3, kind)
            dims = int(np.prod(stored["x"].shape[1:]))
            for offset, bits_of_offset in offsets.items():
                low, high = RANGES[offset]
                assert math.log2(256 / (high - low)) == bits_of_offset
                bits = PixelRange(256, low, high).bits_per_dim(out.logp, dims)
                assert_close(bits, stored[f"bpd_{kind}_{offset}_float64"], 3e-4)
                # The same arithmetic from the reference's own parts, to rounding.
                logp = stored[f"prior_logp_{kind}_float64"] + stored[f"delta_logp_{kind}_float64"]
                bits = PixelRange(256, low, high).bits_per_dim(logp, dims)
                assert_close(bits, stored[f"bpd_{kind}_{offset}_float64"], 1e-10)
