"""Draw samples: samples.npz, grid.png; with frames reverse_diffusion.gif, intermediate.png.

With config.sampling.files=png also images/00000.png, ...
"""

import math
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from score_sde import viz
from score_sde.arrays import sample_keys
from score_sde.build.settings import Sampling, to_dict
from score_sde.build.sizes import check_fits
from score_sde.devices import leads, say
from score_sde.errors import UserError
from score_sde.files import write_npz, writing
from score_sde.parallel.loop import whole_batches
from score_sde.parallel.samples import Film
from score_sde.workdir.classes import Scores, of_classes, with_curvature
from score_sde.workdir.documents import write_document
from score_sde.workdir.folder import IN_RUN
from score_sde.workdir.lock import hold
from score_sde.workdir.objects import PREVIEW, make_generator
from score_sde.workdir.run import Run
from score_sde.workdir.which import Which, average_of, in_name, record_of, weights_checksum


class Asked(NamedTuple):
    """What is drawn beside the settings.

    classes: of the samples, in turn; () is all of them, None lets the model choose. output: folder
    in place of samples/step_N of the run. film: gets pictures on the way, in place of as many as
    config.sampling.frames says.
    """

    classes: tuple[int, ...] | None = None
    output: Path | None = None
    film: Film | None = None


def draw_samples(run: Run, checkpoint: Which | None, asked: Asked) -> tuple[Path, str]:
    """Draw config.sampling.num_samples images: (folder with the files, what to say of them).

    Sample number i depends on the seed and i alone, not on batch size or devices. With
    config.sampling.norm=batch it depends on its batch too; the last one is drawn to the end.

    Raises:
        UserError: guidance without classes, no classifier, or samples that are not finite; those
            are written all the same.
    """
    settings, number = run.settings.sampling, run.settings.sampling.num_samples
    check_fits("sampling.num_samples", number, 8 * math.prod(run.experiment.shape))
    params, step = run.weights(checkpoint)
    folder = asked.output or run.folder / "samples" / f"step_{in_name(step)}"
    hold(folder, advice=IN_RUN)
    _check_guidance(settings, asked.classes)
    whole = whole_batches(number, settings.batch_size, run.place)
    scores = (
        Scores(params) if asked.classes is None else of_classes(run, params, asked.classes, whole)
    )
    scores = with_curvature(run, scores, step)
    draw = run.once(
        ("draw", asked.classes is None),
        lambda: make_generator(run, settings.batch_size, score_fn=scores.score_fn),
    )
    film = asked.film or Film(min(settings.frames, draw.sampler.steps))
    keys = sample_keys(run.keys()["sample"], jnp.arange(whole))
    drawn = draw.drawn(scores.params, keys, scores.given, f"sampling {number}", film)
    images, nfe = drawn.images[:number], drawn.nfe[:number] * scores.cost.evaluations
    arrays = {name: np.asarray(rows)[:number] for name, rows in scores.given.items()}
    if leads():
        with writing(folder, IN_RUN):
            arrays |= {"evaluations": nfe} | record_of(step)
            _save(run, folder, images, film.stacked(), arrays)
            mean = int(nfe[0]) if (nfe == nfe[0]).all() else float(nfe.mean())
            how = {"evaluations": mean, "seed": run.settings.seed} | average_of(step)
            how |= {"weights": weights_checksum(params)}
            write_document(folder / "sampling.json", to_dict(settings) | how | scores.about)
    told = f"{len(images)} samples of checkpoint {step} ({_each(nfe)})"
    _check_finite(images, folder, told)
    return folder, told


def _check_guidance(settings: Sampling, classes: tuple[int, ...] | None) -> None:
    if classes is None and (settings.guidance_scale or settings.guidance_interval):
        raise UserError(
            f"config.sampling.guidance_scale={settings.guidance_scale} and guidance_interval="
            f"{settings.guidance_interval} mean nothing without --classes; name classes, or leave "
            "them at 0 and ()"
        )


def _check_finite(images: np.ndarray, folder: Path, told: str) -> None:
    finite = np.isfinite(images).all(axis=(1, 2, 3))
    if not finite.all():
        say(f"{told}: {folder}")
        raise UserError(
            f"{int((~finite).sum())} of {len(images)} samples are not finite (`finite` in "
            f"{folder / 'samples.npz'} says which); try more config.sampling.steps or a smaller "
            "config.sampling.snr."
        )


def _each(nfe: np.ndarray) -> str:
    least, most = nfe.min(), nfe.max()
    if least == most:
        return f"{most} evaluations each"
    return f"{least} to {most} evaluations, {nfe.mean():.1f} on average"


def _for_files(images: np.ndarray, levels: int) -> np.ndarray:
    """Levels from black to white: 16 bits for grey images of more than 256 levels, else 8."""
    top = 65535 if levels > 256 and images.shape[-1] == 1 else 255
    return np.rint(images * (top / (levels - 1))).astype(np.uint16 if top > 255 else np.uint8)


def _save(
    run: Run, folder: Path, images: np.ndarray, frames: np.ndarray, more: dict[str, Any]
) -> None:
    pixels = run.experiment.pixel_range
    arrays = {
        "images": pixels.decode(images),
        "finite": np.isfinite(images).all(axis=(1, 2, 3)),
        "levels": pixels.levels,
    }
    write_npz(folder / "samples.npz", arrays | more)
    for old in (folder / "images").glob("[0-9]*.png"):
        old.unlink()
    if run.settings.sampling.files == "png":
        viz.save_images(folder / "images", _for_files(arrays["images"], pixels.levels))
    classes = len(np.unique(more.get("label", ())))
    shown, columns = min(PREVIEW, len(images)), None
    if 1 < classes <= 16:  # they come in turn, so each has its columns
        shown = shown // classes * classes or shown
        columns = classes * max(1, math.isqrt(shown) // classes)
    grid = viz.image_grid(np.nan_to_num(pixels.unit(images[:shown])), columns)
    viz.save_png(folder / "grid.png", grid)
    animation, intermediate = folder / "reverse_diffusion.gif", folder / "intermediate.png"
    for old in (animation, intermediate):
        old.unlink(missing_ok=True)
    if not len(frames):
        return
    viz.save_animation(animation, np.nan_to_num(frames[:, : min(36, len(images))]))
    times = np.linspace(0, len(frames) - 1, min(11, len(frames))).astype(int)
    states = np.nan_to_num(frames[times, : min(8, len(images))])
    rows = states.swapaxes(0, 1).reshape(-1, *states.shape[2:])
    viz.save_png(intermediate, viz.image_grid(rows, columns=len(states)))
