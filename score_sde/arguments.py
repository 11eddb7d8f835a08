"""What the flags of the command line mean, and several runs in one call."""

import itertools
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from score_sde.errors import UserError

OPTIONS = {
    "likelihood": ("shard",),
    "summarize": ("output",),
    "encode": ("input", "output"),
    "decode": ("input", "output", "temperature"),
    "interpolate": ("input", "output", "temperature", "frames"),
    "import": ("source", "source_config"),
    "export": ("output",),
    "suggest": ("output",),
    "inpaint": ("input", "output", "mask", "copies"),
    "fid": ("a", "b", "metrics", "extractor", "weights", "output"),
}
"""Flags of single modes."""


def parse_options(mode: str, flags: dict[str, Any]) -> dict[str, Any]:
    """Flags of single modes that were given, as values; raises UserError for those that mean nothing to this mode."""
    given = {name: value for name, value in flags.items() if value is not None}
    for name in given:
        if name not in OPTIONS.get(mode, ()):
            modes = ", ".join(mode for mode, names in OPTIONS.items() if name in names)
            raise UserError(f"--{name} means nothing to --mode {mode}; it belongs to {modes}")
    parsers: dict[str, Callable[[Any], Any]] = {
        "shard": parse_shard,
        "input": lambda text: [Path(part) for part in split_list(text)] or None,
        "output": lambda text: Path(text).expanduser(),
        "source": lambda text: Path(text).expanduser(),
        "source_config": lambda text: Path(text).expanduser(),
        "temperature": parse_temperature,
        "frames": parse_frames,
        "mask": str,
        "copies": parse_copies,
        "a": lambda text: Path(text).expanduser(),
        "b": lambda text: Path(text).expanduser(),
        "weights": lambda text: Path(text).expanduser(),
        "metrics": lambda text: tuple(dict.fromkeys(part.strip() for part in split_list(text))),
        "extractor": str,
    }
    return {name: parsers[name](value) for name, value in given.items()}


def parse_runs(config_files: str | None, workdirs: str | None) -> list[tuple[str | None, str | None]]:
    """(configuration, working directory) of each run; lists of both go together in order."""
    configs, directories = split_list(config_files), split_list(workdirs)
    if configs and directories and len(configs) != len(directories):
        raise UserError(
            f"--config names {len(configs)} runs and --workdir {len(directories)}; name as many, or leave one out"
        )
    if not (configs or directories):
        raise UserError("name a configuration with --config, or an existing run with --workdir")
    return list(itertools.zip_longest(configs, map(os.path.expanduser, directories)))


def name_of(config_file: str | None, workdir: str | None) -> str:
    """What a run is called in messages and tables."""
    return workdir or str(config_file)


def split_list(text: str | None) -> list[str]:
    """The parts between commas; a path that exists is one part, whatever is in it."""
    if not text:
        return []
    parts = [text] if Path(text).expanduser().exists() else str(text).split(",")
    if not all(parts):
        raise UserError(f"{text!r} has an empty part; write A,B,C without blanks")
    return parts


def parse_shard(text: str) -> tuple[int, int]:
    """ "i/n" with 0 <= i < n."""
    first, _, number = text.partition("/")
    if not (first.isdigit() and number.isdigit() and int(first) < int(number)):
        raise UserError(f"--shard must be i/n with 0 <= i < n, like 0/4 .. 3/4; got {text!r}")
    return int(first), int(number)


def parse_copies(value: int) -> int:
    """A positive number."""
    if value < 1:
        raise UserError(f"--copies is the number of completions of each image, at least 1; got {value}")
    return value


def parse_temperature(value: float) -> float:
    """A positive number."""
    if not (math.isfinite(value) and value > 0):
        raise UserError(f"--temperature multiplies the latents; it must be positive, got {value}")
    return value


def parse_frames(value: int) -> int:
    """At least both ends."""
    if value < 2:
        raise UserError(f"--frames counts both ends, so it must be at least 2; got {value}")
    return value


def attempt(jobs: dict[str, Callable[[], Any]]) -> tuple[dict[str, Any], dict[str, UserError]]:
    """(results, failures) of jobs by name; with several, one that fails is reported at once and the next begins."""
    done: dict[str, Any] = {}
    failed: dict[str, UserError] = {}
    for name, job in jobs.items():
        try:
            done[name] = job()
        except UserError as error:
            failed[name] = error
            if len(jobs) > 1:
                print(f"error: {name}: {error}", file=sys.stderr)
    return done, failed


def raise_failed(failed: dict[str, UserError], number: int) -> None:
    """Raise UserError where any of `number` jobs failed: its own error of a single job, else the names."""
    if number == 1:
        for error in failed.values():
            raise error
    if failed:
        raise UserError(
            f"{len(failed)} of {number} failed, see above: {', '.join(failed)}. "
            + ("The others are done; the" if len(failed) < number else "The")
            + " same command tries again."
        )
