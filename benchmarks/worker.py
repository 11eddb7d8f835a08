"""One side of a comparison: a process that does a named piece of work when it is asked to.

Used by `compare.py`. It imports neither jax nor torch, so each side runs in a Python of its own.
The parent writes a name on a line, and the process answers with one line of JSON:

    {"seconds": s, "count": n}   the work took s seconds and did n evaluations
    {"bytes": b}                 the most resident memory so far, of the name "memory"
    {"error": text}              the work failed
"""

import json
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

Work = Callable[[], int]
"""Does the work, waits until it is done, and returns how many evaluations it made."""


def serve(facts: dict[str, Any], works: dict[str, Work]) -> None:
    """Say the facts, then do what each line of standard input asks for, until it ends."""
    answer = sys.stdout
    sys.stdout = sys.stderr  # what libraries print does not disturb the answers
    _say(answer, facts)
    for line in sys.stdin:
        name = line.strip()
        if name == "memory":
            _say(answer, {"bytes": _peak()})
            continue
        start = time.perf_counter()
        try:
            count = works[name]()
        except Exception as error:
            _say(answer, {"error": f"{type(error).__name__}: {error}"})
            continue
        _say(answer, {"seconds": time.perf_counter() - start, "count": count})


def _peak() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _say(stream, values: dict[str, Any]) -> None:
    stream.write(json.dumps(values) + "\n")
    stream.flush()
