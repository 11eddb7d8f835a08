"""What config.eval.metrics may name, and the extractor that config.quality names."""

import functools
from pathlib import Path

import jax

from score_sde.build.settings import Eval, Quality, Settings
from score_sde.data.image_sets import labelled_images
from score_sde.errors import UserError
from score_sde.metrics.extractors import make_extractor
from score_sde.metrics.features import Extractor
from score_sde.metrics.measures import MEASURES
from score_sde.metrics.weights import inception_file

METRICS = ("loss", "levels", "bits", *MEASURES)
"""What config.eval.metrics may name."""


def metric_names(section: Eval) -> list[str]:
    """config.eval.metrics as names; raises UserError for unknown ones, or none."""
    names = [name.strip() for name in section.metrics.split(",") if name.strip()]
    unknown = [name for name in names if name not in METRICS]
    if unknown or not names:
        raise UserError(
            f"config.eval.metrics: {', '.join(unknown) or 'nothing'} is no metric; known, with "
            f"commas between them: {', '.join(METRICS)}"
        )
    return names


def extractor_of(settings: Settings) -> Extractor:
    """The extractor of config.quality, fetched or trained if it is not there yet."""
    data_dir = settings.data.path or None if settings.data.source == "mnist" else None
    load_data = functools.partial(labelled_images, data_dir=data_dir)
    section = settings.quality
    return make_extractor(section.extractor, _weights(section), load_data)


def extractor_at_hand(section: Quality) -> Extractor | None:
    """The same, or None where it would have to be fetched or trained first, or takes long.

    Inception takes long on CPUs.
    """
    weights = _weights(section)
    if section.extractor == "inception":
        here = weights is not None or inception_file().exists()
        if jax.default_backend() == "cpu" or not here:
            return None

    def load_data(name: str):
        raise LookupError(name)

    try:
        return make_extractor(section.extractor, weights, load_data)
    except LookupError:
        return None


def _weights(section: Quality) -> Path | None:
    return Path(section.weights).expanduser() if section.weights else None
