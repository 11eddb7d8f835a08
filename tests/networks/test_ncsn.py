import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks.weights import compiled

from score_sde.errors import UserError
from score_sde.networks import NCSN, NCSNv2
from score_sde.networks.ncsn import variant_for

SMALL = NCSN(nf=4, num_classes=3)
SMALLV2 = NCSNv2(nf=4)
X = jnp.asarray(np.random.default_rng(0).uniform(size=(3, 8, 12, 3)), jnp.float32)
LABELS = jnp.asarray([0, 1, 2], jnp.int32)


@functools.lru_cache
def _params(network):
    """Parameters none of which is zero, so that every part matters."""
    made = jax.eval_shape(network.init, jax.random.key(0), X, LABELS)["params"]
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda a: jnp.asarray(0.15 * rng.normal(size=a.shape), jnp.float32), made)


def _apply(network, params, x=X, labels=LABELS):
    return np.asarray(compiled(network)(params, jnp.asarray(x), jnp.asarray(labels)))


def test_ncsn_depends_on_the_level_of_each_image():
    params = _params(SMALL)
    output = _apply(SMALL, params)
    for labels, same in (([0, 1, 0], [True, True, False]), ([2, 1, 2], [False, True, True])):
        other = _apply(SMALL, params, labels=np.asarray(labels, np.int32))
        changed = np.abs(other - output).max(axis=(1, 2, 3)) / np.abs(output).max(axis=(1, 2, 3))
        assert [bool(c < 1e-5) for c in changed] == same, changed


def test_labels_beyond_the_levels_take_the_nearest():
    params = _params(SMALL)
    outside = _apply(SMALL, params, labels=np.asarray([-2.0, 1.9, 7.0], np.float32))
    np.testing.assert_allclose(outside, _apply(SMALL, params), rtol=1e-4, atol=1e-5)


def test_ncsnv2_does_not_know_the_level():
    params = _params(SMALLV2)
    again = _apply(SMALLV2, params, labels=LABELS[::-1])
    np.testing.assert_array_equal(again, _apply(SMALLV2, params))


@pytest.mark.parametrize("network", [SMALL, SMALLV2])
def test_transposed_kernels_transpose_the_output_of_images_that_are_not_square(network):
    params = _params(network)
    turned = jax.tree.map(lambda a: a.swapaxes(0, 1) if a.ndim == 4 else a, params)
    wide = _apply(network, params)
    high = _apply(network, turned, x=X.swapaxes(1, 2)).swapaxes(1, 2)
    scale = np.abs(wide).max(axis=(1, 2, 3), keepdims=True)
    np.testing.assert_allclose(high / scale, wide / scale, atol=1e-4)


def _count(network, size=32):
    labels = jnp.zeros((1,), jnp.int32)
    made = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, size, size, 3)), labels)[
        "params"
    ]
    return sum(leaf.size for leaf in jax.tree.leaves(made))


def _conv(inside, outside, bias=True):
    return 9 * inside * outside + (outside if bias else 0)


def _by_hand(cascades, refined, norm, refine_norm):
    """Parameters of a network of the tables: norm(c) of each normalization of c channels."""
    total = _conv(3, refined[-1]) + norm(refined[-1]) + _conv(refined[-1], 3)
    c = cascades[0][0]
    for i, (d, dilation) in enumerate(cascades):
        if i == 0:
            total += 2 * (norm(c) + _conv(c, c))
        else:
            total += (
                2 * norm(c)
                + _conv(c, c)
                + _conv(c, d)
                + (c * d + d if dilation == 1 else _conv(c, d))
            )
        total += 2 * (norm(d) + _conv(d, d))
        c = d
    for i, (f, (d, _)) in enumerate(zip(refined, reversed(cascades))):
        inputs = [d] if i == 0 else [d, c]
        total += sum(4 * (refine_norm(e) + _conv(e, e, bias=False)) for e in inputs)
        if i > 0:
            total += sum(refine_norm(e) + _conv(e, f) for e in inputs)
        last = 6 if i == len(refined) - 1 else 2
        total += (2 + last) * (refine_norm(f) + _conv(f, f, bias=False))
        c = f
    return total


# As tables B.7 and B.8 print them, with one more cascade in "256" as in the published codes.
SHALLOW = [(128, 1), (256, 1), (256, 2), (256, 4)]
DEEP = [(128, 1), (256, 1), (256, 1), (512, 2), (512, 4)]
DEEPEST = [(128, 1), (256, 1), (256, 1), (256, 1), (512, 2), (512, 4)]


@pytest.mark.parametrize(
    ("variant", "cascades", "refined"),
    [
        ("64", SHALLOW, [256, 256, 128, 128]),
        ("128", DEEP, [512, 256, 256, 128, 128]),
        ("256", DEEPEST, [512, 256, 256, 256, 128, 128]),
    ],
)
def test_published_networks_have_the_parameters_of_the_tables(variant, cascades, refined):
    unconditional = _by_hand(cascades, refined, lambda c: 3 * c, lambda c: 0)
    assert _count(NCSNv2(variant=variant)) == unconditional
    conditional = _by_hand(cascades, refined, lambda c: 30 * c, lambda c: 30 * c)
    assert _count(NCSN(variant=variant)) == conditional


def test_last_refine_block_narrows_where_asked():
    third, last = NCSNv2(nf=8), NCSNv2(nf=8, narrowed="last")
    shapes = {}
    for name, network in {"third": third, "last": last}.items():
        made = jax.eval_shape(network.init, jax.random.key(0), X, LABELS)["params"]["refinenet"]
        shapes[name] = [
            made[f"refine_{i}"]["fusion"]["conv_0"]["kernel"].shape[-1] for i in (1, 2, 3)
        ]
    assert shapes == {"third": [16, 8, 8], "last": [16, 16, 8]}


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("variant", ["64", "128", "256"])
@pytest.mark.parametrize("resize", ["half_pixel", "corner_aligned", "nearest"])
def test_options_combine_for_any_number_of_channels(variant, resize, channels):
    for network in (NCSN(nf=4, variant=variant), NCSNv2(nf=4, variant=variant)):
        x = jnp.zeros((2, 8, 24, channels))
        network = network.clone(resize=resize)
        output, _ = jax.eval_shape(
            network.init_with_output, jax.random.key(0), x, jnp.zeros((2,), jnp.int32)
        )
        assert output.shape == x.shape


@pytest.mark.parametrize("network", [NCSN, NCSNv2])
@pytest.mark.parametrize(
    ("field", "known"),
    [
        ("variant", "'64', '128', '256'"),
        ("activation", "'swish', 'relu', 'elu', 'lrelu'"),
        ("resize", "'half_pixel', 'corner_aligned', 'nearest'"),
        ("channel_variance", "'C', 'C-1'"),
        ("narrowed", "'third', 'last'"),
    ],
)
def test_unknown_options_name_the_known_ones(network, field, known):
    with pytest.raises(
        UserError, match=f"{network.__name__}: {field} must be one of {known}; got 'sam'"
    ):
        network(**{field: "sam"})


@pytest.mark.parametrize(
    ("variant", "multiple", "up"), [("64", 2, 30), ("128", 4, 32), ("256", 8, 32)]
)
def test_refuses_images_that_cannot_be_halved(variant, multiple, up):
    network, labels = NCSN(nf=4, variant=variant), jnp.zeros((1,), jnp.int32)
    with pytest.raises(UserError, match=rf"multiples of {multiple}; got 28 x 29.* x {up}"):
        jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 28, 29, 1)), labels)


@pytest.mark.parametrize(
    ("height", "width", "variant"),
    [
        (8, 8, "64"),
        (64, 64, "64"),
        (64, 65, "128"),
        (128, 96, "128"),
        (129, 8, "256"),
        (512, 512, "256"),
    ],
)
def test_variant_for_a_size(height, width, variant):
    assert variant_for(height, width) == variant
