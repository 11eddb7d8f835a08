"""The training step: what it minimizes, what it averages, and on what its randomness depends."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from training.tiny import SHAPE, Dense, images, model, trainer

from score_sde.training.ema import ema_decay
from score_sde.training.step import ScoreMatching, Trainer

KEY = jax.random.key(3)


def same(a, b) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def test_loss_falls_to_the_bayes_error() -> None:
    """Pixels alike: the noise is known but for one of 16 directions, so the best loss is below a tenth."""
    small = trainer()
    state = small.init(KEY, SHAPE)
    state, metrics = jax.jit(small.steps)(state, KEY, images(600, 64))
    assert metrics["loss"].shape == metrics["grad_norm"].shape == (600,)
    assert 0.9 < metrics["loss"][0] < 1.5
    assert jnp.mean(metrics["loss"][-50:]) < 0.3
    held = jax.jit(small.eval_losses)(state.ema_params, KEY, images(256))
    assert held.shape == (256,)
    np.testing.assert_allclose(held.mean(), jnp.mean(metrics["loss"][-50:]), rtol=0.15)


def test_fresh_state() -> None:
    state = trainer().init(KEY, SHAPE)
    assert state.step == 0 and state.step.dtype == jnp.int32
    assert same(state.params, state.ema_params)
    mine, average = jax.tree.leaves(state.params), jax.tree.leaves(state.ema_params)
    pointers = {leaf.unsafe_buffer_pointer() for leaf in mine}
    assert not pointers & {leaf.unsafe_buffer_pointer() for leaf in average}  # donated, each once
    assert not same(state.params, trainer().init(jax.random.key(4), SHAPE).params)


def test_step_is_gradient_descent_with_a_warmed_up_average() -> None:
    small = trainer(optimizer=optax.sgd(0.5), ema_rate=0.9)
    state, batch = small.init(KEY, SHAPE), images(8)
    step, gradient = jax.jit(small.step), jax.jit(jax.grad(small.loss))
    for n in (1, 2, 3):
        before, grads = state, gradient(state.params, jax.random.fold_in(KEY, n - 1), batch)
        state, metrics = step(state, KEY, batch)
        decay = float(ema_decay(jnp.asarray(n), 0.9))
        expected = jax.tree.map(lambda p, g: p - 0.5 * g, before.params, grads)
        average = jax.tree.map(lambda a, p, d=decay: d * a + (1 - d) * p, before.ema_params, state.params)
        for found, wanted in ((state.params, expected), (state.ema_params, average)):
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, wanted)
        np.testing.assert_allclose(metrics["grad_norm"], optax.global_norm(grads), rtol=1e-5)
        assert state.step == n


def test_fixed_average_without_warmup() -> None:
    small = trainer(ema_rate=0.75, ema_warmup=False)
    state = small.init(KEY, SHAPE)
    after, _ = jax.jit(small.step)(state, KEY, images(8))
    expected = jax.tree.map(lambda a, p: 0.75 * a + 0.25 * p, state.params, after.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), after.ema_params, expected)


def test_several_steps_in_one_call_are_the_single_steps() -> None:
    small = trainer(dropout=0.2)
    first = small.init(KEY, SHAPE)
    batches = jax.random.normal(jax.random.key(1), (3, 8, *SHAPE))
    together, metrics = jax.jit(small.steps)(first, KEY, batches)
    state, losses = first, []
    for i in range(3):
        state, one = jax.jit(small.steps)(state, KEY, batches[i : i + 1])
        losses.append(one["loss"][0])
    np.testing.assert_allclose(metrics["loss"], jnp.stack(losses), rtol=1e-6)
    assert len({float(loss) for loss in losses}) == 3
    for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(state), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_randomness_of_a_step_is_a_function_of_run_key_and_step_number_alone() -> None:
    small = trainer(dropout=0.2)
    state, batch, run = small.init(KEY, SHAPE), images(8), jax.jit(small.step)

    def loss(step: int, key=KEY, scale: float = 0.0) -> float:
        odd = state.replace(
            step=jnp.asarray(step, jnp.int32), ema_params=jax.tree.map(lambda a: scale * a, state.params)
        )
        return float(run(odd, key, batch)[1]["loss"])

    assert loss(5) == loss(5, scale=3.0)
    assert len({loss(5), loss(6), loss(5, jax.random.key(9))}) == 3


class Probe(nn.Module):
    """Returns its dropout mask, so that it can be looked at."""

    @nn.compact
    def __call__(self, x: jax.Array, labels: jax.Array, train: bool = False) -> jax.Array:
        one = self.param("one", nn.initializers.ones, ())
        return one * nn.Dropout(0.5, deterministic=not train)(jnp.ones_like(x))


def test_dropout_differs_from_step_to_step_and_is_off_in_evaluation() -> None:
    masks = []

    def objective(key, score_fn, x0):
        mask = score_fn(x0, jnp.ones(len(x0)))
        masks.append(mask)
        return mask.reshape(len(x0), -1).mean(axis=1)

    plain = model(Probe())
    unscaled = dataclasses.replace(plain.parameterization, c_out=jnp.ones_like)
    probe = dataclasses.replace(plain, parameterization=unscaled)
    raw = Trainer(ScoreMatching(probe, objective), optax.set_to_zero(), ema_rate=0.9)
    state = raw.init(KEY, SHAPE)
    losses = []
    for _ in range(3):
        state, metrics = raw.step(state, KEY, images(16))
        losses.append(float(metrics["loss"]))
    assert len(set(losses)) == 3
    np.testing.assert_allclose(losses, 1.0, atol=0.3)  # half of the entries are 2
    raw.eval_losses(state.params, KEY, images(16))
    assert (masks[-1] == 1).all()


def test_held_out_losses_repeat_with_the_key_and_ignore_dropout() -> None:
    small, without = trainer(dropout=0.5), trainer()
    params, losses = small.init(KEY, SHAPE).params, jax.jit(small.eval_losses)
    first = losses(params, KEY, images(16))
    assert np.array_equal(first, losses(params, KEY, images(16)))
    assert np.array_equal(first, jax.jit(without.eval_losses)(params, KEY, images(16)))
    assert not np.array_equal(first, losses(params, jax.random.key(8), images(16)))


def test_loss_is_the_mean_over_the_batch() -> None:
    small = trainer()
    params, batch = small.init(KEY, SHAPE).params, images(16)
    _, key_objective = jax.random.split(KEY)
    np.testing.assert_allclose(
        jax.jit(small.loss)(params, KEY, batch),
        jax.jit(small.eval_losses)(params, key_objective, batch).mean(),
        rtol=1e-6,
    )


def test_step_works_in_double_precision(x64: None) -> None:
    wide = trainer(network=Dense(dtype=jnp.float64))
    state = wide.init(KEY, SHAPE)
    state, metrics = jax.jit(wide.step)(state, KEY, images(4).astype(jnp.float64))
    assert metrics["loss"].dtype == jnp.float64
    assert {leaf.dtype for leaf in jax.tree.leaves(state.ema_params)} == {jnp.dtype("float64")}
