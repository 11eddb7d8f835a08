"""Configurations: finding one, changing entries, keeping the resolved one as JSON.

A configuration file defines `get_config(dataset)` and returns an `ml_collections.ConfigDict`;
"FILE:DATASET" chooses the data set. A recipe of the library needs no file: "vp/ddpmpp_cont:digits".
"""

import ast
import importlib.util
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_collections

from score_sde import recipes
from score_sde.build.experiment import complete
from score_sde.build.settings import Settings, check_names, read, typed
from score_sde.errors import UserError, nearest
from score_sde.files import write_json
from score_sde.workdir.documents import read_document, write_document


def load(location: str) -> Settings:
    """The settings of "FILE.py", "FILE.py:DATASET", "RECIPE:DATASET", or "config.json" of a run.

    A file that exists goes before a recipe of the library; the data set follows its name and a
    colon. "configs/GROUP/NAME.py" is found as the recipe "GROUP/NAME" where there is no such file.

    Raises:
        UserError: there is none of them, or what it describes is wrong.
    """
    if location.endswith(".json"):
        return load_json(Path(location))
    colons = [i for i, letter in enumerate(location) if letter == ":"]
    ends = [end for end in (len(location), *reversed(colons)) if _is_file(location[:end])]
    end = ends[0] if ends else (colons[-1] if colons else len(location))
    path, dataset = location[:end], location[end + 1 :]
    get_config = _from_file(path) if ends else _from_recipes(path)
    try:
        found = get_config(dataset) if dataset else get_config()
    except ValueError as error:
        raise UserError(str(error)) from error
    return of(found)


def _is_file(path: str) -> bool:
    try:
        return Path(path).is_file()
    except OSError:  # a name that is too long
        return False


def of(values: Any) -> Settings:
    """The settings that a ConfigDict or nested dictionaries describe, complete and checked."""
    if isinstance(values, Settings):
        return values
    plain = values.to_dict() if isinstance(values, ml_collections.ConfigDict) else values
    if not isinstance(plain, Mapping):
        raise UserError(
            f"a configuration must be an ml_collections.ConfigDict; got {values!r:.200}"
        )
    return complete(read(plain))


def _from_file(path: str) -> Callable[..., ml_collections.ConfigDict]:
    spec = importlib.util.spec_from_file_location("_score_sde_config", path)
    if spec is None or spec.loader is None:
        raise UserError(
            f"{path} is no Python file; an existing run is named with --workdir, without --config"
        )
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (ImportError, SyntaxError) as error:
        raise UserError(
            f"{path} cannot be read ({type(error).__name__}: {error}). The recipes are in the "
            "package: from score_sde import recipes"
        ) from error
    if not hasattr(module, "get_config"):
        raise UserError(f"{path} defines no get_config(dataset), so it is no configuration file")
    return module.get_config


def _from_recipes(path: str) -> Callable[..., ml_collections.ConfigDict]:
    parts = Path(path.removesuffix(".py")).parts
    name = "/".join(parts[-2:]) if len(parts) == 2 or parts[-3:-2] == ("configs",) else path
    if name not in recipes.RECIPES:
        raise UserError(
            f"there is no configuration file {path!r}, and no recipe of that name."
            f"{nearest(name, [*recipes.RECIPES])} Recipes: {', '.join(recipes.RECIPES)}"
        )
    return recipes.RECIPES[name]


def override(settings: Settings, assignments: Iterable[tuple[str, str]]) -> Settings:
    """Settings with entries from (dotted name, text), as in --config.training.batch_size=64.

    The text becomes a value of the type the entry has.

    Raises:
        UserError: an unknown name, another type, or a value out of range.
    """
    assignments = list(assignments)
    if not assignments:
        return settings
    values = settings.to_dict()
    for name, text in assignments:
        *sections, key = name.split(".")
        section: Any = values
        for part in sections:
            check_names(f"config.{name}", [part], section)
            section = section[part]
            if not isinstance(section, dict):
                raise UserError(f"config.{name}: {part} is a value, not a section")
        check_names(f"config.{name}", [key], section)
        if isinstance(section[key], dict):
            raise UserError(
                f"config.{name} is a section; set one of its entries: "
                f"{', '.join(sorted(section[key]))}"
            )
        section[key] = _parse(name, section[key], text)
    return of(values)


def _parse(name: str, old: Any, text: str) -> Any:
    if isinstance(old, str):
        return text
    if not text:
        raise UserError(f"config.{name} needs a value, like --config.{name}={old!r}")
    try:
        value = ast.literal_eval(text.capitalize() if isinstance(old, bool) else text)
    except (ValueError, SyntaxError):
        value = text
    if isinstance(old, tuple) and type(value) in (int, float):
        value = (value,)
    return typed(f"config.{name}", old, value)


_RESTORE = (
    "Restore it, or delete it and train again with the same --config: checkpoints are kept. "
    "Entries are changed by flags, like --config.sampling.steps=100."
)


def save(settings: Settings, path: Path) -> None:
    """Write the resolved settings as JSON that may be edited, whole or not at all."""
    write_json(path, settings.to_dict())


def keep(settings: Settings, path: Path) -> None:
    """The same for the settings of a run, with a digest: to change them there are flags."""
    write_document(path, settings.to_dict())


def load_json(path: Path) -> Settings:
    """Read what `save` wrote. Raises UserError where the file is missing or damaged."""
    if not path.is_file():
        runs = [other.parent.name for other in path.parent.parent.glob(f"*/{path.name}")]
        raise UserError(
            f"{path.parent} holds no {path.name}: it is not the working directory of a run."
            f"{nearest(path.parent.name, runs)} Name an existing run with --workdir; to train a "
            "new one, say with --config what it is to be."
        )
    return of(_tuples(read_document(path, {}, _RESTORE)))


def differences(a: Settings, b: Settings) -> dict[str, tuple[Any, Any]]:
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
