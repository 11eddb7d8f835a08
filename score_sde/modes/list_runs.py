"""A table of the runs in a folder: how far each is, its loss, its best measure, size and age."""

from pathlib import Path

from score_sde.devices import say
from score_sde.errors import UserError
from score_sde.workdir.listing import HEADS, Row, list_rows


def main(runs: Path | None = None) -> list[Row]:
    """Print a line for each run below a folder, the one that changed last first.

    Raises:
        UserError: no such folder, or no run in it.
    """
    root = runs or Path("runs")
    if not root.is_dir():
        raise UserError(f"--runs {root} is no folder; name the folder that has the runs")
    rows = list_rows(root)
    if not rows:
        raise UserError(f"--runs {root} has no run below it: none of its folders has a config.json")
    widths = [max(len(line[i]) for line in (HEADS, *(r.cells for r in rows))) for i in range(9)]
    for line in (HEADS, *(row.cells for row in rows)):
        say("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    return rows
