"""Masks of k-space: which frequencies are measured, (height, width) booleans.

Frequency 0 is at (height // 2, width // 2), as `mri.centred_fft2` has it. Cartesian masks keep
whole columns. Drawn masks depend on `seed` alone. Several may be stacked, one a sample.
"""

import math
from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float

from score_sde.errors import UserError

KMask = Bool[np.ndarray, "h w"]
"""True where k-space is measured."""

CENTRE_FRACTIONS = {4.0: 0.08, 8.0: 0.04}
"""fastMRI's share of central columns, by acceleration."""
GOLDEN_ANGLE = math.pi * (math.sqrt(5) - 1) / 2
"""pi over the golden ratio, 111.25 degrees."""


def published_equispaced(height: int, width: int, n_keep: int) -> KMask:
    """The equispaced columns of the published code.

    With a = height/n_keep there are low = round(width n_keep/1000) central columns, the first one
    being (width - low + 1) // 2. To these come the columns round(arange(round(d) // 2, width - 1,
    d)), d = a (low - width)/(low a - width). The columns kept may differ from `n_keep`: of 240 they
    are 31 for n_keep = 30. Few of them have their mirror column, so the mask is not symmetric.

    Args:
        height: of k-space.
        width: of k-space.
        n_keep: columns asked for; published 60, 30, 10 of 240 are called 4x, 8x, 24x.

    Raises:
        UserError: unless 1 <= n_keep <= width, and where d is not positive: the central columns are
            all that are asked for, or more.

    Source: Song et al. 2022, "Solving inverse problems in medical imaging with score-based
    generative models", and its code.
    """
    _check_count("n_keep", n_keep, width)
    low = round(width * n_keep / 1000)
    acceleration = height / n_keep
    spacing = _spacing(width, low, acceleration)
    return _columns(height, width, low, _equispaced(width, spacing, round(spacing) // 2))


def fastmri_equispaced(
    height: int,
    width: int,
    acceleration: float,
    centre_fraction: float | None = None,
    seed: int = 0,
) -> KMask:
    """Central columns, and others equally far apart, the first of them drawn.

    The spacing d as in `published_equispaced` makes the columns kept about width/acceleration; the
    offset is uniform in 0 .. round(d) - 1.

    Args:
        height: of k-space.
        width: of k-space.
        acceleration: above 1.
        centre_fraction: share of central columns, by default that of `CENTRE_FRACTIONS`.
        seed: of the offset.

    Raises:
        UserError: for an acceleration without a known centre fraction, and where the centre leaves
            nothing for the other columns.

    Source: Zbontar et al. 2018, "fastMRI", section 4.2, and its code (corrected spacing).
    """
    low = _centre(width, acceleration, centre_fraction)
    spacing = _spacing(width, low, acceleration)
    offset = int(np.random.default_rng(seed).integers(0, round(spacing)))
    return _columns(height, width, low, _equispaced(width, spacing, offset))


def fastmri_random(
    height: int,
    width: int,
    acceleration: float,
    centre_fraction: float | None = None,
    seed: int = 0,
) -> KMask:
    """Central columns, and each other one with one probability.

    The probability (width/acceleration - low)/(width - low) makes width/acceleration the expected
    number of columns kept.

    Args, Raises: as `fastmri_equispaced`.

    Source: Zbontar et al. 2018, "fastMRI", section 4.2.
    """
    low = _centre(width, acceleration, centre_fraction)
    _spacing(width, low, acceleration)
    share = (width / acceleration - low) / (width - low)
    drawn = np.random.default_rng(seed).uniform(size=width) < share
    return _columns(height, width, low, np.flatnonzero(drawn))


def variable_density(
    height: int,
    width: int,
    acceleration: float,
    centre: int = 8,
    power: float = 3.0,
    seed: int = 0,
) -> KMask:
    """round(height width/acceleration) points, denser near frequency 0, in two dimensions.

    A centre x centre square is measured whole. The other points are drawn without replacement, with
    weights (1 - r)^power + 0.01, r in [0, 1] being the distance from frequency 0.

    Args:
        height: of k-space.
        width: of k-space.
        acceleration: above 1.
        centre: side of the square, 0 for none.
        power: >= 0; 0 is uniform.
        seed: of the draws.

    Raises:
        UserError: for an acceleration of 1 or less, or a square with more points than are kept.

    Source: Lustig, Donoho and Pauly 2007, "Sparse MRI", section "Monte Carlo incoherent sampling".
    """
    known, count = _square(height, width, acceleration, centre)
    weights = np.where(known, 0, (1 - _radius(height, width)) ** power + 0.01).ravel()
    more = np.random.default_rng(seed).choice(
        known.size, count - int(known.sum()), replace=False, p=weights / weights.sum()
    )
    known.flat[more] = True
    return known


def poisson_disc(
    height: int,
    width: int,
    acceleration: float,
    centre: int = 8,
    growth: float = 2.0,
    seed: int = 0,
) -> KMask:
    """round(height width/acceleration) points with distances that grow away from frequency 0.

    A centre x centre square is measured whole. Outside it, points are tried in a random order. One
    is kept if it is further from each earlier one than the R = R_0 (1 + growth r) of that one, with
    r in [0, 1] its distance from frequency 0. Bisection finds the largest R_0 with enough points.

    Args:
        height: of k-space.
        width: of k-space.
        acceleration: above 1.
        centre: side of the square, 0 for none.
        growth: >= 0; with 0 the density is the same everywhere.
        seed: of the order in which points are tried.

    Raises:
        UserError: as `variable_density`.

    Source: dart throwing (Cook 1986, "Stochastic sampling in computer graphics"); masks of this
    kind: Vasanawala et al. 2011, "Practical parallel imaging compressed sensing MRI".
    """
    known, count = _square(height, width, acceleration, centre)
    wanted = count - int(known.sum())
    order = np.random.default_rng(seed).permutation(known.size)
    growing = 1 + growth * _radius(height, width)
    low, high, found = 0.0, float(max(height, width)), order[:0]
    for _ in range(16):
        middle = (low + high) / 2
        points = np.fromiter(_throw(order, middle * growing, known, wanted), int)
        if len(points) >= wanted:
            low, found = middle, points
        else:
            high = middle
    known.flat[found] = True
    return known


def radial_mask(height: int, width: int, spokes: int, golden: bool = False) -> KMask:
    """The points of the grid nearest to lines through frequency 0.

    Line j has the angle j pi/spokes to the rows, or j `GOLDEN_ANGLE`. It takes a step of half a
    point, so that none is missed. In a k-space that is not square, lines are those of the square
    stretched to it. `mri.radial` measures on the lines themselves.

    Raises:
        UserError: for spokes below 1.
    """
    if spokes < 1:
        raise UserError(f"a radial mask needs at least 1 spoke; got {spokes}")
    angles = np.arange(spokes) * (GOLDEN_ANGLE if golden else math.pi / spokes)
    half = max(height, width)
    along = np.arange(-half, half) / (2 * half)
    rows, columns = (
        n // 2 + np.rint(n * np.outer(direction(angles), along)).astype(int).ravel()
        for n, direction in ((height, np.sin), (width, np.cos))
    )
    known = np.zeros((height, width), bool)
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    known[rows[inside], columns[inside]] = True
    return known


def _columns(height: int, width: int, low: int, others: np.ndarray) -> KMask:
    """`low` central columns and others."""
    first = (width - low + 1) // 2
    known = np.zeros(width, bool)
    known[first : first + low] = True
    known[others] = True
    return np.tile(known, (height, 1))


def _equispaced(width: int, spacing: float, offset: int) -> np.ndarray:
    return np.rint(np.arange(offset, width - 1, spacing)).astype(int)


def _spacing(width: int, low: int, acceleration: float) -> float:
    """d with low + (width - low)/d = width/acceleration."""
    if low * acceleration >= width:
        raise UserError(
            f"{low} central columns of {width} are {width / max(low, 1):.3g}x already, so an "
            f"acceleration of {acceleration:.4g} leaves no other column; take a smaller one, or "
            "fewer central columns"
        )
    return acceleration * (low - width) / (low * acceleration - width)


def _centre(width: int, acceleration: float, fraction: float | None) -> int:
    """How many central columns a mask of fastMRI has."""
    if not acceleration > 1:
        raise UserError(f"the acceleration must be above 1; got {acceleration}")
    if fraction is None:
        if acceleration not in CENTRE_FRACTIONS:
            known = ", ".join(f"{a:g}x" for a in CENTRE_FRACTIONS)
            raise UserError(
                f"fastMRI has a centre fraction for {known}; for {acceleration:g}x give "
                "centre_fraction, the share of central columns"
            )
        fraction = CENTRE_FRACTIONS[acceleration]
    if not 0 <= fraction < 1:
        raise UserError(f"centre_fraction is a share of the columns, in [0, 1); got {fraction}")
    return round(width * fraction)


def _square(height: int, width: int, acceleration: float, centre: int) -> tuple[KMask, int]:
    """The mask of the central square, and how many points there are to be."""
    if not acceleration > 1:
        raise UserError(f"the acceleration must be above 1; got {acceleration}")
    count = round(height * width / acceleration)
    known = np.zeros((height, width), bool)
    top, left = (max(n // 2 - centre // 2, 0) for n in (height, width))
    known[top : top + centre, left : left + centre] = True
    if not 1 <= count >= known.sum():
        raise UserError(
            f"{acceleration:g}x keeps {count} of {height} x {width} points, fewer than the central "
            f"square of {centre} x {centre}; make `centre` or the acceleration smaller"
        )
    return known, count


def _check_count(name: str, count: int, width: int) -> None:
    if not 1 <= count <= width:
        raise UserError(f"{name} must be between 1 and the {width} columns; got {count}")


def _radius(height: int, width: int) -> Float[np.ndarray, "h w"]:
    """Distance from frequency 0, at most 1."""
    row, column = np.indices((height, width))
    r = np.hypot((row - height // 2) / height, (column - width // 2) / width)
    return r / max(r.max(), 1e-12)


def _throw(
    order: np.ndarray, radii: Float[np.ndarray, "h w"], known: KMask, most: int
) -> Iterator[int]:
    """At most so many points, in the order given, none within the radius of an earlier one."""
    height, width = radii.shape
    blocked = known.copy()
    count = 0
    for point in order:
        if blocked.flat[point]:
            continue
        yield point
        count += 1
        if count == most:
            return
        row, column = divmod(int(point), width)
        radius = radii[row, column]
        reach = int(radius)
        top, left = max(row - reach, 0), max(column - reach, 0)
        window = blocked[top : row + reach + 1, left : column + reach + 1]
        rows = np.arange(top, min(row + reach + 1, height))[:, None] - row
        columns = np.arange(left, min(column + reach + 1, width))[None] - column
        window |= rows**2 + columns**2 <= radius**2
