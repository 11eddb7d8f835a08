"""Steps to the clean image, noise, laws and mechanics of the steppers in sigma/alpha."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mathcases import SDES, mixture_2d, mixture_16d, one_step, propagate, slope

from golden import assert_close
from score_sde import grids
from score_sde.analytic import GaussianMixture
from score_sde.arrays import sample_keys
from score_sde.sampling import Sampler, independent_noise
from score_sde.sde import EDM, VE, VP, DiscreteChain
from score_sde.steppers import (
    EULER,
    HEUN,
    KUTTA,
    MIDPOINT,
    RK4,
    AdamsBashforth,
    Ancestral,
    AnnealedLangevin,
    Churn,
    FlowRungeKutta,
    Identity,
    RungeKutta,
    adams,
    at_start,
    chain,
    second_order,
)

ALL = pytest.mark.parametrize("sde", SDES.values(), ids=SDES)
TABLEAUS = (EULER, HEUN, second_order(0.3), KUTTA)
CHAINS = {"smld": DiscreteChain.smld(n=50), "ddpm": DiscreteChain.ddpm(n=50)}


def no_noise(j):
    raise AssertionError("the method asks for no noise")


def middle(sde):
    """A time between data and noise, and one nearer to data."""
    return tuple(sde.time_at_log_snr(jnp.asarray(v)) for v in (-1.0, 1.0))


def to_clean(process):
    """Steppers whose step to the clean image returns the denoised one: for VP all of them."""
    steppers = {"heun": RungeKutta(process, HEUN), "adams": AdamsBashforth(process, 3)}
    if not isinstance(process, DiscreteChain):
        steppers["dpm_2_ancestral"] = RungeKutta(process, MIDPOINT, "log_rho", 1.0)
    if isinstance(process, VP):
        steppers["ddim"] = RungeKutta(process)
        steppers["rk4"] = RungeKutta(process, RK4)
        steppers["t_ab"] = AdamsBashforth(process, 3, "time")
        steppers["ipndm"] = AdamsBashforth(process, 3, "steps")
        steppers["churn"] = Churn(process, RungeKutta(process, HEUN), 0.3, 1e3)  # none below 1e3
    return steppers


@pytest.mark.parametrize("process", [*SDES.values(), *CHAINS.values()], ids=[*SDES, *CHAINS])
def test_a_step_to_the_clean_image_denoises(process, x64):
    """Finite, and E[x_0 | x]: after a step of any kind, so that histories are not empty."""
    chain_like = isinstance(process, DiscreteChain)
    t, s = (jnp.asarray(v) for v in (30.0, 12.0)) if chain_like else middle(process)
    data, clean = mixture_2d(), jnp.asarray(process.t_clean)
    score_fn = data.score_fn(process)
    x, z = jax.random.normal(jax.random.key(0), (2, 3, 2))

    @jax.jit
    def ends(x):
        found = {}
        for name, stepper in to_clean(process).items():
            between, _, carry = stepper(score_fn, x, t, s, lambda j: z, stepper.init(x))
            found[name] = between, *stepper(score_fn, between, s, clean, lambda j: z, carry)[:2]
        return found

    for name, (between, end, mean) in ends(x).items():
        wanted = process.tweedie(between, s, data.score(process, between, s))
        assert float(jnp.max(jnp.abs(between - x))) > 0.01, name
        assert_close(end, wanted, 1e-10, name)
        assert_close(mean, wanted, 1e-10, name)


def test_extrapolation_to_the_clean_image_is_finite(x64):
    """k-diffusion's lms: v + int eps drho down to 0 by a line through two values."""
    sde, data = VP(), mixture_2d()
    score_fn, stepper = data.score_fn(sde), AdamsBashforth(sde, 2, extrapolate=True)
    t, s, clean = (jnp.asarray(v) for v in (0.5, 0.4, 0.0))
    x = jax.random.normal(jax.random.key(0), (3, 2))
    between, _, carry = stepper(score_fn, x, t, s, no_noise, stepper.init(x))
    found, _, _ = stepper(score_fn, between, s, clean, no_noise, carry)
    (r0, e0), (r1, e1) = (
        (sigma / alpha, -sigma * data.score(sde, at, time))
        for at, time in ((x, t), (between, s))
        for alpha, sigma in (sde.marginal(time),)
    )
    line = r1 * e1 - r1**2 / 2 * (e1 - e0) / (r1 - r0)
    assert_close(found, between / sde.marginal(s)[0] - line, 1e-10)


def test_a_time_for_each_sample(x64):
    """A batch with steps of its own, one of them to the clean image, is its samples alone."""
    sde, score_fn = VP(), mixture_2d().score_fn(VP())
    x, z = jax.random.normal(jax.random.key(0), (2, 3, 2))
    t, s = jnp.asarray([0.9, 0.5, 0.2]), jnp.asarray([0.8, 0.0, 0.1])
    steppers = (
        RungeKutta(sde, MIDPOINT, "log_rho", 1.0),
        FlowRungeKutta(sde, HEUN),
        Churn(sde, RungeKutta(sde, HEUN), 0.2, 0.1, 1.0),
        AdamsBashforth(sde, 2, "time"),
    )

    @jax.jit
    def ends(x, t, s, z):
        return [one_step(stepper, score_fn, x, t, s, z[None])[0] for stepper in steppers]

    together = ends(x, t, s, z)
    for i in range(3):
        alone = ends(x[i : i + 1], t[i], s[i], z[i : i + 1])
        for found, wanted in zip(together, alone, strict=True):
            assert_close(found[i : i + 1], wanted, 1e-10)


@pytest.mark.parametrize("process", [*SDES.values(), *CHAINS.values()], ids=[*SDES, *CHAINS])
def test_ddim_with_eta_1_is_ancestral_sampling(process, x64):
    """The posterior of x_s given x_t and the denoised image, in mean and noise."""
    chain_like = isinstance(process, DiscreteChain)
    t, s = (jnp.asarray(v) for v in (30.0, 12.0)) if chain_like else middle(process)
    x, z = jax.random.normal(jax.random.key(0), (2, 3, 2))
    score_fn = mixture_2d().score_fn(process)
    ddim, ancestral = (
        one_step(stepper, score_fn, x, t, s, z[None])
        for stepper in (RungeKutta(process, eta=1.0), Ancestral(process))
    )
    assert_close(ddim[0], ancestral[0], 1e-9)
    assert_close(ddim[1], ancestral[1], 1e-9)


def test_in_time_of_edm_is_in_its_noise_level(x64):
    sde, score_fn = EDM(), mixture_2d().score_fn(EDM())
    x, t, s = jnp.asarray([[3.0, -2.0]]), jnp.asarray(4.0), jnp.asarray(1.5)

    @jax.jit
    def ends(x):
        return [
            [one_step(kind(sde, a), score_fn, x, t, s, jnp.zeros((0, 1, 2)))[0] for a in TABLEAUS]
            for kind in (FlowRungeKutta, RungeKutta)
        ]

    for found, wanted in zip(*ends(x), strict=True):
        assert_close(found, wanted, 1e-12)


def test_levels_and_noise_of_an_ancestral_step_by_hand(x64):
    """With a score of 0, x/alpha stays: std^2 is rho_up^2, at most rho_s^2 for a large eta."""
    x, z, sde = jnp.ones((1, 1)), jnp.ones((1, 1, 1)), VP()
    t, s = jnp.asarray(0.7), jnp.asarray(0.4)
    (alpha_t, sigma_t), (alpha_s, sigma_s) = sde.marginal(t), sde.marginal(s)
    fall = (sigma_s / alpha_s) / (sigma_t / alpha_t)
    for eta in (0.3, 1.0, 1.02, 5.0):
        stepper = RungeKutta(sde, eta=eta, s_noise=1.1)
        y, mean = one_step(stepper, lambda x, t: jnp.zeros_like(x), x, t, s, z)
        assert_close(mean, x * alpha_s / alpha_t, 1e-12)
        std = sigma_s * jnp.minimum(eta * jnp.sqrt(1 - fall**2), 1.0)
        assert_close(y - mean, 1.1 * std * z[0], 1e-12)


GAUSSIAN = GaussianMixture.isotropic([1.0], [[0.6]], 0.5)


def law(sde, t):
    """Mean and covariance of x_t for `GAUSSIAN`."""
    alpha, sigma = sde.marginal(jnp.asarray(t))
    return alpha * jnp.asarray([0.6]), ((0.5 * alpha) ** 2 + sigma**2) * jnp.eye(1)


@ALL
def test_quadrature_in_time(sde, x64, monkeypatch):
    """A step over a factor of up to 1,000 in sigma/alpha: 32 nodes are as good as 100."""
    low, high = grids.levels_of(sde, np.asarray([sde.t_min, sde.t_max]))
    rho = np.asarray([min(1e3 * low, high / 3), low])
    stepper, levels = AdamsBashforth(sde, 4, "time"), rho[0] * np.asarray([3, 2, 1.5, 1])
    *places, t = (jnp.asarray(v) for v in grids.at_levels(sde, levels))

    def weights(nodes):
        monkeypatch.setattr(adams, "_NODES_IN_TIME", nodes)
        ends = (jnp.asarray(v) for v in rho)
        return np.asarray(stepper._weights([t, *places[::-1]], jnp.asarray(3), *ends))

    found, wanted = weights(adams._NODES_IN_TIME), weights(100)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-10 * np.abs(wanted).max())
    np.testing.assert_allclose(wanted.sum(), rho[1] - rho[0], rtol=1e-9)


@ALL
def test_churn_alone_keeps_the_law(sde, x64):
    """Without a step after it, x_t becomes x at the lifted level, exactly; not above t_max."""
    time, _ = middle(sde)
    (alpha, sigma), end = sde.marginal(time), jnp.asarray(sde.t_max)
    for t, churn, factor in ((time, 0.3, 1.3), (time, 9.0, 2**0.5), (end, 0.3, 1.0)):
        churned = Churn(sde, Identity(), churn)
        pair = jnp.stack([t, t])[None]
        lifted = sde.time_at_log_snr(sde.log_snr(t) - 2 * jnp.log(jnp.asarray(factor)))
        found = propagate(churned, GAUSSIAN.score_fn(sde), pair, *law(sde, t))
        for value, wanted in zip(found, law(sde, lifted), strict=True):
            assert_close(value, wanted, 1e-10)
    rho = float(sigma / alpha)
    for low, high in ((1.01 * rho, 10.0), (0.0, 0.99 * rho)):  # outside: nothing happens
        churned = Churn(sde, Identity(), 0.3, low, high)
        found = one_step(churned, GAUSSIAN.score_fn(sde), jnp.ones((1, 1)), time, time, [[[9.0]]])
        assert_close(found[0], jnp.ones((1, 1)), 1e-12)


STOCHASTIC = {
    "ddim, eta 1": (lambda sde, n: RungeKutta(sde, eta=1.0), 1),
    "ddim, eta 0.5": (lambda sde, n: RungeKutta(sde, eta=0.5), 1),
    "dpm_2_ancestral": (lambda sde, n: RungeKutta(sde, MIDPOINT, "log_rho", 1.0), 2),
    "dpm_2_ancestral, eta 0.5": (lambda sde, n: RungeKutta(sde, MIDPOINT, "log_rho", 0.5), 2),
    "churned heun": (lambda sde, n: Churn(sde, RungeKutta(sde, HEUN), 30 / n), 2),
}
"""With the order of the law of their outputs. S_churn is 30: adding noise is exact."""


@pytest.mark.parametrize("name", STOCHASTIC)
def test_weak_order(name, x64):
    """Mean and variance of the output for a Gaussian, without Monte Carlo, on VP."""
    (make, order), sde, sizes, end = STOCHASTIC[name], VP(), (200, 400), 0.1
    mean, variance = law(sde, end)
    errors = []
    for n in sizes:
        pairs = grids.as_pairs(grids.log_snr_uniform(sde, n, end))
        run = jax.jit(
            lambda pairs, n=n: propagate(
                make(sde, n), GAUSSIAN.score_fn(sde), pairs, *law(sde, sde.t_max)
            )
        )
        found = run(jnp.asarray(pairs))
        errors.append((float(found[0][0] - mean[0]), float((found[1] - variance)[0, 0])))
    means, variances = np.abs(errors).T
    assert slope(sizes, variances) == pytest.approx(-order, abs=0.15), variances
    assert variances[-1] < {1: 0.02, 2: 2e-3}[order] * float(variance[0, 0]), variances
    assert means[-1] < {1: 2e-2, 2: 1e-4}[order], means


def moments_agree(x, mean, covariance):
    """Whether sample mean and covariance are within 4 standard errors of the exact ones."""
    x = np.asarray(x, np.float64).reshape(len(x), -1)
    offset = x - mean
    products = offset[:, :, None] * offset[:, None, :]
    return all(
        np.all(np.abs(values.mean(0) - wanted) < 4 * values.std(0) / len(x) ** 0.5)
        for values, wanted in ((x, mean), (products, covariance))
    )


def exact_moments(data, sde, t):
    """Mean and covariance of p_t of a mixture without rotations or with them."""
    alpha, sigma = (float(v) for v in sde.marginal(jnp.asarray(t)))
    means = data.means.reshape(len(data.weights), -1)
    d = means.shape[1]
    mean = data.weights @ means
    covariance = -np.outer(mean, mean)
    for k, weight in enumerate(data.weights):
        q = np.eye(d) if data.rotations is None else data.rotations[k]
        covariance = covariance + weight * (
            q @ np.diag(data.variances[k]) @ q.T + np.outer(means[k], means[k])
        )
    return alpha * mean, alpha**2 * covariance + sigma**2 * np.eye(d)


LAWS = [(name, "2d") for name in STOCHASTIC]
LAWS += [(name, "16d") for name in ("ddim, eta 1", "churned heun")]


@pytest.mark.parametrize(("name", "where"), LAWS)
def test_law_of_samples(name, where):
    """4,000 samples on EDM's grid; noise of 1.15 times its size is seen."""
    data = mixture_2d() if where == "2d" else mixture_16d()
    sde, n = EDM(0.02, 10.0), 4000
    make, order = STOCHASTIC[name]
    steps = {1: 120, 2: 60}[order]
    stepper = make(sde, steps)
    times = grids.karras(sde, steps)

    @jax.jit
    def draw(key, size):
        noisier = Sampler(
            sde, stepper, times, "none",
            noise=lambda keys, i, j, x: size * independent_noise(keys, i, j, x),
        )  # fmt: skip
        return noisier(key, data.score_fn(sde), (n, *data.event)).x

    wanted = exact_moments(data, sde, sde.t_min)
    assert moments_agree(draw(jax.random.key(0), 1.0), *wanted)
    if where == "2d":
        assert not moments_agree(draw(jax.random.key(0), 1.15), *wanted)


SDE = VP()
TIMES = grids.to_clean(SDE, grids.log_snr_uniform(SDE, 6, 1e-2))
JOINED = {
    "dpm_2_ancestral": RungeKutta(SDE, MIDPOINT, "log_rho", 1.0),
    "churned heun": Churn(SDE, RungeKutta(SDE, HEUN), 0.2),
    "adams with a corrector": chain(
        at_start(AnnealedLangevin(SDE, 0.1)), AdamsBashforth(SDE, 4, "time")
    ),
}


def test_a_sample_is_the_same_in_every_batch():
    score_fn = mixture_2d().score_fn(SDE)

    @jax.jit
    def draw(keys):
        samplers = {k: Sampler(SDE, stepper, TIMES, "none") for k, stepper in JOINED.items()}
        return {k: sampler(keys, score_fn, (len(keys), 2)).x for k, sampler in samplers.items()}

    keys = sample_keys(jax.random.key(3), jnp.arange(6))
    together, first, second = draw(keys), draw(keys[:3]), draw(keys[3:])
    for name, x in together.items():
        assert np.all(np.isfinite(x)), name
        assert len(np.unique(x[:, 0])) == 6, name
        assert_close(jnp.concatenate([first[name], second[name]]), x, 1e-5, name)


@pytest.mark.parametrize(
    ("stepper", "count"),
    [
        (RungeKutta(SDE, HEUN), 2 * 6 + 1),
        (RungeKutta(SDE, RK4), 4 * 6 + 1),
        (RungeKutta(SDE, eta=1.0), 7),
        (Churn(SDE, RungeKutta(SDE, HEUN), 0.2), 2 * 6 + 1),
        (AdamsBashforth(SDE, 3), 7),
    ],
)
def test_evaluations(stepper, count):
    """As many as are made when it runs; the score appears once a stage in the program."""
    made, appearances = [], []

    def score_fn(x, t):
        appearances.append(t)
        jax.debug.callback(lambda: made.append(1))
        return -x

    sampler = Sampler(SDE, stepper, TIMES, "none")
    jax.block_until_ready(jax.jit(lambda key: sampler(key, score_fn, (2, 2)).x)(jax.random.key(0)))
    jax.effects_barrier()
    assert len(made) == sampler.evaluations == count
    stages = {13: 2, 25: 4, 7: 1}[count]
    assert len(appearances) <= 2 * stages  # tracing a loop may repeat; 7 steps would show
    assert stepper.evaluations(grids.as_pairs(TIMES[:-1])) == 6 * stages


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: second_order(0.0), r"alpha, .*, must be in \(0, 1\]; got 0.0"),
        (lambda: second_order(1.5), "got 1.5"),
        (lambda: RungeKutta(SDE, nodes="t"), "nodes must be 'rho' or 'log_rho'; got 't'"),
        (lambda: RungeKutta(SDE, eta=-1.0), "eta must be at least 0; got -1.0"),
        (lambda: RungeKutta(SDE, HEUN, eta=1.0), "with noise, eta=1.0, a slope at 1 of the step"),
        (lambda: RungeKutta(SDE, MIDPOINT, eta=1.0), "a slope at 0.5 of the step"),
        (lambda: RungeKutta(CHAINS["ddpm"], RK4), "between the times .* DiscreteChain"),
        (lambda: Churn(SDE, Identity(), -0.1), "churn, .*, must be at least 0; got -0.1"),
        (lambda: Churn(CHAINS["ddpm"], Identity(), 0.1), "between the times .* DiscreteChain"),
        (lambda: AdamsBashforth(SDE, 0), "order must be at least 1; got 0"),
        (lambda: AdamsBashforth(SDE, 2, "sigma"), "variable must be .* got 'sigma'"),
        (lambda: AdamsBashforth(CHAINS["smld"], 2, "time"), "between the times .* DiscreteChain"),
        (lambda: AdamsBashforth(VE(), 2, "time", True), "extrapolate=True reaches rho = 0"),
    ],
)
def test_messages(make, message):
    with pytest.raises(ValueError, match=message):
        make()
