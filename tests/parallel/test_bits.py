"""Bits/dim of discrete images under a model whose density is known."""

import jax
import numpy as np
import pytest
from scipy.stats import norm

from score_sde import VP, GaussianMixture
from score_sde.data import ArraySource, PixelRange
from score_sde.devices import Placement
from score_sde.flow import Flow
from score_sde.likelihood.bound import Bound
from score_sde.likelihood.dequantize import Uniform, Variational
from score_sde.likelihood.ode import ODELikelihood
from score_sde.networks import FlowPP
from score_sde.objectives import LogSNRUniform
from score_sde.parallel.bits import Evaluator

PIXELS = PixelRange(levels=5, low=-1.0, high=1.0)
SDE = VP(t_min=1e-4)
MEAN, STD = 0.1, 0.5


def evaluator(batch_size, bound=None, dequantizer=None):
    model = GaussianMixture.isotropic([1.0], np.full((1, 2, 2, 1), MEAN), STD)
    images = np.random.default_rng(0).integers(0, 5, size=(24, 2, 2, 1)).astype(np.uint8)
    source = ArraySource(images, labels=np.arange(24) % 3, levels=5)
    ode = ODELikelihood(Flow(SDE, rtol=1e-4, atol=1e-4), probes=2)
    score_fn, dequantizer = model.score_fn(SDE), dequantizer or Uniform()
    found = Evaluator(
        lambda params: score_fn, source, PIXELS, Placement.of(), batch_size, ode, bound, dequantizer
    )
    return found, images


def whole(batches):
    """The columns of all batches."""
    parts = list(batches)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def variational():
    """A flow far from uniform."""
    flow = FlowPP(
        filters=4, components=2, blocks=1, heads=0, couplings=2, context_filters=4, context_layers=1
    )
    x = np.zeros((1, 2, 2, 1), np.float32)
    params = jax.jit(flow.init)(jax.random.key(0), x, x)["params"]
    return Variational(jax.tree.map(lambda a: a + 0.2, params), flow, 5)


@pytest.mark.parametrize("make", [Uniform, variational])
def test_bits_per_dim_against_the_gaussian_density(make):
    """-log2 p(x)/q(u) at the positions drawn, times the cell width 2/5, a mean over four pixels."""
    dequantizer = make()
    evaluate, images = evaluator(16, Bound(SDE, LogSNRUniform(SDE), draws=400), dequantizer)
    key, indices = jax.random.key(3), np.arange(24)[5:15]
    rows = whole(evaluate({}, key, indices, 0))
    np.testing.assert_array_equal(rows["index"], indices)
    np.testing.assert_array_equal(rows["label"], indices % 3)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.fold_in(key, 0), indices)
    u, log_q = dequantizer(
        jax.vmap(lambda k: jax.random.fold_in(k, 0))(keys), jax.numpy.asarray(images[indices])
    )
    x = np.asarray(PIXELS.dequantize(images[indices], np.asarray(u)))
    level = (x + 1) / 2 * 5
    assert np.all(np.floor(np.clip(level, 0, 4.999)) == images[indices])
    logp = norm.logpdf(x, MEAN, STD).sum(axis=(1, 2, 3))
    exact = -(logp - log_q) / (4 * np.log(2)) + np.log2(5 / 2)
    np.testing.assert_allclose(rows["log_q"], log_q, rtol=1e-4, atol=1e-4)
    assert (np.abs(rows["log_q"]) > 0.1).all() == (make is variational)
    np.testing.assert_allclose(rows["bits_per_dim"], exact, atol=2e-3)
    np.testing.assert_allclose(rows["logp"], logp, atol=6e-3)
    assert rows["success"].all() and (rows["nfe"] > 6).all()
    difference = rows["bound_bits_per_dim"] - exact
    # 400 draws of 10 images: the standard error is about 0.03.
    assert abs(difference.mean()) < 0.15, difference


@pytest.mark.parametrize("make", [Uniform, variational])
def test_rows_do_not_depend_on_the_batch(make):
    evaluate, _ = evaluator(24, dequantizer=make())
    small, _ = evaluator(8, dequantizer=make())
    key = jax.random.key(1)
    together = whole(evaluate({}, key, np.arange(24), 2))
    alone = whole(small({}, key, np.asarray([20, 21, 7]), 2))
    for name in ("bits_per_dim", "standard_error", "logp", "log_q"):
        np.testing.assert_allclose(alone[name], together[name][[20, 21, 7]], atol=1e-4)
    other = whole(small({}, key, np.asarray([20, 21, 7]), 3))
    assert np.all(np.abs(other["logp"] - alone["logp"]) > 1e-3)


def test_columns_come_batch_after_batch_and_none_for_no_image() -> None:
    evaluate, _ = evaluator(8)
    indices = np.asarray([3, 1, 4, 15, 9, 2, 6, 5, 0, 10, 11])
    parts = list(evaluate({}, jax.random.key(1), indices, 4))
    assert [part["index"].tolist() for part in parts] == [indices[:8].tolist(), [0, 10, 11]]
    for part in parts:
        assert (part["pass"] == 4).all()
        assert {len(column) for column in part.values()} == {len(part["index"])}
        np.testing.assert_array_equal(part["label"], part["index"] % 3)
    assert list(evaluate({}, jax.random.key(1), indices[:0], 4)) == []


def test_a_column_is_only_there_if_asked_for():
    evaluate, _ = evaluator(8)
    assert "bound_bits_per_dim" not in whole(evaluate({}, jax.random.key(0), np.arange(3), 0))
    with pytest.raises(ValueError, match="draws"):
        Bound(SDE, LogSNRUniform(SDE), draws=0)
