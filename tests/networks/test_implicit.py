"""Perceptrons of implicit models: against matrix products of concatenated inputs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.errors import UserError
from score_sde.networks import TanhMLP

X, NOISE = (jax.random.normal(jax.random.key(i), s) for i, s in enumerate([(5, 1, 6), (5, 4, 3)]))


def test_is_a_perceptron_of_the_concatenated_inputs():
    network = TanhMLP(out=2, hidden=7)
    params = network.init(jax.random.key(2), X, NOISE)["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 10 * 7 + 8 * 7 + 8 * 2
    params = jax.tree.map(lambda a: a + 0.1, params)  # biases are born as 0
    h = np.concatenate([np.repeat(X, 4, axis=1), NOISE], axis=2).astype(float)
    h = np.tanh(h @ np.asarray(params["kernel"], float) + np.asarray(params["bias"]))
    h = np.tanh(h @ np.asarray(params["dense_1"]["kernel"]) + np.asarray(params["dense_1"]["bias"]))
    h = h @ np.asarray(params["dense_2"]["kernel"]) + np.asarray(params["dense_2"]["bias"])
    np.testing.assert_allclose(network.apply({"params": params}, X, NOISE), h, atol=1e-5)


def test_units_of_the_published_table():
    """Encoder 792-256-256-8, decoder 8-256-256-784, score 792-256-256-8."""
    x, z = jnp.zeros((1, 784)), jnp.zeros((1, 8))
    for out, inputs in ((8, (x, z)), (784, (z,)), (8, (z, x))):
        shapes = jax.eval_shape(TanhMLP(out).init, jax.random.key(0), *inputs)["params"]
        first = sum(a.shape[1] for a in inputs)
        assert shapes["kernel"].shape == (first, 256)
        assert shapes["dense_1"]["kernel"].shape == (256, 256)
        assert shapes["dense_2"]["kernel"].shape == (256, out) and len(shapes) == 4


def test_depth_one_is_linear():
    network = TanhMLP(out=3, depth=1)
    params = network.init(jax.random.key(0), X)
    assert params["params"]["kernel"].shape == (6, 3) and len(params["params"]) == 2
    np.testing.assert_allclose(network.apply(params, 2 * X), 2 * network.apply(params, X), 1e-5)


def test_refuses():
    with pytest.raises(UserError, match="must be 1 or more; got 0"):
        TanhMLP(out=2, depth=0)
    with pytest.raises(UserError, match="at least one input; got none"):
        TanhMLP(out=2).init(jax.random.key(0))
