"""Training curves from metrics.jsonl."""

import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from score_sde.errors import UserError
from score_sde.files import checked_lines, expect_file, write_bytes

TRAIN_COLOR, HELDOUT_COLOR, INK, RULE = "#2f6fde", "#d9622b", "#333a45", "#dfe3e8"
LOG_RATIO = 5.0  # a logarithmic axis from this ratio of largest to smallest smoothed loss on


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Rows of a metrics.jsonl, ordered by step, one per step.

    A process that was killed leaves a torn line. It is at the end, or in the middle where a resumed
    run went on writing. It is left out, and a row glued to it is kept. A resumed run writes rows of
    some steps again: they become one, in which the last value of every name counts.

    Args:
        path: the file, one JSON object with an integer "step" per line.

    Returns:
        The rows.

    Raises:
        UserError: the file is missing, a line is something else than a (torn) JSON object of
            numbers with a step, or a row is not as it was written.
    """
    expect_file(Path(path))
    try:
        text = Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UserError(
            f"cannot read the metrics {path}: {error.strerror}; has this run been trained?"
        ) from error
    by_step: dict[int, dict[str, Any]] = {}
    for number, line in checked_lines(Path(path), text):
        line = line.strip("\0 \t\r")
        if not line:
            continue
        if not line.startswith("{"):
            raise UserError(
                f"line {number} of {path} is no metrics row: {line[:60]!r}; one JSON object is "
                "expected"
            )
        row = _parse(line)
        if row is None:
            continue
        if not isinstance(row.get("step"), int):
            raise UserError(f"line {number} of {path} has no integer 'step': {line[:60]!r}")
        for name, value in row.items():
            if not (value is None or type(value) in (int, float)):
                raise UserError(
                    f"line {number} of {path} has {name!r}: {str(value)[:60]!r}, which is no "
                    "number; remove the line"
                )
        by_step[row["step"]] = by_step.get(row["step"], {}) | row
    return [by_step[step] for step in sorted(by_step)]


def loss_curves(
    rows: Sequence[Mapping[str, Any]], path: str | os.PathLike[str] | None = None
) -> bytes:
    """Draw training loss (raw, light; smoothed, strong) and held-out loss over the steps.

    The smoothed curve is the mean over a window of about a thirtieth of the rows. The axis is
    logarithmic when all losses are positive and the smoothed ones span a factor of 5 or more.
    Values that are not finite are left out.

    Args:
        rows: as from `read_metrics`: "step" and "loss" and / or "eval_loss".
        path: where to write the PNG as well; None: nowhere.

    Returns:
        The PNG file's bytes.

    Raises:
        UserError: no row has a finite loss.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    train, heldout = _series(rows, "loss"), _series(rows, "eval_loss")
    if not len(train) and not len(heldout):
        raise UserError(
            f"none of the {len(rows)} metrics rows has a finite 'loss' or 'eval_loss': nothing to "
            "draw"
        )
    figure = Figure(figsize=(8.0, 4.2), dpi=150, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    _draw(figure.add_subplot(), train, heldout)
    buffer = io.BytesIO()
    canvas.print_png(buffer)
    data = buffer.getvalue()
    if path is not None:
        write_bytes(Path(path), data)
    return data


def _draw(axes: Any, train: np.ndarray, heldout: np.ndarray) -> None:
    """The curves of (step, loss) pairs, and an axis that shows them."""
    smoothed = smooth(train[:, 1], window=max(1, len(train) // 30))
    if len(train):
        axes.plot(train[:, 0], train[:, 1], color=TRAIN_COLOR, alpha=0.22, linewidth=0.9)
        axes.plot(
            train[:, 0], smoothed, color=TRAIN_COLOR, linewidth=2.0, label="training (smoothed)"
        )
    if len(heldout):
        look = {"color": HELDOUT_COLOR, "linewidth": 1.6, "markersize": 4.5}
        axes.plot(heldout[:, 0], heldout[:, 1], "o-", label="held-out", **look)
    strong = np.concatenate([smoothed, heldout[:, 1]])
    log = wants_log(np.concatenate([train[:, 1], heldout[:, 1]]), strong)
    _dress(axes, log)
    axes.set_ylim(*limits(train[:, 1], strong, log))


def smooth(values: Float64[np.ndarray, " n"], window: int) -> Float64[np.ndarray, " n"]:
    """Centred moving mean over 2 * (window // 2) + 1 values; at the ends over those that exist."""
    half = window // 2
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    first, last = np.maximum(index - half, 0), np.minimum(index + half + 1, len(values))
    return (sums[last] - sums[first]) / np.maximum(last - first, 1)


def wants_log(values: Float64[np.ndarray, " n"], smoothed: Float64[np.ndarray, " m"]) -> bool:
    """Whether a logarithmic axis shows more.

    It does where all is positive and the smoothed curve spans a factor of 5.
    """
    return bool(values.min() > 0 and smoothed.max() / smoothed.min() >= LOG_RATIO)


def limits(
    raw: Float64[np.ndarray, " n"], strong: Float64[np.ndarray, " m"], log: bool
) -> tuple[float, float]:
    """Ends of the loss axis, with 5 % of air.

    They hold all strong curves and the middle 98 % of the raw values.
    """
    values = np.concatenate([strong, np.quantile(raw, [0.01, 0.99])]) if len(raw) else strong
    values = np.log(values) if log else values
    low, high = float(values.min()), float(values.max())
    air = 0.05 * (high - low) or 0.05 * abs(high) or 0.05
    ends = np.asarray([low - air, high + air])
    low, high = np.exp(ends) if log else ends
    return float(low), float(high)


def _parse(line: str) -> dict[str, Any] | None:
    """The row of a line, or None; where a torn row stands before a whole one, the whole one."""
    for text in (line, line[line.rfind("{") :]):
        try:
            row = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict):
            return row
    return None


def _series(rows: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
    """(n, 2) steps and finite values of one name, in float64."""
    points = [
        (row["step"], row[name])
        for row in rows
        if row.get(name) is not None and math.isfinite(row[name])
    ]
    return np.asarray(points, np.float64).reshape(-1, 2)


def _dress(axes: Any, log: bool) -> None:
    """Labels, ticks, rules and legend.

    A logarithmic axis has plain numbers at 1, 2, 5 x powers of ten.
    """
    from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, MaxNLocator, NullLocator

    if log:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_locator(NullLocator())

    axes.set_xlabel("training step", color=INK)
    axes.set_ylabel("loss", color=INK)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.grid(True, which="major", color=RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", colors=INK, length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(RULE)
    axes.legend(frameon=False, labelcolor=INK)
