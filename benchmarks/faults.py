"""What the parts of `reliability.py` share: a small run, its commands, and what a fault came to.

A trial damages a copy of the run, or its process, and then gives a command. Its outcome is one of
`OUTCOMES`, by the results that the undamaged run gives.
"""

import contextlib
import dataclasses
import io
import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

OUTCOMES = ("survived", "told", "silent", "traceback", "hang")
RECIPE = "vp/ddpmpp_cont:digits"
VALUES: dict[str, Any] = {
    "model.nf": 8,
    "model.ch_mult": "(1,)",
    "model.num_res_blocks": 1,
    "model.attn_resolutions": "()",
    "training.batch_size": 16,
    "training.steps": 4,
    "training.log_every": 1,
    "training.eval_every": 2,
    "training.checkpoint_every": 2,
    "training.sample_every": 0,
    "training.averages": "power:0.05,power:0.10",
    "training.snapshot_every": 1,
    "eval.num_examples": 8,
    "eval.batch_size": 8,
    "eval.rtol": 1e-2,
    "eval.atol": 1e-2,
    "quality.num_samples": 24,
    "quality.extractor": "pixels",
    "sampling.steps": 2,
    "sampling.corrector": "none",
    "sampling.num_samples": 8,
    "sampling.batch_size": 8,
    "sampling.frames": 0,
    "sampling.t_end": 0.02,
    "inverse.images": 2,
    "classifier.depth": 10,
    "classifier.widen": 1,
    "classifier.nf": 4,
    "dequantizer.filters": 4,
    "dequantizer.components": 2,
    "dequantizer.couplings": 2,
    "dequantizer.context_filters": 4,
    "dequantizer.context_layers": 1,
    "dequantizer.heads": 0,
    "second_order.network": "mlp",
    "second_order.nf": 8,
    "second_order.noise_min": 0.005,
}
for _name in ("classifier", "dequantizer", "second_order"):
    VALUES |= {f"{_name}.batch_size": 16, f"{_name}.steps": 2, f"{_name}.log_every": 1}
    VALUES |= {f"{_name}.eval_every": 2, f"{_name}.checkpoint_every": 2}
"""A network that compiles in seconds, trained for four steps, and all that lies beside it."""

Words = Sequence[str]


@dataclasses.dataclass(frozen=True)
class Command:
    """A mode, its flags and entries; {run} in them is the folder of the run.

    results: patterns of the files below the run that it is judged by. believed: the output counts
    too, as `list` prints what it read.
    """

    mode: str
    flags: Mapping[str, str] = dataclasses.field(default_factory=dict)
    values: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    results: Words = ()
    believed: bool = False

    def arguments(self, run: Path) -> list[str]:
        """As of the command line."""
        named = ["--mode", self.mode]
        if self.mode != "list":
            named += ["--workdir", str(run)]
        for name, value in self.flags.items():
            named += [f"--{name}", value.format(run=run)]
        return named + [f"--config.{name}={value}" for name, value in self.values.items()]


TRAIN = Command(
    "train",
    {"config": RECIPE},
    VALUES,
    ("metrics.jsonl", "checkpoints/*", "snapshots/*"),
)
ON = Command("train", {}, {"training.steps": 5}, ("metrics.jsonl", "checkpoints/5", "snapshots/*"))
"""Of the checkpoints the last: one that a signal left takes the place of another."""
SAMPLE = Command("sample", results=("samples/step_4/samples.npz", "samples/step_4/sampling.json"))
EVAL = Command("eval", {"checkpoint": "all"}, {"eval.metrics": "loss,levels"}, ("eval/*.json",))
QUALITY = Command("eval", {}, {"eval.metrics": "fid"}, ("eval/step_4.json", "eval/samples/**/*"))
LIKELIHOOD = Command("likelihood", results=("eval/likelihood_*/*",))
SUMMARIZE = Command("summarize", results=("eval/likelihood_*/summary.json",))
ENCODE = Command("encode", {}, {"eval.num_examples": 264}, ("flow/encode_step_4/latents.npz",))
DECODE = Command(
    "decode",
    {"input": "{run}/flow/encode_step_4/latents.npz", "output": "{run}/decoded"},
    {},
    ("decoded/samples.npz",),
)
HALF = Command("reconstruct", {"shard": "0/2", "copies": "2"}, {"inverse.solver": "projection"})
RECONSTRUCT = Command(
    "reconstruct",
    {"copies": "2"},
    {"inverse.solver": "projection"},
    ("samples/reconstruct_step_4/*",),
)
MEASURE = Command("measure", {"output": "{run}/measured"})
MEASURED = Command(
    "reconstruct",
    {"input": "{run}/measured/measurements.npz", "output": "{run}/of_file", "copies": "1"},
    {"inverse.solver": "projection"},
    ("of_file/reconstruction.npz",),
)
REPORT = Command("report", results=("report.html",))
LIST = Command("list", {"runs": "{run}"}, believed=True)
EXPORT = Command("export", {"output": "{run}/model.pth"}, {}, ("model.pth",))
BEST = Command("sample", {"checkpoint": "best"}, {}, ("samples/step_*/samples.npz",))
POSTHOC = Command("sample", {"checkpoint": "phema:0.08"}, {}, ("samples/*/samples.npz",))
CLASSES = Command(
    "sample", {"classes": "all"}, {"sampling.guidance_scale": 1.0}, ("samples/step_4/samples.npz",)
)
OZAKI = Command(
    "sample",
    {},
    {"sampling.corrector": "ozaki", "sampling.t_end": 0.05},
    ("samples/step_4/samples.npz",),
)
FLOW = Command(
    "likelihood", {}, {"eval.dequantization": "variational"}, ("eval/likelihood_*variational*/*",)
)
BUILD = (
    TRAIN,
    *(Command(f"train_{name}") for name in ("classifier", "dequantizer", "second_order")),
    *(SAMPLE, EVAL, QUALITY, LIKELIHOOD, ENCODE, MEASURE, RECONSTRUCT),
)
"""What makes the run that is damaged."""


class TimeUp(BaseException):
    """A command that did not end."""


def call(command: Command, run: Path, limit: int = 120) -> tuple[str, str]:
    """("", "told", "traceback" or "hang"; what was printed) of a command in this process."""
    from absl import flags

    from score_sde import cli, program
    from score_sde.errors import UserError

    out = io.StringIO()

    def stop(number: int, frame: Any) -> None:
        raise TimeUp

    before = signal.signal(signal.SIGALRM, stop)
    rest, overrides = cli.split_overrides(["program", *command.arguments(run)])
    values = flags.FlagValues()
    cli.define_flags(values)
    values(rest)
    given = {flag.name: values[flag.name].value for flag in cli.FLAGS}
    end = ""
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            signal.alarm(limit)
            program.run(command.mode, given, overrides)
    except UserError as error:
        end = "told"
        out.write(f"error: {error}")
    except OSError as error:  # `program.answered` makes a message of it
        end = "told"
        out.write(f"error: {error}")
    except TimeUp:
        end = "hang"
    except BaseException as error:  # what a user would see as a traceback
        end = "traceback"
        out.write(f"{type(error).__name__}: {error}")
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    return end, out.getvalue()


WORDS = re.compile(
    r"damaged|is not as it was|does not count|cannot be read|made anew|drawn anew|no longer|"
    r"other weights|stale|are gone|going on without"
)
"""What a command says where it noticed something, and went on."""


def judged(end: str, said: str, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """The outcome of a trial: of its last command how it ended, what it said, what there is."""
    if end:
        return end
    if found == wanted:
        return "survived"
    return "told" if WORDS.search(said) else "silent"


def results(command: Command, run: Path, said: str = "") -> dict[str, Any]:
    """What the files hold that a command is judged by, and what it printed where that counts."""
    paths = sorted(p for pattern in command.results for p in run.glob(pattern) if not hidden(p))
    found = {path.relative_to(run).as_posix(): content(path, run) for path in paths}
    if command.believed:  # without size and time
        found["said"] = re.sub(r"[0-9.]+ +[0-9-]+ [0-9:]+\n", "", said.replace(str(run), "RUN"))
    return found


def hidden(path: Path) -> bool:
    """Whether a file is none of the results: pictures, locks, and what names times."""
    return path.suffix == ".png" or path.name.startswith(".")


def content(path: Path, run: Path) -> Any:
    """What a file holds, without what differs from one undamaged call to the next."""
    try:
        if path.is_dir():
            return "folder"
        if path.suffix == ".npz":
            with np.load(path) as file:
                return {name: (str(file[name].dtype), file[name].tobytes()) for name in file}
        if path.suffix == ".parquet":
            from score_sde.workdir.parquet import read_table

            table = read_table(path, "")
            # As text, where nan is itself.
            return {name: str(table[name].to_pylist()) for name in sorted(table.column_names)}
        text = path.read_bytes().replace(str(run).encode(), b"RUN")
        if path.suffix == ".json":
            return {n: v for n, v in json.loads(text).items() if n != "digest"}
        return text
    except Exception as error:
        return f"unreadable: {type(error).__name__}"


def asked(name: str, only: Sequence[str]) -> bool:
    """Whether a part of the name is asked for; without any, all are."""
    return not only or any(part in name for part in only)


def copied(base: Path, place: Path) -> Path:
    """A fresh copy of a run."""
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(base, place)
    return place


def built(folder: Path, commands: Iterable[Command] = BUILD) -> Path:
    """The run, made by these commands in this process."""
    import jax

    with jax.numpy_dtype_promotion("standard"):
        for command in commands:
            end, said = call(command, folder, limit=600)
            if end:
                raise SystemExit(f"{command.mode} does not work undamaged: {end}, {said[-2000:]}")
    return folder


@dataclasses.dataclass
class Tally:
    """Counts of outcomes by kind of fault, and notes on those that should not be.

    `written` is called after each trial: what ends this process leaves the trials before.
    """

    counts: dict[str, dict[str, int]] = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)
    written: Callable[["Tally"], None] = lambda _: None

    def add(self, kind: str, outcome: str, note: str = "") -> None:
        """Count a trial."""
        row = self.counts.setdefault(kind, dict.fromkeys(OUTCOMES, 0))
        row[outcome] += 1
        if outcome not in ("survived", "told"):
            self.notes.append(f"{kind}: {outcome}: {note}")
            print(f"  {self.notes[-1][:1500]}", flush=True)
        self.written(self)

    def join(self, counts: Mapping[str, Mapping[str, int]], notes: Iterable[str]) -> None:
        """Add what another process has counted."""
        for kind, found in counts.items():
            row = self.counts.setdefault(kind, dict.fromkeys(OUTCOMES, 0))
            for outcome, number in found.items():
                row[outcome] += number
        self.notes += notes
        self.written(self)

    def over(self, kind: str, trials: Iterable[Callable[[], tuple[str, str]]]) -> None:
        """Count the outcomes of trials, each (outcome, note)."""
        for trial in trials:
            self.add(kind, *trial())


def own_environment(cache: Path, devices: int = 1) -> dict[str, str]:
    """Of a child: quick to compile, and nothing of the caller's flags for devices."""
    flags = os.environ.get("FAULT_XLA_FLAGS", QUICK)
    if devices > 1:
        flags += f" --xla_force_host_platform_device_count={devices} {IN_ORDER}"
    more = {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    more |= {"JAX_COMPILATION_CACHE_DIR": str(cache), "MPLBACKEND": "agg"}
    more |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    return os.environ | more | {"JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1"}


IN_ORDER = "--xla_cpu_enable_concurrency_optimized_scheduler=false"
"""Collectives one after another: devices that share few threads could wait for ever."""
QUICK = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
"""Compiles in a third of the time (jaxlib 0.10)."""
