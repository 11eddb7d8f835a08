"""Grids against the published samplers' schedules."""

import jax.numpy as jnp
import numpy as np
import pytest
from flowcases import chosen, of, stored

from golden import assert_close
from score_sde import grids
from score_sde.sde import EDM, VP, CosineVP

FILE = "samplers/schedules"


def assert_levels(process, times, levels, tol=1e-10):
    """The grid, with a step to the clean image behind it, has these levels (relative error)."""
    found = grids.levels_of(process, grids.to_clean(process, times))
    np.testing.assert_allclose(found, levels, rtol=tol)


def _edm(settings):
    return EDM(settings["sigma_min"], settings["sigma_max"])


@pytest.mark.parametrize("case", chosen(FILE, "__sigmas", "karras_.*"))
def test_karras(case):
    arrays, settings = of(FILE, case)
    times = grids.karras(_edm(settings), settings["n"] - 1, rho=settings["rho"])
    assert_levels(_edm(settings), times, arrays["sigmas"])


@pytest.mark.parametrize("case", chosen(FILE, "__sigmas", "(poly)?exponential_.*"))
def test_exponential(case):
    arrays, settings = of(FILE, case)
    process, n = _edm(settings), settings["n"] - 1
    if "rho" in settings:
        times = grids.polyexponential(process, n, exponent=settings["rho"])
    else:
        times = grids.log_snr_uniform(process, n)
    assert_levels(process, times, arrays["sigmas"])


def _vp_levels(n, beta_d=19.9, beta_min=0.1, eps=1e-3):
    """EDM's and k-diffusion's "vp": the levels of a VP process at equal steps in its time."""
    process = VP(beta_min, beta_min + beta_d)
    return grids.levels_of(process, grids.uniform(process, n, eps))


@pytest.mark.parametrize("case", chosen(FILE, "__sigmas", "kdiff_vp_.*"))
def test_vp_levels_on_edm(case):
    arrays, settings = of(FILE, case)
    betas = settings["beta_d"], settings["beta_min"], settings["eps_s"]
    process = EDM(1e-3, 500.0)
    times = grids.at_levels(process, _vp_levels(settings["n"] - 1, *betas))
    assert_levels(process, times, arrays["sigmas"])


EDM_GRIDS = {
    "edm": lambda n: (EDM(0.002, 80.0), grids.karras(EDM(0.002, 80.0), n)),
    "ve": lambda n: (EDM(0.02, 100.0), grids.log_snr_uniform(EDM(0.02, 100.0), n)),
    "iddpm": lambda n: (EDM(0.002, 81.0), grids.iddpm(EDM(0.002, 81.0), n)),
    "vp": lambda n: (EDM(1e-3, 500.0), grids.at_levels(EDM(1e-3, 500.0), _vp_levels(n))),
}


@pytest.mark.parametrize("case", chosen(FILE, "__sigmas", "edm_.*"))
def test_edm_discretizations(case):
    arrays, settings = of(FILE, case)
    assert settings["defaults"]
    process, times = EDM_GRIDS[settings["discretization"]](settings["num_steps"] - 1)
    assert_levels(process, times, arrays["sigmas"], 1e-8)  # iddpm: a recursion over 1,000 levels


SKIPS = {
    "logSNR": grids.log_snr_uniform,
    "time_uniform": grids.uniform,
    "time_quadratic": grids.power,
}


def _process(case, settings):
    if case.startswith("cosine"):
        return CosineVP(settings["cosine_s"], t_max=settings.get("t_T", settings.get("T")))
    if "beta_min" in settings:
        return VP(settings["beta_min"], settings["beta_max"])
    return VP()


@pytest.mark.parametrize("case", chosen(FILE, "__lambda_", "(vp|cosine)_(?!.*points).*"))
def test_dpm_solver(case, x64):
    """Times and levels; lambda is half the log-SNR. Times are ill-conditioned near T (cosine)."""
    arrays, settings = of(FILE, case)
    process = _process(case, settings)
    times = SKIPS[settings["skip_type"]](process, settings["steps"], settings["t_0"])
    assert_close(times, arrays["t"], 1e-9)
    assert_close(process.log_snr(jnp.asarray(times)) / 2, arrays["lambda_"], 1e-9)
    for found, key in zip(process.marginal(jnp.asarray(times)), ("alpha", "sigma"), strict=True):
        assert_close(found, arrays[key], 1e-9)


@pytest.mark.parametrize("case", chosen(FILE, "__t_back", ".*"))
def test_points(case, x64):
    """Both directions between t and lambda."""
    arrays, settings = of(FILE, case)
    process = _process(case, settings)
    assert_close(process.log_snr(jnp.asarray(arrays["t"])) / 2, arrays["lambda_"], 1e-9)
    inside = (arrays["t"] >= process.t_min) & (arrays["t"] <= process.t_max)
    back = process.time_at_log_snr(jnp.asarray(2 * arrays["lambda_"][inside]))
    assert_close(back, arrays["t_back"][inside], 1e-8)


@pytest.mark.parametrize("case", chosen(FILE, "__orders", ".*"))
def test_outer_steps_of_single_step_dpm_solver(case):
    """Steps of several evaluations: a log-SNR grid of their own, or every so many of a grid."""
    arrays, settings = of(FILE, case)
    grid, end = SKIPS[settings["skip_type"]], float(arrays["t"][-1])
    if settings["skip_type"] == "logSNR":
        times = grid(VP(), len(arrays["orders"]), end)
    else:
        times = grid(VP(), settings["steps"], end)[np.cumsum([0, *arrays["orders"]])]
    assert_close(times, arrays["t"], 1e-9)


@pytest.mark.parametrize("case", chosen(FILE, "__rho", "deis_.*"))
def test_deis(case):
    arrays, settings = of(FILE, case)
    process, n, power = VP(), settings["num_step"], settings["ts_order"]
    times = {
        "t": lambda: grids.power(process, n, settings["t0"], power),
        "log": lambda: grids.log_snr_uniform(process, n, settings["t0"]),
        "rho": lambda: grids.karras(process, n, settings["t0"], power),
    }[settings["ts_phase"]]()
    assert_close(times, arrays["t"], 1e-9)
    assert_close(grids.levels_of(process, times), arrays["rho"], 1e-8)


MODELS = {"sd1": "SD1", "sdxl": "SDXL", "svd": "SVD"}
WIDE = EDM(1e-3, 1000.0)


@pytest.mark.parametrize("case", chosen(FILE, "__sigmas", "ays_interp_.*"))
def test_align_your_steps(case):
    arrays, settings = of(FILE, case)
    model = {v: k for k, v in MODELS.items()}[case.split("_")[2]]
    found = grids.levels_of(WIDE, grids.align_your_steps(WIDE, settings["n_steps"], model))
    np.testing.assert_allclose(found, arrays["sigmas"], rtol=1e-9)


@pytest.mark.parametrize("model", grids.ALIGN_YOUR_STEPS)
def test_tables_of_align_your_steps(model):
    """The table as published with ten digits, and as published with three."""
    arrays, _ = stored(FILE)
    table = grids.levels_of(WIDE, grids.align_your_steps(WIDE, 10, model))
    np.testing.assert_allclose(table, arrays[f"ays_quickstart_{MODELS[model]}"], rtol=1e-10)
    rounded = {"sd1": "StableDiffusion", "sdxl": "StableDiffusionXL", "svd": "StableDiffusionVideo"}
    printed = arrays[f"ays_diffusers_{rounded[model]}Sigmas"]
    assert_close(table[:-1], printed[:-1], 2e-3)
