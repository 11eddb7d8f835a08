"""Speed and memory of training.

    python benchmarks/train_step.py --config vp/ddpmpp_cont:digits [--batch 64]

Says images/s, the way to the first step (initialize, trace, compile, run), and peak memory. Says
the share of the step outside the network, and whether the data pipeline keeps up. What each number
means: README.md.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from score_sde.arrays import sample_keys
from score_sde.build.data import open_source, training_batches
from score_sde.build.settings import Data, Settings
from score_sde.data import ArraySource, Source
from score_sde.devices import Placement
from score_sde.errors import UserError
from score_sde.training import costs, dropout
from score_sde.workdir.run import Run

flags.adopt_module_key_flags(common)

PIPELINE_SECONDS = 0.5
"""About how long the pipeline is timed in each round."""
READ_AHEAD = 16
"""The most batches that the pipeline prepares ahead."""
RANDOM_BYTES = 2**28


def measure(settings: Settings) -> tuple[list[common.Row], dict[str, Any]]:
    """Rows and values of the training step of these settings."""
    if common.FLAGS.batch:
        settings = settings.change("training", batch_size=common.FLAGS.batch)
    run = Run.of(settings, Path("nowhere"))
    experiment, place, training = run.experiment, run.place, settings.training
    source, origin = open_or_imitate(run.settings.data)
    size, count = training.batch_size, training.steps_per_call
    place.check_divisible("config.training.batch_size", size)
    key = run.keys()["train"]
    batches = training_batches(experiment, source)
    some = jax.tree.map(lambda *rows: np.stack(rows), *(next(batches) for _ in range(count)))
    some, task = place.put_part(some, axis=1), experiment.task

    initialize = jax.jit(experiment.trainer.init, static_argnums=2, out_shardings=place.whole)
    state, init_s = common.timed(lambda: initialize(task, key, experiment.shape))
    values: dict[str, Any] = {
        "batch": size,
        "shape": experiment.shape,
        "parameters": costs.count(state.params),
        "steps_per_call": count,
    }
    steps = jax.jit(experiment.trainer.steps, donate_argnums=1)
    traced, trace_s = common.timed(lambda: steps.trace(task, state, key, some))
    compiled, compile_s = common.timed(lambda: traced.lower().compile())

    def step():
        nonlocal state
        state, metrics = compiled(task, state, key, some)
        return state, metrics

    _, first_s = common.timed(step)
    common.timed(step)
    memory, memory_of = common.peak_memory()

    network = bare_network(run, state.params, some.image[0])
    common.timed(network)
    seconds = common.in_turns(
        {
            "step": common.clock(step),
            "network": common.clock(lambda: [network() for _ in range(count)]),
            "pipeline batch": pipeline_clock(batches, place),
        },
        common.FLAGS.repeats,
    )
    step_s = float(np.median(seconds["step"])) / count
    cost = costs.estimate(experiment.trainer, task, experiment.shape, size // place.size)
    values |= {
        "step_flops": cost["step_flops"],
        "largest_batch": largest_batch(compiled, size // place.size),
        "step_images_per_s": size / step_s,
        "step_s": step_s,
        "initialize_s": init_s,
        "trace_s": trace_s,
        "compile_s": compile_s,
        "first_step_s": first_s,
        "peak_bytes": memory,
        "peak_of": memory_of,
        "share_outside_network": common.complement(
            common.ratio(seconds["network"], seconds["step"])
        ),
        "pipeline_images_per_s": size / float(np.median(seconds["pipeline batch"])),
        "pipeline_over_step": common.ratio(seconds["step"] / count, seconds["pipeline batch"]),
        "pipeline_source": origin,
    }
    return _rows(settings.model.dtype, values), values


def largest_batch(compiled: Any, size: int) -> int | None:
    """Images of a step that fit into one device's memory, if what it works in grows with them.

    None where the device does not tell its memory (CPUs).
    """
    limit = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
    if not limit:
        return None
    memory = compiled.memory_analysis()
    free = limit - memory.argument_size_in_bytes
    return int(free / memory.temp_size_in_bytes * size)


def _rows(dtype: str, values: dict[str, Any]) -> list[common.Row]:
    count, supply = values["steps_per_call"], values["pipeline_over_step"]["median"]
    goal = "goal 10x reached" if supply >= 10 else "goal 10x MISSED"
    rate, peak = values["step_flops"] / values["step_s"], common.peak_flops()
    use = f"{rate / 1e12:,.3g} TFLOP/s on each device"
    use += f", {100 * rate / peak:.1f} % of {peak / 1e12:,.0f} in bfloat16" if peak else ""
    batch = f"{values['batch']} images, {count} step(s) in a call"
    if values["largest_batch"]:
        batch += f"; at most about {values['largest_batch']:,} fit into one device"
    return [
        (
            "network",
            f"{values['parameters']:,} parameters, {dtype}, images {values['shape']}",
        ),
        ("batch", batch),
        (
            "training step",
            f"{values['step_images_per_s']:,.1f} images/s, {1e3 * values['step_s']:,.1f} ms",
        ),
        ("operations", use),
        ("outside the network", common.percent(values["share_outside_network"])),
        (
            "to the first step",
            f"initialize {values['initialize_s']:.1f} s, trace {values['trace_s']:.1f} s, compile "
            f"{values['compile_s']:.1f} s, run {values['first_step_s'] / count:.2f} s",
        ),
        ("peak memory", f"{common.mebibytes(values['peak_bytes'])} ({values['peak_of']})"),
        (
            "data pipeline",
            f"{values['pipeline_images_per_s']:,.0f} images/s from {values['pipeline_source']}",
        ),
        ("pipeline / step", f"{supply:,.1f} ({goal})"),
    ]


def open_or_imitate(section: Data) -> tuple[Source, str]:
    """The training images, or random ones of their shape where they are not here; and which."""
    size, channels = section.image_size, section.channels
    try:
        return open_source(section, train=True), f"the data set {section.source}"
    except UserError:
        if not size or not channels:
            raise
    number = min(50_000, RANDOM_BYTES // (size * size * channels))
    rng = np.random.default_rng(0)
    images = rng.integers(0, section.levels, (number, size, size, channels), np.uint8)
    origin = f"{number:,} random images in memory, without decoding"
    return ArraySource(images, levels=section.levels), origin


def bare_network(run: Run, params, x) -> Callable[[], Any]:
    """The step without all but the network, at fixed inputs.

    It is the network's output, dropout included, and the gradients of its weights.
    """
    model, place = run.experiment.model, run.place
    keys = sample_keys(jax.random.key(0), jnp.arange(len(x)))
    times, _ = run.experiment.task.objective.times(keys, len(x))  # type: ignore[attr-defined]
    labels = np.asarray(model.parameterization.c_noise(times.astype(x.dtype)))
    keys, labels = place.put_rows((keys, labels))

    @jax.jit
    def gradients(params, keys, x, labels, direction):
        def output(params):
            return dropout.apply(model.network, keys, {"params": params}, x, labels)

        y, pullback = jax.vjp(output, params)
        return jnp.sum(y * direction), pullback(direction)[0]

    params = jax.tree.map(jnp.copy, params)  # the step's own are given away to the next step
    direction = jax.device_put(jnp.ones_like(x), x.sharding)
    return lambda: gradients(params, keys, x, labels, direction)


def pipeline_clock(batches, place: Placement) -> Callable[[], float]:
    """Seconds in which the pipeline makes a batch and puts it onto the devices.

    Nothing else runs meanwhile.
    """

    def take(count: int) -> float:
        start = time.perf_counter()
        for _ in range(count):
            jax.block_until_ready(place.put_part(next(batches)))
        return (time.perf_counter() - start) / count

    take(READ_AHEAD)
    count = max(8, round(PIPELINE_SECONDS / take(8)))

    def clock() -> float:
        take(READ_AHEAD)  # prepared while nobody looked
        seconds = take(count)
        time.sleep(READ_AHEAD * seconds)  # until its threads rest again
        return seconds

    return clock


if __name__ == "__main__":
    common.run(measure)
