"""The working directory of a run: whose it is, and how numbers are written into it.

config.json (resolved; later modes read it)  checkpoints/  metrics.jsonl  tensorboard/  samples/  eval/  flow/  report.html
dequantizer/ (settings.json, its own checkpoints/ and metrics.jsonl)
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import jax
import ml_collections

from score_sde import config as config_lib
from score_sde.errors import UserError
from score_sde.viz.grid import write_atomic

CHANGEABLE = (
    "sampling.",
    "eval.",
    "quality.",
    "dequantizer.",
    "data.path",
    "data.in_memory",
    "training.steps",
    "training.keep",
    "training.quality_samples",
    "model.remat",
)
"""May change from one start of a training run to the next, like the intervals: length, sampling, places."""
MODEL = ("sde.", "model.", "data.centered", "data.levels", "data.image_size", "data.channels")
"""What the weights of a run belong to,"""
COMPUTE = ("model.remat", "model.dtype", "model.dropout")
"""but for how they are computed with."""


def claim(workdir: Path, config: ml_collections.ConfigDict) -> None:
    """Make a new working directory this configuration's; raises UserError where it belongs to another.

    What may change is saved by `config.save` once training really goes on.
    """
    path = workdir / "config.json"
    if path.exists():
        found = config_lib.differences(config_lib.load_json(path), config)
        fixed = [name for name in found if not name.startswith(CHANGEABLE) and not name.endswith("_every")]
        if fixed:
            listed = "; ".join(f"{name}: {found[name][0]!r} there, {found[name][1]!r} here" for name in fixed)
            raise UserError(
                f"{workdir} belongs to another configuration ({listed}). Choose another --workdir."
            )
    if jax.process_index() == 0:
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                config_lib.save(config, path)
        except OSError as error:
            raise UserError(
                f"cannot write to {workdir} ({error.strerror}); choose another --workdir"
            ) from error


def check_weights(workdir: Path, config: ml_collections.ConfigDict) -> None:
    """Raises UserError where `config` describes another model than the working directory's weights are of."""
    found = config_lib.differences(config_lib.load_json(workdir / "config.json"), config)
    changed = [name for name in found if name.startswith(MODEL) and name not in COMPUTE]
    if changed:
        raise UserError(
            f"{', '.join(f'config.{name}={found[name][1]!r}' for name in changed)} does not fit the weights in {workdir}, "
            f"trained with {', '.join(repr(found[name][0]) for name in changed)}. Leave it out, or train another model."
        )


def resolve(
    config_file: str | None, workdir: str | None, overrides: list[tuple[str, str]]
) -> tuple[ml_collections.ConfigDict, Path]:
    """The configuration with its overrides, and the working directory."""
    if config_file:
        config = config_lib.load(config_file)
    else:
        config = config_lib.load_json(Path(str(workdir)) / "config.json")
    config_lib.override(config, overrides)
    return config, Path(workdir) if workdir else Path("runs") / config.name


def resolve_trained(
    config_file: str | None, workdir: str | None, overrides: list[tuple[str, str]]
) -> tuple[ml_collections.ConfigDict, Path]:
    """The configuration that the run was trained with, with overrides that fit its weights, and the working directory."""
    config, directory = resolve(config_file, workdir, overrides)
    trained = config_lib.load_json(directory / "config.json")
    if config.name != trained.name:
        raise UserError(
            f"{directory} is a run of {trained.name}, not of {config.name}. Leave out --config, or name another --workdir."
        )
    config_lib.override(trained, overrides)
    check_weights(directory, trained)
    return trained, directory


def check_apart(runs: Sequence[tuple[str | None, str | None]], overrides: list[tuple[str, str]]) -> None:
    """Raises UserError where two of several runs (configuration, working directory) lie in one directory, however written."""
    seen: dict[Path, str] = {}
    for config_file, workdir in runs if len(runs) > 1 else ():
        place = Path(workdir) if workdir else resolve(config_file, None, overrides)[1]
        name = f"{config_file or ''} {workdir or ''}".strip()
        if place.resolve() in seen:
            raise UserError(
                f"{seen[place.resolve()]!r} and {name!r} are both in {place}: that run is named twice. Name each run once."
            )
        seen[place.resolve()] = name


def write_json(path: Path, values: dict) -> None:
    """Write numbers as JSON; what is not known (nan) becomes null."""

    def clean(value):
        if isinstance(value, dict):
            return {name: clean(entry) for name, entry in value.items()}
        return None if isinstance(value, float) and math.isnan(value) else value

    write_atomic(path, json.dumps(clean(values), indent=2, allow_nan=False).encode())
