"""Likelihoods of a run: where their rows lie, which are refused, their summaries and pictures."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from score_sde import viz
from score_sde.build.settings import Eval
from score_sde.data import PixelRange, Source
from score_sde.devices import leads, say
from score_sde.errors import UserError
from score_sde.likelihood.summary import Rows, summarize
from score_sde.workdir.documents import read_document, write_document
from score_sde.workdir.inputs import show
from score_sde.workdir.rows import SETTINGS, Pieces
from score_sde.workdir.which import Which, by_profile, in_name, of_name, order, record_of

COLUMNS = ("bits_per_dim", "bound_bits_per_dim")
"""Columns of a row that are summarized where they exist."""
Summary = dict[str, Any]


def rows_name(section: Eval) -> str:
    """What config.eval evaluates, as folders are named.

    The split, and a dequantization that is not uniform.
    """
    if section.dequantization == "uniform":
        return section.split
    return f"{section.split}_{section.dequantization}"


def likelihood_folder(workdir: Path, split: str, step: Which) -> Path:
    """Where the rows of a checkpoint lie."""
    return workdir / "eval" / f"likelihood_{split}_step_{in_name(step)}"


def likelihood_folders(workdir: Path, split: str) -> dict[Which, Path]:
    """Checkpoint -> folder of rows, ascending; raises UserError where there is none."""
    found = {}
    for path in (workdir / "eval").glob(f"likelihood_{split}_step_*"):
        # One that was moved away has another ending.
        which = of_name(path.name.removeprefix(f"likelihood_{split}_step_"))
        if which is None:
            continue
        if (path / SETTINGS).exists():
            found[which] = path
        elif any(path.glob("*.parquet")):
            say(
                f"{path} is left out: it holds rows but no {SETTINGS}, which says what they are of."
                " Put it back, or move the folder away and evaluate again"
            )
    if not found:
        raise UserError(
            f"{workdir} holds no likelihoods of the {split} images; make them with --mode "
            "likelihood"
        )
    return {which: found[which] for which in sorted(found, key=order)}


def check_solved(rows: Rows, folder: Path) -> None:
    """Names the images whose ODE the solver gave up. Their rows are written, and say so.

    Raises:
        UserError: it gave up all of these rows, or another result is not finite. Then none of them
            is written; `folder` holds the rows written before.
    """
    solved = _solved(rows)
    failed = rows["index"][~solved]
    if len(failed):
        what = (
            f"the ODE of {len(failed)} images could not be solved (images "
            f"{failed[:5].tolist()}): too many steps, or values that are not finite."
        )
        if not solved.any():
            raise UserError(
                f"{what} Rows written before are kept in {folder}; for larger config.eval.rtol and "
                "atol move it away first."
            )
        say(f"{what} Their rows have success=False, and means leave these images out")
    for name in COLUMNS:
        bad = rows["index"][solved & ~np.isfinite(rows[name])] if name in rows else failed[:0]
        if len(bad):
            raise UserError(
                f"{name} of {len(bad)} images is not finite (images {bad[:5].tolist()}): the "
                f"weights give no usable score there. Rows written before are kept in {folder}. "
                "Try another --checkpoint, or config.model.dtype=float32."
            )


def _solved(rows: Rows) -> Bool[np.ndarray, "n"]:
    """Rows whose ODE was solved; bounds need none."""
    return np.asarray(rows["success"], bool) if "success" in rows else rows["index"] >= 0


def solved_images(rows: Rows) -> tuple[Rows, list[int]]:
    """The rows of images that were solved in every pass, and the numbers of the others.

    Raises:
        UserError: there is no such image.
    """
    left_out = np.unique(rows["index"][~_solved(rows)])
    kept = ~np.isin(rows["index"], left_out)
    if not kept.any():
        raise UserError(
            f"the ODE of none of {len(left_out)} images could be solved; try larger "
            "config.eval.rtol and atol"
        )
    return {name: column[kept] for name, column in rows.items()}, left_out.tolist()


def summarize_rows(rows: Rows, step: Which) -> Summary:
    """{"step", ..., one summary for each of `COLUMNS` that is there, "nfe", "unsolved"}.

    `unsolved` has the images that are left out, where there are some.
    """
    rows, unsolved = solved_images(rows)
    summary: Summary = record_of(step) | {
        name: summarize(rows, name) for name in COLUMNS if name in rows
    }
    if "nfe" in rows:
        summary["nfe"] = {"mean": float(rows["nfe"].mean()), "max": int(rows["nfe"].max())}
    return summary | ({"unsolved": unsolved} if unsolved else {})


def save_likelihood(
    pieces: Pieces, source: Source, pixels: PixelRange, expected: tuple[int, int], step: Which
) -> Summary:
    """Summarize complete rows: summary.json, histogram.png, and the least and most likely images.

    `expected`: (images, passes), all of which must be there. Of several processes the first alone
    writes; all of them get the summary.
    """
    rows = pieces.complete(*expected)
    summary = summarize_rows(rows, step)
    columns = [name for name in COLUMNS if name in summary]
    if leads():
        write_document(pieces.folder / "summary.json", summary)
        _draw(
            pieces.folder,
            solved_images(rows)[0],
            columns[0],
            summary[columns[0]]["mean"],
            source,
            pixels,
        )
    for name in columns:
        row = summary[name]
        say(
            f"step {step}: {name} {row['mean']:.4f}, 95% interval {row['low']:.4f} .. "
            f"{row['high']:.4f} ({row['images']} images, {row['passes']} passes): {pieces.folder}"
        )
    if unsolved := summary.get("unsolved"):
        say(
            f"step {step}: {len(unsolved)} images are left out, whose ODE could not be solved "
            f"(images {unsolved[:5]}). Hard images are missing: the mean may be too good"
        )
    return summary


def _draw(
    folder: Path, rows: Rows, column: str, mean: float, source: Source, pixels: PixelRange
) -> None:
    """Pictures of the first pass: its histogram, and the images at both ends of it."""
    first, index = (rows[name][rows["pass"] == 0] for name in (column, "index"))
    viz.histogram(first, column.replace("_", " "), folder / "histogram.png", mean)
    order = np.argsort(first)
    for name, chosen in (("most_likely", order[:16]), ("least_likely", order[::-1][:16])):
        levels = np.stack([source[int(i)]["image"] for i in index[chosen]])
        viz.save_png(folder / f"{name}.png", viz.image_grid(show(levels, pixels), columns=8))


def save_curves(found: Mapping[str, Mapping[Which, Summary]], folder: Path, name: str) -> None:
    """Draw bits/dim against step, with a curve for each run: FOLDER/COLUMN_NAME.png.

    `found`: {run: {step: summary}}.
    """
    for column in COLUMNS:
        curves: dict[str, dict[int, Any]] = {}
        for run, steps in found.items():
            rows = {step: row[column] for step, row in steps.items() if column in row}
            curves |= by_profile(rows, run)
        if sum(map(len, curves.values())) > 1:
            viz.intervals(curves, column.replace("_", " "), folder / f"{column}_{name}.png")


def comparison(found: Mapping[str, Mapping[Which, Summary]]) -> str:
    """A table of runs and steps, the intervals those of the data sets' means (95%, Student's t)."""
    interval = "95% interval"
    head = ("run", "step", "bits/dim", interval, "bound", interval, "nfe", "images", "passes")
    lines: list[tuple[str, ...]] = [head]
    for run, steps in found.items():
        for step, summary in steps.items():
            cells = []
            for column in COLUMNS:
                row = summary.get(column)
                if row:
                    cells += [f"{row['mean']:.4f}", f"{row['low']:.4f} .. {row['high']:.4f}"]
                else:
                    cells += ["-", "-"]
            nfe = f"{summary['nfe']['mean']:.0f}" if "nfe" in summary else "-"
            any_row = next(summary[column] for column in COLUMNS if column in summary)
            lines.append(
                (run, str(step), *cells, nfe, str(any_row["images"]), str(any_row["passes"]))
            )
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(f"{c:<{w}}" for c, w in zip(line, widths)).rstrip() for line in lines
    )


def bits_rows(folder: Path, about: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The columns of a folder's summary.json as measurements, with what they depend on."""
    number = (float, type(None))
    row: dict[str, Any] = {"mean": float, "images": int, "passes": int}
    row |= dict.fromkeys(("standard_error", "low", "high"), number)
    again = "Remove it; --mode summarize makes it again."
    summary = read_document(folder / "summary.json", {f"{name}?": row for name in COLUMNS}, again)
    kept = ("standard_error", "low", "high")
    return [
        {"metric": name, "value": row["mean"]}
        | {key: row[key] for key in kept if row[key] is not None}
        | {"how": dict(about) | {"images": row["images"], "passes": row["passes"]}}
        for name, row in summary.items()
        if name in COLUMNS
    ]
