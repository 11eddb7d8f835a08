"""What has been measured of a run's checkpoints, in eval/step_N.json.

Curves over checkpoints are drawn from it, and the best checkpoint is chosen.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from score_sde import viz
from score_sde.devices import say
from score_sde.errors import UserError, command, quoted
from score_sde.metrics.measures import COLUMNS, Column
from score_sde.workdir.documents import read_document, write_document
from score_sde.workdir.which import (
    Phema,
    Which,
    by_profile,
    in_name,
    of_name,
    order,
    record_of,
    step_of,
)

Row = dict[str, Any]
"""{"metric", "value", "how"}; `how` is what the value depends on beside the checkpoint.

Where they are known also "standard_error", "low" and "high" (95% interval), and
"standard_deviation" (of the Inception score over its splits).
"""

OWN = {
    "loss": Column("held-out loss"),
    "bits_per_dim": Column("bits per dim"),
    "bound_bits_per_dim": Column("bound bits per dim"),
}
"""Columns that are not of samples."""
KNOWN = COLUMNS | OWN
TOLD = ("samples", "seeds", "extractor", "images", "split", "times", "dequantization")
"""What of "how" a reader needs first."""
DECIDING = ("fid", "kid", "is")
"""Which of several metrics says what the best checkpoint is.

After these come other measures of samples in the order of their table, then likelihoods, then the
loss.
"""


ROW: dict[str, Any] = {"metric": str, "value": float, "how": dict}
ROW |= {f"{name}?": (float, type(None)) for name in ("low", "high", "standard_error")}
"""What a row on disk must have."""


def record(workdir: Path, step: Which, rows: Sequence[Row], weights: str = "") -> None:
    """Add rows to those of a checkpoint.

    One of the same metric, made in the same way, is replaced. Those of other weights are dropped.

    Args:
        workdir: of the run.
        step: the checkpoint.
        rows: what was measured.
        weights: their checksum, "" where it is not known.
    """
    mine, path = [_identity(row) for row in rows], _file(workdir, step)
    there = _read(path) if path.exists() else {"rows": []}
    if weights and there.get("weights", weights) != weights:
        say(f"{path} held measures of other weights, which checkpoint {step} had: they are gone")
        there = {"rows": []}
    kept = [row for row in there["rows"] if _identity(row) not in mine]
    whose = {"weights": weights} if weights else {}
    write_document(path, record_of(step) | whose | {"rows": [*kept, *rows]})


def check_weights(workdir: Path, step: Which, weights: str) -> None:
    """Raises UserError where the rows of a checkpoint are of other weights.

    Those of older versions do not say of which they are.
    """
    path = _file(workdir, step)
    if path.exists() and _read(path).get("weights", weights) != weights:
        again = command(f"--mode eval --workdir {quoted(workdir)} --checkpoint {step}")
        raise UserError(
            f"{path} holds measures of other weights than those that checkpoint {step} has now. "
            f"Measure again: {again}, or remove the file"
        )


def _file(workdir: Path, step: Which) -> Path:
    return workdir / "eval" / f"step_{in_name(step)}.json"


def _read(path: Path) -> Row:
    again = "Remove it; --mode eval makes it again."
    return read_document(path, {"rows": [ROW], "weights?": str}, again)


def read(workdir: Path) -> dict[Which, list[Row]]:
    """Checkpoint -> rows, ascending; raises UserError where a file is damaged."""
    found = {}
    for path in (workdir / "eval").glob("step_*.json"):
        which = of_name(path.stem.removeprefix("step_"))
        if which is not None:
            found[which] = _read(path)["rows"]
    return {which: found[which] for which in sorted(found, key=order)}


def label(metric: str) -> str:
    """A metric in words."""
    return KNOWN[metric].label if metric in KNOWN else metric.replace("_", " ")


def line(row: Row) -> str:
    """A row in words: metric, value, and its error or interval."""
    return f"{label(row['metric'])} {number(row)}"


def number(row: Row) -> str:
    """The value with its interval or error."""
    text = f"{row['value']:.5g}"
    if "low" in row:
        return f"{text}, 95% interval {row['low']:.4g} .. {row['high']:.4g}"
    for name in ("standard_error", "standard_deviation"):
        if row.get(name) is not None:
            return f"{text} +- {row[name]:.2g} ({name.replace('_', ' ')})"
    return text


def told(row: Row) -> tuple[str, str]:
    """(metric and what it depends on, value with its error) in words."""
    how = ", ".join(
        f"{name.replace('_', ' ')}: {value}" for name, value in row["how"].items() if name in TOLD
    )
    return f"{label(row['metric'])} ({how})", number(row)


def compare(workdir: Path, rows: Sequence[Row], steps: Sequence[int]) -> dict[str, Which]:
    """Best of `steps` by each metric of `rows`; draws eval/METRIC.png.

    The pictures show the values of all checkpoints measured in the same way against training
    steps. Those that are gone since are in them too. The best of those there is marked. Averages
    made of snapshots can always be made again.
    """
    everything, best = read(workdir), dict[str, Which]()
    for wanted in {_identity(row): row for row in rows}.values():
        curve = {
            step: row
            for step, rows in everything.items()
            for row in rows
            if _identity(row) == _identity(wanted)
        }
        metric = wanted["metric"]
        sign = -1 if KNOWN[metric].higher else 1
        there = [step for step in curve if isinstance(step, Phema) or step in steps]
        best[metric] = min(there, key=lambda step: sign * curve[step]["value"])
        if len(curve) > 1:
            print(f"{label(metric)}:")
            for step, row in curve.items():
                mark = "  <- best" if step == best[metric] else ""
                print(f"  checkpoint {step!s:>9}  {line(row)}{mark}")
            points = by_profile({step: _interval(row) for step, row in curve.items()}, "saved")
            path = workdir / "eval" / f"{metric}.png"
            viz.intervals(points, label(metric), path, step_of(best[metric]))
    return best


def choose(workdir: Path, rows: Sequence[Row], steps: Sequence[int]) -> None:
    """`compare`, and make the best by the first of `DECIDING` what --checkpoint best means.

    The choice is kept in eval/selection.json.

    Args:
        workdir: of the run.
        rows: measurements of some of its checkpoints; of none, nothing is chosen.
        steps: the checkpoints that are there.
    """
    if not rows:
        return
    order = [*DECIDING, *COLUMNS, "bits_per_dim", "bound_bits_per_dim", "loss"]
    first = min(rows, key=lambda row: order.index(row["metric"]))
    best = compare(workdir, rows, steps)
    which = best[first["metric"]]
    named = str(which) if isinstance(which, Phema) else which
    chosen = {"best": named, "metric": first["metric"], "how": first["how"]}
    write_document(workdir / "eval" / "selection.json", chosen)
    use = command(f"--mode sample --workdir {quoted(workdir)} --checkpoint best")
    print(f"--checkpoint best is now {chosen['best']}, by {label(chosen['metric'])}. Use it: {use}")


def best_step(workdir: Path) -> Which | None:
    """What `choose` wrote, or None; raises UserError where its file is damaged."""
    path = workdir / "eval" / "selection.json"
    if not path.exists():
        return None
    again = "Remove it; --mode select makes it again."
    best = read_document(path, {"best": (int, str)}, again)["best"]
    try:
        if not str(best).startswith("phema:"):
            return int(best)
        _, std, step = best.split(":")
        return Phema(int(step), float(std))
    except (ValueError, OverflowError) as error:
        raise UserError(f"{path} is damaged ({error}). {again}") from error


def _identity(row: Row) -> str:
    return json.dumps([row["metric"], row["how"]], sort_keys=True)


def _interval(row: Row) -> dict[str, float]:
    """Value with its interval, or twice its standard error to either side, or none."""
    value, error = row["value"], 2 * (row.get("standard_error") or 0.0)
    return {
        "mean": value,
        "low": row.get("low", value - error),
        "high": row.get("high", value + error),
    }
