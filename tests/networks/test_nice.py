"""NICE: inverse, likelihood against the determinant, layers for the baselines."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from golden import assert_close
from score_sde.networks.curvature import curvature_propagation, evaluate
from score_sde.networks.nice import NICE, to_logits


@pytest.mark.parametrize("prior", ["logistic", "normal"])
def test_likelihood_and_inverse(prior, x64):
    """log p is the prior at h with the determinant of dh/dx, and decode inverts encode."""
    model = NICE.create(jax.random.key(0), 5, hidden=6, depth=3)
    model = model.replace(prior=prior, log_scale=jnp.linspace(-0.5, 0.8, 5))
    model = jax.tree.map(lambda a: 2 * a.astype(float), model)
    x = jax.random.normal(jax.random.key(1), (4, 5), float)

    @jax.jit
    def run(x):
        def one(x):
            return model.encode(x[None])[0]

        gradient, _ = curvature_propagation(jax.random.key(2), model.layers(), x[0])
        return (
            model.encode(x),
            model.decode(model.encode(x)),
            jax.vmap(lambda x: jnp.linalg.slogdet(jax.jacobian(one)(x))[1])(x),
            model.log_prob(x),
            gradient,
            jax.grad(lambda x: evaluate(model.layers(), x)[0])(x[0]),
            jax.grad(lambda x: model.log_prob(x[None])[0])(x[0]),
        )

    h, back, log_det, log_prob, first, second, third = (np.asarray(a) for a in run(x))
    assert_close(back, x, 1e-10)
    density = -(h**2) / 2 - np.log(2 * np.pi) / 2
    if prior == "logistic":
        density = -h - 2 * np.log1p(np.exp(-h))
    assert_close(log_prob, density.sum(axis=1) + log_det, 1e-10)
    assert_close(first, third, 1e-10)
    assert_close(second, third, 1e-10)
    samples = model.sample(jax.random.key(3), 3)
    assert samples.shape == (3, 5) and np.isfinite(samples).all()


def test_logits_and_refusals():
    found = to_logits(jnp.asarray([0.0, 0.5, 1.0]))
    np.testing.assert_allclose(found, [np.log(1e-3 / 0.999), 0, np.log(0.999 / 1e-3)], rtol=1e-4)
    with pytest.raises(ValueError, match="d=1, depth=5"):
        NICE.create(jax.random.key(0), 1)
