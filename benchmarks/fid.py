"""Quality numbers end to end.

    python benchmarks/fid.py --data DIR

DIR is the folder with TFDS's prepared mnist. MNIST images in npz files are measured by --mode fid
with the MNIST classifier, each time in a process of its own. First 10,000 on first use, which
trains the classifier and compiles; then 10,000 again; then 40,000. Goal: 10,000 in less than 180
s.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from score_sde.data import TFDSSource, in_memory

REPOSITORY = Path(__file__).resolve().parent.parent
GOAL = 180
RUNS = {"first use": 10_000, "again": 10_000, "four times as many": 40_000}


def measured(count: int, folder: Path, data: Path, metrics: str) -> dict[str, float]:
    """Seconds, peak memory and Frechet distance of one run of the command line.

    Its home folder is `folder`.
    """
    command = [
        sys.executable,
        "main.py",
        "--mode",
        "fid",
        "--extractor",
        "mnist",
        "--metrics",
        metrics,
    ]
    command += ["--a", str(folder / f"{count}.npz"), "--b", str(folder / "test.npz")]
    environment = os.environ | {"HOME": str(folder), "TFDS_DATA_DIR": str(data)}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    with (folder / "out").open("w+") as out, (folder / "err").open("w") as err:
        start = time.perf_counter()
        process = subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=out, stderr=err)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        out.seek(0)
        text = out.read()
    if status:
        sys.exit((folder / "err").read_text())
    row = next(line for line in text.splitlines() if line.startswith("fid "))
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "images": count,
        "seconds": seconds,
        "peak_bytes": usage.ru_maxrss * unit,
        "fid": float(row.split()[1]),
    }


def main() -> None:
    """Print a table and the same as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, required=True, help="folder of prepared TFDS data sets"
    )
    parser.add_argument(
        "--metrics", default="fid", help="as of --mode fid; all but is and fid keep features"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        train, test = (
            in_memory(TFDSSource("mnist", split, arguments.data)).images
            for split in ("train", "test")
        )
        np.savez(folder / "test.npz", images=test)
        for count in set(RUNS.values()):
            np.savez(folder / f"{count}.npz", images=train[:count])
        found = {
            run: measured(count, folder, arguments.data.absolute(), arguments.metrics)
            for run, count in RUNS.items()
        }
    print(f"{'':20}{'images':>8}{'seconds':>10}{'peak memory':>14}{'fid':>10}")
    for run, row in found.items():
        memory = f"{row['peak_bytes'] / 2**20:,.0f} MiB"
        print(f"{run:20}{row['images']:>8,}{row['seconds']:>10.1f}{memory:>14}{row['fid']:>10.4f}")
    reached = found["first use"]["seconds"] < GOAL
    said = "reached" if reached else "MISSED"
    print(f"against the {len(test):,} test images; goal {GOAL} s on first use {said}")
    where = {
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "metrics": arguments.metrics,
    }
    print(json.dumps(found | where))


if __name__ == "__main__":
    main()
