"""What a training step costs against batch, pixels, width and devices.

    python benchmarks/scaling.py --config vp/ddpmpp_cont:digits --widths 32,64 --devices 1,8

Every line is one compiled step: its time, the memory it works in, and the bytes it sends to other
devices. On a CPU, eight devices are made of its cores: their times say nothing about real ones, but
memory and bytes do. What each number means: README.md.
"""

import os

if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    flags_so_far = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags_so_far} --xla_force_host_platform_device_count=8"

import dataclasses
from typing import Any

import common
import jax
import numpy as np
from absl import flags

from score_sde.build.assemble import build
from score_sde.build.data import training_batches
from score_sde.build.settings import Settings
from score_sde.data import ArraySource
from score_sde.devices import Placement
from score_sde.errors import UserError
from score_sde.training import costs

flags.adopt_module_key_flags(common)
flags.DEFINE_list("batches", [], "Batch sizes of all devices together.")
flags.DEFINE_list("sizes", [], "Heights and widths of the images.")
flags.DEFINE_list("widths", [], "Values of config.model.nf.")
flags.DEFINE_list("devices", [], "Numbers of devices, each at the same batch size.")
flags.DEFINE_list("fsdp", ["1"], "With --devices: how many share one copy of the weights.")


def points(settings: Settings) -> list[tuple[str, Settings, int, int]]:
    """(name, settings, devices, fsdp) of every line; the first is the configuration on one."""
    given = common.FLAGS
    found = [("as configured", settings, 1, 1)]
    for name, section, entry, values in (
        ("batch", "training", "batch_size", given.batches),
        ("pixels", "data", "image_size", given.sizes),
        ("width", "model", "nf", given.widths),
    ):
        for value in map(int, values):
            text = f"{value} x {value}" if name == "pixels" else str(value)
            found.append((f"{name} {text}", settings.change(section, **{entry: value}), 1, 1))
    for count in map(int, given.devices):
        for share in map(int, given.fsdp):
            if count % share == 0:
                text = f"{count} devices" + (f", {share} share the weights" if share > 1 else "")
                found.append((text, settings, count, share))
    return found


def cost(settings: Settings, count: int, fsdp: int) -> dict[str, Any]:
    """Of one step, on each of the devices."""
    if count > len(jax.devices()):
        raise UserError(f"--devices={count}, but there are {len(jax.devices())}")
    place = Placement.of(jax.devices()[:count], fsdp)
    place.check_divisible("the batch", settings.training.batch_size)
    experiment = build(settings)
    trainer = dataclasses.replace(experiment.trainer, place=place)
    key = jax.random.key(0)
    like = jax.eval_shape(lambda: trainer.init(experiment.task, key, experiment.shape))
    where = place.weights(like)
    initialize = jax.jit(trainer.init, static_argnums=2, out_shardings=where)
    state = initialize(experiment.task, key, experiment.shape)
    levels = np.zeros((settings.training.batch_size, *experiment.shape), np.uint8)
    batches = training_batches(experiment, ArraySource(levels, levels=settings.data.levels))
    batch = place.put_part(jax.tree.map(lambda rows: rows[None], next(batches)), axis=1)
    jitted = jax.jit(trainer.steps, donate_argnums=1, out_shardings=(where, None))
    step = jitted.lower(experiment.task, state, key, batch).compile()

    def work():
        nonlocal state
        state, metrics = step(experiment.task, state, key, batch)
        return state, metrics

    common.timed(work)
    seconds = [common.timed(work)[1] for _ in range(common.FLAGS.repeats)]
    memory: Any = step.memory_analysis()
    shards = [leaf.addressable_shards[0].data for leaf in jax.tree.leaves(state)]
    return {
        "step_s": float(np.median(seconds)),
        "parameters": costs.count(state.params),
        "weight_bytes": costs.count_bytes(state.params),
        "state_bytes": sum(shard.nbytes for shard in shards),
        "working_bytes": memory.temp_size_in_bytes,
        "sent_bytes": costs.sent_bytes(step.as_text()),
    }


def measure(settings: Settings) -> tuple[list[common.Row], dict[str, Any]]:
    """Rows and values of all points."""
    if common.FLAGS.batch:
        settings = settings.change("training", batch_size=common.FLAGS.batch)
    rows: list[common.Row] = []
    values: dict[str, Any] = {}
    for name, changed, count, fsdp in points(settings):
        found = values[name] = cost(changed, count, fsdp)
        sent = found["sent_bytes"] / found["weight_bytes"]
        text = f"{1e3 * found['step_s']:,.0f} ms, {found['parameters']:,} weights, state "
        text += f"{common.mebibytes(found['state_bytes'])}, works in "
        text += f"{common.mebibytes(found['working_bytes'])}, sends {sent:.2f} x the weights"
        rows.append((name, text))
    return rows, values


if __name__ == "__main__":
    common.run(measure)
