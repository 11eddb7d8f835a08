"""Inception score: its two ends, the definition written out, sums over batches."""

import jax
import numpy as np
import pytest

from score_sde.errors import UserError
from score_sde.metrics import ScoreSums
from score_sde.metrics.inception_score import split_of

RNG = np.random.default_rng(0)


def written_out(logits, split, splits):
    """exp of the mean KL divergence from the split's own marginal.

    It takes one image and one class after another.
    """
    scores = []
    for number in range(splits):
        p = [np.exp(row) / np.exp(row).sum() for row in logits[split == number]]
        marginal = sum(p) / len(p)
        divergences = [
            sum(p_y * (np.log(p_y) - np.log(q)) for p_y, q in zip(row, marginal)) for row in p
        ]
        scores.append(np.exp(np.mean(divergences)))
    return np.mean(scores), np.sqrt(np.mean((scores - np.mean(scores)) ** 2))


@pytest.mark.parametrize("splits", [1, 4])
def test_definition(splits):
    logits, split = 2 * RNG.normal(size=(43, 7)), RNG.integers(0, splits, 43)
    found = ScoreSums.of(logits, split, splits).score()
    assert found == pytest.approx(written_out(logits, split, splits), rel=1e-12)
    if splits > 1:  # the split of an image matters
        assert found[0] != pytest.approx(
            ScoreSums.of(logits, split[::-1], splits).score()[0], rel=1e-3
        )


@pytest.mark.parametrize("certainty", [50.0, 1e4])
def test_certain_and_varied_is_the_number_of_classes(certainty):
    """With probabilities that are 0 in double precision.

    There are also classes that no image of a split has.
    """
    logits = certainty * np.eye(12)[np.arange(60) % 6]
    with np.errstate(all="raise", under="ignore"):
        mean, deviation = ScoreSums.of(logits, np.arange(60) // 30, 2).score()
    assert mean == pytest.approx(6, rel=1e-12)
    assert deviation == pytest.approx(0, abs=1e-10)


def test_images_all_alike_have_score_one():
    logits = np.tile(RNG.normal(size=7), (20, 1)) + RNG.normal(size=(20, 1)) * 100
    assert ScoreSums.of(logits, np.zeros(20, np.int64), 1).score() == pytest.approx(
        (1, 0), abs=1e-12
    )


def test_sums_join_in_any_order():
    logits, split = 3 * RNG.normal(size=(101, 5)).astype(np.float32), RNG.integers(0, 3, 101)
    cuts = [1, 8, 8, 64]
    parts = [ScoreSums.of(*part, 3) for part in zip(np.split(logits, cuts), np.split(split, cuts))]
    whole = ScoreSums.of(logits, split, 3).score()
    assert sum(parts[1:], parts[0]).score() == pytest.approx(whole, rel=1e-12)
    assert sum(parts[-2::-1], parts[-1]).score() == pytest.approx(whole, rel=1e-12)


def test_pytree_in_double_precision():
    sums = ScoreSums.of(RNG.normal(size=(9, 5)).astype(np.float32), np.arange(9) % 2, 2)
    leaves = jax.tree.leaves(sums)
    assert [leaf.dtype for leaf in leaves] == [np.float64] * 3
    doubled = jax.tree.map(lambda leaf: 2 * leaf, sums)
    assert doubled.score() == pytest.approx(sums.score(), rel=1e-12)


def test_messages():
    logits, split = RNG.normal(size=(9, 5)), np.arange(9) % 2
    with pytest.raises(
        UserError, match="9 images leave 1 of 3 empty: use more images or fewer splits"
    ):
        ScoreSums.of(logits, split, 3).score()
    with pytest.raises(UserError, match=r"splits=2 and numbers from 0 to 3"):
        ScoreSums.of(logits, 3 * split, 2)
    with pytest.raises(UserError, match=r"splits=2 and numbers from -1 to 0"):
        ScoreSums.of(logits, -split, 2)
    with pytest.raises(UserError, match=r"same \(splits, classes\); got \(2, 5\) and \(3, 5\)"):
        ScoreSums.of(logits, split, 2) + ScoreSums.of(logits, split, 3)
    logits[2, 1] = -np.inf
    with pytest.raises(UserError, match="logits: 1 of 9 vectors are not finite"):
        ScoreSums.of(logits, split, 2)


def test_splits_of_the_inception_score_end_where_published_ones_do() -> None:
    """Chunks i n/s .. (i + 1) n/s are those of the published code.

    numpy.array_split has other ends.
    """
    for count, splits in ((10, 3), (7, 7), (1001, 10), (50_000, 10)):
        wanted = np.concatenate(
            [np.full((i + 1) * count // splits - i * count // splits, i) for i in range(splits)]
        )
        np.testing.assert_array_equal(split_of(np.arange(count), count, splits), wanted)
