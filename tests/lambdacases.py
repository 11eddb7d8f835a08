"""What tests of the solvers in log-SNR share: one compiled program for many grids and orders."""

import functools
import itertools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from score_sde.analytic import GaussianMixture
from score_sde.arrays import batch_time
from score_sde.sde import Perturbation
from score_sde.steppers import Stepper, multistep, singlestep


def _known(options: dict) -> dict:
    """Those of the compiler's options that this version of it has."""
    known = {}
    for name, value in options.items():
        try:
            jax.jit(lambda x: x + 1, compiler_options={name: value}).lower(1.0).compile()
        except Exception as error:
            assert name in str(error), error
        else:
            known[name] = value
    return known


FAST_COMPILATION = _known(
    {
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
        "xla_cpu_parallel_codegen_split_count": 1,
        "xla_cpu_use_fusion_emitters": False,
    }
)
"""The programs are small and run once: their compilation is what takes time, a third of it so."""


def sampler_mixture(arrays) -> GaussianMixture:
    """The mixture of a reference file of samplers."""
    return GaussianMixture.isotropic(arrays["gmm_weights"], arrays["gmm_means"], arrays["gmm_stds"])


class Problem:
    """A stepper with what its score is of; a static argument, equal where the stepper is."""

    def __init__(self, stepper: Stepper, process: Perturbation, data: GaussianMixture):
        self.stepper, self.process, self.data = stepper, process, data

    def __eq__(self, other):
        return (self.stepper, self.data) == (other.stepper, other.data)

    def __hash__(self):
        return hash((self.stepper, self.data))


def trace(problem: Problem, times, x, orders=None, noise=None, size=None):
    """States (n+1, batch, ...) at the times of a grid, (n+1,).

    Args:
        orders: of each step, in place of the stepper's, whose order is the largest. So the steppers
            of all lists of orders share a program.
        noise: (n, draws, batch, ...).
        size: steps the program has room for; grids of other lengths share it.
    """
    n = len(times) - 1
    size = n if size is None else size
    last = np.full((size - n, 2), times[-2:])  # never made
    pairs = np.concatenate([np.stack([times[:-1], times[1:]], 1), last])
    z = np.zeros((size, 1, *x.shape))
    if noise is not None:
        z = np.concatenate([noise, np.zeros((size - n, *noise.shape[1:]))])
    dtype = jnp.result_type(float)
    table = None if orders is None else jnp.asarray(np.resize(orders, size), jnp.int32)
    pairs, x, z = (jnp.asarray(v, dtype) for v in (pairs, x, z))
    return _program(problem, n, table, pairs, x, z)[: n + 1]


@functools.partial(jax.jit, static_argnums=0, compiler_options=FAST_COMPILATION)
def _program(problem, n, orders, pairs, x, z):
    stepper, score_fn = problem.stepper, problem.data.score_fn(problem.process)

    def step(i, state):
        states, carry = state
        t, s = pairs[i, 0], pairs[i, 1]
        x, _, carry = stepper(score_fn, states[i], t, s, lambda j: z[i, j], carry)
        return states.at[i + 1].set(x), carry

    start = jnp.broadcast_to(x, (len(pairs) + 1, *x.shape)), stepper.init(x)
    if orders is None:
        return jax.lax.fori_loop(0, n, step, start)[0]
    with (
        mock.patch.object(multistep, "order_at", lambda _, i: orders[i]),
        mock.patch.object(singlestep, "order_at", lambda _, i: orders[i]),
    ):
        return jax.lax.fori_loop(0, n, step, start)[0]


def follow(stepper, score_fn, x, times, z):
    """States after the steps of a grid, one after another; each draw is z."""
    carry, states = stepper.init(x), []
    for t, s in itertools.pairwise(times):
        x, _, carry = stepper(score_fn, x, t, s, lambda j: z, carry)
        states.append(x)
    return states


def denoised(process, data, x, t):
    """E[x_0 | x_t = x], exactly."""
    return process.tweedie(x, t, data.score(process, x, batch_time(t, x)))
