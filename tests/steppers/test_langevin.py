"""Correctors: reference steps, step sizes by hand, and the distribution they keep."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mathcases import (
    SDES,
    one_step,
    propagate,
    reference_chain,
    reference_methods,
    reference_mixture,
    reference_sde,
)

from golden import assert_close, cases, load, meta
from score_sde import grids
from score_sde.analytic import GaussianMixture
from score_sde.arrays import fold_in, normal
from score_sde.sde import VP, DiscreteChain, PublishedSteps
from score_sde.steppers import (
    AnnealedLangevin,
    Identity,
    InpaintingLangevin,
    Langevin,
    at_start,
    step_alpha,
)

PAIRS = grids.as_pairs(np.linspace(1.0, 0.1, 6))  # five steps


def _published_correctors(methods, sde, alpha):
    """The correctors of a file of single steps; their names state updates and r: ald_n1_snr0.05."""
    found = {}
    for key in methods:
        if key == "corrector_none":
            found[key] = Identity()
        elif match := re.fullmatch(r"(langevin|ald)_n(\d+)_snr(.+)", key):
            kind, n_steps, snr = match[1], int(match[2]), float(match[3])
            batch = Langevin(snr, n_steps, "batch", alpha)
            annealed = AnnealedLangevin(sde, snr, n_steps, alpha)
            found[key] = batch if kind == "langevin" else annealed
    return found


@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("case", cases("math/samplers_onestep_*.npz"))
def test_reference_steps(case, precision, request):
    if precision == "float64":
        request.getfixturevalue("x64")
    stored = load(case)
    name, n = meta(stored)["sde"], int(stored["N"])
    sde = reference_sde(name, stored)
    moments, methods = reference_methods(stored)
    alpha = step_alpha(PublishedSteps(reference_chain(name, stored)))
    correctors = _published_correctors(methods, sde, alpha)
    if not correctors:
        pytest.skip(f"{case} has no correctors")
    score_fn = reference_mixture(stored).score_fn(sde)

    @jax.jit
    def evaluate(x, t, z):
        return {
            key: one_step(at_start(c), score_fn, x, t, t - 1 / n, z[: c.draws])
            for key, c in correctors.items()
        }

    for moment in moments:
        x, t, z = (jnp.asarray(stored[f"{moment}__{key}"], precision) for key in ("x", "t", "zc"))
        for key, (y, mean) in evaluate(x, t, z).items():
            tol = 1e-8 if precision == "float64" else 1e-4
            assert_close(y, stored[f"{moment}__{key}__x"], tol, f"{moment} {key} x")
            assert_close(mean, stored[f"{moment}__{key}__mean"], tol, f"{moment} {key} mean")


def test_step_alpha(x64):
    chain = DiscreteChain.ddpm(n=40)
    betas = np.linspace(0.1, 20.0, 40) / 40
    i = jnp.arange(40, dtype=float)
    assert_close(step_alpha(chain)(i), 1 - betas, 1e-12)
    t = (i + 0.5) / 39
    assert_close(step_alpha(PublishedSteps(chain))(t[:-1]), 1 - betas[:-1], 1e-12)
    assert_close(step_alpha(DiscreteChain.smld(n=40))(i), np.ones(40), 1e-12)


def test_step_sizes_by_hand():
    """epsilon = 2 alpha (r |z|/|score|)^2 and 2 alpha (r sigma)^2; the corrector acts at s."""
    x = jnp.asarray([[3.0, 4.0], [0.0, 1.0]])
    z = jnp.asarray([[[1.0, 0.0], [0.0, -3.0]]])
    times = []

    def score_fn(x, t):
        times.append(t)
        return -2 * x

    t, s, alpha = jnp.asarray(0.8), jnp.asarray(0.3), lambda t: 0.5 * t
    scores = np.asarray([10.0, 2.0])
    for norm, ratio in (
        ("sample", np.sqrt(2) / scores),
        ("batch", np.full(2, 2.0 / 6.0)),
    ):  # mean |z| = 2, |score| = 6
        epsilon = (2 * 0.15 * (0.1 * ratio) ** 2)[:, None]
        y, mean = one_step(Langevin(0.1, 1, norm, alpha), score_fn, x, t, s, z)
        assert_close(mean, x - 2 * epsilon * x, 1e-6)
        assert_close(y - mean, np.sqrt(2 * epsilon) * z[0], 1e-6)
    sigma = float(VP().marginal(s)[1])
    epsilon = 2 * 0.15 * (0.1 * sigma) ** 2
    y, mean = one_step(AnnealedLangevin(VP(), 0.1, 1, alpha), score_fn, x, t, s, z)
    assert_close(mean, x - 2 * epsilon * x, 1e-6)
    assert_close(y - mean, np.sqrt(2 * epsilon) * z[0], 1e-6)
    assert all(np.allclose(time, 0.3) for time in times)
    y, _ = one_step(AnnealedLangevin(VP(), 0.1), score_fn, x, t, s, z)  # alpha is 1 unless given
    assert_close(y, x - 4 * (0.1 * sigma) ** 2 * x + 2 * 0.1 * sigma * z[0], 1e-6)


@pytest.mark.parametrize("half", [False, True])
def test_published_step_sizes(half, x64):
    """alpha_i = epsilon sigma_i^2/sigma_L^2 with x + alpha score + sqrt(2 alpha) z.

    Or half that step (algorithms 6.1, 5.1).
    """
    levels, epsilon = DiscreteChain.smld(0.01, 1.0, 10), 2e-5
    stepper = AnnealedLangevin.of_step_size(levels, epsilon, 0.01, 3, half)
    assert stepper.n_steps == 3
    single = dataclasses.replace(stepper, n_steps=1)
    x, z = jnp.asarray([[0.3, -0.2]]), jnp.asarray([[[1.0, -2.0]]])
    for index in (0, 4, 9):
        step = epsilon * (levels.sigmas[index] / 0.01) ** 2 / (2 if half else 1)
        i = jnp.asarray(float(index))
        y, mean = one_step(single, lambda x, t: -3 * x, x, i, i, z)
        assert_close(mean, x - 3 * step * x, 1e-12)
        assert_close(y, mean + np.sqrt(2 * step) * z[0], 1e-12)


def test_inpainting_keeps_what_is_known():
    """At the end of a call the known pixels are alpha image + sigma z with one z.

    The others have moved as without it.
    """
    sde, t = VP(), jnp.asarray(0.4)
    alpha, sigma = (float(v) for v in sde.marginal(t))
    langevin = AnnealedLangevin(sde, 0.2, 2)
    x, image = jnp.asarray([[1.0, 2.0], [3.0, 4.0]]), jnp.asarray([[0.5, 9.0], [-0.5, 9.0]])
    z = jax.random.normal(jax.random.key(0), (3, 2, 2))
    stepper = InpaintingLangevin(langevin, image, jnp.asarray([True, False]))
    y, mean = one_step(stepper, lambda x, t: -x, x, t, t, z)
    assert_close(y[:, 0], alpha * image[:, 0] + sigma * z[0, :, 0], 1e-6)
    assert_close(mean[:, 0], y[:, 0], 0)
    free, free_mean = one_step(langevin, lambda x, t: -x, x, t, t, z[1:])
    assert_close(y[:, 1], free[:, 1], 1e-6)
    assert_close(mean[:, 1], free_mean[:, 1], 1e-6)
    assert (stepper.draws, stepper.evaluations(PAIRS)) == (3, 10)
    fresh = InpaintingLangevin(langevin, image, jnp.asarray([True, False]), "update")
    assert (fresh.draws, fresh.evaluations(PAIRS)) == (4, 10)


def test_inpainting_renews_the_noise_before_each_update():
    """Draws 0, 2, ... set the known pixels; draws 1, 3, ... move everything."""
    sde, t = VP(), jnp.asarray(0.4)
    langevin = AnnealedLangevin(sde, 0.2, 2)
    x, image = jnp.asarray([[1.0, 2.0], [3.0, 4.0]]), jnp.asarray([[0.5, 9.0], [-0.5, 9.0]])
    z, known = jax.random.normal(jax.random.key(0), (4, 2, 2)), jnp.asarray([True, False])
    y = x
    for i in (0, 2):
        start = jnp.where(known, sde.perturb(image, t, z[i]), y)
        single = dataclasses.replace(langevin, n_steps=1)
        y, last = one_step(single, lambda x, t: -x, start, t, t, z[i + 1 : i + 2])
    stepper = InpaintingLangevin(langevin, image, known, "update")
    found, mean = one_step(stepper, lambda x, t: -x, x, t, t, z)
    assert_close(found, y, 1e-6)
    assert_close(mean, last, 1e-6)


def _temporary_bytes(step, x):
    """Memory for intermediate arrays of a compiled function of x and noise(j)."""
    key = jax.random.key(0)
    run = jax.jit(lambda x: step(x, lambda j: normal(fold_in(key, j), x.shape, x.dtype)))
    return run.lower(x).compile().memory_analysis().temp_size_in_bytes


MANY = {
    "langevin": lambda n, x: Langevin(0.1, n),
    "annealed": lambda n, x: AnnealedLangevin(VP(), 0.1, n),
    "inpainting, level": lambda n, x: InpaintingLangevin(AnnealedLangevin(VP(), 0.1, n), x, x > 0),
    "inpainting, update": lambda n, x: InpaintingLangevin(
        AnnealedLangevin(VP(), 0.1, n), x, x > 0, "update"
    ),
}


@pytest.mark.parametrize("name", MANY)
def test_memory_does_not_grow_with_the_number_of_updates(name):
    """Each update makes its own draw: 300 updates take the memory of 3; 300 draws are 300 x."""
    x, t = jnp.zeros((2, 32, 32, 3)), jnp.asarray(0.5)

    def step(n):
        stepper = MANY[name](n, x)
        return lambda x, noise: stepper(lambda x, t: -x, x, t, t, noise, ())[:2]

    assert _temporary_bytes(step(300), x) <= _temporary_bytes(step(3), x) + x.nbytes

    def all_at_once(x, noise):  # what the measurement would see
        return jax.lax.scan(lambda x, z: (0.9 * x + z, None), x, jax.vmap(noise)(jnp.arange(300)))

    assert _temporary_bytes(all_at_once, x) > 250 * x.nbytes


def test_several_updates_are_several_calls():
    def stepper(k):
        return Langevin(0.2, k)

    x, z = (
        jax.random.normal(jax.random.key(0), (5, 4)),
        jax.random.normal(jax.random.key(1), (3, 5, 4)),
    )

    def score_fn(x, t):
        return -x + 0.1 * jnp.sin(x)

    t = jnp.asarray(0.5)
    for make in (stepper, lambda k: AnnealedLangevin(VP(), 0.2, k)):
        together, mean = one_step(make(3), score_fn, x, t, t, z)
        y = x
        for i in range(3):
            y, last = one_step(make(1), score_fn, y, t, t, z[i : i + 1])
        assert_close(together, y, 1e-6)
        assert_close(mean, last, 1e-6)
        assert (make(3).draws, make(3).evaluations(PAIRS)) == (3, 15)


def test_a_sample_step_does_not_depend_on_its_neighbours():
    x, z = (
        jax.random.normal(jax.random.key(0), (5, 4)),
        jax.random.normal(jax.random.key(1), (1, 5, 4)),
    )
    score_fn, t = lambda x, t: -(x**3), jnp.asarray(0.5)
    for stepper, independent in (
        (Langevin(0.2), True),
        (Langevin(0.2, norm="batch"), False),
        (AnnealedLangevin(VP(), 0.2), True),
    ):
        alone = one_step(stepper, score_fn, x[:2], t, t, z[:, :2])[0]
        together = one_step(stepper, score_fn, x, t, t, z)[0][:2]
        assert (float(jnp.max(jnp.abs(alone - together))) < 1e-6) == independent


@pytest.mark.parametrize("name", SDES)
def test_annealed_langevin_converges_to_p_s(name, x64):
    """From a wrong start at fixed s: the mean of p_s; variance v becomes v/(1 - epsilon/2v)."""
    sde = SDES[name]
    s = float(sde.time_at_log_snr(jnp.asarray(0.0)))
    data = GaussianMixture.isotropic([1.0], [[0.4]], 0.5)
    alpha, sigma = (float(v) for v in sde.marginal(jnp.asarray(s)))
    v, snr = (0.5 * alpha) ** 2 + sigma**2, 0.1
    epsilon = 2 * (snr * sigma) ** 2
    pairs = np.full((2000, 2), s)
    run = jax.jit(
        lambda m, c: propagate(AnnealedLangevin(sde, snr), data.score_fn(sde), pairs, m, c)
    )
    mean, variance = run(jnp.asarray([3.0]), 4 * jnp.eye(1))
    assert float(mean[0]) == pytest.approx(0.4 * alpha, rel=1e-6)
    assert float(variance[0, 0]) == pytest.approx(v / (1 - epsilon / (2 * v)), rel=1e-8)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Langevin(0.0), "snr must be positive; got snr=0.0"),
        (
            lambda: Langevin(0.1, 0),
            "n_steps must be at least 1 .leave the corrector out instead.; got n_steps=0",
        ),
        (lambda: AnnealedLangevin(VP(), -1.0), "snr must be positive"),
        (lambda: AnnealedLangevin(VP(), 0.1, 0), "n_steps must be at least 1"),
        (
            lambda: AnnealedLangevin.of_step_size(VP(), 0.0, 0.01, 1),
            "got step_size=0.0, sigma_min=0.01",
        ),
        (
            lambda: InpaintingLangevin(
                AnnealedLangevin(VP(), 0.1), jnp.zeros((1, 1)), jnp.ones((1, 1), bool), "x"
            ),
            "renew must be 'level' or 'update'; got 'x'",
        ),
        (lambda: Langevin(0.1, norm="image"), "norm must be 'sample' or 'batch'; got 'image'"),
    ],
)
def test_messages(make, message):
    with pytest.raises(ValueError, match=message):
        make()
