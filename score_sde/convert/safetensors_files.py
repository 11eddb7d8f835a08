"""Safetensors files: arrays by name, with texts about them."""

import os
from collections.abc import Mapping
from pathlib import Path

import ml_dtypes  # noqa: F401, NumPy learns bfloat16 from it
import numpy as np

from score_sde.errors import UserError
from score_sde.files import write_whole

TYPES = ("F64", "F32", "F16", "BF16")
"""Types of arrays that weights can have, as headers call them."""


def read_safetensors(path: str | os.PathLike) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """(arrays by name, texts by name) of a safetensors file.

    The header is checked by the library: lengths, shapes, and that arrays neither overlap nor leave
    gaps.

    Raises:
        UserError: an array of another type than `TYPES`.
        Exception: others for damaged files; `score_sde.convert.read_file` turns all of them into a
            UserError.
    """
    from safetensors import safe_open

    arrays = {}
    with safe_open(path, framework="numpy") as file:
        for name in file.keys():  # noqa: SIM118, it is no dictionary
            kind = file.get_slice(name).get_dtype()
            if kind not in TYPES:
                shown = ascii(name)[1:-1][:100]
                raise UserError(f"{shown} is of type {kind}; weights here are {', '.join(TYPES)}")
            arrays[name] = file.get_tensor(name)
        return arrays, file.metadata() or {}


def write_safetensors(
    path: Path, arrays: Mapping[str, np.ndarray], texts: Mapping[str, str]
) -> None:
    """Write arrays and texts about them; the file appears when it is complete."""
    from safetensors.numpy import save_file

    whole = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    write_whole(Path(path), lambda temporary: save_file(whole, temporary, dict(texts)))
