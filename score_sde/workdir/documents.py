"""The one reader of the small JSON files of a run: it checks what a caller needs of them."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from score_sde.errors import UserError
from score_sde.files import kind_of

DEEPEST = 50
NAMES = {dict: "an object", list: "a list", str: "a text", int: "an integer", float: "a number"}
NAMES |= {bool: "true or false", type(None): "null"}


def read_document(path: Path, like: Mapping[str, Any], advice: str) -> dict[str, Any]:
    """The object in a JSON file.

    Args:
        path: the file.
        like: entries and what they must be: a type, a tuple of types, a mapping of the same kind,
            or a list of one such thing for a list of them. A name with "?" may be missing.
        advice: what to do where the file is damaged.

    Raises:
        UserError: it is missing, no file, no JSON, no object, too deep, or an entry is something
            else.
    """
    try:
        if (kind := kind_of(path)) not in ("", "missing"):
            raise ValueError(f"it is {kind}")
        found = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
        _check_depth(found)
        _check(found, dict(like), "the whole file")
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0][:200]
        raise UserError(f"{path} is damaged ({reason}). {advice}") from error
    return found


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number of JSON")


def _check_depth(value: Any) -> None:
    inner = [value]
    for _ in range(DEEPEST):
        inner = [
            part
            for one in inner
            for part in (
                one.values() if isinstance(one, dict) else one if isinstance(one, list) else ()
            )
        ]
    if inner:
        raise ValueError(f"it is nested more than {DEEPEST} deep")


def _check(value: Any, like: Any, place: str) -> None:
    if isinstance(like, Mapping):
        _check(value, dict, place)
        for name, inner in like.items():
            key = name.removesuffix("?")
            if key in value:
                _check(value[key], inner, f"{place}, `{key}`")
            elif key == name:
                raise ValueError(f"{place} lacks `{key}`")
    elif isinstance(like, list):
        _check(value, list, place)
        for number, one in enumerate(value):
            _check(one, like[0], f"{place}, number {number}")
    elif not any(_is(value, kind) for kind in (like if isinstance(like, tuple) else (like,))):
        kinds = like if isinstance(like, tuple) else (like,)
        wanted = " or ".join(NAMES[kind] for kind in kinds)
        raise ValueError(f"{place} is {json.dumps(value)[:60]}, not {wanted}")


def _is(value: Any, kind: type) -> bool:
    if isinstance(value, bool):
        return kind is bool
    if kind is not float:
        return isinstance(value, kind)
    try:
        return isinstance(value, int | float) and math.isfinite(value)
    except OverflowError:
        return False
