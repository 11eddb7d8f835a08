"""Phantoms: one function of the plane each, whatever the number of pixels."""

import numpy as np
import pytest

from score_sde.data import PhantomSource, phantom, take
from score_sde.data.ellipses import line_integrals
from score_sde.data.phantoms import KINDS
from score_sde.errors import UserError


@pytest.mark.parametrize("index", range(6))
def test_a_picture_is_the_same_at_any_size(index: int) -> None:
    whole = phantom(index).draw(64, fine=2)
    smaller = whole.reshape(32, 2, 32, 2).mean(axis=(1, 3))
    np.testing.assert_allclose(phantom(index).draw(32, fine=4), smaller, atol=1e-12)
    assert whole.min() >= 0 and whole.max() <= 1 and whole.std() > 0.1


@pytest.mark.parametrize("index", [1, 2, 5])
def test_columns_sum_to_line_integrals(index: int) -> None:
    """Without texture, where no value is cut: sums over columns are integrals along x = s."""
    one = phantom(index).smooth()
    table = one.table * np.array([0.05, 1, 1, 1, 1, 1])
    table[0, 0] += 0.5  # so that sums stay inside [0, 1]
    one = one._replace(table=np.concatenate([table, [[0.2, 0.2, 0.1, 0.1, 0.3, 0.3]]]))
    n = 128
    line = (np.arange(n) + 0.5) * 2 / n - 1
    wanted = line_integrals(one.table, np.zeros(n), line)
    found = one.draw(n).sum(axis=0) * 2 / n
    assert np.linalg.norm(found - wanted) < 0.01 * np.linalg.norm(wanted)
    down = line_integrals(one.table, np.full(n, np.pi / 2), line)
    rows = one.draw(n).sum(axis=1) * 2 / n
    assert np.linalg.norm(rows[::-1] - down) < 0.01 * np.linalg.norm(down)
    assert np.linalg.norm(rows - down) > 0.02 * np.linalg.norm(down)


def test_texture_has_the_size_it_says() -> None:
    """Standard deviation of the difference to the picture without it, in a flat region."""
    found = []
    for index in range(0, 60, 3):
        one = phantom(index)
        flat = one._replace(shading=np.zeros(2), table=np.array([[0.5, 2.0, 2.0, 0, 0, 0]]))
        found.append(flat.draw(64, fine=1).std() / one.texture)
    assert abs(np.mean(found) - 1) < 0.1


def test_shading_and_waves_have_their_directions() -> None:
    """x to the right, y upwards; waves count cycles per unit of length."""
    flat = np.array([[0.5, 2.0, 2.0, 0, 0, 0]])
    plain = phantom(0)._replace(table=flat, shading=np.zeros(2), texture=0.0)
    line = (np.arange(16) + 0.5) / 8 - 1
    x, y = np.meshgrid(line, -line)
    shaded = plain._replace(shading=np.array([0.3, 0.1])).draw(16, fine=1)
    np.testing.assert_allclose(shaded, 0.5 * (1 + 0.3 * x + 0.1 * y), atol=1e-12)
    wave = plain._replace(waves=np.array([[1.5, 0.5, 0.7]]), texture=0.1).draw(16, fine=1)
    cosine = np.cos(2 * np.pi * (1.5 * x + 0.5 * y) + 0.7)
    np.testing.assert_allclose(wave, 0.5 + 0.1 * np.sqrt(2) * cosine, atol=1e-12)


def test_the_source_reads_by_number() -> None:
    train, test = PhantomSource(16, "train"), PhantomSource(16, "test")
    some = take(train, [0, 1, 99_998])
    assert some["image"].shape == (3, 16, 16, 1) and some["image"].dtype == np.uint16
    np.testing.assert_array_equal(some["image"][2], train[99_998]["image"])
    drawn = phantom(1).draw(16) * 65_535
    assert np.abs(some["image"][1, ..., 0] - drawn).max() <= 0.5
    assert some["label"].tolist() == [0, 1, 99_998 % 3] and train.classes == len(KINDS)
    assert (test[0]["image"] != train[0]["image"]).any()
    assert (train[3]["image"] != train[0]["image"]).any()
    assert len(train) > len(test) == 1000


def test_refusals() -> None:
    with pytest.raises(UserError, match="no split 'validation'; known splits: train, test"):
        PhantomSource(32, "validation")
    with pytest.raises(UserError, match=r"at least 8 pixels.*got 4.*image_size"):
        PhantomSource(4, "train")
