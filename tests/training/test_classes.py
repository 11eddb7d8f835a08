"""Class-conditional score models: they learn the score of each class, and that of all images."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import runs
from training import tiny

from score_sde.analytic import GaussianMixture
from score_sde.arrays import sample_keys
from score_sde.build.assemble import build
from score_sde.data import Batch
from score_sde.errors import UserError
from score_sde.sde import VP
from score_sde.training.step import ScoreMatching

MEANS = np.asarray([-0.8, 0.8])
DATA = GaussianMixture.isotropic([0.5, 0.5], MEANS[:, None, None, None] * np.ones(tiny.SHAPE), 0.1)


class Told(nn.Module):
    """`tiny.Dense` that is told the class and nothing else beside the image."""

    @nn.compact
    def __call__(self, x, labels, given=None, train=False):
        given = jnp.zeros((len(x), 2)) if given is None else given
        h = jnp.concatenate([x.reshape(len(x), -1), labels[:, None] / 999, given], axis=1)
        h = nn.swish(nn.Dense(64)(h))
        h = nn.swish(nn.Dense(64)(h))
        return nn.Dense(x[0].size)(h).reshape(x.shape)


def task(label_dropout: float = 0.3) -> ScoreMatching:
    usual, given = tiny.task(), jax.ShapeDtypeStruct((2,), jnp.float32)
    model = dataclasses.replace(tiny.model(Told()), given=given, classes=2)
    return usual.replace(model=model, label_dropout=label_dropout)


def batch(key: jax.Array, count: int) -> Batch:
    labels = jax.random.bernoulli(key, shape=(count,)).astype(jnp.int32)
    noise = 0.1 * jax.random.normal(key, (count, *tiny.SHAPE))
    images = jnp.asarray(MEANS, jnp.float32)[labels][:, None, None, None] + noise
    return Batch(images, labels, jnp.arange(count, dtype=jnp.int32))


def test_what_is_given_begins_with_the_class() -> None:
    model = dataclasses.replace(task().model, given=jax.ShapeDtypeStruct((5,), jnp.float32))
    rows = model.of_classes(jnp.asarray([1, -1, 0]))
    np.testing.assert_array_equal(rows, [[0, 1, 0, 0, 0], [0] * 5, [1, 0, 0, 0, 0]])


def test_the_class_of_a_share_of_images_is_not_told() -> None:
    """In training so many as asked for, each by its own key; in evaluation none."""
    fit, count = task(0.3), 4000
    some, keys = batch(jax.random.key(0), count), sample_keys(jax.random.key(1), jnp.arange(count))
    _, given = fit._told(keys, some, True)
    told = np.asarray(given.sum(1))
    assert set(told.tolist()) == {0.0, 1.0}
    assert abs(1 - told.mean() - 0.3) < 4 * np.sqrt(0.21 / count)
    shown = np.asarray(given.argmax(1))[told == 1]
    np.testing.assert_array_equal(shown, np.asarray(some.label)[told == 1])
    _, again = fit._told(keys[5:9], jax.tree.map(lambda a: a[5:9], some), True)
    np.testing.assert_array_equal(again, given[5:9])
    assert (fit._told(keys, some, False)[1].sum(1) == 1).all()


def test_it_learns_the_score_of_each_class_and_of_all_images() -> None:
    """The denoised image of each class, and of both together, against the exact ones."""
    fit, trainer, process = task(), tiny.trainer(optax.adam(3e-3)), VP()
    state, key = trainer.init(fit, jax.random.key(0), tiny.SHAPE), jax.random.key(1)
    batches = batch(jax.random.key(2), 3000 * 128)
    batches = jax.tree.map(lambda a: a.reshape(3000, 128, *a.shape[1:]), batches)
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam mixes types
        state, _ = jax.jit(trainer.steps)(fit, state, key, batches)
    params, t = state.averages[0], jnp.asarray(0.45)

    def error(score_fn, exact, x) -> float:
        """Of sigma score: the predicted noise."""
        times = jnp.full(len(x), t)
        squares = (score_fn(x, times) - exact(x, times)) ** 2
        return float(process.marginal(t)[1] * jnp.sqrt(jnp.mean(squares)))

    model, plain = fit.model, fit.model.score_fn(params)
    for label in (0, 1):
        one = GaussianMixture.isotropic([1.0], DATA.means[[label]], 0.1)
        x = one.sample_at(jax.random.key(5), process, t, 256)
        told = model.score_fn(params, model.of_classes(jnp.full(len(x), label)))
        wrong = model.score_fn(params, model.of_classes(jnp.full(len(x), 1 - label)))
        exact = one.score_fn(process)
        assert error(told, exact, x) < 0.12 < error(plain, exact, x) < error(wrong, exact, x)
    x = DATA.sample_at(jax.random.key(5), process, t, 256)
    both = DATA.score_fn(process)
    assert error(plain, both, x) < 0.12 < error(told, both, x)


@pytest.mark.parametrize(
    ("recipe", "values", "message"),
    [
        ("vp/ddpm:digits", {"model.num_classes": 10}, "num_classes=10.*ncsnpp alone"),
        ("vp/ddpmpp_cont:digits", {"model.num_classes": -1}, "num_classes=-1"),
        ("vp/ddpmpp_cont:digits", {"training.label_dropout": 1.0}, "label_dropout .*got 1"),
    ],
)
def test_refusals(recipe: str, values: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(runs.load(recipe, values))
