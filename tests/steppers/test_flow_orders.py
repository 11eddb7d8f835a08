"""Measured orders of the deterministic steppers, on an exact mixture, with three kinds of steps."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flowcases import exact_flow, padded
from mathcases import mixture_2d, slope

from score_sde import grids
from score_sde.sde import VP
from score_sde.steppers import (
    HEUN,
    HEUN_3,
    KUTTA,
    MIDPOINT,
    RK4,
    AdamsBashforth,
    FlowRungeKutta,
    RungeKutta,
    second_order,
)

SDE, END = VP(t_max=0.6), 0.25  # sigma/alpha from 6 to 0.9
METHODS = {
    "euler": (RungeKutta(SDE), 1),
    "heun": (RungeKutta(SDE, HEUN), 2),
    "ralston": (RungeKutta(SDE, second_order(2 / 3)), 2),
    "dpm_2": (RungeKutta(SDE, MIDPOINT, "log_rho"), 2),
    "kutta": (RungeKutta(SDE, KUTTA), 3),
    "heun_3": (RungeKutta(SDE, HEUN_3), 3),
    "rk4": (RungeKutta(SDE, RK4), 4),
    "heun_in_time": (FlowRungeKutta(SDE, HEUN), 2),
    "rk4_in_time": (FlowRungeKutta(SDE, RK4), 4),
    **{f"rho_ab_{n}": (AdamsBashforth(SDE, n), n) for n in (2, 3, 4)},
    **{f"t_ab_{n}": (AdamsBashforth(SDE, n, "time"), n) for n in (3, 4)},
    "ipndm": (AdamsBashforth(SDE, 4, "steps"), 4),
}
GRIDS = {
    "t": grids.uniform,
    "sigma": functools.partial(grids.karras, rho=1.0),
    "log_snr": grids.log_snr_uniform,
}


def no_noise(j):
    raise AssertionError("the method asks for no noise")


@functools.cache
def states(process, grid, n):
    """(grid, exact states at its first 4 times and at END)."""
    times = GRIDS[grid](process, n, END)
    x = jax.random.normal(jax.random.key(0), (5, 2), jnp.float64)
    return times, exact_flow(process, mixture_2d(), x, np.append(times[:4], END))


def errors(stepper, grid, sizes, known=0):
    """max |x - exact| at END after n = sizes steps; `known` steps begin at exact states.

    A multistep method so gets exact values, as the theory of its order supposes.
    """
    score_fn = mixture_2d().score_fn(stepper.process)

    @jax.jit
    def program(exact, pairs, n):
        carry = stepper.init(exact[0])
        for i in range(known):
            carry = stepper(score_fn, exact[i], pairs[i, 0], pairs[i, 1], no_noise, carry)[2]

        def step(i, state):
            x, carry = state
            return stepper(score_fn, x, pairs[i, 0], pairs[i, 1], no_noise, carry)[::2]

        return jax.lax.fori_loop(known, n, step, (exact[known], carry))[0]

    found = []
    for n in sizes:
        times, exact = states(stepper.process, grid, n)
        pairs = jnp.asarray(padded(grids.as_pairs(times), max(sizes)))
        found.append(float(jnp.max(jnp.abs(program(jnp.asarray(exact), pairs, n) - exact[-1]))))
    return found


@pytest.mark.parametrize("method", METHODS)
def test_measured_order(method, x64):
    """Multistep methods come later to their order; iPNDM has it at equal steps in rho alone."""
    stepper, order = METHODS[method]
    memory = getattr(stepper, "order", 1) - 1
    sizes = (320, 640) if memory else (160, 320)
    program_of = functools.partial(errors, stepper, sizes=sizes, known=memory)
    for grid in ("sigma",) if method == "ipndm" else GRIDS:
        found = program_of(grid)
        assert slope(sizes, found) == pytest.approx(-order, abs=0.15), (grid, found)
        assert found[-1] < {1: 3e-3, 2: 1e-4, 3: 1e-6, 4: 2e-8}[order], (grid, found)


def test_low_orders_at_the_start_do_no_harm(x64):
    """From the prior on, the slope hardly changes at first: exact values would change 1 %."""
    stepper = AdamsBashforth(VP(), 4)
    (own,), (exact,) = (errors(stepper, "log_snr", (40,), known) for known in (0, 3))
    assert own == pytest.approx(exact, rel=0.01)
    assert own < 1e-3
