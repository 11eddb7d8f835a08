"""Stored runs of published predictor-corrector samplers: their samplers, and every half step."""

import dataclasses

import jax
import jax.numpy as jnp
from mathcases import published_noise, reference_chain, reference_mixture, reference_sde, with_noise

from golden import assert_close, meta
from score_sde import grids
from score_sde.sampling import Sampler
from score_sde.sde import PublishedSteps
from score_sde.steppers import (
    Ancestral,
    AnnealedLangevin,
    EulerMaruyama,
    Identity,
    Langevin,
    ReverseDiffusion,
    at_start,
    chain,
    step_alpha,
)


def published_sampler(stored, native=False):
    """(sampler, score function) of a reference run; `native` walks the chain by index."""
    settings = meta(stored)
    name, discrete = settings["sde"], not settings.get("continuous", True)
    steps, sde = None, reference_sde(name, stored)
    if name != "subvp":
        levels = reference_chain(name, stored)
        steps = levels if native else PublishedSteps(levels)
    process = steps if discrete else sde
    eta = 0.0 if settings.get("probability_flow") else 1.0
    reverse = EulerMaruyama(sde, eta) if name == "subvp" else ReverseDiffusion(steps, eta)
    variance = "posterior" if name == "ve" else "forward"
    predictor = {
        "euler_maruyama": lambda: EulerMaruyama(sde, eta),
        "reverse_diffusion": lambda: reverse,
        "ancestral_sampling": lambda: Ancestral(steps, variance),
        "none": Identity,
    }[settings["predictor"]]()
    snr, n_steps = float(stored["snr"]), int(stored["n_steps"])
    corrector = {
        "langevin": lambda: Langevin(snr, n_steps, "batch", step_alpha(steps)),
        "ald": lambda: AnnealedLangevin(process, snr, n_steps, step_alpha(steps)),
        "none": Identity,
    }[settings["corrector"]]()
    times = grids.published(int(stored["N"]), float(stored["eps"]))
    if native:
        times = grids.chain_steps(levels)
    sampler = Sampler(process, chain(at_start(corrector), predictor), times, denoise="mean")
    return sampler, reference_mixture(stored).score_fn(process)


def follow(stored, sampler, score_fn, x_init, precision, tol):
    """Check every stored half step of a run; (the sampler with the stored noise, its last state).

    The steps are taken one by one, and once more all together.
    """
    corrector, _ = sampler.stepper.steppers
    noise = jnp.asarray(published_noise(stored, sampler.stepper), precision)
    sampler, key = with_noise(sampler, noise), jax.random.key(0)
    half = dataclasses.replace(sampler, stepper=corrector)

    @jax.jit
    def advance(state, first, last):
        return sampler.advance(key, score_fn, state, first, last)

    @jax.jit
    def correct(state, i):
        return half.advance(key, score_fn, half.start(state.x), i, i + 1)

    start = state = sampler.start(jnp.asarray(x_init, precision))
    end = advance(start, 0, sampler.steps)
    for i in range(sampler.steps):
        if corrector.draws:
            half_way = correct(state, i)
            _compare(stored, "corrector", i, half_way, tol)
        state = advance(state, i, i + 1)
        _compare(stored, "predictor", i, state, tol)
    assert_close(end.x, state.x, tol, "all steps together")
    return sampler, end


def _compare(stored, part, i, state, tol):
    assert_close(state.x, stored[f"traj_{part}_x"][i], tol, f"{part} {i}")
    if f"traj_{part}_mean" in stored:
        assert_close(state.mean, stored[f"traj_{part}_mean"][i], tol, f"{part} mean {i}")
