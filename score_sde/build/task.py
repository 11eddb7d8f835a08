"""What is trained and how: the task, the optimizer and the averages of the weights."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from score_sde.build.names import blame, choose
from score_sde.build.network import build_parameterization
from score_sde.build.objective import build_objective
from score_sde.build.sections import (
    ClassifierSettings,
    DequantizerSettings,
    SecondOrderSettings,
)
from score_sde.build.settings import Optim, Settings, Training, to_dict
from score_sde.data.augment import LABELS, Augment
from score_sde.errors import UserError
from score_sde.networks.uncertainty import Uncertainty
from score_sde.sde import Perturbation
from score_sde.training.ema import Average, HalfLife, Power, Profile
from score_sde.training.step import ScoreMatching, ScoreModel, Trainer

RAMPUP = 0.05
"""EDM's, of a half-life."""
PROFILES: dict[str, Callable[[float, int, bool], Profile]] = {
    "warmup": lambda rate, batch_size, fresh: Average(rate, warmup=fresh),
    "rate": lambda rate, batch_size, fresh: Average(rate, warmup=False),
    "halflife": lambda millions, batch_size, fresh: HalfLife(
        1e6 * millions, batch_size, RAMPUP if fresh else None
    ),
    "power": lambda std, batch_size, fresh: Power(std),
}
"""(number behind the name, images of an update, whether the average begins anew) -> profile."""


SCHEDULES: dict[str, Callable[[int], optax.Schedule]] = {
    "constant": lambda steps: optax.constant_schedule(1.0),
    "cosine": lambda steps: optax.cosine_decay_schedule(1.0, steps),
    "linear": lambda steps: optax.linear_schedule(1.0, 0.0, steps),
    "rsqrt": lambda steps: lambda n: jax.lax.rsqrt(jnp.maximum(n / steps, 1.0)),
}
"""config.optim.schedule, of decay_steps. rsqrt is that of Karras et al. (2024), EDM2."""


def build_task(settings: Settings, process: Perturbation, network: nn.Module) -> ScoreMatching:
    """The task of fitting `network`, as config.training and config.data say.

    Raises:
        UserError: what `build_parameterization` and `build_objective` refuse, or a network that
            takes no labels of augmented images.
    """
    chance, made = settings.data.augment, build_parameterization(settings, process)
    if chance and settings.model["name"] != "ncsnpp":
        raise UserError(
            f"config.data.augment={chance} gives the network labels, which model.name=ncsnpp alone "
            f"takes; got model.name={settings.model['name']}. Set data.augment=0"
        )
    classes = settings.model.get("num_classes", 0)
    given = jax.ShapeDtypeStruct((classes + (LABELS if chance else 0),), jnp.float32)
    return ScoreMatching(
        ScoreModel(network, made, given if given.size else (), classes),
        build_objective(settings, process, made),
        Augment(chance) if chance else None,
        Uncertainty() if settings.training.uncertainty else None,
        settings.training.label_dropout if classes else 0.0,
    )


def build_optimizer(section: Optim) -> optax.GradientTransformation:
    """Adam with linear warm-up and clipping of the global gradient norm (0 turns either off).

    Step n = 0, 1, ... has the rate lr min(1, (n + 1)/warmup); the published codes have n in place
    of n + 1, and so waste the first step. `SCHEDULES` multiply it with a factor of the steps after
    the warm-up.

    Raises:
        UserError: a schedule without its length, or a length without a schedule.
    """
    lr, warmup, decay_steps = section.lr, max(section.warmup, 1), section.decay_steps
    if (section.schedule == "constant") != (decay_steps == 0):
        raise UserError(
            f"config.optim.schedule={section.schedule} does not go with decay_steps={decay_steps}; "
            "the schedules cosine, linear and rsqrt need decay_steps above 0, constant has none"
        )
    factor = SCHEDULES[section.schedule](decay_steps)

    def rate(count: jax.Array) -> jax.Array:
        falling = factor(jnp.maximum(count + 1 - warmup, 0))
        return lr * jnp.minimum(1.0, (count + 1) / warmup) * falling

    clip, decay = optax.identity(), optax.identity()
    if section.grad_clip:
        clip = optax.clip_by_global_norm(section.grad_clip)
    if section.weight_decay:
        decay = optax.add_decayed_weights(section.weight_decay, mask=_trained)
    adam = optax.scale_by_adam(b1=section.beta1, eps=section.eps)
    return optax.chain(clip, adam, decay, optax.scale_by_learning_rate(rate))


def _trained(params: Any) -> Any:
    """False for the random Fourier frequencies, which stay as they were drawn."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: "frequencies" not in str(path[-1]), params
    )


def build_trainer(optim: Optim, training: Training) -> Trainer:
    """The optimizer and the averages of the weights."""
    averages = build_averages(training, training.batch_size)
    return Trainer(build_optimizer(optim), averages, training.accumulate)


def loop_settings(
    section: DequantizerSettings | ClassifierSettings | SecondOrderSettings,
) -> dict[str, Any]:
    """Length and intervals of training beside a score model, as `training.loop.Loop` takes them."""
    fixed = {"steps_per_call": 1, "keep": 1, "keep_every": 0, "sample_every": 0}
    return to_dict(section) | fixed


def build_averages(training: Training, batch_size: int) -> tuple[Profile, ...]:
    """The profiles that config.training.averages lists, for updates of `batch_size` images.

    An empty list is one average, as ema_rate and ema_warmup say. Warm-up and ramp-up keep random
    weights out of an average. A run that begins with the weights and the average of another has
    none: that average goes on. Power functions begin anew.

    Raises:
        UserError: an unknown or repeated profile, a number out of range, or snapshots of nothing.
    """
    fresh = not training.from_run
    given = training.averages.replace(" ", "")
    with blame("training"):
        averages = tuple(_profile(part, batch_size, fresh) for part in given.split(",") if given)
        averages = averages or (Average(training.ema_rate, training.ema_warmup and fresh),)
        if len(set(averages)) < len(averages):
            raise ValueError(f"averages={training.averages} has a profile twice")
        if training.snapshot_every and not any(isinstance(one, Power) for one in averages):
            raise ValueError(
                f"snapshot_every={training.snapshot_every} keeps power-function averages, and "
                f"averages={training.averages!r} has none; add power:0.05,power:0.10"
            )
    return averages


def _profile(text: str, batch_size: int, fresh: bool) -> Profile:
    name, _, number = text.partition(":")
    make = choose("training.averages", PROFILES, name)
    try:
        value = float(number)
    except ValueError as error:
        raise ValueError(
            f"averages: {text!r} must be a profile and its number, like rate:0.9999 or power:0.05"
        ) from error
    return make(value, batch_size, fresh)
