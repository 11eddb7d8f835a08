"""Feature extractors by name."""

import hashlib
import os
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from score_sde.errors import UserError
from score_sde.metrics.features import Extractor, Features
from score_sde.metrics.frechet import small_pixels
from score_sde.metrics.inception import inception
from score_sde.metrics.small import Labelled, small_extractor

CLASSIFIERS = ("mnist", "digits")
NAMES = ("inception", *CLASSIFIERS, "pixels")


def make_extractor(
    name: str, weights: Path | None = None, load_data: Callable[[str], Labelled] | None = None
) -> Extractor:
    """The extractor called `name`.

    Args:
        name: "inception"; "mnist" or "digits", small classifiers that are trained on first use;
            "pixels", averaged to at most 16 x 16; or FILE.py:FUNCTION, a function of yours. It gets
            uint8 images (n, height, width, channels). It gives numpy arrays: features (n, d), or
            the pair of features and logits (n, classes).
        weights: a weights file for "inception" or a classifier.
        load_data: name of a classifier -> its training images, levels 0 .. 255, and labels.

    Raises:
        UserError: unknown names, weights for an extractor without any, and whatever is wrong with a
            file.
    """
    file, colon, function = name.rpartition(":")
    if colon and file.endswith(".py"):
        _refuse_weights(name, weights)
        return _users(Path(file).expanduser(), function)
    if name == "inception":
        return inception(weights)
    if name in CLASSIFIERS:

        def load() -> Labelled:
            if load_data is None:
                raise UserError(
                    f"extractor {name!r} must be trained first, and there are no images to train "
                    "it on"
                )
            return load_data(name)

        return small_extractor(name, load, weights=weights)
    if name == "pixels":
        _refuse_weights(name, weights)
        text = "levels 0 .. 255 divided by 255, averaged over squares to at most 16 x 16"
        return Extractor(
            name, hashlib.sha256(text.encode()).hexdigest(), text, _pixels, compiled=False
        )
    raise UserError(
        f"no extractor is called {name!r}; there are {', '.join(NAMES)}, and FILE.py:FUNCTION for "
        "your own"
    )


def _refuse_weights(name: str, weights: Path | None) -> None:
    if weights is not None:
        raise UserError(f"extractor {name!r} takes no weights file; leave out {weights}")


def _pixels(images) -> Features:
    return Features(small_pixels(np.asarray(images, np.float32) / 255))


def _users(path: Path, name: str) -> Extractor:
    """The user's own function."""
    if not os.path.isfile(path):
        raise UserError(f"extractor file {path} does not exist")
    source = path.read_bytes()
    module = types.ModuleType(path.stem)
    module.__file__ = str(path)
    try:
        exec(compile(source, str(path), "exec"), vars(module))
    except Exception as error:
        raise UserError(f"extractor file {path} cannot be run ({_said(error)}); mend it") from error
    function = getattr(module, name, None)
    if not callable(function):
        there = ", ".join(
            key for key, value in vars(module).items() if callable(value) and key[0] != "_"
        )
        raise UserError(f"extractor file {path} has no function {name!r}; it has {there or 'none'}")

    def fn(images) -> Features:
        try:
            found = function(images)
        except Exception as error:
            raise UserError(
                f"{path}:{name} failed on images of shape {images.shape} ({_said(error)})"
            ) from error
        pair = found if isinstance(found, tuple) else (found, None)
        if len(pair) != 2:
            raise UserError(
                f"{path}:{name} must give features or (features, logits); it gave {len(pair)} "
                "things"
            )
        return Features(
            _checked(f"{path}:{name}: features", pair[0], len(images)),
            None if pair[1] is None else _checked(f"{path}:{name}: logits", pair[1], len(images)),
        )

    return Extractor(
        f"{path.name}:{name}", hashlib.sha256(source).hexdigest(), "the user's", fn, compiled=False
    )


def _checked(what: str, array: Any, n: int) -> np.ndarray:
    values = np.asarray(array)
    if (
        values.ndim != 2
        or len(values) != n
        or not values.shape[1]
        or values.dtype.kind not in "fiu"
    ):
        raise UserError(
            f"{what} must be numbers of shape (n, d), a row for each of the {n} images; they are "
            f"{values.dtype} of shape {values.shape}"
        )
    return values.astype(np.float32)


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
