"""Devices: what is placed where, and that their number changes no result."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs
from jax.sharding import PartitionSpec
from training.tiny import SHAPE, batch, keys, model, task

from score_sde.arrays import normal, sample_keys
from score_sde.build.assemble import build
from score_sde.build.experiment import Experiment
from score_sde.data import ArraySource, PixelRange, digits, pipeline
from score_sde.devices import SMALL, Placement, any_process, leads, processes, say
from score_sde.errors import UserError
from score_sde.grids import uniform
from score_sde.parallel.heldout import HeldoutLoss
from score_sde.parallel.samples import Film, Generator
from score_sde.sampling import Sampler
from score_sde.sde import VP
from score_sde.steppers import EulerMaruyama, Langevin, chain
from score_sde.training.costs import sent_bytes
from score_sde.training.gradients import mean_and_grad
from score_sde.training.step import mean_loss

KEY = jax.random.key(5)
FAST_COMPILE = {"xla_backend_optimization_level": 0}


def places() -> tuple[Placement, Placement]:
    return Placement.of(jax.devices()[:1]), Placement.of()


def test_mesh_is_all_devices_along_two_axes() -> None:
    one, eight = places()
    assert dict(one.mesh.shape) == {"data": 1, "fsdp": 1} and one.size == 1
    assert dict(eight.mesh.shape) == {"data": 8, "fsdp": 1} and eight.size == 8
    assert list(eight.mesh.devices.ravel()) == jax.devices()
    assert Placement.of(jax.devices()) == eight != one


def test_rows_are_split_over_both_axes_and_weights_copied() -> None:
    place = Placement.of()
    assert place.rows().spec == PartitionSpec(("data", "fsdp"))
    assert place.rows(2).spec == PartitionSpec(None, None, ("data", "fsdp"))
    assert place.whole.spec == PartitionSpec()
    weights = jax.device_put(jnp.arange(3.0), place.whole)
    assert len(weights.addressable_shards) == 8
    np.testing.assert_array_equal(weights.addressable_shards[7].data, [0, 1, 2])
    split = Placement(jax.make_mesh((4, 2), ("data", "fsdp"))).put_rows(np.arange(16))
    assert {shard.data.shape for shard in split.addressable_shards} == {(2,)}


def test_a_part_of_a_batch_lies_along_the_axis_asked_for() -> None:
    """One process has the whole batch; its rows lie along axis 1 of stacked batches."""
    place, stacked = Placement.of(), {"image": np.arange(32.0, dtype=np.float32).reshape(2, 16)}
    found = place.put_part(stacked, axis=1)["image"]
    assert found.sharding == place.rows(1)
    np.testing.assert_array_equal(found.addressable_shards[3].data, [[6, 7], [22, 23]])
    first = place.put_part(np.arange(16.0, dtype=np.float32))
    np.testing.assert_array_equal(first.addressable_shards[3].data, [6, 7])


def test_rows_of_a_tree_are_split_and_random_keys_are_rows() -> None:
    place, own = Placement.of(), sample_keys(KEY, jnp.arange(16))
    found, x = place.put_rows((own, {"x": np.arange(48.0).reshape(16, 3).astype(np.float32)}))
    for leaf in (found, x["x"]):
        assert {shard.data.shape[0] for shard in leaf.addressable_shards} == {2}
    np.testing.assert_array_equal(x["x"].addressable_shards[1].data, [[6, 7, 8], [9, 10, 11]])
    assert jax.random.key_impl(found) == jax.random.key_impl(own)
    draws = [normal(k, (16, 2), jnp.float32) for k in (found, own)]
    np.testing.assert_array_equal(*draws)


def test_numbers_are_rounded_up_to_the_devices() -> None:
    one, eight = places()
    assert [eight.round_up(n) for n in (0, 1, 8, 9, 16)] == [0, 8, 8, 16, 16]
    assert [one.round_up(n) for n in (0, 1, 9)] == [0, 1, 9]


def test_indivisible_batch_is_refused_with_entry_value_and_devices() -> None:
    one, eight = places()
    eight.check_divisible("config.training.batch_size", 24)
    one.check_divisible("config.training.batch_size", 20)
    with pytest.raises(UserError, match=r"config\.training\.batch_size=20 .* 8 devices.* of 8"):
        eight.check_divisible("config.training.batch_size", 20)


def test_one_process_leads_and_speaks(capsys: pytest.CaptureFixture[str]) -> None:
    assert leads() and processes() == (0, 1)
    assert any_process(True) and not any_process(False)
    say("a line")
    assert capsys.readouterr().out == "a line\n"


MESHES = {"1": (1, 1), "8 data": (8, 1), "8 fsdp": (8, 8), "4 x 2": (8, 2)}
"""Devices, and how many of them share one copy of the weights."""


def place_of(name: str) -> Placement:
    count, fsdp = MESHES[name]
    return Placement.of(jax.devices()[:count], fsdp)


def prepared(experiment: Experiment, place: Placement, batch_size: int):
    """The state, batches and step of the train mode, without its files."""
    trainer, fit = dataclasses.replace(experiment.trainer, place=place), experiment.task
    options = {"compiler_options": FAST_COMPILE}
    where = place.weights(jax.eval_shape(lambda: trainer.init(fit, KEY, experiment.shape)))
    init = jax.jit(trainer.init, static_argnums=2, out_shardings=where, **options)
    state = init(fit, KEY, experiment.shape)
    pixels = experiment.pixel_range
    batches = pipeline.Batches(digits("train"), pixels, batch_size, seed=1, train=True)

    def batch(k: int):
        return place.put_part(jax.tree.map(lambda rows: rows[None], batches[k]), axis=1)

    step = jax.jit(trainer.steps, donate_argnums=1, out_shardings=(where, None), **options)
    return state, batch, step.lower(fit, state, KEY, batch(0)).compile()


@pytest.fixture(scope="module")
def trained() -> dict[str, tuple]:
    """By mesh: the state after 20 steps on 16 images each, the losses, the program's text."""
    small = {"model.nf": 8, "model.ch_mult": (1,), "model.num_res_blocks": 1, "optim.warmup": 0}
    experiment = build(runs.load("vp/ddpmpp_cont:digits", small))
    found = {}
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam mixes types
        for name in MESHES:
            state, batch, step = prepared(experiment, place_of(name), 16)
            losses = []
            for k in range(20):
                state, metrics = step(experiment.task, state, KEY, batch(k))
                losses.append(metrics["loss"][0])
            found[name] = state, np.asarray(losses), step.as_text()
    return found


@pytest.mark.parametrize("name", list(MESHES)[1:])
def test_twenty_steps_are_the_same_on_every_mesh(trained, name: str) -> None:
    (one, first, _), (other, second, _) = trained["1"], trained[name]
    assert not np.array_equal(first[1:], first[:-1]) and np.isfinite(first).all()
    np.testing.assert_allclose(second, first, rtol=1e-5)
    for a, b in zip(jax.tree.leaves(one.averages), jax.tree.leaves(other.averages), strict=True):
        np.testing.assert_allclose(np.asarray(b), np.asarray(a), atol=2e-4)
    assert all(len(leaf.addressable_shards) == 8 for leaf in jax.tree.leaves(other.params))


def own_entries(state) -> int:
    """Entries of weights, averages and optimizer state on one device."""
    leaves = jax.tree.leaves(state)
    return sum(leaf.addressable_shards[0].data.size for leaf in leaves)


def test_the_state_is_split_over_fsdp(trained) -> None:
    whole = own_entries(trained["1"][0])
    large = sum(a.size for a in jax.tree.leaves(trained["1"][0]) if a.size >= SMALL)
    assert large > 0.7 * whole
    assert own_entries(trained["8 data"][0]) == whole
    assert own_entries(trained["8 fsdp"][0]) == whole - large + large / 8
    assert own_entries(trained["4 x 2"][0]) == whole - large + large / 2


def test_a_step_sends_no_more_than_the_weights_need(trained) -> None:
    weights = 4 * sum(leaf.size for leaf in jax.tree.leaves(trained["1"][0].params))
    assert sent_bytes(trained["1"][2]) == 0
    assert 0.95 * weights < sent_bytes(trained["8 data"][2]) < 1.1 * weights
    assert 1.5 * weights < sent_bytes(trained["8 fsdp"][2]) < 2.2 * weights
    # Gathered and reduced over pairs, then half of each weight reduced over 4 of them.
    assert 2.0 * weights < sent_bytes(trained["4 x 2"][2]) < 2.7 * weights


def test_devices_that_do_not_split_into_groups_are_refused() -> None:
    with pytest.raises(UserError, match=r"config.training.fsdp=3 .* devices, 8; .*\[1, 2, 4, 8\]"):
        Placement.of(fsdp=3)


def test_what_is_split_over_fsdp() -> None:
    place = Placement.of(fsdp=4)
    assert dict(place.mesh.shape) == {"data": 2, "fsdp": 4}

    def axis(*shape: int) -> int:
        return place.split_axis(jax.ShapeDtypeStruct(shape, jnp.float32))

    assert axis(3, 3, 64, 128) == axis(3, 3, 128, 128) == 3 and axis(3, 3, 128, 64) == 2
    assert axis(3, 3, 6, 126) == -1  # nothing divides
    assert axis(128) == axis() == -1 and axis(256) == 0  # small ones stay whole
    leaf = jax.device_put(jnp.arange(4096.0).reshape(64, 64), place.weights(jnp.zeros((64, 64))))
    assert leaf.addressable_shards[0].data.shape == (64, 16)
    whole = place.gather({"w": leaf})["w"]
    assert whole.sharding == place.whole
    np.testing.assert_array_equal(whole, leaf)


@pytest.mark.parametrize("fsdp", [1, 4])
def test_a_batch_in_parts_has_the_gradient_of_the_batch(fsdp: int) -> None:
    """4 parts of 16 images, on one device and on eight; every example keeps its key."""
    place, fit, images = Placement.of(fsdp=fsdp), task(dropout=0.3), batch(64)
    params, own = fit.init(KEY, SHAPE), keys(KEY, 64)
    loss, grads = jax.jit(mean_and_grad(mean_loss))(params, fit, own, images)
    rows = place.put_rows((own, images))
    for found, where in (
        (jax.jit(mean_and_grad(mean_loss, parts=4))(params, fit, own, images), None),
        (jax.jit(mean_and_grad(mean_loss, place, parts=4))(params, fit, *rows), place),
    ):
        np.testing.assert_allclose(found[0], loss, rtol=1e-5, err_msg=str(where))
        for a, b in zip(jax.tree.leaves(found[1]), jax.tree.leaves(grads), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max(), rtol=1e-5)


def test_held_out_loss_is_the_same_on_1_and_on_8_devices() -> None:
    params = task().init(KEY, SHAPE)
    pixels = PixelRange(17, -1.0, 1.0)
    images = np.random.default_rng(0).integers(0, 17, (21, *SHAPE))
    source = ArraySource(images, levels=17)
    batches = pipeline.Batches(source, pixels, batch_size=8, seed=0, train=False)
    first, second = (HeldoutLoss(task(), batches, place, 21)(params, KEY) for place in places())
    assert first.shape == (1, 21)
    np.testing.assert_allclose(second, first, rtol=1e-5)


def test_loss_of_each_example_with_dropout_is_the_same_on_1_and_on_8_devices() -> None:
    fit, images = task(dropout=0.5), batch(24)
    params, own = fit.init(KEY, SHAPE), keys(KEY, 24)

    @jax.jit
    def losses(params, own, images):
        return fit.losses(params, own, images, True)

    first, second = (losses(params, *place.put_rows((own, images))) for place in places())
    assert len(second.addressable_shards) == 8 and len(np.unique(first)) == 24
    np.testing.assert_allclose(second, first, rtol=1e-6, atol=1e-6)


def test_samples_are_the_same_on_1_and_on_8_devices() -> None:
    sde, params, own = VP(), task().init(KEY, SHAPE), keys(KEY, 16)
    sampler = Sampler(sde, chain(EulerMaruyama(sde), Langevin(0.1)), uniform(sde, 5, 1e-3))
    pixels, (one, eight) = PixelRange(17, -1.0, 1.0), places()
    plain = Generator(sampler, model().score_fn, SHAPE, pixels, one, 16)
    films = Film(2), Film(2)
    first = plain.all(params, own, film=films[0])
    second = dataclasses.replace(plain, place=eight).all(params, own, film=films[1])
    assert first.std() > 0.1
    np.testing.assert_allclose(second, first, rtol=1e-4, atol=1e-5)
    frames, others = (film.stacked() for film in films)
    assert frames.shape == (3, 16, *SHAPE)
    np.testing.assert_allclose(others, frames, rtol=1e-4, atol=1e-5)
