"""What is trained and how: the objective, the optimizer and the averages of the weights."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from score_sde import objectives
from score_sde.build.names import blame, choose
from score_sde.build.settings import Optim, Training
from score_sde.errors import UserError
from score_sde.objectives.times import TimeSampler
from score_sde.sde import DiscreteChain, GaussianSDE, Perturbation
from score_sde.training.ema import Average
from score_sde.training.step import Trainer

TIMES: dict[str, Callable[[Any], TimeSampler]] = {
    "uniform": lambda process: (
        objectives.UniformIndex(process)
        if isinstance(process, DiscreteChain)
        else objectives.UniformTime(process)
    ),
    "log_snr": objectives.LogSNRUniform,
}


def build_objective(section: Training, process: Perturbation) -> objectives.DenoisingScoreMatching:
    """Denoising score matching with the times, weight and reduction of config.training.

    Raises:
        UserError: an unknown name, or a weighting that a discrete chain has not.
    """
    likelihood = section.likelihood_weighting
    make_times = choose("training.times", TIMES, section.times)
    if isinstance(process, DiscreteChain) and (section.times != "uniform" or likelihood):
        raise UserError(
            "a discrete chain is trained with training.times=uniform and "
            f"training.likelihood_weighting=0; got times={section.times}, "
            f"likelihood_weighting={likelihood}. Use a *_cont recipe for the others."
        )
    with blame("training"):
        weight = objectives.variance_weight(process)
        if isinstance(process, GaussianSDE):
            weight = objectives.interpolated_weight(process, likelihood)
        return objectives.DenoisingScoreMatching(
            process, make_times(process), weight, section.reduce
        )


def build_optimizer(section: Optim) -> optax.GradientTransformation:
    """Adam with linear warm-up and clipping of the global gradient norm (0 turns either off).

    Step n = 0, 1, ... has the rate lr min(1, (n + 1)/warmup); the published codes have n in place
    of n + 1, and so waste the first step.
    """
    lr, warmup = section.lr, max(section.warmup, 1)

    def rate(count: jax.Array) -> jax.Array:
        return lr * jnp.minimum(1.0, (count + 1) / warmup)

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
    """The optimizer and the averages of the weights; there is one average today.

    The warm-up keeps random weights out of the average. A run that begins with the weights and the
    average of another has none: that average goes on.
    """
    warmup = training.ema_warmup and not training.from_run
    averages = (Average(training.ema_rate, warmup),)
    return Trainer(build_optimizer(optim), averages, training.accumulate)
