"""Maps of samples: products, diagonals and matrices agree in each form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mathcases import mixture_2d, mixture_16d

from golden import assert_close
from score_sde.arrays import sample_keys
from score_sde.curvature import (
    CurvatureParameterization,
    Dense,
    LowRank,
    Product,
    estimate_diagonal,
    jacobian_of,
)
from score_sde.sde import VE, VP

RNG = np.random.default_rng(0)
FACTOR, DIAGONAL = RNG.normal(size=(3, 2, 2, 1, 3)), RNG.normal(size=(3, 2, 2, 1))
MATRIX = np.einsum("bir,bjr->bij", *[FACTOR.reshape(3, 4, 3)] * 2)
MATRIX = MATRIX + np.einsum("bi,ij->bij", DIAGONAL.reshape(3, 4), np.eye(4))


def forms():
    matrix = jnp.asarray(MATRIX)

    def product(v):
        return jnp.einsum("bij,bj->bi", matrix, v.reshape(3, 4)).reshape(v.shape)

    return {
        "lowrank": LowRank(jnp.asarray(DIAGONAL), jnp.asarray(FACTOR)),
        "dense": Dense(matrix.reshape(3, 2, 2, 1, 2, 2, 1)),
        "product": Product(product, jnp.asarray(DIAGONAL)),
    }


@pytest.mark.parametrize("form", ["lowrank", "dense", "product"])
def test_all_views_of_a_map_agree(form, x64):
    operator, v = forms()[form], RNG.normal(size=(3, 2, 2, 1))
    assert operator.event == (2, 2, 1) and operator.like.shape == v.shape
    scale, shift = np.asarray([0.5, 2.0, 0.0]), np.asarray([1.0, -3.0, 0.2])
    moved = operator.affine(jnp.asarray(scale), jnp.asarray(shift))
    expected = scale[:, None, None] * MATRIX + shift[:, None, None] * np.eye(4)
    for map_, matrix in ((operator, MATRIX), (moved, expected)):
        assert_close(map_.dense(), matrix, 1e-12)
        assert_close(map_.diagonal.reshape(3, 4), np.einsum("bii->bi", matrix), 1e-12)
        image = np.einsum("bij,bj->bi", matrix, v.reshape(3, 4))
        assert_close(map_.product(jnp.asarray(v)).reshape(3, 4), image, 1e-12)


def test_without_a_factor_it_is_diagonal(x64):
    operator = LowRank(jnp.asarray(DIAGONAL))
    assert_close(operator.diagonal, DIAGONAL, 1e-15)
    assert_close(operator.product(operator.like), DIAGONAL**2, 1e-15)
    assert operator.columns().shape == (3, 4, 0)


@pytest.mark.parametrize("data", [mixture_2d(), mixture_16d()], ids=["2d", "16d"])
@pytest.mark.parametrize("process", [VE(0.02, 8.0), VP()], ids=["ve", "vp"])
def test_hessian_is_the_derivative_of_the_score(data, process, x64):
    x = jax.random.normal(jax.random.key(0), (3, *data.event))
    t = jnp.asarray([0.05, 0.3, 0.9]) * process.t_max
    exact = data.hessian_fn(process)(x, t)
    by_passes = jacobian_of(data.score_fn(process), x, t)
    assert_close(exact.dense(), by_passes.dense(), 1e-9)
    v = jax.random.normal(jax.random.key(1), x.shape)
    assert_close(exact.product(v), jacobian_of(data.score_fn(process), x, t, True).product(v), 1e-9)


def test_symmetrized_derivative(x64):
    matrix = jnp.asarray(RNG.normal(size=(4, 4)))
    x = jnp.asarray(RNG.normal(size=(2, 4)))
    ours = jacobian_of(lambda x, t: x @ matrix.T, x, jnp.asarray(0.0), symmetrize=True)
    assert_close(ours.dense()[0], 0.5 * (matrix + matrix.T), 1e-12)
    plain = jacobian_of(lambda x, t: x @ matrix.T, x, jnp.asarray(0.0))
    assert_close(plain.dense()[1], matrix, 1e-12)


def test_estimated_diagonal_is_unbiased(x64):
    operator, probes = forms()["lowrank"], 4000
    estimate = estimate_diagonal(sample_keys(jax.random.key(0), jnp.arange(3)), operator, probes)
    off = MATRIX - np.einsum("bii->bi", MATRIX)[:, :, None] * np.eye(4)
    error = (estimate.reshape(3, 4) - np.einsum("bii->bi", MATRIX)) * probes**0.5
    assert np.abs(error / np.sqrt(np.sum(off**2, axis=2))).max() < 5
    exact = estimate_diagonal(jax.random.key(0), LowRank(jnp.asarray(DIAGONAL)), 1)
    assert_close(exact, DIAGONAL, 1e-15)


# The parameterizations


def network(outputs):
    """A network that returns given numbers for each sample."""
    return lambda x, labels: jnp.broadcast_to(
        outputs.astype(x.dtype)[None], (len(x), *outputs.shape)
    )


@pytest.mark.parametrize("form", ["covariance", "plain"])
def test_parameterizations_by_hand(form, x64):
    process, t = VP(), 0.3
    alpha, sigma = (float(v) for v in process.marginal(jnp.asarray(t)))
    outputs, x = RNG.normal(size=(2, 1, 6)), jnp.zeros((1, 2, 1, 2))
    made = CurvatureParameterization(process, 2, lambda t: t, form=form, sigma_data=0.7)
    model = network(jnp.asarray(outputs))
    s2 = made.curvature_fn(model)(x, jnp.asarray(t)).dense()[0]
    covariance = made.covariance_fn(model)(x, jnp.asarray(t)).dense()[0]
    a, b = outputs[..., :2].ravel(), outputs[..., 2:].reshape(4, 2)
    if form == "plain":
        assert_close(s2, (np.diag(a) + b @ b.T) / sigma**2, 1e-12)
    else:
        nu = sigma / alpha
        level = 1 / (nu**-2 + 0.7**-2)
        assert_close(covariance, level * (np.diag(np.log1p(np.exp(a))) + b @ b.T), 1e-12)
    expected = (sigma / alpha) ** 2 * (np.eye(4) + sigma**2 * np.asarray(s2))
    assert_close(covariance, expected, 1e-12)


def test_covariance_is_positive_whatever_the_network_says():
    """In single precision, at noise where I + sigma^2 s2 would cancel."""
    process = VE(0.01, 50.0)
    made = CurvatureParameterization(process, 2, lambda t: t)
    x, t = jnp.zeros((1, 2, 1, 2)), jnp.asarray(1.0)
    for scale in (1.0, 10.0):
        model = network(jnp.asarray(scale * RNG.normal(size=(2, 1, 6)), jnp.float32))
        values = jnp.linalg.eigvalsh(made.covariance_fn(model)(x, t).dense().astype(jnp.float32))
        assert jnp.min(made.covariance_fn(model)(x, t).diagonal_part) > 0
        assert jnp.min(values) > -1e-6 * jnp.max(values)


def test_what_is_refused():
    with pytest.raises(ValueError, match="form"):
        CurvatureParameterization(VP(), 2, lambda t: t, form="other")
    with pytest.raises(ValueError, match="rank"):
        CurvatureParameterization(VP(), -1, lambda t: t)
    made = CurvatureParameterization(VP(), 3, lambda t: t)
    with pytest.raises(ValueError, match="1 \\+ rank"):
        made.curvature_fn(network(jnp.zeros((2, 1, 6))))(jnp.zeros((1, 2, 1, 2)), jnp.asarray(0.3))
    with pytest.raises(ValueError, match="low rank"):
        LowRank(jnp.zeros((1, 1025))).dense()
    with pytest.raises(ValueError, match="probes"):
        estimate_diagonal(jax.random.key(0), LowRank(jnp.zeros((1, 2))), 0)
