"""DDNM, DDRM, DiffPIR and RePaint: their noise is that of the process, their ends are exact."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from inverse.dense import Dense
from mathcases import SDES, propagate

from golden import assert_close
from score_sde import grids, inverse
from score_sde.analytic import GaussianMixture
from score_sde.inverse import DDNM, DDRM, Consistency, DiffPIR, RePaint, after, consistent
from score_sde.inverse.separable import Factor, Separable
from score_sde.steppers import Ancestral

D = 4
TURN = np.linalg.qr(np.random.default_rng(3).normal(size=(D, D)))[0]
SPREAD = Separable((D,), (Factor(np.diag([2.0, 0.5, 0.01]) @ TURN[:3]),))
"""Three measured directions, one of them hardly, and one that is not measured."""
X0 = np.random.default_rng(4).normal(size=D)
METHODS = {
    "ddnm": lambda sde, given: DDNM(sde, given, 0.6),
    "ddrm": lambda sde, given: DDRM(sde, given, 0.6, 1.0),
    "ddrm, eta_b": lambda sde, given: DDRM(sde, given, 0.6, 0.7),
    "diffpir": lambda sde, given: DiffPIR(sde, given, 7.0, 0.3),
}


def linear_parts(function, *sizes):
    """(value at 0, matrices) of an affine function of vectors of these sizes."""
    zeros = [jnp.zeros(size) for size in sizes]
    return function(*zeros), jax.jacfwd(function, argnums=tuple(range(len(sizes))))(*zeros)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("process", ["ve", "vp"])
def test_noise_is_that_of_the_process(name, process, x64):
    """With a perfect denoiser x_s is N(alpha_s x_0, sigma_s^2 I): what y adds is taken from z.

    The noise of y, of x_t and of the step are independent; a map of each is read off. A prior with
    one image denoises perfectly. DiffPIR keeps this without noise of y alone.
    """
    sde, point = SDES[process], jnp.asarray(X0)
    times = [(0.9, 0.8), (0.6, 0.3), (0.3, 0.05)]
    stds = (0.0,) if name == "diffpir" else (0.0, 0.02, 0.5, 5.0)

    def score_fn(x, t):
        alpha, sigma = (v[:, None] for v in sde.marginal(t))
        return -(x - alpha * point[None]) / sigma**2

    @jax.jit
    def parts(t, s, std):
        def step(n, z_t, z):
            y = SPREAD.forward(point[None]) + std * n[None]
            stepper = METHODS[name](sde, inverse.Measurement(SPREAD, y, std[None]))
            x = sde.perturb(point[None], t, z_t[None])
            return stepper(score_fn, x, t, s, lambda j: z[None], ())[0][0]

        return linear_parts(step, 3, D, D)

    for t, s in times:
        for std in stds:
            mean, matrices = parts(jnp.asarray(t), jnp.asarray(s), jnp.asarray(std))
            alpha, sigma = (float(v) for v in sde.marginal(jnp.asarray(s)))
            assert_close(mean, alpha * X0, 1e-9, f"mean {t} {std}")
            covariance = sum(np.asarray(m @ m.T) for m in matrices)
            assert_close(covariance / sigma**2, np.eye(D), 1e-9, f"covariance {t} {std}")


def test_the_start_of_ddrm(x64):
    """x_T is N(alpha x_0, sigma^2 I) in measured directions, over the noise of y and the prior."""
    sde = SDES["vp"]
    alpha, sigma = (float(v) for v in sde.marginal(jnp.asarray(sde.t_max)))

    def begin(n, z):
        y = SPREAD.forward(jnp.asarray(X0)[None]) + 0.05 * n[None]
        given = inverse.Measurement(SPREAD, y, jnp.asarray([0.05]))
        return DDRM(sde, given).begin(sde.prior_std * z[None])[0]

    mean, matrices = jax.jit(lambda: linear_parts(begin, 3, D))()
    wanted = alpha * TURN[:3].T @ TURN[:3] @ X0
    assert_close(mean, wanted, 1e-9)
    covariance = sum(np.asarray(m @ m.T) for m in matrices)
    assert_close(covariance, sigma**2 * np.eye(D), 1e-9)


def test_diffpir_solves_its_least_squares_problem(x64):
    """At the clean image the step is the minimum: the gradient vanishes there."""
    sde, weight, t = SDES["vp"], 3.0, jnp.asarray(0.4)
    matrix = np.random.default_rng(5).normal(size=(1, 3, D))
    operator = Dense(jnp.asarray(matrix), (D,))
    y, std = jnp.asarray([[0.4, -1.0, 0.3]] * 2), np.asarray([0.2, 1.5])
    data = GaussianMixture.full([1.0], [X0], np.eye(D)[None])
    x = jnp.asarray(np.random.default_rng(6).normal(size=(2, D)))
    stepper = DiffPIR(sde, inverse.Measurement(operator, y, jnp.asarray(std)), weight)
    p, _, _ = jax.jit(
        lambda x: stepper(data.score_fn(sde), x, t, jnp.asarray(0.0), lambda j: 0 * x, ())
    )(x)
    alpha, sigma = (float(v) for v in sde.marginal(t))
    x0 = sde.tweedie(x, t, data.score(sde, x, jnp.full(2, t)))
    slope = operator.adjoint(operator.forward(p) - y) / std[:, None] ** 2
    slope += weight * (p - x0) / (sigma / alpha) ** 2
    assert_close(slope, np.zeros((2, D)), 1e-9)
    assert np.abs(np.asarray(p - x0)).min() > 1e-3


def test_the_grid_of_repaint():
    """Published: 250 steps, jump and resample 10, in all 4570 transitions."""
    times = np.linspace(1.0, 0.0, 251)
    pairs = grids.with_jumps(times, 10, 10)
    falling = pairs[:, 1] < pairs[:, 0]
    # 24 stretches are made 9 times more. The published code goes back in single steps.
    assert falling.sum() == 250 + 24 * 9 * 10 and (~falling).sum() == 24 * 9
    assert falling.sum() + 10 * (~falling).sum() == 4570
    np.testing.assert_array_equal(pairs[1:, 0], pairs[:-1, 1])
    assert pairs[0, 0] == 1 and pairs[-1, 1] == 0
    small = grids.with_jumps(np.arange(6.0)[::-1], 2, 3)
    stretch = [(5, 4), (4, 3), (3, 5)]
    assert [tuple(p) for p in small[:9]] == [*stretch, *stretch, (5, 4), (4, 3), (3, 2)]
    visits = {t: int(np.sum((small[:, 0] == t) & (small[:, 1] < t))) for t in range(5, 0, -1)}
    assert visits == {5: 3, 4: 3, 3: 3, 2: 3, 1: 1}
    np.testing.assert_array_equal(
        grids.with_jumps(times, 10, 1), np.stack([times[:-1], times[1:]], axis=1)
    )
    for wrong in ((times, 0, 2), (times, 2, 0), (pairs, 2, 2), (times, 250, 2)):
        with pytest.raises(ValueError, match="jump"):
            grids.with_jumps(*wrong)


def test_repaint_in_the_limit(x64):
    """Two pixels with correlation 0.9, one known: resampling meets what imputation misses.

    Moments are propagated exactly. The answer is mean 0.9 a and variance 1 - 0.9^2.
    """
    sde, a = SDES["vp"], 1.2
    data = GaussianMixture.full([1.0], [[0.0, 0.0]], [[[1.0, 0.9], [0.9, 1.0]]])
    operator = inverse.inpainting((2,), np.asarray([True, False]))
    given = inverse.Measurement(operator, jnp.asarray([[a, 0.0]]), jnp.zeros(1))
    keep = after(Consistency(sde, consistent(given)), Ancestral(sde))
    times, score_fn = grids.log_snr_uniform(sde, 80, 1e-3), data.score_fn(sde)
    errors = []
    run = jax.jit(propagate, static_argnums=(0, 1))
    stepper = RePaint(sde, keep)
    for resample in (1, 4, 40):
        pairs = grids.with_jumps(times, 4, resample)
        assert stepper.evaluations(pairs) == np.sum(pairs[:, 1] < pairs[:, 0])
        mean, covariance = run(stepper, score_fn, pairs, np.zeros(2), np.eye(2))
        errors.append((abs(float(mean[1]) - 0.9 * a), abs(float(covariance[1, 1]) / 0.19 - 1)))
    means, variances = zip(*errors, strict=True)
    assert means[0] > 2 * means[1] > 4 * means[2] and means[2] < 0.03
    assert variances[0] > 0.2 > variances[2]


@pytest.mark.parametrize("make", [DDNM, DDRM])
def test_parts_are_between_0_and_1(make):
    with pytest.raises(ValueError, match="eta must be in"):
        make(SDES["vp"], None, 1.2)
    with pytest.raises(ValueError, match="zeta must be in"):
        DiffPIR(SDES["vp"], None, zeta=-0.1)
    with pytest.raises(ValueError, match="weight must be positive"):
        DiffPIR(SDES["vp"], None, weight=0.0)
    with pytest.raises(ValueError, match="eta_b must be in"):
        DDRM(SDES["vp"], None, eta_b=2.0)
