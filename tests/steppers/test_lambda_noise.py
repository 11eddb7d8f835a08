"""The stochastic solvers in log-SNR: weak order on a Gaussian, the law in 2 and 16 dimensions."""

import jax.numpy as jnp
import numpy as np
from lambdacases import Problem, trace

from score_sde.analytic import GaussianMixture
from score_sde.sde import VP
from score_sde.steppers import Exponential

SDE, SIZES = VP(), (20, 40, 80)
MEAN, STD = 0.6, 0.5
GAUSSIAN = GaussianMixture.isotropic([1.0], [[MEAN]], STD)

SDE_FORM = Exponential(SDE, eta=1.0)
ANCESTRAL = Exponential(SDE, eta=0.7, law="ancestral")
SOLVERS = {}


def law(t):
    """(mean, variance) of p_t."""
    alpha, sigma = (float(v) for v in SDE.marginal(jnp.asarray(t)))
    return alpha * MEAN, (alpha * STD) ** 2 + sigma**2


def law_of_output(stepper, times):
    """(mean, variance) of the state after the steps, exactly.

    The score is affine, so the run is an affine map of its start and its draws. The rows of a batch
    read off its parts: 0 the constant, 1 the start, and one for each draw.
    """
    n, rows = len(times) - 1, 2 + SIZES[-1] * stepper.draws
    noise = np.zeros((n, stepper.draws, rows, 1))
    for i in range(n):
        for j in range(stepper.draws):
            noise[i, j, 2 + i * stepper.draws + j] = 1.0
    x = np.zeros((rows, 1))
    x[1] = 1.0
    problem = Problem(stepper, SDE, GAUSSIAN)
    states, _ = trace(problem, times, x, noise=noise, size=SIZES[-1])
    constant, start, *draws = np.asarray(states[-1][:, 0])
    mean, variance = law(times[0])
    parts = (np.asarray(draws) - constant) ** 2
    return (start - constant) * mean + constant, (start - constant) ** 2 * variance + parts.sum()
