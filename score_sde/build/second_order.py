"""The training of the second-order score that config.second_order describes."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import PyTree

from score_sde.build.experiment import Experiment
from score_sde.build.names import blame
from score_sde.build.sections import SecondOrderSettings
from score_sde.build.task import build_averages, build_optimizer
from score_sde.curvature import CurvatureParameterization
from score_sde.curvature.operators import LARGEST
from score_sde.errors import UserError
from score_sde.networks import SecondOrderMLP, SecondOrderUNet
from score_sde.objectives import (
    DenoisingScoreMatching,
    JointDenoising,
    LogNoise,
    SecondOrderDenoising,
    curvature_weight,
    variance_weight,
)
from score_sde.sde import Perturbation, noise_range
from score_sde.training.second_order import SecondOrderMatching
from score_sde.training.step import Trainer

NETWORKS: dict[str, Callable[[SecondOrderSettings, int | None], nn.Module]] = {
    "unet": lambda section, rank: SecondOrderUNet(
        rank, section.nf, section.ch_mult, section.blocks
    ),
    "mlp": lambda section, rank: SecondOrderMLP(rank, section.nf, section.blocks),
}
"""By the name in config.second_order.network."""


def build_second_order(
    experiment: Experiment, params: PyTree
) -> tuple[SecondOrderMatching, Trainer]:
    """The task of fitting config.second_order's network to a score model, and its trainer.

    `params` are the score model's, or those it begins with where config.second_order.gamma > 0
    trains it on. The optimizer is the score model's too, but for the rate `lr`, and so is the first
    average.

    Raises:
        UserError: noise levels that the process has not, whole matrices of too many pixels, or a
            network that cannot be made.
    """
    settings, process = experiment.settings, experiment.process
    section, data, d = settings.second_order, settings.data, math.prod(experiment.shape)
    if section.form == "full" and d > LARGEST:
        raise UserError(
            f"config.second_order.form=full takes {d} x {d} numbers for each image of shape "
            f"{experiment.shape}, more than {LARGEST} x {LARGEST}; set second_order.form=lowrank"
        )
    widths = section.ch_mult
    if not widths or any(type(one) is not int or one < 1 for one in widths):
        raise UserError(
            f"config.second_order.ch_mult={widths} must be whole numbers of at least 1, one for "
            "each level, like (1, 2, 2)"
        )
    rank = {"lowrank": section.rank, "diagonal": 0, "full": None}[section.form]
    optim = dataclasses.replace(settings.optim, lr=section.lr)
    with blame("second_order"):
        task = SecondOrderMatching(
            params,
            NETWORKS[section.network](section, rank),
            _parameterization(experiment, rank),
            _objective(section, process),
            experiment.model.score_fn,
            experiment.pixel_range,
            data.dequantize,
        )
        averages = build_averages(settings.training, section.batch_size)[:1]
        trainer = Trainer(build_optimizer(optim), averages)
        trainer.like(task, experiment.shape)
    return task, trainer


def _objective(
    section: SecondOrderSettings, process: Perturbation
) -> SecondOrderDenoising | JointDenoising:
    times = LogNoise(process, *noise_levels(section, process))
    second = SecondOrderDenoising(
        process,
        times,
        curvature_weight(process),
        section.form,
        section.variance_reduced,
        target=section.target,
    )
    if not section.gamma:
        return second
    first = DenoisingScoreMatching(process, times, variance_weight(process), "sum")
    return JointDenoising(first, second, section.gamma)


def noise_levels(section: SecondOrderSettings, process: Perturbation) -> tuple[float, float]:
    """The least and the largest sigma/alpha of config.second_order.

    Raises:
        UserError: they are not in the range of the process, or not in order.
    """
    low, high = noise_range(process)
    least, largest = section.noise_min or low, section.noise_max or high
    within = 0.999 * low <= least < largest <= 1.001 * high  # float32
    if not within or math.isinf(largest):
        raise UserError(
            f"config.second_order.noise_min={section.noise_min:g}, noise_max={section.noise_max:g}:"
            " noise levels sigma/alpha must be finite, in order, and in "
            f"[{low:.4g}, {high:.4g}], the range of the process; 0 stands for its end"
        )
    return least, largest


def _parameterization(experiment: Experiment, rank: int | None) -> CurvatureParameterization:
    """Inputs of the size of 1 at all noise levels, and the label log(sigma/alpha)/4."""
    process, data = experiment.process, experiment.settings.data

    def c_in(t: Any) -> Any:
        alpha, sigma = process.marginal(t)
        return 1 / jnp.sqrt((alpha * data.std) ** 2 + sigma**2)

    return CurvatureParameterization(
        process,
        rank,
        lambda t: -process.log_snr(t) / 8,
        c_in,
        not data.centered,
        experiment.settings.second_order.prediction,
        data.std,
    )
