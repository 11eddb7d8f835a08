"""Faults of files: flipped bits in every kind of file a run has, and small files that are damaged.

Each trial damages a copy of the run and gives the command that believes the file. A flip that a
command does not believe leaves the results bit for bit.
"""

import dataclasses
import functools
import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import faults
import jax
import numpy as np
from faults import Command, Tally

CHECKPOINT = "checkpoints/4/**/*"
ARRAYS = ("/d/", "ocdbt")
"""Parts of names of a checkpoint's files that hold arrays."""


@dataclasses.dataclass(frozen=True)
class Target:
    """A kind of file, and who believes it.

    files: patterns below the run. reader: the command that believes them. first: commands that go
    before, on a run without damage. arrays: of a checkpoint, whether its arrays or all others.
    """

    name: str
    files: Sequence[str]
    reader: Command
    first: Sequence[Command] = ()
    arrays: bool | None = None

    def paths(self, run: Path) -> list[Path]:
        """The files, in order."""
        found = sorted(p for pattern in self.files for p in run.glob(pattern) if p.is_file())
        if self.arrays is None:
            return found
        names = {p: p.relative_to(run).as_posix() for p in found}
        return [p for p in found if any(part in names[p] for part in ARRAYS) == self.arrays]


SELECT = Command("select", {}, {}, ("eval/selection.json",))
TARGETS = (
    Target("checkpoint, arrays", [CHECKPOINT], faults.SAMPLE, arrays=True),
    Target("checkpoint, metadata", [CHECKPOINT], faults.SAMPLE, arrays=False),
    Target("checkpoint, gone on from", [CHECKPOINT], faults.ON),
    Target("snapshots", ["snapshots/*.npz"], faults.POSTHOC),
    Target("metrics.jsonl", ["metrics.jsonl"], faults.ON),
    Target("metrics.jsonl, report", ["metrics.jsonl"], faults.REPORT),
    Target("config.json", ["config.json"], faults.SAMPLE),
    Target("Parquet rows", ["eval/likelihood_*/*.parquet"], faults.SUMMARIZE),
    Target("settings.json of rows", ["eval/likelihood_*/settings.json"], faults.SUMMARIZE),
    Target("settings.json, gone on", ["eval/likelihood_*/settings.json"], faults.LIKELIHOOD),
    Target("eval JSON, report", ["eval/step_*.json", "eval/levels_*.json"], faults.REPORT),
    Target("eval JSON, list", ["eval/step_*.json"], faults.LIST),
    Target("selection.json", ["eval/selection.json"], faults.BEST, [SELECT]),
    Target("samples.npz", ["samples/step_4/samples.npz"], faults.REPORT),
    Target("sampling.json", ["samples/step_4/sampling.json"], faults.REPORT),
    Target("kept samples", ["eval/samples/*/*/*"], faults.QUALITY),
    Target("reference statistics", ["eval/reference_*.npz"], faults.QUALITY),
    Target("latents", ["flow/encode_step_4/latents.npz"], faults.DECODE),
    Target("measurements", ["measured/measurements.npz"], faults.MEASURED),
    Target("reconstruction, its rows", ["samples/*/unfinished_*/*"], faults.RECONSTRUCT),
    Target(
        "reconstruction, finished",
        [f"samples/reconstruct_step_4/{name}" for name in ("*.npz", "*.json", "*.parquet")],
        faults.RECONSTRUCT,
    ),
    Target("classifier", ["classifier/checkpoints/**/*"], faults.CLASSES),
    Target("dequantizer", ["dequantizer/checkpoints/**/*"], faults.FLOW),
    Target("second order", ["second_order/checkpoints/**/*"], faults.OZAKI),
    Target("settings.json of the dequantizer", ["dequantizer/settings.json"], faults.FLOW),
    Target("settings.json of the second order", ["second_order/settings.json"], faults.OZAKI),
)
SMALL = (
    "metrics.jsonl, report",
    *("metrics.jsonl", "config.json", "settings.json of rows", "settings.json, gone on"),
    *("eval JSON, report", "eval JSON, list", "selection.json", "samples.npz", "sampling.json"),
    *("Parquet rows", "latents", "measurements", "reconstruction, finished"),
    *("settings.json of the dequantizer", "settings.json of the second order"),
)
"""Targets whose files are also damaged as a whole."""


def flipped(path: Path, random: np.random.Generator) -> str:
    """Flip a bit of a file; which."""
    data = bytearray(path.read_bytes())
    if not data:
        return "empty"
    place, bit = int(random.integers(len(data))), int(random.integers(8))
    data[place] ^= 1 << bit
    path.write_bytes(data)
    return f"bit {bit} of byte {place} of {len(data)}"


def whole_damages(path: Path, random: np.random.Generator) -> Iterator[tuple[str, bytes | None]]:
    """(name, content) of damaged versions of a file; None: a folder in its place."""
    data = path.read_bytes()
    yield "empty", b""
    yield "cut in half", data[: len(data) // 2]
    yield "zeros", bytes(len(data))
    yield "not UTF-8", b"\xff\xfe\x80" + data[3:]
    yield "nested 10^5 deep", b"[" * 100_000 + b"]" * 100_000
    yield "a list", b"[1, 2]\n"
    yield "a folder", None
    if path.suffix not in (".json", ".jsonl"):
        return
    for _ in range(3):  # as written by hand: without a digest
        lines = data.decode().splitlines() if path.suffix == ".jsonl" else [data.decode()]
        yield "wrong types", "\n".join(retyped(line, random) for line in lines).encode()


def retyped(text: str, random: np.random.Generator) -> str:
    """JSON with one value of another type."""
    found = json.loads(text)
    found.pop("digest", None)
    places: list[tuple[Any, Any]] = []

    def walk(value: Any) -> None:
        keys = value if isinstance(value, dict) else range(len(value))
        for key in keys:
            places.append((value, key))
            if isinstance(value[key], dict | list):
                walk(value[key])

    walk(found)
    where, key = places[random.integers(len(places))]
    number = type(where[key]) in (int, float)
    same = (int, float) if number else (type(where[key]),)
    others = [v for v in ([], {}, "x", 1e300, -1, None, True) if type(v) not in same]
    where[key] = others[random.integers(len(others))]
    return json.dumps(found)


@dataclasses.dataclass
class Files:
    """The faults of files.

    base: the run without damage. place: where a copy of it is damaged.
    """

    base: Path
    place: Path
    seed: int = 0

    def over(self, target: Target) -> tuple[Path, dict[str, Any]] | None:
        """(a run with the target's files, what its reader makes of it); None: nothing to damage."""
        start = faults.copied(self.base, self.place.with_name("ready"))
        if target.name == "reconstruction, its rows":
            shutil.rmtree(start / "samples" / "reconstruct_step_4")
            self._must(faults.HALF, start)
        for command in target.first:
            self._must(command, start)
        run = faults.copied(start, self.place)
        said = self._must(target.reader, run)
        return start, faults.results(target.reader, run, said)

    def _must(self, command: Command, run: Path) -> str:
        end, said = faults.call(command, run)
        if end:
            raise SystemExit(f"{command.mode} does not work undamaged: {end}, {said[-2000:]}")
        return said

    def trial(
        self, target: Target, start: Path, wanted: dict[str, Any], damage: Callable[[Path], str]
    ) -> tuple[str, str]:
        """(outcome, note) of a damaged copy of `start`."""
        run = faults.copied(start, self.place)
        what = damage(run)
        end, said = faults.call(target.reader, run)
        found = faults.results(target.reader, run, said)
        outcome = faults.judged(end, said, found, wanted)
        other = [
            name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name)
        ]
        return outcome, f"{target.name}: {what}: differ {sorted(other)[:4]}: {said[-700:]}"

    def faults(self, tally: Tally, target: Target, each: int) -> None:
        """`each` flips of a target; where it is a small one, its last file damaged as a whole."""
        start, wanted = self.over(target)
        random = np.random.default_rng([self.seed, sum(target.name.encode())])

        def flip(run: Path) -> str:
            paths = target.paths(run)
            path = paths[random.integers(len(paths))]
            return f"{path.relative_to(run)}, {flipped(path, random)}"

        for _ in range(each):
            tally.add(f"bit flips: {target.name}", *self.trial(target, start, wanted, flip))
        if target.name not in SMALL:
            return
        path = target.paths(start)[-1]
        name = path.relative_to(start)
        for kind, content in whole_damages(path, random):
            damage = functools.partial(replaced, name=name, content=content, kind=kind)
            outcome = self.trial(target, start, wanted, damage)
            tally.add(f"damaged small files: {kind}", *outcome)


def replaced(run: Path, name: Path, content: bytes | None, kind: str) -> str:
    """Give a file of a run another content, or make a folder of it; which."""
    (run / name).unlink()
    if content is None:
        (run / name).mkdir()
    else:
        (run / name).write_bytes(content)
    return f"{name}, {kind}"


def of_target(base: Path, folder: Path, each: int, name: str) -> tuple[dict, list[str]]:
    """(counts, notes) of the faults of one target, tried in this process."""
    tally = Tally()
    target = next(target for target in TARGETS if target.name == name)
    with jax.numpy_dtype_promotion("standard"):
        Files(base, folder / str(os.getpid()) / "run").faults(tally, target, each)
    return tally.counts, tally.notes


def run(
    base: Path, folder: Path, tally: Tally, each: int, only: Sequence[str], workers: int
) -> None:
    """All of them, target after target in each of `workers` processes."""
    names = [target.name for target in TARGETS if faults.asked(target.name, only)]
    work = functools.partial(of_target, base, folder, each)
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        for name, found in zip(names, pool.map(work, names), strict=True):
            print(f"files: {name}", flush=True)
            tally.join(*found)
