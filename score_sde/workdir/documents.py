"""The one writer and reader of the small JSON files of a run.

Each has an entry `digest` of all others. The reader compares it, and checks what a caller needs.
Files of older versions have none, nor those that someone edits and means it.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from score_sde.errors import UserError
from score_sde.files import as_read, kind_of, write_json

DIGEST = "digest"
EDITED = "if someone edited it, and means it, the entry `digest` must be removed"
DEEPEST = 50
NAMES = {dict: "an object", list: "a list", str: "a text", int: "an integer", float: "a number"}
NAMES |= {bool: "true or false", type(None): "null"}


def write_document(path: Path, values: Mapping[str, Any]) -> None:
    """Write an object as JSON with its digest, whole or not at all; what is nan becomes null."""
    plain = as_read(values)
    write_json(path, plain | {DIGEST: _digest(plain)})


def _digest(values: Mapping[str, Any]) -> str:
    """Of the values; blanks and the order of entries do not matter."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).hexdigest()


def read_document(path: Path, like: Mapping[str, Any], advice: str) -> dict[str, Any]:
    """The object in a JSON file, without its digest.

    Args:
        path: the file.
        like: entries and what they must be: a type, a tuple of types, a mapping of the same kind,
            or a list of one such thing for a list of them. A name with "?" may be missing.
        advice: what to do where the file is damaged.

    Raises:
        UserError: it is missing, no file, no JSON, no object, too deep, not as it was written, or
            an entry is something else.
    """
    try:
        if (kind := kind_of(path)) not in ("", "missing"):
            raise ValueError(f"it is {kind}")
        found = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
        _check_depth(found)
        if isinstance(found, dict) and found.pop(DIGEST, None) not in (None, _digest(found)):
            raise ValueError(f"it is not as it was written: {EDITED}")
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
