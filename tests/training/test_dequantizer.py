"""Training a dequantizer: published losses, and the best dequantizer of a known density."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from mathcases import reference_mixture, stored_sde
from networks.weights import FAST_COMPILE
from scipy.stats import norm
from training.tiny import keys, of

from golden import load, meta, names
from score_sde import VP, GaussianMixture
from score_sde.arrays import fold_in
from score_sde.data import Batch, PixelRange
from score_sde.likelihood import Bound, Uniform, Variational
from score_sde.networks import FlowPP
from score_sde.objectives import LogSNRUniform, UniformTime
from score_sde.training.dequantizer import Dequantization
from score_sde.training.ema import Average
from score_sde.training.step import Trainer


class Elementwise(nn.Module):
    """u = sigmoid(a eps + b + c image), the flow of the published values."""

    a: float
    b: float
    c: float

    @nn.compact
    def __call__(self, eps, images):
        a = self.param("a", nn.initializers.constant(self.a), (), eps.dtype)
        y = a * eps + self.b + self.c * images
        slopes = jnp.log(a) + nn.log_sigmoid(y) + nn.log_sigmoid(-y)
        log_normal = -0.5 * (eps**2 + np.log(2 * np.pi).item())
        return nn.sigmoid(y), jnp.sum(log_normal - slopes, axis=(1, 2, 3))


@pytest.mark.parametrize("file", names("math/ode_dequant_*"))
@pytest.mark.parametrize("times", ["iw", "uniform"])
def test_published_loss(file: str, times: str, x64: None) -> None:
    """The bound's pieces at the published noise, log q of the published flow, and their sum.

    The published loss draws x_T and, at a time of its own, the divergence of the drift, by a random
    probe; here both expectations are in closed form. So the stored values are compared after taking
    these two terms at the published draws (the divergence of a linear drift needs none of the
    probe's values, only its time). At uniform times the published code takes the length of the
    interval, 1 - 1e-5, for 1.
    """
    a = load(file)
    sde, data = stored_sde(a, t_min=float(meta(a)["eps"])), reference_mixture(a)
    score_fn = data.score_fn(sde)
    flow = Elementwise(float(a["deq_a"]), float(a["deq_b"]), float(a["deq_c"]))
    levels, pixels = jnp.asarray(a["image_uint8"]), PixelRange(256, -1.0, 1.0)
    z = {
        key: jnp.asarray(a[key], jnp.float64)
        for key in a
        if key.endswith("_noise") or key == "u_deq"
    }

    unit = levels.astype(jnp.float64) / 255
    params = flow.init(jax.random.key(0), z["u_deq"], unit)
    u, log_q = flow.apply(params, z["u_deq"], unit)
    np.testing.assert_allclose(
        u, a["deq_noise"], rtol=1e-6
    )  # the stored image/255 is rounded to float32
    np.testing.assert_allclose(-log_q, a["deq_neg_logq"], rtol=1e-6)
    x = jnp.asarray(pixels.dequantize(levels, u))
    np.testing.assert_allclose(x, a["dequantised_data"], atol=1e-8)

    bound = Bound(sde, LogSNRUniform(sde) if times == "iw" else UniformTime(sde))
    t, w = bound.times.at(jnp.asarray(a["u_time"]))
    dimensions, length = x[0].size, sde.t_max - sde.t_min
    f, _ = sde.coefficients(t)
    matching = (
        bound.integrand(score_fn, x, t, z["score_noise"], jnp.zeros_like(x)) + 2 * dimensions * f
    )
    integral = 0.5 * w * matching * (length if times == "iw" else 1.0)
    t_drift = sde.t_min + length * jnp.asarray(a["u_time_drift"])
    drift = dimensions * sde.coefficients(t_drift)[0]
    end = sde.perturb(x, jnp.asarray(sde.t_max, jnp.float64), z["prior_noise"])
    prior = -sde.prior_logp(end)
    offset = bound.offset_term(score_fn, x, z["offset_noise"])
    without = jnp.mean(prior + integral - drift + log_q)
    # 3e-6 of it is the published inversion of sub-VP's importance sampling
    np.testing.assert_allclose(without, a[f"loss_{times}_nooffset"], rtol=5e-6)
    bits = pixels.bits_per_dim(-np.asarray(without), dimensions)
    np.testing.assert_allclose(bits, a[f"bpd_{times}_nooffset"], rtol=5e-6)
    np.testing.assert_allclose(without + jnp.mean(offset), a[f"loss_{times}_offset"], rtol=5e-6)


PIXELS = PixelRange(levels=4, low=-1.0, high=1.0)
WEIGHTS, MEANS, STDS = (0.6, 0.4), (-0.6, 0.45), (0.1, 0.15)
ONE = FlowPP(
    filters=8, components=4, blocks=1, heads=0, couplings=2, context_filters=8, context_layers=1
)
EDGES = np.linspace(-1, 1, 5)


def density(x: np.ndarray) -> np.ndarray:
    return sum(w * norm.pdf(x, m, s) for w, m, s in zip(WEIGHTS, MEANS, STDS))


def log_density(keys, score_fn, x):
    """Minus it, in place of a bound."""
    parts = [
        np.log(w / s / np.sqrt(2 * np.pi)).item() - 0.5 * ((x - m) / s) ** 2
        for w, m, s in zip(WEIGHTS, MEANS, STDS)
    ]
    return -jnp.logaddexp(*parts).sum(axis=(1, 2, 3))


def test_trained_dequantizer_closes_the_gap_to_the_discrete_probability() -> None:
    """One pixel of a mixture with detail inside the cells.

    -log2 P(k) is known by the distribution function, that of uniform noise by quadrature.
    """
    cdf = sum(w * norm.cdf(EDGES, m, s) for w, m, s in zip(WEIGHTS, MEANS, STDS))
    exact = -np.log2(np.diff(cdf))
    fine = (np.arange(2000) + 0.5) / 2000
    cells = EDGES[:-1, None] + 0.5 * fine
    uniform = -np.log2(density(cells) * 0.5).mean(axis=1)
    assert (uniform - exact > 0.4).all()

    task = Dequantization((), ONE, log_density, PIXELS, lambda frozen: None)
    descent = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.02, momentum=0.9))
    trainer = Trainer(descent, (Average(0.9),))
    state = jax.jit(trainer.init, static_argnums=2)(task, jax.random.key(0), (1, 1, 1))
    step, images = jax.jit(trainer.step), encoded(np.tile(np.arange(4), 64))
    for _ in range(500):
        state, _ = step(task, state, jax.random.key(1), images)
    many, own = encoded(np.tile(np.arange(4), 4000)), keys(jax.random.key(2), 16000)
    losses = jax.jit(task.losses, static_argnums=3)(state.averages[0], own, many, False)
    gap = np.asarray(losses).reshape(-1, 4).mean(axis=0) - exact
    assert (gap > -0.02).all()  # a bound, but for the mean over 4000 draws
    assert (gap < 0.1).all(), gap

    ones = jnp.full((4000, 1, 1, 1), 1)
    u, _ = Variational(state.averages[0], ONE, 4)(keys(jax.random.key(3), 4000), ones)
    quantiles = np.interp(
        [0.1, 0.5, 0.9], np.cumsum(density(cells[1])) / density(cells[1]).sum(), fine
    )
    np.testing.assert_allclose(np.quantile(np.asarray(u), [0.1, 0.5, 0.9]), quantiles, atol=0.05)


def encoded(levels: np.ndarray) -> Batch:
    """One-pixel images of these levels."""
    return of(jnp.asarray(PIXELS.encode(levels[:, None, None, None]), jnp.float32))


def test_loss_is_that_of_the_frozen_score_and_trains_the_flow_alone() -> None:
    sde = VP(t_min=1e-4)
    model = GaussianMixture.isotropic([1.0], np.full((1, 2, 2, 1), 0.1), 0.5)
    bound = Bound(sde, LogSNRUniform(sde))

    def score_fn(frozen):
        return lambda x, t: frozen["one"] * model.score_fn(sde)(x, t)

    frozen, own = {"one": jnp.ones(())}, keys(jax.random.key(5), 8)
    task = Dequantization(frozen, ONE, bound, PIXELS, score_fn)
    assert jax.tree.leaves(task) == [frozen["one"]]
    init = jax.jit(task.init, static_argnums=1, compiler_options=FAST_COMPILE)
    params = jax.tree.map(lambda a: a + 0.2, init(jax.random.key(0), (2, 2, 1)))
    levels = jnp.asarray(np.random.default_rng(0).integers(0, 4, (8, 2, 2, 1)))
    images = of(jnp.asarray(PIXELS.encode(levels)))

    def losses(params, frozen):
        return task.replace(score_params=frozen).losses(params, own, images, True)

    found, pullback = jax.vjp(losses, params, frozen)
    gradient, others = pullback(jnp.ones(8))
    assert others["one"] == 0.0 and optax.global_norm(gradient) > 0.1
    u, log_q = Variational(params, ONE, 4)(fold_in(own, 0), levels)
    nats = bound(fold_in(own, 1), model.score_fn(sde), jnp.asarray(PIXELS.dequantize(levels, u)))
    # Cells of width 1/2.
    np.testing.assert_allclose(found, (nats + log_q) / (4 * np.log(2)) + 1.0, rtol=1e-4)
    assert np.abs(log_q).mean() > 0.3
    assert np.abs(losses(params, {"one": jnp.zeros(())}) - found).min() > 1e-3
    alone = task.losses(params, own[3:4], jax.tree.map(lambda rows: rows[3:4], images), True)
    np.testing.assert_allclose(alone[0], found[3], rtol=1e-4)


def test_dequantizers_draw_by_the_image_s_own_key() -> None:
    levels = jnp.asarray(np.random.default_rng(0).integers(0, 4, (6, 3, 3, 1)))
    params = jax.jit(ONE.init, compiler_options=FAST_COMPILE)(
        jax.random.key(0), jnp.zeros((1, 3, 3, 1)), jnp.zeros((1, 3, 3, 1))
    )["params"]
    own = keys(jax.random.key(3), 6)
    for dequantizer in (Uniform(), Variational(params, ONE, 4)):
        call = jax.jit(dequantizer.__call__)
        (u, log_q), (few, log_few) = call(own, levels), call(own[4:5], levels[4:5])
        assert log_q.shape == (6,) and (u >= 0).all() and (u <= 1).all()
        np.testing.assert_allclose(few[0], u[4], atol=1e-6)
        np.testing.assert_allclose(log_few[0], log_q[4], atol=1e-4)
        assert np.abs(u[1:] - u[:-1]).min() > 1e-7
    assert (Uniform()(own, levels)[1] == 0).all()


class Echo(nn.Module):
    """Gives back what it is conditioned on."""

    @nn.compact
    def __call__(self, eps, images):
        return images * self.param("one", nn.initializers.ones, ()), jnp.zeros(len(images))


def test_the_flow_sees_levels_scaled_to_the_unit_interval() -> None:
    levels = jnp.asarray([0, 2, 3])[:, None, None, None]
    own = keys(jax.random.key(0), 3)
    u, _ = Variational({"one": jnp.ones(())}, Echo(), 4)(own, levels)
    np.testing.assert_allclose(u.ravel(), [0, 2 / 3, 1], rtol=1e-6)
