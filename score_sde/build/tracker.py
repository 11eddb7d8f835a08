"""What config.training.tracker names."""

import functools

from score_sde.build.settings import Settings
from score_sde.training.trackers import TRACKERS, TensorBoard, Track, package


def build_tracker(settings: Settings) -> Track:
    """What shows the metrics of a run with these settings.

    Raises:
        UserError: its package cannot be imported.
    """
    name = settings.training.tracker
    if name == "tensorboard":
        return TensorBoard
    package(name)
    return functools.partial(TRACKERS[name], config=settings.to_dict())
