"""The training of the classifier that config.classifier describes."""

import dataclasses

from score_sde.build.experiment import Experiment
from score_sde.build.names import blame
from score_sde.build.objective import TIMES
from score_sde.build.task import build_averages, build_optimizer
from score_sde.networks import WideResNet
from score_sde.training.classifier import Classification
from score_sde.training.step import Trainer

NETWORK_NAMES = ("depth", "widen", "nf", "dropout")
"""Entries of config.classifier that are the network's."""


def build_classifier(experiment: Experiment, classes: int) -> tuple[Classification, Trainer]:
    """The task of telling noisy images of so many classes apart, and its trainer.

    The optimizer is the score model's, but for the rate `lr`, and so is the first average.

    Raises:
        UserError: a network that cannot be made.
    """
    settings, process = experiment.settings, experiment.process
    section, data = settings.classifier, settings.data
    optim = dataclasses.replace(settings.optim, lr=section.lr)
    with blame("classifier"):
        values = {name: getattr(section, name) for name in NETWORK_NAMES}
        times = TIMES["uniform"](process, settings.training)
        network = WideResNet(num_classes=classes, **values)
        task = Classification(network, process, times, data.std, not data.centered)
        averages = build_averages(settings.training, section.batch_size)[:1]
        trainer = Trainer(build_optimizer(optim), averages)
        trainer.like(task, experiment.shape)
    return task, trainer
