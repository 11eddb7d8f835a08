"""The folders of reference values of published networks: found when tests are collected.

Tests name no folder: they say what they need, and a folder of the same layout with other cases,
seeds, sizes and options passes too. `nets/CODE/CASE` holds config.json, io.npz and a checkpoint of
the code CODE.
"""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from golden import REPOSITORY, golden

ROOT = Path(os.environ.get("SCORE_SDE_GOLDEN") or REPOSITORY.parent / "shared" / "golden") / "nets"


def listed(pattern: str, keep: Callable[[str], bool] = lambda name: True) -> list[Any]:
    """Names below `nets` of all files that match; one skipped case where there are none."""
    found = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob(pattern))
    found = [name for name in found if keep(name)]
    reason = (
        f"no reference values {pattern} for this test in {ROOT}; set SCORE_SDE_GOLDEN to the "
        "folder that holds them"
    )
    return found or [pytest.param("absent", marks=pytest.mark.skip(reason=reason))]


def folders(*families: str, code: str = "*") -> list[Any]:
    """CODE/CASE of the score networks of these families: "ncsnpp", "ddpm", "ncsn", "ncsnv2"."""
    names = listed(f"{code}/*/io.npz", lambda name: _family(str(Path(name).parent)) in families)
    return [str(Path(name).parent) if isinstance(name, str) else name for name in names]


def _family(folder: str) -> str:
    if not (ROOT / folder / "config.json").is_file():
        return ""
    return network_name(folder).split("_")[0]


def find(code: str, **entries: Any) -> str:
    """The first CODE/CASE whose configuration has these entries ("section__name"=value).

    Where there is none, a name that `golden` skips.
    """
    for name in sorted(ROOT.glob(f"{code}/*/config.json")):
        folder = f"{name.parent.parent.name}/{name.parent.name}"
        config = json.loads(name.read_text())
        values = {
            key: config.get(key.split("__")[0], {}).get(key.split("__")[1]) for key in entries
        }
        if values == entries:
            return folder
    return f"{code}/a case with {entries}"


def config_of(folder: str) -> dict[str, Any]:
    """The published configuration."""
    return json.loads((golden(f"nets/{folder}") / "config.json").read_text())


def network_name(folder: str) -> str:
    """The published name of a score network ("ncsnpp", "ncsnv2_64", ...); "" for a dequantizer."""
    config = json.loads((ROOT / folder / "config.json").read_text())
    if "model" not in config:
        return ""
    return config["model"].get("name") or folder.split("/")[0]


def checkpoint(folder: str) -> Path:
    """The one checkpoint in a folder of reference values."""
    files = sorted(golden(f"nets/{folder}").iterdir())
    (path,) = (path for path in files if path.suffix not in (".json", ".npz"))
    return path


def is_torch(folder: str) -> bool:
    """Whether PyTorch wrote the checkpoint, so that images are (batch, channels, height, width)."""
    return checkpoint(folder).suffix == ".pth"


def arrays_of(folder: str) -> dict[str, np.ndarray]:
    """Inputs and outputs, images as (batch, height, width, channels)."""
    torch = is_torch(folder)
    with np.load(golden(f"nets/{folder}") / "io.npz") as file:
        arrays = {key: file[key] for key in file.files}
    return {k: a.transpose(0, 2, 3, 1) if torch and a.ndim == 4 else a for k, a in arrays.items()}


def noise_of(arrays: Mapping[str, np.ndarray]) -> float:
    """Rounding of the published float32 values, relative to each sample's size; at least 5e-7."""
    return max(one_digit(relative_error(arrays["output"], arrays["output_f64"])), 5e-7)


def one_digit(value: float) -> float:
    """The value rounded to one digit, as the folder's README lists them."""
    return float(f"{value:.0e}")


def relative_error(actual: np.ndarray, expected: np.ndarray) -> float:
    """Largest deviation of images, relative to each sample's largest value."""
    axes = (1, 2, 3)
    error = np.abs(np.asarray(actual, np.float64) - expected).max(axis=axes)
    return float((error / np.abs(expected).max(axis=axes)).max())
