"""What becomes of a run when bits flip, files are damaged, disks fill and processes are killed.

    python benchmarks/reliability.py --output reliability

It makes a small run of the digits, and damages copies of it, or the processes that work on them.
Afterwards the same command is given. It prints a table of the kinds of faults, and writes it to
OUTPUT.md and OUTPUT.json. It took 15 minutes on two cores. Nothing should stand under silent,
tracebacks and hangs.

survived: the results are those without the fault, bit for bit. told: the command says what is
wrong, and ends with an exit code that is not 0 or goes on. silent: results are others, or work is
lost, and nothing says so.
"""

import json
import os
import platform
import shutil
import tempfile
import time
from pathlib import Path

import faults
from absl import app, flags, logging

FLAGS = flags.FLAGS
flags.DEFINE_string("output", "reliability", "Where the table is written, without an ending.")
flags.DEFINE_list("only", [], "Parts of the names of the kinds or files to try; default all.")
flags.DEFINE_string("run", "", "A run that an earlier call left; by default one is made.")
flags.DEFINE_string("keep", "", "Where to leave the run that is made.")
flags.DEFINE_list("parts", ["files", "processes"], "What to try.")
flags.DEFINE_integer("flips", 12, "Flipped bits of each kind of file.", lower_bound=0)
flags.DEFINE_integer("kills", 9, "kill -9 at random times.", lower_bound=0)
flags.DEFINE_integer("workers", 2, "Processes at a time.", lower_bound=1)
flags.DEFINE_string("cache", "", "Folder of compiled programs; by default a new one.")


def table(tally: faults.Tally) -> str:
    """The counts in Markdown."""
    heads = ("fault", "tried", *faults.OUTCOMES[:3], "tracebacks", "hangs")
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    total = [0] * len(faults.OUTCOMES)
    families = list(dict.fromkeys(kind.partition(":")[0] for kind in tally.counts))
    for kind in sorted(tally.counts, key=lambda kind: families.index(kind.partition(":")[0])):
        counts = tally.counts[kind]
        found = [counts[name] for name in faults.OUTCOMES]
        total = [a + b for a, b in zip(total, found, strict=True)]
        lines.append(f"| {' | '.join(map(str, (kind, sum(found), *found)))} |")
    lines.append(f"| {' | '.join(map(str, ('all', sum(total), *total)))} |")
    return "\n".join(lines) + "\n"


def main(argv: list[str]) -> None:
    """Make the run, try the faults, write the table."""
    begun = time.monotonic()

    def write(tally: faults.Tally) -> None:
        minutes = round((time.monotonic() - begun) / 60, 1)
        about = {"minutes": minutes, "flips": FLAGS.flips, "python": platform.python_version()}
        found = {"about": about, "counts": tally.counts, "notes": tally.notes}
        Path(f"{FLAGS.output}.json").write_text(json.dumps(found, indent=1) + "\n")
        Path(f"{FLAGS.output}.md").write_text(table(tally))

    tally = faults.Tally(written=write)
    # In memory where there is such a folder, since runs are copied again and again.
    memory = Path("/dev/shm")
    work = Path(tempfile.mkdtemp(prefix="reliability_", dir=memory if memory.is_dir() else None))
    cache = Path(FLAGS.cache or work / "cache").absolute()
    os.environ.update(faults.own_environment(cache))
    logging.set_verbosity(logging.FATAL)  # Orbax tells a great deal
    import fault_files  # both import jax
    import fault_processes

    try:
        base = Path(FLAGS.run) if FLAGS.run else faults.built(work / "base" / "run")
        if FLAGS.keep:
            shutil.copytree(base, FLAGS.keep)
        print(f"a run of {sum(p.is_file() for p in base.rglob('*'))} files", flush=True)
        if "files" in FLAGS.parts:
            each, only = FLAGS.flips, FLAGS.only
            fault_files.run(base, work / "damaged", tally, each, only, FLAGS.workers)
        if "processes" in FLAGS.parts:
            processes = fault_processes.Processes(base, work, cache, FLAGS.workers)
            fault_processes.run(processes, tally, FLAGS.kills, FLAGS.only)
    finally:
        shutil.rmtree(work, ignore_errors=True)
        print(table(tally))


if __name__ == "__main__":
    app.run(main)
