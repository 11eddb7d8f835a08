"""The training loop: steps, held-out losses, pictures and checkpoints, to the end or a signal."""

import dataclasses
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Key, PyTree

from score_sde.devices import Placement, leads, say
from score_sde.errors import Stopped
from score_sde.training.checkpoint import QUALITY, Checkpoints, set_damaged_aside
from score_sde.training.ema import Power
from score_sde.training.interrupt import Interrupt
from score_sde.training.log import MetricsLog, check_finite
from score_sde.training.snapshots import save_snapshot
from score_sde.training.state import TrainState
from score_sde.training.step import Task, Trainer, state_like
from score_sde.training.trackers import TensorBoard, Track

Evaluate = Callable[[PyTree], np.ndarray]
"""First average of the weights -> held-out losses."""
Picture = Callable[[PyTree, int, MetricsLog | None], object]
"""Called with the first average, the step and the log."""
Measure = Callable[[PyTree, int], float | None]
"""First average, step -> Frechet distance of some samples; None: it cannot be measured."""

INTERVALS = (
    *("log_every", "eval_every", "sample_every", "quality_every"),
    *("snapshot_every", "checkpoint_every"),
)


RUN_ONCE = {"xla_backend_optimization_level": 0}
"""Options of the compiler for CPUs, for a program that runs once: fresh weights of the digits'
network in a third of the time. Compilers of other devices may not know the option."""


class Loop:
    """`begin`, then `run`.

    Begun anew in the same folder, it goes on where the last one saved, bit for bit.

    Args:
        folder: gets `checkpoints/`, `snapshots/`, `metrics.jsonl` and `tensorboard/`.
        trainer: how to train.
        task: what to train; its frozen weights lie on the mesh.
        settings: steps, steps_per_call, log_every, eval_every, sample_every, checkpoint_every,
            keep, keep_every; quality_every where the samples are measured, snapshot_every for
            snapshots of the power-function averages. An interval of 0 is never.
        batches: endless batches with a position, from `pipeline.read`.
        place: devices; batches are split over them.
    """

    def __init__(
        self,
        folder: Path,
        trainer: Trainer,
        task: Task,
        settings: Mapping[str, int],
        batches: Any,
        place: Placement,
    ):
        self.folder, self.task = folder, task
        self.trainer = dataclasses.replace(trainer, place=place)
        self.settings, self.batches, self.place = settings, batches, place
        self.step = 0

    def begin(self, key: Key[Array, ""], shape: tuple[int, ...], how: str = "") -> bool:
        """Fresh weights, or those of the last checkpoint; False where nothing is left to train.

        Args:
            key: of the fresh weights.
            shape: (height, width, channels) of an image.
            how: what the measure of samples depends on; see `Checkpoints`.

        Raises:
            UserError: there are checkpoints, and none can be read.
        """
        like = state_like(self.task, self.trainer, shape, self.place)
        set_damaged_aside(self.folder / "checkpoints")
        self._checkpoints = Checkpoints(
            self.folder / "checkpoints",
            self.settings["keep"],
            self.settings["keep_every"],
            measured=bool(self.settings.get("quality_every")),
            how=how,
        )
        kept = self._checkpoints.steps()
        if not kept or kept[-1] < self.settings["steps"]:
            self._compile(like, key)
        if kept:
            self.state, host = self._checkpoints.restore(like, compared=True)
            self.batches.set_state(host["data"])
            self._window = host["window"]
        else:
            self.state, self._window = self._fresh(key, shape, like), {}
        self.step = int(self.state.step)
        if self.step < self.settings["steps"]:
            return True
        self._checkpoints.close()
        return False

    def _compile(self, like: TrainState, key: Key[Array, ""]) -> None:
        """Begin to compile the step in a thread, while the state is made or read.

        A program that was compiled ahead is found again by its later call.
        """
        places = jax.tree.map(lambda leaf: leaf.sharding, like)
        self._train = jax.jit(self.trainer.steps, donate_argnums=1, out_shardings=(places, None))
        position = self.batches.get_state()
        rows = self._rows(min(self.settings["steps_per_call"], self.settings["steps"]))
        self.batches.set_state(position)
        # Traced here: a thread would not see the contexts of JAX that the caller has set.
        lowered = self._train.lower(self.task, like, key, rows)
        thread = ThreadPoolExecutor(1)
        self._compiled = thread.submit(lowered.compile)
        thread.shutdown(wait=False)

    def _fresh(self, key: Key[Array, ""], shape: tuple[int, ...], like: TrainState) -> TrainState:
        on_cpu = self.place.mesh.devices.flat[0].platform == "cpu"
        return self.trainer.compiled_init(
            self.task,
            key,
            shape,
            out_shardings=jax.tree.map(lambda leaf: leaf.sharding, like),
            compiler_options=RUN_ONCE if on_cpu else None,
        )

    def run(
        self,
        key: Key[Array, ""],
        evaluate: Evaluate,
        picture: Picture | None = None,
        measure: Measure | None = None,
        track: Track = TensorBoard,
    ) -> None:
        """Train to the end, or until a signal; the state is saved in both cases.

        Args:
            key: the run's; a step's own follows from it and the number of the step.
            evaluate: gives held-out losses, every `eval_every` steps and in the end.
            picture: called every `sample_every` steps.
            measure: called every `quality_every` steps and in the end. What it measures is saved,
                and the one with the smallest distance is kept.
            track: what shows metrics besides `metrics.jsonl`.

        Raises:
            Stopped: by a signal.
        """
        total = self.settings["steps"]
        pending, stop = None, False
        with Interrupt() as interrupt:
            if leads() and not self._compiled.done():
                print("compiling the step; the program is kept for later", file=sys.stderr)
            self._compiled.result()
            log = self._log(track) if leads() else None
            try:
                while self.step < total and not stop:
                    before, metrics = self.step, self._advance(key)
                    _record(log, pending)  # of the call before, while this one runs
                    pending, due = (before, metrics), self._due(before)
                    stop = interrupt.requested(agree="log_every" in due)
                    if stop:
                        due = due - {"sample_every", "quality_every"} | {"checkpoint_every"}
                    if due - {"log_every", "sample_every"}:
                        _record(log, pending)
                        pending = None
                    self._look(due, log, evaluate, picture, measure)
            finally:
                if log:
                    log.close()
                self._checkpoints.close()
        if self.step < total:
            say(
                f"stopped by a signal at step {self.step}, saved; the same command goes on from "
                "there."
            )
            raise Stopped(interrupt.number, told=True)

    def _log(self, track: Track) -> MetricsLog:
        every, total = self.settings["log_every"], self.settings["steps"]
        return MetricsLog(self.folder, every, total, self.step, self._window, track)

    def _advance(self, key: Key[Array, ""]) -> dict[str, Array]:
        """The steps of one call; their metrics."""
        count = min(self.settings["steps_per_call"], self.settings["steps"] - self.step)
        self.state, metrics = self._train(self.task, self.state, key, self._rows(count))
        self.step += count
        return metrics

    def _rows(self, count: int) -> PyTree:
        """The next `count` batches, stacked and on the devices."""
        batches = [next(self.batches) for _ in range(count)]
        stacked = jax.tree.map(lambda *rows: np.stack(rows), *batches)
        return self.place.put_part(stacked, axis=1)

    def _due(self, before: int) -> set[str]:
        """The intervals with a multiple in (before, step]; the last step is one of most of them."""
        wanted = {name: self.settings[name] for name in INTERVALS if self.settings.get(name)}
        due = {name for name, every in wanted.items() if self.step // every > before // every}
        if self.step == self.settings["steps"]:
            due |= {"checkpoint_every", "quality_every"} | (
                {"eval_every", "snapshot_every"} & wanted.keys()
            )
        return due

    def _look(
        self,
        due: set[str],
        log: MetricsLog | None,
        evaluate: Evaluate,
        picture: Picture | None,
        measure: Measure | None,
    ) -> None:
        """What is due after some steps: losses, a picture, a measure, snapshots, a checkpoint."""
        average, measured = self.state.averages[0], None
        if due & {"eval_every", "sample_every", "quality_every"}:
            average = self.place.gather(average)
        if "eval_every" in due:
            losses = evaluate(average)
            if log:
                log.row(self.step, {"eval_loss": float(np.mean(losses))})
        if picture and "sample_every" in due:
            picture(average, self.step, log)
        if measure and "quality_every" in due:
            measured = measure(average, self.step)
            if log and measured is not None:
                log.row(self.step, {QUALITY: measured})
        if "snapshot_every" in due:  # before the checkpoint: behind it they would not come again
            self._snapshots()
        if "checkpoint_every" in due or measured is not None:
            host = {"data": self.batches.get_state(), "window": log.window if log else {}}
            self._checkpoints.save(self.state, host, measured)

    def _snapshots(self) -> None:
        for profile, average in zip(self.trainer.averages, self.state.averages, strict=True):
            if isinstance(profile, Power):
                whole = self.place.gather(average)
                if leads():
                    save_snapshot(self.folder / "snapshots", self.step, profile.std, whole)


def _record(log: MetricsLog | None, pending: tuple[int, dict] | None) -> None:
    """Log the metrics of a finished call.

    Raises UserError, on every process, where they are not finite.
    """
    if pending:
        first, metrics = pending
        values = {name: np.asarray(value) for name, value in metrics.items()}
        check_finite(first, values)
        if log:
            log.steps(first, values)
