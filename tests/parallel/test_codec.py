"""Encoding and decoding many images, against a Gaussian model whose flow is known."""

import dataclasses

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde import VE, VP, GaussianMixture, Sampler, grids, steppers
from score_sde.arrays import sample_keys
from score_sde.data import PixelRange
from score_sde.devices import Placement
from score_sde.errors import UserError
from score_sde.flow import Flow
from score_sde.parallel.codec import Codec, interpolate

SHAPE = (2, 2, 1)
MEAN, STD = 0.2, 0.5
PIXELS = PixelRange(levels=5, low=-1.0, high=1.0)
IMAGES = np.random.default_rng(0).integers(0, 5, size=(11, *SHAPE)).astype(np.uint8)
NAMES = [f"image {i}" for i in range(11)]


def codec(sde=None, batch_size=16, dequantized=True, **flow):
    sde = sde or VP(t_min=1e-4)
    model = GaussianMixture.isotropic([1.0], np.full((1, *SHAPE), MEAN), STD)
    return Codec(
        Flow(sde, **{"solver": diffrax.Dopri5(), "rtol": 1e-4, "atol": 1e-4} | flow),
        lambda params: model.score_fn(sde),
        PIXELS,
        dequantized,
        Placement.of(),
        batch_size,
    )


@pytest.mark.parametrize("sde", [VP(t_min=1e-4), VE(sigma_max=5.0)])
def test_latents_are_those_of_the_gaussian_flow(sde) -> None:
    """The flow keeps (x - mean_t)/std_t: mean_t = alpha MEAN, std_t^2 = alpha^2 STD^2 + sigma^2."""
    code = codec(sde)
    found = code.encode({}, IMAGES, NAMES)

    def moments(t):
        alpha, sigma = (float(v) for v in sde.marginal(jnp.float32(t)))
        return alpha * MEAN, np.hypot(alpha * STD, sigma)

    (mean_0, std_0), (mean_1, std_1) = moments(sde.t_min), moments(sde.t_max)
    x = -1 + 2 * (IMAGES + 0.5) / 5  # the centres of five cells on [-1, 1]
    exact = mean_1 + std_1 * (x - mean_0) / std_0
    np.testing.assert_allclose(found.values, exact, atol=2e-3 * std_1)
    assert found.values.shape == IMAGES.shape and (found.nfe > 6).all() and found.nfe.shape == (11,)
    back = code.decode({}, exact.astype(np.float32), NAMES)
    np.testing.assert_allclose(back.values, x, atol=2e-3)
    np.testing.assert_array_equal(code.levels(back.values), IMAGES)


def test_a_batch_is_filled_up_and_changes_nothing() -> None:
    ticks: list[int] = []
    small = codec(batch_size=8).encode({}, IMAGES, NAMES, ticks.append)
    whole = codec(batch_size=64).encode({}, IMAGES, NAMES)
    assert ticks == [8, 3]
    np.testing.assert_allclose(small.values, whole.values, atol=1e-5)
    np.testing.assert_array_equal(small.nfe, whole.nfe)


def test_levels_come_back_in_both_conventions() -> None:
    k = np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1)
    for dequantized, first, width in ((True, -0.8, 0.4), (False, -1.0, 0.5)):
        code = codec(dequantized=dequantized)
        x = code.values(k)
        np.testing.assert_allclose(x.ravel(), first + width * np.arange(5), atol=1e-6)
        assert code.level_width == pytest.approx(width)
        for error in (-0.49 * width, 0.0, 0.49 * width):
            np.testing.assert_array_equal(code.levels((x + error).astype(np.float32)), k)
        assert (code.levels((x[:-1] + 0.51 * width).astype(np.float32)) == k[1:]).all()


def test_what_cannot_be_solved_is_named() -> None:
    states = np.zeros((11, *SHAPE), np.float32)
    states[9] = np.nan
    with pytest.raises(UserError, match=r"1 of 11 could not be solved \(image 9\)"):
        codec().decode({}, states, NAMES)


def test_prior_is_where_the_sampler_begins() -> None:
    code = codec(VE(sigma_max=5.0))
    sde, key = code.flow.sde, jax.random.key(3)
    sampler = Sampler(sde, steppers.EulerMaruyama(sde), grids.uniform(sde, 3))
    wanted = sampler.begin(sample_keys(key, jnp.arange(4)), (4, *SHAPE)).x
    np.testing.assert_array_equal(code.prior(key, np.arange(4), SHAPE), wanted)
    np.testing.assert_array_equal(code.prior(key, np.arange(2, 4), SHAPE), wanted[2:])
    many = code.prior(key, np.arange(2000), SHAPE)
    assert abs(many.std() / 5.0 - 1) < 4 / np.sqrt(2 * many.size)


def test_interpolation_goes_from_each_latent_to_the_next() -> None:
    z = np.random.default_rng(1).normal(size=(3, 8, 8, 1)).astype(np.float32)
    z /= np.linalg.norm(z.reshape(3, -1), axis=1).reshape(3, 1, 1, 1)
    path = interpolate(z, 5, NAMES)
    assert path.shape == (2, 5, 8, 8, 1)
    np.testing.assert_allclose(path[:, 0], z[:-1], atol=1e-6)
    np.testing.assert_allclose(path[:, -1], z[1:], atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(path.reshape(2, 5, -1), axis=2), 1, atol=1e-5)


def test_interpolations_without_a_path_are_refused() -> None:
    z = np.random.default_rng(1).normal(size=(2, *SHAPE)).astype(np.float32)
    with pytest.raises(UserError, match="one thing to interpolate, image 0; name two or more"):
        interpolate(z[:1], 5, NAMES)
    for pair in (np.stack([z[0], -z[0]]), np.zeros_like(z)):
        with pytest.raises(UserError, match="image 0 and image 1 are opposite or zero"):
            interpolate(pair, 5, NAMES)
    same = interpolate(np.stack([z[0], z[0]]), 3, NAMES)
    np.testing.assert_allclose(same, np.broadcast_to(z[0], same.shape), atol=1e-6)


def test_settings_are_those_of_the_flow() -> None:
    loose = dataclasses.replace(codec(), flow=codec(rtol=1e-2, atol=1e-2).flow)
    assert loose.encode({}, IMAGES, NAMES).nfe.mean() < codec().encode({}, IMAGES, NAMES).nfe.mean()
