"""Measured orders of the solvers in log-SNR, on exact mixtures and Gaussians."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from lambdacases import Problem, trace
from mathcases import mixture_2d
from scipy.integrate import solve_ivp

from score_sde import grids
from score_sde.sde import VP
from score_sde.steppers import Exponential, Multistep

SDE, DATA, END, SIZES = VP(), mixture_2d(), 0.1, (40, 80, 160, 320)


def karras(sde, n, end):
    """Equal steps in (sigma/alpha)^(1/7)."""
    ends = [float(jnp.exp(-sde.log_snr(jnp.asarray(t)) / 14)) for t in (sde.t_max, end)]
    return np.asarray(sde.time_at_log_snr(-14 * jnp.log(jnp.linspace(*ends, n + 1))))


GRIDS = {"time": grids.uniform, "log_snr": grids.log_snr_uniform, "sigma": karras}
DATA_FORM, NOISE_FORM = Exponential(SDE), Exponential(SDE, "noise")
SOLVERS = {
    "multistep 1": (Multistep(DATA_FORM, 1), 1),
    "multistep 2 data": (Multistep(DATA_FORM, 2), 2),
}


@functools.cache
def exact():
    """(start, end) of the probability flow, to 1e-12."""
    x = jax.random.normal(jax.random.key(0), (5, 2), jnp.float64)
    drift = jax.jit(lambda x, t: SDE.reverse_drift(x, t, DATA.score(SDE, x, t), 0.0))
    found = solve_ivp(
        lambda t, y: np.asarray(drift(jnp.asarray(y.reshape(x.shape)), jnp.asarray(t))).reshape(-1),
        (SDE.t_max, END), np.asarray(x).reshape(-1), method="DOP853", rtol=1e-12, atol=1e-12,
    )  # fmt: skip
    return np.asarray(x), found.y[:, -1].reshape(x.shape)


def errors(stepper, grid):
    x, wanted = exact()
    found = []
    for n in SIZES:
        states, _ = trace(Problem(stepper, SDE, DATA), GRIDS[grid](SDE, n, END), x, size=SIZES[-1])
        found.append(float(np.sqrt(np.mean((states[-1] - wanted) ** 2))))
    return found
