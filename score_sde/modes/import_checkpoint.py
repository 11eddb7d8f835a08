"""Make the checkpoint of a published code a run of ours, with its step and weights."""

from pathlib import Path

from score_sde.build.assemble import build
from score_sde.build.data import image_shape
from score_sde.build.dequantizer import build_dequantizer
from score_sde.build.experiment import Experiment
from score_sde.build.settings import Settings
from score_sde.convert import read_file
from score_sde.convert.published import Published, recognize
from score_sde.devices import leads
from score_sde.errors import UserError, command, quoted
from score_sde.exchange.find import Asked, find_settings, followed
from score_sde.exchange.folders import is_model, named, read_folder
from score_sde.exchange.states import (
    check_free,
    to_dequantizer,
    to_dequantizer_state,
    to_state,
    write_folder,
)
from score_sde.training import costs
from score_sde.training.state import TrainState
from score_sde.workdir.dequantizer import dequantizer_settings
from score_sde.workdir.jobs import Overrides, resolve_trained
from score_sde.workdir.run import Run


def main(
    source: Path | None = None,
    recipe: str | None = None,
    overrides: Overrides = (),
    workdir: str | None = None,
    source_config: Path | None = None,
) -> Path:
    """Import a file, or the folder of a model, into the working directory; returns it.

    Nothing in a file is executed. Nothing is written before everything has been found right.

    Raises:
        UserError: what the file or the settings are not, and what to name instead.
    """
    if source is None:
        raise UserError("--mode import needs the published checkpoint: --source FILE or FOLDER")
    if recipe and source_config:
        raise UserError(
            "--config and --source_config both say what the weights are of; give one of them"
        )
    if is_model(source):
        if recipe or source_config:
            raise UserError(
                f"{source} says itself what its weights are of; leave --config and --source_config "
                "out. Entries can be changed with --config.SECTION.NAME=VALUE"
            )
        return _write(source, *read_folder(source, overrides), workdir)
    published = recognize(*read_file(source), source)
    if published.code == "score_flow":
        if not (workdir and Path(workdir, "config.json").exists()):
            raise UserError(
                f"{source} is a dequantizer; import its score network first, then this with the "
                "same --workdir"
            )
        run = Run.of(*resolve_trained((recipe, workdir), overrides))
        return _dequantizer(published, source, run, source_config)
    there = f" --workdir {quoted(workdir)}" if workdir else ""
    again = command(f"--mode import --source {quoted(source)}{there}")
    asked = Asked(recipe, source_config, overrides, again)
    return _write(source, published, *find_settings(published, source, asked), workdir)


def _write(
    source: Path, published: Published, settings: Settings, origin: str, workdir: str | None
) -> Path:
    folder = Path(workdir) if workdir else Path("runs") / settings.name
    check_free(folder)
    with followed(origin):
        experiment = build(settings, image_shape(settings.data)[0])
    with named(source):
        state = to_state(published, experiment)
    if leads():
        origins = {
            "source": source.name,
            "code": published.code,
            "averaged": published.averaged,
            "config": origin,
        }
        documents = {"imported.json": origins, "config.json": settings.to_dict()}
        write_folder(folder, state, documents)
        _tell(published, source, experiment, state, (origin, folder))
    return folder


def _tell(
    published: Published,
    source: Path,
    experiment: Experiment,
    state: TrainState,
    places: tuple[str, Path],
) -> None:
    origin, folder = places
    print(
        f"imported {source} ({published.code}) with the configuration of {origin}: {folder}, "
        f"checkpoint {int(state.step)}, {costs.count(state.params):,} parameters"
    )
    if published.step is None:
        print("The file does not say its step, so it is checkpoint 0.")
    if not published.averaged:
        print("It holds one set of weights: averaged and raw ones are the same here.")
    if others := sorted(published.types - {"float32"}):
        print(f"Some of its weights are {' and '.join(others)}; here all are float32.")
    pixels = experiment.pixel_range
    process = ", ".join(f"{name}={value}" for name, value in experiment.settings.sde.items())
    print(
        f"What weights do not tell, and so the configuration says: process {process}; images "
        f"{experiment.shape} of {pixels.levels} levels in [{pixels.low:g}, {pixels.high:g}]. "
        "Training on begins with a fresh optimizer.\n"
        f"Sample: {command(f'--mode sample --workdir {quoted(folder)}')}"
    )


def _dequantizer(published: Published, source: Path, run: Run, source_config: Path | None) -> Path:
    """Give a run, whose score model the dequantizer was trained with, its published dequantizer."""
    folder = run.folder / "dequantizer"
    check_free(folder)
    flow, settings = to_dequantizer(published, source, source_config, run.settings)
    _, step = run.weights()
    experiment = build(settings, run.experiment.shape)
    task, trainer = build_dequantizer(experiment, params=())
    state = to_dequantizer_state(published, task, trainer, experiment.shape)
    if leads():
        write_folder(folder, state, {"settings.json": dequantizer_settings(settings, step)})
        use = command(
            f"--mode likelihood --workdir {quoted(run.folder)} "
            "--config.eval.dequantization=variational"
        )
        print(
            f"imported the dequantizer {source}, {costs.count(state.params):,} parameters, for "
            f"checkpoint {step}: {folder}\nWeights do not tell its attention heads; they are "
            f"{flow.heads}. Use it: {use}"
        )
    return folder
