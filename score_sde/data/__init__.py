"""Images: pixel ranges, random-access sources, published crops and resizes, and the Grain pipeline.

`pipeline` imports Grain (over a second), so it is not imported here: `from score_sde.data import pipeline`.
"""

from score_sde.data.pixels import PixelRange
from score_sde.data.sources import (
    ArraySource,
    FolderSource,
    Mapped,
    Source,
    TFDSSource,
    digits,
    fingerprint,
    in_memory,
    take,
)
from score_sde.data.transforms import center_crop, crop_resize, resize, resize_crop

__all__ = [
    "ArraySource",
    "FolderSource",
    "Mapped",
    "PixelRange",
    "Source",
    "TFDSSource",
    "center_crop",
    "crop_resize",
    "digits",
    "fingerprint",
    "in_memory",
    "resize",
    "resize_crop",
    "take",
]
