"""The training loop: steps, held-out losses, pictures and checkpoints until a number of steps, or a signal."""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Key, PyTree

from score_sde.training import sharding
from score_sde.training.checkpoint import QUALITY, Checkpoints
from score_sde.training.interrupt import Interrupt
from score_sde.training.log import MetricsLog, check_finite
from score_sde.training.step import Trainer


class Loop:
    """`begin`, then `run`; a loop begun anew in the same folder goes on where the last one saved, bit for bit.

    Args:
        folder: gets `checkpoints/`, `metrics.jsonl` and `tensorboard/`.
        trainer: what is trained.
        settings: steps, steps_per_call, log_every, eval_every, sample_every, checkpoint_every (0: never), keep, keep_every,
            and where the samples are measured quality_every.
        batches: endless batches with a position, from `data.batches`.
        mesh: devices; batches are split over them.
        frozen: see `Trainer`.
        how: what the measure of samples depends on; see `Checkpoints`.
    """

    def __init__(
        self,
        folder: Path,
        trainer: Trainer,
        settings: Mapping[str, int],
        batches: Any,
        mesh: Mesh,
        frozen: PyTree = None,
        how: str = "",
    ):
        self.folder, self.trainer, self.settings = folder, trainer, settings
        self.batches, self.mesh, self.frozen = batches, mesh, frozen
        self.how, self.step = how, 0

    def begin(self, key: Key[Array, ""], shape: tuple[int, ...]) -> bool:
        """Fresh weights, or those of the last checkpoint; False where nothing is left to train."""
        make = jax.jit(self.trainer.init, static_argnums=1, out_shardings=sharding.replicated(self.mesh))
        self.state, self._window = make(key, shape), {}
        self._checkpoints = Checkpoints(
            self.folder / "checkpoints",
            self.settings["keep"],
            self.settings["keep_every"],
            measured=bool(self.settings.get("quality_every")),
            how=self.how,
        )
        if self._checkpoints.steps():
            self.state, host = self._checkpoints.restore(self.state)
            self.batches.set_state(host["data"])
            self._window = host["window"]
        self.step = int(self.state.step)
        if self.step < self.settings["steps"]:
            return True
        self._checkpoints.close()
        return False

    def run(
        self,
        key: Key[Array, ""],
        evaluate: Callable[[PyTree], np.ndarray],
        picture: Callable[[PyTree, int, MetricsLog | None], object] | None = None,
        measure: Callable[[PyTree, int], float | None] | None = None,
    ) -> bool:
        """Train to the end, or until a signal (then False); the state is saved in both cases.

        Args:
            key: the run's; a step's own follows from it and the number of the step.
            evaluate: averaged weights -> held-out losses.
            picture: called with averaged weights, step and log every `sample_every` steps.
            measure: averaged weights, step -> Frechet distance of some samples, every `quality_every` steps and in the end. Such
                a step is saved, and the one with the smallest distance is kept. None: these weights cannot be measured.
        """
        settings, total = self.settings, self.settings["steps"]
        lead = jax.process_index() == 0
        log = MetricsLog(self.folder, settings["log_every"], total, self.step, self._window) if lead else None
        train_steps = jax.jit(self.trainer.steps, donate_argnums=0)
        pending = None
        with Interrupt() as interrupt:
            try:
                while self.step < total:
                    count = min(settings["steps_per_call"], total - self.step)
                    images = np.stack([next(self.batches)["image"] for _ in range(count)])
                    before, self.step = self.step, self.step + count
                    batch = sharding.put_batch(images, self.mesh, axis=1)
                    self.state, metrics = train_steps(self.state, key, batch, self.frozen)
                    _record(log, pending)  # of the call before, while this one runs
                    pending = (before, metrics)
                    crossed = functools.partial(_crossed, before, self.step)
                    stop = interrupt.requested(agree=crossed(settings["log_every"]))
                    last = stop or self.step == total
                    intervals = ("checkpoint_every", "eval_every", "quality_every")
                    if last or any(crossed(settings.get(name, 0)) for name in intervals):
                        _record(log, pending)
                        pending = None
                    if crossed(settings["eval_every"]) or (self.step == total and settings["eval_every"]):
                        losses = evaluate(self.state.ema_params)
                        if log:
                            log.row(self.step, {"eval_loss": float(np.mean(losses))})
                    if picture and crossed(settings["sample_every"]) and not stop:
                        picture(self.state.ema_params, self.step, log)
                    measured = None
                    if measure and not stop and (crossed(settings["quality_every"]) or self.step == total):
                        measured = measure(self.state.ema_params, self.step)
                        if log and measured is not None:
                            log.row(self.step, {QUALITY: measured})
                    if last or crossed(settings["checkpoint_every"]) or measured is not None:
                        self._save(log, measured)
                    if stop:
                        break
            finally:
                self._checkpoints.close()
                if log:
                    log.close()
        if self.step < total:
            print(f"stopped by a signal at step {self.step}, saved; the same command goes on from there.")
        return self.step == total

    def _save(self, log: MetricsLog | None, measured: float | None) -> None:
        window = log.window if log else {}
        host = {"data": self.batches.get_state(), "window": window}
        self._checkpoints.save(self.state, host, measured)


def _record(log: MetricsLog | None, pending: tuple[int, dict] | None) -> None:
    """Log the metrics of a finished call; raises UserError, on every process, where they are not finite."""
    if pending:
        first, metrics = pending
        values = {name: np.asarray(value) for name, value in metrics.items()}
        check_finite(first, values)
        if log:
            log.steps(first, values)


def _crossed(before: int, after: int, every: int) -> bool:
    """Whether a multiple of `every` lies in (before, after]; never for every = 0."""
    return bool(every) and after // every > before // every
