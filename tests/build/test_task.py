"""config.training and config.optim: the objective, the optimizer, the averages."""

import dataclasses
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import settings

from golden import assert_close, load
from score_sde import objectives
from score_sde.build.assemble import build
from score_sde.build.dequantizer import build_dequantizer
from score_sde.build.network import build_parameterization
from score_sde.build.process import build_process
from score_sde.build.task import (
    build_averages,
    build_objective,
    build_optimizer,
    build_trainer,
)
from score_sde.data.augment import Augment
from score_sde.errors import UserError
from score_sde.sde import EDM, VE, VP
from score_sde.training.ema import Average, HalfLife, Power


@pytest.fixture
def mixed_types() -> Iterator[None]:
    """optax's Adam mixes types."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def objective(recipe: str, *overrides: str) -> objectives.DenoisingScoreMatching:
    found = settings(recipe, *overrides)
    process = build_process(found.sde)
    return build_objective(found, process, build_parameterization(found, process))


@pytest.mark.parametrize(
    ("recipe", "override", "message"),
    [
        ("vp", "training.weight=foo", r"config.training.weight: unknown name 'foo'; known: lik"),
        ("vp", "training.p_std=0", r"config.training.p_std must be positive; got 0.0"),
        ("vp", "data.std=0", r"config.data.std must be positive; got 0.0"),
        ("vp", "data.augment=1.5", r"config.data.augment must be in \[0, 1\]; got 1.5"),
        ("vp", "data.augment=-0.1", r"config.data.augment must be in \[0, 1\]; got -0.1"),
        ("smld", "training.times=log_normal", r"training.times=uniform.*got times=log_normal"),
        (
            "ve",
            "training.times=foo",
            r"config.training.times: unknown name 'foo'; known: uniform, log_snr, log_normal",
        ),
        (
            "ddpm",
            "training.times=log_snr",
            r"discrete chain is trained with training.times=uniform.*\*_cont",
        ),
        (
            "smld",
            "training.likelihood_weighting=0.5",
            r"got times=uniform, likelihood_weighting=0.5",
        ),
    ],
)
def test_impossible_objectives_are_refused(recipe: str, override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        objective(recipe, override)


def test_objectives() -> None:
    made = objective("ve")
    assert made.reduce == "sum" and isinstance(made.times, objectives.UniformTime)
    t = jnp.asarray([0.3])
    np.testing.assert_allclose(made.weight(t), VE(sigma_max=10.0).marginal(t)[1] ** 2)
    beta, variance = 0.1 + 0.3 * 19.9, VP().marginal(t)[1] ** 2
    for k, expected in ((0, variance), (0.25, variance**0.75 * beta**0.25), (1, beta)):
        made = objective("vp", f"training.likelihood_weighting={k}", "training.times=log_snr")
        assert made.reduce == "mean" and isinstance(made.times, objectives.LogSNRUniform)
        np.testing.assert_allclose(made.weight(t), expected, rtol=1e-5)
    assert isinstance(objective("ddpm").times, objectives.UniformIndex)


def test_objective_of_edm() -> None:
    made = objective("edm", "training.p_mean=0.3", "training.p_std=0.7", "data.std=0.6")
    assert made.times == objectives.LogNormal(EDM(), 0.3, 0.7) and made.reduce == "sum"
    t = jnp.asarray([0.3, 5.0])
    np.testing.assert_allclose(made.weight(t), t**2 * (1 + t**2 / 0.36), rtol=1e-6)
    by_output = objective("edm", "training.weight=output", "data.std=0.6")
    np.testing.assert_allclose(by_output.weight(t), made.weight(t), rtol=1e-5)


def test_two_weights_are_refused() -> None:
    one = "training.likelihood_weighting=0.5"
    for weight in ("edm", "output"):
        with pytest.raises(UserError, match=f"0.5 is for training.weight=likelihood, not {weight}"):
            objective("vp", one, f"training.weight={weight}")


def test_a_p_mean_beyond_all_noise_levels_is_refused() -> None:
    with pytest.raises(UserError, match=r"config.training: no noise level .* p_mean=90.0"):
        objective("edm", "training.p_mean=90")


def test_labels_of_augmented_images_reach_networks_that_take_them() -> None:
    task = build(settings("vp", "data.augment=0.2")).task
    assert task.augment == Augment(0.2) and task.model.given.shape == (9,)
    params = jax.eval_shape(lambda: task.init(jax.random.key(0), (8, 8, 1)))
    assert params["given"]["kernel"].shape == (9, 32) and "bias" not in params["given"]
    with pytest.raises(UserError, match=r"data.augment=0.2 .*got model.name=ddpm"):
        build(settings("ddpm", "data.augment=0.2"))
    with pytest.raises(UserError, match=r"config.model: .*set conditional=True"):
        build(settings("vp", "data.augment=0.2", "model.conditional=False"))


def test_learned_uncertainty_has_parameters_of_its_own() -> None:
    task = build(settings("vp", "training.uncertainty=True")).task
    params = jax.eval_shape(lambda: task.init(jax.random.key(0), (8, 8, 1)))
    assert params["uncertainty"]["out"]["kernel"].shape == (128, 1)
    assert build(settings("vp")).task.uncertainty is None


# The optimizer and the averages


@pytest.mark.parametrize("clip", [1, 5, 50])
def test_gradients_are_clipped_as_published(x64: None, mixed_types: None, clip: int) -> None:
    """g c/max(|g|, c), the JAX code's rule.

    The PyTorch code's g min(1, c/(|g| + 1e-6)) differs by 1e-6/|g|.
    """
    arrays = load("math/losses_train_arithmetic")
    optimizer = build_optimizer(settings("ve", f"optim.grad_clip={clip}").optim)
    gradient = jnp.asarray(arrays["grad"])
    state = optimizer.init(gradient)
    _, state = optimizer.update(gradient, state, gradient)
    first_moment = next(leaf for leaf in jax.tree.leaves(state) if leaf.shape == gradient.shape)
    clipped = first_moment / (1 - 0.9)
    assert_close(clipped, arrays[f"clip{clip}_jax"], 1e-8)
    np.testing.assert_allclose(clipped, arrays[f"clip{clip}_pytorch"], rtol=2e-6)


def test_clipping_can_be_turned_off(mixed_types: None) -> None:
    optimizer = build_optimizer(settings("ve", "optim.grad_clip=0").optim)
    gradient = jnp.asarray([3e3, 4e3])
    _, state = optimizer.update(gradient, optimizer.init(gradient), gradient)
    assert any(np.allclose(leaf, [300, 400]) for leaf in jax.tree.leaves(state))


@pytest.mark.parametrize("warmup", [0, 1, 4])
def test_adam_with_linear_warmup(mixed_types: None, warmup: int) -> None:
    """A constant gradient moves Adam by the learning rate itself at every step."""
    section = settings("ve", "optim.lr=0.5", f"optim.warmup={warmup}", "optim.eps=1e-12").optim
    optimizer = build_optimizer(section)
    params = jnp.asarray([1.0, -2.0])
    state, moves = optimizer.init(params), []
    for _ in range(6):
        updates, state = optimizer.update(jnp.asarray([0.3, -0.1]), state, params)
        moves.append(updates)
    rates = 0.5 * np.minimum(1, np.arange(1, 7) / max(warmup, 1))
    np.testing.assert_allclose(moves, np.stack([-rates, rates], axis=1), rtol=1e-4)


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        ("cosine", (1 + np.cos(np.pi * np.asarray([0, 0, 0.25, 0.5, 0.75, 1, 1]))) / 2),
        ("linear", [1, 1, 0.75, 0.5, 0.25, 0, 0]),
        ("rsqrt", [1, 1, 1, 1, 1, 1, (5 / 4) ** -0.5]),
    ],
)
def test_the_rate_falls_after_the_warmup(
    mixed_types: None, schedule: str, factors: list[float]
) -> None:
    """Warm-up of 2 steps, then 4 of the schedule."""
    names = (f"optim.schedule={schedule}", "optim.decay_steps=4", "optim.warmup=2", "optim.lr=0.5")
    optimizer = build_optimizer(settings("ve", *names, "optim.eps=1e-12").optim)
    params = jnp.asarray([1.0])
    state, moves = optimizer.init(params), []
    for _ in range(7):
        updates, state = optimizer.update(jnp.asarray([0.3]), state, params)
        moves.append(-float(updates[0]))
    wanted = 0.5 * np.asarray([0.5, 1, 1, 1, 1, 1, 1]) * factors
    np.testing.assert_allclose(moves, wanted, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("names", [("schedule=cosine",), ("decay_steps=4",)])
def test_a_schedule_has_a_length(names: tuple[str, ...]) -> None:
    section = settings("ve", *(f"optim.{name}" for name in names)).optim
    with pytest.raises(UserError, match=r"optim\.schedule=\w+ does not go with decay_steps="):
        build_optimizer(section)


def test_adam_moments(mixed_types: None) -> None:
    """beta1 as configured, beta2 = 0.999."""
    optimizer = build_optimizer(settings("ve", "optim.beta1=0.5", "optim.grad_clip=0").optim)
    state = optimizer.init(jnp.zeros(1))
    _, state = optimizer.update(jnp.asarray([2.0]), state, jnp.zeros(1))
    leaves = [float(leaf[0]) for leaf in jax.tree.leaves(state) if leaf.shape == (1,)]
    np.testing.assert_allclose(sorted(leaves), [0.004, 1.0], rtol=1e-5)


def test_weight_decay_is_decoupled_and_spares_the_fourier_frequencies(mixed_types: None) -> None:
    section = settings("ve", "optim.lr=0.5", "optim.warmup=0", "optim.weight_decay=0.1").optim
    optimizer = build_optimizer(section)
    params = {"fourier": {"frequencies": jnp.ones(2)}, "conv": {"kernel": jnp.ones(2)}}
    zero = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zero, optimizer.init(params), params)
    np.testing.assert_allclose(updates["conv"]["kernel"], -0.05, rtol=1e-6)
    np.testing.assert_array_equal(updates["fourier"]["frequencies"], 0.0)
    task = build(settings("ve")).task
    params = jax.eval_shape(lambda: task.init(jax.random.key(0), (8, 8, 1)))
    paths = [jax.tree_util.keystr(p) for p, _ in jax.tree_util.tree_leaves_with_path(params)]
    assert (
        sum("frequencies" in path for path in paths) == 1
    )  # the name is still that of the network


def test_averages() -> None:
    found = settings("ve", "training.ema_rate=0.5", "training.ema_warmup=False")
    trainer = build_trainer(found.optim, found.training)
    assert trainer.averages == (Average(0.5, warmup=False),)


def test_an_average_that_is_given_goes_on_without_warm_up() -> None:
    for text, warmup in (("", True), ("runs/other", False)):
        found = settings("vp", f"training.from={text}")
        trainer = build_trainer(found.optim, found.training)
        assert trainer.averages == (Average(found.training.ema_rate, warmup),)


def test_a_list_of_averages() -> None:
    text = "halflife:0.5, power:0.05,power:0.10,rate:0.9,warmup:0.999"
    found = settings("ve", f"training.averages={text}", "training.batch_size=64").training
    profiles = (HalfLife(5e5, 64, 0.05), Power(0.05), Power(0.1), Average(0.9, False))
    assert build_averages(found, 64) == (*profiles, Average(0.999))
    assert build_averages(found, 16)[0] == HalfLife(5e5, 16, 0.05)
    found = dataclasses.replace(found, from_run="runs/other")
    goes_on = (HalfLife(5e5, 64, None), *profiles[1:], Average(0.999, False))
    assert build_averages(found, 64) == goes_on
    trainer = build(settings("ve", f"training.averages={text}")).trainer
    assert len(trainer.averages) == 5 and isinstance(trainer.averages[0], HalfLife)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("averages=ema:0.9", "config.training.averages: unknown name 'ema'; known: warmup, rate, "),
        ("averages=rate", "config.training: averages: 'rate' must be a profile and its number"),
        ("averages=rate:0.9,", "averages: unknown name ''"),
        ("averages=rate:fast", "'rate:fast' must be a profile and its number"),
        ("averages=rate:1", r"config.training: .* must be in \[0, 1\); got 1.0"),
        ("averages=power:0.29", r"config.training: .* must be in \(0, 0.29\); got 0.29"),
        ("averages=halflife:0", "config.training: .* positive half-life"),
        ("averages=power:0.1,power:0.10", "config.training: averages=.* has a profile twice"),
        ("snapshot_every=5", "snapshot_every=5 keeps power-function averages, .*='' has none; add"),
    ],
)
def test_averages_that_are_none(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(settings("vp", f"training.{override}"))


def test_the_dequantizer_has_the_first_average_with_its_own_batches() -> None:
    overrides = "training.averages=halflife:0.5,power:0.1", "dequantizer.batch_size=8"
    _, trainer = build_dequantizer(build(settings("vp", *overrides)), params=())
    assert trainer.averages == (HalfLife(5e5, 8, 0.05),)
