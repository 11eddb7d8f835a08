"""Merge the shards of likelihood evaluations, with intervals.

Pictures show bits/dim against training step.
"""

from collections.abc import Mapping
from pathlib import Path

from score_sde.devices import leads
from score_sde.errors import UserError
from score_sde.files import writing
from score_sde.workdir.documents import read_document, write_document
from score_sde.workdir.folder import IN_RUN, check_writable
from score_sde.workdir.likelihoods import (
    Summary,
    comparison,
    likelihood_folders,
    rows_name,
    save_curves,
    save_likelihood,
)
from score_sde.workdir.lock import hold, hold_file
from score_sde.workdir.rows import Pieces
from score_sde.workdir.run import Run
from score_sde.workdir.which import Which


def check(runs: int, output: Path | None = None) -> None:
    """Raises UserError, before any work, where the comparison of several runs cannot be written."""
    if output and runs == 1:
        raise UserError(
            "--output is where --mode summarize compares several runs; leave it out for one, whose "
            "summaries lie in its eval/"
        )
    if output:
        check_writable(output)


def main(run: Run, output: Path | None = None) -> dict[Which, Summary]:
    """Merge the pieces of all likelihood evaluations of a run, refusing gaps and doubles."""
    section, found = run.settings.eval, dict[Which, Summary]()
    name = rows_name(section)
    source, pixels = run.source(train=section.split == "train"), run.experiment.pixel_range
    for step, folder in likelihood_folders(run.folder, name).items():
        hold(folder, advice=IN_RUN)
        again = "Move the folder away, and evaluate again."
        settings = read_document(folder / "settings.json", {"images": int}, again)
        pieces, expected = Pieces(folder, settings), (settings["images"], section.passes)
        found[step] = save_likelihood(pieces, source, pixels, expected, step)
    if leads():
        save_curves({run.folder.name: found}, run.folder / "eval", name)
    return found


def after(
    done: Mapping[str, dict[Which, Summary]], first: Path, output: Path | None = None
) -> None:
    """Of several runs one table, printed and as JSON, and bits/dim against step.

    Each run has a curve.
    """
    folder = output or first / "eval"
    if not leads():
        return
    print(comparison(done))
    hold_file(folder / "comparison.json")
    with writing(folder):
        rows = {name: {str(s): row for s, row in rows.items()} for name, rows in done.items()}
        write_document(folder / "comparison.json", rows)
        save_curves(done, folder, "comparison")
    print(f"compared: {folder}")
