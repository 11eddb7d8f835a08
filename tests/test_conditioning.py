"""Conditions: what is given reaches the sampler or the score row by row; they compose."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from golden import assert_close
from score_sde import grids, steppers
from score_sde.analytic import GaussianMixture
from score_sde.arrays import sample_keys
from score_sde.conditioning import compose, inpainting, noise_interpolation, unconditional
from score_sde.sampling import Sampler, independent_noise
from score_sde.sde import DiscreteChain

LEVELS, SHAPE = DiscreteChain.smld(0.1, 1.0, 3), (3, 2, 2, 1)
SAMPLER = Sampler(LEVELS, steppers.AnnealedLangevin(LEVELS, 0.3, 2), grids.levels(LEVELS), "none")
KEYS = sample_keys(jax.random.key(1), jnp.arange(3))
OTHERS = sample_keys(jax.random.key(2), jnp.arange(3))
KNOWN = np.asarray([True, False, False, True] * 3).reshape(SHAPE)
IMAGE = jnp.arange(12.0).reshape(SHAPE)


def score_fn(x, t):
    return -x


def run(condition, given, keys=KEYS, sampler=SAMPLER):
    """Samples under a condition, compiled with what is given as an argument."""

    @jax.jit
    def samples(keys, given):
        conditioned, score = condition(sampler, score_fn, given)
        return conditioned(keys, score, (len(keys), *SHAPE[1:])).x

    return samples(keys, given)


def test_unconditional() -> None:
    assert unconditional(SAMPLER, score_fn, ()) == (SAMPLER, score_fn)


def test_inpainting_leaves_known_pixels_at_the_noise_of_the_level() -> None:
    """One draw for a whole level, put in after its updates (algorithm B.2)."""
    given = {"image": IMAGE, "known": jnp.asarray(KNOWN)}
    sampler, score = inpainting(SAMPLER, score_fn, given)
    assert score is score_fn
    state = sampler.advance(KEYS, score, sampler.start(jnp.zeros(SHAPE)), 1, 2)
    z = independent_noise(KEYS, 1, 0, IMAGE)
    expected = np.asarray(IMAGE + LEVELS.sigmas[1].item() * z)
    for x in (state.x, state.mean):
        np.testing.assert_allclose(np.asarray(x)[KNOWN], expected[KNOWN], rtol=1e-5)
    assert np.abs(np.asarray(state.x)[~KNOWN]).max() < 3 < np.abs(expected[~KNOWN]).max()


def test_inpainting_gives_each_sample_what_is_known_of_it() -> None:
    given = {"image": IMAGE, "known": jnp.asarray(KNOWN)}
    whole = run(inpainting, given)
    part = run(inpainting, jax.tree.map(lambda rows: rows[1:2], given), KEYS[1:2])
    assert_close(part, whole[1:2], 1e-5)
    hidden = {"image": jnp.where(KNOWN, IMAGE, -IMAGE), "known": jnp.asarray(KNOWN)}
    assert_close(run(inpainting, hidden), whole, 1e-6)  # what is unknown does not matter


def test_inpainting_samples_the_posterior_of_a_correlated_gaussian() -> None:
    """Two pixels with correlation 0.9, one of them known: mean 0.9 a and variance 1 - 0.9^2."""
    data = GaussianMixture.full([1.0], [[0.0, 0.0]], [[[1.0, 0.9], [0.9, 1.0]]])
    levels = DiscreteChain.smld(0.05, 2.0, 12)
    langevin = steppers.AnnealedLangevin(levels, 0.1, 200)
    sampler = Sampler(levels, langevin, grids.levels(levels))
    n, a = 4000, 1.2
    given = {
        "image": jnp.broadcast_to(jnp.asarray([a, 0.0]), (n, 2)),
        "known": jnp.broadcast_to(jnp.asarray([True, False]), (n, 2)),
    }

    @jax.jit
    def samples(key, given):
        conditioned, score = inpainting(sampler, data.score_fn(levels), given)
        return conditioned(key, score, (n, 2)).x

    x = np.asarray(samples(jax.random.key(0), given))[:, 1]
    assert x.mean() == pytest.approx(0.9 * a, abs=0.05)
    assert x.std() == pytest.approx(math.sqrt(1 - 0.9**2), rel=0.1)


def test_inpainting_wants_annealed_langevin_dynamics() -> None:
    sampler = dataclasses.replace(SAMPLER, stepper=steppers.Ancestral(LEVELS))
    with pytest.raises(ValueError, match=r"Ancestral; use AnnealedLangevin"):
        inpainting(sampler, score_fn, {"image": IMAGE, "known": jnp.asarray(KNOWN)})


def test_noise_interpolation_goes_from_one_noise_to_the_other() -> None:
    """cos(angle) z + sin(angle) z', row by row; the start is the first sample's."""
    angle = jnp.asarray([0.0, math.pi / 6, math.pi / 2])
    sampler, score = noise_interpolation(SAMPLER, score_fn, {"keys": OTHERS, "angle": angle})
    assert score is score_fn
    z, other = (independent_noise(keys, 2, 1, IMAGE) for keys in (KEYS, OTHERS))
    found = sampler.noise(KEYS, 2, 1, IMAGE)
    assert_close(found[0], z[0], 1e-6)
    assert_close(found[1], math.sqrt(3) / 2 * z[1] + 0.5 * other[1], 1e-6)
    assert_close(found[2], other[2], 1e-6)
    np.testing.assert_array_equal(sampler.begin(KEYS, SHAPE).x, SAMPLER.begin(KEYS, SHAPE).x)


def test_noise_interpolation_at_angle_zero_is_the_sample() -> None:
    given = {"keys": OTHERS, "angle": jnp.zeros(3)}
    assert_close(run(noise_interpolation, given), run(unconditional, ()), 1e-6)


def test_conditions_compose_in_order() -> None:
    """The known pixels' noise is interpolated too; each condition sees its own part."""
    held = {"image": IMAGE, "known": jnp.asarray(KNOWN)}
    quarter = {"keys": OTHERS, "angle": jnp.full(3, math.pi / 4)}
    both = compose(inpainting, noise_interpolation)
    sampler, _ = both(SAMPLER, score_fn, (held, quarter))
    assert isinstance(sampler.stepper, steppers.InpaintingLangevin)
    state = sampler.advance(KEYS, score_fn, sampler.start(jnp.zeros(SHAPE)), 1, 2)
    z = sum(independent_noise(keys, 1, 0, IMAGE) for keys in (KEYS, OTHERS)) * math.sqrt(0.5)
    expected = np.asarray(IMAGE + LEVELS.sigmas[1].item() * z)
    np.testing.assert_allclose(np.asarray(state.x)[KNOWN], expected[KNOWN], rtol=1e-5)
    assert run(both, (held, quarter)).shape == SHAPE
    with pytest.raises(ValueError):
        both(SAMPLER, score_fn, (held,))

    def scale(factor):
        return lambda sampler, score_fn, given: (
            sampler,
            lambda x, t: factor * score_fn(x, t) + given,
        )

    _, score = compose(scale(2.0), scale(3.0))(SAMPLER, score_fn, (1.0, 10.0))
    assert float(score(jnp.ones((1,)), jnp.ones((1,)))[0]) == 3 * (2 * -1 + 1) + 10
