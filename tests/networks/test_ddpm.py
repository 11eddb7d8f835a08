import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks.published import folders
from networks.weights import FAST_COMPILE, largest_error

from score_sde.errors import UserError
from score_sde.networks import DDPM

SMALL = DDPM(nf=32, ch_mult=(1, 1), num_res_blocks=1, attn_resolutions=(4,))


# In single precision they are compared after an import (tests/test_import.py).
@pytest.mark.parametrize("folder", folders("ddpm"))
def test_agrees_with_published_network_in_double_precision(folder, x64):
    assert largest_error(folder, np.float64) < 1e-12


def test_default_size_is_the_published_one():
    made = jax.eval_shape(
        DDPM().init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)), jnp.zeros((1,))
    )
    count = sum(leaf.size for leaf in jax.tree.leaves(made))
    # Ho et al. 2020 have 35.7 million parameters, with attention after all three blocks up;
    # the code of Score SDE, followed here, has one attention after the three.
    attention = 4 * (256 * 256 + 256) + 2 * 256
    assert count + 2 * attention == 35_746_307


def test_remat_changes_no_gradient():
    network = SMALL.clone(ch_mult=(1,))
    x = jax.random.uniform(jax.random.key(0), (2, 4, 4, 1))
    labels = jnp.asarray([3.0, 700.0])
    params = _noisy(network, x, labels)

    def gradient(network):
        def loss(p):
            output = network.apply(
                {"params": p}, x, labels, train=True, rngs={"dropout": jax.random.key(1)}
            )
            return jnp.mean(jnp.square(output))

        return jax.jit(jax.grad(loss), compiler_options=FAST_COMPILE)(params)

    expected, actual = gradient(network), gradient(network.clone(remat=True))
    scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(expected))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * scale),
        actual,
        expected,
    )


def test_refuses_unknown_and_impossible_options():
    with pytest.raises(UserError, match=r"activation must be one of 'swish'.*got 'gelu'"):
        DDPM(activation="gelu")
    with pytest.raises(UserError, match=r"multiples of 8; got 28 x 28.*32 x 32"):
        jax.eval_shape(DDPM().init, jax.random.key(0), jnp.zeros((1, 28, 28, 1)), jnp.zeros((1,)))
    with pytest.raises(UserError, match="multiples of 32"):
        jax.eval_shape(
            DDPM(nf=48).init, jax.random.key(0), jnp.zeros((1, 8, 8, 1)), jnp.zeros((1,))
        )


def _noisy(network, x, labels):
    """Parameters none of which is zero, so that every part matters."""
    made = jax.eval_shape(network.init, jax.random.key(0), x, labels)["params"]
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda a: jnp.asarray(0.2 * rng.normal(size=a.shape), jnp.float32), made)
