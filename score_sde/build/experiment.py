"""The objects of one run, and what settings leave open about them."""

import dataclasses
from typing import Any

from score_sde.build.network import model_defaults
from score_sde.build.process import process_defaults
from score_sde.build.settings import Section, Settings, typed
from score_sde.data import PixelRange
from score_sde.sampling import Sampler
from score_sde.sde import Perturbation
from score_sde.training.step import ScoreMatching, ScoreModel, Trainer


@dataclasses.dataclass(frozen=True, eq=False)
class Experiment:
    """The objects of one run, made by `assemble.build`.

    settings: what they were made of. shape: (height, width, channels) of an image.
    """

    settings: Settings
    process: Perturbation
    model: ScoreModel
    task: ScoreMatching
    trainer: Trainer
    sampler: Sampler
    pixel_range: PixelRange
    shape: tuple[int, int, int]


def complete(settings: Settings) -> Settings:
    """The settings with every entry of the process and the network, by default the objects' own.

    So an entry that a process or network got later can be set in older runs, where it is missing.

    Raises:
        UserError: an unknown process or network, or a value of another type than the default's.
    """
    sde = _with_defaults("sde", process_defaults(settings.sde.name), settings.sde)
    model = _with_defaults("model", model_defaults(settings.model.name), settings.model)
    return settings.change("sde", **sde).change("model", **model)


def _with_defaults(place: str, defaults: dict[str, Any], section: Section) -> dict[str, Any]:
    given = {
        name: typed(f"config.{place}.{name}", defaults[name], value) if name in defaults else value
        for name, value in section.to_dict().items()
    }
    return defaults | given
