"""The classifier of a run: what it depends on, and what guides with it."""

import dataclasses
from typing import Any

from jaxtyping import PyTree

from score_sde.build.classifier import build_classifier
from score_sde.build.settings import Settings
from score_sde.training.classifier import Classification
from score_sde.workdir.companion import own_settings, state_of, trained_with
from score_sde.workdir.run import Run


def classifier_settings(settings: Settings, classes: int) -> dict[str, Any]:
    """What a classifier depends on: the process, its section, and how it is trained."""
    own = {"classes": classes, "sde": settings.sde.to_dict()}
    return own | trained_with(settings, settings.classifier)


def make_classifier(run: Run) -> tuple[Classification, PyTree, int]:
    """(task, averaged weights, step) of the classifier in the run's folder.

    Its own settings count, whatever config.classifier says.

    Raises:
        UserError: there is none.
    """
    settings, there = own_settings(run, "classifier")
    experiment = dataclasses.replace(run.experiment, settings=settings)
    task, trainer = build_classifier(experiment, there["classes"])
    state = state_of(run, "classifier", task, trainer)
    return task, state.averages[0], int(state.step)
