"""The dequantizers' flow: published values, invertibility, log-determinant, total probability."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks.flow_weights import read_flow
from networks.published import listed, one_digit
from networks.weights import FAST_COMPILE, Tree
from scipy.stats import norm

from score_sde.errors import UserError
from score_sde.networks import FlowPP
from score_sde.networks.flowpp import join, mixture_logit, mixture_logit_inverse, split

PUBLISHED = listed("score_flow_jax/*/config.json")
TINY = FlowPP(
    filters=4, components=2, blocks=1, heads=2, couplings=3, context_filters=4, context_layers=1
)


def weights(flow: FlowPP, shape: tuple[int, ...], scale: float = 0.15) -> Tree:
    """Parameters far from the fresh ones, every one of them moved."""
    x = jnp.zeros((1, *shape), jnp.float32)
    params = jax.jit(flow.init, compiler_options=FAST_COMPILE)(jax.random.key(0), x, x)["params"]
    generator = np.random.default_rng(1)
    return jax.tree.map(
        lambda a: a + scale * generator.standard_normal(a.shape).astype(np.float32), params
    )


def data(shape: tuple[int, ...], seed: int = 2) -> tuple[jax.Array, jax.Array]:
    """(noise, images in [0, 1])."""
    generator = np.random.default_rng(seed)
    return jnp.asarray(generator.standard_normal(shape)), jnp.asarray(generator.random(shape))


def compiled(flow: FlowPP, method: str = "__call__"):
    return jax.jit(
        lambda params, x, images: flow.apply({"params": params}, x, images, method=method),
        compiler_options=FAST_COMPILE,
    )


@pytest.mark.parametrize("file", PUBLISHED)
def test_published_values(file: str, x64: None) -> None:
    flow, arrays, params = read_flow(str(Path(file).parent))
    noise = {  # rounding of the published float32 values
        key: max(one_digit(np.abs(arrays[key] - arrays[f"{key}_f64"]).max()), least)
        for key, least in (("u", 5e-7), ("sldj", 1e-4))
    }
    images, eps = (jnp.asarray(arrays[key], jnp.float64) for key in ("x", "eps"))
    made = jax.eval_shape(flow.init, jax.random.key(0), eps, images)["params"]
    call = compiled(flow)
    for suffix, tree in params.items():
        assert jax.tree.map(jnp.shape, made) == jax.tree.map(jnp.shape, tree)
        u, log_q = call(tree, eps, images)
        np.testing.assert_allclose(u, arrays[f"u{suffix}_f64"], rtol=0, atol=1e-12)
        np.testing.assert_allclose(-log_q, arrays[f"sldj{suffix}_f64"], rtol=1e-12)
        single = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), tree)
        u, log_q = call(single, eps.astype(jnp.float32), images.astype(jnp.float32))
        assert u.dtype == log_q.dtype == jnp.float32
        np.testing.assert_allclose(u, arrays[f"u{suffix}_f64"], rtol=0, atol=5 * noise["u"])
        np.testing.assert_allclose(
            -log_q, arrays[f"sldj{suffix}_f64"], rtol=0, atol=5 * noise["sldj"]
        )


@pytest.mark.parametrize("file", PUBLISHED)
def test_published_inverse(file: str, x64: None) -> None:
    """The second value is log q less the normal log-densities of eps and, as if noise, of u."""
    flow, arrays, params = read_flow(str(Path(file).parent))
    images, u = (jnp.asarray(arrays[key], jnp.float64) for key in ("x", "u_f64"))
    eps, log_q = compiled(flow, "inverse")(params[""], u, images)
    np.testing.assert_allclose(eps, arrays["inverse_eps_f64"], rtol=0, atol=1e-10)
    totals = [norm.logpdf(np.asarray(a)).sum(axis=(1, 2, 3)) for a in (eps, u)]
    np.testing.assert_allclose(
        log_q - totals[0] - totals[1], arrays["inverse_sldj_f64"], rtol=1e-11
    )


@pytest.mark.parametrize("shape", [(4, 4, 1), (3, 5, 2), (1, 1, 1), (2, 1, 3)])
def test_log_q_is_the_log_determinant_and_the_inverse_is_exact(
    shape: tuple[int, ...], x64: None
) -> None:
    flow = dataclasses.replace(TINY, couplings=3 if shape[0] % 2 else 2)
    params, (eps, images) = weights(flow, shape), data((1, *shape))
    call = compiled(flow)
    u, log_q = call(params, eps, images)
    assert u.shape == (1, *shape) and ((u > 0) & (u < 1)).all()
    jacobian = jax.jacfwd(lambda e: call(params, e, images)[0])(eps).reshape(eps.size, eps.size)
    expected = norm.logpdf(eps).sum() - np.linalg.slogdet(np.asarray(jacobian))[1]
    np.testing.assert_allclose(log_q[0], expected, rtol=1e-9)
    back, same = compiled(flow, "inverse")(params, u, images)
    np.testing.assert_allclose(back, eps, atol=1e-9)
    np.testing.assert_allclose(same, log_q, atol=1e-8)


def test_density_integrates_to_one(x64: None) -> None:
    """One pixel: the sum of q(u) over a fine grid; a factor or a forgotten sigmoid would show."""
    shape = (1, 1, 1)
    flow = dataclasses.replace(TINY, heads=0)
    u = (jnp.arange(4000.0) + 0.5).reshape(-1, *shape) / 4000
    _, log_q = compiled(flow, "inverse")(weights(flow, shape), u, jnp.full_like(u, 0.3))
    assert jnp.std(log_q) > 0.1
    np.testing.assert_allclose(jnp.mean(jnp.exp(log_q)), 1.0, rtol=1e-5)


def test_values_depend_on_each_other_and_on_the_image(x64: None) -> None:
    """All pixels, through both kinds of halves; and no sample on its neighbours in the batch."""
    shape = (3, 3, 1)
    params, (eps, images) = weights(TINY, shape), data((2, *shape))
    call = compiled(TINY)
    jacobian = jax.jacfwd(lambda e: call(params, e, images)[0])(eps).reshape(2, 9, 2, 9)
    assert (jnp.abs(jacobian[0, :, 1]) == 0).all() and (jnp.abs(jacobian[1, :, 0]) == 0).all()
    assert (jnp.abs(jacobian[0, :, 0]) > 0).mean() > 0.9
    by_image = jax.jacfwd(lambda i: call(params, eps, i)[0])(images).reshape(2, 9, 2, 9)
    assert (jnp.abs(by_image[0, :, 0]) > 0).all() and (by_image[0, :, 1] == 0).all()


def test_fresh_flow_is_nearly_uniform() -> None:
    shape = (6, 6, 1)
    flow = dataclasses.replace(TINY, couplings=4)
    eps, images = (jnp.asarray(a, jnp.float32) for a in data((400, *shape)))
    params = jax.jit(flow.init, compiler_options=FAST_COMPILE)(jax.random.key(5), eps, images)[
        "params"
    ]
    u, log_q = compiled(flow)(params, eps, images)
    quantiles = np.quantile(np.asarray(u), [0.1, 0.3, 0.5, 0.7, 0.9])
    np.testing.assert_allclose(quantiles, [0.1, 0.3, 0.5, 0.7, 0.9], atol=0.03)
    assert (
        0 < log_q.mean() / 36 < 0.03
    )  # nats per dimension; 0.015 by quadrature where the couplings are the identity


def test_columns_are_split_and_joined() -> None:
    x = jnp.arange(2 * 3 * 5.0).reshape(2, 3, 5, 1)
    even, odd = split(x)
    assert even.shape == odd.shape == (2, 3, 3, 1)
    np.testing.assert_array_equal(even[1, 2, :, 0], [25, 27, 29])
    np.testing.assert_array_equal(odd[1, 2, :, 0], [26, 28, 0])
    np.testing.assert_array_equal(join((even, odd), 5), x)


def test_mixture_in_the_far_tails(x64: None) -> None:
    """Finite, increasing and inverted where F itself would round to 0 or 1."""
    x = jnp.linspace(-200.0, 200.0, 9).reshape(1, 1, 9, 1)
    mixture = tuple(
        jnp.broadcast_to(jnp.asarray(values), (1, 1, 9, 1, 2))
        for values in (np.log([0.3, 0.7]), [-1.0, 2.0], [-0.5, 0.3])
    )
    y, log_slope = mixture_logit(x, mixture)
    assert (jnp.diff(y[0, 0, :, 0]) > 0).all()
    slope = jax.vmap(
        jax.grad(
            lambda v: mixture_logit(
                v[None, None, None, None], jax.tree.map(lambda a: a[:, :, :1], mixture)
            )[0].sum()
        )
    )(x.ravel())
    np.testing.assert_allclose(jnp.exp(log_slope.ravel()), slope, rtol=1e-9)
    np.testing.assert_allclose(mixture_logit_inverse(y, mixture), x, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("couplings", 0, "at least 1; got 0"),
        ("heads", 3, "3 heads, width 4"),
        ("context_layers", -1, "0 or positive"),
    ],
)
def test_impossible_sizes(field: str, value: int, message: str) -> None:
    flow = dataclasses.replace(TINY, **{field: value})
    with pytest.raises(UserError, match=message):
        jax.eval_shape(
            flow.init, jax.random.key(0), jnp.zeros((1, 2, 2, 1)), jnp.zeros((1, 2, 2, 1))
        )
