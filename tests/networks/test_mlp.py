import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from score_sde.errors import UserError
from score_sde.networks import ScoreMLP

X = jax.random.normal(jax.random.key(0), (64, 2))
LABELS = jnp.zeros((64,))


def test_is_three_linear_maps_with_softplus_in_between():
    network = ScoreMLP()
    params = network.init(jax.random.key(1), X, LABELS)["params"]
    maps = [(np.asarray(m["kernel"], np.float64), np.asarray(m["bias"])) for m in params.values()]
    assert [kernel.shape for kernel, _ in maps] == [(2, 128), (128, 128), (128, 2)]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 3 * 128 + 129 * 128 + 129 * 2
    h = np.asarray(X, np.float64)
    for i, (kernel, bias) in enumerate(maps):
        h = h @ kernel + bias
        if i < 2:
            h = np.log1p(np.exp(h))
    np.testing.assert_allclose(
        network.apply({"params": params}, X, LABELS), h, rtol=1e-4, atol=1e-5
    )


def test_ignores_labels():
    network = ScoreMLP(hidden=8)
    params = network.init(jax.random.key(1), X, LABELS)
    same = network.apply(params, X, LABELS), network.apply(params, X, LABELS + 3, train=True)
    np.testing.assert_array_equal(*same)


def test_learns_the_score_of_a_gaussian_by_score_matching():
    """N(1, 4) has the score (1 - x) / 4, which minimizes E[tr J + |s|^2 / 2] unseen."""
    network, optimizer = ScoreMLP(hidden=32), optax.adam(3e-3)
    params = network.init(jax.random.key(1), X, LABELS)

    def score(params, x):
        return network.apply(params, x[None], jnp.zeros((1,)))[0]

    def loss(params, x):
        trace = jax.vmap(lambda y: jnp.trace(jax.jacfwd(score, argnums=1)(params, y)))(x)
        return jnp.mean(
            trace + jnp.square(network.apply(params, x, jnp.zeros(x.shape[:1]))).sum(-1) / 2
        )

    @jax.jit
    def step(carry, key):
        params, state = carry
        gradient = jax.grad(loss)(params, 1 + 2 * jax.random.normal(key, (256, 2)))
        with jax.numpy_dtype_promotion("standard"):  # Adam counts its steps in integers
            update, state = optimizer.update(gradient, state)
        return (optax.apply_updates(params, update), state), None

    keys = jax.random.split(jax.random.key(2), 600)
    (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), keys)
    x = 1 + 2 * jax.random.normal(jax.random.key(3), (1000, 2))
    error = network.apply(params, x, jnp.zeros((1000,))) - (1 - x) / 4
    assert float(jnp.sqrt(jnp.mean(jnp.square(error)))) < 0.15  # the score itself has size 0.5


def test_refuses_fewer_than_one_layer():
    with pytest.raises(UserError, match="got 0"):
        ScoreMLP(depth=0)
