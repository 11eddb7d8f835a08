"""The working directory of a run: whose it is, and how numbers are written into it.

config.json (resolved; later modes read it)  checkpoints/  metrics.jsonl  tensorboard/  samples/  eval/  report.html
"""

import json
import math
from collections.abc import Callable
from pathlib import Path

import jax
import ml_collections

from score_sde import config as config_lib
from score_sde.errors import UserError
from score_sde.viz.grid import write_atomic

CHANGEABLE = (
    "sampling.",
    "eval.",
    "data.path",
    "data.in_memory",
    "training.steps",
    "training.keep",
    "model.remat",
)
"""May change from one start of a training run to the next, like the intervals: length, sampling, places."""
MODEL = ("sde.", "model.", "data.centered", "data.levels", "data.image_size", "data.channels")
"""What the weights of a run belong to."""


def claim(workdir: Path, config: ml_collections.ConfigDict) -> None:
    """Make the working directory this configuration's; raises UserError where it belongs to another."""
    path = workdir / "config.json"
    if path.exists():
        check_same(
            workdir, config, lambda name: not name.startswith(CHANGEABLE) and not name.endswith("_every")
        )
    if jax.process_index() == 0:
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            config_lib.save(config, path)
        except OSError as error:
            raise UserError(
                f"cannot write to {workdir} ({error.strerror}); choose another --workdir"
            ) from error


def check_same(workdir: Path, config: ml_collections.ConfigDict, matters: Callable[[str], bool]) -> None:
    """Raises UserError where an entry that matters differs from the working directory's configuration."""
    found = config_lib.differences(config_lib.load_json(workdir / "config.json"), config)
    listed = [f"{name}: {old!r} there, {new!r} here" for name, (old, new) in found.items() if matters(name)]
    if listed:
        raise UserError(
            f"{workdir} belongs to another configuration ({'; '.join(listed)}). Choose another --workdir."
        )


def write_json(path: Path, values: dict) -> None:
    """Write numbers as JSON; what is not known (nan) becomes null."""

    def clean(value):
        if isinstance(value, dict):
            return {name: clean(entry) for name, entry in value.items()}
        return None if isinstance(value, float) and math.isnan(value) else value

    write_atomic(path, json.dumps(clean(values), indent=2, allow_nan=False).encode())
