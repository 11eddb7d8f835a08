"""Time grids: against the published grids, their definitions and their ends."""

import jax.numpy as jnp
import numpy as np
import pytest
from mathcases import SDES

from golden import groups, load
from score_sde import grids
from score_sde.sde import EDM, VE, VP, DiscreteChain, PublishedSteps

ALL = pytest.mark.parametrize("sde", SDES.values(), ids=SDES)


@pytest.mark.parametrize("case", groups("math/sde_timegrid", "__t_float64"))
def test_published(case, request):
    stored = load("math/sde_timegrid")
    times = stored[f"{case}__t_float64"]
    n = len(times)
    pairs = grids.published(n, float(times[-1]))
    np.testing.assert_allclose(pairs[:, 0], times, rtol=0, atol=1e-15)
    np.testing.assert_allclose(pairs[:, 0] - pairs[:, 1], 1 / n, rtol=1e-10)
    steps = PublishedSteps(DiscreteChain.smld(n=n))
    single = jnp.asarray(pairs[:, 0], jnp.float32)
    for source in ("jax", "torch"):
        np.testing.assert_allclose(
            single, stored[f"{case}__t_{source}_float32"], rtol=0, atol=1.2e-7
        )
        np.testing.assert_array_equal(
            steps.index(single), stored[f"{case}__index_{source}_float32"]
        )
    request.getfixturevalue("x64")
    np.testing.assert_array_equal(
        steps.index(jnp.asarray(pairs[:, 0])), stored[f"{case}__index_float64"]
    )


@ALL
def test_uniform(sde):
    times = grids.uniform(sde, 10)
    assert times.shape == (11,)
    assert (times[0], times[-1]) == (sde.t_max, sde.t_min)
    np.testing.assert_allclose(np.diff(times), (sde.t_min - sde.t_max) / 10)
    assert grids.uniform(sde, 4, 0.1 * sde.t_max)[-1] == 0.1 * sde.t_max


@ALL
@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_log_snr_uniform(sde, precision, request):
    if precision == "float64":
        request.getfixturevalue("x64")
    times = grids.log_snr_uniform(sde, 12)
    assert times.shape == (13,)
    assert (times[0], times[-1]) == (sde.t_max, sde.t_min)
    assert np.all(np.diff(times) < 0)
    log_snr = np.asarray(sde.log_snr(jnp.asarray(times)))
    np.testing.assert_allclose(
        np.diff(log_snr),
        (log_snr[-1] - log_snr[0]) / 12,
        rtol=1e-8 if precision == "float64" else 2e-3,
    )
    later = grids.log_snr_uniform(sde, 3, 0.1 * sde.t_max)
    assert later[-1] == 0.1 * sde.t_max


def test_log_snr_uniform_is_geometric_for_edm_and_linear_for_ve(x64):
    np.testing.assert_allclose(
        grids.log_snr_uniform(EDM(), 8), np.geomspace(80, 0.002, 9), rtol=1e-10
    )
    np.testing.assert_allclose(grids.log_snr_uniform(VE(), 8), np.linspace(1, 1e-5, 9), rtol=1e-9)


def test_grids_are_made_in_double_precision():
    """Whatever the precision of jax: levels of VP to 1e-9 where float32 would leave 1e-4."""
    times = grids.log_snr_uniform(VP(), 8)
    log_levels = np.log(grids.levels_of(VP(), times))
    np.testing.assert_allclose(np.diff(log_levels, 2), 0, atol=1e-9)


@ALL
def test_grid_of_levels(sde):
    """There and back; the last may be 0."""
    high, low = grids.levels_of(sde, np.asarray([sde.t_max, sde.t_min]))
    levels = np.geomspace(high, low, 7)
    times = grids.at_levels(sde, levels)
    assert times[0] == pytest.approx(sde.t_max)
    np.testing.assert_allclose(grids.levels_of(sde, times), levels, rtol=1e-9)
    clean = grids.at_levels(sde, np.append(levels, 0.0))
    np.testing.assert_array_equal(clean, grids.to_clean(sde, times))
    assert clean[-1] == sde.t_clean
    assert [float(v) for v in sde.marginal(jnp.asarray(sde.t_clean))] == [1.0, 0.0]


def test_to_clean_is_the_end_of_a_chain():
    chain = DiscreteChain.smld(n=10)
    np.testing.assert_array_equal(
        grids.to_clean(chain, np.arange(9.0, -1, -1)), grids.chain_steps(chain)
    )


@ALL
def test_karras_is_in_levels(sde):
    """Equal steps in rho^(1/7), rho = sigma/alpha, between the ends."""
    end = 0.1 * sde.t_max
    times = grids.karras(sde, 9, end)
    assert (times[0], times[-1]) == (sde.t_max, end)
    roots = grids.levels_of(sde, times) ** (1 / 7)
    np.testing.assert_allclose(np.diff(roots), (roots[-1] - roots[0]) / 9, rtol=1e-7)


@ALL
def test_power_and_polyexponential(sde):
    end = 0.1 * sde.t_max
    times = grids.power(sde, 9, end)
    assert (times[0], times[-1]) == (sde.t_max, end)
    np.testing.assert_allclose(np.diff(np.sqrt(times), 2), 0, atol=1e-12)
    times = grids.polyexponential(sde, 4, end, 2.0)
    assert (times[0], times[-1]) == (sde.t_max, end)
    log_levels = np.log(grids.levels_of(sde, times))
    part = (log_levels - log_levels[-1]) / (log_levels[0] - log_levels[-1])
    np.testing.assert_allclose(part, np.asarray([1, 0.75, 0.5, 0.25, 0]) ** 2, atol=1e-9)


def test_karras():
    times = grids.karras(EDM(), 18)
    i = np.arange(19)
    np.testing.assert_allclose(
        times, (80 ** (1 / 7) + i / 18 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7, rtol=1e-12
    )
    np.testing.assert_allclose(grids.karras(EDM(), 5, 0.01, rho=1.0), np.linspace(80, 0.01, 6))


def test_chain_steps():
    chain = DiscreteChain.smld(n=10)
    np.testing.assert_array_equal(grids.chain_steps(chain), np.arange(9, -2, -1))
    np.testing.assert_array_equal(grids.chain_steps(chain, 10), np.arange(9, -2, -1))
    np.testing.assert_array_equal(grids.chain_steps(chain, 5), [9, 7, 5, 3, 1, -1])
    np.testing.assert_array_equal(grids.chain_steps(chain, 1), [9, -1])
    for n in range(1, 11):  # strides differ by at most one, none is zero
        strides = -np.diff(grids.chain_steps(chain, n))
        assert strides.sum() == 10
        assert 1 <= strides.min() <= strides.max() <= strides.min() + 1


def test_levels():
    chain = DiscreteChain.smld(n=10)
    for pairs in (grids.levels(chain), grids.levels(chain, 10)):
        np.testing.assert_array_equal(pairs, np.stack([np.arange(9, -1, -1)] * 2, axis=1))
    np.testing.assert_array_equal(grids.levels(chain, 4)[:, 0], [9, 6, 3, 0])
    np.testing.assert_array_equal(grids.levels(chain, 1), [[0, 0]])


def test_as_pairs():
    pairs = np.asarray([[3.0, 2.0], [2.0, 1.0]])
    np.testing.assert_array_equal(grids.as_pairs(np.asarray([3.0, 2.0, 1.0])), pairs)
    np.testing.assert_array_equal(grids.as_pairs(pairs), pairs)
    for wrong in (np.zeros(1), np.zeros((0, 2)), np.zeros((3, 3)), np.zeros(())):
        with pytest.raises(ValueError, match=r"a time grid is \(n\+1,\) times or \(n, 2\) pairs"):
            grids.as_pairs(wrong)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: grids.uniform(VP(), 0), "at least 1 step; got n=0"),
        (lambda: grids.published(0, 1e-3), "at least 1 step; got n=0"),
        (
            lambda: grids.uniform(VP(), 5, 1.0),
            r"t_end must be in \[t_min, t_max\) = \[1e-05, 1.0\); got t_end=1.0",
        ),
        (lambda: grids.log_snr_uniform(VP(), 5, 1e-6), "t_end must be in"),
        (lambda: grids.karras(EDM(), 5, 0.0), "t_end must be in"),
        (lambda: grids.karras(EDM(), 5, rho=0.0), "rho must be positive; got rho=0"),
        (lambda: grids.power(VP(), 5, exponent=0.0), "exponent must be positive; got exponent=0"),
        (lambda: grids.polyexponential(VP(), 5, exponent=-1.0), "got exponent=-1"),
        (lambda: grids.at_levels(EDM(), np.asarray([1.0, 1.0])), "levels must fall"),
        (lambda: grids.at_levels(EDM(), np.asarray([1.0, -1.0])), "and be positive"),
        (lambda: grids.at_levels(EDM(), np.zeros(1)), "levels must fall and be positive"),
        (lambda: grids.at_levels(EDM(), np.asarray([81.0, 1.0])), "reach from 1 to 81; change"),
        (lambda: grids.at_levels(EDM(), np.asarray([80.0, 1e-3])), r"0.002 \(t_min\) to 80"),
        (lambda: grids.to_clean(PublishedSteps(DiscreteChain.smld()), np.ones(2)), "has noise at"),
        (lambda: grids.iddpm(EDM(), 9, size=9), "a chain of 9 steps has . levels in"),
        (lambda: grids.align_your_steps(EDM(), 5, "sd3"), "one of sd1, .* got n=5, model='sd3'"),
        (lambda: grids.align_your_steps(EDM(), 0), "got n=0"),
        (lambda: grids.align_your_steps(EDM(), 5, "svd"), "levels reach from 0.002 to 700"),
        (
            lambda: grids.chain_steps(DiscreteChain.smld(n=10), 11),
            "10 noise levels can be sampled in 1 to 10 steps; got n=11",
        ),
        (lambda: grids.chain_steps(DiscreteChain.smld(n=10), 0), "got n=0"),
        (
            lambda: grids.levels(DiscreteChain.smld(n=10), 11),
            "10 noise levels has 1 to 10 .* got n=11",
        ),
    ],
)
def test_messages(make, message):
    with pytest.raises(ValueError, match=message):
        make()
