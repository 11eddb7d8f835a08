"""Checkpoints: the train state and the host's part of it, written in the background by Orbax.

The host's part is the position in the data. On disk the averages of the weights are a list,
`averages`. Older checkpoints have one average, `ema_params`; they are read too.

The folder of a checkpoint holds digests of its files, which are compared before it is believed.
Older ones have none.
"""

import contextlib
import logging
import math
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import flax.struct
import jax
import orbax.checkpoint as ocp
from jaxtyping import PyTree
from orbax.checkpoint import checkpoint_managers as policies

from score_sde.devices import any_process, leads, processes, say
from score_sde.errors import UserError
from score_sde.training.digests import damaged_file, has_digests, write_digests
from score_sde.training.state import TrainState

QUALITY = "fid"
"""What the measure of the samples is called, in checkpoints and logs."""


class _OneAverage(flax.struct.PyTreeNode):
    """The train state on disk before there were several averages."""

    step: Any
    params: PyTree
    ema_params: PyTree
    opt_state: PyTree


class Checkpoints:
    """The checkpoints of one run, by step.

    Args:
        directory: where they lie.
        keep: the last `keep` are kept.
        keep_every: those at its multiples are kept too (0: none).
        measured: whether checkpoints will be saved with a measure. The one with the smallest is
            kept too.
        how: what the measure depends on; measures of another are not compared with these.
        read_only: for reading alone: leave what another process is writing there, and make no
            folder.
    """

    def __init__(
        self,
        directory: Path,
        keep: int = 2,
        keep_every: int = 0,
        measured: bool = False,
        how: str = "",
        read_only: bool = False,
    ):
        self._how, self._directory, self._saving = how, directory.resolve(), 0
        smallest = policies.BestN(
            get_metric_fn=self._measure,
            reverse=True,
            n=1,
            keep_checkpoints_without_metrics=False,
        )
        rules: list = [policies.LatestN(keep), smallest]
        if keep_every:
            rules.append(policies.EveryNSteps(keep_every))
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policies.AnyPreservationPolicy(rules),
            # Without this function no measure is saved.
            best_fn=(lambda measured: measured[QUALITY]) if measured else None,
            best_mode="min",
            cleanup_tmp_directories=not read_only,
            create=not read_only,
            async_options=ocp.AsyncOptions(post_finalization_callback=self._sign),
        )
        handlers: Any = {
            "state": ocp.StandardCheckpointHandler(),
            "host": ocp.JsonCheckpointHandler(),
        }
        self._manager = ocp.CheckpointManager(
            self._directory, options=options, item_handlers=handlers
        )
        # Orbax warns where a measure is missing.
        self._unmeasured = {QUALITY: math.inf} if measured else None
        if not (measured or read_only):  # what was measured last stays what the best is kept by
            last = reversed(self._measured().values())
            self._how = next((found.get("how", "") for found in last), "")

    def _measure(self, found: dict[str, Any]) -> float:
        return found[QUALITY] if found.get("how", "") == self._how else math.inf

    def steps(self) -> list[int]:
        """Steps that have a finished checkpoint, ascending."""
        return sorted(self._manager.all_steps())

    def best(self) -> int | None:
        """The step with the smallest measure of those made as the last was, or None."""
        found = self._measured()
        how = next((found[step].get("how") for step in reversed(found)), None)
        alike = [step for step in found if found[step].get("how") == how]
        return min(alike, key=lambda step: found[step][QUALITY], default=None)

    def _measured(self) -> dict[int, dict[str, Any]]:
        """Step -> measure and how it was made, ascending."""
        found = {}
        for step in self.steps():
            if file := damaged_file(self._directory / str(step), "metrics"):
                say(f"{file} is damaged: the measure of checkpoint {step} does not count")
            else:
                found[step] = self._manager.metrics(step)
        return {step: v for step, v in found.items() if v and math.isfinite(v[QUALITY])}

    def save(self, state: TrainState, host: dict[str, Any], measure: float | None = None) -> None:
        """Save at state.step, unless that is done; returns once the state is copied to the host.

        Raises:
            UserError: this one, or the one before it, cannot be written.
        """
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        arguments = ocp.args.Composite(
            state=ocp.args.StandardSave(state),
            host=ocp.args.JsonSave({**host, "types": _types(state)}),
        )
        metrics = self._unmeasured if measure is None else {QUALITY: measure, "how": self._how}
        self.wait()  # the one before is signed by its own step
        self._saving = step
        with self._writing():
            self._manager.save(step, args=arguments, metrics=metrics)

    def _sign(self) -> None:
        """Write the digests: Orbax calls this in the background, before the folder is renamed."""
        (folder,) = self._directory.glob(f"{self._saving}.orbax-checkpoint-tmp*")
        write_digests(folder)

    def restore(
        self, like: TrainState, step: int | None = None, compared: bool = False
    ) -> tuple[TrainState, dict[str, Any]]:
        """(state, host) of `step`, by default the last; arrays get shapes and shardings of `like`.

        Args:
            compared: its files were compared with their digests just now, so they are not again.

        Raises:
            UserError: there is no such checkpoint, it is not as it was written, or it cannot be
                read into `like`.
        """
        step = self.choose(step)
        if leads() and not has_digests(self._directory / str(step)):
            say(f"checkpoint {step} has no digests, as of an older version: it is not checked")
        if not compared:
            # At the end of reading each process waits for the others, so several compare before.
            self._check(step, content=processes()[1] > 1)
            compared = processes()[1] > 1
        with ThreadPoolExecutor(1) as thread:
            # Beside reading: one after the other takes half as long again from a disk.
            comparing = None if compared else thread.submit(self._check, step)
            try:
                found = self._read(like, step)
            except Exception as error:  # Orbax raises many types for damaged or foreign files
                if comparing:
                    comparing.result()
                raise self._unreadable(step, error) from error
            if comparing:
                comparing.result()
            return found

    def _unreadable(self, step: int, error: Exception) -> UserError:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        others = [other for other in self.steps() if other != step]
        return UserError(
            f"checkpoint {step} in {self._directory} cannot be read "
            f"({reason[0][:300]}). It is damaged, or of another network than the configuration "
            f"describes. Other checkpoints: {others or 'none'}. If it is damaged, remove the "
            f"folder {step}: the run then goes on from the one before."
        )

    def _check(self, step: int, content: bool = True) -> None:
        """Raises UserError, on all processes, where a checkpoint is not as it was written."""
        folder = self._directory / str(step)
        file = damaged_file(folder, content=content) if leads() else None
        if not any_process(file is not None):
            return
        others = (s for s in reversed(self.steps()) if s != step)
        sound = next((s for s in others if not damaged_file(self._directory / str(s))), None)
        advice = "No other one is sound."
        if sound is not None:
            advice = (
                f"The newest sound one is {sound}: use it by --checkpoint {sound}, or move the "
                f"folder {step} away. --mode train goes on from the last sound one."
            )
        raise UserError(
            f"checkpoint {step} in {self._directory} is damaged: {file or 'a file'} is not as it "
            f"was written. {advice}"
        )

    def _read(self, like: TrainState, step: int) -> tuple[TrainState, dict[str, Any]]:
        stored = self._manager.item_metadata(step)["state"]
        one = "ema_params" in stored
        count = 1 if one else len(stored["averages"])
        if count != len(like.averages):
            raise ValueError(
                f"it has {count} averages of the weights, and {len(like.averages)} are asked for"
            )
        wanted: Any = like
        if one:
            wanted = _OneAverage(like.step, like.params, like.averages[0], like.opt_state)
        arguments = ocp.args.Composite(
            state=ocp.args.StandardRestore(jax.tree.map(ocp.utils.to_shape_dtype_struct, wanted)),
            host=ocp.args.JsonRestore(),
        )
        restored = self._manager.restore(step, args=arguments)
        host, state = dict(restored["host"]), restored["state"]
        if host.pop("types", _types(like)) != _types(like):  # Orbax would convert in silence
            raise ValueError("its arrays are of other types")
        if one:
            state = TrainState(state.step, state.params, (state.ema_params,), state.opt_state)
        return state, host

    def choose(self, step: int | None) -> int:
        """`step` if it exists, the last if it is None; raises UserError otherwise."""
        steps = self.steps()
        if not steps:
            raise UserError(f"no checkpoint in {self._directory}; train first (--mode train).")
        if step is not None and step not in steps:
            raise UserError(
                f"there is no checkpoint {step} in {self._directory}; there are {steps}."
            )
        return steps[-1] if step is None else step

    def wait(self) -> None:
        """Until background writing is done; raises UserError where it failed."""
        with self._writing():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Finish writing and let go of the directory; raises UserError where writing failed."""
        with self._writing():
            self._manager.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Makes a UserError of whatever Orbax raises where it cannot write."""
        try:
            yield
        except Exception as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            good = last_checkpoint(self._directory)
            kept = "No other is there" if good is None else f"The last good one is {good}"
            raise UserError(
                f"checkpoint {self._saving} in {self._directory} cannot be written ({reason[:300]}"
                f"). {kept}. Make room there or change its permissions, then the same command goes "
                "on."
            ) from error


def last_checkpoint(directory: Path) -> int | None:
    """The step of the last finished checkpoint, or None."""
    try:
        names = [path.name for path in directory.iterdir()]
    except OSError:
        return None
    return max((int(name) for name in names if name.isdecimal()), default=None)


@contextlib.contextmanager
def errors_told_once() -> Iterator[list[BaseException]]:
    """Collects errors of writing from background threads, instead of printing tracebacks.

    Those of Orbax come again from `Checkpoints.save`, `wait` or `close`.
    """
    found: list[BaseException] = []
    before, ignored, log = threading.excepthook, sys.unraisablehook, logging.getLogger("absl")

    def hook(failed: threading.ExceptHookArgs) -> None:
        orbax = type(failed.thread).__module__.startswith("orbax.")
        if failed.exc_value is None or not (orbax or isinstance(failed.exc_value, OSError)):
            before(failed)
        else:
            found.append(failed.exc_value)

    def quiet(record: logging.LogRecord) -> bool:
        return not (record.exc_info and "orbax" in record.pathname)

    def late(failed: Any) -> None:
        # TensorStore ends other reads and writes when the loop that waited for them is gone.
        code = getattr(failed.object, "cr_code", None)
        orbax = code is not None and "orbax" in code.co_filename
        if not orbax and str(failed.exc_value) != "Event loop is closed":
            ignored(failed)

    threading.excepthook, sys.unraisablehook = hook, late
    log.addFilter(quiet)
    try:
        yield found
    finally:
        threading.excepthook, sys.unraisablehook = before, ignored
        log.removeFilter(quiet)


def waiting() -> bool:
    """Whether threads of Orbax are at work: after a failed save they wait for minutes."""
    return any(
        type(thread).__module__.startswith("orbax.") and not thread.daemon
        for thread in threading.enumerate()
    )


def set_damaged_aside(directory: Path) -> None:
    """Move the last checkpoints, where they are damaged, out of the way of training, and say so.

    They go to `damaged_checkpoints/` beside `directory`, up to the last that is sound.

    Raises:
        UserError: none is sound.
    """
    error = None
    if leads() and directory.is_dir():
        try:
            _set_aside(directory)
        except UserError as found:
            error = found
    if any_process(error is not None):  # the others wait here until that is done
        raise error or UserError(f"no checkpoint in {directory} is as it was written")


def saved_steps(directory: Path) -> list[int]:
    """Steps of the checkpoints in a folder, ascending, without opening it as `Checkpoints` does."""
    there = directory.iterdir() if directory.is_dir() else ()
    return sorted(int(path.name) for path in there if path.name.isdecimal())


def _set_aside(directory: Path) -> None:
    steps = saved_steps(directory)[::-1]
    damaged: dict[int, Path] = {}
    for step in steps:
        file = damaged_file(directory / str(step))
        if file is None:
            break
        damaged[step] = file
    if damaged and len(damaged) == len(steps):
        raise UserError(
            f"no checkpoint in {directory} is as it was written (damaged: "
            f"{', '.join(map(str, damaged.values()))}). Move the folder away to train anew."
        )
    for step, file in damaged.items():
        aside = directory.with_name("damaged_checkpoints")
        aside.mkdir(exist_ok=True)
        number = len(list(aside.glob(f"{step}*")))
        (directory / str(step)).rename(aside / f"{step}{f'_{number}' if number else ''}")
        say(
            f"checkpoint {step} is damaged ({file} is not as it was written), and is now in {aside}"
            "; training goes on from the one before"
        )


def _types(state: TrainState) -> list[str]:
    return [str(leaf.dtype) for leaf in jax.tree.leaves(state)]
