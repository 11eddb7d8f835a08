import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks.published import listed
from networks.weights import LayerCase, convert, evaluate, layer_cases

from golden import assert_close, golden
from score_sde.errors import UserError
from score_sde.networks import layers


def _layer(case: LayerCase) -> jax.Array:
    """Build the layer that a case describes and apply it; the published names say which it is."""
    meta = case.meta
    kind = meta["block"].split(".")[-1]
    params = convert(kind, case.params) if case.params else {}
    fir = tuple(meta.get("fir_kernel", (1, 3, 3, 1))) if meta.get("fir") else None
    inputs = list(case.inputs.values())
    module: layers.nn.Module
    if kind.startswith("ResnetBlock"):
        shortcut = "conv3x3" if meta.get("conv_shortcut") else "nin"
        module = layers.ResNetBlock(
            features=meta["out_ch"],
            activation=meta.get("act", "swish"),
            resample="up" if meta.get("up") else "down" if meta.get("down") else "none",
            fir_kernel=fir,
            shortcut="conv1x1" if kind.endswith("BigGANpp") else shortcut,
            skip_rescale=meta.get("skip_rescale", False),
            groups=32 if kind == "ResnetBlockDDPM" else None,
            dtype=jnp.float64,
        )
        inputs = [case.inputs["x"], case.inputs.get("temb")]
    elif kind.startswith("AttnBlock"):
        groups = 32 if kind == "AttnBlock" else None
        rescale = meta.get("skip_rescale", False)
        module = layers.Attention(rescale, groups=groups, dtype=jnp.float64)
    elif kind == "NIN":
        module = layers.nn.Dense(params["kernel"].shape[-1], dtype=jnp.float64)
    elif kind == "Combine":
        module = layers.Combine(meta["method"], jnp.float64)
        inputs = [case.inputs["x"], case.inputs["y"]]
    else:
        features = params["conv"]["bias"].shape[0] if params else None
        sampler = {"Upsample": layers.Upsample, "Downsample": layers.Downsample}[kind]
        module = sampler(features, meta["with_conv"], fir, jnp.float64)
    return module.apply({"params": params}, *inputs)


@pytest.mark.parametrize("file", listed("layers_*/blocks*.npz"))
def test_blocks_agree_with_published_values(file, x64):
    cases = list(layer_cases(golden(f"nets/{file}")))
    results = evaluate(cases, _layer)
    for case in cases:
        assert_close(results[case.name], case.output, 1e-12, case.name)


@pytest.mark.parametrize("file", listed("layers_*/embeddings*.npz"))
def test_embeddings_agree_with_published_values(file, x64):
    for case in layer_cases(golden(f"nets/{file}")):
        for dtype, tolerance in ((jnp.float64, 1e-11), (jnp.float32, 2e-4)):
            if "W" in case.params:
                params = convert("GaussianFourierProjection", case.params)
                module = layers.FourierFeatures(
                    len(params["frequencies"]), case.meta["scale"], dtype
                )
                output = module.apply({"params": params}, case.inputs["x"].astype(dtype))
            else:
                output = layers.positional_embedding(case.inputs["t"], case.meta["dim"], dtype)
            assert output.dtype == dtype
            assert_close(output, case.output, tolerance, f"{case.name} {np.dtype(dtype)}")


def test_group_norm_standardizes_groups_of_channels():
    x = 5 + 3 * jax.random.normal(jax.random.key(0), (2, 4, 6, 12))
    module = layers.GroupNorm()
    params = module.init(jax.random.key(1), x)
    y = np.asarray(module.apply(params, x), np.float64).reshape(2, 24, 3, 4)
    np.testing.assert_allclose(y.mean(axis=(1, 3)), 0, atol=1e-6)
    np.testing.assert_allclose(y.var(axis=(1, 3)), 1, atol=1e-5)
    assert np.abs(y.mean(axis=1)).max() > 1e-3  # single channels of a group are not
    y = module.apply(params, x.astype(jnp.bfloat16))
    assert y.dtype == jnp.bfloat16


def test_group_norm_survives_a_large_mean():
    x = 1e3 + jax.random.normal(jax.random.key(0), (1, 8, 8, 4))
    module = layers.GroupNorm()
    y = np.asarray(module.apply(module.init(jax.random.key(1), x), x), np.float64)
    exact = np.asarray(x, np.float64)
    exact = (exact - exact.mean()) / np.sqrt(exact.var() + 1e-6)
    np.testing.assert_allclose(y, exact, atol=2e-3)


@pytest.mark.parametrize(("channels", "groups"), [(11, None), (136, None), (48, 32)])
def test_group_norm_refuses_widths_that_do_not_divide(channels, groups):
    with pytest.raises(UserError, match=f"cannot divide {channels} channels into .* multiples of"):
        jax.eval_shape(
            layers.GroupNorm(groups).init, jax.random.key(0), jnp.zeros((1, 2, 2, channels))
        )


@pytest.mark.parametrize("channels", [1, 2, 3, 6, 8, 160])
def test_group_norm_takes_small_widths(channels):
    jax.eval_shape(layers.GroupNorm().init, jax.random.key(0), jnp.zeros((1, 2, 2, channels)))


def test_attention_is_a_mean_of_values_for_equal_logits():
    x = jax.random.normal(jax.random.key(0), (2, 3, 5, 8))
    module = layers.Attention(init_scale=1.0)
    params = module.init(jax.random.key(1), x)["params"]
    params["query"] = jax.tree.map(jnp.zeros_like, params["query"])
    values = layers.GroupNorm().apply({"params": params["norm"]}, x) @ params["value"]["kernel"]
    mean = values.mean(axis=(1, 2), keepdims=True) @ params["out"]["kernel"]
    np.testing.assert_allclose(
        module.apply({"params": params}, x), x + jnp.broadcast_to(mean, x.shape), atol=1e-5
    )


@pytest.mark.parametrize(("scale", "variance"), [(1.0, 1.0), (0.1, 0.1), (0.0, 1e-10)])
def test_kernel_init_has_the_variance_of_the_mean_fan(scale, variance):
    kernel = np.asarray(layers.kernel_init(scale)(jax.random.key(0), (3, 3, 40, 80), jnp.float32))
    fan = 9 * (40 + 80) / 2
    assert kernel.var() == pytest.approx(variance / fan, rel=0.02)
    assert np.abs(kernel).max() <= np.sqrt(3 * variance / fan) * 1.0001  # uniform


def test_fourier_frequencies_have_the_scale_and_no_gradient():
    module = layers.FourierFeatures(4000, 16.0)
    v = jnp.asarray([-1.0, 2.0])
    params = module.init(jax.random.key(0), v)["params"]
    assert float(params["frequencies"].std()) == pytest.approx(16.0, rel=0.05)
    gradient = jax.grad(lambda p: jnp.sum(module.apply({"params": p}, v) ** 3))(params)
    np.testing.assert_array_equal(gradient["frequencies"], 0)
    by_value = jax.grad(lambda v: jnp.sum(module.apply({"params": params}, v) ** 3))(v)
    assert np.all(np.asarray(by_value) != 0)


def test_positional_embedding_refuses_fewer_than_four_features():
    with pytest.raises(UserError, match="at least 4 features"):
        layers.positional_embedding(jnp.asarray([1.0]), 3)
