"""Samplers: runs of the published codes, number for number."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mathcases import reference_mixture, with_noise
from pccases import follow, published_sampler, with_stored_noise

from golden import assert_close, cases, load, meta
from score_sde import grids
from score_sde.arrays import sample_keys
from score_sde.conditioning import noise_interpolation
from score_sde.sampling import Sampler
from score_sde.sde import DiscreteChain
from score_sde.steppers import AnnealedLangevin, InpaintingLangevin

RUNS = cases("math/samplers_pc_*.npz")
DISCRETE_RUNS = cases("math/samplers_pc_*.npz", lambda stored: not meta(stored)["continuous"])


def _annealed(kind):
    """Runs of annealed Langevin dynamics: "plain", "inpainting" or "interpolation"."""
    keys = {"inpainting": "refer_image", "interpolation": "n_interpolations"}

    def is_kind(stored):
        return kind == next((name for name, key in keys.items() if key in stored), "plain")

    return cases("math/samplers_ald_*.npz", is_kind)


def _check_run(stored, sampler, score_fn, precision, tol):
    settings = meta(stored)
    x_init = sampler.process.prior_std * stored["prior_noise"].astype(float)
    assert_close(x_init, stored["x_init"], 1e-9 if settings["continuous"] else 1e-6)
    sampler = with_stored_noise(stored, sampler, precision)
    start = sampler.start(jnp.asarray(stored["x_init"], precision))
    end = follow(stored, sampler, score_fn, start, tol)
    assert_close(sampler.finish(score_fn, end), stored["final_denoise"], tol, "final_denoise")
    assert_close(end.x, stored["final_no_denoise"], tol, "final_no_denoise")
    # The reference counts calls for a predictor or corrector that is `none` as well.
    none_corrector = int(stored["n_steps"]) * (settings["corrector"] == "none")
    uncounted = (settings["predictor"] == "none") + none_corrector
    assert sampler.evaluations == int(stored["nfe"]) - uncounted * sampler.steps


class TestPublishedRuns:
    @pytest.mark.parametrize("run", RUNS)
    def test_float64(self, run, x64):
        stored = load(run)
        _check_run(stored, *published_sampler(stored), "float64", 1e-8)

    @pytest.mark.parametrize("run", DISCRETE_RUNS)
    def test_natively_by_index(self, run, x64):
        stored = load(run)
        _check_run(stored, *published_sampler(stored, native=True), "float64", 1e-8)

    @pytest.mark.parametrize("run", RUNS)
    def test_float32(self, run):
        stored = load(run)
        _check_run(stored, *published_sampler(stored), "float32", 1e-3)

    @pytest.mark.parametrize("precision", ["float64", "float32"])
    @pytest.mark.parametrize("run", _annealed("plain"))
    def test_annealed_langevin_of_ncsn(self, run, precision, request):
        """A chain whose levels are visited several times: steps from a level to itself."""
        if precision == "float64":
            request.getfixturevalue("x64")
        stored, tol = load(run), 1e-8 if precision == "float64" else 1e-3
        sigmas, repeats = stored["sigmas"], int(stored["n_steps_each"])
        levels = DiscreteChain(np.ones(len(sigmas)), sigmas[::-1].copy())
        index = np.repeat(np.arange(len(sigmas))[::-1], repeats).astype(float)
        snr = float(np.sqrt(stored["step_lr"] / 2) / sigmas[-1])
        sampler = Sampler(levels, AnnealedLangevin(levels, snr), np.stack([index, index], 1))
        noise = jnp.asarray(stored["noise"].reshape(-1, 1, *stored["x_init"].shape), precision)
        sampler, key = with_noise(sampler, noise), jax.random.key(0)
        score_fn = reference_mixture(stored).score_fn(levels)
        np.testing.assert_allclose(2 * (snr * sigmas) ** 2, stored["step_sizes"], rtol=1e-10)

        @jax.jit
        def advance(state, first, last):
            return sampler.advance(key, score_fn, state, first, last)

        start = state = sampler.start(jnp.asarray(stored["x_init"], precision))
        states = []
        for i in range(len(index)):
            assert_close(state.x, stored["states_before_update"][i], tol, f"state {i}")
            states.append(state.x)
            state = advance(state, i, i + 1)
        end = advance(start, 0, len(index))
        assert_close(end.x, stored["final_state_before_denoise"], tol)
        if "final_denoised" in stored:
            final = sampler.finish(score_fn, end)
            assert_close(final, stored["final_denoised"], tol)
            assert_close(jnp.stack([*states[1:], end.x, final]), stored["images_returned"], tol)
            assert_close(end.x, stored["final_only_no_denoise"], tol)
        else:  # NCSN, whose frames are clamped and lack the last update
            assert_close(jnp.clip(jnp.stack(states), 0, 1), stored["images_returned"], tol)
        assert sampler.evaluations == len(index) + 1

    @pytest.mark.parametrize("run", _annealed("inpainting"))
    def test_inpainting(self, run, x64):
        """Algorithm B.2 as in either code: every state at which the score is asked for."""
        stored = load(run)
        levels, snr, repeats = _stored_levels(stored)
        x = jnp.asarray(stored["x_init"].reshape(-1, *stored["x_init"].shape[2:]), float)
        copies = len(x) // len(stored["refer_image"])
        image = jnp.asarray(np.repeat(stored["refer_image"], copies, axis=0), float)
        known_columns = stored["noise_known_half"].shape[-2]
        known = jnp.arange(x.shape[2])[None, None, :, None] < known_columns
        # NCSN draws the noise of the known half once a level, NCSNv2 before each update.
        once = stored["noise_known_half"].ndim < stored["noise_langevin"].ndim
        langevin = AnnealedLangevin(levels, snr, repeats)
        stepper = InpaintingLangevin(langevin, image, known, "level" if once else "update")
        calls, mixture = [], reference_mixture(stored).score_fn(levels)

        def score_fn(x, t):
            calls.append(x)
            return mixture(x, t)

        sampler = Sampler(levels, stepper, grids.levels(levels), "none")
        sampler = with_noise(sampler, _stored_noise(stored, stepper, x.shape))
        with jax.disable_jit():
            end = sampler.advance(jax.random.key(0), score_fn, sampler.start(x), 0, sampler.steps)
        assert len(calls) == sampler.evaluations
        assert_close(jnp.stack(calls), stored["states_at_score_call"], 1e-8)
        if "final_state" in stored:
            assert_close(end.x, stored["final_state"], 1e-8)

    @pytest.mark.parametrize("run", _annealed("interpolation"))
    def test_interpolation(self, run, x64):
        """B.4.1: between two samples through the noise of annealed Langevin dynamics."""
        stored = load(run)
        levels, snr, repeats = _stored_levels(stored)
        copies, rows = int(stored["n_interpolations"]), len(stored["x_init"])
        x = jnp.asarray(np.repeat(stored["x_init"], copies, axis=0), float)
        keys, other_keys = (sample_keys(jax.random.key(i), jnp.arange(len(x))) for i in (0, 1))

        def noise(keys, i, j, x):
            z = jnp.asarray(stored["noise_q" if keys is other_keys else "noise_p"], x.dtype)[i, j]
            return jnp.repeat(z, copies, axis=0)

        stepper = AnnealedLangevin(levels, snr, repeats)
        sampler = Sampler(levels, stepper, grids.levels(levels), "none", noise=noise)
        angle = jnp.tile(jnp.linspace(0, jnp.pi / 2, copies), rows)
        sampler, score_fn = noise_interpolation(
            sampler,
            reference_mixture(stored).score_fn(levels),
            {"keys": other_keys, "angle": angle},
        )
        state = sampler.start(x)
        for i in range(len(stored["sigmas"])):
            assert_close(state.x, stored["states_before_update"][i * repeats], 1e-8)
            state = sampler.advance(keys, score_fn, state, i, i + 1)
        assert_close(state.x, stored["images_returned"][-1], 1e-8)


def _stored_levels(stored):
    """(chain, snr, updates at each level) of a stored run of annealed Langevin dynamics."""
    sigmas = stored["sigmas"]
    levels = DiscreteChain(np.ones(len(sigmas)), sigmas[::-1].copy())
    smallest, step_lr = float(sigmas[-1]), float(stored["step_lr"])
    snr = AnnealedLangevin.of_step_size(levels, step_lr, smallest, 1).snr
    return levels, snr, int(stored["n_steps_each"])


def _stored_noise(stored, stepper, shape):
    """(levels, draws, batch, ...): the stored noise in the order in which the stepper takes it."""
    known, steps = stored["noise_known_half"], stored["noise_langevin"]
    count, repeats = steps.shape[:2]
    half = np.zeros((*known.shape[: -len(shape) + 1], *shape[1:]))
    half[..., : known.shape[-2], :] = known
    half, steps = half.reshape(count, -1, *shape), steps.reshape(count, repeats, *shape)
    if stepper.renew == "level":
        return np.concatenate([half, steps], axis=1)
    return np.stack([half, steps], axis=2).reshape(count, 2 * repeats, *shape)
