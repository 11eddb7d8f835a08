"""Where the published codes keep the parameters of NCSN and NCSNv2, and the way back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from convert.refinenets import Reference, read
from networks.published import folders, relative_error
from networks.weights import published_output

from score_sde.convert import refinenet
from score_sde.convert.table import from_flax, from_torch, to_torch
from score_sde.errors import UserError
from score_sde.networks import NCSN, NCSNv2


def _converted(reference: Reference, key: str) -> dict:
    """The published weights of `key` as parameters of our network."""
    x, labels = jnp.zeros(reference.arrays["x"].shape), jnp.zeros(reference.arrays["labels"].shape)
    like = jax.eval_shape(reference.network.init, jax.random.key(0), x, labels)["params"]
    convert = from_torch if reference.torch else from_flax
    return convert(refinenet.table(reference.network), reference.weights[key], like)


# score_sde_pytorch's NCSNv2 is the ncsnv2 code's; test_import.py has all of them in single
# precision.
SAME = "score_sde_pytorch"
PUBLISHED = folders("ncsn", "ncsnv2")


def _slow(folder):
    return pytest.param(folder, marks=pytest.mark.slow) if SAME in str(folder) else folder


@pytest.mark.parametrize("folder", [_slow(folder) for folder in PUBLISHED])
def test_agrees_with_published_network_in_double_precision(folder, x64):
    reference = read(folder, np.float64)
    for key in reference.weights:
        params = _converted(reference, key)
        output = published_output(reference.network, params, reference.config, reference.arrays)
        assert relative_error(output, reference.arrays[f"{key}_f64"]) < 1e-12


@pytest.mark.parametrize("folder", PUBLISHED)
def test_weights_come_back_exactly_and_in_order(folder):
    reference = read(folder)
    if not reference.torch:
        pytest.skip("a checkpoint of flax: only PyTorch's are written")
    for key, state in reference.weights.items():
        again = to_torch(refinenet.table(reference.network), _converted(reference, key))
        assert list(again) == list(state)
        for name, array in state.items():
            np.testing.assert_array_equal(again[name], array, strict=True, err_msg=name)


def test_weights_of_another_variant_are_refused():
    like = NCSN(nf=4, variant="64")
    shapes = jax.eval_shape(like.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)), jnp.zeros((1,)))[
        "params"
    ]
    table = refinenet.table(like)
    state = to_torch(table, jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes))
    with pytest.raises(UserError, match="not of this network"):
        from_torch(refinenet.table(NCSN(nf=4, variant="128")), state, shapes)
    with pytest.raises(UserError, match="not of this network"):
        from_torch(refinenet.table(NCSNv2(nf=4)), state, shapes)


@pytest.mark.parametrize("variant", ["64", "128", "256"])
@pytest.mark.parametrize("network", [NCSN(nf=4), NCSNv2(nf=4)])
def test_every_name_is_used_once(network, variant):
    table = refinenet.table(network.clone(variant=variant))
    for names in ([e.ours for e in table], [e.flax for e in table], [e.torch for e in table]):
        assert len(set(names)) == len(names)
