"""Time samplers: reference inverse CDFs, densities and unbiasedness."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mathcases import PROCESSES, stored_sde
from scipy.integrate import quad
from scipy.stats import kstest, norm, truncnorm

from golden import assert_close, load, names
from score_sde.arrays import sample_keys
from score_sde.objectives import LogNormal, LogSNRUniform, UniformIndex, UniformTime
from score_sde.sde import EDM, VP, DiscreteChain


@pytest.mark.parametrize("file", names("math/sde_flow_*"))
def test_reference_importance_sampling(file, x64):
    stored = load(file)
    starts = [key for key in stored if key.startswith(("Z_exact__eps", "derived_Z__eps"))]
    assert starts
    for key in starts:
        start, eps = key.split("__eps")
        sampler = LogSNRUniform(stored_sde(stored, t_min=float(eps)))
        np.testing.assert_allclose(sampler.normalizer(jnp.float64), stored[key], rtol=1e-10)
        if start == "derived_Z":  # g^2/sigma^2 is constant: uniform time
            t, w = sampler.at(jnp.asarray(stored["derived_u"]))
            assert_close(t, stored[f"derived_t_inverse__eps{eps}"], 1e-10)
            assert_close(w, np.ones_like(t), 1e-10)
        else:
            _check_inverse(sampler, lambda key, eps=eps: stored[f"{key}__eps{eps}"])


def _check_inverse(sampler, get):
    t, w = sampler.at(jnp.asarray(get("cdf_exact") / get("Z_exact")))
    np.testing.assert_allclose(t, get("cdf_t"), rtol=1e-7)
    rate = np.gradient(get("cdf_exact"), get("cdf_t"))[1:-1]  # g^2/sigma^2, coarsely
    assert np.corrcoef(np.log(get("Z_exact") / w[1:-1]), np.log(rate))[0, 1] > 0.99
    # The reference's own inverse uses ln(B) for ln(exp(B)-1) below B = 1e-3: the same to that
    # precision.
    np.testing.assert_allclose(sampler.at(jnp.asarray(get("u")))[0], get("t_inverse"), rtol=3e-3)


@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("name", PROCESSES)
def test_density_and_weight(name, precision, request):
    """dt/du = (t_max - t_min) w, the reciprocal density; so E[w h] is the mean of h."""
    if precision == "float64":
        request.getfixturevalue("x64")
    sde = PROCESSES[name]
    sampler = LogSNRUniform(sde)
    u = jnp.linspace(0.0, 1.0, 2001, dtype=precision)
    t, w = (np.asarray(v, np.float64) for v in jax.jit(sampler.at)(u))
    tol = 1e-6 if precision == "float64" else 1e-2
    np.testing.assert_allclose(
        t[[0, -1]], [sde.t_min, sde.t_max], rtol=1e-6 if precision == "float64" else 1e-4
    )
    slope = np.gradient(t, np.asarray(u, np.float64))[200:-200:100]
    np.testing.assert_allclose(
        slope, (sde.t_max - sde.t_min) * w[200:-200:100], rtol=max(tol, 1e-4)
    )

    # E[w h] is the mean of h over the interval.
    def h(t):
        return np.cos(2 * t / sde.t_max) + t / sde.t_max

    mean = quad(h, sde.t_min, sde.t_max)[0] / (sde.t_max - sde.t_min)
    assert np.trapezoid(w * h(t), np.asarray(u, np.float64)) == pytest.approx(mean, rel=1e-3)


CHAIN = DiscreteChain.smld(n=7)


@pytest.mark.parametrize(
    "sampler",
    [UniformTime(VP()), LogSNRUniform(VP()), LogNormal(VP()), UniformIndex(CHAIN)],
    ids=lambda s: type(s).__name__,
)
def test_keys_of_examples(sampler):
    """With one key per example a time depends on its own key alone; the law is that of one key."""
    keys, n = sample_keys(jax.random.key(5), jnp.arange(20000)), 20000
    t, w = sampler(keys, n)
    few = sampler(keys[40:43], 3)
    for ours, theirs in zip(few, (t[40:43], w[40:43]), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    one, weights = sampler(jax.random.key(6), n)
    if isinstance(sampler, UniformIndex):
        np.testing.assert_array_equal(np.unique(t), np.arange(7))
    assert kstest(np.asarray(t), np.asarray(one)).pvalue > 1e-3
    assert t.dtype == one.dtype and w.dtype == weights.dtype
    assert abs(np.corrcoef(t[1:], t[:-1])[0, 1]) < 4 / np.sqrt(n)


class TestLogNormal:
    @pytest.mark.parametrize("name", PROCESSES)
    def test_quantiles(self, name, x64):
        """log(sigma/alpha) is normal, cut off at the ends; w is 1."""
        sde, mean, std = PROCESSES[name], -0.7, 0.9
        u = jnp.asarray([0.0, 0.01, 0.3, 0.5, 0.9, 0.999, 1.0])
        t, w = LogNormal(sde, mean, std).at(u)
        alpha, sigma = sde.marginal(t)
        low, high = -0.5 * np.asarray(sde.log_snr(jnp.asarray([sde.t_min, sde.t_max])))
        law = truncnorm((low - mean) / std, (high - mean) / std, mean, std)
        np.testing.assert_allclose(np.log(sigma / alpha), law.ppf(u), rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(t[jnp.asarray([0, -1])], [sde.t_min, sde.t_max], rtol=1e-6)
        np.testing.assert_array_equal(w, 1.0)

    def test_edms_own(self):
        """P_mean = -1.2, P_std = 1.2 without arguments, drawn in single precision."""
        n = 20000
        t, w = LogNormal(EDM())(sample_keys(jax.random.key(2), jnp.arange(n)), n)
        assert kstest(np.log(np.asarray(t, float)), norm(-1.2, 1.2).cdf).pvalue > 1e-3
        assert t.dtype == w.dtype == jnp.float32 and np.all(np.asarray(w) == 1)

    @pytest.mark.parametrize("std", [0.0, -1.0, float("nan")])
    def test_a_width_that_is_not_positive_is_refused(self, std):
        with pytest.raises(ValueError, match=f"p_std must be positive; got p_std={std}"):
            LogNormal(EDM(), -1.2, std)

    @pytest.mark.parametrize("mean", [-60.0, 60.0])
    def test_a_mean_beyond_all_levels_is_refused(self, mean):
        with pytest.raises(ValueError, match=f"no noise level .*p_mean={mean}, p_std=1.2"):
            LogNormal(EDM(), mean)


def test_draws():
    key, n = jax.random.key(0), 20000
    sde = VP()
    t, w = UniformTime(sde)(key, n)
    assert np.all(np.asarray(w) == 1)
    assert np.asarray(t).min() >= sde.t_min
    assert abs(float(jnp.mean(t)) - 0.5) < 4 / np.sqrt(12 * n)
    assert float(jnp.max(t)) > 0.999
    wide = PROCESSES["edm"]
    t, _ = UniformTime(wide)(key, n)
    assert abs(float(jnp.mean(t)) - 0.5 * (wide.t_min + wide.t_max)) < 4 * wide.t_max / np.sqrt(
        12 * n
    )

    t, w = LogSNRUniform(sde)(key, n)
    log_snr = np.asarray(sde.log_snr(t))
    ends = np.asarray(sde.log_snr(jnp.asarray([sde.t_max, sde.t_min])))
    assert log_snr.mean() == pytest.approx(ends.mean(), abs=4 * np.ptp(ends) / np.sqrt(12 * n))
    assert log_snr.std() == pytest.approx(np.ptp(ends) / np.sqrt(12), rel=0.02)
    assert float(jnp.mean(w)) == pytest.approx(1, abs=4 * float(jnp.std(w)) / np.sqrt(n))

    t, w = UniformIndex(DiscreteChain.smld(n=7))(key, n)
    assert np.all(np.asarray(w) == 1)
    assert t.dtype == jnp.float32
    values, counts = np.unique(t, return_counts=True)
    np.testing.assert_array_equal(values, np.arange(7))
    assert np.all(np.abs(counts - n / 7) < 4.5 * np.sqrt(n / 7))
