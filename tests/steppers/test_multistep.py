"""A method with memory, written as a user would: its history travels in the carry."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mathcases import mixture_2d, slope
from scipy.integrate import solve_ivp

from golden import assert_close
from score_sde import grids
from score_sde.arrays import batch_time, sample_keys
from score_sde.sampling import Sampler
from score_sde.sde import SDE, VP, GaussianSDE
from score_sde.steppers import AnnealedLangevin, EulerMaruyama, Stepper, at_start, chain


@dataclasses.dataclass(frozen=True)
class AdamsBashforth2(Stepper):
    """x - h ((1 + w/2) d - w/2 d_last) for the probability flow, w = h/h_last. Order 2."""

    sde: SDE
    draws = 0

    def init(self, x):
        return jnp.zeros_like(x), jnp.asarray(jnp.inf, x.dtype)  # w = 0: the first step is Euler's

    def __call__(self, score_fn, x, t, s, noise, carry):
        slope = self.sde.reverse_drift(x, t, score_fn(x, batch_time(t, x)), eta=0.0)
        last, w = carry[0], (t - s) / carry[1]
        x = x - (t - s) * ((1 + w / 2) * slope - w / 2 * last)
        return x, x, (slope, t - s)


def no_noise(j):
    raise AssertionError("the method asks for no noise")


def exact_flow(sde: GaussianSDE, data, x, end: float):
    """The probability flow from t_max to `end`, to 1e-11."""
    drift = jax.jit(lambda x, t: sde.reverse_drift(x, t, data.score(sde, x, t), 0.0))
    found = solve_ivp(
        lambda t, y: np.asarray(drift(jnp.asarray(y.reshape(x.shape)), jnp.asarray(t))).reshape(-1),
        (sde.t_max, end), np.asarray(x).reshape(-1), method="DOP853", rtol=1e-11, atol=1e-11,
    )  # fmt: skip
    return found.y[:, -1].reshape(x.shape)


@pytest.mark.parametrize("grid", [grids.uniform, grids.log_snr_uniform])
@pytest.mark.parametrize(
    ("method", "order"), [(AdamsBashforth2, 2), (lambda v: EulerMaruyama(v, 0.0), 1)]
)
def test_measured_order(method, order, grid, x64):
    """On an exact mixture, with equal and unequal steps; Euler's method beside it, with order 1."""
    sde, data, end, sizes = VP(), mixture_2d(), 0.1, (160, 320, 640)
    x = jax.random.normal(jax.random.key(0), (5, 2), jnp.float64)
    exact, score_fn = exact_flow(sde, data, x, end), data.score_fn(sde)

    def error(n):
        sampler = Sampler(sde, method(sde), grid(sde, n, end), "none")
        run = jax.jit(
            lambda x: sampler.advance(jax.random.key(0), score_fn, sampler.start(x), 0, n)
        )
        return float(jnp.max(jnp.abs(run(x).x - exact)))

    errors = [error(n) for n in sizes]
    assert slope(sizes, errors) == pytest.approx(-order, abs=0.2), errors
    assert errors[-1] < {1: 0.05, 2: 1e-3}[order], errors


def test_first_steps_by_hand():
    """Euler's step, then 3/2 and -1/2 of the slopes; 1 + w/2 and -w/2 for unequal steps."""
    sde, x = VP(), jnp.asarray([[2.0]])
    stepper = AdamsBashforth2(sde)
    times = [1.0, 0.9, 0.8, 0.5]
    carry, y, slopes = stepper.init(x), x, []
    for i, weights in enumerate(((1.0, 0.0), (1.5, -0.5), (2.5, -1.5))):
        t, s = (jnp.asarray(v, jnp.float32) for v in times[i : i + 2])
        slopes.append(sde.reverse_drift(y, t, -(y**3), 0.0))
        last = slopes[i - 1] if i else jnp.zeros_like(x)
        wanted = y - (t - s) * (weights[0] * slopes[i] + weights[1] * last)
        y, mean, carry = stepper(lambda x, t: -(x**3), y, t, s, no_noise, carry)
        assert_close(y, wanted, 1e-5)
        assert_close(mean, y, 0)


SDE_2D = VP()
TIMES = grids.log_snr_uniform(SDE_2D, 12, 1e-2)
JOINED = {
    "alone": AdamsBashforth2(SDE_2D),
    "first": chain(AdamsBashforth2(SDE_2D), AnnealedLangevin(SDE_2D, 0.1, 2)),
    "last": chain(at_start(AnnealedLangevin(SDE_2D, 0.1)), AdamsBashforth2(SDE_2D)),
    "nested": chain(chain(AdamsBashforth2(SDE_2D)), chain(AnnealedLangevin(SDE_2D, 0.1))),
}


@pytest.mark.parametrize("name", JOINED)
def test_memory_passes_through_segments(name):
    """Steps 0..5, then 5..12 from the state in between: bit for bit steps 0..12."""
    sampler, score_fn = Sampler(SDE_2D, JOINED[name], TIMES), mixture_2d().score_fn(SDE_2D)
    keys = sample_keys(jax.random.key(0), jnp.arange(4))
    advance = jax.jit(
        lambda state, first, last: sampler.advance(keys, score_fn, state, first, last)
    )
    start = sampler.begin(keys, (4, 2))
    whole = advance(start, 0, 12)
    parts = advance(advance(start, 0, 5), 5, 12)
    jax.tree.map(np.testing.assert_array_equal, parts, whole)
    forgetful = advance(sampler.start(advance(start, 0, 5).x), 5, 12)  # begins with Euler's step
    assert float(jnp.max(jnp.abs(forgetful.x - whole.x))) > 1e-3
    framed = jax.jit(lambda keys: sampler(keys, score_fn, (4, 2), 3).x)(keys)
    assert_close(framed, sampler.finish(score_fn, whole), 1e-5)


def test_memory_in_a_chain_is_that_of_the_method():
    """With a corrector that moves nothing in between, the chain makes the method's own steps."""
    score_fn, key = mixture_2d().score_fn(SDE_2D), jax.random.key(0)

    def run(stepper):
        sampler = Sampler(SDE_2D, stepper, TIMES, "none")
        return jax.jit(lambda key: sampler(key, score_fn, (4, 2)).x)(key)

    still = AnnealedLangevin(SDE_2D, 0.1, 3, alpha=jnp.zeros_like)
    assert_close(run(chain(AdamsBashforth2(SDE_2D), still)), run(AdamsBashforth2(SDE_2D)), 1e-5)


def test_evaluations():
    sampler = Sampler(SDE_2D, JOINED["first"], TIMES)
    assert sampler.evaluations == 12 * (1 + 2) + 1
    assert dataclasses.replace(sampler, stepper=JOINED["alone"]).evaluations == 12 + 1
