"""Devices: what is placed where, and that their number changes no result."""

import dataclasses
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec
from training.tiny import SHAPE, model, trainer

from score_sde import config
from score_sde.build import Experiment, build
from score_sde.data import ArraySource, PixelRange, digits, pipeline
from score_sde.errors import UserError
from score_sde.generate import Generator
from score_sde.grids import uniform
from score_sde.sampling import Sampler
from score_sde.sde import VP
from score_sde.steppers import EulerMaruyama, Langevin, chain
from score_sde.training import sharding
from score_sde.training.heldout import HeldoutLoss

KEY = jax.random.key(5)
FAST_COMPILE = {"xla_backend_optimization_level": 0}


@pytest.fixture
def mixed_types() -> Iterator[None]:
    """optax's Adam mixes types."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def meshes() -> tuple[Mesh, Mesh]:
    return sharding.make_mesh(jax.devices()[:1]), sharding.make_mesh()


def test_mesh_is_all_devices_along_one_axis() -> None:
    one, eight = meshes()
    assert dict(one.shape) == {"data": 1} and dict(eight.shape) == {"data": 8}
    assert list(eight.devices) == jax.devices()


def test_batches_are_split_and_weights_copied() -> None:
    mesh = sharding.make_mesh()
    batch = sharding.put_batch({"image": np.arange(32.0).reshape(2, 16)}, mesh, axis=1)["image"]
    assert batch.sharding.spec == PartitionSpec(None, "data")
    np.testing.assert_array_equal(batch.addressable_shards[3].data, [[6, 7], [22, 23]])
    weights = jax.device_put(jnp.arange(3.0), sharding.replicated(mesh))
    assert len(weights.addressable_shards) == 8
    np.testing.assert_array_equal(weights.addressable_shards[7].data, [0, 1, 2])


def test_indivisible_batch_is_refused_with_numbers() -> None:
    sharding.check_divisible("config.training.batch_size", 24, sharding.make_mesh())
    message = r"config.training.batch_size=20 does not split over 8 devices; use a multiple of 8"
    with pytest.raises(UserError, match=message):
        sharding.check_divisible("config.training.batch_size", 20, sharding.make_mesh())


def train(experiment: Experiment, mesh: Mesh, batch_size: int, steps: int):
    """The loop of the train mode, without its files."""
    run = experiment.trainer
    options = FAST_COMPILE
    init = jax.jit(
        run.init,
        static_argnums=1,
        out_shardings=sharding.replicated(mesh),
        compiler_options=options,
    )
    state = init(KEY, experiment.shape)
    batches = pipeline.batches(digits("train"), experiment.pixel_range, batch_size, seed=1, train=True)
    step, losses = jax.jit(run.steps, donate_argnums=0, compiler_options=options), []
    for _ in range(steps):
        images = sharding.put_batch(next(batches)["image"][None], mesh, axis=1)
        state, metrics = step(state, KEY, images)
        losses.append(metrics["loss"][0])
    return state, np.asarray(losses)


def test_twenty_steps_are_the_same_on_1_and_on_8_devices(mixed_types: None) -> None:
    values = config.load("configs/vp/ddpmpp_cont.py:digits")
    small = {"model.nf": "8", "model.ch_mult": "(1,)", "model.num_res_blocks": "1", "optim.warmup": "0"}
    config.override(values, small.items())
    experiment = build(values)
    (one, first), (eight, second) = (train(experiment, mesh, 16, 20) for mesh in meshes())
    assert not np.array_equal(first[1:], first[:-1]) and np.isfinite(first).all()
    np.testing.assert_allclose(second, first, rtol=1e-5)
    for a, b in zip(jax.tree.leaves(one.ema_params), jax.tree.leaves(eight.ema_params), strict=True):
        np.testing.assert_allclose(np.asarray(b), np.asarray(a), atol=2e-4)
    assert all(len(leaf.addressable_shards) == 8 for leaf in jax.tree.leaves(eight.params))


def test_held_out_loss_is_the_same_on_1_and_on_8_devices() -> None:
    small = trainer()
    params = small.init(KEY, SHAPE).params
    pixels = PixelRange(17, -1.0, 1.0)
    images = np.random.default_rng(0).integers(0, 17, (21, *SHAPE))
    source = ArraySource(images, levels=17)
    first, second = (
        HeldoutLoss(small, source, pixels, mesh, batch_size=8, images=21)(params, KEY) for mesh in meshes()
    )
    assert first.shape == (1, 21)
    np.testing.assert_allclose(second, first, rtol=1e-5)


def test_samples_are_the_same_on_1_and_on_8_devices() -> None:
    small, sde = trainer(), VP()
    params = small.init(KEY, SHAPE).params
    sampler = Sampler(sde, chain(EulerMaruyama(sde), Langevin(0.1)), uniform(sde, 5, 1e-3))
    plain = Generator(sampler, model().score_fn, SHAPE, PixelRange(17, -1.0, 1.0), meshes()[0], 16, frames=2)
    spread = dataclasses.replace(plain, mesh=meshes()[1])
    (first, frames), (second, others) = plain(params, KEY), spread(params, KEY)
    assert first.std() > 0.1
    np.testing.assert_allclose(second, first, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(others, frames, rtol=1e-4, atol=1e-5)
