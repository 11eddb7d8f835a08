"""What the page does: each task calls the functions of `workdir/` and keeps what they write.

A task is `(runs, ticket, asked) -> entry of the history`. It runs on the thread of `Device`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool

from score_sde import viz
from score_sde.app import choices, history
from score_sde.app.device import Ticket
from score_sde.app.history import Entry, Picture
from score_sde.app.runs import Runs
from score_sde.build.settings import Settings
from score_sde.data import take
from score_sde.data.inputs import Inputs
from score_sde.errors import UserError
from score_sde.files import write_bytes, write_npz
from score_sde.metrics.neighbors import nearest_neighbors
from score_sde.parallel.samples import Film
from score_sde.report.memorization import NEIGHBORS, to_8_bit
from score_sde.sde import GaussianSDE
from score_sde.workdir.bits import image_bits
from score_sde.workdir.completion import complete
from score_sde.workdir.documents import read_document
from score_sde.workdir.drawing import Asked, draw_samples
from score_sde.workdir.inputs import read_given, some_images
from score_sde.workdir.latents import encode
from score_sde.workdir.measured import measured
from score_sde.workdir.reconstruct import Wanted, reconstruct
from score_sde.workdir.run import Run

PASSES = 8
"""Draws of the dequantization of an image whose likelihood is evaluated."""
COMPARED = 6
"""Checkpoints side by side, at most."""


class Sampling(NamedTuple):
    """Samples that are wanted; `guidance` means nothing without classes."""

    run: str
    step: int | None
    sampler: str
    evaluations: int
    number: int = choices.BATCH
    seed: int = 0
    classes: tuple[int, ...] | None = None
    guidance: float = 0.0


class Filling(NamedTuple):
    """An image to fill in. known: True where a pixel is known, or the name of a mask."""

    run: str
    step: int | None
    image: Inputs
    known: Bool[np.ndarray, "h w"] | str
    solver: str = "ddnm"
    evaluations: int = 50
    copies: int = 4
    seed: int = 0


class Examining(NamedTuple):
    """An image whose likelihood, latent and nearest training images are wanted."""

    run: str
    step: int | None
    image: Inputs


class Reconstructing(NamedTuple):
    """An image to measure and reconstruct. value: of the option of the task. std: of the noise."""

    run: str
    step: int | None
    image: Inputs
    task: str
    solver: str = "ddnm"
    value: int | None = None
    std: float = 0.0
    evaluations: int = 50
    copies: int = 4
    seed: int = 0


class Comparing(NamedTuple):
    """Checkpoints (run, step) whose samples from the same seeds are wanted."""

    checkpoints: tuple[tuple[str, int], ...]
    sampler: str
    evaluations: int
    number: int = choices.BATCH
    seed: int = 0


def choose_image(run: Run, path: Path) -> Inputs:
    """The first image of an uploaded file, read as --input reads it.

    Raises:
        UserError: see `data.inputs.read_inputs`.
    """
    try:
        found = read_given(run, [path], ["images"])[0]
    except UserError as error:
        raise UserError(str(error).replace(str(path.parent), "the upload")) from error
    return Inputs(found.names[:1], "images", found.values[:1], found.labels[:1], found.files)


def heldout_image(run: Run, number: int) -> Inputs:
    """A held-out image of the run's data by its number.

    Raises:
        UserError: the data are not at hand, or have no such number.
    """
    source = run.source(train=False)
    number = choices.whole("Number of the image", number, 0, len(source) - 1)
    found = take(source, np.asarray([number]))
    return Inputs([f"held-out {number}"], "images", found["image"], found["label"])


def sample(runs: Runs, ticket: Ticket, asked: Sampling) -> Entry:
    """Draw samples."""
    return _kept(
        runs.folder(asked.run),
        "sample",
        _title(asked),
        asked._asdict(),
        lambda entry: _sample(runs, ticket, asked, entry),
    )


def _title(asked: Sampling) -> str:
    label = choices.SAMPLERS.get(asked.sampler, ("?", {}))[0]
    of = "" if asked.classes is None else f", classes {_listed(asked.classes)}"
    of += f", guidance {asked.guidance:g}" if of else ""
    at = "" if asked.step is None else f", checkpoint {asked.step:,}"
    what = f"{asked.number} samples{at}, {label}, {asked.evaluations} evaluations"
    return f"{what}, seed {asked.seed}{of}"


def _listed(classes: tuple[int, ...]) -> str:
    return ", ".join(map(str, classes)) or "all"


def _sample(runs: Runs, ticket: Ticket, asked: Sampling, entry: Entry) -> Entry:
    run = _sampling_run(runs, asked)
    film = Film(run.settings.sampling.frames)
    ticket.look = _looks(film)
    _, told = draw_samples(run, asked.step, Asked(asked.classes, entry.folder, film))
    pictures = [Picture("grid.png", _title(asked))]
    if (entry.folder / "intermediate.png").exists():
        pictures.append(Picture("intermediate.png", "From noise to samples"))
    return entry.finish([("drawn", told)], pictures)


def _looks(film: Film) -> Callable[[], bytes | None]:
    """The newest picture of a film as a PNG file, made once for each."""
    made: dict[int, bytes] = {}

    def look() -> bytes | None:
        count = len(film.pictures)
        if count and count not in made:
            made[count] = viz.png_bytes(viz.image_grid(np.nan_to_num(film.pictures[count - 1])))
        return made.get(count)

    return look


def _sampling_run(runs: Runs, asked: Sampling) -> Run:
    settings = _sampler(runs, asked.run, asked.sampler, asked.evaluations)
    if asked.classes is not None:
        settings = settings.change("sampling", guidance_scale=float(asked.guidance))
    number = choices.whole("Number of samples", asked.number, 1, 1024)
    return runs.get(asked.run, settings).seeded(_seed(asked.seed), number)


def _sampler(runs: Runs, run: str, sampler: str, evaluations: int) -> Settings:
    experiment = runs.get(run).experiment
    count = choices.whole("Evaluations", evaluations, 1, 10_000)
    return choices.with_sampler(runs.settings(run), experiment, sampler, count)


def _seed(seed: int) -> int:
    return choices.whole("Seed", seed, 0, 2**31 - 1)


def fill(runs: Runs, ticket: Ticket, asked: Filling) -> Entry:
    """Fill in what a mask hides."""
    name = asked.known if isinstance(asked.known, str) else "painted"
    title = f"{asked.image.names[0]}, mask {name}, {asked.solver}, seed {asked.seed}"

    def work(entry: Entry) -> Entry:
        path, mask = _given(entry, asked.image), asked.known
        if not isinstance(mask, str):
            file = entry.folder / "mask.png"
            viz.save_png(file, np.repeat(np.uint8(255) * mask[..., None], 3, axis=-1))
            mask = str(file)
        run = _inverse_run(runs, asked, {"task": "inpaint"})
        complete(run, [path], mask, asked.step, _wanted(entry, asked.copies))
        return entry.finish(_numbers(entry), [Picture("grid.png", _columns(run, asked.copies))])

    about = {"mask": name, "image": asked.image.names[0]}
    return _kept(runs.folder(asked.run), "fill", title, _plain(asked) | about, work)


def restore(runs: Runs, ticket: Ticket, asked: Reconstructing) -> Entry:
    """Measure an image, and reconstruct it from the measurement."""
    if asked.task not in choices.TASKS:
        raise UserError(f"task {asked.task!r} is not known; choose one of the list")
    task = choices.TASKS[asked.task]
    values: dict[str, Any] = {"task": asked.task, "std": float(asked.std)}
    if task.option and asked.value is not None:
        low, high = task.option.low, task.option.high
        value = choices.whole(task.option.label, asked.value, low, high)
        usual = type(getattr(runs.settings(asked.run).inverse, task.option.entry))
        values[task.option.entry] = usual(value)

    def work(entry: Entry) -> Entry:
        path = _given(entry, asked.image)
        run = _inverse_run(runs, asked, values)
        given = measured(run, [path], None)
        reconstruct(run, given, asked.step, _wanted(entry, asked.copies))
        return entry.finish(_numbers(entry), [Picture("grid.png", _columns(run, asked.copies))])

    title = f"{asked.image.names[0]}, {task.label}, {asked.solver}, seed {asked.seed}"
    about = {"image": asked.image.names[0]}
    return _kept(runs.folder(asked.run), "reconstruct", title, _plain(asked) | about, work)


def _wanted(entry: Entry, copies: int) -> Wanted:
    return Wanted("app", entry.folder, choices.whole("Samples", copies, 1, 16), quiet=True)


def _inverse_run(runs: Runs, asked: Filling | Reconstructing, values: dict[str, Any]) -> Run:
    """The run with the task and solver asked for; a chain keeps its own sampler."""
    experiment = runs.get(asked.run).experiment
    continuous = isinstance(experiment.process, GaussianSDE)
    name, count = ("ddim", asked.evaluations) if continuous else (choices.OWN, 10_000)
    settings = _sampler(runs, asked.run, name, count)
    if continuous:
        own = {entry: value for entry, value in values.items() if entry != "task"}
        settings = choices.with_solver(settings, values["task"], asked.solver, own)
    return runs.get(asked.run, settings).seeded(_seed(asked.seed))


def _numbers(entry: Entry) -> list[tuple[str, str]]:
    """What summary.json says of one image; nothing of a chain, which has none."""
    path = entry.folder / "summary.json"
    if not path.exists():
        return []
    means = read_document(path, {"means": dict}, history.AGAIN)["means"]
    labels = {
        "psnr": ("PSNR of a sample", "{:.2f} dB"),
        "psnr_of_mean": ("PSNR of the mean", "{:.2f} dB"),
        "ssim_of_mean": ("SSIM of the mean", "{:.3f}"),
        "residual": ("misfit, |A x - y| / |y|", "{:.1e}"),
        "evaluations": ("evaluations for a sample", "{:.0f}"),
    }
    return [
        (label, form.format(means[name]["mean"]))
        for name, (label, form) in labels.items()
        if name in means
    ]


def _columns(run: Run, copies: int) -> str:
    if not isinstance(run.experiment.process, GaussianSDE):
        return f"From the left: what is known, {copies} completions, the image"
    return (
        f"From the left: A⁺ y of the measurement, {copies} samples, their mean, twice their "
        "spread, twice the error of the mean, the image"
    )


def examine(runs: Runs, ticket: Ticket, asked: Examining) -> Entry:
    """Likelihood, latent, round trip and nearest training images of an image."""

    def work(entry: Entry) -> Entry:
        _given(entry, asked.image)
        settings = runs.settings(asked.run).change("eval", passes=PASSES, batch_size=64)
        run = runs.get(asked.run, settings)
        told: list[tuple[str, str]] = []
        pictures: list[Picture] = []
        if isinstance(run.experiment.process, GaussianSDE):
            told += _bits(run, asked)
            ticket.check()
            told += _round_trip(run, asked, entry)
            pictures.append(Picture("round_trip.png", "The image, its latent, decoded again"))
            ticket.check()
        else:
            told.append(("likelihood, latent", "a discrete chain has no ODE, so it has neither"))
        told += _nearest(run, asked, entry)
        pictures.append(Picture("nearest.png", "The image, and the nearest training images"))
        return entry.finish(told, pictures)

    name = asked.image.names[0]
    return _kept(runs.folder(asked.run), "examine", name, _plain(asked) | {"image": name}, work)


def _bits(run: Run, asked: Examining) -> list[tuple[str, str]]:
    found = image_bits(run, asked.image, asked.step)[0]
    value = f"{found['mean']:.3f} ± {found['standard_error']:.3f} bits/dim"
    how = f"standard error over {PASSES} draws of dequantization and probes"
    return [("likelihood", f"{value} ({how}; {found['nfe']:.0f} evaluations a draw)")]


def _round_trip(run: Run, asked: Examining, entry: Entry) -> list[tuple[str, str]]:
    encode(run, asked.image, asked.step, entry.folder)
    like = {"round_trip": {"max": float, "changed": int}, "latent_std": float, "nfe": dict}
    found = read_document(entry.folder / "encode.json", like, history.AGAIN)
    trip = found["round_trip"]
    back = "other levels come back" if trip["changed"] else "all levels come back"
    return [
        ("latent", f"standard deviation {found['latent_std']:.3f} of the prior's"),
        ("round trip", f"largest error {trip['max']:.2g} levels; {back}"),
    ]


def _nearest(run: Run, asked: Examining, entry: Entry) -> list[tuple[str, str]]:
    levels = run.experiment.pixel_range.levels
    training = run.once("training images", lambda: some_images(run.source(train=True)))
    count = min(NEIGHBORS, len(training))
    flip = run.settings.data.random_flip
    found = nearest_neighbors(asked.image.values, training, count, flip=flip)
    images = training[found.indices[0]]
    flipped = found.mirrored[0][:, None, None, None]
    shown = to_8_bit(np.where(flipped, images[..., ::-1, :], images), levels)
    grid = viz.neighbor_grid(to_8_bit(asked.image.values, levels), shown[None])
    write_bytes(entry.folder / "nearest.png", viz.png_bytes(grid))
    distances = ", ".join(f"{distance:.3g}" for distance in found.distances[0])
    of = f"Euclidean distance in levels, of {len(training):,} training images"
    return [("nearest training images", f"{distances} ({of})")]


def compare(runs: Runs, ticket: Ticket, asked: Comparing) -> Entry:
    """Samples of several checkpoints from the same seeds."""
    if not 2 <= len(asked.checkpoints) <= COMPARED:
        raise UserError(
            f"choose 2 to {COMPARED} checkpoints to compare; {len(asked.checkpoints)} are chosen"
        )
    base = Sampling("", None, asked.sampler, asked.evaluations, asked.number, asked.seed)

    def work(entry: Entry) -> Entry:
        pictures, told = [], []
        for number, (name, step) in enumerate(asked.checkpoints):
            run = _sampling_run(runs, base._replace(run=name))
            folder, film = entry.folder / str(number), Film(0)
            _, drawn = draw_samples(run, step, Asked(None, folder, film))
            pictures.append(Picture(f"{number}/grid.png", f"{name}, step {step:,}"))
            told.append((f"{name}, step {step:,}", drawn))
        return entry.finish(told, pictures)

    names = " | ".join(f"{name} {step:,}" for name, step in asked.checkpoints)
    title = f"{names}: {_title(base)}"
    folder = runs.folder(asked.checkpoints[0][0])
    return _kept(folder, "compare", title, asked._asdict(), work)


def _given(entry: Entry, image: Inputs) -> Path:
    """The image that was given, kept with what is made of it."""
    path = entry.folder / "given.npz"
    arrays = {"images": image.values, "label": image.labels, "names": np.asarray(image.names, str)}
    write_npz(path, arrays)
    return path


def _plain(asked: Any) -> dict[str, Any]:
    return {name: v for name, v in asked._asdict().items() if name not in ("image", "known")}


def _kept(
    run: Path, kind: str, title: str, asked: dict[str, Any], work: Callable[[Entry], Entry]
) -> Entry:
    """An entry with what `work` made; nothing stays of one that was stopped or failed."""
    entry = history.begin(run, kind, title, asked)
    try:
        return work(entry)
    except BaseException:
        entry.discard()
        raise
