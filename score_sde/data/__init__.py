"""Images: pixel ranges, random-access sources, published crops and resizes, batches, the pipeline.

`pipeline` imports Grain (over a second), so it is not imported here. Write
`from score_sde.data import pipeline`.
"""

from score_sde.data.batch import Batch
from score_sde.data.folders import FolderSource
from score_sde.data.phantoms import PhantomSource, phantom
from score_sde.data.pixels import PixelRange
from score_sde.data.prepared import PreparedSource
from score_sde.data.ranges import ComplexRange, RealRange
from score_sde.data.sources import (
    ArraySource,
    Mapped,
    Source,
    classes,
    digits,
    fingerprint,
    in_memory,
    take,
)
from score_sde.data.tfds import TFDSSource
from score_sde.data.transforms import center_crop, crop_resize, resize, resize_crop

__all__ = [
    "ArraySource",
    "Batch",
    "ComplexRange",
    "FolderSource",
    "Mapped",
    "PhantomSource",
    "PixelRange",
    "PreparedSource",
    "RealRange",
    "Source",
    "TFDSSource",
    "center_crop",
    "classes",
    "crop_resize",
    "digits",
    "fingerprint",
    "in_memory",
    "phantom",
    "resize",
    "resize_crop",
    "take",
]
