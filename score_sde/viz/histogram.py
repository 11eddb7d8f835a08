"""Histogram of a number per image, and how it changes over training."""

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from score_sde.files import write_bytes
from score_sde.viz.curves import HELDOUT_COLOR, INK, RULE, TRAIN_COLOR

COLORS = (TRAIN_COLOR, HELDOUT_COLOR, "#2f9e6e", "#8a5fd0", "#b8860b", "#c2407a")
MARKERS = "os^D"
"""Of the second, third, ... six runs, so that they can be told apart."""


def histogram(
    values: Float[np.ndarray, "n"],
    label: str,
    path: str | os.PathLike[str],
    mean: float | None = None,
) -> None:
    """Draw how `values` are distributed, with their mean as a line, and write the PNG."""
    figure, axes = new_figure()
    axes.hist(values, bins=min(60, max(10, len(values) // 8)), color=TRAIN_COLOR, alpha=0.85)
    if mean is not None:
        axes.axvline(mean, color=INK, linewidth=1.4)
        axes.annotate(
            f" mean {mean:.3f}",
            (mean, axes.get_ylim()[1]),
            va="top",
            color=INK,
            annotation_clip=False,
        )
    axes.set_xlabel(label, color=INK)
    axes.set_ylabel("images", color=INK)
    _write(figure, path)


def intervals(
    curves: Mapping[str, Mapping[Any, Mapping[str, float]]],
    label: str,
    path: str | os.PathLike[str],
    best: int | None = None,
    against: str = "training step",
) -> None:
    """Draw means with their intervals against training steps, and write the PNG.

    Each run has a curve.

    Args:
        curves: {run: {step: {"mean", "low", "high"}}}; with several runs a legend names them.
        label: of the vertical axis.
        path: the PNG file.
        best: the step to mark.
        against: label of the horizontal axis, where it is something else.
    """
    figure, axes = new_figure()
    for number, (run, curve) in enumerate(curves.items()):
        means, lows, highs = (
            [row[name] for row in curve.values()] for name in ("mean", "low", "high")
        )
        errors = [np.subtract(means, lows), np.subtract(highs, means)]
        axes.errorbar(
            list(curve),
            means,
            yerr=errors,
            fmt=f"{MARKERS[number // len(COLORS) % len(MARKERS)]}-",
            color=COLORS[number % len(COLORS)],
            capsize=3,
            linewidth=1.6,
            markersize=4.5,
            label=run,
        )
    if best is not None:
        axes.axvline(best, color=INK, linewidth=1.0, linestyle=":")
        axes.annotate(
            f" best: {best:,}",
            (best, axes.get_ylim()[1]),
            va="top",
            color=INK,
            annotation_clip=False,
        )
    axes.set_xlabel(against, color=INK)
    axes.set_ylabel(label, color=INK)
    if len(curves) > 1:
        axes.legend(frameon=False, labelcolor=INK)
    _write(figure, path)


def shares(
    path: str | os.PathLike[str],
    noise: Float[np.ndarray, "n"],
    means: Float[np.ndarray, "n"],
    errors: Float[np.ndarray, "n"],
    label: str,
) -> None:
    """Shares in [0, 1] against the noise sigma/alpha, whose axis is logarithmic, with errors."""
    figure, axes = new_figure()
    axes.errorbar(noise, means, errors, fmt="o-", color=TRAIN_COLOR, capsize=3)
    axes.set(xscale="log", ylim=(0, 1.02))
    axes.set_xlabel("noise sigma/alpha", color=INK)
    axes.set_ylabel(label, color=INK)
    _write(figure, path)


def new_figure(rows: Sequence[float] = (1,)) -> tuple[Any, Any]:
    """A wide figure and its axes, with the look of all charts.

    Several axes of these heights, above each other, share x.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 4.2 * sum(rows) / rows[0]), dpi=150, layout="constrained")
    axes = figure.subplots(len(rows), sharex=True, height_ratios=rows)
    for one in np.ravel(axes):
        one.grid(True, which="major", color=RULE, linewidth=0.8)
        one.set_axisbelow(True)
        one.tick_params(which="both", colors=INK, length=0)
        one.spines[["top", "right", "left"]].set_visible(False)
        one.spines["bottom"].set_color(RULE)
    return figure, axes


def figure_png(figure: Any) -> bytes:
    """The figure as a PNG file's bytes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()


def _write(figure: Any, path: str | os.PathLike[str]) -> None:
    write_bytes(Path(path), figure_png(figure))
