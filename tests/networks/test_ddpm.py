import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks.weights import (
    FAST_COMPILE,
    compiled,
    largest_error,
)

from golden import golden
from score_sde.errors import UserError
from score_sde.networks import DDPM

# Folders of reference values; in single precision they are compared after an import (tests/test_import.py).
PUBLISHED = ("score_sde_jax/ddpm_vp_discrete", "score_sde_pytorch/ddpm_vp_discrete")
SMALL = DDPM(nf=32, ch_mult=(1, 1), num_res_blocks=1, attn_resolutions=(4,))


@pytest.mark.parametrize("folder", PUBLISHED)
def test_agrees_with_published_network_in_double_precision(folder, x64):
    assert largest_error(golden(f"nets/{folder}"), np.float64) < 1e-12


def test_default_size_is_the_published_one():
    made = jax.eval_shape(DDPM().init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)), jnp.zeros((1,)))
    count = sum(leaf.size for leaf in jax.tree.leaves(made))
    # Ho et al. 2020 have 35.7 million parameters, with attention after all three blocks on the way up;
    # the code of Score SDE, followed here, has one attention after the three.
    attention = 4 * (256 * 256 + 256) + 2 * 256
    assert count + 2 * attention == 35_746_307


def test_output_is_divided_by_the_noise_level():
    x = jax.random.uniform(jax.random.key(0), (2, 8, 8, 1))
    labels = jnp.asarray([0, 1])
    params = _noisy(SMALL, x, labels)
    scaled = SMALL.clone(scale_by_sigma=True, sigmas=(8.0, 0.5))
    plain = compiled(SMALL)(params, x, labels)
    np.testing.assert_allclose(compiled(scaled)(params, x, labels)[0], plain[0] / 8, rtol=1e-5)
    np.testing.assert_allclose(compiled(scaled)(params, x, labels)[1], plain[1] * 2, rtol=1e-5)


def test_remat_changes_no_gradient():
    network = SMALL.clone(ch_mult=(1,))
    x = jax.random.uniform(jax.random.key(0), (2, 4, 4, 1))
    labels = jnp.asarray([3.0, 700.0])
    params = _noisy(network, x, labels)

    def gradient(network):
        def loss(p):
            output = network.apply({"params": p}, x, labels, train=True, rngs={"dropout": jax.random.key(1)})
            return jnp.mean(jnp.square(output))

        return jax.jit(jax.grad(loss), compiler_options=FAST_COMPILE)(params)

    expected, actual = gradient(network), gradient(network.clone(remat=True))
    scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(expected))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * scale), actual, expected
    )


def test_refuses_unknown_and_impossible_options():
    with pytest.raises(UserError, match=r"activation must be one of 'swish'.*got 'gelu'"):
        DDPM(activation="gelu")
    with pytest.raises(UserError, match="sigmas"):
        DDPM(scale_by_sigma=True)
    with pytest.raises(UserError, match=r"multiples of 8; got 28 x 28.*32 x 32"):
        jax.eval_shape(DDPM().init, jax.random.key(0), jnp.zeros((1, 28, 28, 1)), jnp.zeros((1,)))
    with pytest.raises(UserError, match="multiples of 32"):
        jax.eval_shape(DDPM(nf=48).init, jax.random.key(0), jnp.zeros((1, 8, 8, 1)), jnp.zeros((1,)))


def _noisy(network, x, labels):
    """Parameters none of which is zero, so that every part matters."""
    made = jax.eval_shape(network.init, jax.random.key(0), x, labels)["params"]
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda a: jnp.asarray(0.2 * rng.normal(size=a.shape), jnp.float32), made)
