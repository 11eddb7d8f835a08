import dataclasses
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks.published import listed
from networks.weights import FAST_COMPILE, LayerCase, evaluate, layer_cases

from golden import assert_close, golden
from score_sde.convert.table import flatten, nest
from score_sde.networks import layers
from score_sde.networks.refinenet import (
    ChainedPooling,
    CondInstanceNormPlus,
    Fusion,
    InstanceNormPlus,
    Options,
    RefineBlock,
    RefineNet,
    ResidualBlock,
    ResidualConv,
    resized,
)

FLAX = Options(dtype=jnp.float64)
OF_NO_NETWORK = ("VarianceNorm2d", "ConditionalVarianceNorm2d", "UpsampleConv")
TORCH = Options(channel_variance="C-1", resize="corner_aligned", dtype=jnp.float64)
# From published names to ours, applied one after the other.
_FLAX_NAMES = [
    (r"(Conditional)?InstanceNorm2dPlus_(\d)", r"norm_\2"),
    (r"Embed_0/", ""),
    (r"ConvMeanPool_0/Conv_0", "conv_1"),
    (r"ConvMeanPool_1/Conv_0", "shortcut"),
    (r"(Cond)?MSFBlock_0", "fusion"),
    (r"(Cond)?CRPBlock_0", "pooling"),
    (r"Conv_", "conv_"),
]
_TORCH_NAMES = [
    (r"normalize2", "norm_1"),
    (r"normalize1", "norm_0"),
    (r"conv2/conv/|conv2/", "conv_1/"),
    (r"conv1/", "conv_0/"),
    (r"shortcut/conv", "shortcut"),
    (r"embed/kernel", "embedding"),
    (r"adapt_convs/", "adapt_"),
    (r"output_convs", "out"),
    (r"msf", "fusion"),
    (r"crp", "pooling"),
    (r"convs/", "conv_"),
    (r"norms/", "norm_"),
]


def _ours(case: LayerCase, torch: bool) -> dict:
    """The case's parameters under our names."""
    result = {}
    inputs = sum(key.startswith("x") for key in case.inputs)
    for path, array in flatten(case.params):
        for pattern, name in _TORCH_NAMES if torch else _FLAX_NAMES:
            path = re.sub(pattern, name, path)
        path = re.sub(r"^(Cond)?RCUBlock_(\d)", lambda m: _rcu(int(m[2]), inputs), path)
        if "RCU" in case.meta.get("block", "") or path.startswith(("adapt", "out")):
            path = re.sub(
                r"(conv|norm)_(\d)", lambda m: f"{m[1]}_{int(m[2]) // 2}_{int(m[2]) % 2}", path
            )
            path = re.sub(
                r"(\d)_(\d)_(conv|norm)", lambda m: f"{m[3]}_{int(m[1]) - 1}_{int(m[2]) - 1}", path
            )
        if path.endswith("embedding") and torch:
            array = array.T  # read as the weight of a linear map
        if path.endswith(("alpha", "beta", "gamma", "bias")):
            array = array.reshape(-1)
        if path.endswith("kernel") and array.shape[:2] == (1, 1):
            array = array[0, 0]
        result[path] = array
    if not torch and _widens(case):  # its shortcut comes first
        moved = {"conv_0": "shortcut", "conv_1": "conv_0", "conv_2": "conv_1"}
        result = {re.sub(r"^conv_\d", lambda m: moved[m[0]], path): a for path, a in result.items()}
    return nest({path.replace("conv_2/", "shortcut/"): array for path, array in result.items()})


def _widens(case: LayerCase) -> bool:
    """Whether it is a residual block that changes the channels and not the size."""
    if not case.meta.get("block", "").endswith("ResidualBlock") or case.meta["resample"]:
        return False
    return case.meta["out_dim"] != case.inputs["x"].shape[-1]


def _rcu(counter: int, inputs: int) -> str:
    return f"adapt_{counter}" if counter < inputs else "out"


def _layer(case: LayerCase, torch: bool) -> jax.Array:
    """Build the layer that a case describes and apply it."""
    meta, params, options = case.meta, _ours(case, torch), TORCH if torch else FLAX
    levels = case.inputs.get("y")
    options = dataclasses.replace(options, activation=meta.get("act", "elu"))
    if levels is not None:
        rows = [a.shape[0] for path, a in flatten(params) if path.endswith("embedding")]
        options = dataclasses.replace(options, num_classes=rows[0])
        levels = levels.astype(jnp.int32)
    if meta.get("interpolation") == "nearest_neighbor":
        options = dataclasses.replace(options, resize="nearest")
    images = tuple(case.inputs[key] for key in ("x", "x0", "x1") if key in case.inputs)
    kind = meta.get("block") or meta["norm"]
    if kind.endswith(("Pool", "PoolConv")):
        return _resampling_conv(case)
    if "InstanceNorm2d" in kind:
        module, params = _norm(case, params, options)
    elif kind.endswith("RCUBlock"):
        assert meta["n_stages"] == 2
        module = ResidualConv(options, meta["n_blocks"])
    elif kind.endswith("CRPBlock"):
        assert meta["n_stages"] == 2
        module = ChainedPooling(options, "average" if "avg" in meta["pool"] else "max")
    elif kind.endswith("MSFBlock"):
        return Fusion(meta["features"], options).apply({"params": params}, images, levels)
    elif kind.endswith("RefineBlock"):
        module = RefineBlock(meta["features"], options, meta.get("end", False))
        return module.apply({"params": params}, images, levels)
    else:
        assert kind.endswith("ResidualBlock")
        module = ResidualBlock(
            meta["out_dim"], options, meta["resample"] == "down", meta.get("dilation") or 1
        )
    return module.apply({"params": params}, *images, levels)


def _resampling_conv(case: LayerCase) -> jax.Array:
    """Convolutions with resampling: one kind is in residual blocks, the others in no network."""
    x, kind = case.inputs["x"], case.meta["block"]
    leaves = dict(flatten(case.params))
    (kernel,) = (a for path, a in leaves.items() if path.endswith("kernel"))
    (bias,) = (a for path, a in leaves.items() if path.endswith("bias"))
    conv = nn.Conv(kernel.shape[-1], kernel.shape[:2], dtype=jnp.float64)
    conv = conv.bind({"params": {"kernel": kernel, "bias": bias}})
    if kind == "MeanPoolConv":
        return conv(layers.downsample(x, None))
    if case.meta.get("adjust_padding"):
        x = jnp.pad(x, ((0, 0), (1, 0), (1, 0), (0, 0)))
    return layers.downsample(conv(x), None)


def _norm(case: LayerCase, params: dict, options: Options) -> tuple[nn.Module, dict]:
    """Layers that no network uses are special cases of ours: no alpha, or no beta."""
    channels = case.inputs["x"].shape[-1]
    if "embedding" in params:
        if not case.meta.get("bias", True):
            params = {"embedding": jnp.pad(params["embedding"], ((0, 0), (0, channels)))}
        plus = case.meta["norm"].endswith("Plus")
        return CondInstanceNormPlus(options.num_classes, options.channel_variance, plus), params
    if "scale" in params:
        params = {"gamma": params["scale"], "beta": params["bias"], "alpha": jnp.zeros((channels,))}
        params["gamma"] = params["gamma"].reshape(-1)
    return InstanceNormPlus(options.channel_variance), {"beta": jnp.zeros((channels,)), **params}


@pytest.mark.parametrize(
    "file", listed("layers_*/*.npz", lambda name: "norm" in name or "refinenet" in name)
)
def test_layers_agree_with_published_values(file, x64):
    cases = [
        case
        for case in layer_cases(golden(f"nets/{file}"))
        if (case.meta.get("block") or case.meta["norm"]) not in OF_NO_NETWORK
    ]
    results = evaluate(cases, lambda case: _layer(case, torch="torch" in file))
    for case in cases:
        assert_close(results[case.name], case.output, 1e-12, case.name)


def test_instance_norm_plus_keeps_the_means_that_instance_norm_removes():
    rng = np.random.default_rng(0)
    x = jnp.asarray(
        rng.normal(size=(2, 6, 4, 5)) * [1, 2, 3, 4, 5] + [1.0, -4, 0, 2, 6], jnp.float32
    )
    params = {
        "gamma": jnp.full((5,), 3.0),
        "alpha": jnp.full((5,), 0.5),
        "beta": jnp.full((5,), 7.0),
    }
    y = np.asarray(InstanceNormPlus().apply({"params": params}, x), np.float64)
    mean = np.asarray(x, np.float64).mean(axis=(1, 2))
    standard = (mean - mean.mean(1, keepdims=True)) / mean.std(1, keepdims=True)
    np.testing.assert_allclose(y.mean(axis=(1, 2)), 7 + 3 * 0.5 * standard, atol=1e-4)
    np.testing.assert_allclose(y.std(axis=(1, 2)), 3, rtol=1e-4)


def test_conditional_norm_picks_the_row_of_each_image():
    x = jax.random.normal(jax.random.key(0), (3, 4, 4, 2))
    rows = jnp.asarray(np.random.default_rng(1).normal(size=(5, 6)), jnp.float32)
    norm = CondInstanceNormPlus(5)
    y = norm.apply({"params": {"embedding": rows}}, x, jnp.asarray([4, 0, 4]))
    for image, row in enumerate([4, 0, 4]):
        gamma, alpha, beta = rows[row].reshape(3, 2)
        single = {"params": {"gamma": gamma, "alpha": alpha, "beta": beta}}
        expected = InstanceNormPlus().apply(single, x[image : image + 1])
        np.testing.assert_allclose(y[image : image + 1], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("plus", [True, False])
def test_newborn_norms_are_near_one_and_do_not_shift(plus):
    norm = CondInstanceNormPlus(50, plus=plus)
    rows = norm.init(jax.random.key(0), jnp.zeros((1, 2, 2, 6)), jnp.zeros((1,), jnp.int32))
    table = np.asarray(rows["params"]["embedding"])
    assert table.shape == (50, 18 if plus else 12)
    np.testing.assert_array_equal(table[:, -6:], 0)
    assert abs(table[:, :-6].mean() - 1) < 0.01
    assert 0.015 < table[:, :-6].std() < 0.025


def test_resizing_reproduces_linear_images_inside():
    ramp = jnp.arange(4.0)[None, :, None, None] + 10 * jnp.arange(3.0)[None, None, :, None]
    half = resized(ramp, 8, 6, "half_pixel")[0, :, :, 0]
    rows, columns = (np.clip((np.arange(n) + 0.5) / 2 - 0.5, 0, n / 2 - 1) for n in (8, 6))
    np.testing.assert_allclose(half, rows[:, None] + 10 * columns[None, :], atol=1e-5)
    corners = resized(ramp, 8, 6, "corner_aligned")[0, :, :, 0]
    expected = np.linspace(0, 3, 8)[:, None] + 10 * np.linspace(0, 2, 6)[None, :]
    np.testing.assert_allclose(corners, expected, atol=1e-5)
    nearest = resized(ramp, 8, 6, "nearest")
    np.testing.assert_array_equal(nearest, layers.upsample(ramp, None))
    np.testing.assert_array_equal(resized(ramp, 4, 3, "half_pixel"), ramp)


# Two cascades with everything in them, but the halving of images.
TINY = RefineNet(nf=4, cascades=((1, 1), (2, 2)), refined=(2, 1), options=Options())
TINY_CONDITIONAL = TINY.clone(options=Options(num_classes=3))
X = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4, 6, 3)), jnp.float32)
LEVELS = jnp.asarray([0, 1, 2], jnp.int32)


def _params(network):
    """Parameters none of which is zero, so that every part matters."""
    made = jax.eval_shape(network.init, jax.random.key(0), X, LEVELS)["params"]
    assert {leaf.dtype for leaf in jax.tree.leaves(made)} == {jnp.dtype(jnp.float32)}
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda a: jnp.asarray(0.15 * rng.normal(size=a.shape), jnp.float32), made)


def _gradient(network, params):
    def loss(p):
        return jnp.mean(jnp.square(network.apply({"params": p}, X, LEVELS)))

    return jax.jit(jax.grad(loss), compiler_options=FAST_COMPILE)(params)


@pytest.mark.parametrize("network", [TINY, TINY_CONDITIONAL])
def test_every_parameter_has_a_gradient_which_remat_does_not_change(network):
    params = _params(network)
    plain, again = _gradient(network, params), _gradient(network.clone(remat=True), params)
    scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(plain))
    for path, leaf in jax.tree_util.tree_leaves_with_path(plain):
        assert float(jnp.abs(leaf).max()) > 1e-7 * scale, jax.tree_util.keystr(path)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5 * scale), again, plain
    )


def test_newborn_kernels_are_uniform_within_the_root_of_the_inverse_fan_in():
    block = ResidualBlock(64, Options())
    x = jnp.zeros((1, 2, 2, 32))
    made = jax.jit(block.init, compiler_options=FAST_COMPILE)(jax.random.key(0), x, None)["params"]
    for name, fan_in in (("conv_0", 9 * 32), ("conv_1", 9 * 64), ("shortcut", 32)):
        largest = float(jnp.abs(made[name]["kernel"]).max()) * np.sqrt(fan_in)
        assert 0.98 < largest <= 1.0001, name


@pytest.mark.parametrize("network", [TINY, TINY_CONDITIONAL])
def test_bfloat16_computes_roughly_the_same(network):
    params = {"params": _params(network)}
    low = network.clone(options=dataclasses.replace(network.options, dtype=jnp.bfloat16))
    expected, actual = (
        network.apply(params, X, LEVELS),
        low.apply(params, X.astype(jnp.bfloat16), LEVELS),
    )
    assert actual.dtype == jnp.bfloat16
    error = float(jnp.abs(actual.astype(jnp.float32) - expected).max() / jnp.abs(expected).max())
    assert 1e-4 < error < 0.2
