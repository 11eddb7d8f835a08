"""Metrics of a run: one JSON line per logged step, the same in a tracker, and a progress bar."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from score_sde.errors import UserError
from score_sde.files import checked_line, checked_lines, expect_file, write_whole
from score_sde.training.trackers import TensorBoard, Track


class MetricsLog:
    """Writes `metrics.jsonl` in a working directory, and shows the same in a tracker.

    Per-step losses are averaged over windows of `every` steps, aligned to multiples of it. The open
    window is part of the run's state (`window`, kept in checkpoints). Rows behind a resumed step
    are cut off. So a killed and resumed run leaves the rows of an uninterrupted one.
    """

    def __init__(
        self,
        workdir: Path,
        every: int,
        total: int,
        step: int = 0,
        window: dict | None = None,
        track: Track = TensorBoard,
    ):
        self.every = every
        self.window: dict[str, list[float]] = {k: list(v) for k, v in (window or {}).items()}
        self._clock: tuple[int, float] | None = None
        self._path = workdir / "metrics.jsonl"
        _cut(self._path, step)
        self._file = self._path.open("a")
        self._tracker = track(workdir, step)
        self._bar = tqdm(
            total=total, initial=step, unit="step", dynamic_ncols=True, mininterval=0.5
        )

    def steps(self, first: int, metrics: dict[str, np.ndarray]) -> None:
        """Take the values of steps first+1, first+2, ..."""
        for offset in range(len(metrics["loss"])):
            step = first + offset + 1
            for name, values in metrics.items():
                self.window.setdefault(name, []).append(float(values[offset]))
            if step % self.every == 0:
                self.row(
                    step, {name: float(np.mean(values)) for name, values in self.window.items()}
                )
                self._speed(step)
                self.window = {}
        self._bar.update(len(metrics["loss"]))

    def _speed(self, step: int) -> None:
        """Steps per second since the last row; for the tracker alone, as rows are reproducible."""
        before, self._clock = self._clock, (step, time.perf_counter())
        if before is not None:
            speed = (step - before[0]) / (self._clock[1] - before[1])
            self._tracker.scalars(step, {"steps_per_s": speed})

    def row(self, step: int, values: dict[str, float]) -> None:
        """Write values of a step."""
        self._file.write(checked_line({"step": step, **values}))
        self._file.flush()
        self._tracker.scalars(step, values)
        self._bar.set_postfix(
            {name: f"{value:.4g}" for name, value in values.items()}, refresh=False
        )

    def image(self, step: int, name: str, picture: np.ndarray) -> None:
        """Show a picture (height, width, 3) in the tracker."""
        self._tracker.image(step, name, picture)

    def close(self) -> None:
        """Finish all files."""
        self._bar.close()
        self._tracker.close()
        self._file.close()


def check_finite(first: int, metrics: dict[str, np.ndarray]) -> None:
    """Raises UserError that names the first of these steps whose value is not finite."""
    for name, values in metrics.items():
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            raise UserError(
                f"the training {name} at step {first + bad[0] + 1} is {values[bad[0]]}. Training "
                "stops here; checkpoints that were saved are intact. Train again in another "
                "--workdir with a lower config.optim.lr, a smaller config.optim.grad_clip or "
                "config.model.dtype=float32."
            )


def _cut(path: Path, step: int) -> None:
    """Drop the rows after `step`, and a torn last line.

    Raises:
        UserError: a line is not as it was written, or no row.
    """
    expect_file(path)
    if not path.exists():
        return
    kept = []
    for number, line in checked_lines(path, path.read_text(errors="replace")):
        try:
            row: Any = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if not (isinstance(row, dict) and isinstance(row.get("step"), int)):
            raise UserError(f"line {number} of {path} is no row with a step; remove the line")
        if row["step"] <= step:
            kept.append(line + "\n")
    write_whole(path, lambda temporary: temporary.write_text("".join(kept)))
