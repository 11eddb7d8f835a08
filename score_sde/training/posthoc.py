"""Any power-function average from others, by least squares (Karras et al. 2024, appendix C).

The average of exponent g after T steps is the integral of p(t) theta(t), with the profile
p(t) = (g + 1) t^g/T^(g + 1) on [0, T] and theta(t) = the weights after step ceil(t). A sum of known
averages has the sum of their profiles. So the coefficients fit profiles alone, not weights.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from score_sde.training.ema import exponent


def inner_products(
    steps: tuple[Float[np.ndarray, "n"], Float[np.ndarray, "m"]],
    exponents: tuple[Float[np.ndarray, "n"], Float[np.ndarray, "m"]],
) -> Float[np.ndarray, "n m"]:
    """Integrals of p_i q_j over t.

    = (g_i + 1)(g_j + 1)/(g_i + g_j + 1) (S/L)^g/L, with S the shorter length, L the longer one and
    g its exponent.

    Args:
        steps: lengths T of both sets of profiles.
        exponents: of both sets.
    """
    first, second = np.meshgrid(*steps, indexing="ij")
    a, b = np.meshgrid(*exponents, indexing="ij")
    longer = np.maximum(first, second)
    ratio = (np.minimum(first, second) / longer) ** np.where(first < second, b, a)
    return (a + 1) * (b + 1) / (a + b + 1) * ratio / longer


def coefficients(
    known: Sequence[tuple[int, float]], wanted: tuple[int, float]
) -> tuple[Float[np.ndarray, "n"], float]:
    """(coefficients of the known averages, misfit), in double precision.

    The coefficients minimize the squared distance of the profiles; then they are scaled to the sum
    1. The misfit is that distance relative to the length of the wanted profile.

    Args:
        known: (step, std) of each average, no pair twice; steps from 1.
        wanted: (step, std).

    Raises:
        ValueError: a std outside (0, 0.29).
    """
    steps = np.asarray([step for step, _ in known], np.float64)
    exponents = np.asarray([exponent(std) for _, std in known])
    step, power = np.asarray([wanted[0]], np.float64), np.asarray([exponent(wanted[1])])
    among = inner_products((steps, steps), (exponents, exponents))
    with_wanted = inner_products((steps, step), (exponents, power))[:, 0]
    found = np.linalg.solve(among, with_wanted)
    found /= found.sum()
    length = inner_products((step, step), (power, power))[0, 0]
    square = length - 2 * found @ with_wanted + found @ among @ found
    return found, float(np.sqrt(max(square, 0) / length))
