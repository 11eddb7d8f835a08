"""The published DPM-Solver, DPM-Solver++, UniPC and k-diffusion, number for number."""

import dataclasses
import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from lambdacases import FAST_COMPILATION, Problem, sampler_mixture, trace
from mathcases import with_noise

from golden import assert_close, document, load, meta
from score_sde.sampling import Sampler
from score_sde.sde import EDM, VP
from score_sde.steppers import (
    Adaptive,
    Exponential,
    Multistep,
    Singlestep,
    arctan_control,
    fast_orders,
    lowered_orders,
    power_control,
)

DPM, UNIPC, KDIFF = ("dpm_solver", "dpm_solver_pp"), "unipc", "kdiff"
BETWEEN = {"logSNR": "log_snr", "time_uniform": "time", "time_quadratic": "quadratic"}
RULES = {"dpmsolver": "bh2", "midpoint": "bh2", "taylor": "exact", "heun": "exact"}


@functools.cache
def stored(name):
    """(arrays, mixture) of a file."""
    arrays = load(f"samplers/{name}")
    return arrays, sampler_mixture(arrays)


def settings(name, wanted=lambda case, value: True):
    """Names of the cases of a file, read when tests are collected; one that is skipped if none."""
    if document("samplers/index.json") is None:
        reason = "no samplers/index.json among the reference values; set SCORE_SDE_GOLDEN"
        return [pytest.param("absent", marks=pytest.mark.skip(reason=reason))]
    values = meta(load(f"samplers/{name}"))["cases"]
    return [case for case, value in values.items() if wanted(case, value)]


def of(name, case):
    """(settings of a case, array by name)."""
    arrays, _ = stored(name)
    return meta(arrays)["cases"][case], lambda key: arrays[f"{case}__{key}"]


def vp(arrays):
    """The process of a file in VP form."""
    return VP(float(arrays["beta_min"]), float(arrays["beta_max"]))


def pairs_of(times):
    return np.stack([times[:-1], times[1:]], axis=1)


def room(name):
    """Steps that the shared programs have room for: the longest grid of the file."""
    arrays, _ = stored(name)
    return max(len(arrays[key]) for key in arrays if key.endswith("__t")) - 1


def dpm_solver(name, case):
    """(stepper with the orders of the case, stepper of their largest for the shared program)."""
    value, array = of(name, case)
    arrays, steps = stored(name)[0], len(array("t")) - 1
    kind, order = value.get("solver_type", "dpmsolver"), value["order"]
    exponential = Exponential(vp(arrays), meta(arrays)["prediction"])
    if "noise" in {key.split("__")[-1] for key in arrays if key.startswith(f"{case}__")}:
        exponential = dataclasses.replace(exponential, eta=1.0)
        orders = lowered_orders(order, steps) if value["lower_order_final"] else order
        stepper = Multistep(exponential, orders, RULES[kind])
    elif value["method"] == "multistep":
        # The published code lowers the order at the end for fewer than 10 steps only.
        lowered = value.get("lower_order_final", True) and value["steps"] < 10
        orders = lowered_orders(order, steps) if lowered else order
        stepper = Multistep(exponential, orders, RULES[kind], published=True)
    else:
        orders = tuple(int(order) for order in array("orders"))
        if value["method"] == "singlestep":
            assert fast_orders(order, value["steps"]) == orders
        # With order 1 there are no times in between.
        between = BETWEEN[value["skip_type"]] if max(orders) > 1 else "log_snr"
        stepper = Singlestep(exponential, orders, kind, between)
    return stepper, dataclasses.replace(stepper, order=3)


@pytest.mark.parametrize(
    ("name", "case"),
    [
        (name, case)
        for name in DPM
        # sde3m_diffusers documents a defect: the sign of a constant (its README).
        for case in settings(name, lambda case, _: not case.startswith(("adaptive", "sde3m")))
    ],
)
def test_dpm_solver(name, case, x64):
    """All orders, grids and types of DPM-Solver and DPM-Solver++, and SDE-DPM-Solver(++)."""
    (arrays, data), (value, array) = stored(name), of(name, case)
    stepper, largest = dpm_solver(name, case)
    times, wanted, sde = array("t"), array("x"), vp(arrays)
    steps, noise = len(times) - 1, None
    if stepper.draws:
        noise = array("noise").astype(float)[:, None]
    orders = stepper.order if isinstance(stepper.order, tuple) else (stepper.order,) * steps
    size = room(name) if noise is None else None
    problem = Problem(largest, sde, data)
    states = trace(problem, times, arrays["x_init"], orders, noise, size)
    assert_close(states, wanted[: steps + 1], 1e-8, case)
    final = value.get("denoise_to_zero", False)
    if final:
        sampler = Sampler(sde, stepper, times)
        end = sampler.finish(data.score_fn(sde), sampler.start(states[-1]))
        assert_close(end, wanted[-1], 1e-8, "denoised")
    if noise is None:
        assert stepper.evaluations(pairs_of(times)) + final == int(array("nfe"))


@pytest.mark.parametrize("case", settings(UNIPC))
def test_unipc(case, x64):
    """UniPC: B(h) = bh1 and bh2, and without shortcuts (vary_coeff), corrector on and off.

    vary_coeff with corrector is no case: its published weights sum over the wrong rows, and the
    method has order 1 (README of the reference values). Ours of that description is "exact".
    """
    (arrays, data), (value, array) = stored(UNIPC), of(UNIPC, case)
    rule, corrector = {"vary_coeff": "exact"}.get(value["variant"]), value["corrector"]
    sde, times, order = vp(arrays), array("t"), value["order"]
    steps = len(times) - 1
    lowered = value.get("lower_order_final", True)
    orders = lowered_orders(order, steps) if lowered else (order,) * steps
    exponential = Exponential(sde, case.split("_")[0])
    stepper = Multistep(exponential, 3, rule or value["variant"], corrector)
    problem = Problem(stepper, sde, data)
    states = trace(problem, times, arrays["x_init"], orders, size=room(UNIPC))
    if rule and corrector:
        error = np.max(np.abs(states[-1] - array("x")[steps]))
        assert error > 1e-3, "the published weights are mended: compare them"
        return
    assert_close(states[-1], array("x")[steps], 1e-8, case)
    # Our states are the predicted ones, where the network is called; x are the corrected ones.
    wanted = array("eval_x")[:steps] if corrector else array("x")[:steps]
    assert_close(states[:-1], wanted, 1e-8, "before each step")
    evaluations = stepper.evaluations(pairs_of(times)) + value.get("denoise_to_zero", False)
    assert evaluations == int(array("nfe"))


def is_log_snr(case, value):
    """Whether a case is one of the solvers of k-diffusion in log-SNR, named behind its grid."""
    return "sigmas" in value and case.removeprefix(value["sigmas"]).startswith("_dpmpp_")


def k_diffusion(sampler, value, sde):
    """The stepper of a name of k-diffusion."""
    eta = value.get("eta", 0.0)
    # The eta of the SDE solvers multiplies the variance's rate, ours the noise.
    sde_form = Exponential(sde, eta=math.sqrt(eta))
    ancestral = Exponential(sde, eta=eta, law="ancestral")
    if sampler == "dpmpp_2m":
        return Multistep(Exponential(sde))
    if sampler.startswith("dpmpp_2m_sde"):
        return Multistep(sde_form, 2, RULES[value["solver_type"]])
    if sampler.startswith("dpmpp_3m_sde"):
        return Multistep(sde_form, 3, "exact", published=True)
    if sampler.startswith("dpmpp_2s_ancestral"):
        return Singlestep(ancestral)
    assert sampler.startswith("dpmpp_sde"), sampler
    return Singlestep(ancestral, noisy=eta > 0)


def independent_draws(stepper, times, noise):
    """The draws with which a noisy step has independent noise at its two stages.

    Ours are of one Brownian path: draw 1 is sqrt(a) first + sqrt(1 - a) second.
    """
    noise, exponential = noise.reshape(-1, 2, *noise.shape[1:]), stepper.exponential
    for i, (t, s) in enumerate(itertools.pairwise(jnp.asarray(times[: len(noise) + 1]))):
        position = exponential.position(t) + exponential.length(t, s) / 2
        inner = exponential.process.time_at_log_snr(2 * position)
        near, far = (exponential.bridge(t, end).kappa for end in (inner, s))
        share = float(jnp.expm1(2 * near) / jnp.expm1(2 * far))
        noise[i, 1] = (noise[i, 1] - math.sqrt(share) * noise[i, 0]) / math.sqrt(1 - share)
    return noise


@pytest.mark.parametrize("case", settings(KDIFF, is_log_snr))
def test_k_diffusion(case, x64):
    """The names of k-diffusion, with a last step to sigma = 0."""
    (arrays, data), (value, array) = stored(KDIFF), of(KDIFF, case)
    sde = EDM(float(arrays["sigma_min"]), float(arrays["sigma_max"]))
    stepper = k_diffusion(case.removeprefix(value["sigmas"] + "_"), value, sde)
    times = arrays[f"sigmas_{value['sigmas']}"]
    noise = None
    if stepper.draws:
        scale = value.get("s_noise", 1.0)
        noise = scale * array("noise").astype(float)
        if stepper.draws == 2:
            noise = independent_draws(stepper, times, noise)
        else:
            noise = noise[:, None]
        noise = np.concatenate([noise, np.full_like(noise[:1], 7.0)])  # the last step has none
    start = sde.t_max * arrays["latents"].astype(float)
    states = trace(Problem(stepper, sde, data), times, start, noise=noise)
    assert_close(states, array("x"), 1e-8, case)
    assert stepper.evaluations(pairs_of(times)) == len(array("eval_sigma"))


# With eta > 0, k-diffusion's dpm_fast caps its noise by sigma_min: none of these steppers.
@pytest.mark.parametrize(
    "case",
    settings(KDIFF, lambda case, value: case.startswith("dpm_fast") and value["eta"] == 0),
)
def test_dpm_fast(case, x64):
    (arrays, data), (value, array) = stored(KDIFF), of(KDIFF, case)
    sde = EDM(float(arrays["sigma_min"]), float(arrays["sigma_max"]))
    orders = fast_orders(3, value["n"])
    times = np.geomspace(sde.t_max, sde.t_min, len(orders) + 1)
    start = sde.t_max * arrays["latents"].astype(float)
    problem = Problem(Singlestep(Exponential(sde, "noise"), 3), sde, data)
    size = max(len(orders), 4)  # one program for all but long ones
    states = trace(problem, times, start, orders, size=size)
    assert_close(states[-1], array("x_final"), 1e-8, case)
    stepper = dataclasses.replace(problem.stepper, order=orders)
    assert stepper.evaluations(pairs_of(times)) == int(array("nfe"))


@functools.cache
def control_of(control, **settings):
    """The control with these settings: one object for all cases, so that they share a program."""
    return functools.partial(control, **settings)


def adaptive(name, case):
    """(process, stepper, grid, start) of an adaptive case."""
    value, _ = of(name, case)
    arrays, _ = stored(name)
    common = {"order": value["order"], "rtol": value["rtol"], "atol": value["atol"]}
    common |= {"first": value["h_init"], "kind": value.get("solver_type", "dpmsolver")}
    if name == KDIFF:
        sde = EDM(float(arrays["sigma_min"]), float(arrays["sigma_max"]))
        control = control_of(arctan_control, threshold=value["accept_safety"])
        # It stops within 1e-5 in log sigma; ours in t.
        common |= {"norm": "batch", "control": control, "close": sde.t_min * math.expm1(1e-5)}
        times, start = (sde.t_max, sde.t_min), sde.t_max * arrays["latents"].astype(float)
        return sde, Adaptive(Exponential(sde, "noise"), **common), np.array(times), start
    sde = vp(arrays)
    control = control_of(power_control, theta=value["theta"])
    common |= {"norm": "largest", "control": control, "close": value["t_err"]}
    times = np.array([float(arrays["t_start"]), float(arrays["t_end"])])
    exponential = Exponential(sde, meta(arrays)["prediction"])
    return sde, Adaptive(exponential, **common), times, arrays["x_init"].astype(float)


@functools.partial(jax.jit, static_argnums=0, compiler_options=FAST_COMPILATION)
def _adaptive_program(problem, tolerances, times, x):
    stepper = dataclasses.replace(problem.stepper)
    for key, value in tolerances.items():  # one program for all tolerances
        object.__setattr__(stepper, key, value)
    score_fn, start = problem.data.score_fn(problem.process), stepper.init(x)
    x, _, carry = stepper(score_fn, x, *times, lambda j: x, start)
    return x, carry


@functools.lru_cache(maxsize=1)
def adaptive_run(name, case):
    """(samples, nfe) of an adaptive case."""
    sde, stepper, times, start = adaptive(name, case)
    tolerances = {key: jnp.asarray(getattr(stepper, key)) for key in ("rtol", "atol")}
    problem = Problem(dataclasses.replace(stepper, rtol=1.0, atol=1.0), sde, stored(name)[1])
    x, carry = _adaptive_program(problem, tolerances, jnp.asarray(times), jnp.asarray(start))
    return x, stepper.spent(carry, pairs_of(times))


@pytest.mark.parametrize(
    ("name", "case"),
    [
        (name, case)
        for name in (*DPM, KDIFF)
        for case in settings(name, lambda case, _: "adaptive" in case)
    ],
)
def test_adaptive(name, case, x64):
    """The published step controls, which give all samples of a batch one error.

    DPM-Solver's code rounds a factor to single precision, except in the cases named so.
    """
    _, array = of(name, case)
    rounded = name in DPM and not case.endswith("_nofloat32")
    x, nfe = adaptive_run(name, case.removesuffix("_nofloat32"))
    assert_close(x, array("x_final"), 1e-7 if rounded else 1e-8, case)
    np.testing.assert_array_equal(nfe, np.full(len(x), int(array("nfe"))))


@pytest.mark.parametrize("name", DPM)
@pytest.mark.parametrize("kind", ["multistep", "singlestep", "sde2m"])
def test_single_precision(name, kind):
    """Through `Sampler`, with the stepper as a user declares it, to 1e-4: the last of its kind."""
    arrays, data = stored(name)
    found = [
        case
        for case, value in meta(arrays)["cases"].items()
        if value.get("method", case.split("_")[0]) == kind
    ]
    if not found:
        pytest.skip(f"{name} has no {kind}")
    _, array = of(name, found[-1])
    sampler = Sampler(vp(arrays), dpm_solver(name, found[-1])[0], array("t"), "none")
    if sampler.stepper.draws:
        sampler = with_noise(sampler, array("noise")[:, None])
    score_fn, last = data.score_fn(sampler.process), sampler.steps
    run = jax.jit(
        lambda state: sampler.advance(jax.random.key(0), score_fn, state, 0, last),
        compiler_options=FAST_COMPILATION,
    )
    state = run(sampler.start(jnp.asarray(arrays["x_init"], jnp.float32)))
    assert state.x.dtype == jnp.float32
    assert_close(state.x, array("x")[last], 1e-4, found[-1])
