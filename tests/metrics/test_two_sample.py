"""Energy test: its statistic written out, its exact level, and its power."""

import itertools

import numpy as np
import pytest

from score_sde.errors import UserError
from score_sde.metrics import energy_test, two_sample

RNG = np.random.default_rng(0)


def written_out(x, y):
    def mean(u, v):
        return np.mean([np.sqrt(((a - b) ** 2).sum()) for a in u for b in v])

    return len(x) * len(y) / (len(x) + len(y)) * (2 * mean(x, y) - mean(x, x) - mean(y, y))


@pytest.mark.parametrize("block", [3, 512])
def test_statistic(monkeypatch, block):
    monkeypatch.setattr(two_sample, "BLOCK", block)
    x, y = RNG.normal(size=(7, 2)), RNG.normal(size=(11, 2)) + 0.3
    assert energy_test(x, y, 5)[0] == pytest.approx(written_out(x, y), rel=1e-12)


def test_one_dimension_exactly():
    """n m/(n + m) 2 integral (F - G)^2: of {0, 1} and {0, 3} it is 2 (1/4 (3 - 1)) = 1."""
    assert energy_test(np.asarray([[0.0], [1.0]]), np.asarray([[0.0], [3.0]]), 1)[
        0
    ] == pytest.approx(1)


@pytest.mark.parametrize("block", [3, 512])
def test_p_value_is_that_of_all_permutations(monkeypatch, block):
    """Of 3 and 4 vectors there are 35 partitions; many random ones find the same share."""
    monkeypatch.setattr(two_sample, "BLOCK", block)
    x, y = RNG.normal(size=(3, 2)), RNG.normal(size=(4, 2)) + 0.8
    pooled, values = np.concatenate([x, y]), []
    for chosen in itertools.combinations(range(7), 3):
        rest = [i for i in range(7) if i not in chosen]
        values.append(written_out(pooled[list(chosen)], pooled[rest]))
    exact = np.mean(np.asarray(values) >= written_out(x, y) - 1e-12)
    assert 0.05 < exact < 0.6
    assert energy_test(x, y, 4999)[1] == pytest.approx(exact, abs=0.035)


def test_p_values_are_uniform_where_both_are_one_distribution():
    """19 permutations: 20 possible p-values, all equally likely.

    chi^2 with 19 degrees of freedom is below its 1e-4 limit.
    """
    rng, runs = np.random.default_rng(1), 1000
    found = [
        energy_test(rng.normal(size=(9, 2)), rng.normal(size=(14, 2)), 19, seed=i)[1]
        for i in range(runs)
    ]
    counts = np.bincount(np.rint(np.asarray(found) * 20).astype(int), minlength=21)
    assert counts[0] == 0
    assert ((counts[1:] - runs / 20) ** 2 / (runs / 20)).sum() < 50


def test_power():
    """A shift, another spread, and another shape with equal means and covariances are seen."""
    x = RNG.normal(size=(200, 2))
    smallest = 1 / 500
    assert energy_test(x, RNG.normal(0.6, size=(150, 2)), 499)[1] == smallest
    assert energy_test(x, 2 * RNG.normal(size=(150, 2)), 499)[1] == smallest
    assert energy_test(x, RNG.choice([-1.0, 1.0], size=(150, 2)), 499)[1] == smallest
    assert energy_test(x, RNG.normal(size=(150, 2)), 499)[1] > 0.01


def test_equal_sets_and_seeds():
    same = np.ones((5, 3))
    assert energy_test(same, same[:4], 99) == (0.0, 1.0)
    x, y = RNG.normal(size=(20, 2)), RNG.normal(size=(20, 2))
    assert energy_test(x, y, 99, seed=1) == energy_test(x, y, 99, seed=1)
    assert energy_test(x, x, 99)[1] == 1.0
    assert energy_test(x, y, 99, seed=1)[1] != energy_test(x, y, 99, seed=2)[1]


def test_messages():
    x = RNG.normal(size=(9, 2))
    with pytest.raises(UserError, match="y must hold at least 2 vectors; got 1"):
        energy_test(x, x[:1])
    with pytest.raises(UserError, match="x and y must have vectors of one length; got 2 and 1"):
        energy_test(x, x[:, :1])
    with pytest.raises(UserError, match="at least 1 permutation; got 0"):
        energy_test(x, x, 0)
    x[4] = np.nan
    with pytest.raises(UserError, match="x: 1 of 9 vectors are not finite"):
        energy_test(x, RNG.normal(size=(9, 2)))
