"""The command line, with a fault at a named moment: fault_child.py MOMENT FAULT ARGUMENTS.

FAULT: a signal (KILL, TERM, INT), "delete", which removes the run's folder, or "full", which takes
all room that is left on its disk.
"""

import contextlib
import functools
import importlib
import os
import shutil
import signal
import sys
from pathlib import Path

MOMENTS = {
    "step": ("score_sde.training.loop", "Loop", "_advance", 2),
    "held-out evaluation": ("score_sde.parallel.heldout", "HeldoutLoss", "__call__", 1),
    "saving": ("score_sde.training.checkpoint", "Checkpoints", "_sign", 1),
    "sampling": ("score_sde.parallel.samples", "Generator", "_draw", 2),
    "likelihood": ("score_sde.workdir.rows", "Pieces", "write", 2),
    "encode": ("score_sde.workdir.store", "RowStore", "write", 2),
    "eval": ("score_sde.workdir.store", "SampleStore", "write", 2),
}
"""Moment -> module, class, method, and before which of its calls."""
COMPILED = "/jax/compilation_cache/compile_requests_use_cache"


def act(fault: str) -> None:
    """What is to happen now."""
    run = Path(sys.argv[sys.argv.index("--workdir") + 1])
    if fault == "delete":
        shutil.rmtree(run)
    elif fault == "full":
        with contextlib.suppress(OSError), (run.parent / "filler").open("wb", buffering=0) as file:
            while file.write(bytes(2**12)):
                pass
    else:
        os.kill(os.getpid(), getattr(signal, f"SIG{fault}"))


def arm(moment: str, fault: str) -> None:
    """Make it happen, once; of several processes in the one that FAULT_PROCESS names."""
    if os.environ.get("FAULT_PROCESS", "0") != os.environ.get("JAX_PROCESS_ID", "0"):
        return
    if moment == "compile":
        import jax

        seen = []

        def listen(event: str, **_) -> None:
            if event == COMPILED:
                seen.append(event)
                if len(seen) == 3:
                    act(fault)

        jax.monitoring.register_event_listener(listen)
        return
    module, owner, name, count = MOMENTS[moment]
    kind = getattr(importlib.import_module(module), owner)
    method, calls = getattr(kind, name), []

    @functools.wraps(method)
    def wrapped(*arguments, **options):
        calls.append(None)
        if len(calls) == count:
            act(fault)
        return method(*arguments, **options)

    setattr(kind, name, wrapped)


if __name__ == "__main__":
    _moment, _fault = sys.argv[1:3]
    del sys.argv[1:3]
    # As in a terminal: of what was started in the background SIGINT is ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    from score_sde import cli

    if _moment != "none":
        arm(_moment, _fault)
    cli.main()
