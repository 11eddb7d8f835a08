"""Speed and memory of sampling.

    python benchmarks/sample.py --config ve/ncsnpp_cont --batch 2 --steps 3

Says images/s of the full number of steps, and seconds per network evaluation inside the sampler
and alone. Says the share of the time in the network, compile time and peak memory too. What each
number means: README.md.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from score_sde.arrays import sample_keys
from score_sde.build.settings import Settings
from score_sde.training import costs
from score_sde.workdir.objects import make_generator
from score_sde.workdir.run import Run

flags.adopt_module_key_flags(common)
flags.DEFINE_integer(
    "steps", None, "Steps of the measured run; default as the configuration says.", lower_bound=1
)


def make_network(run: Run, params: Any, batch: int) -> Callable[[], Any]:
    """The bare jitted network on a batch, at the largest time of the grid."""
    model, shape = run.experiment.model, (batch, *run.experiment.shape)
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    times = np.full(batch, np.asarray(run.experiment.sampler.times).max(), np.float32)
    labels = np.asarray(model.parameterization.c_noise(times))
    x, labels = run.place.put_rows((x, labels))
    network = jax.jit(lambda params, x, labels: model.network.apply({"params": params}, x, labels))
    return lambda: network(params, x, labels)


def measure(settings: Settings) -> tuple[list[common.Row], dict[str, Any]]:
    """Rows and values of the sampler of these settings."""
    size = common.FLAGS.batch or settings.sampling.batch_size
    full = Run.of(settings, Path("nowhere"))
    steps = common.FLAGS.steps or settings.sampling.steps
    run = Run.of(full.settings.change("sampling", steps=steps), full.folder)
    experiment = run.experiment
    nfe, full_nfe = experiment.sampler.evaluations, full.experiment.sampler.evaluations
    draw, key = make_generator(run, size), run.keys()["sample"]
    batch = draw.whole(size)
    keys = sample_keys(key, jnp.arange(batch))
    params = jax.jit(
        lambda key: experiment.task.init(key, experiment.shape), out_shardings=run.place.whole
    )(key)

    def sample() -> np.ndarray:
        return draw.all(params, keys, title="")

    _, first_s = common.timed(sample)
    _, second_s = common.timed(sample)
    memory, memory_of = common.peak_memory()
    network = make_network(run, params, batch)
    _, network_first_s = common.timed(network)
    seconds = common.in_turns(
        {
            "sampler": common.clock(sample),
            # One after another, as a sampler has to: calls in flight would share the cores better.
            "network": lambda: sum(common.timed(network)[1] for _ in range(nfe)),
        },
        common.FLAGS.repeats,
    )
    inside = common.ratio(seconds["network"], seconds["sampler"])
    evaluation_s, network_s = (
        float(np.median(seconds[name])) / nfe for name in ("sampler", "network")
    )
    compile_s, network_compile_s = first_s - second_s, network_first_s - network_s
    values = {
        "batch": batch,
        "shape": experiment.shape,
        "parameters": costs.count(params),
        "steps": experiment.sampler.steps,
        "full_steps": full.experiment.sampler.steps,
        "evaluations": nfe,
        "full_evaluations": full_nfe,
        "images_per_s": batch / (evaluation_s * full_nfe),
        "evaluation_s": evaluation_s,
        "network_s": network_s,
        "share_in_network": inside,
        "compile_s": compile_s,
        "network_compile_s": network_compile_s,
        "peak_bytes": memory,
        "peak_of": memory_of,
    }
    return _rows(settings.model.dtype, values), values


def _rows(dtype: str, values: dict[str, Any]) -> list[common.Row]:
    inside, milliseconds = values["share_in_network"], lambda name: f"{1e3 * values[name]:,.2f} ms"
    goal = "goal 95 % reached" if inside["median"] >= 0.95 else "goal 95 % MISSED"
    full = f"all {values['full_steps']} steps ({values['full_evaluations']} evaluations)"
    compiled = (f"{values[name]:.1f} s" for name in ("compile_s", "network_compile_s"))
    return [
        (
            "network",
            f"{values['parameters']:,} parameters, {dtype}, images {values['shape']}",
        ),
        ("batch", f"{values['batch']} images"),
        ("measured run", f"{values['steps']} steps, {values['evaluations']} network evaluations"),
        ("projected", f"{values['images_per_s']:,.4g} images/s with {full}"),
        ("evaluation in sampler", milliseconds("evaluation_s")),
        ("evaluation alone", milliseconds("network_s")),
        ("inside the network", f"{common.percent(inside)}: {goal}"),
        ("compile", "sampler {}, network alone {}".format(*compiled)),
        ("peak memory", f"{common.mebibytes(values['peak_bytes'])} ({values['peak_of']})"),
    ]


if __name__ == "__main__":
    common.run(measure)
