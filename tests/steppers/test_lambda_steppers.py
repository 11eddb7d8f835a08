"""What holds for all solvers in log-SNR: the clean end, scale, batches, memory, counts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from lambdacases import FAST_COMPILATION, Problem, denoised, follow, trace
from mathcases import SDES, mixture_2d, one_step

from golden import assert_close
from score_sde import grids
from score_sde.arrays import batch_time, sample_keys
from score_sde.sampling import Sampler
from score_sde.sde import VP, DiscreteChain
from score_sde.steppers import (
    Adaptive,
    Ancestral,
    AnnealedLangevin,
    Exponential,
    Multistep,
    Singlestep,
    at_start,
    chain,
    lowered_orders,
)

DATA = mixture_2d()
fast_jit = functools.partial(jax.jit, compiler_options=FAST_COMPILATION)


def solvers(process):
    """One of each kind on a process."""
    every = {
        "multistep": Multistep(Exponential(process), 3),
        "noise": Multistep(Exponential(process, "noise"), 3, "bh1"),
        "corrected": Multistep(Exponential(process), 2, corrector=True),
        "sde noise": Multistep(Exponential(process, "noise", 1.0), 2),
    }
    if isinstance(process, DiscreteChain):
        return every
    ancestral = Exponential(process, eta=0.8, law="ancestral")
    return every | {
        "singlestep": Singlestep(Exponential(process, "noise"), 3, "taylor"),
        "noisy": Singlestep(ancestral, noisy=True),
        "adaptive": Adaptive(Exponential(process, "noise"), 2),
    }


CLEAN = {"vp": VP(), "edm": SDES["edm"], "ddpm": DiscreteChain.ddpm(n=40)}


@pytest.mark.parametrize("name", CLEAN)
def test_step_to_the_clean_end(name, x64):
    """Where sigma = 0, the denoised x, without noise: at once, and after a step before."""
    process = CLEAN[name]
    discrete = isinstance(process, DiscreteChain)
    far, near, end = (jnp.asarray(v) for v in ((20.0, 7.0, -1.0) if discrete else (0.4, 0.1, 0.0)))
    x, z = jax.random.normal(jax.random.key(0), (2, 4, 2), jnp.float64)
    score_fn = DATA.score_fn(process)

    @fast_jit
    def run(x):
        found = {}
        for key, stepper in solvers(process).items():
            if name == "edm":  # the others show what memory does
                once, _, _ = stepper(score_fn, x, far, end, lambda j: z, stepper.init(x))
                found[key] = once, denoised(process, DATA, x, far)
                continue
            y, _, carry = stepper(score_fn, x, far, near, lambda j: z, stepper.init(x))
            twice, mean, carry = stepper(score_fn, y, near, end, lambda j: z, carry)
            if key != "corrected":  # its x is no longer the one at which the score was evaluated
                found[f"{key} mean"] = mean, denoised(process, DATA, y, near)
                found[key] = twice, denoised(process, DATA, y, near)
        return found

    for key, (found, wanted) in run(x).items():
        assert_close(found, wanted, 1e-11, key)


@pytest.mark.parametrize("name", [*SDES, "ddpm"])
def test_first_order_is_the_ancestral_step(name, x64):
    """eta = 1 is the mean and the noise of q(x_s | x_t, x_0) at the denoised x_0; eta = 0 is DDIM.

    One formula for both predictions, both laws and the single step.
    """
    process = DiscreteChain.ddpm(n=40) if name == "ddpm" else SDES[name]
    t, s = (jnp.asarray(v * process.t_max) for v in (0.5, 0.25))
    if name == "ddpm":
        t, s = jnp.round(t), jnp.round(s)
    x, z = jax.random.normal(jax.random.key(0), (2, 3, 2), jnp.float64)
    score_fn = DATA.score_fn(process)
    steps = {
        (key, eta): Multistep(Exponential(process, prediction, eta, law), 1)
        for key, prediction, law, etas in (
            ("data", "data", "sde", (0.0, 1.0)),
            ("ancestral", "data", "ancestral", (0.0, 1.0)),
            ("noise", "noise", "ancestral", (0.0, 1.0)),
        )
        for eta in etas
    }
    if name != "ddpm":
        steps["single", 1.0] = Singlestep(Exponential(process, eta=1.0), 1)
        steps["single", 0.0] = Singlestep(Exponential(process), 1)
    steps["library", 1.0] = Ancestral(process)

    @fast_jit
    def run(x):
        return [one_step(stepper, score_fn, x, t, s, z[None]) for stepper in steps.values()]

    *every, wanted = run(x)
    d = denoised(process, DATA, x, t)
    (alpha_t, sigma_t), (alpha_s, sigma_s) = process.marginal(t), process.marginal(s)
    implicit = alpha_s * d + sigma_s / sigma_t * (x - alpha_t * d)
    for ((key, eta), stepper), found in zip(steps.items(), every):
        assert stepper.draws == eta
        for one, other in zip(found, wanted if eta else (implicit, implicit)):
            assert_close(one, other, 1e-10, f"{key} {eta}")


@pytest.mark.parametrize("name", ["ve", "subvp", "edm", "cosine"])
def test_scale(name, x64):
    """x/alpha at a log-SNR does not depend on the process that leads there."""
    places = jnp.asarray([-2.0, -1.1, -0.3, 0.1, 0.9, 1.6])
    y, *z = jax.random.normal(jax.random.key(0), (11, 3, 2), jnp.float64)

    @functools.partial(fast_jit, static_argnums=0)
    def run(process):
        times, found = process.time_at_log_snr(2 * places), {}
        for key in ("corrected", "sde noise", "noisy"):
            stepper, x = solvers(process)[key], process.marginal(times[0])[0] * y
            carry, score_fn = stepper.init(x), DATA.score_fn(process)
            noise = jnp.stack(z).reshape(5, 2, 3, 2)

            def step(i, state, stepper=stepper, score_fn=score_fn, noise=noise):
                ends = times[i], times[i + 1]
                return stepper(score_fn, state[0], *ends, lambda j: noise[i, j], state[2])

            x, _, _ = jax.lax.fori_loop(0, 5, step, (x, x, carry))
            found[key] = x / process.marginal(times[-1])[0]
        return found

    wanted = run(SDES["vp"])
    for key, found in run(SDES[name]).items():
        assert_close(found, wanted[key], 1e-9, key)


def test_two_steps_on_a_table(x64):
    """Multistep 2 of a discrete chain with unequal strides, by the formula of DPM-Solver++(2M)."""
    process, indices = DiscreteChain.ddpm(n=40), (30, 17, 9)
    x = np.asarray(jax.random.normal(jax.random.key(0), (3, 2), jnp.float64))
    alphas, sigmas = process.alphas[list(indices)], process.sigmas[list(indices)]
    place = np.log(alphas / sigmas)
    first = np.asarray(denoised(process, DATA, jnp.asarray(x), jnp.asarray(30.0)))
    y = sigmas[1] / sigmas[0] * x - alphas[1] * np.expm1(place[0] - place[1]) * first
    second = np.asarray(denoised(process, DATA, jnp.asarray(y), jnp.asarray(17.0)))
    h, before = place[2] - place[1], place[1] - place[0]
    target = second + h / (2 * before) * (second - first)
    wanted = sigmas[2] / sigmas[1] * y - alphas[2] * np.expm1(-h) * target
    times, start = jnp.asarray(indices, float), jnp.asarray(x)
    score_fn = DATA.score_fn(process)
    assert_close(
        follow(Multistep(Exponential(process)), score_fn, start, times, x)[-1], wanted, 1e-12
    )


SDE = VP()
TIMES = grids.log_snr_uniform(SDE, 8, 1e-2)


def sampled(stepper, indices, times=TIMES):
    """Samples with these numbers, of a run that gives each its own key."""
    sampler, score_fn = Sampler(SDE, stepper, times), DATA.score_fn(SDE)
    run = fast_jit(lambda keys: sampler(keys, score_fn, (len(keys), 2))[:2])
    return run(sample_keys(jax.random.key(0), jnp.asarray(indices)))


@pytest.mark.parametrize("key", ["corrected", "sde noise", "noisy", "adaptive"])
def test_a_sample_does_not_depend_on_its_batch(key):
    (all_x, all_nfe), (x, nfe) = (sampled(solvers(SDE)[key], rows) for rows in (range(5), [3]))
    assert_close(all_x[3:4], x, 2e-5)
    if key == "adaptive":
        np.testing.assert_array_equal(all_nfe[3:4], nfe)
        assert len(set(np.asarray(all_nfe))) > 1  # each has steps of its own


def test_memory_passes_through_segments():
    """Steps 0..3, then 3..8, are bit for bit steps 0..8, with lowered orders and a corrector."""
    method = Multistep(Exponential(SDE, eta=0.5), lowered_orders(3, 8), corrector=True)
    stepper = chain(at_start(AnnealedLangevin(SDE, 0.1)), method)
    sampler, score_fn = Sampler(SDE, stepper, TIMES), DATA.score_fn(SDE)
    keys = sample_keys(jax.random.key(0), jnp.arange(4))
    advance = fast_jit(
        lambda state, first, last: sampler.advance(keys, score_fn, state, first, last)
    )
    start = sampler.begin(keys, (4, 2))
    whole = advance(start, 0, 8)
    parts = advance(advance(start, 0, 3), 3, 8)
    jax.tree.map(np.testing.assert_array_equal, parts, whole)
    forgetful = advance(sampler.start(advance(start, 0, 3).x), 3, 8)
    assert float(jnp.max(jnp.abs(forgetful.x - whole.x))) > 1e-3
    assert int(whole.carry[1].taken) == 8
    assert sampler.evaluations == 8 * 2 + 1


def test_lowered_orders(x64):
    """A tuple lowers the order where it says so: the last step alone differs, and is of order 1."""
    x, times = np.array([[0.5, -1.0]]), TIMES[:5]

    def run(order, x, times):
        problem = Problem(Multistep(Exponential(SDE), order), SDE, DATA)
        return trace(problem, times, x, size=4)

    same, lowered = run(3, x, times), run((3, 3, 3, 1), x, times)
    assert_close(same[:4], lowered[:4], 1e-12)
    wanted = run(1, same[3], times[3:])[-1]
    assert_close(lowered[4], wanted, 1e-12)
    assert float(jnp.max(jnp.abs(same[4] - wanted))) > 1e-4


def test_the_corrector_keeps_what_happened_in_between(x64):
    """x moved by d between two steps is corrected, and still moved by d."""
    stepper, d = Multistep(Exponential(SDE), 2, corrector=True), jnp.asarray([[0.3, -0.2]])
    t, s, end = (jnp.asarray(v) for v in (0.8, 0.6, 0.5))
    alphas, sigmas = (np.asarray(v) for v in SDE.marginal(jnp.stack([t, s, end])))
    x = jnp.asarray([[0.5, -1.0]])

    def constant(x, t):  # the score of one point, so that all predictions are 1 whatever x
        alpha, sigma = (v[:, None] for v in SDE.marginal(t))
        return (alpha - x) / sigma**2

    y, _, carry = stepper(constant, x, t, s, lambda j: x, stepper.init(x))
    moved, _, _ = stepper(constant, y + d, s, end, lambda j: x, carry)
    still, _, _ = stepper(constant, y, s, end, lambda j: x, carry)
    assert_close(moved - still, sigmas[2] / sigmas[1] * d, 1e-12)
    assert_close(still, alphas[2] + sigmas[2] / sigmas[0] * (x - alphas[0]), 1e-12)


def test_evaluations_are_those_that_are_made():
    """Steps of orders 2, 3 and 1, then one to sigma = 0: 2 + 3 + 1 + 1, counted as they happen."""
    calls = []
    score_fn = DATA.score_fn(SDE)

    def counted(x, t):
        jax.debug.callback(lambda t: calls.append(float(t[0])), t)
        return score_fn(x, t)

    times = np.array([1.0, 0.8, 0.6, 0.3, 0.0])
    for stepper, wanted in (
        (Singlestep(Exponential(SDE), (2, 3, 1, 3)), 7),
        (Multistep(Exponential(SDE), 3, corrector=True), 4),
        (Adaptive(Exponential(SDE), 3), None),
    ):
        calls.clear()
        sampler = Sampler(SDE, stepper, times, "none")
        keys = jax.random.key(0)
        found = fast_jit(lambda k, run=sampler: run(k, counted, (1, 2))[:2])(keys)
        jax.effects_barrier()
        if wanted is None:
            assert int(found[1][0]) == len(calls) < sampler.evaluations
        else:
            assert len(calls) == wanted == sampler.evaluations == int(found[1])


def test_adaptive(x64):
    """The error falls with the tolerances, and evaluations are counted in each sample's carry."""
    x = jax.random.normal(jax.random.key(0), (6, 2), jnp.float64)
    times, score_fn = np.array([1.0, 1e-2]), DATA.score_fn(SDE)

    @functools.partial(fast_jit, static_argnums=0)
    def run(stepper, x):
        sampler = Sampler(SDE, stepper, times, "none")
        return sampler.advance(jax.random.key(0), score_fn, sampler.start(x), 0, 1)

    ends = {
        tolerance: run(Adaptive(Exponential(SDE, "noise"), 3, tolerance, tolerance), x)
        for tolerance in (1e-2, 1e-4, 1e-7)
    }
    wanted = ends[1e-7].x
    errors = [float(jnp.max(jnp.abs(ends[tolerance].x - wanted))) for tolerance in (1e-2, 1e-4)]
    assert errors[0] < 0.1
    assert errors[1] < 1e-3
    assert errors[1] < errors[0] / 10
    nfe = [np.asarray(end.carry.nfe) for end in ends.values()]
    assert (nfe[0] < nfe[1]).all()
    assert (nfe[1] < nfe[2]).all()
    assert (nfe[0] % 3 == 0).all()
    assert len(set(nfe[1])) > 1
    most = int(np.median(nfe[1])) // 3
    lost = run(Adaptive(Exponential(SDE, "noise"), 3, 1e-4, 1e-4, max_steps=most), x)
    enough = nfe[1] <= 3 * most
    np.testing.assert_array_equal(np.isnan(lost.x), np.repeat(~enough[:, None], 2, 1))
    assert enough.any()
    assert not enough.all()


def test_adaptive_in_a_chain_and_with_frames():
    """Beside a corrector, with states on its way: evaluations of all parts, for each sample."""
    stepper = chain(Adaptive(Exponential(SDE), 2), AnnealedLangevin(SDE, 0.1, 2))
    sampler = Sampler(SDE, stepper, TIMES)
    keys = sample_keys(jax.random.key(0), jnp.arange(3))
    found = fast_jit(lambda keys: sampler(keys, DATA.score_fn(SDE), (3, 2), 4))(keys)
    assert found.trajectory.shape == (5, 3, 2)
    assert found.nfe.shape == (3,)
    own = np.asarray(found.nfe) - 8 * 2 - 1
    assert (own % 2 == 0).all()
    assert (own >= 8 * 2).all()
    assert np.isfinite(found.x).all()
    assert at_start(stepper).evaluations(np.zeros((5, 2))) == 5 * (2 * 1000 + 2)


def test_gradients_are_finite(x64):
    """A run to the clean end can be differentiated in its start: no unused branch is NaN."""
    times = jnp.asarray([0.5, 0.3, 0.0])

    @fast_jit
    def gradient(x):
        found = {}
        for key in ("corrected", "singlestep", "noisy"):
            stepper = solvers(SDE)[key]

            def loss(x, stepper=stepper):
                return jnp.sum(follow(stepper, DATA.score_fn(SDE), x, times, x)[-1] ** 2)

            found[key] = jax.grad(loss)(x)
        return found

    for key, value in gradient(jnp.asarray([[0.5, -1.0]])).items():
        assert np.isfinite(value).all(), key


def test_times_for_each_sample(x64):
    """The factors take one time a sample, as the adaptive solver needs."""
    t, s = jnp.asarray([0.8, 0.5]), jnp.asarray([0.6, 0.1])
    exponential = Exponential(SDE, eta=0.7, law="ancestral")
    rows = [exponential.bridge(a, b) for a, b in zip(t, s)]
    for found, *wanted in zip(exponential.bridge(t, s), *rows):
        assert_close(found, jnp.stack(wanted), 1e-14)
    x = jnp.ones((2, 2))
    assert exponential.predict(lambda x, t: x * t[:, None], x, t).shape == (2, 2)
    assert batch_time(t, x).shape == (2,)
