"""Weights that make the published losses: EDM's, and the errors of what networks predict."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mathcases import PROCESSES
from small import settings

from golden import assert_close
from score_sde.build.assemble import build
from score_sde.objectives import DenoisingScoreMatching, UniformTime, edm_weight, output_weight
from score_sde.parameterize import (
    divided_by_sigma,
    edm_preconditioning,
    network_score,
    noise_prediction,
    time_label,
    v_prediction,
    velocity_prediction,
)
from score_sde.sde import VP

X0, Z = np.random.default_rng(0).normal(size=(2, 6, 3))


def network(x, labels):
    return jnp.tanh(x) + 0.1 * labels[:, None]


def times(sde):
    """Six of them, the ends included."""
    return sde.time_at_log_snr(jnp.linspace(*sde.log_snr(jnp.asarray([sde.t_min, sde.t_max])), 6))


def losses(sde, weight, made, reduce="mean"):
    objective = DenoisingScoreMatching(sde, UniformTime(sde), weight, reduce)
    t = times(sde)
    return objective.at(made.score_fn(network), jnp.asarray(X0), t, jnp.asarray(Z))


@pytest.mark.parametrize("name", PROCESSES)
def test_edms_loss_of_the_denoiser_for_any_process(name, x64):
    """(nu^2 + s^2)/(nu s)^2 times the squared error of Tweedie's denoiser, of any network."""
    sde, std, t = PROCESSES[name], 0.6, times(PROCESSES[name])
    made = noise_prediction(sde, time_label)
    x = sde.perturb(jnp.asarray(X0), t, jnp.asarray(Z))
    denoised = sde.tweedie(x, t, made.score_fn(network)(x, t))
    alpha, sigma = sde.marginal(t)
    level = np.asarray(sigma / alpha)
    weight = (level**2 + std**2) / (level * std) ** 2
    expected = weight * np.mean((np.asarray(denoised) - X0) ** 2, axis=1)
    # At the largest levels Tweedie's formula itself loses digits.
    np.testing.assert_allclose(losses(sde, edm_weight(sde, std), made), expected, rtol=1e-6)


def test_the_recipe_trains_by_edms_loss_in_its_own_terms(x64):
    """Table 1 by hand: lambda |c_skip x + c_out F(c_in x; log(sigma)/4) - x0|^2, half its sum."""
    task = build(settings("edm", "data.std=0.7")).task
    sigma = np.asarray([0.002, 0.05, 0.3, 1.0, 9.0, 80.0])
    total = sigma**2 + 0.49
    x = X0 + sigma[:, None] * Z
    output = np.tanh(x / np.sqrt(total)[:, None]) + 0.1 * np.log(sigma)[:, None] / 4
    denoised = (0.49 / total)[:, None] * x + (sigma * 0.7 / np.sqrt(total))[:, None] * output
    weight = total / (sigma * 0.7) ** 2
    expected = weight * np.sum((denoised - X0) ** 2, axis=1) / 2
    score_fn = task.model.parameterization.score_fn(network)
    found = task.objective.at(score_fn, jnp.asarray(X0), jnp.asarray(sigma), jnp.asarray(Z))
    np.testing.assert_allclose(found, expected, rtol=1e-8)


def test_edms_loss_is_that_in_single_precision(request):
    """From sigma = 0.002 to 80."""
    task = build(settings("edm")).task
    score_fn = task.model.parameterization.score_fn(network)
    arrays = (X0, np.asarray([0.002, 0.05, 0.3, 1.0, 9.0, 80.0]), Z)
    single = task.objective.at(score_fn, *(jnp.asarray(a, jnp.float32) for a in arrays))
    request.getfixturevalue("x64")
    double = task.objective.at(score_fn, *(jnp.asarray(a) for a in arrays))
    np.testing.assert_allclose(single, double, rtol=1e-4)


@pytest.mark.parametrize("name", PROCESSES)
def test_edms_weight_is_that_of_its_output(name, x64):
    sde = PROCESSES[name]
    made = edm_preconditioning(sde, 0.6)
    np.testing.assert_allclose(
        output_weight(made)(times(sde)), edm_weight(sde, 0.6)(times(sde)), rtol=1e-10
    )


TARGETS = {
    "score": (lambda sde, label: network_score(label), lambda a, s: -Z / s),
    "divided": (lambda sde, label: divided_by_sigma(network_score(label), sde), lambda a, s: -Z),
    "noise": (noise_prediction, lambda a, s: Z),
    "v": (v_prediction, lambda a, s: a * Z - s * X0),
    "velocity": (velocity_prediction, lambda a, s: Z - X0),
}
"""Name -> (parameterization, what the network should return)."""


@pytest.mark.parametrize("name", ["vp", "straight", "subvp"])
@pytest.mark.parametrize("kind", TARGETS)
def test_output_weight_is_the_error_of_the_output(kind, name, x64):
    """|F - target|^2: Ho et al. 2020, Salimans & Ho 2022, Lipman et al. 2023."""
    sde = PROCESSES[name]
    make, target = TARGETS[kind]
    made, t = make(sde, lambda t: t), times(PROCESSES[name])
    alpha, sigma = (np.asarray(v)[:, None] for v in sde.marginal(t))
    output = network(jnp.asarray(alpha * X0 + sigma * Z), t)
    expected = np.mean((np.asarray(output) - target(alpha, sigma)) ** 2, axis=1)
    np.testing.assert_allclose(losses(sde, output_weight(made), made), expected, rtol=1e-7)


def test_v_weight_is_one_plus_the_signal_to_noise_ratio_of_the_denoisers_error(x64):
    """SNR + 1 times |D - x0|^2 (Salimans & Ho 2022, section 4), under VP."""
    sde, t = VP(), times(VP())
    made = v_prediction(sde, time_label)
    x = sde.perturb(jnp.asarray(X0), t, jnp.asarray(Z))
    denoised = sde.tweedie(x, t, made.score_fn(network)(x, t))
    error = np.mean((np.asarray(denoised) - X0) ** 2, axis=1)
    expected = (1 + np.exp(sde.log_snr(t))) * error
    np.testing.assert_allclose(losses(sde, output_weight(made), made), expected, rtol=1e-6)


def test_times_draw_as_the_call_does():
    """`draw` is what the call uses: with u = 0 both give one loss."""
    sde = VP()
    objective = DenoisingScoreMatching(sde, UniformTime(sde), edm_weight(sde))
    x0, key = jnp.asarray(X0, jnp.float32), jax.random.key(3)

    def score_fn(x, t):
        return -x

    t, w, z = objective.draw(key, x0)
    assert_close(objective(key, score_fn, x0), w * objective.at(score_fn, x0, t, z), 1e-6)
    assert dataclasses.asdict(objective)["reduce"] == "mean"
