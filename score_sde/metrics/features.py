"""Feature extractors: functions image -> features, with a name and a checksum.

The two tell numbers apart.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, UInt8


class Features(NamedTuple):
    """What an extractor makes of n images.

    pool: (n, d), for distances; logits: (n, classes), or None without classes.
    """

    pool: Float[Array | np.ndarray, "n d"]
    logits: Float[Array | np.ndarray, "n classes"] | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Extractor:
    """`extractor(images) -> features` of 8-bit images 0 .. 255, grey or colour.

    The images are (n, height, width, channels).

    Args:
        name: "inception", "mnist", ...: what numbers made with it are called after.
        checksum: SHA-256 of its weights (hex); features of other checksums are not comparable.
        preprocessing: in words, what happens to an image before the first layer.
        fn: images -> `Features`.
        compiled: whether `fn` can be traced and compiled by jax; else it is called with numpy
            arrays as it is.
    """

    name: str
    checksum: str
    preprocessing: str
    fn: Callable[[Any], Features]
    compiled: bool = True

    @property
    def identity(self) -> dict[str, Any]:
        """What features depend on beside the images."""
        return {
            "extractor": self.name,
            "checksum": self.checksum,
            "preprocessing": self.preprocessing,
        }

    def __call__(self, images: UInt8[Array | np.ndarray, "n h w c"]) -> Features:
        """Features of one batch, as float32 on the host; one compilation for each shape."""
        found = self._compiled(images) if self.compiled else self.fn(images)
        logits = None if found.logits is None else np.asarray(found.logits, np.float32)
        return Features(np.asarray(found.pool, np.float32), logits)

    @functools.cached_property
    def _compiled(self):
        return jax.jit(self.fn)
