"""Masks of k-space: counts, centres, distances. Published ones are in test_published_mri.py."""

import numpy as np
import pytest

from score_sde import inverse
from score_sde.errors import UserError
from score_sde.inverse.kspace_masks import _radius


def columns(mask):
    """The columns kept; every row has the same."""
    assert (mask == mask[:1]).all()
    return mask[0]


@pytest.mark.parametrize("width", [320, 101])
@pytest.mark.parametrize(("acceleration", "fraction"), [(4.0, 0.08), (8.0, 0.04)])
def test_fastmri(width, acceleration, fraction):
    """The centre, and in all one column of `acceleration`: of drawn ones on average."""
    low = round(width * fraction)
    centre = slice((width - low + 1) // 2, (width - low + 1) // 2 + low)
    counts = {inverse.fastmri_equispaced: [], inverse.fastmri_random: []}
    for make, found in counts.items():
        for seed in range(60):
            kept = columns(make(7, width, acceleration, seed=seed))
            assert kept[centre].all() and kept[width // 2]
            found.append(kept.sum())
            if make is inverse.fastmri_equispaced:
                gaps = np.diff(np.flatnonzero(kept[: centre.start]))
                assert gaps.size == 0 or gaps.max() - gaps.min() <= 1
    wanted = width / acceleration
    equispaced, random = counts.values()
    assert np.abs(np.asarray(equispaced) - wanted).max() <= 3
    spread = np.sqrt(wanted)
    assert np.mean(random) == pytest.approx(wanted, abs=4 * spread / np.sqrt(60))
    assert len(set(random)) > 3
    first = {
        int(np.flatnonzero(inverse.fastmri_equispaced(1, width, acceleration, seed=s))[0])
        for s in range(60)
    }
    assert len(first) > 2 and min(first) == 0


@pytest.mark.parametrize("make", [inverse.variable_density, inverse.poisson_disc])
@pytest.mark.parametrize("size", [(40, 40), (33, 48)])
def test_two_dimensions(make, size):
    """The exact number of points, the centre whole, density falling, another seed another mask."""
    mask, other = (make(*size, 5.0, centre=6, seed=seed) for seed in (0, 1))
    assert mask.sum() == other.sum() == round(size[0] * size[1] / 5)
    assert (mask != other).any()
    np.testing.assert_array_equal(mask, make(*size, 5.0, centre=6))
    top, left = (n // 2 - 3 for n in size)
    assert mask[top : top + 6, left : left + 6].all()
    r = _radius(*size)
    assert r[size[0] // 2, size[1] // 2] == 0
    assert mask[(r > 0.2) & (r < 0.4)].mean() > 1.5 * mask[r > 0.7].mean()


def test_poisson_disc_keeps_its_distance():
    """No two points are nearer than the smaller of their radii, which are as large as can be."""
    mask = inverse.poisson_disc(32, 32, 6.0, centre=0, growth=0.0)
    points = np.argwhere(mask)
    distance = np.linalg.norm(points[:, None] - points[None], axis=-1)
    nearest = distance[~np.eye(len(points), dtype=bool)].min()
    assert nearest >= 2  # a hexagonal grid of this density has 2.6
    drawn = np.argwhere(inverse.variable_density(32, 32, 6.0, centre=0, power=0.0))
    gaps = np.linalg.norm(drawn[:, None] - drawn[None], axis=-1)
    assert gaps[~np.eye(len(drawn), dtype=bool)].min() == 1


def test_radial_mask():
    """Lines through frequency 0, which is always kept."""
    one = inverse.radial_mask(9, 12, 1)
    np.testing.assert_array_equal(np.argwhere(one), [[4, column] for column in range(12)])
    two = inverse.radial_mask(8, 8, 2)
    assert two[4].all() and two[:, 4].all() and two.sum() == 15
    for golden in (False, True):
        mask = inverse.radial_mask(33, 33, 8, golden)
        assert mask[16, 16] and 8 * 25 < mask.sum() < 8 * 40
        inside = mask[6:27, 6:27]  # a line has one end, as a row of k-space of even width
        np.testing.assert_array_equal(inside, inside[::-1, ::-1])
        assert mask[12:21, 12:21].mean() > 2 * mask.mean()


def test_what_is_refused():
    for call, words in (
        (lambda: inverse.published_equispaced(8, 8, 0), "between 1 and the 8 columns"),
        (lambda: inverse.published_equispaced(2000, 100, 50), "leaves no other column"),
        (lambda: inverse.fastmri_random(8, 100, 5.0), "fastMRI has .* for 4x, 8x; for 5x"),
        (lambda: inverse.fastmri_equispaced(8, 100, 1.0), "must be above 1"),
        (lambda: inverse.fastmri_equispaced(8, 100, 5.0, 0.2), "leaves no other column"),
        (lambda: inverse.fastmri_random(8, 100, 5.0, 1.0), "share of the columns"),
        (lambda: inverse.variable_density(8, 8, 4.0), "fewer than the central square"),
        (lambda: inverse.poisson_disc(8, 8, 0.5), "must be above 1"),
        (lambda: inverse.radial_mask(8, 8, 0), "at least 1 spoke"),
    ):
        with pytest.raises(UserError, match=words):
            call()
