"""Stored runs of published predictor-corrector samplers: their samplers, and every half step."""

import dataclasses
import functools

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


PLAIN = {"traj_corrector": 1, "traj_predictor": 2}
"""Stored states of a plain run, and how many parts of the chain have acted by then."""


def follow(stored, sampler, score_fn, state, tol, stages=PLAIN):
    """Check every stored half step of a run from a state; its last state.

    The sampler has the stored noise. Its steps are taken one by one, and once more all together.
    `stages`: see `PLAIN`.
    """
    parts, key = sampler.stepper.steppers, jax.random.key(0)

    @functools.partial(jax.jit, static_argnums=0)
    def advance(count, state, first, last):
        part = dataclasses.replace(sampler, stepper=chain(*parts[:count]))
        return part.advance(key, score_fn, part.start(state.x), first, last)

    end = advance(len(parts), state, 0, sampler.steps)
    for i in range(sampler.steps):
        for name, count in stages.items():
            if parts[count - 1].draws or f"{name}_x" in stored:
                _compare(stored, name, i, advance(count, state, i, i + 1), tol)
        state = advance(len(parts), state, i, i + 1)
    assert_close(end.x, state.x, tol, "all steps together")
    return end


def with_stored_noise(stored, sampler, precision="float64"):
    """The sampler with the noise of a plain stored run."""
    return with_noise(sampler, jnp.asarray(published_noise(stored, sampler.stepper), precision))


def _compare(stored, name, i, state, tol):
    assert_close(state.x, stored[f"{name}_x"][i], tol, f"{name} {i}")
    if f"{name}_mean" in stored:
        assert_close(state.mean, stored[f"{name}_mean"][i], tol, f"{name} mean {i}")
