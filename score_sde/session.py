"""What the modes of the command line share: restoring a run, its random keys, and its objects made ready to use."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh
from jaxtyping import PyTree
from tqdm import tqdm

from score_sde import codec as codec_lib
from score_sde import results, viz
from score_sde.build import (
    Experiment,
    build,
    build_dequantizer,
    build_flow,
    build_process,
    open_source,
)
from score_sde.data import Source, pipeline, take
from score_sde.data import inputs as inputs_lib
from score_sde.errors import UserError
from score_sde.generate import Generator
from score_sde.likelihood import Dequantizer, Uniform, Variational
from score_sde.training import sharding
from score_sde.training.checkpoint import Checkpoints
from score_sde.training.dequantizer import Dequantization
from score_sde.training.heldout import HeldoutLoss
from score_sde.training.levels import IMAGES, LevelLosses, Levels, level_times
from score_sde.training.state import TrainState
from score_sde.training.step import Trainer
from score_sde.workdir import write_json

PREVIEW = 64
"""Images in a grid."""


def image_shape(config: ml_collections.ConfigDict) -> tuple[int, int, int]:
    """(height, width, channels); what the configuration leaves open is read off the image files and written into it."""
    data = config.data
    if not (data.image_size and data.channels):
        with_files = data.copy_and_resolve_references()
        with_files.in_memory = False
        shape = open_source(with_files, train=True).shape
        assert shape is not None
        height, width, channels = shape
        data.channels = channels
        if height != width:  # a rectangle stays open: the files say it each time
            return height, width, channels
        data.image_size = height
    return data.image_size, data.image_size, data.channels


def run_keys(experiment: Experiment, part: str = "model") -> dict[str, jax.Array]:
    """The random keys of a run, by purpose; those of training the dequantizer are others."""
    purposes = ("init", "train", "eval", "sample")
    *keys, dequantizer = jax.random.split(jax.random.key(experiment.seed), len(purposes) + 1)
    if part == "dequantizer":
        keys = list(jax.random.split(dequantizer, len(purposes)))
    return dict(zip(purposes, keys, strict=True))


def training_batches(
    experiment: Experiment, config: ml_collections.ConfigDict, source: Source, batch_size: int | None = None
):
    """Endless shuffled batches, this process's part of them; for a dequantizer, of `batch_size` and never dequantized."""
    return pipeline.batches(
        source,
        experiment.pixel_range,
        batch_size or experiment.training["batch_size"],
        experiment.seed,
        train=True,
        flip=config.data.random_flip,
        dequantize=config.data.dequantize and batch_size is None,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )


def restore(config, workdir, checkpoint):
    """(experiment, mesh, train state, step) of a checkpoint."""
    experiment = build(config, image_shape(config))
    mesh = sharding.make_mesh()
    state = restore_state(experiment.trainer, experiment.shape, mesh, workdir, checkpoint)
    return experiment, mesh, state, int(state.step)


def restore_state(
    trainer: Trainer, shape: tuple[int, int, int], mesh: Mesh, folder: Path, checkpoint: int | None = None
) -> TrainState:
    """The train state of a checkpoint in `folder`, by default the last."""
    placed = sharding.replicated(mesh)
    like = jax.eval_shape(lambda: trainer.init(jax.random.key(0), shape))
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=placed), like)
    checkpoints = Checkpoints(folder / "checkpoints", read_only=True)
    state, _ = checkpoints.restore(like, checkpoint)
    checkpoints.close()
    return state


def rows_name(section: ml_collections.ConfigDict) -> str:
    """What config.eval evaluates, as folders are named: the split, and the dequantization unless it is uniform."""
    return (
        section.split if section.dequantization == "uniform" else f"{section.split}_{section.dequantization}"
    )


def dequantizer_settings(config: ml_collections.ConfigDict, step: int) -> dict:
    """What a dequantizer depends on: its section but for the loop's length and intervals, how it is trained, and on what."""
    section = config.dequantizer.to_dict()
    kept = {name: value for name, value in section.items() if name != "steps" and not name.endswith("_every")}
    training = {name: config.training[name] for name in ("ema_rate", "ema_warmup")}
    optim = {name: value for name, value in config.optim.to_dict().items() if name != "lr"}
    return {"score_checkpoint": step, "seed": config.seed} | kept | training | optim


def claim_dequantizer(folder: Path, config: ml_collections.ConfigDict, step: int) -> None:
    """Make the folder this dequantizer's; raises UserError where it belongs to another, or to another score checkpoint."""
    path, mine = folder / "settings.json", dequantizer_settings(config, step)
    if path.exists():
        there = json.loads(path.read_text())
        listed = [f"{k}: {there.get(k)!r} there, {v!r} here" for k, v in mine.items() if there.get(k) != v]
        if listed:
            raise UserError(
                f"{folder} belongs to another dequantizer ({'; '.join(listed)}). Go on with --checkpoint "
                f"{there['score_checkpoint']} and its settings, or move the folder away to train one anew."
            )
    elif jax.process_index() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, mine)


def make_dequantizer(
    config: ml_collections.ConfigDict, workdir: Path, experiment: Experiment, mesh: Mesh
) -> tuple[Dequantizer, dict]:
    """What config.eval.dequantization asks for, and what the rows depend on through it.

    A trained dequantizer gives a bound with every score model, tightest with the one it was trained for. Its own settings
    count, whatever config.dequantizer says; rows keep them, and its step.
    """
    if config.eval.dequantization == "uniform":
        return Uniform(), {}
    folder = workdir / "dequantizer"
    if not Checkpoints(folder / "checkpoints", read_only=True).steps():
        raise UserError(
            f"{folder} holds no dequantizer; train one: python main.py --mode train_dequantizer --workdir {workdir}"
        )
    there = json.loads((folder / "settings.json").read_text())
    config = config.copy_and_resolve_references()
    config.dequantizer.update({k: v for k, v in there.items() if k in config.dequantizer})
    trainer, _ = build_dequantizer(config, experiment)
    state = restore_state(trainer, experiment.shape, mesh, folder)
    used = {"dequantizer": there | {"step": int(state.step)}}
    assert isinstance(trainer.task, Dequantization)
    return Variational(state.ema_params, trainer.task.flow, experiment.pixel_range.levels), used


def read_inputs(config: ml_collections.ConfigDict, paths: list[Path], kinds: list[inputs_lib.Kind]):
    """What --input names, checked against the images and the process of the run."""
    prior_std = build_process(config.sde).prior_std
    given = inputs_lib.read_inputs(paths, image_shape(config), config.data.levels, kinds, prior_std)
    if any(part.files for part in given) and config.data.levels != 256 and jax.process_index() == 0:
        top = config.data.levels - 1
        print(f"image files: value v of 0 .. 255 is level round({top} v/255) of 0 .. {top}")
    return given


def split_images(config: ml_collections.ConfigDict, first: int = 0) -> list[inputs_lib.Inputs]:
    """The images of config.eval.split, the first ones if so asked, named by their numbers."""
    section = config.eval
    source = open_source(config.data, train=section.split == "train")
    count = min(first or section.num_examples or len(source), len(source))
    found, names = take(source, np.arange(count)), [f"{section.split} {i}" for i in range(count)]
    return [inputs_lib.Inputs(names, "images", found["image"], labels=found["label"])]


def result_folder(output: Path | None, workdir: Path, name: str, kind: str = "flow") -> Path:
    """Where a result goes; raises UserError, before the work is done, where it cannot."""
    folder = output or workdir / kind / name
    if jax.process_index() == 0:
        results.check_writable(folder)
    return folder


def solved_with(config: ml_collections.ConfigDict, step: int) -> dict[str, Any]:
    """What a result of the probability flow depends on."""
    return {"step": step} | {name: config.eval[name] for name in ("solver", "rtol", "atol", "variable")}


def make_codec(experiment: Experiment, config: ml_collections.ConfigDict, mesh: Mesh) -> codec_lib.Codec:
    """The run's probability-flow ODE, solved as config.eval says, on images as the run was trained on."""
    sharding.check_divisible("config.eval.batch_size", experiment.eval["batch_size"], mesh)
    flow = build_flow(config.eval, experiment.process)
    dequantized, size = config.data.dequantize, experiment.eval["batch_size"]
    return codec_lib.Codec(flow, experiment.model.score_fn, experiment.pixel_range, dequantized, mesh, size)


def make_heldout_loss(
    experiment: Experiment,
    config: ml_collections.ConfigDict,
    source: Source,
    mesh: Mesh,
    dequantizer: Trainer | None = None,
) -> HeldoutLoss:
    """The held-out loss of the experiment, or of its dequantizer, on the part of `source` that config.eval says."""
    wanted = experiment.eval["num_examples"] or len(source)
    return HeldoutLoss(
        dequantizer or experiment.trainer,
        source,
        experiment.pixel_range,
        mesh,
        experiment.eval["batch_size"],
        images=min(wanted, len(source)),
        passes=experiment.eval["passes"],
        dequantize=config.data.dequantize and dequantizer is None,
        seed=experiment.seed,
    )


def level_losses(
    experiment: Experiment,
    config: ml_collections.ConfigDict,
    params: PyTree,
    mesh: Mesh,
    train: Source,
    heldout: Source,
    images: int = 0,
) -> Levels:
    """Losses per noise level of `images` training and as many held-out images; by default as config.eval says, up to 256."""
    wanted = images or min(IMAGES, experiment.eval["num_examples"] or IMAGES)
    count = min(wanted, len(train), len(heldout))
    size = min(experiment.eval["batch_size"], -(-count // mesh.size) * mesh.size)
    losses = LevelLosses(
        experiment.model.score_fn,
        experiment.process,
        experiment.pixel_range,
        mesh,
        size,
        config.data.dequantize,
    )
    times = len(level_times(experiment.process))
    title = "losses per noise level"
    with tqdm(total=2 * count * times, unit="loss", desc=title, dynamic_ncols=True) as bar:
        key = run_keys(experiment)["eval"]
        return losses.compare(params, key, train, heldout, count, update=bar.update)


def make_generator(experiment: Experiment, mesh: Mesh, batch_size: int, frames: int = 0) -> Generator:
    """The experiment's sampler, compiled for the mesh."""
    return Generator(
        experiment.sampler,
        experiment.model.score_fn,
        experiment.shape,
        experiment.pixel_range,
        mesh,
        batch_size,
        min(frames, experiment.sampler.steps),
    )


def draw_batches(
    draw: Generator, params, keys: jax.Array, given: Any, title: str
) -> Iterator[tuple[slice, np.ndarray]]:
    """The samples with these keys, batch after batch: (which of them, images); `given` has a row for each."""
    size = draw.batch_size
    filled = np.arange(-(-len(keys) // size) * size) % len(keys)  # the last batch begins anew
    with tqdm(
        total=len(filled) // size * draw.sampler.steps, unit="step", desc=title, dynamic_ncols=True
    ) as bar:
        for start in range(0, len(filled), size):
            rows = filled[start : start + size]
            some = jax.tree.map(lambda array, rows=rows: array[rows], given)
            images = draw.draw(params, keys[rows], bar.update, some)[0]
            yield slice(start, min(start + size, len(keys))), images[: len(keys) - start]


def draw_all(draw: Generator, params, keys: jax.Array, given: Any, title: str) -> np.ndarray:
    """All of `draw_batches`."""
    return np.concatenate([images for _, images in draw_batches(draw, params, keys, given, title)])


def check_finite(images: np.ndarray, folder: Path) -> None:
    """Raises UserError where images are not finite; then nothing is written to `folder`."""
    bad = int((~np.isfinite(images)).any(axis=(1, 2, 3)).sum())
    if bad:
        raise UserError(
            f"{bad} of {len(images)} samples are not finite, so nothing was written to {folder}; try a smaller "
            "config.sampling.snr."
        )


def save_preview(draw: Generator, params, key, experiment: Experiment, workdir: Path, step: int, log) -> None:
    """A grid of samples during training."""
    images, _ = draw(params, key)
    if log:
        picture = viz.image_grid(np.nan_to_num(experiment.pixel_range.unit(images[:PREVIEW])))
        (workdir / "samples").mkdir(exist_ok=True)
        viz.save_png(workdir / "samples" / f"training_{step}.png", picture)
        log.image(step, "samples", picture)


def some_images(source: Source, limit: int = 60_000, max_bytes: int = 2**28) -> np.ndarray:
    """Evenly spaced images, as many as fit."""
    size = source[0]["image"].nbytes
    count = min(limit, len(source), max(1, max_bytes // size))
    return take(source, np.linspace(0, len(source) - 1, count).astype(int))["image"]
