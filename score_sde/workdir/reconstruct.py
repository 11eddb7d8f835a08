"""Draw images that fit measurements, image by image into a folder that survives a kill."""

import dataclasses
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PyTree

from score_sde.arrays import sample_keys
from score_sde.build.inverse import Baseline, build_solver
from score_sde.build.names import blame
from score_sde.build.settings import depends, to_dict
from score_sde.build.sizes import check_fits
from score_sde.devices import any_process, leads, say, wait_for_all
from score_sde.errors import UserError
from score_sde.files import as_read, read_npz, writing
from score_sde.guidance import Cost
from score_sde.inverse import Measurement
from score_sde.parallel.samples import Drawn, Generator
from score_sde.sde import GaussianSDE
from score_sde.solvers import PLAIN, Solver
from score_sde.workdir.compared import Found, save
from score_sde.workdir.documents import read_document
from score_sde.workdir.folder import result_folder
from score_sde.workdir.measured import Measured
from score_sde.workdir.objects import make_generator
from score_sde.workdir.parquet import read_table
from score_sde.workdir.quality import tag
from score_sde.workdir.rows import ADDED
from score_sde.workdir.run import Run
from score_sde.workdir.store import RowStore
from score_sde.workdir.which import Which, in_name, record_of, weights_checksum


class NotFinite(UserError):
    """Samples that are infinite or no numbers."""


class Wanted(NamedTuple):
    """mode: names the folder, MODE_step_N. output: another folder.

    copies: samples of each image. shard: (i, n), the images i, i + n, i + 2n, ... alone. quiet: say
    nothing at the end.
    """

    mode: str
    output: Path | None
    copies: int
    shard: tuple[int, int] = (0, 1)
    quiet: bool = False


def reconstruct(run: Run, given: Measured, checkpoint: Which | None, wanted: Wanted) -> Path:
    """Samples that fit what was measured, and what is known of the posterior from them.

    Sample k of image i depends on the seed, i and k alone. Finished images are kept until all are
    there, so a killed command goes on, and shards are joined by the command without --shard. The
    same command again finds them there.

    Raises:
        UserError: a discrete chain, what the solver refuses, an empty shard, or samples that are
            not finite.
    """
    if not isinstance(run.experiment.process, GaussianSDE):
        raise UserError(
            f"--mode {wanted.mode} needs a continuous process; train a *_cont recipe. For NCSN and "
            "NCSNv2 there is --mode inpaint"
        )
    solver = build_solver(run.settings)
    if not isinstance(solver, Solver):  # without a model there is one answer
        wanted = wanted._replace(copies=1)
    count, share = len(given.names), wanted.shard
    mine = np.arange(count)[share[0] :: share[1]]
    if not len(mine):
        raise UserError(f"shard {share[0]}/{share[1]} is empty: there are {count} images")
    check_fits("--copies", wanted.copies, 8 * count * math.prod(run.experiment.shape))
    params, step = run.weights(checkpoint)
    name = f"{wanted.mode}_step_{in_name(step)}"
    folder = result_folder(wanted.output, run.folder, name, "samples", share)
    how = _how(run, given, wanted.copies, step)
    unfinished, how = folder / f"unfinished_{tag(how)}", how | {"weights": weights_checksum(params)}
    if any_process(leads() and _finished(folder, how)):
        say(f"there already, drawn as these settings say: {folder}")
        return folder
    store = RowStore(unfinished, how)
    rows = _Rows(store, mine, wanted.copies)
    with writing(folder):
        if isinstance(solver, Solver):
            _draw(run, params, solver, given, rows)
        else:
            _compute(solver, given, rows)
    wait_for_all("images are written")
    if share[1] > 1:
        say(f"shard {share[0]}/{share[1]} done; when all are, the command without --shard joins it")
    elif leads():
        with writing(folder):
            told = save(folder, _found(run, given, store), run.settings.inverse, how)
        if not wanted.quiet:
            say(told)
        shutil.rmtree(store.folder)
    return folder


def _how(run: Run, given: Measured, copies: int, step: Which) -> dict[str, Any]:
    """What the samples depend on."""
    settings = run.settings
    how: dict[str, Any] = record_of(step) | {"seed": settings.seed, "copies": copies}
    how |= given.about | {"inverse": to_dict(settings.inverse)}
    how |= {"sampling": depends(settings.sampling, "samples"), "dtype": settings.model.dtype}
    return how | {"measured": given.fingerprint()}


def _finished(folder: Path, how: Mapping[str, Any]) -> bool:
    """Whether `folder` holds just what these settings would give, and can be read."""
    if not (folder / "summary.json").exists():
        return False
    again = "It is made anew."
    try:
        there = read_document(folder / "summary.json", {}, again)
        wanted = {n: v for n, v in as_read(how).items() if n in there or n not in ADDED}
        if there | wanted != there:
            return False
        read_npz(folder / "reconstruction.npz")
        read_table(folder / "metrics.parquet", again)
    except UserError as error:
        say(f"{error} What is in {folder} is made anew.".replace(f"{again} ", ""))
        return False
    return True


class _Rows(NamedTuple):
    """Which images there are to be, where they are kept, and how many samples of each."""

    store: RowStore
    images: np.ndarray
    copies: int


def _compute(baseline: Baseline, given: Measured, rows: _Rows) -> None:
    """Keep what a baseline makes of each measurement."""
    found = np.asarray(baseline(given.measurement))[:, None]
    for number in rows.images.tolist():
        _check_finite(found[number], given.names[number], rows.store)
        if leads():
            rows.store.write(number, {"images": found[number], **_costs(np.zeros(1), PLAIN)})


def _costs(nfe: np.ndarray, cost: Cost) -> dict[str, float]:
    """Of one sample of an image, by the counted evaluations of all."""
    mean = float(nfe.mean())
    vjps = mean * cost.vjps
    return {"evaluations": mean * cost.evaluations, "vector_jacobian_products": vjps}


def _draw(run: Run, params: PyTree, solver: Solver, given: Measured, rows: _Rows) -> None:
    """Draw and keep the samples of those images that are missing."""
    pixels, store, copies = run.experiment.pixel_range, rows.store, rows.copies
    draw, measurement = _prepared(run, params, solver, given.measurement)
    missing = store.missing(rows.images)
    if not len(missing):
        return
    images = sample_keys(run.keys()["sample"], jnp.asarray(missing))
    keys = jax.vmap(sample_keys, (0, None))(images, jnp.arange(copies)).reshape(-1)
    repeated = jax.tree.map(lambda leaf: jnp.repeat(leaf[missing], copies, axis=0), measurement)
    samples = np.empty((len(missing), copies, *run.experiment.shape), np.float32)
    nfe, done = np.empty((len(missing), copies), np.int32), 0
    title = f"{run.settings.inverse.task} by {run.settings.inverse.solver}"
    for part, drawn in draw.batches(params, keys, repeated, title):
        unit = (drawn.images - pixels.low) / (pixels.high - pixels.low)
        flat = Drawn(samples.reshape(-1, *run.experiment.shape), nfe.reshape(-1))
        flat.images[part], flat.nfe[part] = unit, drawn.nfe
        for i in range(done, part.stop // copies):
            _check_finite(samples[i], given.names[missing[i]], store)
            if leads():
                costs = _costs(nfe[i], solver.cost)
                store.write(int(missing[i]), {"images": samples[i], **costs})
        done = part.stop // copies


def _prepared(
    run: Run, params: PyTree, solver: Solver, measurement: Measurement
) -> tuple[Generator, Measurement]:
    """What draws, and the measurement with all rows, in the range of the model."""
    total = jnp.hypot(measurement.std, run.settings.inverse.model_std)
    measurement = dataclasses.replace(measurement, std=total)
    rows = measurement.in_range(run.experiment.pixel_range).rows(len(measurement.y))
    with blame("inverse"):  # before the work: inside jit it would be a traceback
        solver.check(rows)
        sampler = solver.prepare(run.experiment.sampler)
        solver(sampler, run.experiment.model.score_fn(params), rows)

    def make() -> Generator:
        draw = make_generator(run, run.settings.sampling.batch_size, solver)
        return dataclasses.replace(draw, sampler=sampler)

    return run.once("reconstruct", make), rows


def _check_finite(samples: Float[np.ndarray, "k h w c"], name: str, store: RowStore) -> None:
    bad = int((~np.isfinite(samples)).any(axis=(1, 2, 3)).sum())
    if bad:
        raise NotFinite(
            f"{bad} of {len(samples)} samples of {name} are not finite; the images before it are "
            f"kept in {store.folder}. Take more config.sampling.steps, a smaller "
            "config.sampling.snr, or another solver."
        )


def _found(run: Run, given: Measured, store: RowStore) -> Found:
    """All samples; raises UserError where one is missing or damaged."""
    rows = [store.read(number) for number in range(len(given.names))]
    names = ("evaluations", "vector_jacobian_products")
    cost = {name: np.asarray([float(row[name]) for row in rows]) for name in names}
    levels = run.experiment.pixel_range.levels
    return Found(given, np.stack([row["images"] for row in rows]), cost, 0.5 / (levels - 1))
