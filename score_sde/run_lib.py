"""The composition root: how a mode is called.

`run_lib.run(mode, ...)` does what the command line does. `run_lib.train(config, workdir)` and the
other modes by name take a configuration (an `ml_collections.ConfigDict`) and a working directory.
"""

import functools
import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from score_sde.modes.table import MODES
from score_sde.workdir import config as configurations
from score_sde.workdir import jobs
from score_sde.workdir.lock import released
from score_sde.workdir.run import Run


def call(mode: str, given: Any, workdir: Path | str, *arguments: Any, **options: Any) -> Any:
    """One mode on one run: its configuration and working directory, then the mode's own."""
    settings, takes = configurations.of(given), MODES[mode].takes
    if takes == "named":
        return _module(mode).main(settings, Path(workdir), *arguments, **options)
    one = settings if takes == "settings" else Run.of(settings, Path(workdir))
    with released():
        return _module(mode).main(one, *arguments, **options)


def fid(**options: Any) -> Any:
    """Measures of two sets of images; see `score_sde.modes.fid`."""
    return _module("fid").main(**options)


def list_runs(**options: Any) -> Any:
    """A table of the runs in a folder; see `score_sde.modes.list_runs`."""
    return _module("list").main(**options)


def app(**options: Any) -> Any:
    """A page in the browser over a folder of runs; see `score_sde.modes.app`."""
    return _module("app").main(**options)


def prepare(**options: Any) -> Any:
    """Scans as a folder of slices; see `score_sde.modes.prepare`."""
    return _module("prepare").main(**options)


def import_checkpoint(**options: Any) -> Any:
    """A published checkpoint as a run; see `score_sde.modes.import_checkpoint`."""
    return _module("import").main(**options)


train = functools.partial(call, "train")
train_dequantizer = functools.partial(call, "train_dequantizer")
train_classifier = functools.partial(call, "train_classifier")
train_second_order = functools.partial(call, "train_second_order")
sample = functools.partial(call, "sample")
evaluate = functools.partial(call, "eval")
likelihood = functools.partial(call, "likelihood")
summarize = functools.partial(call, "summarize")
encode = functools.partial(call, "encode")
decode = functools.partial(call, "decode")
interpolate = functools.partial(call, "interpolate")
uncertainty = functools.partial(call, "uncertainty")
inpaint = functools.partial(call, "inpaint")
colorize = functools.partial(call, "colorize")
reconstruct = functools.partial(call, "reconstruct")
compare = functools.partial(call, "compare")
tune = functools.partial(call, "tune")
measure = functools.partial(call, "measure")
select = functools.partial(call, "select")
tune_steps = functools.partial(call, "tune_steps")
suggest = functools.partial(call, "suggest")
export = functools.partial(call, "export")
report = functools.partial(call, "report")
doctor = functools.partial(call, "doctor")
dry_run = functools.partial(call, "dry_run")


def run(
    mode: str,
    configs: Sequence[str] = (),
    overrides: Sequence[tuple[str, str]] = (),
    workdirs: Sequence[str] = (),
    checkpoints: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
) -> None:
    """Run one mode on each run and checkpoint asked for.

    The modes after train take the settings that the run was trained with; --config then only says
    which run. Where several runs or checkpoints are asked for and some fail, the others are done
    all the same.

    Args:
        mode: a key of `MODES`.
        configs, workdirs: of each run; lists of both go together in order.
        overrides: (dotted name, text) of entries to change.
        checkpoints: steps, or "latest", "best", "all".
        options: the mode's own, by the names of its flags.

    Raises:
        UserError: whatever the user can mend.
    """
    asked = jobs.Asked(mode, configs, overrides, workdirs, checkpoints, dict(options or {}))
    with released():
        jobs.TAKES[MODES[mode].takes](_module(mode), asked)


def _module(mode: str) -> Any:
    return importlib.import_module(f"score_sde.modes.{MODES[mode].module}")
