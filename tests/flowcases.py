"""What the tests of the fast samplers share: the problem of the reference files, runs, orders."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
from scipy.integrate import solve_ivp

from golden import groups, load, meta
from score_sde.analytic import GaussianMixture
from score_sde.grids import as_pairs
from score_sde.sde import EDM

PAD = 32
"""Steps are filled up to a multiple of this, so that runs of several lengths share a program."""


def chosen(file, ending, pattern):
    """Cases of a reference file with an array of that ending whose names match, at collection."""
    found = groups(file, ending)
    return [case for case in found if not isinstance(case, str) or re.fullmatch(pattern, case)]


@functools.cache
def stored(file):
    """(arrays, settings by case) of a reference file."""
    arrays = load(file)
    return arrays, meta(arrays)["cases"]


def of(file, case):
    """The arrays of one case by name, and its settings."""
    arrays, cases = stored(file)
    start = f"{case}__"
    return {k.removeprefix(start): v for k, v in arrays.items() if k.startswith(start)}, cases[case]


def mixture(file):
    """The mixture of a reference file."""
    arrays, _ = stored(file)
    return GaussianMixture.isotropic(arrays["gmm_weights"], arrays["gmm_means"], arrays["gmm_stds"])


def run(stepper, score_fn, x, pairs, noise, n):
    """States after 0, 1, ..., n steps and zeros; noise[i, j] is draw j of step i."""

    def step(i, state):
        x, carry, passed = state
        draw = functools.partial(_draw, noise[i])
        x, _, carry = stepper(score_fn, x, pairs[i, 0], pairs[i, 1], draw, carry)
        return x, carry, passed.at[i + 1].set(x)

    passed = jnp.zeros((len(pairs) + 1, *x.shape), x.dtype).at[0].set(x)
    return jax.lax.fori_loop(0, n, step, (x, stepper.init(x), passed))[2]


def _draw(z, j):
    return z.at[j].get(mode="fill", fill_value=jnp.nan)


def padded(values, size):
    """Zeros behind the values, up to `size`."""
    return np.concatenate([values, np.zeros((size - len(values), *values.shape[1:]))])


@functools.cache
def _program(file, stepper):
    score_fn = mixture(file).score_fn(stepper.process)
    return jax.jit(functools.partial(run, stepper, score_fn))


def states(file, stepper, x, times, noise=None, dtype="float64"):
    """All n+1 states from x over the times (n+1,); noise (n, ...) has one draw a step or is None.

    Where there are fewer draws than steps, the last steps have none left: NaN.
    """
    pairs = as_pairs(np.asarray(times))
    n, size = len(pairs), -(-len(pairs) // PAD) * PAD
    noise = np.zeros((n, 0, *x.shape)) if noise is None else noise.astype(float)[:, None]
    noise = np.concatenate([noise, np.full((n - len(noise), *noise.shape[1:]), np.nan)])
    arrays = [jnp.asarray(v, dtype) for v in (x, padded(pairs, size), padded(noise, size))]
    return _program(file, stepper)(*arrays, n)[: n + 1]


def exact_flow(process, data, x, times):
    """The probability flow of a mixture from x at times[0]: its states at the times, to 1e-11."""
    alpha, sigma = (np.asarray(v) for v in process.marginal(jnp.asarray(times)))
    levels = EDM(0.0, np.inf)  # x/alpha at the level rho is what EDM calls x at time rho

    @jax.jit
    def drift(log_rho, v):
        return -jnp.exp(2 * log_rho) * data.score(levels, v.reshape(x.shape), jnp.exp(log_rho))

    log_rho = np.log(sigma / alpha)
    found = solve_ivp(
        lambda u, v: np.asarray(drift(jnp.asarray(u), jnp.asarray(v))).reshape(-1),
        log_rho[[0, -1]], np.asarray(x).reshape(-1) / alpha[0], t_eval=log_rho,
        method="DOP853", rtol=1e-12, atol=1e-13,
    )  # fmt: skip
    states = found.y.T.reshape(-1, *x.shape)
    return alpha.reshape(-1, *[1] * x.ndim) * states
