"""Data consistency: what it moves, when, and which draws it takes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from inverse.dense import Dense
from mathcases import SDES, propagate

from golden import assert_close
from score_sde import inverse
from score_sde.analytic import GaussianMixture
from score_sde.grids import uniform
from score_sde.inverse import Consistency, after, before, consistent, exact, overwrite, towards
from score_sde.sde import Perturbation
from score_sde.steppers import Chain, EulerMaruyama, Langevin, Stepper, at_start, chain

EVENT = (2, 2, 3)
RNG = np.random.default_rng(0)
KNOWN = RNG.uniform(size=EVENT) < 0.5
OPERATORS = {
    "known pixels": inverse.inpainting(EVENT, KNOWN),
    "grey channel": inverse.grey_channel(EVENT),
    "grey": inverse.colorization(EVENT),
    "block mean": inverse.block_mean(EVENT, 2),
    "matrix": Dense(jnp.asarray(RNG.normal(size=(1, 5, 12)), jnp.float32), EVENT),
}
X, Z, TRUTH = RNG.normal(size=(3, 4, *EVENT))


def measurement(operator, std=0.0):
    """Of TRUTH, in the precision of the test."""
    y = operator.forward(jnp.asarray(TRUTH))
    return inverse.Measurement(operator, y, jnp.broadcast_to(jnp.asarray(std), (4,)))


@pytest.mark.parametrize("name", OPERATORS)
def test_the_state_is_moved_by_lambda(name, x64):
    """A x' = lambda (alpha y + sigma A z) + (1 - lambda) A x, and x' - x is in the range of A^T."""
    operator = OPERATORS[name]
    given, alpha, sigma = measurement(operator), jnp.asarray(0.7), jnp.asarray(0.4)

    @jax.jit
    def moved(x, z):
        return [
            [consistent(given, strength)(x, alpha, sigma, noise) for noise in (z, None)]
            for strength in (1.0, 0.3)
        ]

    # A draw of orthogonal coordinates is no draw of pixels: compare with that one.
    coordinates = name == "grey channel"
    z = operator.operator.forward(jnp.asarray(Z)) if coordinates else jnp.asarray(Z)
    for strength, pair in zip((1.0, 0.3), moved(jnp.asarray(X), z), strict=True):
        for x, noise in zip(pair, (Z, 0 * Z), strict=True):
            target = operator.forward(jnp.asarray(0.7 * TRUTH + 0.4 * noise))
            wanted = strength * target + (1 - strength) * operator.forward(jnp.asarray(X))
            assert_close(operator.forward(x), wanted, 1e-6)
            step = x - X
            assert_close(operator.pinv(operator.forward(step)), step, 1e-6)


def test_known_coordinates_are_overwritten_or_projected_alike(x64):
    """Eq. 8.9 and x + lambda A^+ (y_t - A x) are one map where T is orthogonal."""
    given = measurement(OPERATORS["grey channel"])
    basis = given.operator.operator
    for strength in (1.0, 0.6):
        state = jnp.asarray(X), jnp.asarray(0.7), jnp.asarray(0.4)
        one = towards(given, strength)(*state, jnp.asarray(Z))
        other = overwrite(given, strength)(*state, basis.forward(jnp.asarray(Z)))
        assert_close(one, other, 1e-12)


def test_known_pixels_are_exact_to_the_last_bit():
    given = measurement(OPERATORS["known pixels"], np.asarray([0.0, 0.1, 0.0, 0.2], np.float32))
    x = np.asarray(exact(given)(jnp.asarray(X, jnp.float32)))
    np.testing.assert_array_equal(x[[0, 2]][:, KNOWN], np.asarray(given.y)[[0, 2]][:, KNOWN])
    np.testing.assert_array_equal(x[[1, 3]], X[[1, 3]].astype(np.float32))  # measured with noise
    np.testing.assert_array_equal(x[:, ~KNOWN], X[:, ~KNOWN].astype(np.float32))


@dataclasses.dataclass(frozen=True, eq=False)
class Noted(Stepper):
    """Notes the time at which it acts and its draws; a corrector acts at s."""

    log: list
    draws: int = 1

    def __call__(self, score_fn, x, t, s, noise, carry):
        self.log.append(("step", t, s, [noise(j) for j in range(self.draws)]))
        return x, x, carry


class NotedLangevin(Noted, Langevin):
    """Counts as a corrector."""

    draws = 1

    def __init__(self, log):
        object.__setattr__(self, "log", log)


class Clock(Perturbation):
    """alpha is the time itself."""

    prior_std = 1.0

    def marginal(self, t):
        return t, t


def order(join, make):
    """What happens in a step from 0.9 to 0.5: ("known" or "step", when), each draw once."""
    log = []

    def move(x, alpha, sigma, z):
        if z is not None:
            log.append(("known", alpha, alpha, [z]))
        return x

    stepper, x = join(Consistency(Clock(), move), make(log)), jnp.zeros((1, 1))
    assert isinstance(stepper, Chain)
    t, s = jnp.asarray(0.9), jnp.asarray(0.5)
    stepper(lambda x, t: x, x, t, s, lambda j: jnp.full((1, 1), float(j)), stepper.init(x))
    drawn = [int(z[0, 0]) for *_, draws in log for z in draws]
    assert drawn == list(range(stepper.draws))
    return [(what, round(float(t), 3)) for what, t, *_ in log]


PREDICTOR_FIRST = [
    lambda log: chain(Noted(log, 2), NotedLangevin(log)),
    lambda log: chain(chain(Noted(log, 2)), NotedLangevin(log)),
]
CORRECTOR_FIRST = [lambda log: chain(at_start(NotedLangevin(log)), Noted(log, 2))]


def test_before():
    """At the level where a part starts: t for a predictor, s for a corrector that follows it."""
    for make in PREDICTOR_FIRST:
        found = order(before, make)
        assert found == [("known", 0.9), ("step", 0.9), ("known", 0.5), ("step", 0.9)]
    for make in CORRECTOR_FIRST:
        found = order(before, make)
        assert found == [("known", 0.9), ("step", 0.9), ("known", 0.9), ("step", 0.9)]
    assert order(before, lambda log: Noted(log, 0)) == [("known", 0.9), ("step", 0.9)]


def test_after():
    """At the level where a part ends; a corrector at the start of the step leaves x at t."""
    for make in PREDICTOR_FIRST:
        found = order(after, make)
        assert found == [("step", 0.9), ("known", 0.5), ("step", 0.9), ("known", 0.5)]
    for make in CORRECTOR_FIRST:
        found = order(after, make)
        assert found == [("step", 0.9), ("known", 0.9), ("step", 0.9), ("known", 0.5)]


@pytest.mark.parametrize("join", [before, after])
def test_independent_coordinates(join, x64):
    """Known and unknown coordinates independent: unknown ones are as in a run without y."""
    sde, d = SDES["vp"], 4
    variances = np.asarray([0.2, 0.7, 0.1, 0.4])
    data = GaussianMixture.full([1.0], [[0.3, -1.0, 0.5, 0.2]], np.diag(variances)[None])
    known = np.asarray([True, False, False, True])
    operator = inverse.inpainting((d,), known)
    y = jnp.asarray([[0.9, 0.0, 0.0, -0.4]])
    step = Consistency(sde, consistent(inverse.Measurement(operator, y, jnp.zeros(1))))
    pairs = np.stack([uniform(sde, 40)[:-1], uniform(sde, 40)[1:]], axis=1)
    plain = EulerMaruyama(sde)
    run = jax.jit(propagate, static_argnums=(0, 1))
    start, score_fn = (np.zeros(d), np.eye(d)), data.score_fn(sde)
    mean, covariance = run(plain, score_fn, pairs, *start)
    other_mean, other = run(join(step, plain), score_fn, pairs, *start)
    free = np.ix_(~known, ~known)
    assert_close(np.asarray(other_mean)[~known], np.asarray(mean)[~known], 1e-12)
    assert_close(np.asarray(other)[free], np.asarray(covariance)[free], 1e-12)
    assert_close(np.asarray(other)[np.ix_(known, ~known)], np.zeros((2, 2)), 1e-12)
    if join is after:  # known ones are at alpha y with variance sigma^2
        alpha, sigma = (float(v) for v in sde.marginal(jnp.asarray(pairs[-1, 1])))
        assert_close(np.asarray(other_mean)[known], [alpha * 0.9, alpha * -0.4], 1e-12)
        assert_close(np.diag(other)[known], [sigma**2, sigma**2], 1e-12)


def test_what_is_refused():
    given = measurement(OPERATORS["grey"])
    for make in (towards, consistent):
        with pytest.raises(ValueError, match=r"lambda must be in \[0, 1\]; got 1.5"):
            make(given, 1.5)
    with pytest.raises(ValueError, match="Separable does not say which coordinates"):
        overwrite(given)
