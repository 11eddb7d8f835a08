"""Precision, recall, density and coverage: definitions in integers, expectations.

There are ties and copies.
"""

from fractions import Fraction

import numpy as np
import pytest

from score_sde.errors import UserError
from score_sde.metrics import density_coverage, manifold, precision_recall

RNG = np.random.default_rng(0)


def written_out(real, generated, k):
    """All four, in integers: (precision, recall, density, coverage)."""

    def squares(x, y):
        return ((x[:, None] - y[None]) ** 2).sum(axis=-1)

    def radii(x):
        return [sorted(np.delete(row, i))[k - 1] for i, row in enumerate(squares(x, x))]

    in_real = squares(generated, real) <= np.asarray(radii(real))  # [j, i]: g_j in the ball of r_i
    in_generated = squares(real, generated) <= np.asarray(radii(generated))
    return (
        in_real.any(axis=1).mean(),
        in_generated.any(axis=1).mean(),
        in_real.sum() / (k * len(generated)),
        in_real.any(axis=0).mean(),
    )


@pytest.mark.parametrize("block", [7, 1 << 20])
@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("offset", [0, 10_000])
def test_definitions_with_many_ties(monkeypatch, block, k, offset):
    """Points of a small lattice: most distances are equal to others and many points are copies."""
    for name in ("DISTANCES", "COLUMNS", "PAIRS"):
        monkeypatch.setattr(manifold, name, block)
    real, generated = RNG.integers(0, 5, size=(41, 3)), RNG.integers(-2, 4, size=(30, 3))
    wanted = written_out(real, generated, k)
    assert len(set(wanted)) == 4
    a, b = ((x + offset).astype(np.float32) for x in (real, generated))
    assert (*precision_recall(a, b, k), *density_coverage(a, b, k)) == pytest.approx(
        wanted, rel=1e-12
    )


@pytest.mark.parametrize(
    ("offset", "dtype"), [(0, np.float32), (1e4, np.float32), (0, np.float64), (1e7, np.float64)]
)
def test_copies_lie_on_the_surface_of_balls(offset, dtype):
    """A set against itself: each ball holds its centre and exactly k others.

    The last of them is on its surface. At 1e7 the scalar products are off by as much as neighbours
    differ.
    """
    x = (RNG.normal(size=(60, 37)) + offset).astype(dtype)
    assert density_coverage(x, x[::-1].copy(), k=4) == (5 / 4, 1.0)
    assert precision_recall(x, x[::-1].copy(), k=3) == (1.0, 1.0)


def test_a_vector_is_no_neighbour_of_itself_but_its_copies_are():
    """Real 0, 0, 10, 13.

    With k = 1 the radii are 0, 0, 3, 3; with k = 2 they are 10, 10, 10, 13.
    """
    real = np.asarray([[0.0], [0.0], [10.0], [13.0]])
    generated = np.asarray([[0.0], [1.0], [7.0], [16.0], [-10.0]])
    assert precision_recall(real, generated, k=1)[0] == 3 / 5  # 0; 7 and 16 on surfaces
    assert density_coverage(real, generated, k=1) == (4 / 5, 1.0)
    assert precision_recall(real, generated, k=2)[0] == 1.0  # and 1, and -10 on a surface


def test_all_vectors_equal():
    x = np.full((20, 3), 0.1)
    assert precision_recall(x, x[:10]) == (1.0, 1.0)
    assert precision_recall(x, x[:10] + 1e-9) == (0.0, 0.0)


def test_which_set_is_which():
    """A narrow generator is precise and lacks recall; a wide one the reverse."""
    wide, narrow = RNG.normal(size=(300, 2)), 0.1 * RNG.normal(size=(300, 2))
    precision, recall = precision_recall(wide, narrow)
    assert precision > 0.95 and recall < 0.3
    assert precision_recall(narrow, wide) == (recall, precision)
    assert density_coverage(wide, narrow)[1] < 0.3
    assert density_coverage(narrow, wide)[0] < 0.3


def test_expectations_of_equal_distributions():
    """Density 1 and coverage 1 - P(the k nearest of all others are real), from 60 pairs of sets."""
    n, m, k, rng = 40, 30, 5, np.random.default_rng(1)
    found = [
        density_coverage(rng.normal(size=(n, 3)), rng.normal(size=(m, 3)), k) for _ in range(60)
    ]
    missed = Fraction(1)
    for i in range(1, k + 1):
        missed *= Fraction(n - i, n + m - i)
    error = np.std(found, axis=0, ddof=1) / np.sqrt(len(found))
    assert (error < 0.02).all()
    assert (np.abs(np.mean(found, axis=0) - [1, 1 - float(missed)]) < 4 * error).all()


@pytest.mark.parametrize("metric", [precision_recall, density_coverage])
def test_messages(metric):
    x = RNG.normal(size=(9, 4))
    with pytest.raises(
        UserError, match=r"k=9 .* at least 10 vectors on either side; got 9 real and 9 generated"
    ):
        metric(x, x, k=9)
    with pytest.raises(UserError, match="got 9 real and 3 generated"):
        metric(x, x[:3], k=3)
    assert metric(x, x[:4], k=3)
    with pytest.raises(UserError, match="must be 1 or more; got 0"):
        metric(x, x, k=0)
    with pytest.raises(
        UserError, match="real and generated must have vectors of one length; got 4 and 3"
    ):
        metric(x, x[:, :3])
    bad = np.where(np.arange(9)[:, None] == 2, np.inf, x)
    with pytest.raises(UserError, match="generated: 1 of 9 vectors are not finite"):
        metric(x, bad)
