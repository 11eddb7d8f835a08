"""MRI of the published code, number for number, and what differs here."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from inverseruns import check_run
from mathcases import SDES, mixture_16d, reference_sde

from golden import assert_close, cases, load, meta
from score_sde import grids, guidance, inverse, steppers
from score_sde.arrays import sample_keys
from score_sde.errors import UserError
from score_sde.sampling import Sampler
from score_sde.solvers import SOLVERS

TOLERANCE = 1e-9
STEP = "math/inverse_mri_step"


def measured(stored):
    """The measurement of a stored image, without noise."""
    image = jnp.asarray(stored["image"])
    operator = inverse.single_coil(image.shape[1:], stored["mask"].astype(bool))
    return inverse.measure(operator, operator.forward(image), 0.0)


def test_one_step(x64):
    """k-space, known data at the noise level, and the step for each stored lambda."""
    stored = load(STEP)
    given, sde = measured(stored), reference_sde("ve", stored)
    fourier, x = given.operator.operator, jnp.asarray(stored["x"])
    assert_close(given.y, stored["known_kspace"] * stored["mask"][None, ..., None], TOLERANCE)
    assert_close(given.operator.adjoint(given.y), stored["zero_filled"], TOLERANCE)
    assert_close(fourier.forward(x), stored["x_kspace"], TOLERANCE)
    sigma = sde.marginal(jnp.asarray(stored["t"]))[1]
    assert_close(sigma, stored["std"], TOLERANCE)
    state = jnp.ones_like(sigma), sigma, jnp.asarray(stored["noise"].astype(float))
    results = [key for key in stored if key.startswith("x_new_lambda")]
    assert results
    for key in results:
        moved = inverse.merged(given, float(key.removeprefix("x_new_lambda")))(x, *state)
        assert_close(moved, stored[key], TOLERANCE, key)


def test_odd_sizes(x64):
    stored = load(STEP)
    k = inverse.centred_fft2(jnp.asarray(stored["odd_image"]))
    assert_close(k, stored["odd_kspace"], TOLERANCE)
    assert_close(inverse.centred_ifft2(k).real, stored["odd_back"], TOLERANCE)


def test_masks():
    """Columns kept, and how many of them."""
    stored = load("math/inverse_masks")
    kept = meta(stored)["cartesian_columns_kept"]
    found = [key for key in stored if key.startswith("cartesian_")]
    assert found
    for key in found:
        *_, size, n_keep = key.split("_")
        height, width = (int(n) for n in size.split("x")) if "x" in size else (int(size),) * 2
        mask = inverse.published_equispaced(height, width, int(n_keep))
        assert mask.shape == (height, width)
        wanted = np.broadcast_to(stored[key].astype(bool), mask.shape)
        np.testing.assert_array_equal(mask, wanted, key)
        if "x" not in size:
            assert mask[0].sum() == kept[f"{size}_{n_keep}"]


@pytest.mark.parametrize("case", cases("math/inverse_run_mri_*.npz"))
def test_runs(case, x64):
    """The state before and after each update, and the end."""
    stored = load(case)
    check_run(stored, measured(stored), TOLERANCE)


SDE, EVENT = SDES["ve"], (4, 4, 1)
SCORE = mixture_16d().score_fn(SDE)
LOPSIDED = np.tile([True, False, True, False], (4, 1))
LOPSIDED[1, 1] = True
"""Frequency (-1, -1) is known, but not (1, 1)."""
IMAGES = np.random.default_rng(1).normal(size=(3, *EVENT)).astype(np.float32)


def small(std=0.0):
    """The measurement of IMAGES by a mask without mirror symmetry."""
    operator = inverse.single_coil(EVENT, LOPSIDED)
    return inverse.measure(operator, operator.forward(jnp.asarray(IMAGES)), std)


def residual(given, x):
    """|A x - y|/|y| of each sample."""
    seen = np.asarray(given.operator.forward(jnp.asarray(x)))
    rest, y = (v.reshape(len(v), -1) for v in (seen - given.y, np.asarray(given.y)))
    return np.linalg.norm(rest, axis=1) / np.linalg.norm(y, axis=1)


CLEAN = jnp.asarray(1.0), jnp.asarray(0.0), None
SAMPLER = Sampler(
    SDE,
    steppers.chain(steppers.at_start(steppers.Langevin(0.2)), steppers.ReverseDiffusion(SDE)),
    grids.uniform(SDE, 3, 1e-2),
)
NAMES = ("projection", "langevin_projection")


@pytest.fixture(scope="module")
def ends():
    """std of the second image -> (solver, published) -> samples, all with the same draws."""

    @jax.jit
    def samples(keys, given):
        found = {}
        for name in NAMES:
            for published in (True, False):
                solver = SOLVERS[name](published=published)
                sampler, score_fn = solver(SAMPLER, SCORE, given)
                found[name, published] = sampler(keys, score_fn, IMAGES.shape).x
        return found

    keys = sample_keys(jax.random.key(2), jnp.arange(3))
    return {std: samples(keys, small([0.0, std, 0.0])) for std in (0.0, 0.3)}


class TestDifferences:
    """What the published code does, and what is done by default."""

    @pytest.mark.parametrize(("n_keep", "missed"), [(10, 0.66), (30, 0.61), (60, 0.28)])
    def test_the_real_part(self, n_keep, missed):
        """lambda = 1 with a published mask leaves |A x - y| = 0.28 to 0.66 |y|, or nothing."""
        x, image = np.random.default_rng(0).uniform(size=(2, 1, 240, 240, 1)).astype(np.float32)
        x, image = x - x.mean(), image - image.mean()
        mask = inverse.published_equispaced(240, 240, n_keep)
        operator = inverse.single_coil((240, 240, 1), mask)
        given = inverse.measure(operator, operator.forward(jnp.asarray(image)), 0.0)
        published = inverse.merged(given)(jnp.asarray(x), *CLEAN)
        assert residual(given, published)[0] == pytest.approx(missed, abs=0.03)
        assert residual(given, inverse.consistent(given)(jnp.asarray(x), *CLEAN))[0] <= 1e-6

    def test_masks_with_mirror_symmetry_have_no_difference(self):
        row, column = np.indices((5, 6))
        mask = (np.abs(row - 2) + np.abs(column - 3)) % 3 == 0  # column 0 is its own mirror
        operator = inverse.single_coil((5, 6, 1), mask)
        x, image, z = np.random.default_rng(3).normal(size=(3, 2, 5, 6, 1)).astype(np.float32)
        given = inverse.measure(operator, operator.forward(jnp.asarray(image)), 0.0)
        state = jnp.asarray(x), jnp.asarray(0.8), jnp.asarray(0.5), jnp.asarray(z)
        for strength in (1.0, 0.4):
            published = inverse.merged(given, strength)(*state)
            assert_close(published, inverse.consistent(given, strength)(*state), 1e-5)

    @pytest.mark.parametrize("name", NAMES)
    def test_runs_end_at_the_data(self, name, ends):
        """By default |A x - y| <= 1e-5 |y|, with dynamics of its own or the sampler's."""
        assert residual(small(), ends[0.0][name, False]).max() <= 1e-5
        assert residual(small(), ends[0.0][name, True]).min() > 0.02

    @pytest.mark.parametrize("name", NAMES)
    @pytest.mark.parametrize("published", [True, False])
    def test_the_end_of_noisy_data(self, name, published, ends):
        """The published code repeats their noise; by default they are left as they are."""
        pair = (np.asarray(ends[std][name, published]) for std in ends)
        same = np.equal(*pair).all(axis=(1, 2, 3))
        np.testing.assert_array_equal(same, [True, published, True])

    def test_the_last_lambda(self):
        """Published: 1 after predictors, that of the run after Langevin dynamics. Default: 1."""
        given, x = small(), jnp.asarray(IMAGES[[1, 2, 0]])
        for name, last in (("projection", 1.0), ("langevin_projection", 0.5)):
            for published in (True, False):
                finish = SOLVERS[name](0.5, published=published)(SAMPLER, SCORE, given)[0].on_finish
                move = inverse.merged(given, last) if published else inverse.consistent(given, 1.0)
                assert_close(finish(x), move(x, *CLEAN), 1e-6)

    @pytest.mark.parametrize("norm", ["sample", "batch"])
    def test_step_sizes_of_the_corrector(self, norm):
        """Batch means make an image depend on its neighbours; norms of each sample do not."""
        given, solver = small(), SOLVERS["score_sde"]()
        sampler = dataclasses.replace(SAMPLER, stepper=steppers.Langevin(0.2, 1, norm))
        x, z = jnp.asarray(IMAGES[[1, 2, 0]]), jnp.asarray(IMAGES[::-1])

        def corrected(rows):
            part = jax.tree.map(lambda v: v[:rows] if len(v) == 3 else v, given)
            changed, score_fn = solver(sampler, SCORE, part)
            t = jnp.asarray(0.7)
            return changed.stepper(score_fn, x[:rows], t, t, lambda j: z[:rows], ((),))[0]

        whole, alone = (jax.jit(corrected, static_argnums=0)(rows) for rows in (3, 1))
        gap = np.abs(whole[0] - alone[0]).max()
        assert gap <= 1e-4 if norm == "sample" else gap > 1e-2

    def test_relative_scale(self):
        """|added| = 5 |score| in each sample. The published code has norms of the batch."""
        given, t, x = small(), jnp.asarray([0.2, 0.5, 0.9]), jnp.asarray(IMAGES[[1, 2, 0]])
        score = np.asarray(SCORE(x, t)).reshape(3, -1)
        back = given.operator.adjoint(given.y - given.operator.forward(x)).reshape(3, -1)
        direction = np.asarray(back / jnp.linalg.norm(back, axis=1, keepdims=True))
        for weight in (5.0, 2.0):
            guided = guidance.annealed_relative(SCORE, SDE, given, weight)(x, t)
            added = np.asarray(guided).reshape(3, -1) - score
            wanted = weight * np.linalg.norm(score, axis=1, keepdims=True)
            assert_close(added / wanted, direction, 1e-4)


def test_the_annealed_likelihood():
    """It is the gradient of -|y_t - A x|^2/(2 variance), noise of the measurement included."""
    given, w = small([0.0, 0.2, 0.7]), jnp.asarray(IMAGES[:, ::-1])
    sde, x, t = SDES["vp"], jnp.asarray(IMAGES[::-1]), jnp.asarray([0.2, 0.5, 0.9])
    alpha, sigma = (v[:, None, None, None] for v in sde.marginal(t))
    std = given.std[:, None, None, None]
    operator = given.operator

    def log_density(x, noise):
        seen = alpha.astype(jnp.complex64) * given.y + operator.forward(sigma * noise)
        square = jnp.abs(seen - operator.forward(x)) ** 2
        return -jnp.sum(square / (2 * ((0.7 * sigma) ** 2 + (alpha * std) ** 2)))

    for noise in (w, None):
        guided = guidance.annealed(lambda x, t: jnp.zeros_like(x), sde, given, 0.7, noise)(x, t)
        wanted = jax.grad(log_density)(x, jnp.zeros_like(x) if noise is None else noise)
        assert_close(guided, wanted, 1e-4)


def test_published_numbers_are_the_defaults():
    sampler, given = SAMPLER, small()
    dynamics = {
        "langevin": SOLVERS["langevin"]()(sampler, SCORE, given)[0].stepper.stepper,
        "projection": SOLVERS["langevin_projection"]()(sampler, SCORE, given)[0].stepper,
    }
    assert dynamics["langevin"] == steppers.AnnealedLangevin(SDE, 0.212, 3)
    assert dynamics["projection"].steppers[1] == steppers.AnnealedLangevin(SDE, 0.386, 3)
    x, t = jnp.asarray(IMAGES), jnp.full(3, 0.5)
    for options, wanted in (
        ({}, guidance.annealed(SCORE, SDE, given, 0.713)),
        ({"rate": 2.0}, guidance.annealed(SCORE, SDE, given, 2.0)),
        ({"scale": "relative"}, guidance.annealed_relative(SCORE, SDE, given, 5.0)),
    ):
        stepper = SOLVERS["langevin"](**options)(sampler, SCORE, given)[0].stepper
        assert stepper.draws == 3
        assert_close(stepper.guide(SCORE, None)(x, t), wanted(x, t), 1e-6)
    stepper = SOLVERS["score_sde"]()(sampler, SCORE, given)[0].stepper.steppers[0]
    wanted = guidance.annealed(SCORE, SDE, given, 1.231, x)
    assert_close(stepper.guide(SCORE, x)(x, t), wanted(x, t), 1e-6)


def test_what_is_refused():
    dense = inverse.block_mean(EVENT, 2)
    other = inverse.measure(dense, jnp.zeros((1, 2, 2, 1)), 0.0)
    for name in ("projection", "langevin_projection"):
        with pytest.raises(UserError, match="Separable does not say which are known"):
            SOLVERS[name](published=True).check(other)
    with pytest.raises(ValueError, match="Separable does not say which of its data"):
        inverse.merged(other)
    for options, words in (
        ({"scale": "batch"}, "scale"),
        ({"weight": 2.0}, "weight=2.0 means nothing to scale='rate'"),
        ({"scale": "relative", "rate": 1.0}, "rate=1.0 means nothing"),
    ):
        with pytest.raises((ValueError, TypeError), match=words):
            SOLVERS["langevin"](**options)
    with pytest.raises(ValueError, match="rate must be positive"):
        guidance.annealed(SCORE, SDE, other, 0.0)
    with pytest.raises(ValueError, match="weight must be positive"):
        guidance.annealed_relative(SCORE, SDE, other, -1.0)
    with pytest.raises(UserError, match="n_keep must be"):
        inverse.published_equispaced(8, 8, 9)
