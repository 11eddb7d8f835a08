"""Compare solvers of config.inverse on the same measurements: a table, its rows, curves."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from score_sde import viz
from score_sde.build.inverse import only_own_entries
from score_sde.devices import leads, say
from score_sde.errors import UserError
from score_sde.files import writing
from score_sde.workdir import config as configurations
from score_sde.workdir.compared import interval
from score_sde.workdir.documents import read_document, write_document
from score_sde.workdir.folder import result_folder
from score_sde.workdir.measured import measured
from score_sde.workdir.parquet import read_table, write_table
from score_sde.workdir.reconstruct import Wanted, reconstruct
from score_sde.workdir.run import Run
from score_sde.workdir.which import Which, in_name

USUAL = ("ddnm", "diffpir", "projection")
"""Solvers where none is named."""

AGAIN = "Remove its folder; the same command makes it again."


class Case(NamedTuple):
    """A solver with a value of what varies ("" where nothing does), and where its samples go."""

    solver: str
    value: str
    run: Run
    folder: Path


def main(
    run: Run,
    checkpoint: Which | None = None,
    input: list[Path] | None = None,
    output: Path | None = None,
    mask: str | None = None,
    copies: int = 8,
    solvers: Sequence[str] = USUAL,
    vary: tuple[str, tuple[str, ...]] | None = None,
) -> Path:
    """Reconstruct with each solver, for each value of an entry, and compare image by image.

    `input`, `mask`, `copies`: as `reconstruct` takes them. `vary`: (entry, values), say
    ("inverse.scale", ("2", "4")). Measurements and random draws are the same for all solvers. An
    entry of config.inverse that means nothing to a solver is left out for it.

    compare.json and compare.parquet: means with 95% intervals over images, and the differences to
    the first solver, of the same images; rows. comparison.png where something varies. Finished
    parts are kept: the same command goes on where it was killed.

    Raises:
        UserError: see `reconstruct`; solvers or entries that are not known.
    """
    which = checkpoint if checkpoint is not None else (run.checkpoints().steps() or [0])[-1]
    folder = result_folder(output, run.folder, f"compare_step_{in_name(which)}", "samples")
    found: list[tuple[Case, dict[str, list[Any]]]] = []
    for case in _cases(run, folder, solvers, vary):
        given = measured(case.run, input, mask)
        if given.originals is None:
            raise UserError("--mode compare needs the images that were measured; these are unknown")
        reconstruct(case.run, given, which, Wanted("compare", case.folder, copies))
        table = read_table(case.folder / "metrics.parquet", AGAIN)
        found.append((case, table.to_pydict()))
    if leads():
        summary = _summary(found)
        with writing(folder):
            _save(folder, found, summary, vary)
        say(_table(summary, vary))
        say(f"comparison: {folder}")
    return folder


def _cases(
    run: Run, folder: Path, solvers: Sequence[str], vary: tuple[str, tuple[str, ...]] | None
) -> list[Case]:
    """All pairs of value and solver, checked before any work."""
    name, values = vary or ("", ("",))
    if vary and not name.startswith(("inverse.", "sampling.")):
        raise UserError(f"--vary takes an entry of config.inverse or config.sampling; got {name!r}")
    if len(set(solvers)) < len(solvers):
        raise UserError(f"--solvers names one twice: {','.join(solvers)}")
    cases = []
    for value in values:
        settings = configurations.override(run.settings, [(name, value)] if vary else [])
        for solver, section in zip(
            solvers, only_own_entries(settings.inverse, solvers), strict=True
        ):
            one = dataclasses.replace(settings, inverse=section)
            part = folder / "_".join(filter(None, (solver, name.partition(".")[2], value)))
            again = Run.of(one, run.folder) if name.startswith("sampling.") else run
            cases.append(Case(solver, value, dataclasses.replace(again, settings=one), part))
    return cases


def _summary(found: Sequence[tuple[Case, dict[str, list[Any]]]]) -> list[dict[str, Any]]:
    """A row for each case: means over images, and the paired difference to the first solver."""
    first = {case.value: rows for case, rows in reversed(found)}
    table = []
    for case, rows in found:
        row: dict[str, Any] = {"solver": case.solver, "value": case.value}
        for name in ("psnr_of_mean", "ssim_of_mean", "psnr", "residual", "evaluations"):
            row[name] = interval(np.asarray(rows[name]))
        if rows is not first[case.value]:
            against = np.asarray(first[case.value]["psnr_of_mean"])
            row["difference"] = interval(np.asarray(rows["psnr_of_mean"]) - against)
        summary = read_document(case.folder / "summary.json", {"coverage?": list}, AGAIN)
        row["coverage"] = summary.get("coverage", [])
        table.append(row)
    return table


def _table(summary: Sequence[Mapping[str, Any]], vary: tuple[str, tuple[str, ...]] | None) -> str:
    what = vary[0].partition(".")[2] if vary else ""
    lines = [
        f"{what:>10}  {'solver':<14} PSNR of the mean [95 %]   to the first [95 %]      SSIM   "
        "evaluations"
    ]
    for row in summary:
        mean, other = row["psnr_of_mean"], row.get("difference")
        told = f"{mean['mean']:6.2f} [{mean['low']:.2f}, {mean['high']:.2f}]"
        versus = (
            f"{other['mean']:+6.2f} [{other['low']:+.2f}, {other['high']:+.2f}]" if other else ""
        )
        lines.append(
            f"{row['value']:>10}  {row['solver']:<14} {told:<24}  {versus:<24}"
            f"{row['ssim_of_mean']['mean']:.3f}  {row['evaluations']['mean']:9.0f}"
        )
    return "\n".join(lines)


def _save(
    folder: Path,
    found: Sequence[tuple[Case, dict[str, list[Any]]]],
    summary: list[dict[str, Any]],
    vary: tuple[str, tuple[str, ...]] | None,
) -> None:
    entry = vary[0] if vary else ""
    write_document(folder / "compare.json", {"vary": entry, "rows": summary})
    names = [name for name in found[0][1] if all(name in rows for _, rows in found)]
    columns: dict[str, list[Any]] = {"solver": [], "value": []} | {name: [] for name in names}
    for case, rows in found:
        count = len(rows["name"])
        columns["solver"] += [case.solver] * count
        columns["value"] += [case.value] * count
        for name in names:
            columns[name] += rows[name]
    write_table(folder / "compare.parquet", columns)
    if vary and all(_is_number(value) for value in vary[1]):
        curves: dict[str, dict[float, Any]] = {}
        for row in summary:
            curves.setdefault(row["solver"], {})[float(row["value"])] = row["psnr_of_mean"]
        path = folder / "comparison.png"
        viz.intervals(curves, "PSNR of the mean [dB]", path, against=entry.partition(".")[2])


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
