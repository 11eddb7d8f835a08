"""What the benchmarks share: the command line, timing in turns, memory, the table and its JSON."""

import functools
import json
import platform
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import app, flags

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import jax
import numpy as np

from score_sde.build.settings import Settings
from score_sde.cli import split_overrides
from score_sde.errors import UserError
from score_sde.workdir import config as configurations

FLAGS = flags.FLAGS
flags.DEFINE_string("config", None, "A recipe or a file, with :DATASET if it has several.")
flags.DEFINE_integer(
    "batch", None, "Images per batch; default as the configuration says.", lower_bound=1
)
flags.DEFINE_integer("repeats", 5, "Rounds of measurement; medians are printed.", lower_bound=1)

Row = tuple[str, str]
PEAKS = {
    "H200": 989e12,
    "H100": 989e12,
    "A100": 312e12,
    "L4": 121e12,
    "V100": 125e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
}
"""Floating point operations a second of products in bfloat16 (V100: float16), without sparsity, by
a part of the device's name. The first that fits counts. Source: data sheets of the makers."""


def run(measure: Callable[[Settings], tuple[list[Row], dict[str, Any]]]) -> None:
    """Command line of a benchmark: load --config, change entries, measure, print.

    It prints rows and one JSON line.
    """
    flags.mark_flag_as_required("config")
    arguments, overrides = split_overrides(sys.argv)
    app.run(functools.partial(_run, measure, overrides), argv=arguments)


def _run(measure, overrides: list[tuple[str, str]], argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments {argv[1:]}")
    jax.config.update("jax_enable_compilation_cache", False)  # compile times are to be measured
    try:
        settings = configurations.override(configurations.load(FLAGS.config), overrides)
        rows, values = measure(settings)
    except UserError as error:
        sys.exit(f"error: {error}")
    where = {
        "device": f"{len(jax.devices())} x {jax.devices()[0].device_kind}",
        "jax": jax.__version__,
        "python": platform.python_version(),
        "repeats": FLAGS.repeats,
        "overrides": dict(overrides),
    }
    rows = [("configuration", settings.name), *rows]
    rows.append(("measured on", f"{where['device']}, jax {where['jax']}, {FLAGS.repeats} rounds"))
    width = max(len(name) for name, _ in rows)
    for name, text in rows:
        print(f"{name:<{width}}  {text}")
    print(json.dumps({"config": settings.name, **values, **where}))


def clock(call: Callable[[], Any]) -> Callable[[], float]:
    """A function that makes the call and returns its seconds."""
    return lambda: timed(call)[1]


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """(result, seconds until it is there)."""
    start = time.perf_counter()
    result = jax.block_until_ready(call())
    return result, time.perf_counter() - start


def in_turns(clocks: dict[str, Callable[[], float]], rounds: int) -> dict[str, np.ndarray]:
    """Seconds that each clock says in each round, (rounds,) each.

    All are run once in every round, and every second round goes backwards. So what disturbs the
    machine for longer than a round, or grows with time, hits all of them alike. Compare them round
    by round (`ratio`).
    """
    seconds: dict[str, list[float]] = {name: [] for name in clocks}
    for i in range(rounds):
        for name in list(clocks)[:: -1 if i % 2 else 1]:
            seconds[name].append(clocks[name]())
    return {name: np.asarray(values) for name, values in seconds.items()}


def ratio(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    """a/b: the median, lowest and highest over rounds, and that of the fastest a to the fastest b.

    On a machine with other work the fastest rounds are the least disturbed ones: both numbers
    should say the same.
    """
    quotients = a / b
    summary = {"median": np.median(quotients), "fastest": a.min() / b.min()}
    summary |= {"lowest": quotients.min(), "highest": quotients.max()}
    return {name: float(value) for name, value in summary.items()}


def complement(share: dict[str, float]) -> dict[str, float]:
    """What the share leaves."""
    rest = {name: 1 - value for name, value in share.items()}
    return rest | {"lowest": rest["highest"], "highest": rest["lowest"]}


def percent(share: dict[str, float]) -> str:
    """A ratio in words."""
    text = {name: f"{100 * value:.1f}" for name, value in share.items()}
    rounds = f"rounds {text['lowest']} .. {text['highest']} %"
    return f"{text['median']} % (fastest {text['fastest']} %, {rounds})"


def peak_memory() -> tuple[int, str]:
    """(bytes, of what): the most any local device has held, else the process's resident memory."""
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    peaks = [each.get("peak_bytes_in_use", 0) for each in stats]
    if max(peaks):
        return max(peaks), "one device"
    unit = 1 if sys.platform == "darwin" else 1024
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return resident, "resident memory of the process, compiler included"


def peak_flops() -> float | None:
    """Of one device, as its maker says; None where that is not known."""
    kind = jax.devices()[0].device_kind
    return next((flops for name, flops in PEAKS.items() if name in kind), None)


def mebibytes(count: float) -> str:
    """Bytes in words."""
    return f"{count / 2**20:,.0f} MiB"
