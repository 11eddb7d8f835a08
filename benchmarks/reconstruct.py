"""Time and memory of a step of a reconstruction, and what of it is the operators'.

    python benchmarks/reconstruct.py --config ve/ncsnpp_cont:lidc_320 --batch 1 \\
      --solvers projection,ddnm,pigdm --config.data.image_size=256

The weights are random, and the image is noise: neither changes the time of a step. Each solver of
config.inverse makes the same steps twice, by the network and by a score that is zero. What remains
with that one is the operator, its adjoint, the pseudo-inverse and the noise. Steps without a
measurement are beside them. Memory is that of intermediate results, as the compiler plans it.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from score_sde.build.inverse import OPTIONS, build_operator, build_solver, only_own_entries
from score_sde.build.settings import Settings
from score_sde.errors import UserError
from score_sde.inverse import simulate
from score_sde.solvers import Solver
from score_sde.training import costs
from score_sde.workdir.run import Run

flags.adopt_module_key_flags(common)
flags.DEFINE_list("solvers", ["projection", "ddnm", "pigdm"], "Of config.inverse.solver.")
flags.DEFINE_integer("steps", 2, "Steps of a measured run.", lower_bound=1)

Condition = Callable[[Any, Any], tuple[Any, Any]]
"""(sampler, score_fn) -> (sampler, score_fn)."""


def compiled(run: Run, condition: Condition, arguments: tuple, with_network: bool) -> Any:
    """The first steps of the conditioned sampler, (params, x) -> x; every step costs the same."""
    sampler, model = run.experiment.sampler, run.experiment.model

    def steps(params, x):
        def zero(x, t):
            return jnp.zeros_like(x)

        score_fn = model.score_fn(params) if with_network else zero
        conditioned, guided = condition(sampler, score_fn)
        key, last = jax.random.key(0), common.FLAGS.steps
        return conditioned.advance(key, guided, conditioned.start(x), 0, last).x

    return jax.jit(steps).lower(*arguments).compile()


def conditions(run: Run) -> dict[str, Condition]:
    """By name: without a measurement, and each solver."""
    event = run.experiment.shape
    operator = build_operator(run.settings.inverse, event, np.ones((*event[:2], 1), bool))
    images = np.random.default_rng(0).uniform(size=(common.FLAGS.batch or 1, *event))
    measured = simulate(operator, jnp.asarray(images, jnp.float32), 0.0, jax.random.key(0))
    rows = measured.in_range(run.experiment.pixel_range).rows(len(images))
    settings = run.settings
    found: dict[str, Condition] = {"no measurement": lambda *both: both}
    for section in only_own_entries(settings.inverse, common.FLAGS.solvers):
        if "guided_below" in OPTIONS.get(section.solver, {}):
            # The first steps are measured, where the noise is largest.
            section = dataclasses.replace(section, guided_below=1e6)
        solver = build_solver(settings.change("inverse", **vars(section)))
        if not isinstance(solver, Solver):
            raise UserError(f"{section.solver} reconstructs without a model: it has no steps")
        solver.check(rows)
        found[section.solver] = lambda *both, solver=solver: solver(*both, rows)
    return found


def measure(settings: Settings) -> tuple[list[common.Row], dict[str, Any]]:
    """Rows and values of the solvers, in turns."""
    run = Run.of(settings, Path("nowhere"))
    experiment, batch = run.experiment, common.FLAGS.batch or 1
    params = jax.jit(lambda key: experiment.task.init(key, experiment.shape))(run.keys()["init"])
    noise = np.random.default_rng(1).normal(size=(batch, *experiment.shape))
    x = jnp.asarray(experiment.process.prior_std * noise, jnp.float32)
    names, calls, memory = [], {}, {}
    for name, condition in conditions(run).items():
        names.append(name)
        for with_network in (True, False):
            call = compiled(run, condition, (params, x), with_network)
            key = name if with_network else f"{name}, no network"
            common.timed(lambda call=call: call(params, x))
            calls[key] = common.clock(lambda call=call: call(params, x))
            memory[key] = call.memory_analysis().temp_size_in_bytes
    seconds = common.in_turns(calls, common.FLAGS.repeats)
    values: dict[str, Any] = {"parameters": costs.count(params), "shape": experiment.shape}
    values |= {"batch": batch, "steps": common.FLAGS.steps}
    values["step_s"] = {n: float(np.median(v)) / common.FLAGS.steps for n, v in seconds.items()}
    values["memory_bytes"], plain = memory, names[0]
    rows = [
        ("network", f"{values['parameters']:,} parameters, images {experiment.shape}"),
        ("measurement", f"{settings.inverse.task}, batches of {batch}"),
    ]
    for name in names:
        share = common.ratio(seconds[f"{name}, no network"], seconds[name])
        more = common.ratio(seconds[name], seconds[plain])
        values[name] = {"without_network": share, "to_plain": more}
        text = f"{values['step_s'][name]:.3f} s a step, {common.mebibytes(memory[name])}"
        text += f"; outside the network {common.percent(share)}"
        if name != plain:
            text += f"; {more['median']:.2f} times the time and "
            text += f"{memory[name] / memory[plain]:.2f} times the memory without a measurement"
        rows.append((name, text))
    return rows, values


if __name__ == "__main__":
    common.run(measure)
