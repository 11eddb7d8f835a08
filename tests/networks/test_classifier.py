import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from networks.weights import FAST_COMPILE, compiled

from score_sde.errors import UserError
from score_sde.networks import WideResNet

SMALL = WideResNet(num_classes=3, depth=10, widen=1, nf=4, fourier_scale=1.0)
X = jnp.asarray(np.random.default_rng(0).uniform(size=(3, 8, 12, 3)), jnp.float32)
SIGMA = jnp.asarray([0.1, 1.0, 10.0], jnp.float32)


def _params(network):
    """Parameters none of which is zero, so that every part matters."""
    made = jax.eval_shape(network.init, jax.random.key(0), X, SIGMA)["params"]
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda a: jnp.asarray(0.3 * rng.normal(size=a.shape), jnp.float32), made)


@pytest.fixture(scope="module")
def params():
    return _params(SMALL)


def test_published_network_has_36_5_million_parameters_and_the_embedding():
    made = jax.eval_shape(
        WideResNet().init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)), jnp.ones((1,))
    )
    widths = [160] * 4 + [320] * 4 + [640] * 4
    backbone = 9 * 3 * 16 + 2 * 640 + 641 * 10
    for c, d in zip([16, *widths], widths):
        backbone += 2 * c + 9 * c * d + 2 * d + 9 * d * d + (c * d if c != d else 0)
    assert backbone == 36_479_194
    embedding = 128 + (256 + 1) * 512 + (512 + 1) * 512 + sum(513 * width for width in widths)
    assert sum(leaf.size for leaf in jax.tree.leaves(made)) == backbone + embedding == 39_171_802


def test_logits_depend_on_sigma_and_on_no_other_image(params):
    logits = compiled(SMALL)(params, X, SIGMA)
    assert logits.shape == (3, 3)
    assert logits.dtype == jnp.float32
    other = compiled(SMALL)(params, X.at[1].set(0.3), SIGMA.at[2].mul(3))
    changed = np.abs(other - logits).max(axis=1) / np.abs(logits).max(axis=1)
    assert changed[0] < 1e-5
    assert min(changed[1:]) > 1e-3


def test_sigma_enters_by_its_logarithm(params):
    """With frequency 1 for all, sigma and e sigma are one phase apart."""
    params = {**params, "fourier": {"frequencies": jnp.ones((4,))}}
    logits, turned = (
        compiled(SMALL)(params, X, SIGMA * factor) for factor in (1, np.float32(np.e))
    )
    np.testing.assert_allclose(turned, logits, rtol=1e-3, atol=1e-3 * float(jnp.abs(logits).max()))
    half = compiled(SMALL)(params, X, SIGMA * np.float32(np.sqrt(np.e)))
    assert float(jnp.abs(half - logits).max()) > 1e-2 * float(jnp.abs(logits).max())


def test_dropout_acts_only_in_training(params):
    network = SMALL.clone(dropout=0.5)

    @functools.partial(jax.jit, compiler_options=FAST_COMPILE)
    def train(key):
        return network.apply({"params": params}, X, SIGMA, train=True, rngs={"dropout": key})

    expected = compiled(SMALL)(params, X, SIGMA)
    np.testing.assert_array_equal(compiled(network)(params, X, SIGMA), expected)
    first, again, other = (train(jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert float(jnp.abs(first - other).max()) > 1e-3
    assert float(jnp.abs(first - expected).max()) > 1e-3


def test_branch_and_shortcut_of_the_first_block_start_behind_its_norm():
    network = SMALL.clone(widen=2)  # so that the first block changes the number of channels
    params = _params(network)
    louder = {**params, "conv_in": jax.tree.map(lambda kernel: 10 * kernel, params["conv_in"])}
    logits = compiled(network)(params, X, SIGMA)
    size = float(jnp.abs(logits).max())
    np.testing.assert_allclose(compiled(network)(louder, X, SIGMA), logits, atol=1e-3 * size)


def test_newborn_convolutions_keep_the_variance_of_gradients():
    made = jax.jit(SMALL.init, compiler_options=FAST_COMPILE)(jax.random.key(0), X, SIGMA)["params"]
    kernel = made["group_2_block_0"]["conv_1"]["kernel"]
    assert kernel.shape == (3, 3, 64, 64)
    assert 0.95 < float(kernel.std()) / np.sqrt(2 / (9 * 64)) < 1.05


def test_groups_halve_images_of_any_size_twice():
    made = functools.partial(
        jax.eval_shape, functools.partial(SMALL.init_with_output, capture_intermediates=True)
    )
    for height, width, size in ((28, 28, (7, 7)), (9, 8, (3, 2))):
        _, variables = made(jax.random.key(0), jnp.zeros((2, height, width, 1)), jnp.ones((2,)))
        (last,) = variables["intermediates"]["group_2_block_0"]["__call__"]
        assert last.shape == (2, *size, 64)


def test_learns_to_tell_stripes_from_noisy_images():
    """Horizontal or vertical stripes, with noise of sigma 0.1 to 1."""
    stripes = jnp.asarray(np.indices((8, 8)) % 2, jnp.float32)[..., None]

    def batch(key):
        label_key, sigma_key, noise_key = jax.random.split(key, 3)
        label = jax.random.randint(label_key, (32,), 0, 2)
        sigma = 10 ** jax.random.uniform(sigma_key, (32,), minval=-1.0, maxval=0.0)
        noise = jax.random.normal(noise_key, (32, 8, 8, 1))
        return stripes[label] + sigma[:, None, None, None] * noise, sigma, label

    network, optimizer = SMALL.clone(num_classes=2), optax.adam(3e-3)

    @functools.partial(jax.jit, compiler_options=FAST_COMPILE)
    def step(params, state, key):
        x, sigma, label = batch(key)

        def loss(p):
            logits = network.apply({"params": p}, x, sigma)
            right = (logits.argmax(axis=-1) == label).mean()
            return optax.softmax_cross_entropy_with_integer_labels(logits, label).mean(), right

        gradient, right = jax.grad(loss, has_aux=True)(params)
        with jax.numpy_dtype_promotion("standard"):  # Adam counts its steps in integers
            update, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, update), state, right

    x, sigma, _ = batch(jax.random.key(0))
    params = jax.jit(network.init, compiler_options=FAST_COMPILE)(jax.random.key(1), x, sigma)[
        "params"
    ]
    state, right = optimizer.init(params), []
    for i in range(40):
        params, state, share = step(params, state, jax.random.key(i))
        right.append(float(share))
    assert np.mean(right[-10:]) > 0.9


@pytest.mark.parametrize("depth", [4, 27])
def test_refuses_impossible_depths(depth):
    with pytest.raises(UserError, match=f"6 n \\+ 4.*got {depth}"):
        WideResNet(depth=depth)


def test_refuses_unknown_activations():
    with pytest.raises(UserError, match="activation must be one of"):
        WideResNet(activation="sam")
