"""The report's section on losses per noise level."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from score_sde.report.page import Report
from score_sde.viz.curves import HELDOUT_COLOR, INK, TRAIN_COLOR, wants_log
from score_sde.viz.histogram import figure_png, new_figure

ERRORS = 2.0
"""Half width of the bands, in standard errors."""
CLEAR = 3.0
"""From this many standard errors on a gap is no accident, though many levels are looked at."""

Rows = Sequence[Mapping[str, float | None]]


def levels_section(page: Report, found: Mapping[str, Any] | None, command: str) -> None:
    """Both curves and what they say, or the command that measures them.

    Args:
        page: gets the section.
        found: {"images", "levels": rows as of `level_curves`}, or None where nothing has been
            measured.
        command: measures them.
    """
    page.heading("Loss at each noise level")
    if found is None or not _finite(found["levels"], "train", "heldout"):
        page.text(
            "Whether the network has learned its training images by heart shows at little noise. "
            "To measure it:"
            if found is None
            else "No loss is finite at any noise level: the network gives no usable score. "
            "To measure again:"
        )
        page.command(command)
        return
    caption = (
        "Above: mean square error of the noise that the averaged weights predict, of each pixel; 1 "
        "is what a score of 0 gives. Below: held-out minus training loss, as a share of the "
        "held-out loss; 100% where training images are known by heart. "
        f"Bands: {ERRORS:g} standard errors of the mean over images."
    )
    page.picture(level_curves(found["levels"]), caption, chart=True)
    page.text(explain_levels(found["levels"], found["images"]))


def level_curves(rows: Rows) -> bytes:
    """Draw the loss on training and on held-out images against the noise sigma/alpha.

    Below it lies the gap between them, in percent of the held-out loss: 100 where all training
    images are known by heart. Bands are two standard errors wide on either side. The axis of noise
    is logarithmic, that of the loss where it spans a factor of 5.

    Args:
        rows: for each level "alpha", "sigma", and mean and "..._error" of "train", "heldout" and
            "gap". Those with None for a mean are left out.

    Returns:
        The PNG file's bytes.

    Raises:
        ValueError: no level has both losses.
    """
    rows = _finite(rows, "train", "heldout")
    if not rows:
        raise ValueError(
            "no noise level has a finite loss on training and held-out images: nothing to draw"
        )
    noise = _column(rows, "sigma") / _column(rows, "alpha")
    figure, (upper, lower) = new_figure(rows=(2, 1))
    _draw_losses(upper, noise, rows)
    _draw_gap(lower, noise, rows)
    return figure_png(figure)


def _draw_losses(axes: Any, noise: np.ndarray, rows: Rows) -> None:
    everything = np.concatenate([_column(rows, "train"), _column(rows, "heldout")])
    log = wants_log(everything, everything)
    for name, label, color, width in (
        ("train", "training", TRAIN_COLOR, 3.2),
        ("heldout", "held-out", HELDOUT_COLOR, 1.6),
    ):
        mean, error = _column(rows, name), ERRORS * np.nan_to_num(_column(rows, f"{name}_error"))
        low = np.maximum(mean - error, mean / 10) if log else mean - error
        axes.fill_between(noise, low, mean + error, color=color, alpha=0.2, linewidth=0)
        look = {"color": color, "linewidth": width, "markersize": 1.5 + 2 * width}
        axes.plot(noise, mean, "o-", label=label, **look)
    if log:
        _log_axis(axes, "y", everything)
    axes.set_ylabel("error of the predicted noise", color=INK)
    axes.legend(frameon=False, labelcolor=INK)


def _draw_gap(axes: Any, noise: np.ndarray, rows: Rows) -> None:
    heldout = _column(rows, "heldout")
    unit = np.divide(100, heldout, out=np.zeros_like(heldout), where=heldout > 0)
    gap = unit * _column(rows, "gap")
    error = ERRORS * unit * np.nan_to_num(_column(rows, "gap_error"))
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.fill_between(noise, gap - error, gap + error, color=INK, alpha=0.2, linewidth=0)
    axes.plot(noise, gap, "o-", color=INK, linewidth=1.6, markersize=4.5)
    _log_axis(axes, "x", noise)
    axes.set_xlabel("noise sigma/alpha", color=INK)
    axes.set_ylabel("gap, % of held-out", color=INK)


def explain_levels(rows: Rows, images: int) -> str:
    """Where held-out images are denoised worse than training images, in words."""
    text = f"{images:,} images of each set, with the same noise. "
    rows = [row for row in _finite(rows, "gap", "gap_error") if row["gap_error"]]
    if not rows:
        return text + "That is too few to tell a difference from chance."
    scores = _column(rows, "gap") / _column(rows, "gap_error")
    worst = rows[int(np.argmax(scores))]
    clear = int((scores > CLEAR).sum())
    noise = _number(worst, "sigma") / _number(worst, "alpha")
    gap, error = worst["gap"], worst["gap_error"]
    where = (
        f"held-out minus training is {gap:.3g} +- {error:.2g} (training: {worst['train']:.3g}) "
        f"at noise {noise:.3g}"
    )
    if clear == 0:
        return (
            f"{text}At no level are held-out images denoised clearly worse than training images: "
            f"at most, {where}."
        )
    return (
        f"{text}Held-out images are denoised clearly worse (by more than {CLEAR:g} standard "
        f"errors) at {clear} of {len(rows)} levels, most clearly where {where}. A gap that grows "
        "with training at little noise means that the network learns its training images by heart; "
        "more data, dropout or an earlier checkpoint helps."
    )


def _log_axis(axes: Any, name: str, values: np.ndarray) -> None:
    """Plain numbers at powers of ten; at 1, 2, 5 times them where there are few."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set(**{f"{name}scale": "log"})
    axis = getattr(axes, f"{name}axis")
    axis.set_major_locator(
        LogLocator(subs=(1.0,) if values.max() / values.min() > 100 else (1.0, 2.0, 5.0))
    )
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def _finite(rows: Rows, *names: str) -> list[Mapping[str, float | None]]:
    return [row for row in rows if all(row[name] is not None for name in names)]


def _column(rows: Rows, name: str) -> np.ndarray:
    return np.asarray([_number(row, name) for row in rows])


def _number(row: Mapping[str, float | None], name: str) -> float:
    value = row[name]
    return np.nan if value is None else float(value)
