"""Where the published codes keep the parameters of NCSN and NCSNv2: values in double precision, and the way back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from convert.refinenets import PUBLISHED, Reference, read
from networks.weights import compiled

from golden import golden
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


def _largest_error(reference: Reference, dtype) -> float:
    """Largest deviation from the reference in double precision, relative to each sample's size."""
    errors = []
    for key in reference.weights:
        params = jax.tree.map(lambda a: jnp.asarray(a, dtype), _converted(reference, key))
        x, labels = jnp.asarray(reference.arrays["x"], dtype), reference.arrays["labels"].astype(np.int32)
        output = compiled(reference.network)(params, x, jnp.asarray(labels))
        assert output.dtype == dtype
        expected = reference.arrays[f"{key}_f64"]
        size = np.abs(expected).max(axis=(1, 2, 3))
        errors.append(np.abs(np.asarray(output, np.float64) - expected).max(axis=(1, 2, 3)) / size)
    return float(np.max(errors))


# score_sde_pytorch's NCSNv2 is the ncsnv2 code's; test_import.py has all of them in single precision.
SAME = "score_sde_pytorch"


@pytest.mark.parametrize(
    "folder", [pytest.param(f, marks=pytest.mark.slow if SAME in f else ()) for f in PUBLISHED]
)
def test_agrees_with_published_network_in_double_precision(folder, x64):
    assert _largest_error(read(golden(f"nets/{folder}"), np.float64), np.float64) < 1e-12


@pytest.mark.parametrize("folder", [folder for folder in PUBLISHED if "jax" not in folder])
def test_pytorch_weights_come_back_exactly_and_in_order(folder):
    reference = read(golden(f"nets/{folder}"))
    for key, state in reference.weights.items():
        again = to_torch(refinenet.table(reference.network), _converted(reference, key))
        assert list(again) == list(state)
        for name, array in state.items():
            np.testing.assert_array_equal(again[name], array, strict=True, err_msg=name)


def test_weights_of_another_variant_are_refused():
    like = NCSN(nf=4, variant="64")
    shapes = jax.eval_shape(like.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)), jnp.zeros((1,)))["params"]
    table = refinenet.table(like)
    state = to_torch(table, jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes))
    with pytest.raises(UserError, match="not of this network"):
        from_torch(refinenet.table(NCSN(nf=4, variant="128")), state, shapes)
    with pytest.raises(UserError, match="not of this network"):
        from_torch(refinenet.table(NCSNv2(nf=4, sigmas=(1.0,))), state, shapes)


@pytest.mark.parametrize("variant", ["64", "128", "256"])
@pytest.mark.parametrize("network", [NCSN(nf=4), NCSNv2(nf=4, sigmas=(1.0,))])
def test_every_name_is_used_once(network, variant):
    table = refinenet.table(network.clone(variant=variant))
    for names in ([e.ours for e in table], [e.flax for e in table], [e.torch for e in table]):
        assert len(set(names)) == len(names)
