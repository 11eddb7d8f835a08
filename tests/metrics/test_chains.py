"""Diagnostics of chains: direct sums, autoregressions in closed form, chains that disagree."""

import numpy as np
import pytest

from score_sde.errors import UserError
from score_sde.metrics import autocorrelation, effective_sample_size, split_rhat


def autoregression(rho, chains, n, seed=0):
    """Stationary x_(i+1) = rho x_i + sqrt(1 - rho^2) z."""
    z = np.random.default_rng(seed).normal(size=(n, chains))
    x = np.empty_like(z)
    x[0] = z[0]
    for i in range(1, n):
        x[i] = rho * x[i - 1] + np.sqrt(1 - rho**2) * z[i]
    return x.T


@pytest.mark.parametrize("rho", [0.9, 0.5, 0.0, -0.4])
def test_effective_sample_size_of_an_autoregression(rho):
    x = autoregression(rho, 32, 4000)
    expected = x.size * (1 - rho) / (1 + rho)
    assert effective_sample_size(x) == pytest.approx(expected, rel=0.05)
    assert effective_sample_size(x, (0.0, 1.0)) == pytest.approx(expected, rel=0.05)
    lags = np.arange(5)
    np.testing.assert_allclose(autocorrelation(x)[:5], float(rho) ** lags, atol=0.03)


def test_autocorrelation_by_direct_sums():
    x = np.random.default_rng(0).normal(size=(3, 7, 2))
    deviations, n = x - x.mean(axis=1, keepdims=True), 7
    within = x.var(axis=1, ddof=1).mean(axis=0)
    total = within * (n - 1) / n + x.mean(axis=1).var(axis=0, ddof=1)
    for k in range(1, n):
        lagged = np.sum(deviations[:, : n - k] * deviations[:, k:], axis=1) / n
        expected = 1 - (within - lagged.mean(axis=0)) / total
        np.testing.assert_allclose(autocorrelation(x)[k], expected, atol=1e-12)
        shifted = np.sum((x[:, : n - k] - 0.3) * (x[:, k:] - 0.3), axis=1) / n
        known = autocorrelation(x, (0.3, np.asarray([2.0, 0.5])))[k]
        np.testing.assert_allclose(known, shifted.mean(axis=0) / [2.0, 0.5], atol=1e-12)
    np.testing.assert_array_equal(autocorrelation(x)[0], 1)
    one = autocorrelation(x[:1])
    assert one.shape == (7, 2) and np.isfinite(one).all()


def test_each_entry_of_a_state_is_judged_alone():
    x = np.stack([autoregression(rho, 4, 500, seed) for seed, rho in enumerate((0.8, 0.0))], axis=2)
    together = effective_sample_size(x)
    assert together.shape == (2,)
    for i in range(2):
        assert together[i] == pytest.approx(float(effective_sample_size(x[:, :, i])))
        assert split_rhat(x)[i] == pytest.approx(float(split_rhat(x[:, :, i])))


def test_rhat_sees_chains_that_disagree_or_drift():
    x = autoregression(0.3, 4, 1000)
    assert split_rhat(x) == pytest.approx(1, abs=0.01)
    apart = x + 2 * np.arange(4)[:, None]
    assert split_rhat(apart) > 1.5 and effective_sample_size(apart) < 20
    assert split_rhat(x + np.linspace(0, 3, 1000)) > 1.2
    # By hand: halves (0, 1) and (4, 5) of one chain, W = 1/2, means 1/2 and 9/2.
    by_hand = np.sqrt((0.25 + 8) / 0.5)
    assert split_rhat(np.asarray([[0.0, 1.0, 4.0, 5.0]])) == pytest.approx(by_hand)
    assert split_rhat(np.asarray([[0.0, 1.0, 99.0, 4.0, 5.0]])) == pytest.approx(by_hand)


def test_a_stuck_chain_has_few_effective_samples_of_a_known_law():
    """Its own variance does not show it, the true moments do."""
    x = 3 + 0.1 * autoregression(0.0, 2, 1000)
    assert effective_sample_size(x) > 1000
    assert effective_sample_size(x, (0.0, 1.0)) < 2


def test_chains_that_alternate_count_as_more_than_independent():
    x = np.tile([1.0, -1.0], 50)[None] + 1e-3 * autoregression(0.0, 3, 100)
    assert effective_sample_size(x) == pytest.approx(300 * np.log10(300), rel=0.2)


def test_against_blackjax(x64):
    """Equal but for the last lag, which theirs caps where ours and Stan's estimate do not.

    Where all pairs are kept, theirs subtracts the last even lag instead of adding the next.
    """
    diagnostics = pytest.importorskip("blackjax.diagnostics")
    for rho, n in ((0.9, 1000), (0.5, 501), (0.0, 64)):
        x = autoregression(rho, 4, n)
        theirs = diagnostics.effective_sample_size(x)
        assert effective_sample_size(x) == pytest.approx(float(theirs), rel=1e-6)
        for chains in (x, x + 0.3 * np.arange(4)[:, None]):
            halves = np.concatenate([chains[:, : n // 2], chains[:, -(n // 2) :]])
            theirs = diagnostics.potential_scale_reduction(halves)
            assert split_rhat(chains) == pytest.approx(float(theirs), rel=1e-6)
    apart = autoregression(0.9, 4, 1000) + 0.3 * np.arange(4)[:, None]
    theirs = diagnostics.effective_sample_size(apart)
    assert effective_sample_size(apart) == pytest.approx(float(theirs), rel=1e-3)


def test_what_is_refused():
    good = autoregression(0.0, 2, 10)
    for bad in (good[:, :3], np.zeros((2, 10)), np.where(good > 1, np.nan, good)):
        with pytest.raises(UserError):
            effective_sample_size(bad)
