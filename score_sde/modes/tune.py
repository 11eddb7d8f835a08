"""Find the options of a solver of config.inverse with the best reconstructions."""

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from score_sde.build.ranges import Choices, Range, tuned_entries, value_of
from score_sde.build.settings import Settings, depends, to_dict
from score_sde.devices import leads, say, wait_for_all
from score_sde.errors import UserError, command, optional, quoted
from score_sde.files import writing
from score_sde.modes.table import OBJECTIVES
from score_sde.workdir import config as configurations
from score_sde.workdir.companion import claim
from score_sde.workdir.documents import read_document, write_document
from score_sde.workdir.folder import result_folder
from score_sde.workdir.lock import released
from score_sde.workdir.measured import Measured, measured
from score_sde.workdir.reconstruct import NotFinite, Wanted, reconstruct
from score_sde.workdir.run import Run
from score_sde.workdir.which import Which, in_name, record_of


class Trial(NamedTuple):
    """values: by dotted entry. found: the objective, None where samples were not finite."""

    values: dict[str, Any]
    found: float | None


def main(
    run: Run,
    checkpoint: Which | None = None,
    input: list[Path] | None = None,
    output: Path | None = None,
    mask: str | None = None,
    copies: int = 8,
    trials: int = 30,
    ranges: Mapping[str, tuple[float, float, bool]] | None = None,
    objective: str = "psnr_of_mean",
) -> Path:
    """Reconstruct again and again, with options that a tree of Parzen estimators proposes.

    The first trial has the options of the configuration. Images are of the training set, so that
    those of config.eval.split stay for the table, or of `input`. `mask`, `copies`: as `reconstruct`
    takes them. `ranges`: by entry its ends, and whether in logarithms. All trials have the same
    measurements and random draws. trials.json keeps what is done, and the same command goes on as
    if never interrupted; more `trials` add to them. config.json has all settings with the best, for
    `run_lib`; the command line takes the flags that are told at the end. (Dissertation, section
    B.6.4: 100 steps of Bayesian optimization.)

    Raises:
        UserError: optuna is missing, the folder is of other settings, no trial was finite, and
            what `tuned_entries` and `reconstruct` refuse.
    """
    optuna, settings = _optuna(), run.settings
    asked = None if ranges is None else {name: Range(*one) for name, one in ranges.items()}
    entries = tuned_entries(settings, asked)
    which = checkpoint if checkpoint is not None else (run.checkpoints().steps() or [0])[-1]
    section = settings.inverse
    name = f"tune_step_{in_name(which)}_{section.task}_{section.solver}"
    folder = result_folder(output, run.folder, name, "samples")
    given = measured(_with(run, settings.change("eval", split="train")), input, mask)
    if given.originals is None:
        raise UserError("--mode tune needs the images that were measured; these are unknown")
    mine = _depends(run, given, which, entries) | {"copies": copies, "objective": objective}
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        claim(folder, mine, "with the same settings, or name another folder with --output")
    done = _read(folder, objective)
    while len(done) < trials:
        values = _proposed(optuna, run.settings, entries, done)
        found = _tried(
            run, given, which, values, Wanted("tune", folder / "trial", copies, quiet=True)
        )
        done.append(Trial(values, None if found is None else found[objective]))
        _keep(folder, run.settings, done, objective)
        say(f"trial {len(done)}/{trials}: {_told(values)}: {objective} {_number(done[-1])}")
    _tell(run, folder, done, objective)
    return folder


def _optuna() -> ModuleType:
    optuna = optional("optuna", "tune", "--mode tune")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _with(run: Run, settings: Settings) -> Run:
    """The run with other settings; its objects are made anew where the sampler's are others."""
    if settings.sampling != run.settings.sampling:
        run = Run.of(settings, run.folder)
    return dataclasses.replace(run, settings=settings)


def _depends(
    run: Run, given: Measured, which: Which, entries: Mapping[str, Choices]
) -> dict[str, Any]:
    """What the trials depend on: all that is not tried."""
    settings = run.settings
    fixed: dict[str, Any] = {"inverse": to_dict(settings.inverse)}
    fixed["sampling"] = depends(settings.sampling, "samples")
    ranges = {name: str(one) if isinstance(one, Range) else one for name, one in entries.items()}
    who = record_of(which) | {"seed": settings.seed, "measured": given.fingerprint()}
    return who | fixed | {"ranges": ranges}


def _read(folder: Path, objective: str) -> list[Trial]:
    path = folder / "trials.json"
    if not path.exists():
        return []
    like = {"trials": [{"values": dict, objective: (float, type(None))}]}
    rows = read_document(path, like, "Move it away; the same command begins anew.")["trials"]
    return [Trial(row["values"], row[objective]) for row in rows]


def _distribution(optuna: ModuleType, settings: Settings, name: str, one: Choices) -> Any:
    kinds = optuna.distributions
    if not isinstance(one, Range):
        return kinds.CategoricalDistribution(one)
    if isinstance(value_of(settings, name), int):
        return kinds.IntDistribution(int(one.low), int(one.high), log=one.log)
    return kinds.FloatDistribution(one.low, one.high, log=one.log)


def _proposed(
    optuna: ModuleType,
    settings: Settings,
    entries: Mapping[str, Choices],
    done: Sequence[Trial],
) -> dict[str, Any]:
    """The options of the next trial; they depend on the seed and the trials before alone."""
    if not done:
        return {name: value_of(settings, name) for name in entries}
    kinds = {name: _distribution(optuna, settings, name, one) for name, one in entries.items()}
    sampler = optuna.samplers.TPESampler(seed=settings.seed + len(done))
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for trial in done:  # what is configured may lie outside
        inside = all(_inside(entries[name], value) for name, value in trial.values.items())
        if trial.found is not None and inside:
            study.add_trial(
                optuna.trial.create_trial(
                    params=trial.values, distributions=kinds, value=trial.found
                )
            )
    return dict(study.ask(kinds).params)


def _inside(one: Choices, value: Any) -> bool:
    return one.low <= value <= one.high if isinstance(one, Range) else value in one


def _tried(
    run: Run, given: Measured, which: Which, values: Mapping[str, Any], wanted: Wanted
) -> dict[str, float] | None:
    """Means over images; None where samples are not finite."""
    settings = _changed(run.settings, values)
    folder = wanted.output
    assert folder is not None
    try:
        with released():  # the folder is removed below
            reconstruct(_with(run, settings), given, which, wanted)
        wait_for_all("the trial is written")
        like = {"means": {name: {"mean": float} for name in OBJECTIVES}}
        means = read_document(folder / "summary.json", like, "Remove its folder.")["means"]
        found = {name: float(means[name]["mean"]) for name in OBJECTIVES}
    except NotFinite:
        found = None
    wait_for_all("the trial is read")
    if leads():
        shutil.rmtree(folder, ignore_errors=True)
    return found


def _changed(settings: Settings, values: Mapping[str, Any]) -> Settings:
    return configurations.override(settings, [(n, str(value)) for n, value in values.items()])


def _best(done: Sequence[Trial]) -> Trial | None:
    finite = [(trial.found, trial) for trial in done if trial.found is not None]
    return max(finite, key=lambda pair: pair[0])[1] if finite else None


def _keep(folder: Path, settings: Settings, done: Sequence[Trial], objective: str) -> None:
    if not leads():
        return
    rows = [{"values": trial.values, objective: trial.found} for trial in done]
    best = _best(done)
    with writing(folder):
        write_document(folder / "trials.json", {"trials": rows})
        if best is not None:
            configurations.save(_changed(settings, best.values), folder / "config.json")


def _tell(run: Run, folder: Path, done: Sequence[Trial], objective: str) -> None:
    best = _best(done)
    if best is None:
        raise UserError(
            f"none of {len(done)} trials gave finite samples; take other --ranges, or more "
            "config.sampling.steps"
        )
    use = command(f"--mode reconstruct --workdir {quoted(run.folder)} {_flags(run, best)}")
    say(
        f"best of {len(done)} trials: {_told(best.values)}: {objective} {_number(best)}; as "
        f"configured {_number(done[0])}. Use it: {use}"
    )


def _flags(run: Run, best: Trial) -> str:
    """What changes the run's own configuration into the best one, as the command line takes it.

    A mode that takes checkpoints has the settings of the run, whatever --config names.
    """
    own = configurations.load_json(run.folder / "config.json")
    found = configurations.differences(own, _changed(run.settings, best.values))
    return " ".join(quoted(f"--config.{name}={value}") for name, (_, value) in found.items())


def _told(values: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in values.items()
    )


def _number(trial: Trial) -> str:
    return "is not finite" if trial.found is None else f"{trial.found:.4f}"
