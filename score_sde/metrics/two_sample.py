"""Two-sample test that needs no likelihood: are these vectors drawn from one distribution?"""

import numpy as np
from jaxtyping import Num
from scipy.spatial.distance import cdist

from score_sde.errors import UserError
from score_sde.metrics.vectors import as_pair

BLOCK = 512


def energy_test(
    x: Num[np.ndarray, "n d"], y: Num[np.ndarray, "m _"], permutations: int = 999, seed: int = 0
) -> tuple[float, float]:
    """Energy statistic of two sets of vectors and the p-value of it by permutations.

        statistic = n m/(n + m) (2 mean |x_i - y_j| - mean |x_i - x_j| - mean |y_i - y_j|)
        p_value = (1 + number of permutations with a statistic as large)/(permutations + 1)

    The means are over all pairs, i = j too. If both sets are drawn from one distribution, the
    p-value is below any level with at most that probability. This holds for every distribution. The
    test sees any difference, but needs many vectors to see one in high dimension. It is meant for
    low d, and for data of low dimension. Scale the coordinates first if their units differ.

    Time: (n + m)^2 (d + permutations) operations. Memory: 8 (n + m)(permutations + 1 + 512) bytes
    at most; the distances are made in blocks.

    Args:
        x, y: (n, d) and (m, d), at least 2 each.
        permutations: 1 or more; the smallest p-value is 1/(permutations + 1).
        seed: of the permutations.

    Returns the statistic, 0 or more, and the p-value, in (0, 1].
    Raises UserError for values that are not finite, other shapes, or too few vectors.
    Source: Szekely and Rizzo 2004.
    """
    x, y = as_pair("x", x, "y", y, least=2)
    if permutations < 1:
        raise UserError(f"a p-value needs at least 1 permutation; got {permutations}")
    n, m = len(x), len(y)
    pooled = np.concatenate([x.astype(np.float64), y.astype(np.float64)])
    first = np.zeros((n + m, permutations + 1))  # which vectors play x: column 0 as given
    first[:n] = 1
    rng = np.random.default_rng(seed)
    for column in range(1, permutations + 1):
        first[:, column] = rng.permutation(first[:, 0])
    # Sums of distances: within the first set, from the first to all, and of all to all.
    within, to_all, total = np.zeros(permutations + 1), np.zeros(permutations + 1), 0.0
    for start in range(0, n + m, BLOCK):
        rows = slice(start, start + BLOCK)
        distances = cdist(pooled[rows], pooled)
        within += ((distances @ first) * first[rows]).sum(axis=0)
        to_all += distances.sum(axis=1) @ first[rows]
        total += distances.sum()
    across = to_all - within
    rest = total - to_all - across
    statistics = n * m / (n + m) * (2 * across / (n * m) - within / n**2 - rest / m**2)
    # Permutations that give the same sets are as large, whatever rounding makes of their sums.
    rounding = 1e-12 * total / (n + m)
    larger = int((statistics[1:] >= statistics[0] - rounding).sum())
    return max(0.0, float(statistics[0])), (1 + larger) / (permutations + 1)
