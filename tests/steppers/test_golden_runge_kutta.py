"""Runge-Kutta steppers against the states that the published samplers pass through."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flowcases import chosen, mixture, of, padded, run, states, stored

from golden import assert_close
from score_sde.grids import as_pairs
from score_sde.sde import EDM, VP, GaussianSDE
from score_sde.steppers import (
    EULER,
    HEUN,
    HEUN_3,
    KUTTA,
    MIDPOINT,
    RK4,
    Churn,
    FlowRungeKutta,
    RungeKutta,
    second_order,
)

TOLERANCE = {"float64": 1e-8, "float32": 1e-4}
PRECISIONS = pytest.mark.parametrize("precision", ["float64", "float32"])


def single(request, precision):
    """Double precision, if that is what the test is about."""
    if precision == "float64":
        request.getfixturevalue("x64")


@PRECISIONS
@pytest.mark.parametrize("case", chosen("samplers/edm_heun", "__x", ".*"))
def test_edm(case, precision, request):
    """The last step, to noise level 0, has one evaluation and returns the denoised image."""
    single(request, precision)
    arrays, settings = of("samplers/edm_heun", case)
    tableau = EULER if settings.get("solver") == "euler" else HEUN
    stepper = RungeKutta(EDM(0.0, settings["sigma_max"]), tableau)
    found = states("samplers/edm_heun", stepper, arrays["x"][0], arrays["sigmas"], None, precision)
    assert_close(found, arrays["x"], TOLERANCE[precision], case)
    if "eval_sigma" in arrays:
        assert stepper.evaluations(as_pairs(arrays["sigmas"])) == len(arrays["eval_sigma"])
    if precision == "float64" and tableau == HEUN:
        assert_close(found[-1], arrays["eval_denoised"][-1], 1e-12)


def churned(process, stepper, settings, n):
    """EDM's noise before each step, from the settings of any of the files."""
    churn, low, high, scale = (
        settings[next(k for k in names if k in settings)]
        for names in (("S_churn", "s_churn"), ("S_min", "s_tmin"), ("S_max", "s_tmax"),
                      ("S_noise", "s_noise"))
    )  # fmt: skip
    return Churn(process, stepper, churn / n, low, high, scale)


@pytest.mark.parametrize("case", chosen("samplers/edm_stochastic", "__noise", ".*"))
def test_edm_stochastic(case, x64):
    """EDM draws at every step, EDM2 at churned steps alone: a row of the noise for these only."""
    arrays, settings = of("samplers/edm_stochastic", case)
    levels, n = arrays["sigmas"], len(arrays["sigmas"]) - 1
    process = EDM(0.0, 2 * settings["sigma_max"])  # lifted levels may lie above sigma_max
    tableau = EULER if settings.get("solver") == "euler" else HEUN
    stepper = churned(process, RungeKutta(process, tableau), settings, n)
    noise = arrays["noise"]
    if len(noise) < n:
        lifted = arrays["sigma_hat"] > levels[:-1]
        noise = np.zeros((n, *noise.shape[1:]))
        noise[lifted] = arrays["noise"]
    x = levels[0] * stored("samplers/edm_stochastic")[0]["latents"]
    found = states("samplers/edm_stochastic", stepper, x, levels, noise)
    assert_close(found[-1], arrays["x_final"] if "x_final" in arrays else arrays["x"][-1], 1e-8)
    if "x" in arrays:
        assert_close(found, arrays["x"], 1e-8)
    assert stepper.evaluations(as_pairs(levels)) == len(arrays["eval_sigma"])


@dataclasses.dataclass(frozen=True)
class Ablation(GaussianSDE):
    """EDM's table 1: x_t = scale(t) (x_0 + level(t) z) with any schedule and scaling.

    Their numbers may be traced, so that all cases share a program.
    """

    schedule: int  # 0: level = t, 1: sqrt(t), 2: sqrt(exp(beta_d t^2/2 + beta_min t) - 1)
    preserving: bool  # scale = 1/sqrt(1 + level^2), else 1
    beta_d: float
    beta_min: float
    t_min: float = 0.0
    t_max: float = 1.0
    prior_std = 1.0

    def marginal(self, t):
        exponent = t * (self.beta_min + 0.5 * t * self.beta_d)
        level = jnp.where(self.schedule == 1, jnp.sqrt(t), t)
        level = jnp.where(self.schedule == 2, jnp.sqrt(jnp.expm1(exponent)), level)
        scale = jnp.where(self.preserving, 1 / jnp.sqrt(1 + level**2), 1.0)
        return scale, scale * level

    def times(self, levels):
        """The times of noise levels of which the last is 0, at t = 0."""
        return np.append(self.time(levels[:-1]), 0.0)

    def time(self, level):
        if self.schedule < 2:
            return level ** (1 + self.schedule)
        root = np.sqrt(self.beta_min**2 + 2 * self.beta_d * np.log1p(level**2))
        return (root - self.beta_min) / self.beta_d


RANGES = {"iddpm": (0.002, 81.0), "edm": (0.002, 80.0)}
"""Noise levels of EDM's discretizations where a case states none. Others are those of the grid."""


def ablation(settings, levels):
    """The process of a case. For "vp" the betas give the ends of the noise levels."""
    low, high = RANGES.get(settings["discretization"], (levels[-2], levels[0]))
    low, high = settings.get("sigma_min", low), settings.get("sigma_max", high)
    (a, b), eps = np.log1p([low**2, high**2]), 1e-3
    beta_d = 2 * (a / eps - b) / (eps - 1)
    return Ablation(
        ["linear", "ve", "vp"].index(settings["schedule"]),
        settings["scaling"] == "vp", float(beta_d), float(b - beta_d / 2),
    )  # fmt: skip


@functools.partial(jax.jit, static_argnames="tableau")
def run_ablation(parameters, tableau, x, pairs, n):
    process = Ablation(*parameters)
    stepper = FlowRungeKutta(process, tableau)
    score_fn = mixture("samplers/edm_ablation").score_fn(process)
    return run(stepper, score_fn, x, pairs, jnp.zeros((len(pairs), 0, *x.shape)), n)


@pytest.mark.parametrize("case", chosen("samplers/edm_ablation", "__x", "(?!churn).*"))
def test_edm_in_the_time_of_any_process(case, x64):
    arrays, settings = of("samplers/edm_ablation", case)
    process = ablation(settings, arrays["sigmas"])
    pairs = as_pairs(process.times(arrays["sigmas"]))
    tableau = EULER if settings["solver"] == "euler" else second_order(settings["alpha"])
    found = run_ablation(
        dataclasses.astuple(process)[:4], tableau, jnp.asarray(arrays["x"][0]),
        jnp.asarray(padded(pairs, 32)), len(pairs),
    )  # fmt: skip
    # Published runs without noise differ from one another by 1e-8: "vp" adds sqrt(rounding).
    assert_close(found[: len(pairs) + 1], arrays["x"], 1e-8)
    if "eval_sigma" in arrays:
        assert FlowRungeKutta(process, tableau).evaluations(pairs) == len(arrays["eval_sigma"])


def levels_like(settings):
    """The noise levels of a case without churn on the same grid: those with churn store none."""
    arrays, cases = stored("samplers/edm_ablation")
    same = ("discretization", "num_steps")
    for case, other in cases.items():
        if f"{case}__sigmas" in arrays and all(other[k] == settings[k] for k in same):
            return arrays[f"{case}__sigmas"]
    pytest.skip(f"no case without churn has the grid of {settings}")


@pytest.mark.parametrize("case", chosen("samplers/edm_ablation", "__x", "churn.*"))
def test_churn_in_the_time_of_any_process(case, x64):
    arrays, settings = of("samplers/edm_ablation", case)
    levels = levels_like(settings)
    process = ablation(settings, levels)
    process = dataclasses.replace(process, t_max=float(process.time(2 * levels[0])))
    inner = FlowRungeKutta(process, HEUN)
    stepper = churned(process, inner, settings, settings["num_steps"])
    found = states(
        "samplers/edm_ablation", stepper, arrays["x"][0], process.times(levels), arrays["noise"]
    )
    assert_close(found, arrays["x"], 1e-8)


@PRECISIONS
@pytest.mark.parametrize("case", chosen("samplers/ddim", "__x", ".*"))
def test_ddim(case, precision, request):
    single(request, precision)
    arrays, settings = of("samplers/ddim", case)
    process = VP(*(float(stored("samplers/ddim")[0][k]) for k in ("beta_min", "beta_max")))
    stepper = RungeKutta(process, eta=settings["eta"])
    noise = arrays["noise"] if settings["eta"] else None
    found = states("samplers/ddim", stepper, arrays["x"][0], arrays["t"], noise, precision)
    assert_close(found, arrays["x"], TOLERANCE[precision])


SCHEMES = {"1euler": EULER, "2heun": HEUN, "3kutta": KUTTA, "3heun": HEUN_3, "4rk": RK4}


@pytest.mark.parametrize("case", chosen("samplers/deis", "__x", "rho_rk.*"))
def test_deis_rho_rk(case, x64):
    arrays, settings = of("samplers/deis", case)
    process = VP(*(float(stored("samplers/deis")[0][k]) for k in ("beta_min", "beta_max")))
    stepper = RungeKutta(process, SCHEMES[settings["rk_method"]])
    found = states("samplers/deis", stepper, arrays["x"][0], arrays["t"])
    assert_close(found, arrays["x"], 1e-8)
    assert stepper.evaluations(as_pairs(arrays["t"])) == int(arrays["nfe"])


K_DIFFUSION = {
    "euler": (EULER, "rho"),
    "heun": (HEUN, "rho"),
    "dpm_2": (MIDPOINT, "log_rho"),
    "euler_ancestral": (EULER, "rho"),
    "dpm_2_ancestral": (MIDPOINT, "log_rho"),
}
"""k-diffusion's names as rows of one stepper."""
PATTERN = rf"[a-z]+_({'|'.join(K_DIFFUSION)})(_churn|_eta.*)?"


@pytest.mark.parametrize("case", chosen("samplers/kdiff", "__x", PATTERN))
def test_k_diffusion(case, x64):
    arrays, settings = of("samplers/kdiff", case)
    tableau, nodes = K_DIFFUSION[re.fullmatch(PATTERN, case)[1]]
    levels = stored("samplers/kdiff")[0][f"sigmas_{settings['sigmas']}"]
    process, n = EDM(0.0, 2 * levels[0]), len(levels) - 1
    eta = settings.get("eta", 0.0)
    if "s_churn" in settings:
        stepper = churned(process, RungeKutta(process, tableau, nodes), settings, n)
    else:
        stepper = RungeKutta(process, tableau, nodes, eta, settings.get("s_noise", 1.0))
    noise = arrays.get("noise") if stepper.draws else None
    if noise is not None and len(noise) < n:  # the step to 0 draws none: its noise has no size
        noise = padded(noise.astype(float), n)
    found = states("samplers/kdiff", stepper, arrays["x"][0], levels, noise)
    assert_close(found, arrays["x"], 1e-8)
    assert stepper.evaluations(as_pairs(levels)) == len(arrays["eval_sigma"])


@pytest.mark.parametrize("case", chosen("samplers/kdiff", "__x", r"karras_dpm_2(_.*eta1)?"))
def test_times_inside_a_step_in_float32(case):
    """They are found by bisection in single precision, on a process that ends at the grid's."""
    arrays, settings = of("samplers/kdiff", case)
    levels = stored("samplers/kdiff")[0][f"sigmas_{settings['sigmas']}"]
    process = EDM(float(levels[-2]), float(levels[0]))
    stepper = RungeKutta(process, MIDPOINT, "log_rho", settings.get("eta", 0.0))
    noise = padded(arrays["noise"].astype(float), len(levels) - 1) if stepper.draws else None
    found = states("samplers/kdiff", stepper, arrays["x"][0], levels, noise, "float32")
    assert_close(found, arrays["x"], 1e-4)
