import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks.published import folders
from networks.weights import FAST_COMPILE, compiled, largest_error

from score_sde.errors import UserError
from score_sde.networks import NCSNpp

# Two levels with everything in them.
SMALL = NCSNpp(
    nf=8,
    ch_mult=(1, 1),
    num_res_blocks=1,
    attn_resolutions=(4,),
    progressive="residual",
    progressive_input="residual",
)
X = np.random.default_rng(0).uniform(size=(2, 8, 8, 3)).astype(np.float32)
SIGMA = np.asarray([0.3, 7.0], np.float32)


@pytest.fixture(scope="module")
def params():
    """Parameters of SMALL, none of which is zero, so that every part matters."""
    made = jax.eval_shape(SMALL.init, jax.random.key(0), jnp.asarray(X), jnp.asarray(SIGMA))[
        "params"
    ]
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda a: jnp.asarray(0.3 * rng.normal(size=a.shape), jnp.float32), made)


@pytest.fixture(scope="module")
def gradient(params):
    return _gradient(SMALL, params)


def _gradient(network, params):
    def loss(p):
        rngs = {"dropout": jax.random.key(1)}
        output = network.apply(
            {"params": p}, jnp.asarray(X), jnp.asarray(SIGMA), train=True, rngs=rngs
        )
        return jnp.mean(jnp.square(output))

    return jax.jit(jax.grad(loss), compiler_options=FAST_COMPILE)(params)


# In single precision they are compared after an import (tests/test_import.py).
@pytest.mark.parametrize("folder", folders("ncsnpp"))
def test_agrees_with_published_network_in_double_precision(folder, x64):
    assert largest_error(folder, np.float64) < 1e-12


def test_every_parameter_has_a_gradient_except_the_frequencies(gradient):
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if name == "fourier/frequencies":
            np.testing.assert_array_equal(leaf, 0)
        elif not name.endswith("key/bias"):  # which cancels in the softmax
            assert float(jnp.abs(leaf).max()) > 1e-6, name


@pytest.mark.parametrize("keep", ["nothing", "products"])
def test_remat_changes_no_gradient(params, gradient, keep):
    scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradient))
    again = _gradient(SMALL.clone(remat=True, remat_keep=keep), params)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * scale), again, gradient
    )


def test_remat_stores_less(params):
    """In entries of what the backward pass is given, for 4 more images."""

    def stored(network, count: int) -> int:
        def backward(p, x, sigma):
            rngs = {"dropout": jax.random.key(1)}
            return jax.vjp(
                lambda p: network.apply({"params": p}, x, sigma, train=True, rngs=rngs), p
            )[1]

        x = jax.ShapeDtypeStruct((count, *X.shape[1:]), jnp.float32)
        sigma = jax.ShapeDtypeStruct((count,), jnp.float32)
        kept = jax.tree.leaves(jax.eval_shape(backward, params, x, sigma))
        return sum(leaf.size for leaf in kept)

    everything, products, nothing = (
        stored(network, 8) - stored(network, 4)
        for network in (
            SMALL,
            SMALL.clone(remat=True, remat_keep="products"),
            SMALL.clone(remat=True),
        )
    )
    assert nothing < 0.8 * products and products < 0.8 * everything


def test_bfloat16_computes_roughly_the_same_with_float32_parameters(params):
    low = SMALL.clone(dtype=jnp.bfloat16)
    made = jax.eval_shape(low.init, jax.random.key(0), jnp.asarray(X), jnp.asarray(SIGMA))
    assert {leaf.dtype for leaf in jax.tree.leaves(made)} == {jnp.dtype(jnp.float32)}
    expected = compiled(SMALL)(params, jnp.asarray(X), jnp.asarray(SIGMA))
    actual = compiled(low)(params, jnp.asarray(X), jnp.asarray(SIGMA))
    assert actual.dtype == jnp.float32
    error = np.abs(actual - expected).max(axis=(1, 2, 3)) / np.abs(expected).max(axis=(1, 2, 3))
    assert 1e-4 < error.max() < 0.1


def test_transposed_kernels_transpose_the_output_of_images_that_are_not_square(params):
    network = SMALL.clone(attn_resolutions=())
    kept = {
        name: value for name, value in params.items() if "attn" not in name or name == "mid_attn"
    }
    turned = jax.tree.map(lambda a: a.swapaxes(0, 1) if a.ndim == 4 else a, kept)
    x = jax.random.uniform(jax.random.key(0), (2, 8, 12, 3))
    wide = compiled(network)(kept, x, jnp.asarray(SIGMA))
    high = compiled(network)(turned, x.swapaxes(1, 2), jnp.asarray(SIGMA))
    assert wide.shape == (2, 8, 12, 3)
    scale = np.abs(wide).max(axis=(1, 2, 3), keepdims=True)
    np.testing.assert_allclose(high.swapaxes(1, 2) / scale, wide / scale, atol=1e-4)


def test_newborn_network_is_almost_zero():
    x, labels = jnp.asarray(X), jnp.ones((2,))
    network = NCSNpp(nf=8, ch_mult=(1,), num_res_blocks=0, attn_resolutions=())
    size = {}
    for init_scale in (0.0, 1.0):
        born = network.clone(init_scale=init_scale)
        make = jax.jit(born.init_with_output, compiler_options=FAST_COMPILE)
        size[init_scale] = float(jnp.abs(make(jax.random.key(0), x, labels)[0]).max())
    assert 0 < size[0.0] < 1e-3
    assert size[1.0] > 0.1


def test_dropout_acts_only_in_training(params):
    network = SMALL.clone(dropout=0.5)
    x, sigma = jnp.asarray(X), jnp.asarray(SIGMA)

    def train(params, key):
        return network.apply({"params": params}, x, sigma, train=True, rngs={"dropout": key})

    trained = functools.partial(jax.jit(train, compiler_options=FAST_COMPILE), params)
    expected = compiled(SMALL)(params, x, sigma)
    np.testing.assert_array_equal(compiled(network)(params, x, sigma), expected)
    first, again, other = (trained(jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert float(jnp.abs(first - other).max()) > 1e-3
    assert float(jnp.abs(first - expected).max()) > 1e-3


def test_unconditional_network_ignores_labels(params):
    network = SMALL.clone(conditional=False)
    x, sigma = jnp.asarray(X), jnp.asarray(SIGMA)
    made = jax.eval_shape(network.init, jax.random.key(0), x, sigma)["params"]
    assert not {"fourier", "time"} & set(made)
    output = compiled(network)(params, x, sigma)
    np.testing.assert_array_equal(compiled(network)(params, x, 2 * sigma), output)


@pytest.mark.parametrize("channels", [1, 5])
@pytest.mark.parametrize(
    ("progressive", "progressive_input"),
    itertools.product(("none", "output_skip", "residual"), ("none", "input_skip", "residual")),
)
def test_options_combine_for_any_number_of_channels(progressive, progressive_input, channels):
    network = NCSNpp(
        nf=8,
        ch_mult=(1, 2),
        num_res_blocks=1,
        attn_resolutions=(),
        progressive=progressive,
        progressive_input=progressive_input,
        progressive_combine="cat" if channels == 1 else "sum",
        resblock_type="ddpm" if channels == 1 else "biggan",
        fir=channels == 1,
        embedding="positional",
    )
    x = jnp.zeros((2, 4, 6, channels))
    output, _ = jax.eval_shape(
        network.init_with_output, jax.random.key(0), x, jnp.zeros((2,), jnp.int32)
    )
    assert output.shape == x.shape


@pytest.mark.parametrize(
    ("field", "known"),
    [
        ("resblock_type", "'biggan', 'ddpm'"),
        ("progressive", "'none', 'output_skip', 'residual'"),
        ("progressive_input", "'none', 'input_skip', 'residual'"),
        ("progressive_combine", "'sum', 'cat'"),
        ("embedding", "'fourier', 'positional'"),
        ("activation", "'swish', 'relu', 'elu', 'lrelu'"),
    ],
)
def test_unknown_options_name_the_known_ones(field, known):
    with pytest.raises(UserError, match=f"{field} must be one of {known}; got 'sam'"):
        NCSNpp(**{field: "sam"})


def test_refuses_impossible_sizes():
    with pytest.raises(UserError, match=r"4 levels .* multiples of 8; got 32 x 30.* 32 x 32"):
        jax.eval_shape(NCSNpp().init, jax.random.key(0), jnp.zeros((1, 32, 30, 3)), jnp.ones((1,)))
    with pytest.raises(UserError, match="multiples of 4"):
        jax.eval_shape(
            NCSNpp(nf=10, ch_mult=(1, 2)).init,
            jax.random.key(0),
            jnp.zeros((1, 8, 8, 3)),
            jnp.ones((1,)),
        )
    with pytest.raises(UserError, match="fir_kernel"):
        NCSNpp(fir_kernel=())


def test_what_is_given_is_added_to_the_embedding():
    """Nothing given is zeros given; each row depends on its own numbers alone."""
    x, sigma = jnp.asarray(X), jnp.asarray(SIGMA)
    given = jnp.asarray(np.random.default_rng(2).normal(size=(2, 5)), jnp.float32)
    made = jax.eval_shape(SMALL.init, jax.random.key(0), x, sigma, given)["params"]
    rng = np.random.default_rng(1)
    kept = jax.tree.map(lambda a: jnp.asarray(0.3 * rng.normal(size=a.shape), jnp.float32), made)
    told = jax.jit(
        lambda given: SMALL.apply({"params": kept}, x, sigma, given),
        compiler_options=FAST_COMPILE,
    )
    untold = compiled(SMALL)(kept, x, sigma)
    np.testing.assert_allclose(told(jnp.zeros_like(given)), untold, rtol=1e-4, atol=1e-5)
    moved = np.abs(told(given.at[0].set(0)) - untold).max(axis=(1, 2, 3))
    assert moved[0] < 1e-4 < 1e-2 < moved[1]
    with pytest.raises(UserError, match=r"NCSNpp: with conditional=False .*set conditional=True"):
        SMALL.clone(conditional=False).init(jax.random.key(0), x, sigma, given)
