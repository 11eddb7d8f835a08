"""Names and order of parameters: those of the published files, and of networks without a file."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks.published import arrays_of, checkpoint, config_of, folders
from networks.weights import network_from_config

from score_sde.convert import read_file, unet
from score_sde.convert.published import recognize
from score_sde.convert.table import flatten, to_torch
from score_sde.errors import UserError
from score_sde.networks import DDPM, NCSNpp

SMALL = NCSNpp(nf=8, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=(4,))


def shapes(network, height=8, channels=3):
    x, labels = jnp.zeros((1, height, height, channels)), jnp.ones((1,))
    return jax.eval_shape(network.init, jax.random.key(0), x, labels)["params"]


@pytest.mark.parametrize("folder", folders("ncsnpp", "ddpm", code="score_sde_pytorch"))
def test_pytorch_weights_come_back_bit_for_bit_and_in_order(folder):
    path, images = checkpoint(folder), arrays_of(folder)["x"]
    network, (_, height, _, channels) = network_from_config(config_of(folder)), images.shape
    container, tree = read_file(path)
    published, table = recognize(container, tree, path), unet.table(network, height)
    assert (published.code, published.step) == ("score_sde_pytorch", tree["step"])
    like = shapes(network, height, channels)
    for ours, theirs in zip(published.convert(table, like), (published.params, published.ema)):
        back = to_torch(table, ours)
        assert list(back) == list(theirs)
        for key, array in theirs.items():
            np.testing.assert_array_equal(back[key], array, strict=True)
    raw, ema = (dict(flatten(tree)) for tree in published.convert(table, like))
    differ = {path for path in raw if (raw[path] != ema[path]).any()}
    assert differ == raw.keys() - {"fourier/frequencies"}


@pytest.mark.parametrize(
    ("case", "progressive", "progressive_input"),
    [
        (i, *pair)
        for i, pair in enumerate(
            itertools.product(
                ("none", "output_skip", "residual"), ("none", "input_skip", "residual")
            )
        )
    ],
)
def test_every_parameter_has_one_place(case, progressive, progressive_input):
    resblock_type, fir = ("biggan", "ddpm")[case % 2], case % 4 < 2
    embedding = ("fourier", "positional")[case % 3 % 2]
    network = SMALL.clone(
        progressive=progressive,
        progressive_input=progressive_input,
        resblock_type=resblock_type,
        fir=fir,
        embedding=embedding,
    )
    table = unet.table(network, 8)
    assert sorted(entry.ours for entry in table) == sorted(
        path for path, _ in flatten(shapes(network))
    )
    for names in ([entry.flax for entry in table], [entry.torch for entry in table]):
        assert len(set(names)) == len(names)
    assert not unet.unused(network, 8)


@pytest.mark.parametrize(
    "network", [SMALL, DDPM(nf=32, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=(4,))]
)
def test_networks_without_labels_leave_out_what_pytorch_never_uses(network):
    network = network.clone(conditional=False)
    table, unused = unet.table(network, 8), unet.unused(network, 8)
    assert sorted(entry.ours for entry in table) == sorted(
        path for path, _ in flatten(shapes(network))
    )
    blocks = {entry.torch.rpartition(".")[0] for entry in table if "norm_0" in entry.ours}
    fourier = {"all_modules.0.W"} if isinstance(network, NCSNpp) else set()
    weights = {
        f"{block.removesuffix('GroupNorm_0')}Dense_0.{leaf}"
        for block in blocks
        for leaf in ("weight", "bias")
    }
    assert {entry.torch for entry in unused} == weights | fourier
    assert not {entry.torch for entry in table} & {entry.torch for entry in unused}
    made = dict(flatten(shapes(network.clone(conditional=True))))
    for entry, shape in unused.items():
        assert made[entry.ours].shape == (shape[::-1] if len(shape) == 2 else shape)


def test_weights_of_another_network_are_refused():
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda a: rng.normal(size=a.shape).astype(np.float32), shapes(SMALL))
    state = to_torch(unet.table(SMALL, 8), params)
    published = recognize("zip", state)
    assert (published.code, published.averaged) == ("weights", False)
    other = SMALL.clone(num_res_blocks=2)
    with pytest.raises(UserError, match=r"the weights are not of this network: .* is missing"):
        published.convert(unet.table(other, 8), shapes(other))
    with pytest.raises(UserError, match=r"has shape \(3, 3, 3, 8\), the network \(3, 3, 1, 8\)"):
        published.convert(unet.table(SMALL, 8), shapes(SMALL, channels=1))
    state["all_modules.3.bias"] = state["all_modules.3.bias"] * np.nan
    with pytest.raises(
        UserError, match=r"1 of the weights are not finite numbers, the first all_modules\.3\.bias"
    ):
        recognize("zip", state).convert(unet.table(SMALL, 8), shapes(SMALL))
