"""The training of the dequantizer that config.dequantizer describes."""

import dataclasses

from jaxtyping import PyTree

from score_sde import objectives
from score_sde.build.experiment import Experiment
from score_sde.build.names import blame
from score_sde.build.task import build_averages, build_optimizer
from score_sde.errors import UserError
from score_sde.likelihood import Bound
from score_sde.networks import FlowPP
from score_sde.sde import GaussianSDE
from score_sde.training.dequantizer import Dequantization
from score_sde.training.step import Trainer

FLOW_NAMES = (
    *("filters", "components", "blocks", "heads", "couplings"),
    *("context_filters", "context_layers", "context_heads"),
    *("mix_channels", "activate_output"),
)
"""Entries of config.dequantizer that are the flow's."""


def build_dequantizer(experiment: Experiment, params: PyTree) -> tuple[Dequantization, Trainer]:
    """The task of fitting config.dequantizer's flow to a score model, and its trainer.

    `params` are the score model's. The optimizer is the score model's too, but for the rate `lr`,
    and so is the first average.

    Raises:
        UserError: a discrete process, or a flow that cannot be made.
    """
    section, process = experiment.settings.dequantizer, experiment.process
    if not isinstance(process, GaussianSDE):
        raise UserError("a dequantizer is trained with a likelihood bound: train a *_cont recipe")
    optim = dataclasses.replace(experiment.settings.optim, lr=section.lr)
    with blame("dequantizer"):
        flow = FlowPP(**{name: getattr(section, name) for name in FLOW_NAMES})
        task = Dequantization(
            params,
            flow,
            Bound(process, objectives.LogSNRUniform(process)),
            experiment.pixel_range,
            experiment.model.score_fn,
        )
        averages = build_averages(experiment.settings.training, section.batch_size)[:1]
        trainer = Trainer(build_optimizer(optim), averages)
        trainer.like(task, experiment.shape)
    return task, trainer
