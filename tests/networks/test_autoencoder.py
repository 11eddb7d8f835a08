import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks.weights import FAST_COMPILE, compiled

from score_sde.errors import UserError
from score_sde.networks import ResNetAutoencoder

SMALL = ResNetAutoencoder(nf=4)
LABELS = jnp.zeros((1,))
# Furthest pixel that an output depends on, at most: 3 x 3 convolutions in images of full, half and
# quarter size (down: 1 + 2 + 2 and 2 + 2; between: 2 + 2 and 2; up: 2 + 2 and 2 + 2 + 1; a pixel is
# 1, 2, 4), and 3 within blocks of 4.
REACH = 5 + 2 * 4 + 4 * 4 + 2 * 4 + 5 + 3


@functools.lru_cache
def _params():
    """Parameters none of which is zero, so that every part matters."""
    made = jax.eval_shape(SMALL.init, jax.random.key(0), jnp.zeros((1, 8, 8, 1)), LABELS)["params"]
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda a: jnp.asarray(0.3 * rng.normal(size=a.shape), jnp.float32), made)


def _apply(x, network=SMALL):
    return np.asarray(compiled(network)(_params(), jnp.asarray(x), LABELS))


def _strip():
    return np.random.default_rng(0).uniform(size=(1, 4, 160, 1)).astype(np.float32)


def test_blocks_have_the_published_channels_and_sizes():
    network = ResNetAutoencoder()
    x = jnp.zeros((1, 32, 32, 3))
    init = functools.partial(network.init_with_output, capture_intermediates=True)
    output, variables = jax.eval_shape(init, jax.random.key(0), x, LABELS)
    shapes = {
        name: out["__call__"][0].shape[1:]
        for name, out in variables["intermediates"].items()
        if "oder" in name
    }
    encoder = [(32, 32, 32), (16, 16, 64), (16, 16, 64), (8, 8, 128), (8, 8, 128)]
    assert [shapes[f"encoder_{i}"] for i in range(5)] == encoder
    decoder = [(8, 8, 128), (16, 16, 64), (16, 16, 64), (32, 32, 32), (32, 32, 32)]
    assert [shapes[f"decoder_{i}"] for i in range(5)] == decoder
    assert output.shape == x.shape
    count = 9 * 3 * 32 + 32 + 9 * 32 * 3 + 3
    for c, d in [(32, 32), (32, 64), (64, 64), (64, 128), (128, 128)]:
        for a, b in ((c, d), (d, c)):
            count += 9 * a * b + b + 9 * b * b + b + (a * b + b if a != b else 0)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == count


def test_an_output_depends_on_pixels_within_reach_only():
    x = _strip()
    other = x.copy()
    other[:, :, 76:80] += 1
    changed = np.abs(_apply(other) - _apply(x)).max(axis=(0, 1, 3)) > 0
    assert not changed[: 76 - REACH].any()
    assert not changed[80 + REACH :].any()
    assert changed[76 - REACH // 2 : 80 + REACH // 2].all()


def test_follows_translations_by_four_pixels_away_from_the_edge():
    x = _strip()
    output, inside = _apply(x), slice(REACH + 4, 160 - REACH)
    scale = np.abs(output).max()
    for shift, same in ((4, True), (2, False)):
        moved = np.roll(_apply(np.roll(x, shift, axis=2)), -shift, axis=2)
        difference = np.abs(moved - output)[:, :, inside].max() / scale
        assert (difference < 1e-4) == same, (shift, difference)


def test_newborn_blocks_change_nothing():
    init = functools.partial(SMALL.init_with_output, capture_intermediates=True)
    make = jax.jit(init, compiler_options=FAST_COMPILE)
    _, variables = make(jax.random.key(0), jnp.asarray(_strip()[:, :, :8]), LABELS)
    outputs = {
        name: output["__call__"][0]
        for name, output in variables["intermediates"].items()
        if name != "__call__"
    }
    for block, before in (
        ("encoder_0", "conv_in"),
        ("encoder_4", "encoder_3"),
        ("decoder_4", "decoder_3"),
    ):
        np.testing.assert_allclose(outputs[block], outputs[before], atol=1e-4)
        assert float(jnp.abs(outputs[block]).max()) > 0.01


def test_refuses_images_that_cannot_be_halved_twice():
    with pytest.raises(
        UserError, match=r"halves images 2 times.*multiples of 4; got 30 x 32.*32 x 32"
    ):
        jax.eval_shape(SMALL.init, jax.random.key(0), jnp.zeros((1, 30, 32, 1)), LABELS)
    with pytest.raises(UserError, match="activation must be one of"):
        ResNetAutoencoder(activation="sam")
