"""Joining steppers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mathcases import one_step

from golden import assert_close
from score_sde import grids
from score_sde.sde import VP
from score_sde.steppers import (
    AnnealedLangevin,
    EulerMaruyama,
    Identity,
    Langevin,
    Stepper,
    at_start,
    chain,
)

PAIRS = grids.as_pairs(np.linspace(1.0, 0.1, 6))  # five steps


def no_score(x, t):
    raise AssertionError("the score is not asked for")


class Probe(Stepper):
    """Adds (its number, t, s) to a log, and its draws + number to x; `mean` lacks the draws.

    Its carry counts its calls from 10 times its number.
    """

    def __init__(self, number, log, draws=1, each=1):
        self.number, self.log, self.draws, self.each = number, log, draws, each

    def init(self, x):
        return jnp.asarray(10 * self.number)

    def evaluations(self, pairs):
        self.log.append(pairs)
        return self.each * len(pairs)

    def __call__(self, score_fn, x, t, s, noise, carry):
        self.log.append((self.number, float(t), float(s)))
        z = sum((noise(j) for j in range(self.draws)), jnp.zeros_like(x))
        return x + self.number + z, x + self.number, carry + 1


def test_chain_order_times_draws_and_mean():
    log = []
    steps = chain(
        Probe(1.0, log, 2), at_start(Probe(2.0, log, 1, 3)), Identity(), Probe(4.0, log, 0)
    )
    assert steps.draws == 3
    z = jnp.asarray([[[10.0]], [[20.0]], [[40.0]]])
    x, t, s = jnp.zeros((1, 1)), jnp.asarray(0.9), jnp.asarray(0.7)
    y, mean = one_step(steps, no_score, x, t, s, z)
    assert log == [
        (1.0, *np.float32([0.9, 0.7])),
        (2.0, *np.float32([0.9, 0.9])),
        (4.0, *np.float32([0.9, 0.7])),
    ]
    assert float(y[0, 0]) == 77.0
    assert float(mean[0, 0]) == 77.0  # the last stepper drew nothing
    _, mean = one_step(chain(Probe(1.0, log), Probe(2.0, log)), no_score, x, t, s, z[:2])
    assert float(mean[0, 0]) == 13.0  # only the last noise is missing


def test_each_part_of_a_chain_has_its_own_range_of_draws():
    """Parts with 2, 0, 3 and 1 draws: numbers 0..1, none, 2..4, 5, also in chains of chains."""
    asked = []

    class Asking(Stepper):
        def __init__(self, draws):
            self.draws = draws

        def __call__(self, score_fn, x, t, s, noise, carry):
            asked.append([int(noise(j)[0, 0]) for j in range(self.draws)])
            return x, x, carry

    for steps in (
        chain(Asking(2), Identity(), Asking(3), Asking(1)),
        chain(Asking(2), chain(Identity(), at_start(Asking(3))), Asking(1)),
    ):
        asked.clear()
        t = jnp.asarray(0.5)
        z = jnp.arange(float(steps.draws)).reshape(-1, 1, 1)
        one_step(steps, no_score, jnp.zeros((1, 1)), t, t, z)
        assert asked == [[0, 1], [2, 3, 4], [5]]


def test_chain_gives_each_part_its_own_carry():
    log = []
    steps = chain(Probe(1.0, log), at_start(Probe(2.0, log)), Identity())
    x, t = jnp.zeros((1, 1)), jnp.asarray(0.9)
    carry = steps.init(x)
    assert carry == (10, 20, ())
    for _ in range(3):
        x, _, carry = steps(no_score, x, t, t, lambda j: jnp.zeros((1, 1)), carry)
    assert carry == (13, 23, ())
    with pytest.raises(ValueError):
        steps(no_score, x, t, t, lambda j: x, carry[:2])


def test_identity():
    x = jnp.ones((2, 3))
    y, mean = one_step(
        Identity(), no_score, x, jnp.asarray(1.0), jnp.asarray(0.5), jnp.zeros((0, 2, 3))
    )
    assert y is x
    assert mean is x
    assert (Identity().draws, Identity().evaluations(PAIRS)) == (0, 0)


def test_counts():
    sde = VP()
    predictor, corrector = EulerMaruyama(sde), Langevin(0.1, 3)
    assert (predictor.draws, predictor.evaluations(PAIRS)) == (1, 5)
    assert (corrector.draws, corrector.evaluations(PAIRS)) == (3, 15)
    for joined in (chain(predictor, corrector), chain(at_start(corrector), predictor)):
        assert (joined.draws, joined.evaluations(PAIRS)) == (4, 20)
        assert joined.evaluations(PAIRS[:2]) == 8
    assert at_start(AnnealedLangevin(sde, 0.1, 2)).draws == 2
    assert at_start(AnnealedLangevin(sde, 0.1, 2)).evaluations(PAIRS) == 10


def test_evaluations_are_counted_over_the_steps_that_are_made():
    log = []
    assert chain(Probe(1.0, log, each=2), at_start(Probe(2.0, log))).evaluations(PAIRS) == 15
    np.testing.assert_array_equal(log[0], PAIRS)
    np.testing.assert_array_equal(log[1], np.stack([PAIRS[:, 0]] * 2, axis=1))


def test_predictor_corrector_orders():
    """The library's order corrects at s, the published one at t."""
    sde = VP()
    predictor, corrector = EulerMaruyama(sde), AnnealedLangevin(sde, 0.2)

    def score_fn(x, t):
        return -x / (1 + t[:, None])

    x = jax.random.normal(jax.random.key(0), (3, 2))
    z = jax.random.normal(jax.random.key(1), (2, 3, 2))
    t, s = jnp.asarray(0.6), jnp.asarray(0.5)
    y, _ = one_step(predictor, score_fn, x, t, s, z[:1])
    corrected, _ = one_step(corrector, score_fn, y, s, s, z[1:])
    joined, _ = one_step(chain(predictor, corrector), score_fn, x, t, s, z)
    assert_close(joined, corrected, 1e-6)
    y, _ = one_step(corrector, score_fn, x, t, t, z[:1])
    published = one_step(chain(at_start(corrector), predictor), score_fn, x, t, s, z)
    predicted = one_step(predictor, score_fn, y, t, s, z[1:])
    assert_close(published[0], predicted[0], 1e-6)
    assert_close(published[1], predicted[1], 1e-6)
