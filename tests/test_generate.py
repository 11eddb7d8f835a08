"""Drawing many samples: batches, devices, progress and pictures change nothing in the samples."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training.tiny import SHAPE, model, trainer

from score_sde import grids, steppers
from score_sde.data import PixelRange
from score_sde.generate import Generator, inpaint
from score_sde.sampling import Sampler
from score_sde.sde import VE, VP, DiscreteChain, Perturbation
from score_sde.training import sharding
from score_sde.types import sample_keys

KEY = jax.random.key(1)
RANGE = PixelRange(17, -1.0, 1.0)


def generator(process: Perturbation | None = None, steps: int = 6, wanted: int = 8, **settings) -> Generator:
    sde = process or VP()
    times = grids.uniform(sde, steps, 1e-3)
    return Generator(
        sampler=Sampler(sde, steppers.chain(steppers.Ancestral(sde), steppers.Langevin(0.1)), times),
        score_fn=model().score_fn,
        shape=SHAPE,
        pixel_range=RANGE,
        mesh=sharding.make_mesh(jax.devices()[:1]),
        wanted=wanted,
        **settings,
    )


def params():
    return trainer().init(jax.random.key(0), SHAPE).params


def test_samples_are_those_of_the_sampler() -> None:
    draw = generator()
    images, frames = draw(params(), KEY)
    plain = draw.sampler(sample_keys(KEY, jnp.arange(8)), model().score_fn(params()), (8, *SHAPE))
    np.testing.assert_allclose(images, plain.x, rtol=1e-4, atol=1e-5)
    assert frames.size == 0


def test_sample_i_is_the_same_in_every_batch_and_with_pictures() -> None:
    whole, _ = generator(wanted=8)(params(), KEY)
    small = generator(wanted=2)
    for first in (0, 4, 6):
        part, _ = small(params(), KEY, first)
        np.testing.assert_allclose(part, whole[first : first + 2], rtol=1e-4, atol=1e-5)
    pictured, _ = generator(wanted=8, frames=3)(params(), KEY)
    np.testing.assert_allclose(pictured, whole, rtol=1e-4, atol=1e-5)
    assert not np.allclose(whole[0], whole[1])
    other, _ = generator(wanted=8)(params(), jax.random.key(2))
    assert not np.allclose(other, whole)


@pytest.mark.parametrize(
    ("wanted", "devices", "size"), [(1, 1, 1), (5, 1, 5), (1, 8, 8), (9, 8, 16), (16, 8, 16)]
)
def test_batch_is_rounded_up_to_the_devices(wanted: int, devices: int, size: int) -> None:
    mesh = sharding.make_mesh(jax.devices()[:devices])
    assert dataclasses.replace(generator(wanted=wanted), mesh=mesh).batch_size == size


@pytest.mark.parametrize(("steps", "frames"), [(6, 0), (6, 3), (90, 0), (6, 50)])
def test_progress_counts_every_step(steps: int, frames: int) -> None:
    ticks: list[int] = []
    _, pictures = generator(steps=steps, frames=frames)(params(), KEY, 0, ticks.append)
    assert sum(ticks) == steps and min(ticks) > 0
    assert len(ticks) == min(frames or 40, steps)
    assert len(pictures) == (min(frames, steps) + 1 if frames else 0)


@pytest.mark.parametrize(
    ("process", "pixels"),
    [(VE(0.01, 10.0), PixelRange(17, 0.0, 1.0)), (VP(), RANGE), (DiscreteChain.ddpm(n=100), RANGE)],
)
def test_frames_go_from_noise_of_constant_contrast_to_the_samples(
    process: Perturbation, pixels: PixelRange
) -> None:
    """The prior's standard deviation is shown as half of the range, whatever the process."""
    times = grids.chain_steps(process, 4) if isinstance(process, DiscreteChain) else grids.uniform(process, 4)
    base = generator(wanted=64, frames=4)
    sampler = Sampler(process, steppers.Ancestral(process), times, "none")
    draw = dataclasses.replace(base, sampler=sampler, pixel_range=pixels)
    images, frames = draw(params(), KEY)
    assert frames.shape == (5, 64, *SHAPE)
    assert frames.min() >= 0 and frames.max() <= 1
    np.testing.assert_array_equal(frames[-1], np.asarray(pixels.unit(images)))
    # of a normal variable with mean 1/2 and standard deviation 1/2, 0.317 lie outside [0, 1] and are clipped
    clipped = np.mean((frames[0] == 0) | (frames[0] == 1))
    assert abs(clipped - 0.317) < 0.05
    assert abs(frames[0].mean() - 0.5) < 0.03


def test_frames_of_grids_of_levels_are_scaled_by_the_level_that_ended() -> None:
    chain = DiscreteChain.smld(1e3, 1e6, 4)
    sampler = Sampler(chain, steppers.AnnealedLangevin(chain, 0.1), grids.levels(chain), "none")
    draw = dataclasses.replace(generator(), sampler=sampler)
    for step, level in ((0, 3), (1, 3), (3, 1)):
        x = jnp.full((8, *SHAPE), 0.5 * float(chain.sigmas[level]))
        np.testing.assert_allclose(draw._picture(x, step), 0.75, rtol=1e-5)


def test_inpaint_leaves_known_pixels_at_the_noise_of_the_level() -> None:
    """One draw for a whole level, put in after its updates (algorithm B.2)."""
    chain, shape = DiscreteChain.smld(0.1, 1.0, 3), (3, 2, 2, 1)
    sampler = Sampler(chain, steppers.AnnealedLangevin(chain, 0.3, 2), grids.levels(chain), "none")
    keys, image = sample_keys(KEY, jnp.arange(3)), jnp.arange(12.0).reshape(shape)
    known = np.asarray([True, False, False, True] * 3).reshape(shape)
    given = {"image": image, "known": jnp.asarray(known)}
    first, last = jnp.asarray(1), jnp.asarray(2)
    x, mean = inpaint(sampler, given, keys, lambda x, t: -x, jnp.zeros(shape), first, last)
    stepper = steppers.InpaintingLangevin(sampler.stepper, image, given["known"])
    z = dataclasses.replace(sampler, stepper=stepper).noise(keys, 1, image)
    expected = np.asarray(image + chain.sigmas[1].item() * z[0])
    for state in (x, mean):
        np.testing.assert_allclose(np.asarray(state)[known], expected[known], rtol=1e-5)
    assert np.abs(np.asarray(x)[~known]).max() < 3 < np.abs(expected[~known]).max()
