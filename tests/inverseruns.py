"""Stored runs of the published solvers of inverse problems, repeated with their noise."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from mathcases import reference_chain, reference_mixture, reference_sde, with_noise

from golden import assert_close, meta
from score_sde import inverse, steppers
from score_sde.sampling import Sampler
from score_sde.sde import PublishedSteps
from score_sde.solvers import SOLVERS


def plain_sampler(stored):
    """The sampler of a stored run. Its steps stay at their times, as Tweedie's formula needs."""
    process = reference_sde("ve", stored)
    chain = PublishedSteps(reference_chain("ve", stored))
    snr, n_steps = float(stored["snr"]), int(stored["n_steps"])
    predictor = {
        "reverse_diffusion": lambda: steppers.ReverseDiffusion(chain),
        "ancestral_sampling": lambda: steppers.Ancestral(chain),
        None: lambda: None,
    }[meta(stored)["predictor"]]
    corrector = {
        "LangevinCorrector": lambda: steppers.Langevin(snr, n_steps, "batch"),
        "AnnealedLangevinDynamics": lambda: steppers.AnnealedLangevin(process, snr, n_steps),
        "NoneCorrector": steppers.Identity,
    }[meta(stored)["corrector"]]
    chosen = corrector(), predictor()
    stepper = steppers.chain(*(part for part in chosen if part is not None))
    times = np.stack([stored["timesteps"]] * 2, axis=1)
    return Sampler(process, stepper, times), reference_mixture(stored).score_fn(process)


RATE, DYNAMICS = {"projection_sigma_rate": "rate"}, {"snr": "snr", "n_steps": "n_steps"}
ROWS = {
    "projection": ("projection", {"lambda": "strength"}),
    "langevin_projection": ("langevin_projection", {"lambda": "strength", **DYNAMICS}),
    "baseline": ("score_sde", RATE),
    "langevin": ("langevin", RATE | DYNAMICS),
}
"""By the name of a solver in the files: the name here, and its options by their keys there."""


def solver_of(stored):
    """The solver of a stored run, with the options that the file states."""
    name, options = ROWS[meta(stored)["solver"]]
    found = {option: stored[key].item() for key, option in options.items()}
    return SOLVERS[name](**found, **({"published": True} if "projection" in name else {}))


def half_steps(sampler, score_fn, noise):
    """(x, i) -> the states after 0, 1, ... parts of the chain in step i."""
    parts = getattr(sampler.stepper, "steppers", (sampler.stepper,))

    @jax.jit
    def step(x, i):
        states, first = [x], 0
        for part in parts:
            alone = with_noise(dataclasses.replace(sampler, stepper=part), noise[:, first:])
            start = alone.start(states[-1])
            states.append(alone.advance(jax.random.key(0), score_fn, start, i, i + 1).x)
            first += part.draws
        return states

    return step, [i for i, part in enumerate(parts) if not is_consistency(part)]


def is_consistency(part):
    """Whether a part is data consistency, at the start of the step or not."""
    return isinstance(getattr(part, "stepper", part), inverse.Consistency)


def check_run(stored, given, tolerance):
    """The state before and after each update, and the end, for the measurement of the run."""
    sampler, score_fn = solver_of(stored)(*plain_sampler(stored), given)
    assert_close(np.asarray(sampler.times)[:, 0], stored["timesteps"], tolerance)
    noise = stored["noise"].astype(float)
    assert noise.shape[:2] == (sampler.steps, sampler.stepper.draws)
    step, updates = half_steps(sampler, score_fn, noise)
    assert len(updates) == len(meta(stored)["updates"]) == stored["state_before"].shape[1]
    prior = sampler.process.prior_std * stored["prior_noise"].astype(float)
    x = jnp.asarray(prior)
    for i in range(sampler.steps):
        states = step(x, i)
        for j, part in enumerate(updates):
            assert_close(states[part], stored["state_before"][i, j], tolerance, f"before {i} {j}")
            assert_close(states[part + 1], stored["state_after"][i, j], tolerance, f"{i} {j}")
        x = states[-1]
    whole = with_noise(sampler, noise)

    @jax.jit
    def run(x):
        end = whole.advance(jax.random.key(0), score_fn, whole.start(x), 0, whole.steps)
        return end.x, whole.finish(score_fn, end)

    end, final = run(jnp.asarray(prior))
    assert_close(end, x, tolerance, "all steps together")
    assert_close(final, stored["final"], tolerance, "final")
