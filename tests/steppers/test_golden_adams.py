"""Adams-Bashforth steppers against DEIS, with exact coefficients, and k-diffusion's lms."""

import jax.numpy as jnp
import pytest
from flowcases import chosen, of, states, stored

from golden import assert_close
from score_sde.grids import as_pairs
from score_sde.sde import EDM, VP
from score_sde.steppers import AdamsBashforth
from score_sde.steppers.ratio import ratio

VARIABLES = {"rho_ab": "rho", "t_ab": "time"}


def process_of_deis():
    return VP(*(float(stored("samplers/deis")[0][k]) for k in ("beta_min", "beta_max")))


@pytest.mark.parametrize("case", chosen("samplers/deis", "__derived_coef_exact", ".*"))
def test_deis(case, x64):
    """The states, and the coefficients themselves: C_j for t_ab has the factor alpha(s)."""
    arrays, settings = of("samplers/deis", case)
    process, variable = process_of_deis(), VARIABLES[settings["method"]]
    stepper = AdamsBashforth(process, settings["ab_order"] + 1, variable)
    found = states("samplers/deis", stepper, arrays["x"][0], arrays["t"])
    assert_close(found, arrays["derived_x_exact_coef"], 1e-8)
    assert stepper.evaluations(as_pairs(arrays["t"])) == int(arrays["nfe"])
    i = len(arrays["t"]) - 2  # the last step
    times = [jnp.asarray(arrays["t"][i - j]) for j in range(stepper.order)]
    places = times if variable == "time" else [ratio(process, t) for t in times]
    end = jnp.asarray(arrays["t"][i + 1])
    coefficients = stepper._weights(
        places, jnp.asarray(stepper.order - 1), ratio(process, times[0]), ratio(process, end)
    )
    factor = process.marginal(end)[0] if variable == "time" else 1.0
    assert_close(factor * jnp.stack(coefficients), arrays["derived_coef_exact"][i], 1e-10)


@pytest.mark.parametrize("case", chosen("samplers/deis", "__x", "ipndm.*"))
def test_ipndm(case, x64):
    arrays, _ = of("samplers/deis", case)
    stepper = AdamsBashforth(process_of_deis(), 4, "steps")
    found = states("samplers/deis", stepper, arrays["x"][0], arrays["t"])
    assert_close(found, arrays["x"], 1e-8)


@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("case", chosen("samplers/kdiff", "__x", r".*_lms\d*"))
def test_lms(case, precision, request):
    """k-diffusion extrapolates in the step to noise level 0 as well."""
    if precision == "float64":
        request.getfixturevalue("x64")
    arrays, settings = of("samplers/kdiff", case)
    levels = stored("samplers/kdiff")[0][f"sigmas_{settings['sigmas']}"]
    stepper = AdamsBashforth(EDM(0.0, levels[0]), settings.get("order", 4), extrapolate=True)
    found = states("samplers/kdiff", stepper, arrays["x"][0], levels, None, precision)
    assert_close(found, arrays["x"], {"float64": 1e-8, "float32": 1e-4}[precision])


@pytest.mark.parametrize("case", chosen("samplers/deis", "__derived_coef_exact", r"t_ab3.*"))
def test_quadrature_in_float32(case):
    arrays, settings = of("samplers/deis", case)
    stepper = AdamsBashforth(process_of_deis(), settings["ab_order"] + 1, "time")
    found = states("samplers/deis", stepper, arrays["x"][0], arrays["t"], None, "float32")
    assert_close(found, arrays["derived_x_exact_coef"], 1e-4)
