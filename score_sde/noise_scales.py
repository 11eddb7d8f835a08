"""NCSNs configured from data: noise scales and step size without tuning.

These are techniques 6.1 to 6.5 of the dissertation's chapter 6. sigma_1 is the largest distance
between training images, the other scales follow in ratios of one overlap, the step size makes
annealed Langevin dynamics keep the variance of its noise. All numbers are float64 on the host but
the distances.
"""

import dataclasses
import math
from collections.abc import Mapping
from types import MappingProxyType

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Int64
from numpy.typing import ArrayLike

OVERLAP = 0.5668
"""Overlap that gives every published number of scales; they leave 0.5667 to 0.5669.

The text says "about 0.5".
"""

EMA_RATE = 0.999
"""Momentum of the weights' moving average (technique 6.5)."""


def _check_scales(sigma_max: float, sigma_min: float) -> None:
    if not 0 < sigma_min < sigma_max < math.inf:
        raise ValueError(
            f"sigma_min must be in (0, sigma_max); got sigma_min={sigma_min}, sigma_max={sigma_max}"
        )


def _two_digits(value: float) -> str:
    return f"{value:.1e}"


def random_subset(count: int, limit: int = 10_000, seed: int = 0) -> Int64[np.ndarray, "chosen"]:
    """Ascending indices of at most `limit` of `count` images, drawn without replacement.

    Published: all of up to 60,000 images, 10,000 of more (B.4.1). Here one rule, 10,000 of any
    larger set: on CIFAR-10 two seeds give 49.8 and 50.6, all 50,000 training images 53.2, and 50 is
    published.
    """
    chosen = np.random.default_rng(seed).choice(count, min(count, limit), replace=False)
    return np.sort(chosen).astype(np.int64)


def largest_distance(images: ArrayLike, block: int = 1024) -> tuple[float, tuple[int, int]]:
    """Largest Euclidean distance between two images, and the two (technique 6.1).

    |a - b|^2 = |a|^2 + |b|^2 - 2 a.b on centred images, float32 matrix products of block x block
    images; the distance of the pair found is then taken in float64. What float32 may miss is 1e-6
    of the distance.

    Args:
        images: (n, ...) integer or floating, n >= 2; the distance has their unit.
        block: images on either side of a product; device memory is about 4 block (2 D + 2 block)
            bytes.

    Raises:
        ValueError: fewer than two images, a block below 1, or values that are not finite.
    """
    images = np.asarray(images)
    if images.ndim < 2 or len(images) < 2:
        raise ValueError(f"a distance needs at least two images (n, ...); got shape {images.shape}")
    if block < 1:
        raise ValueError(f"block must be at least 1; got block={block}")
    n, block = len(images), min(block, len(images))
    flat = images.reshape(n, -1)
    center = flat[:block].mean(axis=0, dtype=np.float64).astype(np.float32)

    def rows(start: int) -> Float[np.ndarray, "block d"]:
        # The last block is filled up with its last image: distances that exist anyway.
        with np.errstate(invalid="ignore"):  # infinities are found in the distances
            return (
                flat[np.minimum(np.arange(start, start + block), n - 1)].astype(np.float32) - center
            )

    largest, pair = -math.inf, (0, 0)
    for i in range(0, n, block):
        left = jax.device_put(rows(i))
        for j in range(i, n, block):
            square, index = _farthest(left, left if i == j else jax.device_put(rows(j)))
            if not np.isfinite(square):
                raise ValueError(
                    "images hold values that are not finite; distances need finite ones"
                )
            if float(square) > largest:
                first, second = divmod(int(index), block)
                largest, pair = float(square), (min(i + first, n - 1), min(j + second, n - 1))
    difference = flat[pair[0]].astype(np.float64) - flat[pair[1]].astype(np.float64)
    return float(np.linalg.norm(difference)), pair


@jax.jit
def _farthest(
    a: Float[Array, "block d"], b: Float[Array, "block d"]
) -> tuple[Float[Array, ""], Int[Array, ""]]:
    """Largest square distance of a row of a and one of b, and its flat index."""
    products = jnp.matmul(a, b.T, precision=jax.lax.Precision.HIGHEST)
    squares = jnp.sum(a**2, axis=1)[:, None] + jnp.sum(b**2, axis=1)[None, :] - 2 * products
    return jnp.max(squares), jnp.argmax(squares)


def overlap(ratio: float, dimension: int) -> float:
    """Phi(sqrt(2 D)(g - 1) + 3 g) - Phi(sqrt(2 D)(g - 1) - 3 g) (technique 6.2).

    g = sigma_{i-1}/sigma_i. The part of the radius of N(0, sigma_i^2 I) within three standard
    deviations of that of N(0, sigma_{i-1}^2 I), in the limit of many dimensions D.
    """
    shift, reach = math.sqrt(2 * dimension) * (ratio - 1), 3 * ratio
    return 0.5 * (
        math.erfc((shift - reach) / math.sqrt(2)) - math.erfc((shift + reach) / math.sqrt(2))
    )


def ratio_of_scales(dimension: int, target: float = OVERLAP) -> float:
    """g > 1 with overlap(g, dimension) = target, by bisection.

    Raises:
        ValueError: a target outside (0, 0.997), where there is none, or D < 5, where the overlap
            does not fall with g.
    """
    if not 0 < target < 0.997:
        raise ValueError(
            f"the overlap of neighbouring noise scales must be in (0, 0.997); got {target}"
        )
    if dimension < 5:
        raise ValueError(
            "the overlap of noise scales is a rule for many dimensions, at least 5; got "
            f"{dimension}"
        )
    low, high = 0.0, 1.0
    while overlap(1 + high, dimension) > target:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if overlap(1 + middle, dimension) > target else (low, middle)
    return 1 + high


def number_of_scales(
    sigma_max: float, sigma_min: float, dimension: int, target: float = OVERLAP
) -> int:
    """L nearest to 1 + log(sigma_max/sigma_min)/log(g), at least 2.

    g = ratio_of_scales(dimension, target).

    Args:
        sigma_max, sigma_min: the ends sigma_1 > sigma_L > 0 of the geometric progression.
        dimension: D, number of entries of an image.
        target: overlap of neighbouring scales.
    """
    _check_scales(sigma_max, sigma_min)
    exact = 1 + math.log(sigma_max / sigma_min) / math.log(ratio_of_scales(dimension, target))
    return max(2, round(exact))


def variance_ratio(epsilon: ArrayLike, ratio: float, sigma_min: float, steps: int) -> np.ndarray:
    """s_T^2/sigma_i^2 after T Langevin steps at a noise scale (eq. 6.4).

    The steps begin with samples of the scale before. With a = epsilon/sigma_L^2: (1 - a)^(2 T) (g^2
    - 2/(2 - a)) + 2/(2 - a), the published fraction 2 a/(1 - (1 - a)^2) shortened. Taken as 1 +
    `_excess`, without cancellation as a nears 0. 1 is the exact variance.

    Args:
        epsilon: step size(s) at sigma_L, 0 < epsilon < 2 sigma_L^2 (at 2 sigma_L^2 the chain
            becomes unstable), in the convention x + epsilon score + sqrt(2 epsilon) z of algorithm
            6.1.
        ratio: g, of neighbouring scales.
        sigma_min: sigma_L.
        steps: T.
    """
    a = np.asarray(np.asarray(epsilon, np.float64) / sigma_min**2)
    if not np.all((a > 0) & (a < 2)):
        raise ValueError(
            f"epsilon must be in (0, 2 sigma_min^2) = (0, {2 * sigma_min**2:.4g}), else the chain "
            f"diverges; got {np.asarray(epsilon)}"
        )
    return np.asarray(1 + _excess(a, ratio, steps))


def _excess(a: np.ndarray, ratio: float, steps: int) -> np.ndarray:
    """s_T^2/sigma_i^2 - 1 = q (1 - w) + (g^2 - 1) w, positive throughout.

    q = a/(2 - a), w = (1 - a)^(2 T).
    """
    with np.errstate(divide="ignore"):
        log_weight = 2 * steps * np.where(a < 1, np.log1p(-np.minimum(a, 1)), np.log(np.abs(a - 1)))
    stationary = a / (2 - a)
    return np.asarray(
        -stationary * np.expm1(log_weight) + (ratio - 1) * (ratio + 1) * np.exp(log_weight)
    )


def step_size(ratio: float, sigma_min: float, steps: int) -> float:
    """epsilon that brings eq. 6.4 nearest to 1 (technique 6.4).

    It is found by a geometric grid, refined around its best point. Above sigma_min^2 the ratio only
    grows, so the grid ends there. The result is right to about 1e-7: the minimum is flat.

    Args: as `variance_ratio`.
    """
    if ratio <= 1 or steps < 1 or sigma_min <= 0:
        raise ValueError(
            f"need ratio > 1, sigma_min > 0 and steps >= 1; got ratio={ratio}, "
            f"sigma_min={sigma_min}, steps={steps}"
        )
    low, high = 1e-12, 1.0
    for _ in range(8):
        grid = np.geomspace(low, high, 201)
        best = int(np.argmin(_excess(grid, ratio, steps)))
        low, high = float(grid[max(best - 1, 0)]), float(grid[min(best + 1, 200)])
    return float(grid[best]) * sigma_min**2


def steps_per_scale(n: int) -> int:
    """T for n scales: 3,200 evaluations of the network in all, but 3 to 5 at each scale.

    So are the published ones.
    """
    return min(max(round(3200 / n), 3), 5)


@dataclasses.dataclass(frozen=True)
class Suggestion:
    """Settings of an NCSN from techniques 6.1 to 6.5; made by `suggest`.

    Args:
        dimension: D, number of entries of an image.
        sigma_max, sigma_min: largest and smallest noise scale, sigma_1 and sigma_L.
        n: number of scales L, in geometric progression.
        steps: Langevin steps per scale, T.
        epsilon: step size at sigma_min, in x + epsilon score + sqrt(2 epsilon) z.
        ema_rate: of the weights.
    """

    dimension: int
    sigma_max: float
    sigma_min: float
    n: int
    steps: int
    epsilon: float
    ema_rate: float = EMA_RATE

    def __post_init__(self):
        _check_scales(self.sigma_max, self.sigma_min)
        if self.n < 2 or self.steps < 1 or self.epsilon <= 0:
            raise ValueError(
                f"need n >= 2, steps >= 1 and epsilon > 0; got n={self.n}, steps={self.steps}, "
                f"epsilon={self.epsilon}"
            )

    @property
    def ratio(self) -> float:
        """g = (sigma_max/sigma_min)^(1/(n - 1))."""
        return math.exp(math.log(self.sigma_max / self.sigma_min) / (self.n - 1))

    @property
    def overlap(self) -> float:
        """Of neighbouring scales; see the function of that name."""
        return overlap(self.ratio, self.dimension)

    @property
    def snr(self) -> float:
        """sqrt(epsilon/2)/sigma_min: the step size as `steppers.AnnealedLangevin` takes it.

        Its epsilon is 2 (snr sigma)^2.
        """
        return math.sqrt(self.epsilon / 2) / self.sigma_min

    @property
    def variance_ratio(self) -> float:
        """s_T^2/sigma_i^2 (eq. 6.4); 1 would be exact."""
        return float(variance_ratio(self.epsilon, self.ratio, self.sigma_min, self.steps))

    @property
    def evaluations(self) -> int:
        """Evaluations of the network for one sample, without the last denoising."""
        return self.n * self.steps


def suggest(
    sigma_max: float,
    dimension: int,
    sigma_min: float = 0.01,
    target: float = OVERLAP,
    steps: int | None = None,
) -> Suggestion:
    """Settings for images whose largest distance is sigma_max.

    Args:
        sigma_max: technique 6.1, from `largest_distance`, in the unit of the model's pixels.
        dimension: D, number of entries of an image.
        sigma_min: smallest noise scale; 0.01 is invisible on pixels in [0, 1].
        target: overlap of neighbouring scales.
        steps: T; None for `steps_per_scale`.
    """
    n = number_of_scales(sigma_max, sigma_min, dimension, target)
    steps = steps_per_scale(n) if steps is None else steps
    ratio = math.exp(math.log(sigma_max / sigma_min) / (n - 1))
    return Suggestion(dimension, sigma_max, sigma_min, n, steps, step_size(ratio, sigma_min, steps))


@dataclasses.dataclass(frozen=True)
class Published:
    """NCSNv2 settings as printed in table B.9, for comparison.

    Args:
        settings: the row, with the printed epsilon.
        released_epsilon: what the authors' released configuration has, where it differs from the
            print.
    """

    settings: Suggestion
    released_epsilon: float | None = None

    @property
    def epsilon(self) -> float:
        """What eq. 6.4 gives for the row's own sigma_max, n and T."""
        return step_size(self.settings.ratio, self.settings.sigma_min, self.settings.steps)

    @property
    def verdict(self) -> str:
        """Whether the printed step size follows from eq. 6.4, to its two digits, in words."""
        printed, ours = self.settings.epsilon, self.epsilon
        given = f"its own sigma_max, n and T give {ours:.3g} by eq. 6.4"
        if _two_digits(ours) == _two_digits(printed):
            return f"published epsilon {printed:.2g} follows: {given}"
        if self.released_epsilon and abs(self.released_epsilon / ours - 1) < 0.05:
            return (
                f"published epsilon {printed:.2g} does not follow: {given}; the released "
                f"configuration has {self.released_epsilon:.2g}, so the print looks like a slip"
            )
        return f"published epsilon {printed:.2g} does not follow: {given}"


def _row(size, sigma_max, n, steps, epsilon, released=None):
    return Published(Suggestion(3 * size**2, sigma_max, 0.01, n, steps, epsilon), released)


PUBLISHED: Mapping[str, Published] = MappingProxyType(
    {
        "cifar10": _row(32, 50.0, 232, 5, 6.2e-6),
        "celeba": _row(64, 90.0, 500, 5, 3.3e-6),
        "church": _row(96, 140.0, 788, 4, 4.9e-6),
        "bedroom": _row(128, 190.0, 1086, 3, 1.8e-6),
        "ffhq_256": _row(256, 348.0, 2311, 3, 0.9e-7, released=9e-7),
    }
)
"""NCSNv2 by data set (table B.9), pixels in [0, 1]."""


def comparison(
    sigma_max: float,
    dimension: int,
    sigma_min: float = 0.01,
    steps: int | None = None,
    published: Published | None = None,
) -> str:
    """Text table of settings for both overlaps, and of published ones.

    The overlaps are the one of the published settings and the text's 0.5.

    Args: as `suggest`; `published` a row of `PUBLISHED`, or None.
    """
    columns = {
        f"overlap {target:.3g}": suggest(sigma_max, dimension, sigma_min, target, steps)
        for target in (OVERLAP, 0.5)
    }
    if published:
        columns["published"] = published.settings
    rows = [["", *columns], *([label, *map(show, columns.values())] for label, show in _ROWS)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:]))]
        )
        for row in rows
    ]
    return "\n".join([*lines, *([published.verdict] if published else [])])


_ROWS = (
    ("sigma_max, largest distance", lambda s: f"{s.sigma_max:.4g}"),
    ("sigma_min", lambda s: f"{s.sigma_min:g}"),
    ("n, number of scales", lambda s: f"{s.n}"),
    ("ratio of neighbouring scales", lambda s: f"{s.ratio:.5f}"),
    ("their overlap", lambda s: f"{s.overlap:.3f}"),
    ("T, steps per scale", lambda s: f"{s.steps}"),
    ("epsilon, step size at sigma_min", lambda s: f"{s.epsilon:.3e}"),
    ("variance after T steps (eq. 6.4)", lambda s: f"{s.variance_ratio:.4f}"),
    ("snr, the same step size", lambda s: f"{s.snr:.4f}"),
    ("ema_rate", lambda s: f"{s.ema_rate:g}"),
    ("evaluations for a sample", lambda s: f"{s.evaluations}"),
)
