"""Noise scales and step size from data: published settings, cases by hand, chains.

The Langevin chains obey eq. 6.4.
"""

import dataclasses
import math
from fractions import Fraction

import jax.numpy as jnp
import numpy as np
import pytest
from mathcases import propagate

from golden import document, golden
from score_sde.analytic import GaussianMixture
from score_sde.noise_scales import (
    OVERLAP,
    PUBLISHED,
    Suggestion,
    _excess,
    comparison,
    largest_distance,
    number_of_scales,
    overlap,
    random_subset,
    ratio_of_scales,
    step_size,
    steps_per_scale,
    suggest,
    variance_ratio,
)
from score_sde.sde import DiscreteChain
from score_sde.steppers import AnnealedLangevin

NAMES = ("cifar10", "celeba", "church", "bedroom", "ffhq_256")
NUMBERS_AT_HALF = dict(zip(NAMES, (219, 472, 745, 1026, 2182)))


SCHEDULE = "math/ncsnv2_schedule.json"


SETTINGS = [row["name"] for row in (document(SCHEDULE) or {"settings": []})["settings"]]


@pytest.fixture(params=SETTINGS or ["absent"])
def reference(request):
    """One setting of the reference file with its values in 40-digit arithmetic."""
    golden(SCHEDULE)  # skips where it is absent
    rows = document(SCHEDULE)["settings"]
    return next(row for row in rows if row["name"] == request.param)


class TestLargestDistance:
    def test_by_hand(self):
        images = np.zeros((5, 2, 1, 1))
        images[1, 0], images[3, 1], images[4] = 0.5, 1.2, 0.4
        distance, pair = largest_distance(images)
        assert distance == pytest.approx(1.3, rel=1e-15)  # 5, 12, 13
        assert pair == (1, 3)

    @pytest.mark.parametrize("block", [1, 7, 25, 64, 1000])
    def test_any_block_gives_the_float64_distance(self, block):
        images = np.random.default_rng(block).uniform(size=(50, 4, 4, 3))
        flat = images.reshape(50, -1)
        exact = np.linalg.norm(flat[:, None] - flat[None], axis=2)
        distance, (i, j) = largest_distance(images, block)
        assert distance == pytest.approx(exact.max(), rel=1e-6)
        assert distance == pytest.approx(exact[i, j], rel=1e-14) and i < j

    def test_far_from_the_origin(self):
        # |a|^2 is 1e8 times |a - b|^2: float32 would find noise if the images were not centred.
        images = 1000 + 0.1 * np.random.default_rng(0).uniform(size=(60, 64))
        exact = np.linalg.norm(images[:, None] - images[None], axis=2).max()
        assert largest_distance(images, 16)[0] == pytest.approx(exact, rel=1e-4)

    def test_integer_levels_do_not_wrap(self):
        images = np.array([[0, 255], [255, 0], [10, 20]], np.uint8)
        assert largest_distance(images)[0] == pytest.approx(255 * math.sqrt(2))

    def test_equal_images(self):
        assert largest_distance(np.ones((3, 4)))[0] == 0

    @pytest.mark.parametrize(
        ("images", "block", "message"),
        [
            (np.ones((1, 4)), 8, "at least two images"),
            (np.ones(4), 8, "at least two images"),
            (np.ones((3, 4)), 0, "block must be at least 1"),
            (np.array([[0.0], [np.nan], [1.0]]), 8, "not finite"),
            (np.array([[0.0], [np.inf], [1.0]]), 2, "not finite"),
        ],
    )
    def test_refuses(self, images, block, message):
        with pytest.raises(ValueError, match=message):
            largest_distance(images, block)

    def test_random_subset(self):
        assert random_subset(5).tolist() == [0, 1, 2, 3, 4]
        chosen = random_subset(1000, 100)
        assert len(set(chosen.tolist())) == 100 and chosen.min() < 50 and chosen.max() > 950
        assert (np.diff(chosen) > 0).all() and (chosen == random_subset(1000, 100)).all()
        assert (chosen != random_subset(1000, 100, seed=1)).any()


class TestNumberOfScales:
    def test_overlap_agrees(self, reference):
        assert overlap(reference["gamma"], reference["dimension"]) == pytest.approx(
            reference["phi_value"], abs=1e-12
        )

    def test_overlap_by_hand(self):
        assert overlap(1.0, 3072) == pytest.approx(math.erf(3 / math.sqrt(2)), rel=1e-14)
        # sqrt(2 D)(g - 1) = 3 g, so the lower end is Phi(0) and the upper one Phi(6 g).
        assert overlap(4 / 3, 72) == pytest.approx(
            0.5 - 0.5 * math.erfc(8 / math.sqrt(2)), rel=1e-14
        )
        assert 0 < overlap(3.0, 3072) < 1e-300 or overlap(3.0, 3072) == 0  # NCSN's ten scales
        assert overlap(1.2, 3072) == pytest.approx(
            8.1e-32, rel=0.3
        )  # far in the tail, no cancellation

    def test_ratio_at_half(self, reference):
        ratio = ratio_of_scales(reference["dimension"], 0.5)
        assert ratio == pytest.approx(reference["gamma_for_phi_exactly_half"], rel=1e-14)
        exact = 1 + math.log(reference["sigma_1"] / reference["sigma_L"]) / math.log(ratio)
        assert exact == pytest.approx(reference["L_for_phi_exactly_half"], rel=1e-11)

    @pytest.mark.parametrize("name", NAMES)
    def test_published_numbers(self, name):
        published = PUBLISHED[name].settings
        for target, n in ((OVERLAP, published.n), (0.5, NUMBERS_AT_HALF[name])):
            assert number_of_scales(published.sigma_max, 0.01, published.dimension, target) == n
        assert f"{OVERLAP:.3f}" == "0.567"

    @pytest.mark.parametrize("dimension", [5, 64, 784, 10**6])
    @pytest.mark.parametrize("target", [0.01, 0.5, 0.99])
    def test_ratio_solves_its_equation(self, dimension, target):
        assert overlap(ratio_of_scales(dimension, target), dimension) == pytest.approx(
            target, rel=1e-9
        )

    def test_never_fewer_than_two(self):
        assert number_of_scales(0.011, 0.01, 64) == 2

    def test_refuses(self):
        for target in (0.0, 0.9973, 1.0):
            with pytest.raises(ValueError, match="overlap"):
                ratio_of_scales(64, target)
        with pytest.raises(ValueError, match="many dimensions"):
            ratio_of_scales(4)
        for ends in ((0.01, 0.01), (1.0, 0.0), (math.inf, 0.01), (0.0, 0.01)):
            with pytest.raises(ValueError, match="sigma_min must be in"):
                number_of_scales(*ends, 64)


class TestStepSize:
    def test_ratio_agrees(self, reference):
        for key in ("minimising", "published"):
            actual = variance_ratio(
                reference[f"epsilon_{key}"],
                reference["gamma"],
                reference["sigma_L"],
                reference["T"],
            )
            expected = reference[
                "ratio_at_minimum" if key == "minimising" else "ratio_at_published"
            ]
            assert actual == pytest.approx(expected, rel=1e-14)

    def test_ratio_by_hand(self):
        # a = 1 draws N(0, 2 sigma^2) whatever it starts from; a = 1/2, T = 1: g^2/4 + 1.
        assert variance_ratio(0.25, 3.0, 0.5, 4) == 2
        assert variance_ratio(0.125, 3.0, 0.5, 1) == pytest.approx(9 / 4 + 1, rel=1e-15)
        assert variance_ratio(1.5 * 0.25, 3.0, 0.5, 1) == pytest.approx(
            9 / 4 + 3, rel=1e-15
        )  # a = 3/2

    @pytest.mark.parametrize("a", [1e-7, 1e-3, 0.3, 0.999, 1 - 1e-12, 1.3, 1.999])
    def test_ratio_against_the_printed_formula_in_exact_arithmetic(self, a):
        for g, steps in ((1.0, 3), (1.004, 3), (1.7, 100)):
            exact_a, exact_g = Fraction(a), Fraction(g)
            part = 2 * exact_a / (1 - (1 - exact_a) ** 2)
            exact = (1 - exact_a) ** (2 * steps) * (exact_g**2 - part) + part
            assert variance_ratio(a, g, 1.0, steps) == pytest.approx(float(exact), rel=1e-13)
            small = _excess(np.asarray(a), g, steps)
            assert small == pytest.approx(float(exact - 1), rel=1e-12)

    def test_ratio_is_that_of_the_stepper(self, x64):
        # N(0, g^2 s^2 I), T steps of AnnealedLangevin at the noise level s with the suggested snr,
        # exactly.
        suggestion = suggest(3.0, 3072, steps=4)
        chain = DiscreteChain.smld(0.01, 3.0, suggestion.n)
        point = GaussianMixture.isotropic([1.0], np.zeros((1, 2)), 0.0)
        for index in (0, 20):
            stepper = AnnealedLangevin(chain, suggestion.snr, n_steps=4)
            start = np.eye(2) * chain.sigmas[index + 1] ** 2
            pairs = [[index, index]]
            z_mean = np.zeros(2)
            mean, covariance = _propagate(stepper, point.score_fn(chain), pairs, z_mean, start)
            ratio = np.diag(covariance) / chain.sigmas[index] ** 2
            np.testing.assert_allclose(ratio, suggestion.variance_ratio, rtol=1e-10)
            np.testing.assert_allclose(mean, 0)

    def test_minimiser_agrees(self, reference):
        for steps, epsilon in reference["epsilon_minimising_by_T"].items():
            actual = step_size(reference["gamma"], reference["sigma_L"], int(steps))
            assert actual == pytest.approx(epsilon, rel=1e-6)

    def test_minimiser_for_one_step_by_hand(self):
        # T = 1: (1 - a)^2 g^2 + 2 a, least at a = 1 - 1/g^2.
        for g in (1.001, 1.5, 10.0):
            assert step_size(g, 0.1, 1) == pytest.approx(0.01 * (1 - 1 / g**2), rel=1e-5)

    @pytest.mark.parametrize(
        ("ratio", "steps"), [(1.0375, 5), (1.6681, 100), (1.2, 10_000), (50.0, 3)]
    )
    def test_nothing_else_is_better(self, ratio, steps):
        least = variance_ratio(step_size(ratio, 1.0, steps), ratio, 1.0, steps)
        grid = np.geomspace(1e-9, 1.999, 20_001)
        assert least <= variance_ratio(grid, ratio, 1.0, steps).min() + 1e-15

    def test_refuses(self):
        for epsilon in (0.0, -1.0, 2e-4, math.nan):
            with pytest.raises(ValueError, match="epsilon must be in"):
                variance_ratio(epsilon, 1.1, 0.01, 5)
        for arguments in ((1.0, 0.01, 5), (1.1, 0.0, 5), (1.1, 0.01, 0)):
            with pytest.raises(ValueError, match="need ratio > 1"):
                step_size(*arguments)


class TestSuggestion:
    @pytest.mark.parametrize("name", NAMES)
    def test_published_settings_follow_but_two(self, name):
        row = PUBLISHED[name]
        ours = suggest(row.settings.sigma_max, row.settings.dimension)
        assert (ours.n, ours.steps) == (row.settings.n, row.settings.steps)
        assert ours.ema_rate == row.settings.ema_rate == 0.999
        assert ours.epsilon == row.epsilon
        follows = f"{ours.epsilon:.1e}" == f"{row.settings.epsilon:.1e}"
        assert follows == (name not in ("church", "ffhq_256"))
        assert ("does not follow" in row.verdict) != follows
        assert ("released configuration has 9e-07" in row.verdict) == (name == "ffhq_256")

    def test_table_agrees_with_the_reference(self, reference):
        size = reference["sigma_1"], reference["dimension"]
        rows = {(s.settings.sigma_max, s.settings.dimension): s for s in PUBLISHED.values()}
        if size not in rows:
            pytest.skip(f"no published settings for sigma_1, D = {size}")
        row = rows[size]
        settings = row.settings
        names = {
            "dimension": "dimension",
            "sigma_max": "sigma_1",
            "sigma_min": "sigma_L",
            "n": "L",
            "steps": "T",
        }
        for ours, theirs in {**names, "epsilon": "epsilon_published"}.items():
            assert getattr(settings, ours) == reference[theirs], ours
        released = row.released_epsilon or settings.epsilon
        assert released == reference["epsilon_in_released_config"]
        assert settings.ratio == pytest.approx(reference["gamma"], rel=1e-14)

    def test_derived_quantities(self):
        s = Suggestion(3072, 1.0, 0.01, 10, 100, 2e-5)
        assert s.ratio == pytest.approx(100 ** (1 / 9))
        assert s.snr == pytest.approx(math.sqrt(0.1), rel=1e-14)  # sqrt(2e-5/2)/0.01
        assert s.evaluations == 1000 and s.overlap < 1e-100
        chain = DiscreteChain.smld(0.01, 1.0, 10)
        step = 2 * (s.snr * chain.sigmas) ** 2
        np.testing.assert_allclose(step, 2e-5 * chain.sigmas**2 / 0.01**2)

    def test_steps_per_scale(self):
        assert [steps_per_scale(n) for n in (2, 232, 500, 788, 1086, 2311)] == [5, 5, 5, 4, 3, 3]
        assert suggest(10.0, 784, steps=9).steps == 9

    def test_refuses(self):
        good = suggest(10.0, 784)
        for change in ({"n": 1}, {"steps": 0}, {"epsilon": 0.0}, {"sigma_max": 0.01}):
            with pytest.raises(ValueError):
                dataclasses.replace(good, **change)


class TestComparison:
    def test_both_overlaps_beside_the_published_values(self):
        lines = comparison(49.3, 3072, published=PUBLISHED["cifar10"]).splitlines()
        assert lines[0].split() == ["overlap", "0.567", "overlap", "0.5", "published"]
        cells = {line[:32].strip(): line[32:].split() for line in lines[1:-1]}
        assert cells["n, number of scales"] == ["232", "219", "232"]
        assert cells["sigma_max, largest distance"] == ["49.3", "49.3", "50"]
        assert cells["T, steps per scale"] == ["5", "5", "5"]
        assert cells["epsilon, step size at sigma_min"][2] == "6.200e-06"
        assert len({len(line) for line in lines[:-1]}) == 1
        assert lines[-1].startswith("published epsilon 6.2e-06 follows")

    def test_without_published_values(self):
        text = comparison(8.0, 64)
        assert "published" not in text and text.splitlines()[0].split() == [
            "overlap",
            "0.567",
            "overlap",
            "0.5",
        ]


def _propagate(stepper, score_fn, pairs, mean, covariance):
    """`propagate` for a stepper with several draws: its updates one by one."""
    single = dataclasses.replace(stepper, n_steps=1)
    for _ in range(stepper.n_steps):
        mean, covariance = propagate(
            single, score_fn, jnp.asarray(pairs, jnp.float64), mean, covariance
        )
    return mean, covariance
