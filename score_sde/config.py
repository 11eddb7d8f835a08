"""Configurations: loading a file, applying command-line overrides, keeping the resolved one as JSON.

A configuration file defines `get_config(dataset)` and returns an `ml_collections.ConfigDict`; "FILE:DATASET" chooses the
data set. What the entries mean is `build.py`'s business alone.
"""

import ast
import difflib
import importlib.util
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import ml_collections

from score_sde.errors import UserError
from score_sde.files import write_whole


def load(location: str) -> ml_collections.ConfigDict:
    """The configuration of "FILE.py", "FILE.py:DATASET", or "config.json" of a run."""
    path, _, dataset = location.partition(":")
    if path.endswith(".json"):
        return load_json(Path(path))
    if not Path(path).is_file():
        near = [str(p) for p in sorted(Path("configs").glob("*/*.py"))]
        raise UserError(
            f"there is no configuration file {path!r}. Known: {', '.join(near) or 'none in ./configs'}"
        )
    spec = importlib.util.spec_from_file_location("_score_sde_config", path)
    if spec is None or spec.loader is None:
        raise UserError(
            f"{path} is no Python file; an existing run is named with --workdir, without --config"
        )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise UserError(f"{path} defines no get_config(dataset), so it is no configuration file")
    try:
        return module.get_config(dataset) if dataset else module.get_config()
    except ValueError as error:
        raise UserError(str(error)) from error


def override(config: ml_collections.ConfigDict, assignments: Iterable[tuple[str, str]]) -> None:
    """Set entries in place from (dotted name, text) pairs, as in --config.training.batch_size=64.

    The text becomes a value of the type the entry has. Raises UserError for an unknown name or another type.
    """
    for name, text in assignments:
        *sections, key = name.split(".")
        section = config
        for part in sections:
            section = _entry(section, part, name)
            if not isinstance(section, ml_collections.ConfigDict):
                raise UserError(f"config.{name}: {part} is a value, not a section")
        old = _entry(section, key, name)
        if isinstance(old, ml_collections.ConfigDict):
            raise UserError(f"config.{name} is a section; set one of its entries: {', '.join(sorted(old))}")
        section[key] = _parse(name, old, text)


def _entry(section: ml_collections.ConfigDict, key: str, name: str) -> Any:
    if key in section:
        return section[key]
    close = difflib.get_close_matches(key, list(section), n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise UserError(f"config.{name}: unknown name {key!r}.{hint} Known here: {', '.join(sorted(section))}")


def _parse(name: str, old: Any, text: str) -> Any:
    kind = type(old)
    if kind is str:
        return text
    if not text:
        raise UserError(f"config.{name} needs a value, like --config.{name}={old!r}")
    try:
        value = ast.literal_eval(text.capitalize() if kind is bool else text)
    except (ValueError, SyntaxError):
        value = text
    if kind is float and type(value) is int:
        value = float(value)
    if kind is int and type(value) is float and value.is_integer():
        value = int(value)  # 1e6 steps
    if kind is tuple and type(value) in (list, int, float):
        value = tuple(value) if isinstance(value, list) else (value,)
    if type(value) is not kind:
        raise UserError(f"config.{name} must be of type {kind.__name__}, like {old!r}; got {text!r}")
    return value


_RESTORE = "Restore it, or delete it and train again with the same --config: checkpoints are kept."


def save(config: ml_collections.ConfigDict, path: Path) -> None:
    """Write the resolved configuration as JSON, whole or not at all."""
    write_whole(path, lambda temporary: temporary.write_text(json.dumps(config.to_dict(), indent=2) + "\n"))


def load_json(path: Path) -> ml_collections.ConfigDict:
    """Read what `save` wrote. Raises UserError where the file is missing or damaged."""
    try:
        values = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(
            f"{path.parent} holds no config.json: it is not the working directory of a run. Train first, or name the run "
            "with --workdir."
        ) from error
    except ValueError as error:  # not JSON, or not even text
        raise UserError(f"{path} is damaged ({error}). {_RESTORE}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} is damaged (it holds {type(values).__name__}, not sections). {_RESTORE}")
    return ml_collections.ConfigDict(_tuples(values))


def differences(a: ml_collections.ConfigDict, b: ml_collections.ConfigDict) -> dict[str, tuple[Any, Any]]:
    """Dotted names of entries that differ, with both values (None where missing)."""
    left, right = dict(_flat(a.to_dict())), dict(_flat(b.to_dict()))
    names = sorted(left.keys() | right.keys())
    return {n: (left.get(n), right.get(n)) for n in names if left.get(n) != right.get(n)}


def _flat(values: dict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _tuples(values: Any) -> Any:
    if isinstance(values, dict):
        return {key: _tuples(value) for key, value in values.items()}
    return tuple(values) if isinstance(values, list) else values
