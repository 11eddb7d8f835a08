"""Speed and memory of training: python benchmarks/train_step.py --config configs/vp/ddpmpp_cont.py:digits [--batch 64].

Says images/s, the way to the first step (initialize, trace, compile, run), peak memory, the share of the step outside
the network, and whether the data pipeline keeps up. What each number means: README.md.
"""

import time
from collections.abc import Callable
from typing import Any

import common
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from absl import flags

import run_lib
from score_sde.build import Experiment, build, open_source
from score_sde.data import ArraySource, Source
from score_sde.errors import UserError
from score_sde.training import costs, sharding

flags.adopt_module_key_flags(common)

PIPELINE_SECONDS = 0.5
"""About how long the pipeline is timed in each round."""
READ_AHEAD = 16
"""The most batches that the pipeline prepares ahead."""
RANDOM_BYTES = 2**28


def measure(config: ml_collections.ConfigDict) -> tuple[list[common.Row], dict[str, Any]]:
    """Rows and values of the training step of `config`."""
    if common.FLAGS.batch:
        config.training.batch_size = common.FLAGS.batch
    source, origin = open_or_imitate(config)
    experiment, mesh = build(config, source.shape), sharding.make_mesh()
    settings = experiment.training
    batch_size, count = settings["batch_size"], settings["steps_per_call"]
    sharding.check_divisible("config.training.batch_size", batch_size, mesh)
    key = run_lib.run_keys(experiment)["train"]
    batches = run_lib.training_batches(experiment, config, source)
    images = np.stack([next(batches)["image"] for _ in range(count)])
    images = sharding.put_batch(images, mesh, axis=1)

    initialize = jax.jit(experiment.trainer.init, static_argnums=1, out_shardings=sharding.replicated(mesh))
    state, init_s = common.timed(lambda: initialize(key, experiment.shape))
    parameters = costs.count(state.params)
    steps = jax.jit(experiment.trainer.steps, donate_argnums=0)
    traced, trace_s = common.timed(lambda: steps.trace(state, key, images))
    compiled, compile_s = common.timed(lambda: traced.lower().compile())

    def step():
        nonlocal state
        state, metrics = compiled(state, key, images)
        return state, metrics

    _, first_s = common.timed(step)
    common.timed(step)
    memory, memory_of = common.peak_memory()

    network = bare_network(experiment, state.params, images[0], mesh)
    common.timed(network)
    seconds = common.in_turns(
        {
            "step": common.clock(step),
            "network": common.clock(lambda: [network() for _ in range(count)]),
            "pipeline batch": pipeline_clock(batches, mesh),
        },
        common.FLAGS.repeats,
    )

    step_s = float(np.median(seconds["step"])) / count
    outside = common.complement(common.ratio(seconds["network"], seconds["step"]))
    step_rate, pipeline_rate = batch_size / step_s, batch_size / float(np.median(seconds["pipeline batch"]))
    supply = common.ratio(seconds["step"] / count, seconds["pipeline batch"])
    values = {
        "batch": batch_size,
        "shape": experiment.shape,
        "parameters": parameters,
        "steps_per_call": count,
        "step_images_per_s": step_rate,
        "step_s": step_s,
        "initialize_s": init_s,
        "trace_s": trace_s,
        "compile_s": compile_s,
        "first_step_s": first_s,
        "peak_bytes": memory,
        "peak_of": memory_of,
        "share_outside_network": outside,
        "pipeline_images_per_s": pipeline_rate,
        "pipeline_over_step": supply,
        "pipeline_source": origin,
    }
    goal = "goal 10x reached" if supply["median"] >= 10 else "goal 10x MISSED"
    rows = [
        ("network", f"{parameters:,} parameters, {config.model.dtype}, images {experiment.shape}"),
        ("batch", f"{batch_size} images, {count} step(s) in a call"),
        ("training step", f"{step_rate:,.1f} images/s, {1e3 * step_s:,.1f} ms"),
        ("outside the network", common.percent(outside)),
        (
            "to the first step",
            f"initialize {init_s:.1f} s, trace {trace_s:.1f} s, compile {compile_s:.1f} s, run {first_s / count:.2f} s",
        ),
        ("peak memory", f"{common.mebibytes(memory)} ({memory_of})"),
        ("data pipeline", f"{pipeline_rate:,.0f} images/s from {origin}"),
        ("pipeline / step", f"{supply['median']:,.1f} ({goal})"),
    ]
    return rows, values


def open_or_imitate(config: ml_collections.ConfigDict) -> tuple[Source, str]:
    """The training images of `config`, or where they are not on this machine random ones of their shape; and which."""
    size, channels = config.data.image_size, config.data.channels
    try:
        return open_source(config.data, train=True), f"the data set {config.data.source}"
    except UserError:
        if not size or not channels:
            raise
    number = min(50_000, RANDOM_BYTES // (size * size * channels))
    rng = np.random.default_rng(0)
    images = rng.integers(0, config.data.levels, (number, size, size, channels), np.uint8)
    return ArraySource(
        images, levels=config.data.levels
    ), f"{number:,} random images in memory, without decoding"


def bare_network(experiment: Experiment, params, x, mesh) -> Callable[[], Any]:
    """The step without all but the network: its output, dropout included, and the gradients of its weights, at fixed inputs."""
    model, key = experiment.model, jax.random.key(0)
    times, _ = experiment.trainer.task.objective.times(key, x.shape[0])  # type: ignore[attr-defined]
    labels = sharding.put_batch(np.asarray(model.parameterization.c_noise(times.astype(x.dtype))), mesh)

    @jax.jit
    def gradients(params, key, x, labels, direction):
        def output(params):
            return model.network.apply({"params": params}, x, labels, train=True, rngs={"dropout": key})

        y, pullback = jax.vjp(output, params)
        return jnp.sum(y * direction), pullback(direction)[0]

    params = jax.tree.map(jnp.copy, params)  # the step's own are given away to the next step
    direction = jax.device_put(jnp.ones_like(x), x.sharding)
    return lambda: gradients(params, key, x, labels, direction)


def pipeline_clock(batches, mesh) -> Callable[[], float]:
    """Seconds in which the pipeline makes a batch and puts it onto the devices, while nothing else runs."""

    def take(count: int) -> float:
        start = time.perf_counter()
        for _ in range(count):
            jax.block_until_ready(sharding.put_batch(next(batches)["image"], mesh))
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
