"""Filtered back-projection and reconstruction without learning."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde import inverse
from score_sde.data import ellipses
from score_sde.errors import UserError
from score_sde.inverse import FanBeam, ParallelBeam, cgls, fbp, fista_tv, parallel_beam
from score_sde.inverse.baselines import gradient, gradient_adjoint, tv_gap, tv_prox
from score_sde.inverse.fbp import scan_weights

N = 48
DISC = np.array([[1.5, 0.7, 0.6, 0.1, -0.05, 0.4]])
TURN = tuple(np.arange(180) * np.pi / 90)
FAN = {"source_axis": 100.0, "source_detector": 170.0}
HALF = 60 * 1.2 / 170
SHORT = tuple(np.linspace(0.3, 0.3 + np.pi + 2 * HALF, 110))
BEAMS = {
    "parallel": ParallelBeam((N, N, 1), tuple(np.arange(90) * np.pi / 90), 70),
    "unordered, twice round": ParallelBeam((N, N, 1), TURN[::-1], 70, offset=2.0),
    "fine, not square": ParallelBeam((N, N + 7, 1), TURN[:90], 200, 0.4),
    "small pixels": ParallelBeam((N, N, 1), TURN[:90], 70, 0.25, pixel=0.25),
    "flat": FanBeam((N, N, 1), TURN, 120, 1.2, **FAN),
    "arc": FanBeam((N, N, 1), TURN, 120, 1.2, **FAN, curved=True),
    "flat, short scan": FanBeam((N, N, 1), SHORT, 120, 1.2, **FAN),
    "arc, short scan backwards": FanBeam((N, N, 1), SHORT[::-1], 120, 1.2, **FAN, curved=True),
}


@functools.lru_cache
def _table(pixel: float) -> np.ndarray:
    return ellipses.scaled(DISC, N / 2 * pixel)


@pytest.mark.parametrize("name", BEAMS)
def test_a_constant_ellipse(name: str) -> None:
    """Its mean to .5 %, whatever the spacing, the pixel and the scan."""
    beam = BEAMS[name]
    table = _table(beam.pixel)
    y = ellipses.line_integrals(table, *beam.rays())[None, :, :, None]
    image = np.asarray(jax.jit(functools.partial(fbp, beam))(y.astype(np.float32)))[0, ..., 0]
    inside = table * np.array([1, 0.85, 0.85, 1, 1, 1])
    inside = ellipses.picture(inside, beam.event[:2], beam.pixel) == 1.5
    assert image[inside].mean() == pytest.approx(1.5, rel=5e-3)
    assert image[inside].std() < 0.12
    outside = ellipses.picture(table * np.array([1, 1.2, 1.2, 1, 1, 1]), beam.event[:2], beam.pixel)
    assert abs(image[outside == 0].mean()) < 0.01


def _psnr(image, truth: np.ndarray) -> float:
    return float(-10 * np.log10(np.mean((np.asarray(image)[0, ..., 0] - truth) ** 2)))


@functools.lru_cache
def _head(n: int) -> np.ndarray:
    """The head phantom, smoothed a little as by a change of size."""
    fine = ellipses.picture(ellipses.scaled(ellipses.SHEPP_LOGAN, n), (2 * n, 2 * n), 1.0, 4)
    kernel = np.array([1, 3, 3, 1]) / 8
    for axis in (0, 1):
        fine = np.apply_along_axis(np.convolve, axis, np.pad(fine, 1), kernel, "valid")
        fine = np.pad(fine, [(0, 1), (0, 1)])[: 2 * n, : 2 * n]
    return fine[::2, ::2].astype(np.float32)


def test_windows_are_of_falling_sharpness_and_the_ramp_is_good() -> None:
    truth, beam = _head(128), parallel_beam((128, 128, 1), 180)
    y = jax.jit(beam.forward)(truth[None, :, :, None])
    windows = ("ramp", "shepp-logan", "cosine", "hamming", "hann")
    found = [_psnr(jax.jit(functools.partial(fbp, beam, window=w))(y), truth) for w in windows]
    assert found[0] > 29.9 and found == sorted(found, reverse=True)
    assert np.all(np.diff(found) < -0.1)


def test_parker_weights_of_a_line_add_up_to_one() -> None:
    """A ray (beta, gamma) is also seen from (beta - 2 gamma + pi, -gamma)."""
    span = np.pi + 2 * HALF + 0.4
    views = 400
    fan = FanBeam((N, N, 1), tuple(np.linspace(0, span, views)), 121, 1.2, **FAN)
    share = scan_weights(fan) / (span / (views - 1))
    beta, gamma = np.asarray(fan.angles), fan.gammas()
    for k in (5, 60, 100):
        conjugate = np.mod(beta - 2 * gamma[k] + np.pi, 2 * np.pi)
        other = np.interp(conjugate, beta, share[:, -1 - k], right=0)
        np.testing.assert_allclose(share[:, k] + other, 1, atol=0.02)


def test_a_scan_that_is_too_short_is_refused() -> None:
    fan = FanBeam((N, N, 1), SHORT[:70], 120, 1.2, **FAN)
    with pytest.raises(UserError, match="short scan"):
        fbp(fan, jnp.zeros((1, *fan.measured)))


@pytest.mark.usefixtures("x64")
def test_total_variation_denoising_is_optimal() -> None:
    """By the duality gap, which bounds half the squared distance to the optimum."""
    rng = np.random.default_rng(0)
    x, p = (jnp.asarray(rng.normal(size=(2, 9, 8, 2, *more))) for more in ((), (2,)))
    assert np.sum(gradient(x) * p) == pytest.approx(np.sum(x * gradient_adjoint(p)))
    weight = np.array([0.1, 1.0])
    u, dual = jax.jit(lambda x: tv_prox(x, jnp.asarray(weight), 4000))(x)
    assert np.all(np.sum(dual**2, axis=-1) <= 1 + 1e-12)
    np.testing.assert_allclose(u, x - weight[:, None, None, None] * gradient_adjoint(dual))
    gap = tv_gap(u, dual, jnp.asarray(weight))
    assert np.all(gap >= -1e-12) and np.all(gap < 3e-5)
    same, _ = tv_prox(x, 0.0, 3)
    np.testing.assert_array_equal(same, x)


def test_baselines() -> None:
    """Objective and residual fall; of few views, total variation makes more than FBP."""
    truth = ellipses.picture(ellipses.scaled(ellipses.SHEPP_LOGAN, 16), (32, 32), 1.0)
    beam = parallel_beam((32, 32, 1), 8)
    y = jax.jit(beam.forward)(jnp.asarray(truth[None, :, :, None], jnp.float32))
    x, values = jax.jit(lambda y: fista_tv(beam, y, 0.03, 100))(y)
    assert np.all(np.diff(values, axis=0) <= 0) and values[-1, 0] < 0.05 * values[0, 0]
    assert _psnr(x, truth) > _psnr(jax.jit(lambda y: fbp(beam, y))(y), truth) + 3

    @jax.jit
    def rest(y, steps):
        return jnp.linalg.norm(beam.forward(cgls(beam, y, steps)) - y)

    rests = [float(rest(y, steps)) for steps in (1, 4, 16)]
    assert rests == sorted(rests, reverse=True) and rests[-1] < 0.05 * rests[0]


def test_of_noise_free_pixels_total_variation_keeps_flat_images() -> None:
    """Another operator: a flat image is the optimum of its own pixels."""
    known = np.arange(64).reshape(8, 8) % 3 == 0
    operator = inverse.inpainting((8, 8, 1), known)
    flat = jnp.full((2, 8, 8, 1), 0.7, jnp.float32)
    x, _ = jax.jit(lambda y: fista_tv(operator, y, jnp.asarray([0.01, 0.02]), 400))(
        operator.forward(flat)
    )
    np.testing.assert_allclose(x, flat, atol=2e-3)
