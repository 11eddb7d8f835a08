"""Losses per noise level of a run, kept as JSON."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from score_sde.errors import UserError
from score_sde.workdir.documents import read_document, write_document
from score_sde.workdir.which import Which, in_name, record_of


def levels_file(workdir: Path, step: Which) -> Path:
    """Where the losses per noise level of a checkpoint lie."""
    return workdir / "eval" / f"levels_step_{in_name(step)}.json"


def save_levels(
    workdir: Path, step: Which, rows: Sequence[Mapping[str, Any]], how: Mapping[str, Any]
) -> Path:
    """Write `rows`, one for each noise level, as `parallel.levels.Levels.rows` gives them.

    `how` says what they depend on: images, seed, ...
    """
    path = levels_file(workdir, step)
    about = record_of(step) | {"unit": "E|sigma score + z|^2/D"} | dict(how)
    write_document(path, about | {"levels": [dict(row) for row in rows]})
    return path


def load_levels(workdir: Path, step: Which) -> dict[str, Any] | None:
    """What `save_levels` wrote, or None where it has not been made.

    Raises UserError for a file that is something else.
    """
    path = levels_file(workdir, step)
    if not path.exists():
        return None
    again = "Remove it; --mode eval makes it again."
    number = (float, type(None))
    row = {"heldout": number} | {f"{name}?": number for name in ("train", "gap", "gap_error")}
    try:
        found = read_document(path, {"levels": [row], "images?": int, "weights?": str}, again)
    except UserError as error:
        raise UserError(f"{path} does not hold losses per noise level: {error}") from error
    if not found["levels"]:
        raise UserError(f"{path} does not hold losses per noise level. {again}")
    return found
