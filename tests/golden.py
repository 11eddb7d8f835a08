"""Files the tests read from outside the repository, and the comparison they are judged by.

Reference values of the published implementations and small public data sets are too large to be kept
here. They are looked for in `../shared/golden` and `../shared/data` beside the checkout, or where the
environment variables SCORE_SDE_GOLDEN and SCORE_SDE_DATA point. A test whose file is absent is skipped,
and the message says where it looked.

    from golden import assert_close, golden, load, meta
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


def _root(variable: str, folder: str) -> Path:
    path = Path(os.environ.get(variable) or REPOSITORY.parent / "shared" / folder)
    if not path.is_dir():
        pytest.skip(f"no folder {path}; set {variable} to the folder that holds the {folder} files")
    return path


def golden(name: str = "") -> Path:
    """Path of a file or folder of reference values, say `math/losses_ncsn.npz`; skips the test if absent."""
    path = _root("SCORE_SDE_GOLDEN", "golden") / name
    if not path.exists():
        pytest.skip(f"no reference values at {path}; set SCORE_SDE_GOLDEN to the folder that holds them")
    return path


def load(name: str) -> dict[str, np.ndarray]:
    """All arrays of one npz file of reference values (the suffix .npz may be left out)."""
    path = golden(name if name.endswith(".npz") else f"{name}.npz")
    with np.load(path, allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


def meta(arrays: dict[str, np.ndarray]) -> Any:
    """The JSON document kept beside the arrays under the key `meta`."""
    return json.loads(str(arrays["meta"]))


def data_root() -> Path:
    """Folder with the small public data sets (`mnist/`, `tfds/`, ...); skips the test if absent."""
    return _root("SCORE_SDE_DATA", "data")


def assert_close(actual: Any, desired: Any, rtol: float, name: str = "value") -> None:
    """Assert max |a - b| / (1 + |b|) <= rtol, over arrays of one shape without NaN or infinity."""
    a, b = np.asarray(actual), np.asarray(desired)
    if a.shape != b.shape:
        raise AssertionError(f"{name}: shape {a.shape}, expected {b.shape}")
    wide = np.complex128 if np.iscomplexobj(a) or np.iscomplexobj(b) else np.float64
    a, b = a.astype(wide), b.astype(wide)
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise AssertionError(
            f"{name}: {(~np.isfinite(a)).sum()} of {a.size} entries are not finite"
            f" (expected values: {(~np.isfinite(b)).sum()})"
        )
    if a.size == 0:
        raise AssertionError(f"{name}: nothing to compare, shape {a.shape}")
    error = np.abs(a - b) / (1 + np.abs(b))
    worst = np.unravel_index(np.argmax(error), error.shape)
    if not error[worst] <= rtol:
        where = tuple(int(i) for i in worst)
        raise AssertionError(
            f"{name}: |a-b|/(1+|b|) = {error[worst]:.3e} > {rtol:.1e} at {where}:"
            f" got {a[worst]}, expected {b[worst]}; mean {error.mean():.3e},"
            f" {int((error > rtol).sum())} of {error.size} entries differ"
        )
