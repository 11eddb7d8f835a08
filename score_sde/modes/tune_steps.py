"""The time grid, and the solver, with the smallest error in a number of evaluations."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from score_sde import tuning
from score_sde.arrays import sample_keys
from score_sde.build.sampler import build_sampler, with_evaluations
from score_sde.build.settings import Sampling, to_dict
from score_sde.build.sizes import STEP_BYTES, check_fits
from score_sde.build.solvers import NOISY, SOLVERS
from score_sde.devices import leads, say
from score_sde.errors import UserError
from score_sde.files import writing
from score_sde.parallel.loop import progress
from score_sde.sampling import Sampler
from score_sde.sde import GaussianSDE
from score_sde.workdir import config as configurations
from score_sde.workdir.documents import write_document
from score_sde.workdir.folder import IN_RUN
from score_sde.workdir.run import Run
from score_sde.workdir.which import Which, in_name, record_of

CANDIDATES = ("ddim", "dpmpp_2m", "dpmpp_3m", "unipc", "deis")
"""Solvers that are tried where none is named."""
TUNABLE = tuple(name for name in SOLVERS if name not in (*NOISY, "dpm_solver_adaptive"))
"""Solvers without noise that take the steps of a grid."""
STARTS = ("log_snr", "karras", "quadratic", "uniform")
"""Grids that are tuned from, and compared with."""
FINE = {"predictor": "dpmpp_3m", "grid": "log_snr", "steps": 400}
"""What stands for the exact solution."""


class Found(NamedTuple):
    """A solver with its grid, and errors on latents that it was not tuned on.

    error: with the tuned times. starts: by name of the grid.
    """

    settings: Sampling
    error: float
    starts: dict[str, float]


def main(
    run: Run,
    checkpoint: Which | None = None,
    evaluations: int = 10,
    solvers: Sequence[str] = CANDIDATES,
) -> None:
    """Tune each solver on a batch of latents, test it on another, keep the best in config.json.

    The error of an image is the root mean square over its pixels of the distance to what 400 steps
    make of the same latent. Batches have config.sampling.batch_size latents.

    Raises:
        UserError: a solver without a grid to tune, a process without one, too few evaluations.
    """
    experiment = run.experiment
    if not isinstance(experiment.process, GaussianSDE):
        raise UserError("--mode tune_steps needs a continuous process; train a *_cont recipe")
    check_fits("--evaluations", evaluations, STEP_BYTES)
    plain = dataclasses.replace(Sampling(), t_end=run.settings.sampling.t_end)
    plain = dataclasses.replace(plain, batch_size=run.settings.sampling.batch_size)
    tried = [_with_evaluations(run, plain, name, evaluations) for name in solvers]
    params, step = run.weights(checkpoint)
    z, exact = _latents(run, params, plain)
    say(f"error with {evaluations} evaluations, checkpoint {step}: tuned, and with other grids")
    found = []
    for settings in tried:
        one = _tune(run, params, settings, (z, exact))
        found.append(one)
        others = ", ".join(f"{grid} {error:.4f}" for grid, error in one.starts.items())
        say(f"  {settings.predictor:<18} {one.settings.steps} steps  {one.error:.4f}  ({others})")
    best = min(found, key=lambda one: one.error)
    if leads():
        with writing(run.folder, IN_RUN):
            _keep(run, best, evaluations, step)
    say(
        f"{run.folder / 'config.json'} has predictor={best.settings.predictor} with these times "
        "now: --mode sample takes them."
    )


def _latents(run: Run, params: PyTree, plain: Sampling) -> tuple[Array, Array]:
    """(latents, what many steps make of them) of two batches, (2, batch, ...)."""
    size, sampler = run.place.round_up(plain.batch_size), _sampler(run, plain, **FINE)
    keys = sample_keys(jax.random.fold_in(run.keys()["sample"], 1), jnp.arange(2 * size))
    z = run.experiment.process.prior_sample(keys, (2 * size, *run.experiment.shape))
    times = jnp.asarray(sampler.times, jnp.float32)

    @jax.jit
    def fine(params, z):
        return tuning.solve(sampler, run.experiment.model.score_fn(params), z, times)

    placed = [run.place.put_rows(np.asarray(part)) for part in (z[:size], z[size:])]
    exact = []
    with progress(2, "batch", "400 steps") as bar:
        for part in placed:
            exact.append(jax.block_until_ready(fine(params, part)))
            bar.update(1)
    return jnp.stack(placed), jnp.stack(exact)


def _sampler(run: Run, settings: Sampling, **changes: Any) -> Sampler:
    settings = dataclasses.replace(settings, **changes)
    return build_sampler(settings, run.experiment.process, run.experiment.pixel_range)


def _with_evaluations(run: Run, plain: Sampling, name: str, evaluations: int) -> Sampling:
    """The settings of a solver with the most steps that make at most so many evaluations."""
    if name not in TUNABLE:
        raise UserError(
            "--solvers takes solvers without noise that take the steps of a grid: "
            f"{', '.join(TUNABLE)}; got {name!r}"
        )
    one = dataclasses.replace(plain, predictor=name, grid="log_snr")
    experiment = run.experiment
    return with_evaluations(one, experiment.process, experiment.pixel_range, evaluations)


def _tune(run: Run, params: PyTree, settings: Sampling, data: tuple[Array, Array]) -> Found:
    sampler, process = _sampler(run, settings), run.experiment.process
    score_fn, (z, exact) = run.experiment.model.score_fn(params), data
    starts = {grid: _sampler(run, settings, grid=grid).times for grid in STARTS}
    tuned = tuning.tune(sampler, score_fn, z[0], exact[0], starts)

    @jax.jit
    def error(times):
        return tuning.distance(tuning.solve(sampler, score_fn, z[1], times), exact[1])

    def measured(times: np.ndarray) -> float:
        return float(error(jnp.asarray(times, jnp.float32)))

    times = np.clip(tuned.times, settings.t_end, process.t_max)
    chosen: dict[str, Any] = {"grid": "times", "times": tuple(float(t) for t in times)}
    errors = {grid: measured(grid_times) for grid, grid_times in starts.items()}
    return Found(dataclasses.replace(settings, **chosen), measured(times), errors)


def _keep(run: Run, best: Found, evaluations: int, step: Which) -> None:
    """Into config.json, whose sampler it becomes, and beside it what was found."""
    path = run.folder / "config.json"
    own = configurations.load_json(path)
    kept = ("num_samples", "batch_size", "frames", "start")
    values = {name: value for name, value in to_dict(best.settings).items() if name not in kept}
    configurations.save(own.change("sampling", **values), path)
    found = {"error": best.error, "errors_of_other_grids": best.starts, "sampling": values}
    record = record_of(step) | {"evaluations": evaluations} | found
    write_document(run.folder / "eval" / f"solver_{evaluations}_step_{in_name(step)}.json", record)
