"""The runs in a folder: how far each is, its loss, its best measure, size and age."""

import datetime
import os
from pathlib import Path
from typing import NamedTuple

from score_sde.errors import UserError
from score_sde.training.checkpoint import saved_steps
from score_sde.viz import read_metrics
from score_sde.workdir import config as configurations
from score_sde.workdir import measurements
from score_sde.workdir.which import order

HEADS = ("run", "recipe", "step", "of", "loss", "held out", "measure", "MiB", "last change")


class Row(NamedTuple):
    """A run, in words, as `HEADS` names them; a run that cannot be read has its error instead.

    changed: seconds since the epoch, of the newest file.
    """

    cells: tuple[str, ...]
    changed: float


def list_rows(root: Path) -> list[Row]:
    """A row of each run below a folder, itself one or not, the one that changed last first."""
    rows = [_row(root, folder) for folder in find_runs(root)]
    return sorted(rows, key=lambda row: -row.changed)


def find_runs(root: Path) -> list[Path]:
    """Folders with a config.json and what training or import leaves; not those inside of runs."""
    found = []
    for place, folders, files in os.walk(root):
        if "config.json" in files and {"checkpoints", "metrics.jsonl"} & {*folders, *files}:
            found.append(Path(place))
            folders.clear()
        folders[:] = sorted(name for name in folders if not name.startswith("."))
    return found


def _row(root: Path, folder: Path) -> Row:
    size, changed = 0, 0.0
    for place, _, files in os.walk(folder):
        for name in files:
            try:
                state = os.stat(os.path.join(place, name))
            except OSError:  # removed meanwhile, as old checkpoints are
                continue
            size, changed = size + state.st_size, max(changed, state.st_mtime)
    name = "." if folder == root else folder.relative_to(root).as_posix()
    when = datetime.datetime.fromtimestamp(changed).isoformat(" ", "minutes")
    ends = (f"{size / 2**20:,.0f}", when)
    try:
        return Row((name, *_told(folder), *ends), changed)
    except UserError as error:
        return Row((name, "cannot be read", *[""] * 4, str(error), *ends), changed)


def _told(folder: Path) -> tuple[str, ...]:
    """Recipe, step, steps in all, training loss, held-out loss, and the deciding measure."""
    settings = configurations.load_json(folder / "config.json")
    log = folder / "metrics.jsonl"
    rows = read_metrics(log) if log.exists() else []
    last = max(
        [*saved_steps(folder / "checkpoints"), *(int(row["step"]) for row in rows)], default=0
    )

    def newest(name: str) -> str:
        values = [row[name] for row in rows if row.get(name) is not None]
        return f"{values[-1]:.4g}" if values else "-"

    return (
        settings.name,
        f"{last:,}",
        f"{settings.training.steps:,}",
        newest("loss"),
        newest("eval_loss"),
        _measure(folder),
    )


def _measure(folder: Path) -> str:
    """What decides of the best checkpoint, else of the newest that was measured."""
    measured = measurements.read(folder)
    best = measurements.best_step(folder)
    which = best if best in measured else max(measured, key=order, default=None)
    if which is None or not measured[which]:
        return "-"
    kinds = {row["metric"]: row for row in reversed(measured[which])}
    row = next((kinds[name] for name in measurements.DECIDING if name in kinds), measured[which][0])
    mark = "best, " if which == best else ""
    return f"{measurements.label(row['metric'])} {row['value']:.4g} ({mark}step {which})"
