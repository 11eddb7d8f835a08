"""Train, or go on training: steps, held-out losses, sample grids and checkpoints."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from score_sde import viz
from score_sde.arrays import sample_keys
from score_sde.build.assemble import build
from score_sde.build.data import training_batches
from score_sde.build.names import blame
from score_sde.build.settings import Settings, to_dict
from score_sde.build.tracker import build_tracker
from score_sde.devices import Placement, leads, say
from score_sde.errors import UserError, command, quoted
from score_sde.parallel.heldout import HeldoutLoss
from score_sde.training.loop import Loop
from score_sde.training.state import TrainState
from score_sde.training.step import state_like
from score_sde.workdir import config as configurations
from score_sde.workdir.classes import of_network
from score_sde.workdir.folder import belongs_to_weights, claim
from score_sde.workdir.jobs import exists
from score_sde.workdir.lock import check_held, hold
from score_sde.workdir.objects import PREVIEW, heldout_loss, make_generator
from score_sde.workdir.quality import small_sample_settings, train_measure
from score_sde.workdir.run import Run, restore


def main(run: Run) -> None:
    """Until config.training.steps.

    Raises:
        Stopped: by a signal; the same command then goes on.
    """
    settings, experiment = run.settings, run.experiment
    source, heldout = run.source(train=True), run.source(train=False)
    run = dataclasses.replace(run, place=Placement.of(fsdp=settings.training.fsdp))
    _check_batch(run)
    run.place.check_divisible("config.eval.batch_size", settings.eval.batch_size)
    track = build_tracker(settings)
    fresh = not run.checkpoints().steps()
    given = weights_of(settings.training.from_run, run) if fresh else None
    hold(run.folder, advice="choose another --workdir")
    claim(run.folder, settings)
    _tell_of_results(run.folder, fresh)
    keys = run.keys()
    batches = training_batches(experiment, source)
    loop = Loop(
        run.folder,
        experiment.trainer,
        experiment.task,
        to_dict(settings.training),
        batches,
        run.place,
    )
    if not loop.begin(keys["init"], experiment.shape, small_sample_settings(settings)):
        say(
            f"{run.folder} has been trained for {loop.step} steps already; raise "
            "config.training.steps to go on."
        )
        return
    if given:
        loop.state = _begun(loop.state, given)
        given = None  # its optimizer state would stay in memory
    if leads():
        configurations.keep(settings, run.folder / "config.json")
    losses: HeldoutLoss = heldout_loss(run, experiment.task, heldout)
    measure = train_measure(run) if settings.training.quality_every else None
    loop.run(
        keys["train"],
        functools.partial(_heldout, losses, keys["eval"]),
        _picture(run, keys["sample"]),
        measure,
        track,
    )
    sample = command(f"--mode sample --workdir {quoted(run.folder)}")
    say(f"trained for {loop.step} steps. Sample: {sample}")


def _tell_of_results(folder: Path, fresh: bool) -> None:
    """Says where results of checkpoints lie that are gone: those to come get their names."""
    there = [name for name in ("eval", "samples", "flow") if any(folder.glob(f"{name}/*step_*"))]
    if there and fresh:
        say(
            f"{folder} holds results of weights that are gone ({', '.join(there)}): they are not "
            "those of the weights trained now. Move them away"
        )


def _heldout(losses: HeldoutLoss, key: jax.Array, params: PyTree) -> Any:
    """Held-out losses; a good time to see whether the folder is still there."""
    check_held()
    return losses(params, key)


def _begun(state: TrainState, given: TrainState) -> TrainState:
    """With the weights of another run; every average begins with the first average there."""
    # Copies, because a buffer may be donated once only.
    averages = tuple(jax.tree.map(jnp.copy, given.averages[0]) for _ in state.averages)
    return state.replace(params=given.params, averages=averages)


def _check_batch(run: Run) -> None:
    """Raises UserError unless a batch splits over the devices, and into parts on each of them."""
    training = run.settings.training
    run.place.check_divisible("config.training.batch_size", training.batch_size)
    each = training.batch_size // run.place.size
    if each % training.accumulate:
        raise UserError(
            f"config.training.accumulate={training.accumulate} does not divide the {each} images "
            f"of a batch (config.training.batch_size={training.batch_size}) on each of "
            f"{run.place.size} devices; use a divisor of {each}."
        )


def _picture(run: Run, key: jax.Array):
    """(averaged weights, step, log) -> nothing; a grid of samples during training."""
    sampling = run.settings.sampling
    shown = min(PREVIEW, sampling.num_samples, sampling.batch_size)
    count = run.place.round_up(shown)
    scores = of_network(run, None, count)
    draw = make_generator(run, shown, score_fn=scores.score_fn)
    keys = sample_keys(key, jnp.arange(count))

    def picture(params: PyTree, step: int, log) -> None:
        images = draw.all(params, keys, scores.given, title="")
        if log:
            unit = np.nan_to_num(run.experiment.pixel_range.unit(images[:PREVIEW]))
            grid = viz.image_grid(unit)
            (run.folder / "samples").mkdir(exist_ok=True)
            viz.save_png(run.folder / "samples" / f"training_{step}.png", grid)
            log.image(step, "samples", grid)

    return picture


def weights_of(location: str, run: Run) -> TrainState | None:
    """The checkpoint RUN or RUN:STEP, whose weights fit the run; None for "".

    The other run may have other images, another process and another optimizer.

    Raises:
        UserError: there is no such checkpoint, or it is of another network.
    """
    if not location:
        return None
    with blame("training.from"):
        folder, step = _split(location)
        there = configurations.load_json(folder / "config.json")
        _check_network(folder, there, run.settings)
        open_size = not (there.data.image_size and there.data.channels)
        other = build(there, run.experiment.shape if open_size else None)
        like = state_like(other.task, other.trainer, other.shape, run.place)
        state = restore(like, folder, step)
        _check_shapes(state, run)
    say(
        f"begins with the weights of checkpoint {int(state.step)} of {folder}, a fresh "
        "optimizer and step 0"
    )
    return state


def _check_shapes(state: TrainState, run: Run) -> None:
    """Raises UserError where arrays differ for other reasons, as image size or noise levels."""
    experiment = run.experiment
    like = state_like(experiment.task, experiment.trainer, experiment.shape, run.place)
    theirs, ours = (jax.tree.map(jnp.shape, (s.params, s.averages[0])) for s in (state, like))
    if theirs != ours:
        raise UserError(
            "its network has arrays of other shapes than this configuration's, so its weights do "
            "not fit. Take its data.image_size and noise levels (sde), or name another run"
        )


def _split(location: str) -> tuple[Path, int | None]:
    """(folder, step) of RUN or RUN:STEP; a path that exists is a RUN, whatever is in it."""
    run, colon, step = (location, "", "") if exists(location) else location.rpartition(":")
    if not colon:
        return Path(location).expanduser(), None
    if not step.isdecimal():
        raise UserError(
            f"it must be RUN or RUN:STEP; there is no {location!r}, and {step!r} is no step"
        )
    return Path(run).expanduser(), int(step)


def _check_network(folder: Path, there: Settings, here: Settings) -> None:
    """Raises UserError where weights of the settings `there` are none of the network `here`."""
    found = configurations.differences(there, here)
    network = [n for n in found if n.startswith("model.") and belongs_to_weights(n)]
    if names := [*network, *({"data.channels"} & found.keys())]:
        listed = "; ".join(f"{n}: {found[n][0]!r} there, {found[n][1]!r} here" for n in names)
        raise UserError(
            f"the network of {folder} is another one than this configuration's ({listed}), so its "
            "weights do not fit. Set these entries as they are there, or name another run"
        )
