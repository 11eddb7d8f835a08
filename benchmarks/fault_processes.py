"""Faults of processes: kills, signals, full and read-only disks, double starts, devices, peers.

Each trial starts the command line as a process of its own. A process that a fault has ended is
judged by its exit code and message, and by the same command given once more without a fault.
"""

import contextlib
import dataclasses
import functools
import itertools
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import faults
import numpy as np
from faults import Command, Tally

CHILD = Path(__file__).resolve().parent / "fault_child.py"
LIMIT = 150
"""Seconds after which a process counts as hanging."""
KILLED = -signal.SIGKILL

LONG = dataclasses.replace(
    faults.ON,
    values={"training.steps": 8},
    results=("metrics.jsonl", "checkpoints/8", "snapshots/*"),
)
DRAW = dataclasses.replace(faults.SAMPLE, values={"sampling.batch_size": 2})
BITS = dataclasses.replace(faults.LIKELIHOOD, values={"eval.batch_size": 2})
COMMANDS = {
    "compile": LONG,
    "step": LONG,
    "held-out evaluation": LONG,
    "saving": LONG,
    "sampling": DRAW,
    "likelihood": BITS,
    "encode": faults.ENCODE,
    "eval": dataclasses.replace(
        faults.QUALITY, values=faults.QUALITY.values | {"sampling.batch_size": 8}
    ),
}
"""Moment -> the command in which it comes."""
MADE = ("samples", "eval", "flow")
"""Folders that signals and double starts begin without."""
WRITING = {
    "train": LONG,
    "sample": faults.SAMPLE,
    "eval": faults.QUALITY,
    "likelihood": faults.LIKELIHOOD,
    "encode": faults.ENCODE,
    "reconstruct": faults.RECONSTRUCT,
    "train_second_order": Command(
        "train_second_order", {}, {"second_order.steps": 4}, ("second_order/metrics.jsonl",)
    ),
    "summarize": faults.SUMMARIZE,
    "report": faults.REPORT,
    "export": faults.EXPORT,
}
"""Modes that write, and what they write."""


@dataclasses.dataclass(eq=False)
class Processes:
    """The faults of processes.

    base: the run without damage. place: a folder for copies. cache: of compiled programs.
    """

    base: Path
    place: Path
    cache: Path
    workers: int = 2
    _wanted: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    _one: Any = dataclasses.field(default_factory=threading.Lock)

    def start(
        self,
        command: Command,
        run: Path,
        fault: tuple[str, str] = ("none", ""),
        devices: int = 1,
        **more: str,
    ) -> subprocess.Popen:
        """The command as a process."""
        words = [sys.executable, str(CHILD), *fault, *command.arguments(run)]
        if more:
            words.append("--distributed")
        environment = faults.own_environment(self.cache, devices) | more
        return subprocess.Popen(
            words, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    def ended(self, process: subprocess.Popen) -> tuple[int | None, str]:
        """(exit code, None where it hangs; what it said)."""
        try:
            said = process.communicate(timeout=LIMIT)[0]
        except subprocess.TimeoutExpired:
            process.kill()
            return None, process.communicate()[0]
        return process.returncode, said

    def go(self, command: Command, run: Path, fault=("none", ""), devices: int = 1, **more: str):
        """`start`, then `ended`."""
        return self.ended(self.start(command, run, fault, devices, **more))

    def fresh(self, name: str, without: Sequence[str] = ()) -> Path:
        """A copy of the run without some of its folders."""
        run = faults.copied(self.base, self.place / re.sub("[^a-z0-9_]", "_", name.lower()) / "run")
        for folder in without:
            shutil.rmtree(run / folder, ignore_errors=True)
        return run

    def wanted(self, command: Command, without: Sequence[str]) -> dict[str, Any]:
        """What the command makes without a fault."""
        with self._one:
            name = f"{command} {without}"
            if name not in self._wanted:
                run = self.fresh("wanted", without)
                code, said = self.go(command, run)
                if code:
                    raise SystemExit(f"{command.mode} fails undamaged: {code}, {said[-2000:]}")
                self._wanted[name] = faults.results(command, run)
            return self._wanted[name]

    def judged(
        self, command: Command, run: Path, wanted: dict[str, Any], ends: Sequence[tuple]
    ) -> tuple[str, str]:
        """The outcome: of processes that ended before, and of the command given now."""
        code, said = self.go(command, run)
        note = "\n".join(f"{code}: {said[-900:]}" for code, said in (*ends, (code, said)))
        if any(code is None for code, _ in (*ends, (code, said))):
            return "hang", note
        if any(traced(said) for _, said in (*ends, (code, said))):
            return "traceback", note
        found = faults.results(command, run)
        if not code:
            outcome = faults.judged("", said, found, wanted)
            other = [n for n in wanted.keys() | found.keys() if wanted.get(n) != found.get(n)]
            return outcome, f"differ {other[:4]}: {note}"
        return ("told" if "error:" in said else "silent"), note


def traced(said: str) -> bool:
    """Whether a user saw a traceback, or a dump of the runtime without a word of ours after it."""
    dump = said.rfind("*** Check failure")
    return (
        "Traceback (most recent" in said
        or "Fatal Python" in said
        or said.find("error:", dump) < 0 <= dump
    )


Trial = Callable[[], tuple[str, str]]


def signals(all_of: Processes) -> Iterator[tuple[str, Trial]]:
    """kill -9, SIGTERM and SIGINT at every named moment."""
    for moment, command in COMMANDS.items():
        without = () if command is LONG else MADE
        for name in ("KILL", "TERM", "INT"):

            def trial(moment=moment, command=command, name=name, without=without):
                run = all_of.fresh(f"{moment} {name}", without)
                number = getattr(signal, f"SIG{name}")
                code, said = all_of.go(command, run, (moment, name))
                wanted = all_of.wanted(command, without)
                # A signal that comes after the last step finds the work done.
                done = code == 0 and faults.results(command, run) == wanted
                outcome, note = all_of.judged(command, run, wanted, [(code, said)])
                right = (-number,) if name == "KILL" else (128 + number,)
                if outcome == "survived" and code not in right and not done:
                    return "silent", f"{moment}, {name}: exit code {code}: {note}"
                return outcome, f"{moment}, {name}: {note}"

            yield ("kill -9 at named moments" if name == "KILL" else f"SIG{name}"), trial


def random_kills(all_of: Processes, count: int) -> Iterator[tuple[str, Trial]]:
    """kill -9 after a random time."""
    random = np.random.default_rng(0)
    chosen = [("step", LONG, ()), ("likelihood", BITS, MADE), ("encode", faults.ENCODE, MADE)]
    for number in range(count):
        moment, command, without = chosen[number % len(chosen)]
        part = float(random.uniform(0.3, 1))

        def trial(number=number, moment=moment, command=command, without=without, part=part):
            wanted = all_of.wanted(command, without)
            run = all_of.fresh(f"random {number}", without)
            begun = time.monotonic()
            process = all_of.start(command, all_of.fresh(f"timed {number}", without))
            all_of.ended(process)
            whole = time.monotonic() - begun
            process = all_of.start(command, run)
            time.sleep(part * whole)
            process.kill()
            return all_of.judged(command, run, wanted, [(KILLED, process.communicate()[0])])

        yield "kill -9 at random", trial


@contextlib.contextmanager
def disk(folder: Path, size: str) -> Iterator[Path]:
    """A disk of its own for a run."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def may_mount(place: Path) -> bool:
    """Whether this user can make disks."""
    try:
        with disk(place / "tried", "1m"):
            return True
    except (subprocess.CalledProcessError, OSError):
        return False


FULL = {
    "training": ("saving", LONG),
    "sampling": ("sampling", DRAW),
    "likelihood": ("likelihood", BITS),
    "encode": ("encode", faults.ENCODE),
    "eval": ("eval", COMMANDS["eval"]),
}


def full_disks(all_of: Processes) -> Iterator[tuple[str, Trial]]:
    """No room from the start, and none from a named moment on."""
    for name, command in WRITING.items():
        yield "disk full before", functools.partial(_full, all_of, name, command, ("none", ""))
    for name, (moment, command) in FULL.items():
        yield (
            "disk full while running",
            functools.partial(_full, all_of, name, command, (moment, "full")),
        )


def _full(all_of: Processes, name: str, command: Command, fault: tuple[str, str]):
    without = () if command is LONG or name in ("summarize", "report") else MADE
    wanted = all_of.wanted(command, without)
    place = all_of.place / f"disk_{name}_{fault[0]}".replace(" ", "_")
    with disk(place, "32m"):
        run = faults.copied(all_of.base, place / "run")
        for folder in without:
            shutil.rmtree(run / folder, ignore_errors=True)
        if fault[0] == "none":
            with contextlib.suppress(OSError), (place / "filler").open("wb", buffering=0) as file:
                while file.write(bytes(2**12)):
                    pass
        code, said = all_of.go(command, run, fault)
        (place / "filler").unlink()
        outcome, note = all_of.judged(command, run, wanted, [(code, said)])
    if outcome == "survived" and not (code and "error:" in said):
        outcome = "silent"
    return outcome, f"{name}: {note}"


def read_only(all_of: Processes) -> Iterator[tuple[str, Trial]]:
    """A folder that nothing can be written to."""

    def trial(name: str, command: Command):
        place = all_of.place / f"only_{name}"
        with disk(place, "32m"):
            run = faults.copied(all_of.base, place / "run")
            for folder in () if name in ("summarize", "report") else MADE:
                shutil.rmtree(run / folder, ignore_errors=True)
            subprocess.run(["mount", "-o", "remount,ro", place], check=True)
            code, said = all_of.go(command, run)
        if code is None or traced(said):
            return ("hang" if code is None else "traceback"), f"{name}: {said[-900:]}"
        told = code == 1 and "error:" in said
        return ("told" if told else "silent"), f"{name}: {code}: {said[-900:]}"

    for name, command in WRITING.items():
        yield "read-only folder", functools.partial(trial, name, command)


def deleted(all_of: Processes) -> Iterator[tuple[str, Trial]]:
    """The run's folder removed while a command works in it."""

    def trial(moment: str, command: Command):
        without = () if command is LONG else MADE
        run, wanted = all_of.fresh(f"deleted {moment}", without), all_of.wanted(command, without)
        code, said = all_of.go(command, run, (moment, "delete"))
        note = f"{moment}: {code}: {said[-900:]}"
        if code is None or traced(said):
            return ("hang" if code is None else "traceback"), note
        if code:
            return ("told" if "error:" in said else "silent"), note
        # what the command makes may be there nevertheless
        return ("survived" if faults.results(command, run) == wanted else "silent"), note

    for moment, command in COMMANDS.items():
        yield "folder deleted while running", functools.partial(trial, moment, command)


def double_starts(all_of: Processes) -> Iterator[tuple[str, Trial]]:
    """Every writing mode twice at once in one folder."""

    def trial(name: str, command: Command):
        without = () if name in ("train", "summarize", "report") else MADE
        run, wanted = all_of.fresh(f"double {name}", without), all_of.wanted(command, without)
        both = [all_of.start(command, run) for _ in range(2)]
        ends = [all_of.ended(process) for process in both]
        note = "\n".join(f"{code}: {said[-600:]}" for code, said in ends)
        if any(code is None for code, _ in ends):
            return "hang", f"{name}: {note}"
        if any(traced(said) for _, said in ends):
            return "traceback", f"{name}: {note}"
        refused = [code for code, said in ends if code == 1 and "is being written to by" in said]
        good = faults.results(command, run) == wanted
        if name == "export":
            refused += [code for code, said in ends if code == 1 and "exists already" in said]
        if good and len(refused) == 1:
            return "told", name
        # two whole calls, one after the other, leave the results of one
        return ("survived" if good and not any(code for code, _ in ends) else "silent"), note

    for name, command in WRITING.items():
        yield "double starts", functools.partial(trial, name, command)


def devices(all_of: Processes) -> Iterator[tuple[str, Trial]]:
    """A run that goes on with other numbers of devices: equal but for rounding."""

    def values(run: Path) -> np.ndarray:
        lines = (run / "metrics.jsonl").read_text().splitlines()
        return np.asarray([v for line in lines for k, v in json.loads(line).items() if k != "step"])

    def trial(order: Sequence[int]):
        single = all_of.fresh(f"one {order}")
        run, ends = all_of.fresh(f"devices {order}"), []
        for number, count in enumerate(order):
            steps = {"training.steps": 6 + 2 * number}
            command = dataclasses.replace(LONG, values=steps)
            ends += [all_of.go(command, run, devices=count), all_of.go(command, single)]
        note = "\n".join(f"{code}: {said[-600:]}" for code, said in ends)
        if any(code is None for code, _ in ends):
            return "hang", note
        if any(traced(said) for _, said in ends):
            return "traceback", note
        if any(code for code, _ in ends):
            return "told", note
        found, expected = values(run), values(single)
        same = found.shape == expected.shape and np.allclose(found, expected, rtol=1e-5)
        return ("survived" if same else "silent"), f"{found} {expected}"

    for order in ((8, 1, 4), (1, 8, 2), (4, 8, 1), (2, 1, 8)):
        yield "device changes", functools.partial(trial, order)


PEERS = {
    "killed at a step": ("step", "KILL"),
    "killed while saving": ("saving", "KILL"),
    "SIGTERM at a step": ("step", "TERM"),
    "killed in held-out evaluation": ("held-out evaluation", "KILL"),
}


def peers(all_of: Processes) -> Iterator[tuple[str, Trial]]:
    """Two processes of one training, one of which dies; one of which has no room."""

    def trial(name: str, fault: tuple[str, str], victim: int, place: Path | None = None):
        run = all_of.fresh(f"peers {name} {victim}")
        wanted = all_of.wanted(LONG, ())
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        more = {"JAX_COORDINATOR_ADDRESS": f"localhost:{port}", "JAX_NUM_PROCESSES": "2"}
        both = [
            all_of.start(
                LONG, run, fault, 1, JAX_PROCESS_ID=str(i), FAULT_PROCESS=str(victim), **more
            )
            for i in range(2)
        ]
        ends = [all_of.ended(process) for process in both]
        outcome, note = all_of.judged(LONG, run, wanted, ends)
        other = ends[1 - victim]
        if outcome == "silent" and close(run, wanted):
            outcome = "survived"
        if outcome == "survived" and not other[0]:
            outcome = "silent"
        return outcome, f"{name}, process {victim}: {note}"

    def close(run: Path, wanted: dict[str, Any]) -> bool:
        """Two devices round otherwise than one."""
        parts = [
            text.decode().splitlines()
            for text in ((run / "metrics.jsonl").read_bytes(), wanted["metrics.jsonl"])
        ]
        rows = [[v for line in part for v in json.loads(line).values()] for part in parts]
        return len(rows[0]) == len(rows[1]) and np.allclose(*rows, rtol=1e-5)

    for name, fault in PEERS.items():
        for victim in (0, 1) if fault[0] != "saving" else (0,):
            yield "peer death", functools.partial(trial, name, fault, victim)


def run(all_of: Processes, tally: Tally, kills: int, only: Sequence[str]) -> None:
    """All of them, some at a time."""
    kinds: list[Iterator[tuple[str, Trial]]]
    kinds = [signals(all_of), random_kills(all_of, kills), deleted(all_of), double_starts(all_of)]
    kinds += [devices(all_of), peers(all_of)]
    if may_mount(all_of.place):
        kinds += [full_disks(all_of), read_only(all_of)]
    else:
        print("disks full and read-only are left out: this user may not mount one")
    in_turn = itertools.chain.from_iterable(itertools.zip_longest(*kinds))
    trials = [found for found in in_turn if found and faults.asked(found[0], only)]
    with ThreadPoolExecutor(all_of.workers) as pool:
        done = [(kind, pool.submit(trial)) for kind, trial in trials]
        try:
            for kind, waiting in done:
                tally.add(kind, *waiting.result())
        finally:
            pool.shutdown(cancel_futures=True)
