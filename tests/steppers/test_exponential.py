"""The integrals and the factors of the solvers in log-SNR, against quadrature and by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mathcases import SDES
from scipy.integrate import quad

from golden import assert_close
from score_sde.sde import EDM, VP, DiscreteChain
from score_sde.steppers import (
    Adaptive,
    Exponential,
    Multistep,
    Singlestep,
    fast_orders,
    lowered_orders,
)
from score_sde.steppers.exponential import difference_weights, moments

SIZES = np.concatenate([np.geomspace(1e-9, 30.0, 30), [0.999999, 1.000001]])
"""|z|: tiny, large, and on both sides of the place where the formula changes."""


def integral(z, n):
    """z integral_0^1 e^(z (1-v)) v^n dv by quadrature."""
    return z * quad(lambda v: math.exp(z * (1 - v)) * v**n, 0, 1, epsabs=0, epsrel=1e-13)[0]


@pytest.mark.parametrize("highest", [0, 1, 2, 3])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_moments(highest, sign, x64):
    z = sign * SIZES
    wanted = np.array([[integral(v, n) for v in z] for n in range(highest + 1)])
    found = np.stack(moments(jnp.asarray(z), highest))
    np.testing.assert_allclose(found, wanted, rtol=2e-12)


def test_moments_in_single_precision():
    z = np.concatenate([SIZES, -SIZES]).astype(np.float32)
    wanted = np.array([[integral(float(v), n) for v in z] for n in range(4)])
    np.testing.assert_allclose(np.stack(moments(jnp.asarray(z), 3)), wanted, rtol=3e-6)


@pytest.mark.parametrize(
    "nodes", [(-0.7,), (1.0,), (1 / 3, 2 / 3), (-1.2, -1.9), (1.0, -0.8, -2.5)]
)
def test_weights_integrate_polynomials(nodes, x64):
    """Exact for the powers that the nodes determine: sum_k w_k v_k^n = z M_n."""
    for z in (-2.3, -0.01, 0.4, 1.7):
        powers = moments(jnp.asarray(z), len(nodes))
        weights = difference_weights(powers, jnp.asarray(z), [jnp.asarray(v) for v in nodes])
        for n in range(1, len(nodes) + 1):
            total = sum(float(w) * v**n for w, v in zip(weights, nodes))
            assert total == pytest.approx(integral(z, n), rel=1e-11)


def test_rules_of_a_single_difference(x64):
    """B/(2 v), B = z or e^z - 1; the square term is halved where it should be."""
    z, node = jnp.asarray(-0.6), jnp.asarray(-0.8)
    powers = moments(z, 2)
    assert_close(difference_weights(powers, z, [node], "bh1")[0], -0.6 / (2 * -0.8), 1e-12)
    wanted = math.expm1(-0.6) / (2 * -0.8)
    assert_close(difference_weights(powers, z, [node], "bh2")[0], wanted, 1e-12)
    nodes = [node, jnp.asarray(-1.7)]
    weights = difference_weights(powers, z, nodes, "bh2", 0.5)
    linear = sum(float(w * v) for w, v in zip(weights, nodes))
    square = sum(float(w * v**2) for w, v in zip(weights, nodes))
    # Of p(v) = v^2 the square term is all, of p(v) = v it is nothing.
    assert (linear, square) == pytest.approx((integral(-0.6, 1), integral(-0.6, 2) / 2))


@pytest.mark.parametrize("name", SDES)
@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_factors(name, eta, x64):
    """A constant prediction is followed exactly, and the variance is that of the process.

    With x_t = alpha_t D + sigma_t z, a step to s leaves x_s = alpha_s D + sigma_s z' whatever eta,
    for data prediction and both laws, and for the ancestral law with noise prediction.
    """
    sde = SDES[name]
    t, s = (sde.time_at_log_snr(jnp.asarray(v)) for v in (-1.0, 0.5))
    (alpha_t, sigma_t), (alpha_s, sigma_s) = sde.marginal(t), sde.marginal(s)
    h = float(jnp.log(alpha_s * sigma_t / (alpha_t * sigma_s)))
    assert h == pytest.approx(0.75, abs=1e-9)
    for law in ("sde", "ancestral"):
        data = Exponential(sde, "data", eta, law).bridge(t, s)
        signal = data.scale * alpha_t - data.gain * jnp.expm1(data.z)
        assert_close(signal, alpha_s, 1e-12)
        assert_close(jnp.hypot(data.scale * sigma_t, data.std), sigma_s, 1e-12)
    share = {"sde": -math.expm1(-2 * eta**2 * h), "ancestral": -(eta**2) * math.expm1(-2 * h)}
    for law, wanted in share.items():
        found = Exponential(sde, "data", eta, law).bridge(t, s).std
        assert_close(found, sigma_s * math.sqrt(wanted), 1e-12)
    noise = Exponential(sde, "noise", eta, "ancestral").bridge(t, s)
    assert_close(noise.scale, alpha_s / alpha_t, 1e-12)
    kept = noise.scale * sigma_t - noise.gain * jnp.expm1(noise.z)
    assert_close(jnp.hypot(kept, noise.std), sigma_s, 1e-12)


def test_orders():
    assert lowered_orders(3, 5) == (3, 3, 3, 2, 1)
    assert lowered_orders(2, 1) == (1,)
    assert lowered_orders(1, 3) == (1, 1, 1)
    assert [fast_orders(3, n) for n in (1, 2, 3, 4, 5, 6, 9)] == [
        (1,), (2,), (2, 1), (3, 1), (3, 2), (3, 2, 1), (3, 3, 2, 1),
    ]  # fmt: skip
    assert [fast_orders(2, n) for n in (1, 4, 5)] == [(1,), (2, 2), (2, 2, 1)]
    assert fast_orders(1, 3) == (1, 1, 1)
    for order in (1, 2, 3):
        for n in range(1, 20):
            assert sum(fast_orders(order, n)) == n


def test_messages():
    """Each names what was received."""
    vp, pairs = Exponential(VP()), np.zeros((4, 2))
    chain = Exponential(DiscreteChain.ddpm(n=20, beta_max=10.0))
    for make, words in (
        (lambda: Exponential(VP(), "velocity"), "'velocity'"),
        (lambda: Exponential(VP(), law="ito"), "'ito'"),
        (lambda: Exponential(VP(), eta=-0.5), "eta=-0.5"),
        (lambda: Exponential(VP(), eta=1.5, law="ancestral"), "eta=1.5"),
        (lambda: Multistep(vp, 4), "got 4"),
        (lambda: Multistep(vp, (2, 0)), r"got \(2, 0\)"),
        (lambda: Multistep(vp, 2, "bh3"), "'bh3'"),
        (lambda: Multistep(vp, 3, corrector=True, published=True), "corrector=True"),
        (lambda: Multistep(vp, (2, 1)).evaluations(pairs), "tuple of 2, .* 4 steps"),
        (lambda: Singlestep(vp, (3, 2)).evaluations(pairs), "tuple of 2, .* 4 steps"),
        (lambda: Singlestep(vp, 2, "heun"), "'heun'"),
        (lambda: Singlestep(vp, 2, between="sigma"), "'sigma'"),
        (lambda: Singlestep(chain), "DiscreteChain has none"),
        (lambda: Singlestep(Exponential(VP(), "noise", 1.0)), "law='ancestral'"),
        (lambda: Singlestep(Exponential(VP(), eta=1.0), 3, noisy=True), "order=3"),
        (lambda: Adaptive(vp, 1), "got 1"),
        (lambda: Adaptive(vp, norm="mean"), "'mean'"),
        (lambda: Adaptive(vp, rtol=0.0), "rtol=0.0"),
        (lambda: Adaptive(Exponential(VP(), eta=1.0)), "eta=1.0"),
        (lambda: Adaptive(chain), "DiscreteChain has none"),
        (lambda: fast_orders(4, 8), "got 4"),
        (lambda: fast_orders(3, 0), "evaluations=0"),
    ):
        with pytest.raises(ValueError, match=words):
            make()


def test_prediction(x64):
    """-sigma score and (x + sigma^2 score)/alpha, of one x and one score."""
    x, t = jnp.asarray([[1.5, -0.5]]), jnp.asarray(0.3)
    alpha, sigma = VP().marginal(t)
    score_fn = jax.jit(lambda x, t: -2 * x)
    assert_close(Exponential(VP(), "noise").predict(score_fn, x, t), 2 * sigma * x, 1e-12)
    data = Exponential(VP()).predict(score_fn, x, t)
    assert_close(data, (1 - 2 * sigma**2) / alpha * x, 1e-12)
    assert_close(Exponential(EDM()).predict(score_fn, x, t), (1 - 2 * 0.09) * x, 1e-12)
