"""The training step: what it minimizes, what it averages, and on what its randomness depends."""

import dataclasses
import functools

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from training.tiny import SHAPE, Dense, batch, keys, model, of, task, trainer

from score_sde.data import Batch
from score_sde.objectives import SlicedScoreMatching
from score_sde.parameterize import network_score, time_label
from score_sde.training.ema import Average
from score_sde.training.state import TrainState
from score_sde.training.step import ScoreMatching, ScoreModel, Trainer, mean_loss

KEY = jax.random.key(3)


def same(a, b) -> bool:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(x, y) for x, y in pairs)


def assert_near(found, wanted, rtol: float = 1e-5, atol: float = 0.0) -> None:
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)


def fresh(trainer: Trainer, task) -> TrainState:
    return trainer.init(task, KEY, SHAPE)


@functools.partial(jax.jit, static_argnums=4)
def losses(task, params, keys, batch, train: bool):
    return task.losses(params, keys, batch, train)


def test_loss_falls_to_the_bayes_error() -> None:
    """Pixels alike: the noise is known but for 1 of 16 directions, so the best is below a tenth."""
    small, fit = trainer(), task()
    state, metrics = jax.jit(small.steps)(fit, fresh(small, fit), KEY, batch(600, 64))
    assert metrics["loss"].shape == metrics["grad_norm"].shape == (600,)
    assert 0.9 < metrics["loss"][0] < 1.5
    assert jnp.mean(metrics["loss"][-50:]) < 0.3
    held = losses(fit, state.averages[0], keys(KEY, 2048), batch(2048), False)
    assert held.shape == (2048,)
    np.testing.assert_allclose(held.mean(), jnp.mean(metrics["loss"][-50:]), rtol=0.15)


def test_fresh_state() -> None:
    two = trainer(averages=(Average(0.9), Average(0.5)))
    state = fresh(two, task())
    assert state.step == 0 and state.step.dtype == jnp.int32
    assert len(state.averages) == 2 and all(same(state.params, a) for a in state.averages)
    pointers = [a.unsafe_buffer_pointer() for a in jax.tree.leaves((state.params, state.averages))]
    assert len(set(pointers)) == len(pointers)  # donated, each once
    assert not same(state.params, two.init(task(), jax.random.key(4), SHAPE).params)


def test_shapes_and_weights_share_one_trace(monkeypatch) -> None:
    """Tracing a network takes seconds; other batches or devices of a trainer do not matter."""
    traced, init = [], ScoreModel.init

    def counted(self, *arguments):
        traced.append(self)
        return init(self, *arguments)

    monkeypatch.setattr(ScoreModel, "init", counted)
    small, fit = trainer(), task()
    like = small.like(fit, SHAPE)
    other = dataclasses.replace(small, accumulate=2)
    made = other.compiled_init(fit, KEY, SHAPE, compiler_options={})
    assert len(traced) == 1
    assert_near(made, fresh(small, fit), atol=1e-6)
    shapes = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), made)
    assert shapes == jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), like)
    assert len(small.like(fit, (4, 4, 2)).averages) == 1 and len(traced) == 3


def test_no_average_is_refused() -> None:
    with pytest.raises(ValueError, match=r"averages is empty.*Average\(0.0\)"):
        Trainer(optax.sgd(0.1), ())


def test_step_is_gradient_descent_with_warmed_up_averages() -> None:
    """Two profiles by hand; example i of the batch has the key fold_in(fold_in(key, step), i)."""
    profiles = (Average(0.9), Average(0.75, warmup=False))
    small, fit = trainer(optax.sgd(0.5), profiles), task(dropout=0.3)
    state, images = fresh(small, fit), batch(8)
    step, gradient = jax.jit(small.step), jax.jit(jax.grad(mean_loss))
    for n in (1, 2, 3):
        before = state
        grads = gradient(state.params, fit, keys(jax.random.fold_in(KEY, n - 1), 8), images)
        state, metrics = step(fit, state, KEY, images)
        expected = jax.tree.map(lambda p, g: p - 0.5 * g, before.params, grads)
        assert_near(state.params, expected, atol=1e-6)
        decays = (min(0.9, (1 + n) / (10 + n)), 0.75)
        for i, decay in enumerate(decays):
            average = jax.tree.map(
                lambda a, p, d=decay: d * a + (1 - d) * p, before.averages[i], state.params
            )
            assert_near(state.averages[i], average, atol=1e-6)
        assert not same(*state.averages)
        np.testing.assert_allclose(metrics["grad_norm"], optax.global_norm(grads), rtol=1e-5)
        assert state.step == n


def test_several_steps_in_one_call_are_the_single_steps() -> None:
    small, fit = trainer(), task(dropout=0.2)
    first = fresh(small, fit)
    batches = of(jax.random.normal(jax.random.key(1), (3, 8, *SHAPE)))
    together, metrics = jax.jit(small.steps)(fit, first, KEY, batches)
    state, single = first, []
    for i in range(3):
        part = jax.tree.map(lambda rows, i=i: rows[i : i + 1], batches)
        state, one = jax.jit(small.steps)(fit, state, KEY, part)
        single.append(one["loss"][0])
    np.testing.assert_allclose(metrics["loss"], jnp.stack(single), rtol=1e-6)
    assert len({float(loss) for loss in single}) == 3
    assert_near(together, state, atol=1e-6)


def test_randomness_of_a_step_is_a_function_of_run_key_and_step_number_alone() -> None:
    small, fit = trainer(), task(dropout=0.2)
    state, images, run = fresh(small, fit), batch(8), jax.jit(small.step)

    def loss(step: int, key=KEY, scale: float = 0.0) -> float:
        averages = (jax.tree.map(lambda a: scale * a, state.params),)
        odd = state.replace(step=jnp.asarray(step, jnp.int32), averages=averages)
        return float(run(fit, odd, key, images)[1]["loss"])

    assert loss(5) == loss(5, scale=3.0)
    assert len({loss(5), loss(6), loss(5, jax.random.key(9))}) == 3


class Probe(nn.Module):
    """Returns its dropout mask, so that it can be looked at."""

    @nn.compact
    def __call__(self, x: jax.Array, labels: jax.Array, train: bool = False) -> jax.Array:
        one = self.param("one", nn.initializers.ones, ())
        return one * nn.Dropout(0.5, deterministic=not train)(jnp.ones_like(x))


def probe() -> ScoreModel:
    return ScoreModel(Probe(), network_score(time_label))


def test_dropout_differs_from_step_to_step_and_is_off_in_evaluation() -> None:
    masks = []

    def objective(keys, score_fn, x0):
        mask = score_fn(x0, jnp.ones(len(x0)))
        masks.append(mask)
        weights = jnp.linspace(0.5, 1.5, 16).reshape(1, *SHAPE)  # so that sums tell masks apart
        return (weights * mask).reshape(len(x0), -1).mean(axis=1)

    fit, raw = ScoreMatching(probe(), objective), trainer(optax.set_to_zero())
    state, images = fresh(raw, fit), batch(16)
    found = []
    for _ in range(3):
        state, metrics = raw.step(fit, state, KEY, images)
        found.append(float(metrics["loss"]))
    assert len(set(found)) == 3
    np.testing.assert_allclose(found, 1.0, atol=0.3)  # half of the entries are 2
    fit.losses(state.params, keys(KEY, 16), images, False)
    assert (masks[-1] == 1).all()


def test_dropout_of_an_example_depends_on_its_key_alone() -> None:
    score_fn, x = probe().score_fn, jnp.zeros((6, *SHAPE))
    params, own = probe().init(KEY, SHAPE), keys(KEY, 6)
    masks = np.asarray(score_fn(params, keys=own)(x, jnp.ones(6)))
    assert set(np.unique(masks)) == {0.0, 2.0}
    assert len(np.unique(masks.reshape(6, -1), axis=0)) == 6
    order = np.array([4, 0, 3])
    few = score_fn(params, keys=own[order])(x[:3], jnp.ones(3))
    np.testing.assert_array_equal(few, masks[order])


@pytest.mark.parametrize("name", ["denoising", "sliced"])
@pytest.mark.parametrize("train", [True, False])
def test_loss_of_an_example_does_not_depend_on_its_batch(name: str, train: bool) -> None:
    objective = SlicedScoreMatching(2, time=0.5) if name == "sliced" else None
    fit = task(dropout=0.5, objective=objective)
    params = fit.init(KEY, SHAPE)
    images, own = of(jax.random.normal(jax.random.key(1), (8, *SHAPE))), keys(KEY, 8)
    whole = losses(fit, params, own, images, train)
    for i in (0, 5):
        alone = jax.tree.map(lambda rows, i=i: rows[i : i + 1], images)
        single = losses(fit, params, own[i : i + 1], alone, train)
        np.testing.assert_allclose(single[0], whole[i], rtol=1e-5)
    assert len(np.unique(whole)) == 8
    assert (whole != losses(fit, params, own, images, not train)).all()


def test_losses_repeat_with_the_keys_and_ignore_dropout_in_evaluation() -> None:
    fit, without = task(dropout=0.5), task()
    params, images = fit.init(KEY, SHAPE), batch(16)
    first = losses(fit, params, keys(KEY, 16), images, False)
    assert np.array_equal(first, losses(fit, params, keys(KEY, 16), images, False))
    assert np.array_equal(first, losses(without, params, keys(KEY, 16), images, True))
    assert not np.array_equal(
        first, losses(fit, params, keys(jax.random.key(8), 16), images, False)
    )


def test_loss_is_the_mean_over_the_batch() -> None:
    fit, images = task(dropout=0.5), batch(16)
    params = fit.init(KEY, SHAPE)
    np.testing.assert_allclose(
        jax.jit(mean_loss)(params, fit, keys(KEY, 16), images),
        losses(fit, params, keys(KEY, 16), images, True).mean(),
        rtol=1e-6,
    )


class Offset(flax.struct.PyTreeNode):
    """A task with frozen weights: mean of (w + offset - image)^2 over an image."""

    offset: jax.Array

    def init(self, key, shape):
        return {"w": jax.random.normal(key, shape)}

    def losses(self, params, keys, batch, train):
        error = (params["w"] + self.offset)[None] - batch.image
        return jnp.mean(error**2, axis=(1, 2, 3))


def test_frozen_weights_are_inputs_of_the_program_and_stay_as_they_are() -> None:
    frozen = Offset(jnp.linspace(0.0, 1.0, 16).reshape(SHAPE))
    small, images = trainer(optax.sgd(0.5)), batch(8)
    state = fresh(small, frozen)
    traced = jax.jit(small.steps).trace(frozen, state, KEY, jax.tree.map(lambda a: a[None], images))
    leaves = jax.tree.leaves((frozen, state, KEY, images))
    assert len(traced.jaxpr.in_avals) == len(leaves)
    assert all(np.size(constant) < 16 for constant in traced.jaxpr.consts)
    kept = jax.tree.leaves(traced.lower().compile().args_info[0][0])
    assert [info.shape for info in kept] == [SHAPE]

    traces = []

    @jax.jit
    def step(*arguments):
        traces.append(1)
        return small.step(*arguments)

    after, _ = step(frozen, state, KEY, images)
    gradient = 2 / 16 * (state.params["w"] + frozen.offset - images.image.mean(axis=0))
    np.testing.assert_allclose(after.params["w"], state.params["w"] - 0.5 * gradient, rtol=1e-5)
    other, _ = step(frozen.replace(offset=frozen.offset + 1), state, KEY, images)
    moved = after.params["w"] - 0.5 * 2 / 16
    np.testing.assert_allclose(other.params["w"], moved, rtol=1e-5, atol=1e-6)
    assert len(traces) == 1  # other frozen weights need no other program


class Conditional(nn.Module):
    """A dense network that is given one number and a vector of an example."""

    @nn.compact
    def __call__(self, x, labels, given, train: bool = False):
        rest = jnp.concatenate([given["one"][:, None], given["two"]], axis=1)
        h = jnp.concatenate([x.reshape(len(x), -1), labels[:, None], rest], axis=1)
        h = nn.Dropout(0.5, deterministic=not train)(nn.Dense(16)(h))
        return nn.Dense(x[0].size)(h).reshape(x.shape)


def test_conditional_models_receive_what_is_given_of_each_example() -> None:
    rows = {"one": jnp.arange(4.0), "two": jax.random.normal(KEY, (4, 3))}
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), rows)
    conditional = dataclasses.replace(model(Conditional()), given=shapes)
    fit = ScoreMatching(conditional, task().objective)
    images = Batch(*batch(4)[:3], rows)
    params, own = fit.init(KEY, SHAPE), keys(KEY, 4)
    for train in (True, False):
        whole = losses(fit, params, own, images, train)
        one = jax.tree.map(lambda a: a[2:3], images)
        np.testing.assert_allclose(
            losses(fit, params, own[2:3], one, train)[0], whole[2], rtol=1e-5
        )
        other = images._replace(given=jax.tree.map(lambda a: a[::-1], rows))
        assert (losses(fit, params, own, other, train) != whole).all()
    state, _ = jax.jit(trainer().step)(fit, fresh(trainer(), fit), KEY, images)
    assert state.step == 1


def test_step_works_in_double_precision(x64: None) -> None:
    wide, fit = trainer(), task(network=Dense(dtype=jnp.float64))
    images = of(batch(4).image.astype(jnp.float64))
    state, metrics = jax.jit(wide.step)(fit, fresh(wide, fit), KEY, images)
    assert metrics["loss"].dtype == jnp.float64
    assert {leaf.dtype for leaf in jax.tree.leaves(state.averages)} == {jnp.dtype("float64")}
