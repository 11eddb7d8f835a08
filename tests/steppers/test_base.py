"""Joining steppers."""

import jax
import jax.numpy as jnp
import numpy as np

from golden import assert_close
from score_sde.sde import VP
from score_sde.steppers import AnnealedLangevin, EulerMaruyama, Identity, Langevin, Stepper, at_start, chain


def no_score(x, t):
    raise AssertionError("the score is not asked for")


class Probe(Stepper):
    """Adds (its number, t, s) to a log, and z + number to x; `mean` lacks z."""

    def __init__(self, number, log, draws=1, nfe=1):
        self.number, self.log, self.draws, self.nfe = number, log, draws, nfe

    def __call__(self, score_fn, x, t, s, z):
        assert z.shape == (self.draws, *x.shape)
        self.log.append((self.number, float(t), float(s)))
        return x + self.number + jnp.sum(z, 0), x + self.number


def test_chain_order_times_draws_and_mean():
    log = []
    steps = chain(Probe(1.0, log, 2), at_start(Probe(2.0, log, 1, 3)), Identity(), Probe(4.0, log, 0))
    assert (steps.draws, steps.nfe) == (3, 5)
    z = jnp.asarray([[[10.0]], [[20.0]], [[40.0]]])
    y, mean = steps(no_score, jnp.zeros((1, 1)), jnp.asarray(0.9), jnp.asarray(0.7), z)
    assert log == [
        (1.0, *np.float32([0.9, 0.7])),
        (2.0, *np.float32([0.9, 0.9])),
        (4.0, *np.float32([0.9, 0.7])),
    ]
    assert float(y[0, 0]) == 77.0
    assert float(mean[0, 0]) == 77.0  # the last stepper drew nothing
    _, mean = chain(Probe(1.0, log), Probe(2.0, log))(
        no_score, jnp.zeros((1, 1)), jnp.asarray(0.9), jnp.asarray(0.7), z[:2]
    )
    assert float(mean[0, 0]) == 13.0  # only the last noise is missing


def test_identity():
    x = jnp.ones((2, 3))
    y, mean = Identity()(no_score, x, jnp.asarray(1.0), jnp.asarray(0.5), jnp.zeros((0, 2, 3)))
    assert y is x
    assert mean is x
    assert (Identity().draws, Identity().nfe) == (0, 0)


def test_counts():
    sde = VP()
    predictor, corrector = EulerMaruyama(sde), Langevin(0.1, 3)
    assert (predictor.draws, predictor.nfe) == (1, 1)
    assert (corrector.draws, corrector.nfe) == (3, 3)
    for joined in (chain(predictor, corrector), chain(at_start(corrector), predictor)):
        assert (joined.draws, joined.nfe) == (4, 4)
    assert at_start(AnnealedLangevin(sde, 0.1, 2)).draws == 2
    assert at_start(AnnealedLangevin(sde, 0.1, 2)).nfe == 2


def test_predictor_corrector_orders():
    """The library's order corrects at s, the published one at t."""
    sde = VP()
    predictor, corrector = EulerMaruyama(sde), AnnealedLangevin(sde, 0.2)

    def score_fn(x, t):
        return -x / (1 + t[:, None])

    x, z = jax.random.normal(jax.random.key(0), (3, 2)), jax.random.normal(jax.random.key(1), (2, 3, 2))
    t, s = jnp.asarray(0.6), jnp.asarray(0.5)
    y, _ = predictor(score_fn, x, t, s, z[:1])
    assert_close(
        chain(predictor, corrector)(score_fn, x, t, s, z)[0], corrector(score_fn, y, s, s, z[1:])[0], 1e-6
    )
    y, _ = corrector(score_fn, x, t, t, z[:1])
    published = chain(at_start(corrector), predictor)(score_fn, x, t, s, z)
    assert_close(published[0], predictor(score_fn, y, t, s, z[1:])[0], 1e-6)
    assert_close(published[1], predictor(score_fn, y, t, s, z[1:])[1], 1e-6)
