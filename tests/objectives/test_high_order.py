"""Scores of any order: Bell polynomials, and the moments of the clean image of mixtures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mathcases import mixture_2d

from golden import assert_close
from score_sde.objectives import (
    HighOrderDenoising,
    UniformTime,
    bell,
    posterior_cumulants,
    posterior_moment,
)
from score_sde.objectives.high_order import elementwise_bell, partitions
from score_sde.sde import VE, VP, SubVP


def test_numbers_of_partitions():
    assert [len(list(partitions(tuple(range(k))))) for k in range(7)] == [1, 1, 2, 5, 15, 52, 203]


def test_bell_polynomials_are_derivatives_of_exponentials(x64):
    """(grad^k e^f)/e^f for a quartic f in the plane, by automatic differentiation."""

    def f(x):
        return 0.3 * x[0] ** 4 - x[0] * x[1] + jnp.sin(x[1]) * x[0]

    @jax.jit
    def derivatives(x):
        made, whole, found = f, lambda x: jnp.exp(f(x)), []
        for _ in range(4):
            made, whole = jax.jacfwd(made), jax.jacfwd(whole)
            found.append((made(x)[None], whole(x) / jnp.exp(f(x))))
        return found

    found = derivatives(jnp.asarray([0.4, -0.7]))
    tensors = [tensor for tensor, _ in found]
    for k, (_, expected) in enumerate(found, 1):
        ours = jax.jit(bell)(tensors[:k])[0]
        assert_close(ours, expected, 1e-12)
        # The entries (i, ..., i) are those of one variable, where the others are held fixed.
        diagonals = [np.einsum(f"z{'a' * j}->za", a) for j, a in enumerate(tensors[:k], 1)]
        made = elementwise_bell([jnp.asarray(a) for a in diagonals])[0]
        assert_close(made, np.einsum(f"{'a' * k}->a", ours), 1e-12)


def test_targets_are_hermite_polynomials(x64):
    z = np.random.default_rng(0).normal(size=(4, 3))
    for k in range(1, 6):
        target = HighOrderDenoising(VP(), UniformTime(VP()), jnp.ones_like, k, True)._kernel(
            jnp.asarray(z)
        )
        unit = np.eye(k + 1)[k]
        expected = (-1) ** k * np.polynomial.hermite_e.hermeval(z, unit)
        assert_close(elementwise_bell(target), expected, 1e-12)
    full = HighOrderDenoising(VP(), UniformTime(VP()), jnp.ones_like, 3)._kernel(jnp.asarray(z))
    cube, eye = np.einsum("ba,bc,bd->bacd", z, z, z), np.eye(3)
    mixed = sum(np.einsum(s, eye, z) for s in ("ac,bd->bacd", "ad,bc->bacd", "cd,ba->bacd"))
    assert_close(bell(full), -(cube - mixed), 1e-12)


def third_moment(mixture):
    """E[x x x] of a mixture: of each component mu mu mu + 3 sym(C mu)."""
    total = 0.0
    roots = mixture._roots()
    for weight, mean, root in zip(mixture.weights, mixture.means, roots, strict=True):
        c = root @ root.T
        mixed = sum(np.einsum(s, c, mean) for s in ("ab,c->abc", "ac,b->abc", "bc,a->abc"))
        total = total + weight * (np.einsum("a,b,c->abc", mean, mean, mean) + mixed)
    return total


@pytest.mark.parametrize("process", [VE(0.02, 8.0), VP(), SubVP()], ids=["ve", "vp", "subvp"])
def test_moments_of_the_clean_image(process, x64):
    """Orders 1 to 3 from exact scores are those of the exact posterior (theorem 4.1, lemma A.6)."""
    data, t = mixture_2d(), 0.3 * process.t_max
    x = np.asarray([[0.4, -0.3], [-0.6, 0.5]])
    times = jnp.full(2, t)

    def hessian(one, t):
        return data.hessian(process, one[None], t).matrix[0]

    scores = [
        data.score(process, jnp.asarray(x), times),
        data.hessian(process, jnp.asarray(x), times).matrix,
        jax.jit(jax.vmap(jax.jacfwd(hessian)))(jnp.asarray(x), times),
    ]
    posteriors = [data.posterior(process, one, t) for one in x]
    means = np.stack([p.mean() for p in posteriors])
    covariances = np.stack([p.covariance() for p in posteriors])
    seconds = covariances + np.einsum("ba,bc->bac", means, means)
    thirds = np.stack([third_moment(p) for p in posteriors])
    for k, expected in enumerate((means, seconds, thirds), 1):
        moment = posterior_moment(process, jnp.asarray(x), times, scores[:k])
        np.testing.assert_allclose(moment, expected, rtol=0, atol=1e-10)
    cumulants = posterior_cumulants(process, jnp.asarray(x), times, scores)
    np.testing.assert_allclose(cumulants[1], covariances, rtol=0, atol=1e-10)
    assert np.abs(cumulants[2]).max() > 1e-4


def test_order_two_is_the_second_order_target(x64):
    """By hand: |s2 + s1 s1^T + (I - z z^T)/sigma^2|^2, and a loss that names its draws."""
    process, z = VE(0.02, 8.0), jnp.asarray([[0.3, -1.1]])
    x0, t = jnp.asarray([[0.7, -0.4]]), jnp.full(1, 0.5)
    sigma = float(process.marginal(t)[1][0])
    s1, s2 = jnp.asarray([[0.2, 0.5]]), jnp.asarray([[[-1.0, 0.3], [0.3, 2.0]]])
    loss = HighOrderDenoising(process, UniformTime(process), jnp.ones_like, 2)
    target = (np.eye(2) - np.outer(z[0], z[0])) / sigma**2
    expected = np.sum((s2[0] + np.outer(s1[0], s1[0]) + target) ** 2)
    scores = (lambda x, t: s1, lambda x, t: s2)
    assert_close(loss.at(scores, x0, t, z), np.asarray([expected]), 1e-12)
    drawn = loss(jax.random.key(0), scores, x0)
    assert drawn.shape == (1,) and bool(jnp.isfinite(drawn[0]))


def test_what_is_refused():
    times = UniformTime(VP())
    with pytest.raises(ValueError, match="order"):
        HighOrderDenoising(VP(), times, jnp.ones_like, 9)
    loss = HighOrderDenoising(VP(), times, jnp.ones_like, 2)
    x = jnp.zeros((1, 40))
    with pytest.raises(ValueError, match="2 scores"):
        loss.at((lambda x, t: x,), x, jnp.ones(1), x)
    with pytest.raises(ValueError, match="elementwise"):
        loss.at((lambda x, t: x, lambda x, t: x), x, jnp.ones(1), x)
    with pytest.raises(ValueError, match="axes"):
        bell([jnp.zeros((1, 2)), jnp.zeros((1, 2))])
