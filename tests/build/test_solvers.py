"""The fast solvers by name: each is the method it is called, and takes its own options alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde import grids, steppers, tuning
from score_sde.analytic import GaussianMixture
from score_sde.build.sampler import PREDICTORS, build_sampler
from score_sde.build.settings import Sampling
from score_sde.build.solvers import NOISY, SOLVERS, solver
from score_sde.data import PixelRange
from score_sde.errors import UserError
from score_sde.sampling import Sampler
from score_sde.sde import EDM, VE, VP, DiscreteChain, Perturbation
from score_sde.steppers import Exponential, Multistep, RungeKutta, Singlestep

PIXELS = PixelRange(levels=256)
MIXTURE = GaussianMixture.isotropic([0.6, 0.4], np.asarray([[0.5, -0.3], [-0.4, 0.6]]), [0.1, 0.2])
QUIET = [name for name in SOLVERS if name not in (*NOISY, "dpm_solver_adaptive")]


def sampler(process: Perturbation, **values) -> Sampler:
    usual = {"grid": "log_snr", "steps": 16, "t_end": process.t_min}
    return build_sampler(Sampling(**(usual | values)), process, PIXELS)


def test_every_solver_is_a_predictor() -> None:
    assert set(SOLVERS) | set(NOISY) <= set(PREDICTORS)
    assert set(NOISY.values()) <= set(SOLVERS)


@pytest.mark.parametrize("name", QUIET)
def test_few_steps_lead_where_many_do(name: str) -> None:
    """The mean distance is that of the method's order: below .02, where Euler's is above."""
    process, z = VP(t_min=1e-3), jax.random.normal(jax.random.key(0), (32, 2))
    score_fn = MIXTURE.score_fn(process)

    def solved(**values):
        made = sampler(process, **values)
        return jax.jit(lambda z, times: tuning.solve(made, score_fn, z, times))(
            z, jnp.asarray(made.times)
        )

    exact = solved(predictor="heun", steps=400)
    error = float(tuning.distance(solved(predictor=name), exact))
    assert (error > 0.02) if name == "ddim" else (error < 0.02), error


@pytest.mark.parametrize("name", NOISY)
def test_solvers_with_noise_have_the_spread_of_the_data(name: str) -> None:
    process = VP(t_min=1e-3)
    made = sampler(process, predictor=name, steps=60)
    assert made.stepper.draws >= 1
    x = jax.jit(lambda key: made(key, MIXTURE.score_fn(process), (2000, 2)).x)(jax.random.key(1))
    wanted = MIXTURE.sample_at(jax.random.key(2), process, jnp.asarray(1e-3), 2000)
    np.testing.assert_allclose(np.mean(x, 0), np.mean(wanted, 0), atol=0.06)
    np.testing.assert_allclose(np.cov(x, rowvar=False), np.cov(wanted, rowvar=False), atol=0.04)


def test_names_are_the_methods_they_say() -> None:
    process, settings = VP(), Sampling(steps=20)
    assert solver("ddim", process, settings) == RungeKutta(process)
    half = dataclasses.replace(settings, eta=0.5)
    assert solver("ddim", process, half) == RungeKutta(process, eta=0.5)
    assert solver("euler_ancestral", process, settings) == RungeKutta(process, eta=1.0)
    assert solver("dpmpp_2m", process, settings) == Multistep(Exponential(process))
    noisy = Multistep(Exponential(process, eta=1.0), 3, "exact")
    assert solver("dpmpp_3m_sde", process, settings) == noisy
    few = dataclasses.replace(settings, steps=4)
    orders = (3, 3, 2, 1)
    unipc = Multistep(Exponential(process), orders, corrector=True)
    assert solver("unipc", process, few) == unipc
    assert solver("dpm_solver", process, settings) == Singlestep(
        Exponential(process, "noise", law="ancestral"), 3
    )
    churned = solver("heun", process, dataclasses.replace(settings, churn=40.0, churn_min=0.05))
    assert isinstance(churned, steppers.Churn) and churned.churn == 2.0 and churned.s_min == 0.05


def test_evaluations_are_counted() -> None:
    counts = {
        name: sampler(VP(), predictor=name, steps=6).evaluations
        for name in ("ddim", "heun", "dpm_solver", "dpmpp_2s", "dpmpp_2m", "unipc", "dpmpp_sde")
    }
    # One more for the denoising at the end.
    assert counts == {
        "ddim": 7,
        "heun": 13,
        "dpm_solver": 19,
        "dpmpp_2s": 13,
        "dpmpp_2m": 7,
        "unipc": 7,
        "dpmpp_sde": 13,
    }


@pytest.mark.parametrize("name", ["ddim", "euler_ancestral", "dpmpp_2m", "unipc", "lms"])
def test_chains_can_take_solvers_that_stay_on_the_grid(name: str) -> None:
    chain = DiscreteChain.ddpm()
    made = build_sampler(Sampling(predictor=name, steps=20), chain, PIXELS)
    assert made.evaluations == 20


@pytest.mark.parametrize(
    ("process", "values", "message"),
    [
        (VP(), {"predictor": "heun", "eta": 0.5}, "eta=0.5 means nothing to predictor=heun"),
        (VP(), {"predictor": "ddim", "order": 2}, "order=2 means nothing to predictor=ddim"),
        (VP(), {"predictor": "unipc", "order": 4}, "unipc has the orders 1, 2, 3; got order=4"),
        (VP(), {"predictor": "ancestral", "eta": 1.0}, "eta mean nothing to predictor=ancestral"),
        (VP(), {"predictor": "ddim", "compat": "published", "steps": 99}, "has no ddim"),
        (VP(), {"exponent": 3.0}, "exponent=3.0 means nothing to grid=log_snr"),
        (VP(), {"times": (1.0, 0.5)}, "times are given, but grid=log_snr"),
        (VP(), {"grid": "times", "steps": 2}, "times, one more than steps=2; got 0"),
        (VP(), {"grid": "times", "steps": 1, "times": (0.5, 1.0)}, "times must fall"),
        (
            VP(),
            {"predictor": "dpm_solver_adaptive", "atol": -1.0, "steps": 1},
            "tolerances must be positive",
        ),
        (VP(), {"predictor": "dpm_solver_adaptive"}, "steps=16 would only add.*steps=1"),
        (DiscreteChain.ddpm(), {"predictor": "dpm_solver", "grid": "uniform"}, "use Multistep"),
        (
            DiscreteChain.ddpm(),
            {"predictor": "ddim", "churn": 1.0, "grid": "uniform"},
            "needs a continuous process",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(process, values, message: str) -> None:
    with pytest.raises(UserError, match=f"config.sampling.*{message}"):
        sampler(process, **values)


@pytest.mark.parametrize("process", [VP(), VE(), EDM()], ids=["vp", "ve", "edm"])
def test_grids_reach_from_one_end_to_the_other(process: Perturbation) -> None:
    for grid in ("log_snr", "karras", "quadratic", "polyexponential", "uniform"):
        times = sampler(process, predictor="ddim", grid=grid, steps=7).times
        assert len(times) == 8 and (np.diff(times) < 0).all()
        np.testing.assert_allclose(times[[0, -1]], [process.t_max, process.t_min])
    wide = sampler(process, predictor="ddim", grid="karras", exponent=3.0).times
    np.testing.assert_allclose(wide, grids.karras(process, 16, process.t_min, rho=3.0))
    given = sampler(process, grid="times", steps=2, times=(process.t_max, 0.5, process.t_min))
    np.testing.assert_array_equal(given.times, [process.t_max, 0.5, process.t_min])
