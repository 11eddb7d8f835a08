"""Checkpoints: the train state and the host's part of it, written in the background by Orbax.

The host's part is the position in the data. On disk the averages of the weights are a list,
`averages`. Older checkpoints have one average, `ema_params`; they are read too.
"""

import math
from pathlib import Path
from typing import Any

import flax.struct
import jax
import orbax.checkpoint as ocp
from jaxtyping import PyTree
from orbax.checkpoint import checkpoint_managers as policies

from score_sde.errors import UserError
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
        self._how = how
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
        )
        handlers: Any = {
            "state": ocp.StandardCheckpointHandler(),
            "host": ocp.JsonCheckpointHandler(),
        }
        self._manager = ocp.CheckpointManager(
            directory.resolve(), options=options, item_handlers=handlers
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
        found = {step: self._manager.metrics(step) for step in self.steps()}
        return {step: v for step, v in found.items() if v and math.isfinite(v[QUALITY])}

    def save(self, state: TrainState, host: dict[str, Any], measure: float | None = None) -> None:
        """Save at state.step, unless that is done; returns once the state is copied to the host."""
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        arguments = ocp.args.Composite(
            state=ocp.args.StandardSave(state),
            host=ocp.args.JsonSave({**host, "types": _types(state)}),
        )
        metrics = self._unmeasured if measure is None else {QUALITY: measure, "how": self._how}
        self._manager.save(step, args=arguments, metrics=metrics)

    def restore(
        self, like: TrainState, step: int | None = None
    ) -> tuple[TrainState, dict[str, Any]]:
        """(state, host) of `step`, by default the last; arrays get shapes and shardings of `like`.

        Raises UserError where there is no such checkpoint, or it cannot be read into `like`.
        """
        step = self.choose(step)
        try:
            return self._read(like, step)
        except Exception as error:  # Orbax raises many types for damaged or foreign files
            reason = str(error).strip().splitlines() or [type(error).__name__]
            others = [other for other in self.steps() if other != step]
            raise UserError(
                f"checkpoint {step} in {self._manager.directory} cannot be read "
                f"({reason[0][:300]}). It is damaged, or of another network than the configuration "
                f"describes. Other checkpoints: {others or 'none'}. If it is damaged, remove the "
                f"folder {step}: the run then goes on from the one before."
            ) from error

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
            raise UserError(
                f"no checkpoint in {self._manager.directory}; train first (--mode train)."
            )
        if step is not None and step not in steps:
            raise UserError(
                f"there is no checkpoint {step} in {self._manager.directory}; there are {steps}."
            )
        return steps[-1] if step is None else step

    def wait(self) -> None:
        """Until background writing is done."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Finish writing and let go of the directory."""
        self._manager.close()


def _types(state: TrainState) -> list[str]:
    return [str(leaf.dtype) for leaf in jax.tree.leaves(state)]
