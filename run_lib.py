"""The modes of the command line, one linear function each."""

import dataclasses
import functools
import json
import math
import os
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from tqdm import tqdm

from score_sde import __version__, exchange, measurements, noise_scales, results, viz
from score_sde import codec as codec_lib
from score_sde import config as config_lib
from score_sde.arguments import attempt, name_of, parse_options, parse_runs, raise_failed
from score_sde.build import (
    build,
    build_dequantizer,
    build_likelihood,
    build_pixel_range,
    build_process,
    metric_names,
    open_source,
)
from score_sde.convert import read_file, write_torch
from score_sde.convert.published import Published, recognize
from score_sde.data import fingerprint, take
from score_sde.data import inputs as inputs_lib
from score_sde.data.image_sets import ImageSet, labelled_images
from score_sde.errors import UserError
from score_sde.evaluate import Evaluator
from score_sde.generate import between
from score_sde.generate import inpaint as keep_known
from score_sde.likelihood.rows import Pieces
from score_sde.metrics.extractors import make_extractor
from score_sde.metrics.statistics import (
    FEATURE_METRICS,
    Statistics,
    check_comparable,
    check_names,
    check_provenance,
    collect,
    measure,
    notes,
    save_statistics,
    table,
)
from score_sde.metrics.statistics import METRICS as QUALITY_METRICS
from score_sde.networks.ncsn import variant_for
from score_sde.quality import (
    extractor_at_hand,
    known_of,
    make_quality,
    measure_checkpoint,
    open_set,
    promised,
    small_sample_distance,
    small_sample_settings,
)
from score_sde.sde import GaussianSDE
from score_sde.session import (
    PREVIEW,
    check_finite,
    claim_dequantizer,
    dequantizer_settings,
    draw_all,
    image_shape,
    level_losses,
    make_codec,
    make_dequantizer,
    make_generator,
    make_heldout_loss,
    read_inputs,
    restore,
    result_folder,
    rows_name,
    run_keys,
    save_preview,
    solved_with,
    some_images,
    split_images,
    training_batches,
)
from score_sde.training import costs, sharding
from score_sde.training.checkpoint import Checkpoints
from score_sde.training.loop import Loop
from score_sde.types import sample_keys
from score_sde.viz.grid import write_atomic
from score_sde.workdir import check_apart, claim, resolve, resolve_trained, write_json


def train(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Train, or go on training: steps, held-out losses, sample grids and checkpoints until config.training.steps."""
    experiment = build(config, image_shape(config))
    source, heldout = open_source(config.data, train=True), open_source(config.data, train=False)
    mesh = sharding.make_mesh()
    settings = experiment.training
    sharding.check_divisible("config.training.batch_size", settings["batch_size"], mesh)
    sharding.check_divisible("config.eval.batch_size", experiment.eval["batch_size"], mesh)
    claim(workdir, config)

    keys = run_keys(experiment)
    batches, how = training_batches(experiment, config, source), small_sample_settings(config)
    loop = Loop(workdir, experiment.trainer, settings, batches, mesh, how=how)
    if not loop.begin(keys["init"], experiment.shape):
        print(
            f"{workdir} has been trained for {loop.step} steps already; raise config.training.steps to go on."
        )
        return
    if jax.process_index() == 0:
        config_lib.save(config, workdir / "config.json")

    heldout_loss = make_heldout_loss(experiment, config, heldout, mesh)
    shown = min(PREVIEW, experiment.sampling["num_samples"], experiment.sampling["batch_size"])
    preview = make_generator(experiment, mesh, shown)

    def evaluate(params):
        return heldout_loss(params, keys["eval"])

    def picture(params, step, log):
        save_preview(preview, params, keys["sample"], experiment, workdir, step, log)

    measure = None
    if settings["quality_every"]:
        quality = make_quality(config, experiment.shape, workdir, ["fid"])
        measure = small_sample_distance(experiment, quality, mesh)
    if loop.run(keys["train"], evaluate, picture, measure):
        print(f"trained for {loop.step} steps. Sample: python main.py --mode sample --workdir {workdir}")


def train_dequantizer(
    config: ml_collections.ConfigDict, workdir: Path, checkpoint: int | None = None
) -> None:
    """Train, or go on training, the dequantizer of a checkpoint's averaged weights, which stay as they are: dequantizer/."""
    source, heldout = open_source(config.data, train=True), open_source(config.data, train=False)
    experiment, mesh, model, step = restore(config, workdir, checkpoint)
    trainer, settings = build_dequantizer(config, experiment)
    sharding.check_divisible("config.dequantizer.batch_size", settings["batch_size"], mesh)
    sharding.check_divisible("config.eval.batch_size", experiment.eval["batch_size"], mesh)
    folder = workdir / "dequantizer"
    claim_dequantizer(folder, config, step)

    keys = run_keys(experiment, "dequantizer")
    batches = training_batches(experiment, config, source, settings["batch_size"])
    loop = Loop(folder, trainer, settings, batches, mesh, frozen=model.ema_params)
    if not loop.begin(keys["init"], experiment.shape):
        print(
            f"{folder} has been trained for {loop.step} steps already; raise config.dequantizer.steps to go on."
        )
        return
    heldout_loss = make_heldout_loss(experiment, config, heldout, mesh, trainer)
    if loop.run(keys["train"], lambda params: heldout_loss(params, keys["eval"], model.ema_params)):
        print(
            f"dequantizer of checkpoint {step} trained for {loop.step} steps. Use it: python main.py --mode likelihood "
            f"--workdir {workdir} --checkpoint {step} --config.eval.dequantization=variational"
        )


def sample(config: ml_collections.ConfigDict, workdir: Path, checkpoint: int | None = None) -> Path:
    """Draw config.sampling.num_samples images from the averaged weights: samples.npz, grid.png and, with frames,
    reverse_diffusion.gif and intermediate.png.

    Sample number i depends on the seed and i alone, not on batch size or devices.
    """
    experiment, mesh, state, step = restore(config, workdir, checkpoint)
    number, size = experiment.sampling["num_samples"], experiment.sampling["batch_size"]
    draw = make_generator(experiment, mesh, min(size, number), experiment.sampling["frames"])
    key = run_keys(experiment)["sample"]
    parts, frames = [], np.zeros(0)
    rounds = math.ceil(number / draw.batch_size)
    bar = tqdm(total=rounds * draw.sampler.steps, unit="step", desc=f"sampling {number}", dynamic_ncols=True)
    for first in range(0, number, draw.batch_size):
        images, trajectory = draw(state.ema_params, key, first, bar.update)
        parts.append(images)
        frames = frames if first else trajectory
    bar.close()
    images = np.concatenate(parts)[:number]
    finite = np.isfinite(images).all(axis=(1, 2, 3))
    folder = workdir / "samples" / f"step_{step}"
    if jax.process_index() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        pixels = experiment.pixel_range
        np.savez_compressed(
            folder / "samples.npz",
            images=pixels.decode(images),
            finite=finite,
            step=step,
            levels=pixels.levels,
        )
        how = dict(config.sampling) | {"evaluations": draw.sampler.nfe, "seed": experiment.seed}
        write_json(folder / "sampling.json", how)
        viz.save_png(folder / "grid.png", viz.image_grid(np.nan_to_num(pixels.unit(images[:PREVIEW]))))
        animation = folder / "reverse_diffusion.gif"
        intermediate = folder / "intermediate.png"
        for old in (animation, intermediate):
            old.unlink(missing_ok=True)
        if len(frames):
            viz.save_animation(animation, np.nan_to_num(frames[:, : min(36, number)]))
            columns = np.linspace(0, len(frames) - 1, min(11, len(frames))).astype(int)
            shown = np.nan_to_num(frames[columns, : min(8, number)])
            rows = shown.swapaxes(0, 1).reshape(-1, *shown.shape[2:])
            viz.save_png(intermediate, viz.image_grid(rows, columns=len(shown)))
        print(f"{number} samples of checkpoint {step} ({draw.sampler.nfe} evaluations each): {folder}")
    if not finite.all():
        raise UserError(
            f"{int((~finite).sum())} of {number} samples are not finite (`finite` in {folder / 'samples.npz'} says which); try "
            "more config.sampling.steps or a smaller config.sampling.snr."
        )
    return folder


def evaluate(
    config: ml_collections.ConfigDict, workdir: Path, checkpoint: int | None = None
) -> list[measurements.Row]:
    """What config.eval.metrics asks of the averaged weights, with errors: rows of eval/step_N.json.

    loss: on held-out images. levels: the loss at each noise level, on training and held-out images (eval/levels_step_N.json).
    bits: bits/dim of config.eval.split, as --mode likelihood; of several processes the first alone has these rows.
    fid, is, kid, pr, dc: of config.quality.num_samples samples.
    """
    results.check_writable(workdir / "eval", results.IN_RUN)
    experiment, mesh, state, step = restore(config, workdir, checkpoint)
    names = metric_names(config.eval)
    sharding.check_divisible("config.eval.batch_size", experiment.eval["batch_size"], mesh)
    wanted = [name for name in names if name in QUALITY_METRICS]
    quality = make_quality(config, experiment.shape, workdir, wanted) if wanted else None  # may lack files
    rows: list[measurements.Row] = []

    def keep(found: list[measurements.Row]) -> None:  # at once: what comes after may fail
        rows.extend(found)
        if jax.process_index() == 0:
            with results.writing(workdir / "eval", results.IN_RUN):
                measurements.record(workdir, step, found)
            for row in found:
                print(f"checkpoint {step}: {measurements.line(row)}")

    if "loss" in names:
        heldout = open_source(config.data, train=False)
        losses = make_heldout_loss(experiment, config, heldout, mesh)(
            state.ema_params, run_keys(experiment)["eval"]
        )
        images = losses.mean(axis=0)
        bad = int((~np.isfinite(images)).sum())
        if bad:
            raise UserError(
                f"the held-out loss of {bad} of {len(images)} images at checkpoint {step} is not finite: the weights give no "
                "usable score there. Try another --checkpoint, or config.model.dtype=float32."
            )
        how = {name: config.training[name] for name in ("times", "likelihood_weighting")}
        how |= {"images": len(images), "passes": len(losses)}
        row: measurements.Row = {"metric": "loss", "value": float(images.mean()), "how": how}
        if len(images) > 1:
            row["standard_error"] = float(images.std(ddof=1) / math.sqrt(len(images)))
        keep([row])
    if "levels" in names:
        sources = [open_source(config.data, train=train) for train in (True, False)]
        levels = level_losses(experiment, config, state.ema_params, mesh, *sources)
        if jax.process_index() == 0:
            about = {"images": len(levels.train), "seed": experiment.seed}
            with results.writing(workdir / "eval", results.IN_RUN):
                path = results.save_levels(workdir, step, levels.rows(), about)
            print(f"checkpoint {step}: losses per noise level: {path}")
    if "bits" in names:
        folder = likelihood(config, workdir, step)
        settings = ("split", "dequantization", "solver", "rtol", "atol", "variable", "probes", "bound_draws")
        if jax.process_index() == 0:  # which wrote the summary
            keep(results.bits_rows(folder, {name: config.eval[name] for name in settings}))
    if quality:
        with results.writing(workdir / "eval", results.IN_RUN):
            weights = state.ema_params
            measured, how = measure_checkpoint(quality, experiment, config, mesh, weights, step, workdir)
        keep([{"metric": name, **values, "how": how} for name, values in measured.items()])
    return rows


def likelihood(
    config: ml_collections.ConfigDict,
    workdir: Path,
    checkpoint: int | None = None,
    shard: tuple[int, int] = (0, 1),
) -> Path:
    """Bits/dim of the images of config.eval.split, one Parquet row for each image and pass, under eval/likelihood_SPLIT/.

    A killed evaluation goes on where it stopped. Shard (i, n) evaluates the images i, i + n, i + 2n, ...; noise and
    probes do not depend on batch size, devices or shards, so the rows agree to the solver's tolerance.
    Without shards the summary and its pictures are written in the end.
    """
    section = config.eval
    if section.split not in ("train", "test"):
        raise UserError(f"config.eval.split must be 'train' or 'test'; got {section.split!r}")
    source = open_source(config.data, train=section.split == "train")
    experiment, mesh, state, step = restore(config, workdir, checkpoint)
    sharding.check_divisible("config.eval.batch_size", section.batch_size, mesh)
    ode, bound = build_likelihood(section, experiment.process, experiment.shape)
    dequantizer, used = make_dequantizer(config, workdir, experiment, mesh)
    images = min(section.num_examples or len(source), len(source))
    mine = np.arange(images)[shard[0] :: shard[1]]
    if not len(mine):
        raise UserError(f"shard {shard[0]}/{shard[1]} is empty: there are {images} images")
    size = min(section.batch_size, math.ceil(len(mine) / mesh.size) * mesh.size)
    evaluator = Evaluator(
        experiment.model.score_fn, source, experiment.pixel_range, mesh, size, ode, bound, dequantizer
    )
    names = ("probes", "solver", "rtol", "atol", "variable", "bits_tol", "bound_draws")
    settings = {name: section[name] for name in names} | {"dtype": config.model.dtype}
    pieces = Pieces(
        results.likelihood_folder(workdir, rows_name(section), step),
        settings | used | {"seed": experiment.seed, "images": images, "source": fingerprint(source)},
    )

    key = run_keys(experiment)["eval"]
    todo = [pieces.missing(mine, number) for number in range(section.passes)]
    total = len(mine) * section.passes
    bar = tqdm(total=total, initial=total - sum(map(len, todo)), unit="image", dynamic_ncols=True)
    for number, missing in enumerate(todo):
        for start in range(0, len(missing), size):
            rows = evaluator(state.ema_params, key, missing[start : start + size], number)
            results.check_solved(rows, pieces.folder)
            if jax.process_index() == 0:
                pieces.write(rows)
            bar.update(len(rows["index"]))
    bar.close()
    if shard[1] > 1:
        print(
            f"shard {shard[0]}/{shard[1]} done; when all are: python main.py --mode summarize --workdir {workdir}"
        )
    elif jax.process_index() == 0:
        results.save_likelihood(pieces, images, section.passes, source, experiment.pixel_range, step)
    return pieces.folder


def summarize(config: ml_collections.ConfigDict, workdir: Path) -> dict[int, results.Summary]:
    """Merge the pieces of all likelihood evaluations of a run, refusing gaps and doubles; draw bits/dim against step."""
    name, found = rows_name(config.eval), {}
    source = open_source(config.data, train=config.eval.split == "train")
    pixels = build(config, image_shape(config)).pixel_range
    for step, folder in results.likelihood_folders(workdir, name).items():
        settings = json.loads((folder / "settings.json").read_text())
        pieces, images = Pieces(folder, settings), settings["images"]
        found[step] = results.save_likelihood(pieces, images, config.eval.passes, source, pixels, step)
    results.save_curves({workdir.name: found}, workdir / "eval", name)
    return found


def encode(
    config: ml_collections.ConfigDict,
    workdir: Path,
    checkpoint: int | None = None,
    input: list[Path] | None = None,
    output: Path | None = None,
) -> Path:
    """Latents of images by the probability-flow ODE, and how exactly they decode again: latents.npz, round_trip.png.

    `input`: image files, folders, npz files with `images`; by default the images of config.eval.split.
    """
    given = inputs_lib.join(read_inputs(config, input, ["images"]) if input else split_images(config))
    names, images = given.names, given.values
    experiment, mesh, state, step = restore(config, workdir, checkpoint)
    folder = result_folder(output, workdir, f"encode_step_{step}")
    codec = make_codec(experiment, config, mesh)
    with tqdm(total=2 * len(images), unit="image", dynamic_ncols=True, desc="encoding, decoding") as bar:
        encoded = codec.encode(state.ema_params, images, names, bar.update)
        decoded = codec.decode(state.ema_params, encoded.values, names, bar.update)
    if jax.process_index() == 0:
        with results.writing(folder):
            summary = results.save_encoding(folder, codec, given, encoded, decoded, solved_with(config, step))
        nfe, error = summary["nfe"], summary["round_trip"]
        print(
            f"{len(images)} latents of checkpoint {step} ({nfe['mean']:.0f} evaluations, at most {nfe['max']}): {folder}\n"
            f"round trip: largest error {error['max']:.2g} levels; {error['changed']} images come back with other levels"
            + ("; smaller config.eval.rtol and atol mend that" if error["changed"] else "")
        )
    return folder


def decode(
    config: ml_collections.ConfigDict,
    workdir: Path,
    checkpoint: int | None = None,
    input: list[Path] | None = None,
    output: Path | None = None,
    temperature: float = 1.0,
) -> Path:
    """Images of latents by the probability-flow ODE: samples.npz, grid.png and a PNG file for each.

    `input`: npz files with latents `z`; by default config.sampling.num_samples are drawn from the prior, those that
    --mode sample begins with. `temperature` multiplies them.
    """
    given = inputs_lib.join(read_inputs(config, input, ["z"])) if input else None
    experiment, mesh, state, step = restore(config, workdir, checkpoint)
    folder = result_folder(output, workdir, f"decode_step_{step}")
    codec = make_codec(experiment, config, mesh)
    if given:
        names, z = given.names, given.values
    else:
        numbers = np.arange(experiment.sampling["num_samples"])
        names = [f"sample {i}" for i in numbers]
        z = codec.prior(run_keys(experiment)["sample"], numbers, experiment.shape)
    z = np.float32(temperature) * z
    with tqdm(total=len(z), unit="image", dynamic_ncols=True, desc="decoding") as bar:
        decoded = codec.decode(state.ema_params, z, names, bar.update)
    if jax.process_index() == 0:
        how = solved_with(config, step) | {"temperature": temperature}
        with results.writing(folder):
            nfe = results.save_decoding(folder, codec, names, z, decoded, how)["nfe"]
        print(
            f"{len(z)} images of checkpoint {step} ({nfe['mean']:.0f} evaluations, at most {nfe['max']}): {folder}"
        )
    return folder


def interpolate(
    config: ml_collections.ConfigDict,
    workdir: Path,
    checkpoint: int | None = None,
    input: list[Path] | None = None,
    output: Path | None = None,
    temperature: float = 1.0,
    frames: int = 11,
) -> Path:
    """Spherical interpolations in latents, from each input to the next: grid.png, interpolation.gif, frames.npz.

    `input`: images, encoded first, and npz files with latents `z`; by default the first 8 images of config.eval.split.
    """
    if not isinstance(build_process(config.sde), GaussianSDE):
        if input or temperature != 1.0:
            raise UserError(
                "a discrete chain has no latents of images; --mode interpolate goes between its samples, without --input and "
                "--temperature. For latents train a *_cont recipe."
            )
        step = Checkpoints(workdir / "checkpoints", read_only=True).choose(checkpoint)
        folder = result_folder(output, workdir, f"interpolate_step_{step}", "samples")
        return interpolate_samples(config, workdir, step, folder, frames)
    given = read_inputs(config, input, ["z", "images"]) if input else split_images(config, first=8)
    names = [name for part in given for name in part.names]
    experiment, mesh, state, step = restore(config, workdir, checkpoint)
    folder = result_folder(output, workdir, f"interpolate_step_{step}")
    codec = make_codec(experiment, config, mesh)
    latents = [
        codec.encode(state.ema_params, part.values, part.names).values
        if part.kind == "images"
        else part.values
        for part in given
    ]
    z = codec_lib.interpolate(np.float32(temperature) * np.concatenate(latents), frames, names)
    flat = z.reshape(-1, *experiment.shape)
    places = [f"frame {i % frames} of pair {i // frames}" for i in range(len(flat))]
    with tqdm(total=len(flat), unit="image", dynamic_ncols=True, desc="decoding") as bar:
        decoded = codec.decode(state.ema_params, flat, places, bar.update)
    if jax.process_index() == 0:
        how = solved_with(config, step) | {"temperature": temperature}
        with results.writing(folder):
            results.save_interpolation(folder, codec, names, z, decoded, how)
        print(f"{len(z)} interpolations of {frames} frames, checkpoint {step}: {folder}")
    return folder


def interpolate_samples(
    config: ml_collections.ConfigDict, workdir: Path, checkpoint: int | None, folder: Path, frames: int
) -> Path:
    """Samples between samples 0 and 1, 1 and 2, ... through the noise of the sampler (B.4.1): frames.npz, grid.png.

    For discrete chains, which have no ODE. All samples of a row start from the same state; frame k has the noise
    cos(angle) z + sin(angle) z', angle = k pi/(2 (frames - 1)).
    """
    experiment, mesh, state, step = restore(config, workdir, checkpoint)
    pairs = max(1, min(experiment.sampling["num_samples"] - 1, 8))
    angles = np.linspace(0, np.pi / 2, frames, dtype=np.float32)
    numbers = np.repeat(np.arange(pairs), frames)
    keys = run_keys(experiment)["sample"]
    draw = make_generator(experiment, mesh, min(experiment.sampling["batch_size"], len(numbers)))
    draw = dataclasses.replace(draw, advance=between)
    images = draw_all(
        draw,
        state.ema_params,
        sample_keys(keys, jnp.asarray(numbers)),
        {"keys": sample_keys(keys, jnp.asarray(numbers + 1)), "angle": np.tile(angles, pairs)},
        "interpolating",
    )
    check_finite(images, folder)
    if jax.process_index() == 0:
        with results.writing(folder):
            levels = experiment.pixel_range.decode(images)
            how = dict(config.sampling) | {"step": step, "seed": experiment.seed}
            results.save_noise_interpolation(folder, levels, frames, experiment.pixel_range, how)
        print(f"{pairs} interpolations of {frames} frames through the noise, checkpoint {step}: {folder}")
    return folder


def inpaint(
    config: ml_collections.ConfigDict,
    workdir: Path,
    checkpoint: int | None = None,
    input: list[Path] | None = None,
    output: Path | None = None,
    mask: str = "left",
    copies: int = 8,
) -> Path:
    """Fill in what a mask leaves unknown, by annealed Langevin dynamics (algorithm B.2): inpaint.npz, grid.png.

    `input`: image files, folders, npz files with `images`; by default the first 8 images of config.eval.split. Each gets
    `copies` completions; known pixels come back as they were.
    """
    if (config.sampling.grid, config.sampling.corrector) != ("levels", "annealed_langevin"):
        raise UserError(
            "--mode inpaint fills in by annealed Langevin dynamics; it needs config.sampling.grid=levels and "
            f"corrector=annealed_langevin, as the recipes ncsn and ncsnv2 have them; got grid={config.sampling.grid}, "
            f"corrector={config.sampling.corrector}"
        )
    known = inputs_lib.read_mask(mask, image_shape(config))
    given = inputs_lib.join(
        read_inputs(config, input, ["images"]) if input else split_images(config, first=8)
    )
    experiment, mesh, state, step = restore(config, workdir, checkpoint)
    folder = result_folder(output, workdir, f"inpaint_step_{step}", "samples")
    numbers = np.arange(len(given.values) * copies)
    draw = make_generator(experiment, mesh, min(experiment.sampling["batch_size"], len(numbers)))
    values = experiment.pixel_range.encode(given.values.repeat(copies, axis=0)).astype(np.float32)
    images = draw_all(
        dataclasses.replace(draw, advance=keep_known),
        state.ema_params,
        sample_keys(run_keys(experiment)["sample"], jnp.asarray(numbers)),
        {"image": values, "known": np.broadcast_to(known, (len(values), *known.shape))},
        "inpainting",
    )
    check_finite(images, folder)
    if jax.process_index() == 0:
        levels = experiment.pixel_range.decode(images).reshape(len(given.values), copies, *experiment.shape)
        levels = np.where(known, given.values[:, None], levels).astype(given.values.dtype)
        how = dict(config.sampling) | {"step": step, "seed": experiment.seed, "mask": mask}
        with results.writing(folder):
            results.save_inpainting(folder, given, known, levels, experiment.pixel_range, how)
        print(f"{copies} completions of {len(levels)} images, checkpoint {step}: {folder}")
    return folder


PUBLISHED_SELECTION = 1000
"""Samples of each checkpoint (B.3.2)."""


def select(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """The checkpoint whose samples are nearest to the training images, by Frechet distance; then --checkpoint best.

    config.sampling.num_samples samples of every checkpoint, with the same noise (B.3.2, B.4.1).
    """
    steps = Checkpoints(workdir / "checkpoints", read_only=True).steps()
    if not steps:
        raise UserError(f"{workdir} holds no checkpoints to choose from; train first")
    number = config.sampling.num_samples
    if number < 2:
        raise UserError(f"--mode select needs config.sampling.num_samples of 2 or more; got {number}")
    config.eval.metrics, config.quality.num_samples = "fid", number
    jobs = {f"checkpoint {step}": functools.partial(evaluate, config, workdir, step) for step in steps}
    done, failed = attempt(jobs)
    if done and jax.process_index() == 0:
        with results.writing(workdir / "eval", results.IN_RUN):
            measurements.choose(workdir, [row for rows in done.values() for row in rows], steps)
        if number < PUBLISHED_SELECTION:
            print(
                f"{number} samples each tell little; published: {PUBLISHED_SELECTION} (--config.sampling.num_samples)"
            )
    raise_failed(failed, len(jobs))


def suggest(config: ml_collections.ConfigDict, workdir: Path, output: Path | None = None) -> None:
    """Print noise scales and step size for the training images (dissertation, techniques 6.1 to 6.5); write them to `output`.

    There an NCSN gets the variant for the size of the images too, which a recipe for `folder` cannot know. sigma_min and the
    Langevin steps at each level (the budget) are the configuration's.
    """
    section, levels = config.sde, config.sampling.grid == "levels"
    if "sigma_max" not in section:
        raise UserError(
            f"config.sde.name={section.name} has no noise scales to choose; --mode suggest is for recipes with sde.sigma_max, as "
            "configs/ncsnv2/ncsnv2.py"
        )
    if output is not None and output.suffix != ".json":
        raise UserError(f"--output must be a .json file, which --config then takes; got {output}")
    if output is not None and output.exists():
        raise UserError(f"{output} exists already; choose another --output")
    steps = config.sampling.corrector_steps if levels else None
    name = next((name for name in noise_scales.PUBLISHED if config.name.endswith(f"_{name}")), None)
    row = noise_scales.PUBLISHED.get(name or "")
    if row and levels and name:
        print(f"{name}, at the published sigma_max:")
        print(
            noise_scales.comparison(row.settings.sigma_max, row.settings.dimension, published=row), end="\n\n"
        )
    shape = image_shape(config)
    source, pixels = open_source(config.data, train=True), build_pixel_range(config.data)
    images = take(source, noise_scales.random_subset(len(source)))["image"]
    unit = (pixels.high - pixels.low) / (pixels.levels - 1)
    distance = noise_scales.largest_distance(images)[0] * unit
    same = row if row and math.prod(shape) == row.settings.dimension else None
    print(
        f"from {len(images):,} of {len(source):,} training images of shape {shape} in [{pixels.low:g}, {pixels.high:g}]:"
    )
    print(noise_scales.comparison(distance, math.prod(shape), section.sigma_min, steps, same))
    found = noise_scales.suggest(float(f"{distance:.4g}"), math.prod(shape), section.sigma_min, steps=steps)
    if output is None or jax.process_index() > 0:
        return
    section.sigma_max = found.sigma_max
    if levels:
        section.n, config.training.ema_rate = found.n, found.ema_rate
        config.sampling.update({"steps": found.n, "corrector_steps": found.steps, "snr": found.snr})
    if "variant" in config.model:
        config.model.variant = variant_for(*shape[:2])
    build(config, shape)
    with results.writing(output.parent):
        output.parent.mkdir(parents=True, exist_ok=True)
        config_lib.save(config, output)
    what = (
        "noise scales, step size, ema_rate and the network's variant"
        if levels
        else "sigma_max alone (the rest is annealed Langevin dynamics')"
    )
    print(f"{output} has {what}. Train: python main.py --mode train --config {output}")


def import_checkpoint(
    source: Path,
    config_file: str | None = None,
    overrides: list[tuple[str, str]] | None = None,
    workdir: str | None = None,
    source_config: Path | None = None,
) -> Path:
    """Make the checkpoint of a published code a run of ours, with its step, weights and averaged weights.

    Nothing in the file is executed, and nothing is written before everything has been found right.
    """
    published = recognize(*read_file(source), source)
    if published.code == "score_flow":
        if not (workdir and Path(workdir, "config.json").exists()):
            raise UserError(
                f"{source} is a dequantizer; import its score network first, then this with the same --workdir"
            )
        config, folder = resolve_trained(config_file, workdir, overrides or [])
        return import_dequantizer(published, source, config, folder, source_config)
    command = f"python main.py --mode import --source {source}" + (f" --workdir {workdir}" if workdir else "")
    config, origin = exchange.find_config(
        published, source, config_file, source_config, overrides or [], command
    )
    folder = Path(workdir) if workdir else Path("runs") / config.name
    exchange.check_free(folder)
    with exchange.followed(origin):
        experiment = build(config, image_shape(config))
    state = exchange.to_state(published, experiment, config)
    step = int(state.step)
    if jax.process_index() == 0:
        origins = {
            "source": source.name,
            "code": published.code,
            "averaged": published.averaged,
            "config": origin,
        }
        documents = {"imported.json": origins, "config.json": config.to_dict()}
        exchange.write_folder(folder, state, documents)
        print(
            f"imported {source} ({published.code}) with the configuration of {origin}: {folder}, checkpoint {step}, "
            f"{costs.count(state.params):,} parameters"
        )
        if published.step is None:
            print("The file does not say its step, so it is checkpoint 0.")
        if not published.averaged:
            print("It holds one set of weights: averaged and raw ones are the same here.")
        pixels, process = experiment.pixel_range, ", ".join(f"{k}={v}" for k, v in config.sde.items())
        print(
            f"What weights do not tell, and so the configuration says: process {process}; images {experiment.shape} of "
            f"{pixels.levels} levels in [{pixels.low:g}, {pixels.high:g}]. Training on begins with a fresh optimizer.\n"
            f"Sample: python main.py --mode sample --workdir {folder}"
        )
    return folder


def import_dequantizer(
    published: Published,
    source: Path,
    config: ml_collections.ConfigDict,
    workdir: Path,
    source_config: Path | None = None,
) -> Path:
    """Give a run, whose score model the dequantizer was trained with, its published dequantizer: dequantizer/."""
    folder = workdir / "dequantizer"
    exchange.check_free(folder)
    flow = exchange.to_dequantizer(published, source, source_config, config)
    experiment, _, _, step = restore(config, workdir, None)
    trainer, _ = build_dequantizer(config, experiment)
    state = exchange.to_dequantizer_state(published, flow, trainer, experiment.shape)
    if jax.process_index() == 0:
        exchange.write_folder(folder, state, {"settings.json": dequantizer_settings(config, step)})
        print(
            f"imported the dequantizer {source}, {costs.count(state.params):,} parameters, for checkpoint {step}: {folder}\n"
            f"Weights do not tell its attention heads; they are {flow.heads}. Use it: python main.py --mode likelihood "
            f"--workdir {workdir} --config.eval.dequantization=variational"
        )
    return folder


def export(
    config: ml_collections.ConfigDict,
    workdir: Path,
    checkpoint: int | None = None,
    output: Path | None = None,
) -> Path:
    """Write a checkpoint as the PyTorch codes do, for them to load; --mode import reads it back, bit for bit."""
    if output is None:
        raise UserError("--mode export needs the file to write: --output model.pth")
    if output.exists():
        raise UserError(f"{output} exists already; choose another --output")
    experiment, _, state, step = restore(config, workdir, checkpoint)
    tree = exchange.to_pytorch(experiment, config, state)
    if jax.process_index() == 0:
        with results.writing(output):
            output.parent.mkdir(parents=True, exist_ok=True)
            write_torch(output, tree)
        print(f"checkpoint {step} in PyTorch's form: {output}")
    return output


def report(config: ml_collections.ConfigDict, workdir: Path, checkpoint: int | None = None) -> Path:
    """Write report.html: samples, animation, loss curves, losses per noise level, measurements, nearest training images,
    configuration, versions, device.

    Nearest images are sought in pixels, and in the features of config.quality.extractor where that is at hand.
    """
    experiment = build(config, image_shape(config))
    source, heldout = open_source(config.data, train=True), open_source(config.data, train=False)
    step = Checkpoints(workdir / "checkpoints", read_only=True).choose(checkpoint)
    folder = workdir / "samples" / f"step_{step}"
    if not (folder / "samples.npz").exists():
        raise UserError(
            f"{folder} holds no samples; draw them first: python main.py --mode sample --workdir {workdir}"
        )
    results.check_writable(workdir, results.IN_RUN)
    samples = np.load(folder / "samples.npz")["images"]
    how = json.loads((folder / "sampling.json").read_text())
    log = workdir / "metrics.jsonl"  # an imported run has none
    rows = [row for row in viz.read_metrics(log) if row["step"] <= step] if log.exists() else []
    losses = [row["loss"] for row in rows if "loss" in row]
    evals = [row["eval_loss"] for row in rows if "eval_loss" in row]
    parameters = costs.count(
        jax.eval_shape(lambda: experiment.trainer.init(jax.random.key(0), experiment.shape)).params
    )

    page = viz.Report(experiment.name, f"{len(samples)} samples after {step} training steps")
    page.summary(
        {
            "training steps": f"{step:,}",
            "images seen": f"{step * experiment.training['batch_size']:,}",
            "parameters": f"{parameters:,}",
            "training loss": f"{losses[-1]:.4g}" if losses else "-",
            "held-out loss": f"{evals[-1]:.4g}" if evals else "-",
            "evaluations per sample": how["evaluations"],
        }
    )
    pictures = [
        ((folder / "grid.png").read_bytes(), "Samples of the averaged weights, in the order they were drawn.")
    ]
    animation = folder / "reverse_diffusion.gif"
    if animation.exists():
        pictures.append(
            (animation.read_bytes(), "Reverse diffusion from noise to data, scaled to constant contrast.")
        )
    page.heading("Samples").pictures(*pictures)
    if rows:
        curves = viz.loss_curves(rows, workdir / "loss_curves.png")
        page.heading("Losses").picture(
            curves, "Training loss and held-out loss of the averaged weights.", chart=True
        )
    measure = (
        f"python main.py --mode eval --workdir {workdir} --checkpoint {step} --config.eval.metrics=levels"
    )
    viz.levels_section(page, results.load_levels(workdir, step), measure)
    measured = measurements.read(workdir).get(step, [])
    if measured:
        page.heading("Measurements").table([measurements.told(row) for row in measured])
        if any("extractor" in row["how"] for row in measured):
            page.text(
                "FID and the like of fewer than 50,000 samples, or of other features than those of Inception with its published "
                "weights, cannot be compared with published numbers."
            )
    training, held = some_images(source), some_images(heldout, limit=max(500, len(samples)))
    part = "" if len(training) == len(source) else f"{len(training):,} of "
    neighbors = viz.memorization_section(
        page,
        samples,
        held,
        training,
        experiment.pixel_range.levels,
        config.data.random_flip,
        f"{part}{len(source):,} training images",
        extractor_at_hand(config),
    )
    write_atomic(workdir / "neighbors.png", neighbors)
    page.heading("How it was made").command(
        f"python main.py --config {workdir / 'config.json'} --mode train --workdir {workdir}-again"
    )
    page.table(viz.environment() | {"score_sde": __version__}).config(config.to_dict() | {"sampling": how})
    with results.writing(workdir, results.IN_RUN):
        page.write(workdir / "report.html")
    print(f"report: {workdir / 'report.html'}")
    return workdir / "report.html"


def fid(
    a: Path,
    b: Path | None = None,
    metrics: tuple[str, ...] = ("fid",),
    extractor: str = "inception",
    weights: Path | None = None,
    output: Path | None = None,
) -> dict[str, dict[str, float]]:
    """Measures of the images `a` against `b`, without a model; `output` keeps the statistics of `a`.

    `a`, `b`: folders of images, npz files of images, or of statistics (ours, or those of pytorch-fid, clean-fid, score_sde,
    guided-diffusion).
    """
    check_names(metrics)
    if b is None and output is None and set(metrics) != {"is"}:
        raise UserError(
            "--mode fid compares two sets: name the second with --b, or a file for the statistics of --a with --output"
        )
    if output is not None:
        if output.suffix != ".npz":
            raise UserError(f"--output must be an .npz file; got {output}")
        with results.writing(output):
            results.check_writable(output.parent)
    given = {path: open_set(path, metrics, extractor) for path in (a, b) if path is not None}
    if output is not None and isinstance(given[a], Statistics):
        raise UserError(
            f"--output keeps statistics of images, and {a} holds statistics already; leave out --output"
        )
    images = any(isinstance(each, ImageSet) for each in given.values())
    name = {} if ".py:" in extractor else {"extractor": extractor}
    check_provenance(*known_of(given.values(), name))  # before weights are fetched, or a classifier trained
    network = make_extractor(extractor, weights, labelled_images) if images else None
    if network is not None:  # before features are computed
        check_provenance(*known_of(given.values(), network.identity))
        coming = [
            each if isinstance(each, Statistics) else promised(metrics, each.provenance, network)
            for each in given.values()
        ]
        check_comparable(coming[0], coming[-1])
    keep = bool(set(metrics) & set(FEATURE_METRICS))
    found = {}
    for path, each in given.items():
        if isinstance(each, ImageSet):
            assert network is not None
            title = f"features of {each.count} images" if jax.process_index() == 0 else ""
            each = collect(network, each.read, each.count, each.provenance, keep_features=keep, title=title)
        found[path] = each
        if path == a and output is not None and jax.process_index() == 0:
            save_statistics(output, each)
            print(f"statistics of {a}: {output}")
    reference = None if b is None else found[b]
    asked = [name for name in metrics if b is not None or name == "is"]
    measures = measure(asked, found[a], reference) if asked else {}
    if jax.process_index() == 0:
        for line in (*notes(found[a], reference), *([table(measures)] if measures else [])):
            print(line)
    return measures


def dry_run(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Print the resolved configuration, parameter count, memory and FLOPs estimates and the device mesh; run nothing."""
    experiment = build(config, image_shape(config))
    mesh = sharding.make_mesh()
    sharding.check_divisible("config.training.batch_size", experiment.training["batch_size"], mesh)
    cost = costs.estimate(
        experiment.trainer, experiment.model, experiment.shape, experiment.training["batch_size"] // mesh.size
    )
    print(config)
    print(f"working directory    {workdir}")
    print(f"images               {experiment.shape}, range {experiment.pixel_range}")
    print(f"parameters           {cost['parameters']:,}")
    print(f"mesh                 {dict(mesh.shape)} of {jax.devices()[0].device_kind}")
    print(f"weights, EMA, Adam   {cost['state_bytes'] / 2**20:,.1f} MiB on each device")
    print(f"stored activations   {cost['activation_bytes'] / 2**20:,.1f} MiB on each device (estimate)")
    print(f"one forward pass     {cost['forward_flops'] / 1e9:,.3f} GFLOP per image")
    print(f"one training step    {cost['step_flops'] / 1e12:,.4f} TFLOP on each device (estimate)")
    print(f"one sample           {experiment.sampler.nfe} network evaluations")


FRESH = {"train": train, "dry_run": dry_run, "suggest": suggest}
TRAINED = {
    "train_dequantizer": train_dequantizer,
    "sample": sample,
    "eval": evaluate,
    "report": report,
    "likelihood": likelihood,
    "encode": encode,
    "decode": decode,
    "interpolate": interpolate,
    "export": export,
    "inpaint": inpaint,
}


def run(
    mode: str,
    config_file: str | None,
    overrides: list[tuple[str, str]],
    workdir: str | None,
    checkpoints: str | None = None,
    shard: str | None = None,
    **flags,
) -> None:
    """Resolve configuration and working directory, then run one mode, for each run and each checkpoint asked for.

    The modes after train take the configuration that the run was trained with; --config then only says which run. Where
    several runs or checkpoints are asked for and some fail, the others are done all the same.
    """
    options = parse_options(mode, {"shard": shard, **flags})
    if mode == "import":
        if checkpoints is not None:
            raise UserError("--checkpoint means nothing to --mode import; the step is the file's")
        if "source" not in options:
            raise UserError("--mode import needs the published checkpoint: --source FILE")
        if config_file and "source_config" in options:
            raise UserError("--config and --source_config both say what the weights are of; give one of them")
        import_checkpoint(
            config_file=config_file,
            overrides=overrides,
            workdir=workdir and os.path.expanduser(workdir),
            **options,
        )
        return
    if mode == "fid":
        named = {"config": config_file or overrides, "workdir": workdir, "checkpoint": checkpoints}
        for name, value in named.items():
            if value:
                raise UserError(
                    f"--{name} means nothing to --mode fid, which measures images without a model"
                )
        if "a" not in options:
            raise UserError("--mode fid needs the images to measure: --a FOLDER, or an npz file")
        fid(**options)
        return
    runs = parse_runs(config_file, workdir)
    check_apart(runs, overrides)
    if mode in FRESH:
        if checkpoints is not None:
            raise UserError(
                f"--checkpoint means nothing to --mode {mode}; training resumes from the last one by itself"
            )
        if len(runs) > 1:
            raise UserError(f"--mode {mode} takes one run; got {len(runs)}")
        FRESH[mode](*resolve(*runs[0], overrides), **options)
    elif mode == "select":
        if checkpoints is not None:
            raise UserError("--checkpoint means nothing to --mode select, which compares all of them")
        jobs = {name_of(*names): functools.partial(_select, *names, overrides) for names in runs}
        raise_failed(attempt(jobs)[1], len(jobs))
    elif mode == "summarize":
        output = options.get("output")
        if output and len(runs) == 1:
            raise UserError(
                "--output is where --mode summarize compares several runs; leave it out for one, whose summaries lie in its eval/"
            )
        if output:
            results.check_writable(output)
        jobs = {name_of(*names): functools.partial(_summarize, *names, overrides) for names in runs}
        done, failed = attempt(jobs)
        if len(runs) > 1 and done:
            folder = output or resolve(*runs[0], overrides)[1] / "eval"
            with results.writing(folder):
                compare(done, folder)
        raise_failed(failed, len(jobs))
    else:
        if "output" in options and (len(runs) > 1 or "," in str(checkpoints) or checkpoints == "all"):
            raise UserError(
                "--output names the folder of one result; leave it out for several runs or checkpoints"
            )
        jobs = {
            name_of(*names): functools.partial(
                _each_checkpoint, mode, *names, overrides, checkpoints, options
            )
            for names in runs
        }
        raise_failed(attempt(jobs)[1], len(jobs))


def _summarize(config_file, workdir, overrides) -> dict[int, results.Summary]:
    return summarize(*resolve_trained(config_file, workdir, overrides))


def _select(config_file, workdir, overrides) -> None:
    select(*resolve_trained(config_file, workdir, overrides))


def _each_checkpoint(mode, config_file, workdir, overrides, checkpoints, options) -> None:
    config, directory = resolve_trained(config_file, workdir, overrides)
    steps = parse_checkpoints(checkpoints, directory)
    there = Checkpoints(directory / "checkpoints", read_only=True).steps() if len(steps) > 1 else steps
    jobs = {
        f"checkpoint {step}": functools.partial(_timed, mode, config, directory, step, options)
        for step in steps
    }
    done, failed = attempt(jobs)
    rows = [row for rows in done.values() for row in rows] if mode == "eval" else []
    if rows and len(done) > 1 and jax.process_index() == 0:
        with results.writing(directory / "eval", results.IN_RUN):
            measurements.choose(directory, rows, there)
    raise_failed(failed, len(jobs))


def _timed(mode, config, directory, step, options) -> Any:
    start = time.perf_counter()
    result = TRAINED[mode](config, directory, step, **options)
    print(f"{mode}: {time.perf_counter() - start:.1f} s")
    return result


def compare(found: dict[str, dict[int, results.Summary]], folder: Path) -> None:
    """One table of all runs, printed and as JSON, and bits/dim against step with one curve for each run."""
    print(results.comparison(found))
    if jax.process_index() == 0:
        write_json(
            folder / "comparison.json",
            {run: {str(s): row for s, row in rows.items()} for run, rows in found.items()},
        )
        results.save_curves(found, folder, "comparison")
        print(f"compared: {folder}")


def _best(workdir: Path) -> int:
    """The step found best by --mode select or eval, else by the distance measured during training."""
    chosen = measurements.best_step(workdir)
    chosen = Checkpoints(workdir / "checkpoints", read_only=True).best() if chosen is None else chosen
    if chosen is None:
        raise UserError(
            f"the best checkpoint of {workdir} has not been sought; do: python main.py --mode select --workdir {workdir}"
        )
    return chosen


def parse_checkpoints(text: str | None, workdir: Path) -> list[int | None]:
    """ "latest", "best", "all" or steps with commas between them; raises UserError for anything else."""
    if text == "best":
        return [_best(workdir)]
    if text in (None, "latest"):
        return [None]
    if text == "all":
        return list(Checkpoints(workdir / "checkpoints", read_only=True).steps()) or [None]
    try:
        return [int(part) for part in str(text).split(",")]
    except ValueError as error:
        raise UserError(
            f"--checkpoint must be a step, steps like 10,20, 'all', 'best' or 'latest'; got {text!r}"
        ) from error
