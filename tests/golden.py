"""Files the tests read from outside the repository, and the comparison they are judged by.

Reference values of the published implementations and small public data sets are too large to be
kept here. They are looked for in `../shared/golden` and `../shared/data` beside the checkout, or
where the environment variables SCORE_SDE_GOLDEN and SCORE_SDE_DATA point. A test whose file is
absent is skipped, and the message says where it looked.

    from golden import assert_close, cases, golden, load, meta
"""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


def _where(variable: str, folder: str) -> Path:
    return Path(os.environ.get(variable) or REPOSITORY.parent / "shared" / folder)


def _root(variable: str, folder: str) -> Path:
    path = _where(variable, folder)
    if not path.is_dir():
        pytest.skip(f"no folder {path}; set {variable} to the folder that holds the {folder} files")
    return path


def golden(name: str = "") -> Path:
    """Path of a file or folder of reference values; skips the test if absent.

    An example is `math/losses_ncsn.npz`.
    """
    path = _root("SCORE_SDE_GOLDEN", "golden") / name
    if not path.exists():
        pytest.skip(
            f"no reference values at {path}; set SCORE_SDE_GOLDEN to the folder that holds them"
        )
    return path


def cases(pattern: str, where: Callable[[Mapping], bool] = lambda arrays: True) -> list[Any]:
    """Names of all npz files of reference values that match, for `pytest.mark.parametrize`.

    `pattern` is a path with `*` in it, say `math/samplers_pc_*.npz`; names lack the suffix.
    `where` chooses files by their arrays. Where there are none, the test is skipped with a message.
    """
    root = _where("SCORE_SDE_GOLDEN", "golden")
    found = []
    for path in sorted(root.glob(pattern)):
        with np.load(path, allow_pickle=False) as arrays:
            if where(arrays):
                found.append(path.relative_to(root).with_suffix("").as_posix())
    return found or _absent(root, pattern)


def load(name: str) -> dict[str, np.ndarray]:
    """All arrays of one npz file of reference values (the suffix .npz may be left out)."""
    path = golden(name if name.endswith(".npz") else f"{name}.npz")
    with np.load(path, allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


def meta(arrays: Mapping[str, np.ndarray]) -> Any:
    """The JSON document kept beside the arrays under the key `meta`."""
    return json.loads(str(arrays["meta"]))


def names(*patterns: str) -> list[Any]:
    """Names of the npz files of reference values that match, for `pytest.mark.parametrize`.

    They are looked for when tests are collected. Where there are none, one skipped case says so.

        @pytest.mark.parametrize("file", names("math/ode_sample_*"))
    """
    root = _where("SCORE_SDE_GOLDEN", "golden")
    found = {path for pattern in patterns for path in root.glob(f"{pattern}.npz")}
    listed = sorted(path.relative_to(root).with_suffix("").as_posix() for path in found)
    return listed or _absent(root, " or ".join(patterns))


def groups(name: str, ending: str) -> list[Any]:
    """Every G of an npz file of reference values with an array named G + `ending`, as `names`."""
    path = _where("SCORE_SDE_GOLDEN", "golden") / f"{name}.npz"
    if not path.exists():
        return _absent(path.parent, path.name)
    with np.load(path, allow_pickle=False) as file:
        return [key.removesuffix(ending) for key in file.files if key.endswith(ending)]


def document(name: str) -> Any:
    """A JSON file of reference values, when tests are collected; None where it is absent."""
    path = _where("SCORE_SDE_GOLDEN", "golden") / name
    return json.loads(path.read_text()) if path.exists() else None


def _absent(where: Path, what: str) -> list[Any]:
    reason = f"no {what} in {where}; set SCORE_SDE_GOLDEN to the folder that holds them"
    return [pytest.param("absent", marks=pytest.mark.skip(reason=reason))]


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
