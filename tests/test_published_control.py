"""Imputation and colorization of the published code, number for number, and what differs here."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mathcases import SDES, mixture_16d, with_noise
from pccases import follow, published_sampler

from golden import assert_close, cases, load, meta
from score_sde import inverse, steppers
from score_sde.grids import uniform
from score_sde.sampling import Sampler
from score_sde.solvers import SOLVERS

STAGES = {"raw_corrector": 1, "raw_predictor": 3}
"""States before what is known overwrites them: the chain is corrector, known, predictor, known."""
KEY = jax.random.key(0)


def measured(stored):
    """The measurement of a stored run: known pixels, or the grey channel in the file's basis."""
    if "mask" in stored:
        image = stored["data"]
        operator = inverse.inpainting(image.shape[1:], stored["mask"].astype(bool))
    else:
        image = stored["gray"]
        operator = inverse.grey_channel(image.shape[1:], stored["M"])
    return inverse.measure(operator, operator.forward(jnp.asarray(image)), 0.0)


def order_of_draws(stored):
    """(steps, draws, batch, ...): corrector, known data, predictor, known data."""
    noise = [stored["noise_data_after_corrector"][:, None], stored["noise_predictor"][:, None]]
    if meta(stored)["corrector"] != "none":
        noise.insert(0, stored["noise_corrector"])
    return np.concatenate([*noise, stored["noise_data_after_predictor"][:, None]], axis=1)


@pytest.mark.parametrize(
    "case", cases("math/control_inpaint_*.npz") + cases("math/control_colorize_*.npz")
)
def test_runs(case, x64):
    stored = load(case)
    sampler, score_fn = published_sampler(stored)
    given = measured(stored)
    if "M" in stored:
        basis = given.operator.operator
        assert_close(basis.forward(jnp.asarray(stored["gray"])), stored["decoupled_gray"], 1e-12)
        assert_close(np.linalg.inv(stored["M"]), stored["invM"], 1e-12)
    assert_close(np.asarray(sampler.times)[:, 0], stored["timesteps"], 1e-12)
    sampler, score_fn = SOLVERS["imputation"](published=True)(sampler, score_fn, given)
    noise = order_of_draws(stored)
    assert noise.shape[:2] == (sampler.steps, sampler.stepper.draws)
    sampler = with_noise(sampler, noise.astype(float))
    prior = sampler.process.prior_std * stored["prior_noise"].astype(float)
    start = sampler.start(sampler.on_begin(jnp.asarray(prior)))
    end = follow(stored, sampler, score_fn, start, 1e-8, STAGES)
    assert_close(sampler.finish(score_fn, end), stored["final"], 1e-8, "final")


SDE, SHAPE = SDES["vp"], (2, 4, 4, 1)
KNOWN = np.arange(16).reshape(SHAPE[1:]) % 3 == 0
Z = np.random.default_rng(0).normal(size=(3, 4, *SHAPE))


@pytest.fixture
def both(x64):
    """Names -> (published, default) of one run of three steps, with one noise, and the image."""
    data, operator = mixture_16d(), inverse.inpainting(SHAPE[1:], KNOWN)
    stepper = steppers.chain(steppers.at_start(steppers.Langevin(0.1)), steppers.EulerMaruyama(SDE))
    sampler = with_noise(Sampler(SDE, stepper, uniform(SDE, 3, 1e-2), "mean"), Z)

    @jax.jit
    def run(image):
        given = inverse.Measurement(operator, operator.forward(image), jnp.zeros(len(image)))
        found = {"start": [], "x": [], "mean": [], "final": []}
        for published in (True, False):
            condition = SOLVERS["imputation"](published=published)
            changed, score_fn = condition(sampler, data.score_fn(SDE), given)
            assert changed.stepper.draws == 4 and changed.evaluations == sampler.evaluations
            start = changed.begin(KEY, SHAPE, image.dtype)
            one = changed.advance(KEY, score_fn, start, 0, 1)
            end = changed.advance(KEY, score_fn, start, 0, 3)
            final = changed.finish(score_fn, end)
            for name, value in zip(found, (start.x, one.x, one.mean, final), strict=True):
                found[name].append(value)
        return found

    image = jnp.asarray(np.random.default_rng(1).normal(size=SHAPE))
    return {k: [np.asarray(v) for v in pair] for k, pair in run(image).items()}, image[:, KNOWN]


class TestDifferences:
    """What the published code does, and what is done by default."""

    def test_start(self, both):
        """Clean pixels beside noise of t_max, or pixels with that noise."""
        found, known = both
        published, default = found["start"]
        assert_close(published[:, KNOWN], known, 1e-12)
        prior = SDE.prior_sample(jax.random.fold_in(KEY, 0), SHAPE, jnp.float64)
        assert_close(default[:, KNOWN], SDE.perturb(known, jnp.asarray(1.0), prior[:, KNOWN]), 1e-9)
        for start in (published, default):
            assert_close(start[:, ~KNOWN], prior[:, ~KNOWN], 1e-12)

    def test_noise_of_known_pixels_after_the_predictor(self, both):
        """That of the start of the step, or of its end."""
        found, known = both
        times = jnp.asarray(uniform(SDE, 3, 1e-2))
        for x, t in zip(found["x"], times[:2], strict=True):
            assert_close(x[:, KNOWN], SDE.perturb(known, t, jnp.asarray(Z[0, 3][:, KNOWN])), 1e-9)

    def test_mean(self, both):
        """Unknown pixels with the noise of the step, or without it."""
        found, _ = both
        noisy, clean = (np.abs(x - m)[:, ~KNOWN] for x, m in zip(found["x"], found["mean"]))
        assert noisy.max() < 1e-12
        times = uniform(SDE, 3, 1e-2)
        g = np.sqrt(SDE.coefficients(jnp.asarray(1.0))[1] * (times[0] - times[1]))
        assert_close(clean, np.abs(g * Z[0, 2][:, ~KNOWN]), 1e-9)

    def test_end(self, both):
        """Known pixels are alpha times the image, or the image to the last bit."""
        found, known = both
        published, default = found["final"]
        alpha = SDE.marginal(jnp.asarray(uniform(SDE, 3, 1e-2)[2]))[0]
        assert_close(published[:, KNOWN], alpha * known, 1e-9)
        np.testing.assert_array_equal(default[:, KNOWN], known)


def test_basis():
    """The published matrix has seven digits; the default is orthogonal."""
    published, default = (
        inverse.grey_channel((1, 1, 3), m).operator for m in (inverse.PUBLISHED_BASIS, None)
    )
    assert default.orthogonal and not published.orthogonal
    grey = jnp.full((1, 1, 1, 3), 0.4)
    for basis in (published, default):
        assert_close(basis.forward(grey)[..., 0], [[[0.4 * 3**0.5]]], 1e-6)
