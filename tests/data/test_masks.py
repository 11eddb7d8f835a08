"""Masks by name."""

import numpy as np
import pytest

from score_sde.data.inputs import read_mask
from score_sde.data.masks import HALVES, SHARES, named_mask
from score_sde.errors import UserError


@pytest.mark.parametrize("size", [(4, 6), (5, 7)])
def test_halves(size: tuple[int, int]) -> None:
    h, w = size
    known = {name: named_mask(name, h, w) for name in HALVES}
    assert known["left"][:, : w // 2].all() and not known["left"][:, w // 2 :].any()
    assert known["top"][: h // 2].all() and not known["top"][h // 2 :].any()
    np.testing.assert_array_equal(known["right"], ~known["left"])
    np.testing.assert_array_equal(known["bottom"], ~known["top"])


def test_box_is_centred_and_has_its_share() -> None:
    known = named_mask("box", 8, 12)
    hidden = np.zeros((8, 12), bool)
    hidden[2:6, 3:9] = True
    np.testing.assert_array_equal(known, ~hidden)
    assert (~named_mask("box:0.5", 100, 100)).mean() == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("share", [0.1, 0.7, 0.92])
def test_random_pixels_are_as_many_as_asked_for(share: float) -> None:
    known = named_mask(f"random:{share}", 20, 30)
    assert (~known).sum() == round(share * 600)
    quarters = [known[:10, :15], known[:10, 15:], known[10:, :15], known[10:, 15:]]
    spread = np.sqrt(share * (1 - share) / 150)
    assert all(abs((~part).mean() - share) < 4 * spread for part in quarters)


@pytest.mark.parametrize("size", [(32, 32), (64, 96)])
def test_scratches_are_thin_and_reach_the_share(size: tuple[int, int]) -> None:
    hidden = ~named_mask("scratches:0.15", *size)
    longest = np.hypot(*size) * max(2, 1 + min(size) / 32) / (size[0] * size[1])
    assert 0.15 <= hidden.mean() <= 0.15 + longest
    inside = hidden[1:-1, 1:-1] & hidden[:-2, 1:-1] & hidden[2:, 1:-1]
    inside &= hidden[1:-1, :-2] & hidden[1:-1, 2:]
    assert 0 <= inside.sum() < 0.5 * hidden.sum()


def test_implants_are_two_discs_beside_the_middle() -> None:
    hidden = ~named_mask("implants:0.05", 40, 60)
    assert hidden.sum() == 120 and not hidden[:, 25:35].any()
    for half, centre in ((hidden[:, :30], 17.5), (hidden[:, 30:], 11.5)):
        rows, columns = np.nonzero(half)
        assert (rows.mean(), columns.mean()) == pytest.approx((19.5, centre), abs=0.1)
        distance = np.hypot(rows - 19.5, columns - centre)
        assert distance.max() == pytest.approx(np.sqrt(60 / np.pi), abs=0.5)


@pytest.mark.parametrize("name", SHARES)
def test_drawn_masks_follow_the_seed_and_defaults_are_what_they_say(name: str) -> None:
    masks = [named_mask(name, 24, 24, seed) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(masks[0], masks[1])
    assert (masks[0] != masks[2]).any() == (name in ("random", "scratches"))
    assert (~masks[0]).mean() == pytest.approx(SHARES[name], abs=0.06)
    np.testing.assert_array_equal(named_mask(f"{name}:{SHARES[name]}", 24, 24), masks[0])


def test_other_words_are_no_masks() -> None:
    assert named_mask("middle", 4, 4) is None
    assert named_mask("mask.png", 4, 4) is None
    assert named_mask("left:0.5", 4, 4) is None


@pytest.mark.parametrize("text", ["random:2", "box:", "scratches:much", "random:0", "random:nan"])
def test_shares_that_are_none(text: str) -> None:
    with pytest.raises(UserError, match=f"{text}.*above 0 and below 1"):
        named_mask(text, 4, 4)


def test_read_mask_takes_names_with_a_share() -> None:
    known = read_mask("random:0.25", (4, 4, 3), seed=5)
    assert known.shape == (4, 4, 1) and known.sum() == 12
    assert (known != read_mask("random:0.25", (4, 4, 3), seed=6)).any()
    with pytest.raises(UserError, match=r"random:0\.01 says that everything is known"):
        read_mask("random:0.01", (4, 4, 3))
