"""Speed and memory of sampling: python benchmarks/sample.py --config configs/ve/ncsnpp_cont.py --batch 2 --steps 3.

Says images/s of the full number of steps, seconds per network evaluation inside the sampler and alone, the share of
the time in the network, compile time and peak memory. What each number means: README.md.
"""

from typing import Any

import common
import jax
import ml_collections
import numpy as np
from absl import flags

import run_lib
from score_sde.build import build, open_source
from score_sde.training import costs, sharding

flags.adopt_module_key_flags(common)
flags.DEFINE_integer(
    "steps", None, "Steps of the measured run; default as the configuration says.", lower_bound=1
)


def measure(config: ml_collections.ConfigDict) -> tuple[list[common.Row], dict[str, Any]]:
    """Rows and values of the sampler of `config`."""
    if common.FLAGS.batch:
        config.sampling.batch_size = common.FLAGS.batch
    shape = None
    if not config.data.image_size or not config.data.channels:
        shape = open_source(config.data, train=True).shape
    full = build(config, shape)
    config.sampling.steps = common.FLAGS.steps or config.sampling.steps
    experiment, mesh = build(config, shape), sharding.make_mesh()
    nfe, full_nfe = experiment.sampler.nfe, full.sampler.nfe
    draw = run_lib.make_generator(experiment, mesh, experiment.sampling["batch_size"])
    key = run_lib.run_keys(experiment)["sample"]
    params = jax.jit(
        lambda key: experiment.trainer.init(key, experiment.shape).params,
        out_shardings=sharding.replicated(mesh),
    )(key)

    _, first_s = common.timed(lambda: draw(params, key))
    _, second_s = common.timed(lambda: draw(params, key))
    memory, memory_of = common.peak_memory()

    x = np.random.default_rng(0).normal(size=(draw.batch_size, *experiment.shape)).astype(np.float32)
    times = np.full(draw.batch_size, np.asarray(experiment.sampler.times).max(), np.float32)
    labels = np.asarray(experiment.model.parameterization.c_noise(times))
    x, labels = sharding.put_batch((x, labels), mesh)
    network = jax.jit(lambda params, x, labels: experiment.model.network.apply({"params": params}, x, labels))
    _, network_first_s = common.timed(lambda: network(params, x, labels))

    seconds = common.in_turns(
        {
            "sampler": common.clock(lambda: draw(params, key)),
            "network": common.clock(lambda: [network(params, x, labels) for _ in range(nfe)]),
        },
        common.FLAGS.repeats,
    )
    inside = common.ratio(seconds["network"], seconds["sampler"])
    evaluation_s, network_s = (float(np.median(seconds[name])) / nfe for name in ("sampler", "network"))
    rate = draw.batch_size / (evaluation_s * full_nfe)
    compile_s, network_compile_s = first_s - second_s, network_first_s - network_s
    values = {
        "batch": draw.batch_size,
        "shape": experiment.shape,
        "parameters": costs.count(params),
        "steps": experiment.sampler.steps,
        "full_steps": full.sampler.steps,
        "evaluations": nfe,
        "full_evaluations": full_nfe,
        "images_per_s": rate,
        "evaluation_s": evaluation_s,
        "network_s": network_s,
        "share_in_network": inside,
        "compile_s": compile_s,
        "network_compile_s": network_compile_s,
        "peak_bytes": memory,
        "peak_of": memory_of,
    }
    goal = "goal 95 % reached" if inside["median"] >= 0.95 else "goal 95 % MISSED"
    rows = [
        ("network", f"{values['parameters']:,} parameters, {config.model.dtype}, images {experiment.shape}"),
        ("batch", f"{draw.batch_size} images"),
        ("measured run", f"{experiment.sampler.steps} steps, {nfe} network evaluations"),
        (
            "projected",
            f"{rate:,.4g} images/s with all {full.sampler.steps} steps ({full_nfe} evaluations)",
        ),
        ("evaluation in sampler", f"{1e3 * evaluation_s:,.2f} ms"),
        ("evaluation alone", f"{1e3 * network_s:,.2f} ms"),
        ("inside the network", f"{common.percent(inside)}: {goal}"),
        ("compile", f"sampler {compile_s:.1f} s, network alone {network_compile_s:.1f} s"),
        ("peak memory", f"{common.mebibytes(memory)} ({memory_of})"),
    ]
    return rows, values


if __name__ == "__main__":
    common.run(measure)
