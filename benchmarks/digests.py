"""What the digests of a checkpoint cost: saving and reading with and without them, in turns.

    python benchmarks/digests.py [--weights 60] [--turns 7] [--drop_caches]

Seconds on the clock, and of processor time of all threads. A sum over as many bytes in memory is
what any checksum takes at least that does not see them while Orbax does.
"""

import argparse
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import jax
import jax.numpy as jnp
import numpy as np

from score_sde.training import checkpoint
from score_sde.training.state import TrainState

DIGESTS = checkpoint.write_digests, checkpoint.damaged_file
checkpoint.say = lambda text: None  # of checkpoints without digests


def state(millions: int) -> TrainState:
    """Weights, an average and the two moments of Adam, as arrays of a million numbers."""
    rng = np.random.default_rng(0)

    def weights(scale: float) -> list[jax.Array]:
        shape = (1000, 1000)
        return [jnp.asarray(scale * rng.normal(size=shape), "float32") for _ in range(millions)]

    second = [value**2 for value in weights(1e-4)]
    return TrainState(jnp.asarray(1), weights(0.05), (weights(0.05),), (weights(1e-3), second))


def timed(work: Callable[[], Any]) -> tuple[float, float]:
    """(seconds on the clock, seconds of processors)."""

    def processors() -> float:
        used = resource.getrusage(resource.RUSAGE_SELF)
        return used.ru_utime + used.ru_stime

    clock, before = time.perf_counter(), processors()
    work()
    return time.perf_counter() - clock, processors() - before


def measure(saved: TrainState, digests: bool, drop_caches: bool) -> tuple[float, ...]:
    """Seconds of saving on clock and processors, and of reading."""
    write, find = DIGESTS if digests else (lambda folder: None, lambda *_, **__: None)
    checkpoint.write_digests, checkpoint.damaged_file = write, find
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = checkpoint.Checkpoints(Path(folder))

        def save() -> None:
            checkpoints.save(saved, {})
            checkpoints.wait()

        saving = timed(save)
        if drop_caches:  # the next reading comes from the disk
            os.sync()
            Path("/proc/sys/vm/drop_caches").write_text("3")
        reading = timed(lambda: checkpoints.restore(saved))
        checkpoints.close()
    return *saving, *reading


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=int, default=60, help="millions")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--drop_caches", action="store_true", help="read from the disk; as root")
    given = parser.parse_args()
    saved, found = state(given.weights), {True: [], False: []}
    for turn in range(given.turns + 1):
        for digests in (True, False) if turn % 2 else (False, True):
            row = measure(saved, digests, given.drop_caches)
            if turn:  # the first one fills pools of memory
                found[digests].append(row)
    columns = "saving, clock", "saving, processors", "reading, clock", "reading, processors"
    rows = (np.asarray(found[digests]).T for digests in (True, False))
    for name, with_them, without in zip(columns, *rows, strict=True):
        texts = []
        for word, best in (("median", np.median), ("fastest", np.min)):
            more = best(with_them) / best(without) - 1
            texts.append(f"{word} {best(with_them):.2f} s, {best(without):.2f} s ({more:+.1%})")
        print(f"{name:<20} with and without: {'; '.join(texts)}")
    words = np.zeros(given.weights * 4 * 4 * 10**6 // 8, np.uint64)
    words += 1
    sums = [timed(lambda: words.reshape(-1, 500).sum(axis=1)) for _ in range(given.turns)]
    print(f"sums of as many bytes in memory: {np.median(sums, axis=0)[1]:.2f} s of a processor")


if __name__ == "__main__":
    main()
