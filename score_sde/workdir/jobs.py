"""Several runs and checkpoints in one call: which ones, one after another, and what failed."""

import functools
import itertools
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from score_sde.build.settings import Settings
from score_sde.devices import leads, say
from score_sde.errors import UserError, command, quoted
from score_sde.training.checkpoint import Checkpoints
from score_sde.workdir import config as configurations
from score_sde.workdir import measurements
from score_sde.workdir.folder import check_weights
from score_sde.workdir.run import Run
from score_sde.workdir.which import Which, parse

Named = tuple[str | None, str | None]
"""--config and --workdir of one run; one of them may be missing."""
Overrides = Sequence[tuple[str, str]]


def exists(text: str) -> bool:
    """Whether a path of this name is there; a text that can be no path is none."""
    try:
        return bool(text) and Path(text).expanduser().exists()
    except (OSError, RuntimeError):  # too long a name; a user who does not exist
        return False


def split_list(texts: Sequence[str] | None) -> list[str]:
    """The values of a flag that may name several.

    Values of a repeated flag stay as they are; a single one is split at its commas. A path that
    exists is one part, whatever is in it.

    Raises:
        UserError: a part is empty.
    """
    texts = list(texts or ())
    whole = len(texts) > 1 or (texts and exists(texts[0]))
    parts = texts if whole else [part for text in texts for part in text.split(",")]
    if not all(parts):
        raise UserError(f"{','.join(texts)!r} has an empty part; write A,B,C without blanks")
    return parts


def pair_runs(configs: Sequence[str], workdirs: Sequence[str]) -> list[Named]:
    """(--config, --workdir) of each run; lists of both go together in order."""
    if configs and workdirs and len(configs) != len(workdirs):
        raise UserError(
            f"--config names {len(configs)} runs and --workdir {len(workdirs)}; name as many, or "
            "leave one out"
        )
    if not (configs or workdirs):
        raise UserError("name a configuration with --config, or an existing run with --workdir")
    folders = [os.path.expanduser(folder) for folder in workdirs]
    return list(itertools.zip_longest(configs, folders))


def name_of(named: Named) -> str:
    """What a run is called in messages and tables."""
    return named[1] or str(named[0])


def resolve(named: Named, overrides: Overrides) -> tuple[Settings, Path]:
    """The settings of a run with their overrides, and its working directory."""
    location, workdir = named
    if location:
        settings = configurations.load(location)
    else:
        settings = configurations.load_json(Path(str(workdir)) / "config.json")
    settings = configurations.override(settings, overrides)
    return settings, Path(workdir) if workdir else Path("runs") / settings.name


def resolve_trained(named: Named, overrides: Overrides) -> tuple[Settings, Path]:
    """The settings that the run was trained with, with overrides, and its folder.

    Raises:
        UserError: --config names another recipe than the run's, or an override does not fit.
    """
    settings, directory = resolve(named, overrides)
    trained = configurations.load_json(directory / "config.json")
    if settings.name != trained.name:
        raise UserError(
            f"{directory} is a run of {trained.name}, not of {settings.name}. Leave out --config, "
            "or name another --workdir."
        )
    trained = configurations.override(trained, overrides)
    check_weights(directory, trained)
    return trained, directory


def check_apart(runs: Sequence[Named], overrides: Overrides) -> None:
    """Raises UserError where two of several runs lie in one directory, however written."""
    seen: dict[Path, str] = {}
    for named in runs if len(runs) > 1 else ():
        location, workdir = named
        place = Path(workdir) if workdir else resolve((location, None), overrides)[1]
        name = f"{location or ''} {workdir or ''}".strip()
        if place.resolve() in seen:
            raise UserError(
                f"{seen[place.resolve()]!r} and {name!r} are both in {place}: that run is named "
                "twice. Name each run once."
            )
        seen[place.resolve()] = name


def checkpoint_steps(asked: Sequence[str], workdir: Path) -> list[Which | None]:
    """What --checkpoint names: "latest" (None), "best", "all", steps, or averages of snapshots.

    Raises:
        UserError: anything else, or the best one has not been sought.
    """
    asked = [part for text in asked for part in text.split(",")]
    if asked == ["best"]:
        return [_best(workdir)]
    if asked in ([], ["latest"]):
        return [None]
    if asked == ["all"]:
        return list(Checkpoints(workdir / "checkpoints", read_only=True).steps()) or [None]
    found = [parse(part, workdir) for part in asked]
    if None in found:
        raise UserError(
            "--checkpoint must be a step, steps like 10,20, phema:STD, phema:STD:STEP, 'all', "
            f"'best' or 'latest'; got {','.join(asked)!r}"
        )
    return found


def _best(workdir: Path) -> Which:
    """The one found best by --mode select or eval, else by the distance measured in training."""
    chosen: Which | None = measurements.best_step(workdir)
    if chosen is None:
        chosen = Checkpoints(workdir / "checkpoints", read_only=True).best()
    if chosen is None:
        select = command(f"--mode select --workdir {quoted(workdir)}")
        raise UserError(f"the best checkpoint of {workdir} has not been sought; do: {select}")
    return chosen


def attempt(jobs: Mapping[str, Callable[[], Any]]) -> tuple[dict[str, Any], dict[str, UserError]]:
    """(results, failures) of jobs by name.

    One of several that fails is told, and the next begins.
    """
    done: dict[str, Any] = {}
    failed: dict[str, UserError] = {}
    for name, job in jobs.items():
        try:
            done[name] = job()
        except UserError as error:
            failed[name] = error
            if len(jobs) > 1 and leads():
                print(f"error: {name}: {error}", file=sys.stderr)
    return done, failed


def raise_failed(failed: dict[str, UserError], number: int) -> None:
    """Raise UserError where any of `number` jobs failed.

    It is its own error of a single job, else one with the names.
    """
    if number == 1:
        for error in failed.values():
            raise error
    if failed:
        raise UserError(
            f"{len(failed)} of {number} failed, see above: {', '.join(failed)}. "
            + ("The others are done; the" if len(failed) < number else "The")
            + " same command tries again."
        )


class Asked(NamedTuple):
    """A call of the command line.

    mode: its name. configs, workdirs: of each run. overrides: (dotted name, text) of entries.
    checkpoints: as `checkpoint_steps` takes them. options: the mode's own.
    """

    mode: str
    configs: Sequence[str]
    overrides: Overrides
    workdirs: Sequence[str]
    checkpoints: Sequence[str]
    options: dict[str, Any]


def fresh(module: ModuleType, asked: Asked) -> None:
    """A mode on one run that need not exist."""
    run = Run.of(*_only_one(asked))
    module.main(run, **asked.options)


def of_settings(module: ModuleType, asked: Asked) -> None:
    """A mode on settings alone, whose network need not be one."""
    settings, _ = _only_one(asked)
    module.main(settings, **asked.options)


def as_named(module: ModuleType, asked: Asked) -> None:
    """A mode on settings and a folder, either of which may be what is wrong."""
    settings, folder = _only_one(asked)
    module.main(settings, folder, **asked.options)


def _only_one(asked: Asked) -> tuple[Settings, Path]:
    named = pair_runs(asked.configs, asked.workdirs)
    if len(named) > 1:
        raise UserError(f"--mode {asked.mode} takes one run; got {len(named)}")
    return resolve(named[0], asked.overrides)


def alone(module: ModuleType, asked: Asked) -> None:
    """A mode without a run."""
    module.main(**asked.options)


def of_recipe(module: ModuleType, asked: Asked) -> None:
    """A mode that makes a run of what the user says of it."""
    for name, values in (("config", asked.configs), ("workdir", asked.workdirs)):
        if len(values) > 1:
            raise UserError(f"--mode {asked.mode} takes one --{name}; got {len(values)}")
    recipe, workdir = ((*values, None)[0] for values in (asked.configs, asked.workdirs))
    workdir = os.path.expanduser(workdir) if workdir else None
    module.main(recipe=recipe, overrides=asked.overrides, workdir=workdir, **asked.options)


def on_runs(module: ModuleType, asked: Asked) -> None:
    """A mode on existing runs as wholes; of several `module.after` then sees all results.

    One that compares checkpoints is told which, where the user says so.
    """
    if asked.checkpoints:
        asked = asked._replace(options=asked.options | {"checkpoint": asked.checkpoints})
    named = pair_runs(asked.configs, asked.workdirs)
    check_apart(named, asked.overrides)
    if hasattr(module, "check"):
        module.check(len(named), **asked.options)

    def work(one: Named) -> tuple[Path, Any]:
        run = Run.of(*resolve_trained(one, asked.overrides))
        return run.folder, module.main(run, **asked.options)

    done, failed = attempt({name_of(one): functools.partial(work, one) for one in named})
    if hasattr(module, "after") and done and len(named) > 1:
        folder = next(iter(done.values()))[0]
        results = {name: result for name, (_, result) in done.items()}
        module.after(results, folder, **asked.options)
    raise_failed(failed, len(named))


def on_checkpoints(module: ModuleType, asked: Asked) -> None:
    """A mode on checkpoints of existing runs; then `module.after` sees all results of a run."""
    named = pair_runs(asked.configs, asked.workdirs)
    check_apart(named, asked.overrides)
    several = len(named) > 1 or len(asked.checkpoints) > 1 or "all" in asked.checkpoints
    if "output" in asked.options and several:
        raise UserError(
            "--output names the folder of one result; leave it out for several runs or checkpoints"
        )
    work = functools.partial(_each_checkpoint, module, asked)
    _, failed = attempt({name_of(one): functools.partial(work, one) for one in named})
    raise_failed(failed, len(named))


def _each_checkpoint(module: ModuleType, asked: Asked, named: Named) -> None:
    run = Run.of(*resolve_trained(named, asked.overrides))
    steps = checkpoint_steps(asked.checkpoints, run.folder)
    there = run.checkpoints().steps()  # now: training may remove some meanwhile

    def work(step: Which | None) -> Any:
        start = time.perf_counter()
        result = module.main(run, step, **asked.options)
        say(f"{asked.mode}: {time.perf_counter() - start:.1f} s")
        return result

    jobs = {f"checkpoint {step}": functools.partial(work, step) for step in steps}
    done, failed = attempt(jobs)
    if hasattr(module, "after") and len(done) > 1:
        module.after(run, done, there)
    raise_failed(failed, len(jobs))


TAKES: dict[str, Callable[[ModuleType, Asked], None]] = {
    "fresh": fresh,
    "settings": of_settings,
    "named": as_named,
    "checkpoints": on_checkpoints,
    "runs": on_runs,
    "recipe": of_recipe,
    "nothing": alone,
}
"""What a mode works on -> how it is called."""
