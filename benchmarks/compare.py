"""A peer and this library in turn: ratios of times for the same network on the same machine.

    python benchmarks/compare.py --peer DIR [--peer_python FILE] [--cases digits,small,cifar10]

DIR is a checkout of https://github.com/yang-song/score_sde_pytorch, and FILE a Python that has
torch. Both sides are processes that wait until they are asked, so one alone works at a time. What
each number means: README.md.
"""

import json
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import common
import numpy as np
from absl import app, flags

FLAGS = flags.FLAGS
flags.DEFINE_string("peer", None, "Checkout of score_sde_pytorch; without it ours alone.")
flags.DEFINE_string("peer_python", sys.executable, "A Python that has torch.")
flags.DEFINE_list("cases", ["digits", "small", "cifar10"], "Networks to compare.")
flags.DEFINE_list("works", ["step", "forward"], "Of step, forward, sample, likelihood, first.")
flags.DEFINE_integer("turns", 9, "Turns; medians are printed.", lower_bound=1)

HERE = Path(__file__).resolve().parent
DIGITS = {
    "data.image_size": 8,
    "data.num_channels": 1,
    "model.nf": 32,
    "model.ch_mult": [1, 2],
    "model.num_res_blocks": 1,
    "model.attn_resolutions": [4],
    "training.batch_size": 64,
}
SMALL = {"model.nf": 32, "model.num_res_blocks": 2}

CASES: dict[str, dict[str, Any]] = {
    "digits": {
        "batch": 64,
        "ours": ("vp/ddpmpp_cont:digits", []),
        "peer": ("configs.vp.cifar10_ddpmpp_continuous", DIGITS),
    },
    "small": {
        "batch": 16,
        "ours": ("ve/ncsnpp_cont", [[name, str(value)] for name, value in SMALL.items()]),
        "peer": ("configs.ve.cifar10_ncsnpp_continuous", SMALL),
    },
    "cifar10": {
        "batch": 4,
        "ours": ("ve/ncsnpp_cont", []),
        "peer": ("configs.ve.cifar10_ncsnpp_continuous", {}),
    },
}


class Side:
    """A process of one side. `facts` are what it says of itself."""

    def __init__(self, command: list[str]):
        self.born = time.perf_counter()
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
        self.facts = self._answer()

    def ask(self, work: str) -> dict[str, Any]:
        """Do the work once."""
        assert self.process.stdin
        self.process.stdin.write(work + "\n")
        self.process.stdin.flush()
        answer = self._answer()
        if "error" in answer:
            raise SystemExit(f"error: {work} failed: {answer['error']}")
        return answer

    def seconds(self, work: str) -> float:
        """Seconds for each evaluation of the work."""
        answer = self.ask(work)
        return answer["seconds"] / answer["count"]

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"error: a side ended (exit {self.process.wait()}); see above")
        return json.loads(line)


def commands(case: str, cache: str = "") -> dict[str, list[str]]:
    """How the sides are started, ours and, where there is one, the peer."""
    found = CASES[case]
    config, change = found["ours"]
    ours = {"config": config, "change": change, "batch": found["batch"], "cache": cache}
    sides = {"ours": [sys.executable, str(HERE / "compare_ours.py"), json.dumps(ours)]}
    if FLAGS.peer:
        config, change = found["peer"]
        peer = {"config": config, "change": change, "batch": found["batch"]}
        script = str(HERE / "compare_peer.py")
        sides["peer"] = [FLAGS.peer_python, script, FLAGS.peer, json.dumps(peer)]
    return sides


def measure(case: str) -> dict[str, Any]:
    """Prints the rows of one case, and returns its values."""
    values: dict[str, Any] = {"case": case, "batch": CASES[case]["batch"]}
    sides = {name: Side(command) for name, command in commands(case).items()}
    values["facts"] = {name: side.facts for name, side in sides.items()}
    counts = {side.facts["parameters"] for side in sides.values()}
    print(f"{case}, batch {values['batch']}: {values['facts']}")
    if len(counts) > 1:
        raise SystemExit(f"error: the sides have networks of different sizes: {counts}")
    for work in FLAGS.works:
        if work == "first":
            continue
        clocks = {name: partial(side.seconds, work) for name, side in sides.items()}
        common.in_turns(clocks, 2)  # compiles, and warms up
        values[work] = _report(work, common.in_turns(clocks, FLAGS.turns))
    values["bytes"] = {name: side.ask("memory")["bytes"] for name, side in sides.items()}
    print("  memory    ", {name: common.mebibytes(b) for name, b in values["bytes"].items()})
    for side in sides.values():
        side.close()
    if "first" in FLAGS.works:
        values["first"] = first(case)
    return values


def _report(work: str, seconds: dict[str, np.ndarray]) -> dict[str, Any]:
    values: dict[str, Any] = {name: float(np.median(s)) for name, s in seconds.items()}
    text = ", ".join(f"{name} {1e3 * s:.1f} ms" for name, s in values.items())
    if "peer" in seconds:
        values["ratio"] = common.ratio(seconds["ours"], seconds["peer"])
        ratio = values["ratio"]
        text += f", ours/peer {ratio['median']:.2f} (fastest {ratio['fastest']:.2f}, turns "
        text += f"{ratio['lowest']:.2f} .. {ratio['highest']:.2f})"
    print(f"  {work:<11}{text}", flush=True)
    return values


def first(case: str) -> dict[str, float]:
    """Seconds from starting a process to the end of its first training step."""
    values = {}
    with tempfile.TemporaryDirectory() as cache:
        sides = commands(case, cache)
        order = {"ours, cold": sides["ours"], "ours, warm": sides["ours"]}
        if "peer" in sides:
            order["peer"] = sides["peer"]
        for name, command in order.items():
            side = Side(command)
            side.ask("step")
            values[name] = time.perf_counter() - side.born
            side.close()
    text = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in values.items())
    print(f"  first step {text}", flush=True)
    return values


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments {argv[1:]}")
    print(json.dumps([measure(case) for case in FLAGS.cases]))


if __name__ == "__main__":
    app.run(main)
