"""Interpolations between images in latents; of discrete chains between samples, in the noise."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from score_sde import viz
from score_sde.arrays import sample_keys
from score_sde.build.settings import to_dict
from score_sde.build.sizes import check_fits
from score_sde.conditioning import noise_interpolation
from score_sde.data.inputs import Inputs
from score_sde.devices import leads
from score_sde.errors import UserError
from score_sde.files import write_npz, writing
from score_sde.parallel.codec import Codec, Mapped, interpolate
from score_sde.parallel.loop import progress
from score_sde.sde import GaussianSDE
from score_sde.workdir.documents import write_document
from score_sde.workdir.folder import result_folder
from score_sde.workdir.inputs import SHOWN, read_given, show, split_images
from score_sde.workdir.objects import check_finite, make_codec, make_generator, solved_with
from score_sde.workdir.run import Run
from score_sde.workdir.which import Which, in_name, record_in, record_of


def main(
    run: Run,
    checkpoint: Which | None = None,
    input: list[Path] | None = None,
    output: Path | None = None,
    temperature: float = 1.0,
    frames: int = 11,
) -> Path:
    """Spherical interpolations from each input to the next.

    They go to frames.npz, interpolate.json, grid.png and interpolation.gif.

    `input`: images, encoded first, and npz files with latents `z`; by default the first 8 images of
    config.eval.split. A discrete chain has no latents of images; there samples are joined.
    """
    check_fits("--frames", frames, 8 * math.prod(run.experiment.shape))
    if not isinstance(run.experiment.process, GaussianSDE):
        if input or temperature != 1.0:
            raise UserError(
                "a discrete chain has no latents of images; --mode interpolate goes between its "
                "samples, without --input and --temperature. For latents train a *_cont recipe."
            )
        return _samples(run, checkpoint, output, frames)
    given = read_given(run, input, ["z", "images"]) if input else split_images(run, first=8)
    params, step = run.weights(checkpoint)
    folder = result_folder(output, run.folder, f"interpolate_step_{in_name(step)}")
    codec = make_codec(run)

    def latents(part: Inputs) -> np.ndarray:
        if part.kind == "z":
            return part.values
        return codec.encode(params, part.values, part.names).values

    names = [name for part in given for name in part.names]
    ends = np.concatenate([latents(part) for part in given])
    z = interpolate(np.float32(temperature) * ends, frames, names)
    flat = z.reshape(-1, *run.experiment.shape)
    places = [f"frame {i % frames} of pair {i // frames}" for i in range(len(flat))]
    with progress(len(flat), "image", "decoding") as bar:
        decoded = codec.decode(params, flat, places, bar.update)
    if leads():
        how = solved_with(run, step) | {"temperature": temperature}
        with writing(folder):
            _save(folder, codec, names, z, decoded, how)
        print(f"{len(z)} interpolations of {frames} frames, checkpoint {step}: {folder}")
    return folder


def _save(
    folder: Path,
    codec: Codec,
    names: Sequence[str],
    z: np.ndarray,
    decoded: Mapped,
    how: Mapping[str, Any],
) -> None:
    """frames.npz, interpolate.json, grid.png (a row for each pair) and interpolation.gif.

    The animation shows one pair after another; pictures show the first 16 pairs. `z`:
    (pairs, frames, h, w, c); `decoded`: its rows one below the other. frames.npz: images (levels),
    z, names, prior_std, levels, step.
    """
    pixels = codec.pixel_range
    pairs, frames = z.shape[:2]
    images = codec.levels(decoded.values).reshape(z.shape)
    nfe = {"mean": float(decoded.nfe.mean()), "max": int(decoded.nfe.max())}
    arrays = {
        "images": images,
        "z": z.astype(np.float32),
        "names": np.asarray(names, str),
        "prior_std": codec.flow.sde.prior_std,
        "levels": pixels.levels,
    } | record_in(how)
    write_npz(folder / "frames.npz", arrays)
    summary = {"pairs": pairs, "frames": frames, "nfe": nfe}
    write_document(folder / "interpolate.json", dict(how) | summary)
    some, shape = images[: max(1, SHOWN // 4)], z.shape[2:]
    rows = show(some.reshape(-1, *shape), pixels)
    viz.save_png(folder / "grid.png", viz.image_grid(rows, columns=frames))
    # Where a pair ends the next begins.
    film = np.concatenate([some[:, :-1].reshape(-1, *shape), some[-1, -1:]])
    viz.save_animation(folder / "interpolation.gif", show(film, pixels)[:, None])


def _samples(run: Run, checkpoint: Which | None, output: Path | None, frames: int) -> Path:
    """Samples between samples 0 and 1, 1 and 2, ... through the noise of the sampler (B.4.1).

    All samples of a row start from the same state; frame k has the noise cos(angle) z +
    sin(angle) z', angle = k pi/(2 (frames - 1)). Writes frames.npz, interpolate.json, grid.png.
    """
    settings, experiment = run.settings.sampling, run.experiment
    params, step = run.weights(checkpoint)
    folder = result_folder(output, run.folder, f"interpolate_step_{in_name(step)}", "samples")
    pairs = max(1, min(settings.num_samples - 1, 8))
    angles = np.linspace(0, np.pi / 2, frames, dtype=np.float32)
    numbers = np.repeat(np.arange(pairs), frames)
    key = run.keys()["sample"]
    draw = make_generator(run, settings.batch_size, noise_interpolation)
    others = sample_keys(key, jnp.asarray(numbers + 1))
    given = {"keys": others, "angle": np.tile(angles, pairs)}
    images = draw.all(params, sample_keys(key, jnp.asarray(numbers)), given, "interpolating")
    check_finite(images, folder)
    if leads():
        pixels = experiment.pixel_range
        levels = np.asarray(pixels.decode(images))
        rows = levels.reshape(-1, frames, *levels.shape[1:])
        how = to_dict(settings) | record_of(step) | {"seed": run.settings.seed}
        with writing(folder):
            arrays = {"images": rows, "levels": pixels.levels} | record_of(step)
            write_npz(folder / "frames.npz", arrays)
            write_document(
                folder / "interpolate.json", how | {"pairs": len(rows), "frames": frames}
            )
            grid = viz.image_grid(show(levels, pixels), columns=frames)
            viz.save_png(folder / "grid.png", grid)
        print(
            f"{pairs} interpolations of {frames} frames through the noise, checkpoint {step}: "
            f"{folder}"
        )
    return folder
