"""Fill in what a mask leaves unknown: chains by annealed Langevin dynamics (algorithm B.2).

With continuous processes it is `reconstruct` with config.inverse.task=inpaint.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Integer

from score_sde import viz
from score_sde.arrays import sample_keys
from score_sde.build.settings import to_dict
from score_sde.build.sizes import check_fits
from score_sde.conditioning import inpainting
from score_sde.data import PixelRange
from score_sde.data.inputs import Inputs, join, read_mask
from score_sde.devices import leads, say
from score_sde.errors import UserError
from score_sde.files import write_npz, writing
from score_sde.sde import GaussianSDE
from score_sde.workdir.documents import write_document
from score_sde.workdir.folder import result_folder
from score_sde.workdir.inputs import read_given, show, split_images
from score_sde.workdir.measured import measured, with_task
from score_sde.workdir.objects import check_finite, make_generator
from score_sde.workdir.reconstruct import Wanted, reconstruct
from score_sde.workdir.run import Run
from score_sde.workdir.which import Which, in_name, record_in, record_of


def complete(
    run: Run, input: list[Path] | None, mask: str | None, checkpoint: Which | None, wanted: Wanted
) -> Path:
    """Complete images: inpaint.npz, grid.png; for continuous processes the files of `reconstruct`.

    `input`: image files, folders, npz files with `images`; by default the first
    config.inverse.images of config.eval.split. `mask`: known pixels, by default the left half.
    Known pixels come back as they were.

    Raises:
        UserError: see `workdir.reconstruct.reconstruct`; of a chain with another sampler than
            annealed Langevin dynamics, or a share of its images.
    """
    if isinstance(run.experiment.process, GaussianSDE):
        run = with_task(run, "inpaint")
        return reconstruct(run, measured(run, input, mask), checkpoint, wanted)
    if wanted.shard != (0, 1):
        raise UserError("--shard means nothing to a discrete chain, which is done in one go")
    return _by_langevin(run, checkpoint, input, mask or "left", wanted)


def _by_langevin(
    run: Run, checkpoint: Which | None, input: list[Path] | None, mask: str, wanted: Wanted
) -> Path:
    settings, experiment, copies = run.settings.sampling, run.experiment, wanted.copies
    if (settings.grid, settings.corrector) != ("levels", "annealed_langevin"):
        raise UserError(
            "--mode inpaint fills in by annealed Langevin dynamics with discrete chains; it needs "
            "config.sampling.grid=levels and corrector=annealed_langevin, as the recipes ncsn and "
            f"ncsnv2 have them; got grid={settings.grid}, corrector={settings.corrector}"
        )
    known = read_mask(mask, experiment.shape)
    count = run.settings.inverse.images
    given = join(read_given(run, input, ["images"]) if input else split_images(run, count))
    check_fits("--copies", copies, 8 * len(given.values) * math.prod(experiment.shape))
    params, step = run.weights(checkpoint)
    folder = result_folder(wanted.output, run.folder, f"inpaint_step_{in_name(step)}", "samples")
    pixels = experiment.pixel_range
    values = pixels.encode(given.values.repeat(copies, axis=0)).astype(np.float32)
    keys = sample_keys(run.keys()["sample"], jnp.arange(len(values)))
    draw = run.once("inpaint", lambda: make_generator(run, settings.batch_size, inpainting))
    rows = {"image": values, "known": np.broadcast_to(known, (len(values), *known.shape))}
    images = draw.all(params, keys, rows, "inpainting")
    check_finite(images, folder)
    if leads():
        levels = pixels.decode(images).reshape(len(given.values), copies, *experiment.shape)
        levels = np.where(known, given.values[:, None], levels).astype(given.values.dtype)
        how = to_dict(settings) | record_of(step) | {"seed": run.settings.seed, "mask": mask}
        with writing(folder):
            _save(folder, given, known, levels, pixels, how)
        if not wanted.quiet:
            say(f"{copies} completions of {len(levels)} images, checkpoint {step}: {folder}")
    return folder


def _save(
    folder: Path,
    given: Inputs,
    known: Bool[np.ndarray, "h w 1"],
    completed: Integer[np.ndarray, "n copies h w c"],
    pixels: PixelRange,
    how: Mapping[str, Any],
) -> None:
    """inpaint.npz, inpaint.json and grid.png.

    A row of the picture: an image with its unknown part grey, up to 8 completions, the image; the
    first 16 images are shown. inpaint.npz: images (n, copies, h, w, c) levels, originals, known,
    names, levels, step.
    """
    arrays = {
        "images": completed,
        "originals": given.values,
        "known": known,
        "names": np.asarray(given.names, str),
        "levels": pixels.levels,
    } | record_in(how)
    write_npz(folder / "inpaint.npz", arrays)
    counts = {"images": len(completed), "copies": completed.shape[1]}
    write_document(folder / "inpaint.json", dict(how) | counts)
    originals, some = show(given.values[:16], pixels), completed[:16, :8]
    hidden = np.where(known, originals, np.float32(0.5))[:, None]
    filled = show(some.reshape(-1, *some.shape[2:]), pixels).reshape(some.shape)
    rows = np.concatenate([hidden, filled, originals[:, None]], axis=1)
    flat = rows.reshape(-1, *rows.shape[2:])
    viz.save_png(folder / "grid.png", viz.image_grid(flat, columns=rows.shape[1]))
