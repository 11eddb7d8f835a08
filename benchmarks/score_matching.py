"""What score matching costs, by objective: against the dimension (figure 3.2), and of images.

    python benchmarks/score_matching.py [--dims 50,100,200,400] [--repeats 5] [--points 200]
    python benchmarks/score_matching.py --config ncsn/ncsn:digits [--batch 64]

The first line measures the deep kernel exponential family on N(0, I): one training step, that is
alpha of 100 examples, the loss of 100 others, and the gradient of all but alpha. The second line
measures training steps of a recipe, by denoising and by sliced score matching. With `--repeats 0`
operations are counted, and nothing is compiled or run. What each number means: README.md.
"""

import argparse
import functools
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import common
import jax
import jax.numpy as jnp
import numpy as np

from score_sde.build.data import training_batches
from score_sde.networks.kernel_exponential import DeepKernelExponentialFamily
from score_sde.objectives import exponential
from score_sde.objectives.exponential import QuadraticForm
from score_sde.objectives.projections import directions, standard
from score_sde.workdir import config as configurations
from score_sde.workdir.run import Run

BATCH, SIGMA = 100, 0.16
Form = Callable[[DeepKernelExponentialFamily, jax.Array, jax.Array], QuadraticForm]


def _sliced(reduced: bool, model, key, x):
    v = directions(standard(key, x, 1), "rademacher")
    return exponential.sliced(model.features, x, v, reduced)


def _denoising(model, key, x):
    z = jax.random.normal(key, x.shape, x.dtype)
    return exponential.denoising(model.features, x, z, SIGMA)


def _propagated(model, key, x):
    traces = jax.vmap(model.hessian_traces)(x, jax.random.split(key, len(x)))
    return exponential.with_traces(model.features, x, traces)


def _approximate(model, key, x):
    return exponential.with_traces(model.features, x, jax.vmap(model.hessian_traces)(x))


FORMS: dict[str, Form] = {
    "ssm": partial(_sliced, False),
    "sm": lambda model, key, x: exponential.exact(model.features, x),
    "ssm_vr": partial(_sliced, True),
    "dsm": _denoising,
    "approx_bp": _approximate,
    "cp": _propagated,
}
"""In the order of the table; sm is what the others avoid."""


def step_of(form: Form, solved: bool):
    """(model, alpha, x, key) -> gradient of the loss; alpha is solved for, or as it is given."""

    def loss(model, alpha, x, key):
        key_solve, key_loss = jax.random.split(key)
        if solved:
            alpha = form(model, key_solve, x[BATCH:]).solve(jnp.exp(model.log_ridge))
        return jnp.mean(form(model, key_loss, x[:BATCH]).losses(alpha))

    return jax.grad(loss)


def given_alpha(name: str):
    """The step of a network that is no kernel: one log-density, by reverse and forward mode."""

    def density(model, alpha, x):
        return model.features(x) @ jnp.append(alpha, jnp.ones((), x.dtype))

    def loss(model, alpha, x, key):
        score = jax.vmap(jax.grad(partial(density, model, alpha)))
        x = x[:BATCH]
        if name == "dsm":
            z = jax.random.normal(key, x.shape, x.dtype)
            return 0.5 * jnp.mean(jnp.sum((score(x + SIGMA * z) + z / SIGMA) ** 2, axis=1))
        if name == "sm":
            at, push = jax.linearize(score, x)
            unit = jnp.eye(x.shape[1], dtype=x.dtype)
            passes = jax.vmap(lambda e: push(jnp.broadcast_to(e, x.shape)) @ e)(unit)
            return jnp.mean(jnp.sum(passes, axis=0) + 0.5 * jnp.sum(at**2, axis=1))
        v = directions(standard(key, x, 1), "rademacher")[0]
        at, along = jax.jvp(score, (x,), (v,))
        square = jnp.sum(v * at, axis=1) ** 2 if name == "ssm" else jnp.sum(at**2, axis=1)
        return jnp.mean(jnp.sum(v * along, axis=1) + 0.5 * square)

    return jax.grad(loss)


def lowered_steps(d: int, options: argparse.Namespace) -> tuple[dict[str, Any], tuple]:
    """Name -> step that is ready to be compiled, and its arguments: standard normal rows."""
    key = jax.random.key(d)
    x = jax.random.normal(jax.random.fold_in(key, 0), (options.points + 2 * BATCH, d))
    model = DeepKernelExponentialFamily.create(jax.random.fold_in(key, 1), x[: options.points])
    alpha = jnp.zeros(options.points)
    arguments = model, alpha, x[options.points :], jax.random.fold_in(key, 2)
    steps = {}
    for name in options.objectives.split(","):
        made = {"": step_of(FORMS[name], True)}
        if name in ("ssm", "sm", "ssm_vr", "dsm"):
            made[" alone"] = given_alpha(name)
        for suffix, step in made.items():
            steps[name + suffix] = jax.jit(step).lower(*arguments)
    return steps, arguments


def against_dimension(options: argparse.Namespace) -> dict[str, Any]:
    """Rows of the table, printed; the slopes of exact against sliced score matching at the end."""
    dims, found = [int(d) for d in options.dims.split(",")], {}
    for d in dims:
        lowered, arguments = lowered_steps(d, options)
        if options.repeats:
            steps = {name: step.compile() for name, step in lowered.items()}
            calls = {name: partial(step, *arguments) for name, step in steps.items()}
            seconds = measured(calls, options.repeats)
        for name, step in lowered.items():
            row = found[f"{name} {d}"] = {"flops": flops(step)}
            if options.repeats:
                memory = steps[name].memory_analysis().temp_size_in_bytes
                row |= {"seconds": seconds[name].tolist(), "bytes": memory}
            base = "ssm alone" if name.endswith("alone") else "ssm"
            print(f"D {d:<5} {line(name, row, found[f'{base} {d}'])}", flush=True)
    for suffix in ("", " alone"):
        for quantity in ("flops", "seconds") if options.repeats else ("flops",):
            both = [
                [np.min(found[f"{name}{suffix} {d}"][quantity]) for d in dims]
                for name in ("sm", "ssm")
            ]
            slope = np.polyfit(np.log(dims), np.log(np.divide(*both)), 1)[0]
            found[f"slope{suffix} {quantity}"] = float(slope)
            print(f"sm{suffix} over ssm{suffix}, slope in log D by {quantity}: {slope:.2f}")
    return found


def line(name: str, values: dict[str, Any], base: dict[str, Any]) -> str:
    """Operations, times and memory of a row, and both beside those of the base."""
    text = f"{name:<14}{values['flops'] / 1e9:>9.2f} GFLOP"
    text += f" {values['flops'] / base['flops']:>7.2f} x"
    if "seconds" not in values:
        return text
    seconds = np.asarray(values["seconds"])
    ratios = common.ratio(seconds, np.asarray(base["seconds"]))
    text += f"{1e3 * np.median(seconds):>10.1f} ms (fastest {1e3 * seconds.min():.1f})"
    text += f" {ratios['median']:.2f} x (fastest {ratios['fastest']:.2f} x)"
    return f"{text}{common.mebibytes(values['bytes']):>12}"


def flops(step: Any) -> float:
    """Operations, as XLA counts them: before it optimizes a step that is not compiled."""
    return float(step.cost_analysis()["flops"])


def measured(calls: dict[str, Callable[[], Any]], repeats: int) -> dict[str, np.ndarray]:
    """Seconds of each call in turns, after one that warms up."""
    for call in calls.values():
        jax.block_until_ready(call())
    return common.in_turns({n: common.clock(call) for n, call in calls.items()}, repeats)


class Recipe:
    """Training steps of a recipe by one objective, on one batch."""

    def __init__(self, config: str, objective: str, batch: int | None):
        settings = configurations.load(config)
        changes = {"objective": objective} | ({"batch_size": batch} if batch else {})
        settings = settings.change("training", **changes)
        run = Run.of(settings, Path("nowhere"))
        experiment, source = run.experiment, run.source(train=True)
        batches = training_batches(experiment, source)
        some = jax.tree.map(lambda row: np.asarray(row)[None], next(batches))
        some, self.task = run.place.put_part(some, axis=1), experiment.task
        self.key, self.some = run.keys()["train"], some
        self.initialize = jax.jit(
            partial(experiment.trainer.init, shape=experiment.shape), out_shardings=run.place.whole
        )
        like = jax.eval_shape(self.initialize, self.task, self.key)
        steps = jax.jit(experiment.trainer.steps, donate_argnums=1)
        self.lowered = steps.lower(self.task, like, self.key, some)

    @functools.cached_property
    def compiled(self):
        """The step as a program; begins with fresh weights."""
        self.state = self.initialize(self.task, self.key)
        return self.lowered.compile()

    def __call__(self):
        """One step."""
        step = self.compiled
        self.state, metrics = step(self.task, self.state, self.key, self.some)
        return metrics


def of_images(options: argparse.Namespace) -> dict[str, Any]:
    """Rows of the objectives of a recipe, printed."""
    names = ["denoising", "sliced_vr", "sliced"]
    steps = {name: Recipe(options.config, name, options.batch) for name in names}
    found: dict[str, Any] = {name: {"flops": flops(step.lowered)} for name, step in steps.items()}
    if options.repeats:
        for name, seconds in measured(dict(steps), options.repeats).items():
            memory = steps[name].compiled.memory_analysis().temp_size_in_bytes
            found[name] |= {"seconds": seconds.tolist(), "bytes": memory}
    for name, row in found.items():
        print(line(name, row, found["denoising"]), flush=True)
    return found


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Measure, and print a table and one JSON line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dims", default="50,100,200,400")
    parser.add_argument("--objectives", default=",".join(FORMS), help="ssm and sm must be there")
    parser.add_argument("--points", type=int, default=200, help="inducing points")
    parser.add_argument("--repeats", type=int, default=5, help="rounds; 0 counts alone")
    parser.add_argument("--config", help="a recipe: measure that in place of the kernels")
    parser.add_argument("--batch", type=int, help="images; default as the recipe says")
    options = parser.parse_args(arguments)
    jax.config.update("jax_enable_compilation_cache", False)
    found = of_images(options) if options.config else against_dimension(options)
    print(json.dumps(found))
    return found


if __name__ == "__main__":
    main()
