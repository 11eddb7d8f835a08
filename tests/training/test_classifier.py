"""The classifier's task: what its network is given, its loss, and what it learns."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from training import tiny

from score_sde import objectives
from score_sde.analytic import GaussianMixture
from score_sde.arrays import sample_keys
from score_sde.data import Batch
from score_sde.sde import VE, VP, Perturbation
from score_sde.training.classifier import Classification
from score_sde.training.ema import Average

MEANS = np.asarray([-0.8, 0.8])
DATA = GaussianMixture.isotropic([0.5, 0.5], MEANS[:, None, None, None] * np.ones(tiny.SHAPE), 0.2)


SLOW = (Average(0.995),)


class Shown(nn.Module):
    """Logits that tell the input: the sums of pixels, and of pixels times the label."""

    @nn.compact
    def __call__(self, x: Any, labels: Any, train: bool = False) -> Any:
        sums = x.reshape(len(x), -1).sum(axis=1)
        return jnp.stack([sums, sums * labels], axis=1)


class Small(nn.Module):
    """One hidden layer on pixels and log sigma."""

    @nn.compact
    def __call__(self, x: Any, labels: Any, train: bool = False) -> Any:
        h = jnp.concatenate([x.reshape(len(x), -1), jnp.log(labels)[:, None]], axis=1)
        return nn.Dense(2)(nn.swish(nn.Dense(64)(nn.swish(nn.Dense(64)(h)))))


def task(network: nn.Module, process: Perturbation, **settings: Any) -> Classification:
    return Classification(network, process, objectives.UniformTime(process), **settings)


@pytest.mark.parametrize("process", [VP(), VE(sigma_max=10.0)], ids=["vp", "ve"])
@pytest.mark.parametrize("centre", [False, True])
def test_what_the_network_is_given(process: Perturbation, centre: bool) -> None:
    """x_t/sqrt(alpha^2 std^2 + sigma^2), sigma/alpha, of images in [-1, 1] whatever their range."""
    fit = task(Shown(), process, data_std=0.3, centre=centre)
    t = jnp.asarray([0.1, 0.5, 0.9])
    alpha, sigma = (np.asarray(v)[:, None, None, None] for v in process.marginal(t))
    keys = jax.random.split(jax.random.key(0))
    x0, z = (jax.random.normal(key, (3, *tiny.SHAPE)) for key in keys)
    found = fit.log_probs({})(alpha * x0 + sigma * z, t)
    if centre:
        x0, sigma = 2 * x0 - 1, 2 * sigma
    x = (alpha * x0 + sigma * z) / np.sqrt((0.3 * alpha) ** 2 + sigma**2)
    sums = np.asarray(x).reshape(3, -1).sum(axis=1)
    logits = np.stack([sums, sums * (sigma / alpha).ravel()], axis=1)
    np.testing.assert_allclose(found, jax.nn.log_softmax(logits, axis=1), rtol=1e-4, atol=1e-4)


def test_the_loss_is_the_cross_entropy_of_the_own_class() -> None:
    process, count = VP(), 5
    fit, keys = task(Shown(), process), sample_keys(jax.random.key(1), jnp.arange(count))
    labels = jnp.asarray([0, 1, 1, 0, 1], jnp.int32)
    images = jax.random.normal(jax.random.key(2), (count, *tiny.SHAPE))
    batch = Batch(images, labels, jnp.arange(count, dtype=jnp.int32))
    other = batch._replace(label=1 - labels)
    own, flipped = (fit.losses({}, keys, one, False) for one in (batch, other))
    np.testing.assert_allclose(jnp.exp(-own) + jnp.exp(-flipped), 1.0, rtol=1e-5)
    np.testing.assert_allclose(  # by its own key alone
        fit.losses({}, keys[2:3], jax.tree.map(lambda a: a[2:3], batch), False), own[2:3], rtol=1e-5
    )


def test_it_learns_the_probability_of_the_class_and_its_gradient() -> None:
    """Against the exact posterior of the class, which guidance needs; VP in the middle."""
    process, count = VP(), 2000
    fit, trainer, key = (
        task(Small(), process),
        tiny.trainer(optax.adam(2e-3), SLOW),
        jax.random.key(1),
    )
    labels = jax.random.bernoulli(jax.random.key(2), shape=(count * 128,)).astype(jnp.int32)
    noise = 0.2 * jax.random.normal(jax.random.key(3), (len(labels), *tiny.SHAPE))
    images = jnp.asarray(MEANS, jnp.float32)[labels][:, None, None, None] + noise
    batch = Batch(images, labels, jnp.zeros(len(labels), jnp.int32))
    batches = jax.tree.map(lambda a: a.reshape(count, 128, *a.shape[1:]), batch)
    state = trainer.init(fit, jax.random.key(0), tiny.SHAPE)
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam mixes types
        state, _ = jax.jit(trainer.steps)(fit, state, key, batches)
    learned, exact = fit.log_probs(state.averages[0]), DATA.class_posterior(process)

    def gradient(log_probs, x, t):
        return jax.grad(lambda x: log_probs(x, t)[:, 1].sum())(x).reshape(len(x), -1)

    for time in (0.4, 0.7):
        t = jnp.full(1000, time)
        x = DATA.sample_at(jax.random.key(5), process, t[0], len(t))
        assert np.abs(np.exp(learned(x, t)) - np.exp(exact(x, t))).mean() < 0.03
        found, wanted = gradient(learned, x, t), gradient(exact, x, t)
        assert np.sum(found * wanted) / np.sum(wanted**2) == pytest.approx(1.0, abs=0.15)
