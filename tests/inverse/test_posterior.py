"""Samples of a posterior: moments, ranks of the truth, coverage of intervals, seams."""

import numpy as np
import pytest

from score_sde.inverse.posterior import coverage, moments, rank_histogram, seam

rng = np.random.default_rng(0)


def test_moments_of_few_samples() -> None:
    samples = rng.normal(size=(3, 5, 2, 4))
    found = moments(samples)
    np.testing.assert_allclose(found.mean, samples.mean(axis=1))
    np.testing.assert_allclose(found.std**2, samples.var(axis=1, ddof=1))
    np.testing.assert_allclose(found.mean_error, found.std / np.sqrt(5))
    np.testing.assert_allclose(found.quantiles[2], np.median(samples, axis=1))
    assert (moments(samples[:, :1]).std == 0).all()


@pytest.mark.parametrize("k", [2, 5, 9, 19])
def test_ranks_of_the_posterior_are_uniform(k: int) -> None:
    """Truth and samples of one law: intervals between samples cover as they say, for any k."""
    draws = rng.normal(size=(400, k + 1, 50))
    histogram = rank_histogram(draws[:, 1:], draws[:, 0], 0.0)
    error = histogram.std(axis=0, ddof=1) / np.sqrt(400)
    assert (np.abs(histogram.mean(axis=0) - 1 / (k + 1)) < 4.5 * error).all()
    for share in (0.5, 0.9):
        found = coverage(histogram, share)
        assert abs(found.found - found.nominal) < 4.5 * found.standard_error
        assert abs(found.nominal - share) <= max(1 / (k + 1), share - (k - 1) / (k + 1)) + 1e-9
    assert coverage(histogram, 0.9).nominal == pytest.approx({19: 0.9}.get(k, (k - 1) / (k + 1)))


@pytest.mark.parametrize(("spread", "sign"), [(0.5, -1), (2.0, 1)])
def test_a_wrong_spread_shows(spread: float, sign: int) -> None:
    truth, samples = rng.normal(size=(200, 50)), spread * rng.normal(size=(200, 9, 50))
    histogram = rank_histogram(samples, truth, 0.0)
    found = coverage(histogram, 0.8)
    assert sign * (found.found - found.nominal) > 10 * found.standard_error
    ends, middle = histogram[:, [0, -1]].mean(), histogram[:, 4:6].mean()
    assert sign * (middle - ends) > 0.05


def test_ranks_say_on_which_side_the_truth_lies() -> None:
    samples, truth = np.arange(1.0, 5.0)[None, :, None], np.array([[2.5]])
    np.testing.assert_array_equal(rank_histogram(samples, truth, 0.0), [[0, 0, 1, 0, 0]])
    np.testing.assert_array_equal(rank_histogram(samples, truth - 9, 0.0), [[1, 0, 0, 0, 0]])


def test_ties_count_for_the_ranks_they_may_have() -> None:
    samples, truth = np.array([[[0.0], [0.52], [1.0]]]), np.array([[0.5]])
    np.testing.assert_allclose(rank_histogram(samples, truth, 0.05), [[0, 0.5, 0.5, 0]])
    # A pixel where all agree says nothing: the shares are those of the other one.
    both = np.concatenate([samples, np.full_like(samples, 0.3)], axis=2)
    found = rank_histogram(both, np.array([[0.5, 0.3]]), 0.05)
    np.testing.assert_allclose(found, [[0, 0.5, 0.5, 0]])
    alone = rank_histogram(both[..., 1:], np.array([[0.3]]), 0.05)
    assert np.isnan(alone).all()
    assert np.isnan(coverage(alone, 0.9).found)


def test_levels_do_not_bend_the_histogram() -> None:
    """Truth rounded to grey levels, samples not: the posterior is uniform still."""
    draws = rng.normal(size=(400, 10, 50))
    truth = np.rint(draws[:, 0])
    histogram = rank_histogram(np.rint(draws[:, 1:]), truth, 0.5 - 1e-9)
    error = histogram.std(axis=0, ddof=1) / np.sqrt(400)
    assert (np.abs(histogram.mean(axis=0) - 0.1) < 4.5 * error).all()


def test_seams() -> None:
    known = np.zeros((4, 6, 1), bool)
    known[:, :3] = True
    flat = np.ones((2, 4, 6, 1))
    np.testing.assert_array_equal(seam(flat, known), [0, 0])
    flat[1, :, 3:] = 1.25
    np.testing.assert_allclose(seam(flat, known), [0, 0.25])
    box = np.zeros((5, 5, 1), bool)
    box[2, 2] = True
    image = np.zeros((5, 5, 3))
    image[2, 2, 0], image[1, 2, 1] = 3.0, 3.0  # channels are averaged: steps 2, 1, 1, 1
    np.testing.assert_allclose(seam(image[None], box), [1.25])
    np.testing.assert_allclose(seam(image.swapaxes(0, 1)[None], box), [1.25])
