"""config.sampling: predictor, corrector, time grid, and the published samplers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mathcases import published_noise, reference_chain, reference_mixture, with_noise
from small import settings

from golden import assert_close, cases, load, meta
from score_sde import grids, steppers
from score_sde.build.data import build_pixel_range
from score_sde.build.process import build_process
from score_sde.build.sampler import build_sampler, with_evaluations
from score_sde.errors import UserError
from score_sde.sampling import Sampler
from score_sde.sde import EDM, VP, CosineVP, DiscreteChain, PublishedSteps


def sampler(recipe: str, *overrides: str) -> Sampler:
    """The sampler of a recipe with other values of some entries."""
    values = settings(recipe, *overrides)
    process, pixels = build_process(values.sde), build_pixel_range(values.data)
    return build_sampler(values.sampling, process, pixels)


@pytest.mark.parametrize(
    ("recipe", "override", "message"),
    [
        (
            "ve",
            "sampling.predictor=foo",
            r"config.sampling.predictor: unknown name 'foo'; known: euler_maruyama",
        ),
        (
            "ve",
            "sampling.corrector=foo",
            r"config.sampling.corrector: unknown name 'foo'; known: langevin",
        ),
        (
            "ve",
            "sampling.grid=foo",
            r"config.sampling.grid: unknown name 'foo'; known: uniform, levels, log_snr, karras",
        ),
        ("ve", "sampling.corrector_steps=0", r"config.sampling.corrector_steps must be at least 1"),
        ("vp", "sampling.t_end=1", r"config.sampling.t_end must be in \[0, 1.0\); got 1.0"),
        (
            "ddpm",
            "sampling.steps=5000",
            r"chain of 1000 noise levels can be sampled in 1 to 1000 steps; got n=5000",
        ),
        (
            "ddpm",
            "sampling.steps=1",
            r"steps must be at least 2 for a discrete chain with denoise=tweedie; got 1",
        ),
        (
            "ncsnv2",
            "sampling.compat=published",
            r"grid=levels is the sampler of the published NCSN codes already",
        ),
        (
            "ncsnv2",
            "sde.n=10",
            r"steps is the number of noise levels to visit, at most sde.n=10; got 22",
        ),
        (
            "ncsnv2",
            "sampling.predictor=ancestral",
            r"predictor must be none.* DiscreteChain, predictor=ancestral",
        ),
        ("ncsnv2", "sampling.corrector=none", r"corrector must move the samples.*corrector=none"),
        ("ncsnv2", "sampling.snr=1", r"snr must be below 1.*got 1.0"),
        ("ddpm", "sampling.grid=karras", r"only grid=uniform and levels exist for discrete chains"),
        (
            "ddpm",
            "sampling.predictor=euler_maruyama",
            r"use predictor=reverse_diffusion or ancestral",
        ),
    ],
)
def test_impossible_samplers_are_refused(recipe: str, override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        sampler(recipe, override)


def test_published_sampler_exists_for_published_processes_alone() -> None:
    values = settings("ve", "sampling.compat=published")
    for process in (EDM(), CosineVP()):
        with pytest.raises(
            UserError, match=rf"no published sampler for {type(process).__name__}; use compat=none"
        ):
            build_sampler(values.sampling, process, build_pixel_range(values.data))
    with pytest.raises(UserError, match="and uniform alone for compat=published"):
        sampler("ve", "sampling.compat=published", "sampling.grid=log_snr")


def test_default_sampler_is_predictor_then_corrector_on_a_grid_that_fits() -> None:
    made = sampler(
        "ve",
        "sampling.snr=0.2",
        "sampling.corrector_steps=3",
        "sampling.steps=7",
        "sampling.t_end=0.1",
    )
    predictor, corrector = made.stepper.steppers
    assert predictor == steppers.ReverseDiffusion(made.process, 1.0)
    assert (corrector.snr, corrector.n_steps, corrector.norm) == (0.2, 3, "sample")
    np.testing.assert_allclose(corrector.alpha(jnp.asarray([0.5])), 1.0)
    np.testing.assert_allclose(made.times, np.linspace(1, 0.1, 8))
    assert made.denoise == "tweedie" and made.evaluations == 7 * 4 + 1


def test_predictors_and_grids() -> None:
    plain = ("sampling.corrector=none", "sampling.steps=5", "sampling.t_end=0.1")
    stepper = sampler("vp", *plain, "sampling.predictor=probability_flow").stepper
    assert isinstance(stepper, steppers.ReverseDiffusion) and stepper.eta == 0
    stepper = sampler(
        "vp", *plain, "sampling.predictor=ancestral", "sampling.variance=posterior"
    ).stepper
    assert isinstance(stepper, steppers.Ancestral) and stepper.variance == "posterior"
    assert sampler(
        "vp", *plain, "sampling.predictor=euler_maruyama"
    ).stepper == steppers.EulerMaruyama(VP(), 1.0)
    assert isinstance(sampler("vp", *plain, "sampling.predictor=none").stepper, steppers.Identity)
    np.testing.assert_allclose(
        sampler("vp", *plain, "sampling.grid=log_snr").times, grids.log_snr_uniform(VP(), 5, 0.1)
    )
    np.testing.assert_allclose(
        sampler("vp", *plain, "sampling.grid=karras").times, grids.karras(VP(), 5, 0.1)
    )
    with pytest.raises(
        UserError, match=r"t_end must be in \[t_min, t_max\) = \[0.001, 1.0\); got t_end=0.0005"
    ):
        sampler("vp", *plain[:2], "sampling.t_end=0.0005", "sde.t_min=0.001")
    chain = sampler("ddpm", *plain[:2])
    np.testing.assert_array_equal(
        chain.times, [999, 799, 599, 399, 199]
    )  # then Tweedie's formula, to -1
    assert chain.evaluations == 5
    chain = sampler("ddpm", *plain[:2], "sampling.denoise=none")
    np.testing.assert_array_equal(chain.times, [999, 799, 599, 399, 199, -1])


THEIR_PREDICTORS = {
    "euler_maruyama": "euler_maruyama",
    "reverse_diffusion": "reverse_diffusion",
    "ancestral_sampling": "ancestral",
    "none": "none",
}
THEIR_CORRECTORS = {"langevin": "langevin", "ald": "annealed_langevin", "none": "none"}


def _configurable(stored) -> bool:
    """Runs between continuous times; the flow of a configuration is that of reverse diffusion."""
    settings = meta(stored)
    flow = settings["predictor"] == "reverse_diffusion" or settings["sde"] == "subvp"
    return settings["continuous"] and (flow or not settings["probability_flow"])


@pytest.mark.parametrize("run", cases("math/samplers_pc_*.npz", _configurable))
def test_compat_published_repeats_the_published_runs(x64: None, run: str) -> None:
    stored = load(run)
    settings, name = meta(stored), meta(stored)["sde"]
    predictor = THEIR_PREDICTORS[settings["predictor"]]
    ends = [
        f"sde.{k}={float(stored[k])}"
        for k in ("sigma_min", "sigma_max", "beta_min", "beta_max")
        if k in stored
    ]
    made = sampler(
        name,
        *ends,
        "sampling.compat=published",
        "sampling.predictor=" + ("probability_flow" if settings["probability_flow"] else predictor),
        f"sampling.corrector={THEIR_CORRECTORS[settings['corrector']]}",
        f"sampling.snr={float(stored['snr'])}",
        f"sampling.corrector_steps={int(stored['n_steps'])}",
        f"sampling.steps={int(stored['N'])}",
        f"sampling.t_end={float(stored['eps'])}",
    )
    assert made.denoise == "mean"
    score_fn = reference_mixture(stored).score_fn(made.process)
    made = with_noise(made, published_noise(stored, made.stepper))

    @jax.jit
    def advance(x):
        return made.advance(jax.random.key(0), score_fn, made.start(x), 0, made.steps)

    end = advance(jnp.asarray(stored["x_init"], float))
    assert_close(end.x, stored["final_no_denoise"], 1e-8)
    assert_close(made.finish(score_fn, end), stored["final_denoise"], 1e-8)


def test_compat_published_walks_a_discrete_chain_by_its_index() -> None:
    made = sampler(
        "ddpm", "sampling.compat=published", "sampling.corrector=langevin", "sampling.snr=0.1"
    )
    corrector, predictor = made.stepper.steppers
    assert isinstance(corrector, steppers.at_start) and corrector.stepper.norm == "batch"
    assert isinstance(predictor, steppers.Ancestral) and predictor.process is made.process
    chain = DiscreteChain.ddpm()
    t = jnp.asarray([10.0, 999.0])
    np.testing.assert_allclose(
        corrector.stepper.alpha(t), chain.transition(t, t - 1)[0] ** 2, rtol=1e-6
    )


def test_published_view_has_as_many_levels_as_steps() -> None:
    made = sampler(
        "ve", "sampling.compat=published", "sampling.steps=7", "sampling.predictor=ancestral"
    )
    table = made.stepper.steppers[1].process
    assert isinstance(table, PublishedSteps)
    stored = {"sigma_min": 0.01, "sigma_max": 10.0, "N": 7}
    np.testing.assert_allclose(table.chain.sigmas, reference_chain("ve", stored).sigmas)
    np.testing.assert_allclose(made.times, grids.published(7, 1e-5))


def test_start_is_the_prior_or_uniform_in_the_range_of_the_pixels() -> None:
    assert sampler("ve").uniform is None
    assert sampler("ncsnv2").uniform == (0.0, 1.0)
    assert sampler("vp", "sampling.start=uniform").uniform == (-1.0, 1.0)


@pytest.mark.parametrize("recipe", ["vp", "ve"])
@pytest.mark.parametrize(
    ("predictor", "corrector"),
    [("ddim", "none"), ("heun", "none"), ("unipc", "none"), ("reverse_diffusion", "langevin")],
)
@pytest.mark.parametrize("evaluations", [4, 21, 50])
def test_steps_for_evaluations_are_the_most_that_fit(
    recipe: str, predictor: str, corrector: str, evaluations: int
) -> None:
    own = settings(recipe)
    process, pixels = build_process(own.sde), build_pixel_range(own.data)
    plain = dataclasses.replace(own.sampling, predictor=predictor, corrector=corrector)
    found = with_evaluations(plain, process, pixels, evaluations)
    more = dataclasses.replace(found, steps=found.steps + 1)
    fits, too_many = (build_sampler(s, process, pixels).evaluations for s in (found, more))
    assert fits <= evaluations < too_many
    with pytest.raises(UserError, match=r"makes? \d evaluations of the network; got 0"):
        with_evaluations(plain, process, pixels, 0)
