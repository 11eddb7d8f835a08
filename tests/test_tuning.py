"""Tuned time grids: they beat the grids they begin with, also on latents they never saw."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde import grids, tuning
from score_sde.analytic import GaussianMixture
from score_sde.sampling import Sampler
from score_sde.sde import VP, DiscreteChain
from score_sde.steppers import Ancestral, EulerMaruyama

SDE = VP()
MIXTURE = GaussianMixture.isotropic([0.6, 0.4], np.asarray([[0.5, -0.3], [-0.4, 0.6]]), [0.1, 0.2])
STEPS, END = 6, 1e-3


def sampler(n: int, eta: float = 0.0) -> Sampler:
    return Sampler(SDE, EulerMaruyama(SDE, eta), grids.log_snr_uniform(SDE, n, END))


def latents(seed: int, n: int = 64) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), (n, 2))


def exact(z: jax.Array) -> jax.Array:
    fine = sampler(2000)
    return jax.jit(lambda z: tuning.solve(fine, MIXTURE.score_fn(SDE), z, jnp.asarray(fine.times)))(
        z
    )


@pytest.fixture(scope="module")
def tuned() -> tuning.Tuned:
    starts = {
        "log_snr": grids.log_snr_uniform(SDE, STEPS, END),
        "uniform": grids.uniform(SDE, STEPS, END),
    }
    z = latents(0)
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam mixes types
        return tuning.tune(sampler(STEPS), MIXTURE.score_fn(SDE), z, exact(z), starts)


def test_the_grid_begins_and_ends_as_before_and_falls(tuned: tuning.Tuned) -> None:
    assert tuned.times.shape == (STEPS + 1,)
    np.testing.assert_allclose(tuned.times[[0, -1]], [SDE.t_max, END], rtol=1e-6)
    assert (np.diff(tuned.times) < 0).all()


def test_the_error_falls_on_other_latents_too(tuned: tuning.Tuned) -> None:
    assert tuned.error == min(tuned.error, *tuned.starts.values(), *tuned.curve)
    assert tuned.error < 0.8 * min(tuned.starts.values())
    z = latents(1)

    def error(times: np.ndarray) -> float:
        found = tuning.solve(sampler(STEPS), MIXTURE.score_fn(SDE), z, jnp.asarray(times))
        return float(tuning.distance(found, exact(z)))

    uniform = error(grids.uniform(SDE, STEPS, END))
    assert error(tuned.times) < 0.85 * min(uniform, error(grids.log_snr_uniform(SDE, STEPS, END)))


def test_the_derivative_of_the_times_is_that_of_their_definition() -> None:
    ends = jnp.asarray([1.0, END])
    logits = jnp.asarray([0.3, -0.2, 0.1, 0.4])
    slopes = jax.jacfwd(lambda w: tuning._times(SDE, ends, w))(logits)
    step = 1e-2
    for i in range(4):
        moved = [
            np.asarray(tuning._times(SDE, ends, logits.at[i].add(sign * step))) for sign in (1, -1)
        ]
        np.testing.assert_allclose(
            slopes[:, i], (moved[0] - moved[1]) / (2 * step), rtol=0.02, atol=1e-4
        )


def test_distance_is_a_mean_over_samples_of_root_mean_squares() -> None:
    x, y = jnp.zeros((2, 2, 2)), jnp.stack([jnp.full((2, 2), 3.0), jnp.asarray([[2.0, 0], [0, 0]])])
    assert float(tuning.distance(x, y)) == pytest.approx((3.0 + 1.0) / 2, rel=1e-5)


def test_samplers_that_draw_noise_and_chains_are_refused() -> None:
    starts = {"log_snr": grids.log_snr_uniform(SDE, 3, END)}
    score_fn, z = MIXTURE.score_fn(SDE), latents(0, 2)
    with pytest.raises(ValueError, match="draws noise"):
        tuning.tune(sampler(3, eta=1.0), score_fn, z, z, starts)
    chain = DiscreteChain.ddpm()
    discrete = Sampler(chain, Ancestral(chain), grids.chain_steps(chain, 3)[:-1])
    with pytest.raises(ValueError, match="continuous process"):
        tuning.tune(discrete, score_fn, z, z, starts)
