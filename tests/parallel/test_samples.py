"""Drawing many samples: batches, devices, progress and pictures change nothing in the samples."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training.tiny import SHAPE, model

from score_sde import grids, steppers
from score_sde.arrays import sample_keys
from score_sde.conditioning import compose, inpainting, noise_interpolation
from score_sde.data import PixelRange
from score_sde.devices import Placement
from score_sde.parallel import loop
from score_sde.parallel.samples import Film, Generator
from score_sde.sampling import Sampler
from score_sde.sde import VE, VP, DiscreteChain, Perturbation

RANGE = PixelRange(17, -1.0, 1.0)
LADDER = DiscreteChain.smld(0.1, 2.0, 4)


def keys(*numbers: int, seed: int = 1) -> jax.Array:
    """Keys of samples 0 .. 7, or of those with these numbers."""
    chosen = jnp.asarray(numbers) if numbers else jnp.arange(8)
    return sample_keys(jax.random.key(seed), chosen)


def place(devices: int = 1) -> Placement:
    return Placement.of(jax.devices()[:devices])


def sampler(steps: int = 6) -> Sampler:
    sde = VP()
    stepper = steppers.chain(steppers.Ancestral(sde), steppers.Langevin(0.1))
    return Sampler(sde, stepper, grids.uniform(sde, steps, 1e-3))


def langevin() -> Sampler:
    stepper = steppers.AnnealedLangevin(LADDER, 0.3, 2)
    return Sampler(LADDER, stepper, grids.levels(LADDER), "none")


def score(params: Any, given: Any) -> Any:
    return model().score_fn(params)


def to_zero(params: Any, given: Any) -> Any:
    """The score -x of a standard normal variable at every level."""
    return lambda x, t: -x


def mild(params: Any, given: Any) -> Any:
    """Nearly the same. By the network's score alone an ODE drives samples to thousands."""
    return lambda x, t: 0.1 * model().score_fn(params)(x, t) - x


def generator(batch_size: int = 8, devices: int = 1, **settings: Any) -> Generator:
    given = {"sampler": sampler(), "score_fn": score} | settings
    return Generator(
        shape=SHAPE, pixel_range=RANGE, place=place(devices), batch_size=batch_size, **given
    )


@functools.cache
def params() -> Any:
    return model().init(jax.random.key(0), SHAPE)


def assert_same(found: Any, wanted: Any) -> None:
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_samples_are_those_of_the_sampler() -> None:
    draw = generator()
    images = draw.all(params(), keys())
    plain = draw.sampler(keys(), model().score_fn(params()), (8, *SHAPE))
    assert_same(images, plain.x)


@pytest.mark.parametrize("adaptive", [False, True])
def test_evaluations_are_counted_for_each_sample(adaptive: bool) -> None:
    sde, own = VP(), sampler()
    if adaptive:
        stepper = steppers.Adaptive(steppers.Exponential(sde, "noise"), 2)
        own = Sampler(sde, stepper, np.asarray([1.0, 1e-3]))
    drawn = generator(3, sampler=own, score_fn=mild).drawn(params(), keys())
    plain = own(keys(), mild(params(), ()), (8, *SHAPE))
    np.testing.assert_array_equal(drawn.nfe, np.broadcast_to(plain.nfe, 8))
    assert_same(drawn.images, plain.x)
    assert len(set(drawn.nfe.tolist())) > 1 if adaptive else set(drawn.nfe.tolist()) == {13}


def test_sample_i_is_the_same_in_every_batch_and_on_all_devices() -> None:
    whole = generator().all(params(), keys())
    small = generator(batch_size=3)
    assert_same(small.all(params(), keys()), whole)
    assert_same(small.all(params(), keys(6, 2)), whole[[6, 2]])
    parts = list(generator(batch_size=3).batches(params(), keys()))
    assert [part for part, _ in parts] == [slice(0, 3), slice(3, 6), slice(6, 8)]
    assert [len(drawn.images) for _, drawn in parts] == [3, 3, 2]
    assert [len(drawn.nfe) for _, drawn in parts] == [3, 3, 2]
    assert_same(np.concatenate([drawn.images for _, drawn in parts]), whole)
    assert_same(generator(batch_size=5, devices=8).all(params(), keys(0, 1, 2)), whole[:3])
    assert not np.allclose(whole[0], whole[1])
    assert not np.allclose(small.all(params(), keys(seed=2)), whole)


@pytest.mark.parametrize(
    ("count", "size", "devices", "wanted"),
    [(1, 1, 1, 1), (5, 2, 1, 6), (5, 8, 1, 5), (1, 1, 8, 8), (17, 16, 8, 32)],
)
def test_whole_batches(count: int, size: int, devices: int, wanted: int) -> None:
    assert generator(size, devices).whole(count) == wanted


def test_samples_that_a_stepper_couples_are_those_of_whole_batches() -> None:
    """A Langevin step with norms over the batch: what fills it up is not drawn twice."""
    stepper = steppers.chain(steppers.Ancestral(VP()), steppers.Langevin(0.1, norm="batch"))
    draw = generator(4, sampler=dataclasses.replace(sampler(), stepper=stepper))
    assert draw.whole(5) == 8
    assert_same(draw.all(params(), keys())[:4], draw.all(params(), keys(0, 1, 2, 3)))
    own = keys(4, 5, 6, 7)
    plain = draw.sampler(own, model().score_fn(params()), (4, *SHAPE)).x
    assert_same(draw.all(params(), keys())[4:], plain)
    assert not np.allclose(draw.all(params(), keys(0, 1, 2, 3, 4))[4], plain[0])


class Bar(loop.Bar):
    """Keeps how it was made and what it was told."""

    made: list["Bar"]

    def __init__(self, **settings: Any):
        self.settings, self.ticks = settings, []
        self.made.append(self)
        super().__init__(**settings)

    def update(self, n: float | None = 1) -> bool | None:
        if n:  # the beginning is told as 0
            self.ticks.append(n)
        return super().update(n)


@pytest.mark.parametrize(
    ("steps", "frames", "ticks"),
    [(3, None, 1), (19, None, 3), (400, None, 40), (6, 3, 3), (6, 50, 6), (6, 0, 1)],
)
def test_progress_counts_every_step(
    steps: int, frames: int | None, ticks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    Bar.made = []
    monkeypatch.setattr(loop, "Bar", Bar)
    film = None if frames is None else Film(frames)
    generator(sampler=sampler(steps)).all(params(), keys(), title="some", film=film)
    (bar,) = Bar.made
    assert sum(bar.ticks) == bar.settings["total"] == steps and min(bar.ticks) > 0
    assert len(bar.ticks) == ticks
    assert bar.settings["desc"] == "some" and not bar.settings["disable"]
    if film is not None:
        assert len(film.pictures) == (min(frames or 0, steps) + 1 if frames else 0)


def test_bar_counts_all_batches_and_is_hidden_without_a_title(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Bar.made = []
    monkeypatch.setattr(loop, "Bar", Bar)
    generator(batch_size=3).all(params(), keys(), title="")
    (bar,) = Bar.made
    assert sum(bar.ticks) == bar.settings["total"] == 3 * 6 and bar.settings["disable"]


def test_film_is_of_the_first_batch_and_changes_no_sample() -> None:
    film, none = Film(2), Film(0)
    draw = generator(batch_size=3)
    images = draw.all(params(), keys(), film=film)
    assert_same(images, draw.all(params(), keys(), film=none))
    assert film.done and film.stacked().shape == (3, 3, *SHAPE)
    np.testing.assert_array_equal(film.stacked()[-1], np.asarray(RANGE.unit(images[:3])))
    before = len(film.pictures)
    draw.all(params(), keys(), film=film)
    assert len(film.pictures) == before  # it is full
    assert not none.pictures and none.stacked().size == 0


@pytest.mark.parametrize(
    ("process", "pixels"),
    [(VE(0.01, 10.0), PixelRange(17, 0.0, 1.0)), (VP(), RANGE), (DiscreteChain.ddpm(n=100), RANGE)],
)
def test_frames_go_from_noise_of_constant_contrast_to_the_samples(
    process: Perturbation, pixels: PixelRange
) -> None:
    """The prior's standard deviation is shown as half of the range, whatever the process."""
    discrete = isinstance(process, DiscreteChain)
    times = (grids.chain_steps if discrete else grids.uniform)(process, 4)
    plain = Sampler(process, steppers.Ancestral(process), times, "none")
    draw = dataclasses.replace(generator(70, sampler=plain), pixel_range=pixels)
    film = Film(4)
    images = draw.all(params(), keys(*range(70)), film=film)
    frames = film.stacked()
    assert frames.shape == (5, 64, *SHAPE)  # 64 of 70
    assert frames.min() >= 0 and frames.max() <= 1
    np.testing.assert_array_equal(frames[-1], np.asarray(pixels.unit(images[:64])))
    # Of a normal variable with mean 1/2 and standard deviation 1/2, 0.317 lie outside of [0, 1]
    # and are clipped.
    clipped = np.mean((frames[0] == 0) | (frames[0] == 1))
    assert abs(clipped - 0.317) < 0.05
    assert abs(frames[0].mean() - 0.5) < 0.03


def test_frames_of_grids_of_levels_are_scaled_by_the_level_that_ended() -> None:
    chain = DiscreteChain.smld(1e3, 1e6, 4)
    plain = Sampler(chain, steppers.AnnealedLangevin(chain, 0.1), grids.levels(chain), "none")
    draw = generator(sampler=plain)
    for step, level in ((0, 3), (1, 3), (3, 1)):
        x = jnp.full((8, *SHAPE), 0.5 * float(chain.sigmas[level]))
        np.testing.assert_allclose(draw._picture(x, step), 0.75, rtol=1e-5)


def test_condition_acts_on_start_steps_and_end_with_its_own_rows_of_what_is_given() -> None:
    """The score is pulled to an image of each sample's own, on 1 and on 8 devices."""

    def pull(sampler, score_fn, given):
        return sampler, lambda x, t: given["strength"][:, None, None, None] * (given["to"] - x)

    rows = np.arange(8, dtype=np.float32)
    to = np.broadcast_to(rows[:, None, None, None], (8, *SHAPE))
    given = {"to": to, "strength": 1 + rows}
    wanted = sampler()(keys(), pull(None, None, given)[1], (8, *SHAPE)).x
    for devices, size in ((1, 8), (8, 8), (1, 3)):
        draw = generator(size, devices, condition=pull)
        assert_same(draw.all(params(), keys(), given), wanted)
    assert not np.allclose(generator().all(params(), keys()), wanted)


def test_what_is_given_is_an_argument_of_the_program() -> None:
    """Other values do not compile again, and are no constants of the program."""
    traced = []

    def shift(sampler, score_fn, given):
        traced.append(1)
        assert isinstance(given, jax.core.Tracer)
        return sampler, lambda x, t: score_fn(x, t) + given

    draw = generator(condition=shift)
    first = draw.all(params(), keys(), np.zeros((8, *SHAPE), np.float32))
    count = len(traced)
    second = draw.all(params(), keys(), np.ones((8, *SHAPE), np.float32))
    assert len(traced) == count and not np.allclose(first, second)
    assert_same(first, generator().all(params(), keys()))


IMAGE = np.random.default_rng(0).uniform(-1, 1, (8, *SHAPE)).astype(np.float32)
KNOWN = np.broadcast_to(np.arange(4)[:, None, None] < 2, (8, *SHAPE))
HELD = {"image": IMAGE, "known": KNOWN}
TURNED = {"keys": keys(seed=2), "angle": np.linspace(0, np.pi / 2, 8, dtype=np.float32)}


@pytest.mark.parametrize(
    ("condition", "given"),
    [
        (inpainting, HELD),
        (noise_interpolation, TURNED),
        (compose(inpainting, noise_interpolation), (HELD, TURNED)),
    ],
    ids=["inpainting", "noise interpolation", "both"],
)
def test_conditions_give_each_sample_its_own_rows_in_batches_on_devices(
    condition: Any, given: Any
) -> None:
    """Batches of 3 on one device, and 8 devices, give what the sampler by itself gives."""

    @jax.jit
    def plain(params, own, given):
        conditioned, score_fn = condition(langevin(), to_zero(params, given), given)
        return conditioned(own, score_fn, (8, *SHAPE)).x

    wanted = plain(params(), keys(), given)
    for size, devices in ((3, 1), (8, 8)):
        draw = generator(size, devices, sampler=langevin(), score_fn=to_zero, condition=condition)
        assert_same(draw.all(params(), keys(), given), wanted)
    without = generator(sampler=langevin(), score_fn=to_zero).all(params(), keys())
    moved = np.abs(without - wanted).max(axis=(1, 2, 3)) > 1e-3
    # At angle 0 the noise is the sample's own.
    assert moved.tolist() == [condition is not noise_interpolation] + [True] * 7


def test_inpainting_leaves_known_pixels_at_the_noise_of_the_last_level() -> None:
    draw = generator(4, sampler=langevin(), score_fn=to_zero, condition=inpainting)
    error = np.asarray(draw.all(params(), keys(), HELD) - IMAGE)
    sigma = float(LADDER.sigmas[0])
    assert error[KNOWN].std() == pytest.approx(sigma, rel=0.25)
    assert np.abs(error[KNOWN]).max() < 5 * sigma < np.abs(error[~KNOWN]).max()


class Momentum(steppers.Stepper):
    """Keeps a moving average of the score, and counts its steps."""

    def init(self, x):
        return {"average": jnp.zeros_like(x), "steps": jnp.zeros((), x.dtype)}

    def __call__(self, score_fn, x, t, s, noise, carry):
        average = 0.5 * carry["average"] + score_fn(x, jnp.broadcast_to(t, x.shape[:1]))
        mean = x + 0.01 * average / (1 + carry["steps"])
        return mean + 0.1 * noise(0), mean, {"average": average, "steps": carry["steps"] + 1}


def test_memory_of_a_stepper_travels_through_segments_pictures_and_devices() -> None:
    sde = VP()
    stepper = steppers.chain(Momentum(), steppers.Langevin(0.1), Momentum())
    remembering = Sampler(sde, stepper, grids.uniform(sde, 6, 1e-3), "mean")
    wanted = remembering(keys(), model().score_fn(params()), (8, *SHAPE)).x
    for devices, frames in ((1, 0), (1, 2), (8, 3)):
        draw = generator(devices=devices, sampler=remembering)
        assert_same(draw.all(params(), keys(), film=Film(frames)), wanted)
        state = draw._begin(params(), (), draw.place.put_rows(keys()))
        average, steps = state.carry[0]["average"], state.carry[0]["steps"]
        assert average.addressable_shards[0].data.shape[0] == 8 // devices
        assert steps.sharding.is_fully_replicated
