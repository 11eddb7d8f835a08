"""Training of second-order scores: networks, parameterizations, noise levels, a known Hessian."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from networks.weights import FAST_COMPILE
from training.tiny import keys, of

from score_sde import VE, VP, GaussianMixture
from score_sde.curvature import CurvatureParameterization, Dense, LowRank, tweedie_covariance
from score_sde.data import PixelRange
from score_sde.networks import SecondOrderMLP, SecondOrderUNet
from score_sde.objectives import (
    DenoisingScoreMatching,
    JointDenoising,
    LogNoise,
    SecondOrderDenoising,
    curvature_weight,
    variance_weight,
)
from score_sde.sde import DiscreteChain, StraightPath, noise_range, time_at_noise
from score_sde.training.ema import Average
from score_sde.training.second_order import SecondOrderMatching
from score_sde.training.step import Trainer

SHAPE = (2, 2, 1)
PIXELS = PixelRange(4, -1.0, 1.0)


def born(network: nn.Module, x: jax.Array) -> jax.Array:
    """The outputs of fresh parameters."""
    params = network.init(jax.random.key(0), x[:1], jnp.zeros((1,)))
    return network.apply(params, x, jnp.asarray([-1.0, 0.5]))


@pytest.mark.parametrize(
    "network",
    [SecondOrderUNet(3, 4, (1, 2)), SecondOrderMLP(3, 16, 2), SecondOrderMLP(None, 16, 2)],
    ids=["unet", "mlp", "whole"],
)
def test_networks_have_a_diagonal_that_is_0_when_born_and_small_columns(network: Any) -> None:
    x, rank = jax.random.normal(jax.random.key(1), (2, 4, 4, 2)), network.rank
    each = 32 if rank is None else 1 + rank
    made = jax.jit(lambda x: born(network, x), compiler_options=FAST_COMPILE)(x)
    assert made.shape == (2, 4, 4, 2 * each) and made.dtype == np.float32
    diagonal, columns = np.split(np.asarray(made), [0 if rank is None else 2], axis=-1)
    assert (np.abs(diagonal) < 1e-3).all()
    assert 1e-4 < (columns.reshape(2, 32, -1) ** 2).sum(axis=2).mean() < 0.5


@pytest.mark.parametrize("kind", [SecondOrderUNet, SecondOrderMLP])
@pytest.mark.parametrize(("rank", "each"), [(0, 1), (5, 6), (None, 16)])
def test_outputs_of_networks(kind: Any, rank: int | None, each: int) -> None:
    x = jax.ShapeDtypeStruct((2, 4, 4, 1), jnp.float32)
    network = kind(rank, 8, (1, 2, 2)) if kind is SecondOrderUNet else kind(rank, 8)
    assert jax.eval_shape(lambda x: born(network, x), x).shape == (2, 4, 4, each)


@pytest.mark.parametrize("process", [VE(0.02, 8.0), VP()], ids=["ve", "vp"])
@pytest.mark.parametrize("form", ["covariance", "plain"])
def test_whole_matrices(process, form: str, x64: None) -> None:
    """s2 and the covariance belong together (eq. 4.18); a network of zeros is a Gaussian's."""
    generator = np.random.default_rng(0)
    x, t = jnp.asarray(generator.normal(size=(3, *SHAPE))), jnp.asarray([0.2, 0.5, 0.9])
    output = jnp.asarray(generator.normal(size=(3, 2, 2, 4)))
    made = CurvatureParameterization(process, None, lambda t: t, form=form, sigma_data=0.7)
    s2 = made.curvature_fn(lambda x, labels: output)(x, t)
    covariance = made.covariance_fn(lambda x, labels: output)(x, t)
    assert isinstance(s2, Dense) and s2.matrix.shape == (3, *SHAPE, *SHAPE)
    expected = tweedie_covariance(process, s2, t).dense()
    np.testing.assert_allclose(covariance.dense(), expected, atol=1e-12)
    np.testing.assert_allclose(s2.dense(), s2.dense().swapaxes(1, 2), atol=1e-12)
    a, (alpha, sigma) = np.asarray(output).reshape(3, 4, 4), process.marginal(t)
    if form == "plain":
        half = 0.5 * (a + a.swapaxes(1, 2)) / np.asarray(sigma)[:, None, None] ** 2
        np.testing.assert_allclose(s2.dense(), half, atol=1e-9)
        return
    assert (np.linalg.eigvalsh(np.asarray(covariance.dense())) >= 0).all()
    zero = made.curvature_fn(lambda x, labels: 0 * output)(x, t).dense()
    gaussian = -1 / ((alpha * 0.7) ** 2 + sigma**2)
    np.testing.assert_allclose(zero, gaussian[:, None, None] * np.eye(4)[None], rtol=1e-9)


def test_what_whole_matrices_refuse() -> None:
    made = CurvatureParameterization(VP(), None, lambda t: t)
    x, t = jnp.zeros((1, 2, 2, 1)), jnp.asarray(0.5)
    with pytest.raises(ValueError, match=r"rank None must return \(1, 2, 2, 4\).* D numbers"):
        made.curvature_fn(lambda x, labels: x)(x, t)
    large = jnp.zeros((1, 40, 40, 1))
    with pytest.raises(ValueError, match="1600 x 1600"):
        made.curvature_fn(lambda x, labels: jnp.zeros((1, 40, 40, 1600)))(large, t)


@pytest.mark.parametrize("process", [VE(0.02, 8.0), VP(), StraightPath()], ids=["ve", "vp", "path"])
def test_times_of_noise_levels(process) -> None:
    low, high = noise_range(process)
    for noise in (low, 0.3, min(high, 20.0)):
        alpha, sigma = process.marginal(jnp.asarray(time_at_noise(process, noise)))
        assert float(sigma / alpha) == pytest.approx(noise, rel=1e-4)
    with pytest.raises(ValueError, match=r"must be in \[.*, the range of the process; got 0\.0"):
        time_at_noise(process, 0.9 * low)


def test_indices_of_noise_levels() -> None:
    chain = DiscreteChain.smld(0.01, 10.0, n=4)  # 0.01, 0.1, 1, 10
    assert noise_range(chain) == pytest.approx((0.01, 10.0))
    assert [time_at_noise(chain, noise) for noise in (0.01, 0.2, 0.9, 10.0)] == [0, 1, 2, 3]
    own = keys(jax.random.key(0), 64)
    t, w = jax.jit(lambda own: LogNoise(chain, 0.1, 1.0)(own, 64))(own)
    assert set(np.asarray(t)) == {1.0, 2.0} and (np.asarray(w) == 1).all()


def test_noise_levels_are_log_uniform() -> None:
    sampler = LogNoise(VP(), 0.05, 20.0)
    t, w = jax.jit(sampler.at)(jnp.asarray([0.0, 0.5, 1.0]))
    alpha, sigma = VP().marginal(t)
    np.testing.assert_allclose(sigma / alpha, [0.05, 1.0, 20.0], rtol=1e-4)
    drawn, w = jax.jit(lambda own: sampler(own, 500))(keys(jax.random.key(0), 500))
    logs = -0.5 * np.asarray(VP().log_snr(drawn))
    ends = np.log([0.05, 20.0])
    assert (np.asarray(w) == 1).all() and abs(logs.mean()) < 0.25
    assert ends[0] - 1e-3 < logs.min() < ends[0] + 0.1 and ends[1] - 0.1 < logs.max()
    for least, largest in ((0.0, 1.0), (1.0, 0.5), (0.5, float("inf"))):
        with pytest.raises(ValueError, match="positive, finite and in order"):
            LogNoise(VP(), least, largest)


class Constant(nn.Module):
    """A linear model of a Gaussian's s2: the same outputs for every image, which are learned."""

    rank: int | None

    @nn.compact
    def __call__(self, x, labels):
        each = 4 if self.rank is None else 1 + self.rank
        made = self.param("one", nn.initializers.normal(0.3), (2, 2, each))
        return jnp.broadcast_to(made[None], (len(x), 2, 2, each)) + 0 * labels[0]


def gaussian() -> tuple[GaussianMixture, np.ndarray]:
    """(one Gaussian on 2 x 2 images, its covariance)."""
    root = np.random.default_rng(3).normal(size=(4, 2)) * 0.5
    covariance = root @ root.T + np.diag([0.1, 0.2, 0.1, 0.3])
    return GaussianMixture.full([1.0], np.zeros((1, *SHAPE)), covariance[None]), covariance


def task_of(process: Any, rank: int | None, form: str, **more: Any) -> SecondOrderMatching:
    """At one noise level, with the Gaussian's own score, times a factor that is frozen."""
    data, _ = gaussian()
    times = LogNoise(process, 0.5, 0.5001)
    objective = SecondOrderDenoising(process, times, curvature_weight(process), form, **more)
    made = CurvatureParameterization(process, rank, lambda t: t, sigma_data=0.5)

    def score_fn(frozen):
        return lambda x, t: frozen["one"] * data.score_fn(process)(x, t)

    frozen = {"one": jnp.ones(())}
    return SecondOrderMatching(frozen, Constant(rank), made, objective, score_fn, PIXELS)


def fitted(task: SecondOrderMatching, data: GaussianMixture) -> Any:
    """Averaged weights after 250 steps on 2048 images."""
    images = of(data.sample(jax.random.key(5), 2048).reshape(-1, *SHAPE))
    trainer = Trainer(optax.sgd(0.04, momentum=0.9), (Average(0.98),))
    state = trainer.init(task, jax.random.key(0), SHAPE)
    step = jax.jit(trainer.step)
    for _ in range(250):
        state, _ = step(task, state, jax.random.key(1), images)
    return state.averages[0]


@pytest.mark.parametrize(("rank", "form", "reduced"), [(None, "full", False), (2, "lowrank", True)])
def test_training_finds_the_hessian_of_a_gaussian(rank: int | None, form: str, reduced) -> None:
    """The covariance of x_0 given x_t of a Gaussian is (C^-1 + I/nu^2)^-1, whatever x_t is."""
    process, (data, covariance) = VP(), gaussian()
    task = task_of(process, rank, form, variance_reduced=reduced)
    params = fitted(task, data)
    x, t = jnp.zeros((1, *SHAPE)), jnp.full(1, time_at_noise(process, 0.5))
    made = task.covariance_fn(params)(x, t)
    assert isinstance(made, Dense if rank is None else LowRank)
    posterior = np.linalg.inv(np.linalg.inv(covariance) + np.eye(4) / 0.25)
    np.testing.assert_allclose(made.dense()[0], posterior, atol=0.02)


def test_joint_training_finds_the_score_too() -> None:
    """It begins with 0.6 of the score; s2 of the residuals does not mind on the way (eq. 4.14)."""
    process, (data, covariance) = VP(), gaussian()
    alone = task_of(process, None, "full", target="residual")
    first = DenoisingScoreMatching(process, alone.objective.times, variance_weight(process), "sum")
    task = alone.replace(
        score_params={"one": jnp.asarray(0.6)},
        objective=JointDenoising(first, alone.objective, gamma=0.5),
    )
    params = fitted(task, data)
    assert float(task.score_of(params)["one"]) == pytest.approx(1.0, abs=0.02)
    x, t = jnp.zeros((1, *SHAPE)), jnp.full(1, time_at_noise(process, 0.5))
    posterior = np.linalg.inv(np.linalg.inv(covariance) + np.eye(4) / 0.25)
    np.testing.assert_allclose(task.covariance_fn(params)(x, t).dense()[0], posterior, atol=0.02)
    assert float(task.score_params["one"]) == pytest.approx(0.6) and not alone.joint


def test_the_score_is_frozen_and_losses_belong_to_their_image() -> None:
    task, own = task_of(VP(), 1, "lowrank"), keys(jax.random.key(5), 8)
    assert jax.tree.leaves(task) == [task.score_params["one"]]
    images = of(jnp.asarray(np.random.default_rng(0).choice([-1.0, 1.0], (8, *SHAPE)), jnp.float32))
    params = task.init(jax.random.key(0), SHAPE)

    def losses(params, frozen):
        return task.replace(score_params=frozen).losses(params, own, images, True)

    found = losses(params, task.score_params)
    both = jax.jit(jax.grad(lambda *given: jnp.sum(losses(*given)), (0, 1)))
    gradient, others = both(params, task.score_params)
    assert others["one"] == 0.0 and optax.global_norm(gradient) > 0.1
    assert np.abs(losses(params, {"one": jnp.zeros(())}) - found).min() > 1e-5
    alone = task.losses(params, own[3:4], jax.tree.map(lambda rows: rows[3:4], images), False)
    np.testing.assert_allclose(alone[0], found[3], rtol=1e-5)
    spread = task.replace(dequantize=True).losses(params, own, images, True)
    assert (np.abs(spread - found) > 1e-6).all()
