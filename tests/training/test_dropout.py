"""Dropout by the keys of the examples: its law, and what a mask depends on."""

import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs
from training.tiny import keys, of

from score_sde.build.assemble import build
from score_sde.training import dropout

KEY = jax.random.key(11)


class Layers(nn.Module):
    """Two dropout layers, each applied to ones; the second shares its mask over the given axes."""

    rate: float
    shared: tuple[int, ...] = ()

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array]:
        first = nn.Dropout(self.rate, deterministic=not train)(x)
        return first, nn.Dropout(self.rate, self.shared)(x, deterministic=not train)


def masks(rate: float, n: int, shape: tuple[int, ...], shared: tuple[int, ...] = ()):
    ones = jnp.ones((n, *shape))
    return [np.asarray(a) for a in dropout.apply(Layers(rate, shared), keys(KEY, n), {}, ones)]


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_share_and_scale_are_those_of_dropout(rate: float) -> None:
    first, second = masks(rate, 100, (10, 10, 4))
    for mask in (first, second):
        kept = round((1 - rate) * dropout.CHANCES) / dropout.CHANCES
        np.testing.assert_allclose(np.unique(mask), [0, 1 / kept], rtol=1e-6)
        error = np.sqrt(rate * (1 - rate) / mask.size)
        assert abs((mask == 0).mean() - rate) < 4 * error
    together = ((first == 0) & (second == 0)).mean()  # layers are independent, and so are rows
    assert abs(together - rate**2) < 4 * rate / np.sqrt(first.size)
    rows = ((first[1:] == 0) & (first[:-1] == 0)).mean()
    assert abs(rows - rate**2) < 4 * rate / np.sqrt(first.size)
    halves = ((first[..., 1::2] == 0) & (first[..., ::2] == 0)).mean()  # of the same random word
    assert abs(halves - rate**2) < 4 * rate / np.sqrt(first.size / 2)


def test_axes_that_share_a_mask() -> None:
    _, mask = masks(0.5, 20, (6, 6, 8), shared=(1, -2))
    assert (mask == mask[:, :1, :1]).all()
    assert 0.3 < (mask[:, 0, 0] == 0).mean() < 0.7


def test_rates_0_and_1() -> None:
    assert all((mask == 1).all() for mask in masks(0.0, 3, (4,)))
    assert all((mask == 0).all() for mask in masks(1.0, 3, (4,)))


class Other(nn.Module):
    """Draws random numbers of its own."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        return x + jax.random.normal(self.make_rng("dropout"), x.shape)


def test_other_random_draws_are_refused() -> None:
    with pytest.raises(flax.errors.InvalidRngError, match="dropout"):
        dropout.apply(Other(), keys(KEY, 2), {}, jnp.ones((2, 3)))


@pytest.mark.parametrize("remat", [False, True])
def test_loss_of_an_example_of_a_u_net_does_not_depend_on_its_batch(remat: bool) -> None:
    """In training mode, with dropout; row i of a batch of 8 is the same example alone."""
    small = {"model.nf": 8, "model.ch_mult": (1,), "model.num_res_blocks": 1}
    more = {"model.dropout": 0.5, "model.remat": remat}
    experiment = build(runs.load("vp/ddpmpp_cont:digits", small | more))
    task, images = experiment.task, of(jax.random.normal(KEY, (8, *experiment.shape)))
    params = jax.jit(task.init, static_argnums=1)(KEY, experiment.shape)
    params = jax.tree.map(lambda a: a + 0.05, params)  # a fresh network says 0 of every image
    own = keys(KEY, 8)
    losses = jax.jit(task.losses, static_argnums=3)
    whole = losses(params, own, images, True)
    for i in (0, 5):
        alone = jax.tree.map(lambda rows, i=i: rows[i : i + 1], images)
        np.testing.assert_allclose(
            losses(params, own[i : i + 1], alone, True)[0], whole[i], rtol=1e-5
        )
    assert len(np.unique(whole)) == 8
    assert (np.abs(whole / losses(params, own, images, False) - 1) > 1e-3).all()
