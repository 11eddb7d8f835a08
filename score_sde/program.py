"""One call of the command line, after its flags were read: values, signals, errors, exit codes."""

import contextlib
import errno
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from score_sde import run_lib
from score_sde.errors import Stopped, UserError
from score_sde.modes.table import FLAGS, MODES
from score_sde.peers import Peers, service
from score_sde.training.checkpoint import errors_told_once, waiting
from score_sde.workdir.jobs import split_list
from score_sde.workdir.lock import release_all


def parse(mode: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The values of the flags that were given.

    Raises:
        UserError: a flag that the mode does not take, or a value that it cannot have.
    """
    found = {}
    for flag in FLAGS:
        value = given.get(flag.name)
        if not value or value == [""]:  # --workdir= of a variable that is not set
            continue
        if mode not in flag.modes:
            raise UserError(
                f"--{flag.name} means nothing to --mode {mode}; it belongs to "
                f"{', '.join(flag.modes)}"
            )
        if flag.several:
            one = MODES[mode].takes in ("fresh", "named", "recipe") and flag.name in (
                "config",
                "workdir",
            )
            found[flag.name] = [flag.parse(part) for part in (value if one else split_list(value))]
        else:
            found[flag.name] = flag.parse(value)
    return found


def run(mode: str, given: Mapping[str, Any], overrides: Sequence[tuple[str, str]]) -> None:
    """One call of the command line: a mode, its flags as texts, and entries to change."""
    options = parse(mode, given)
    if overrides and MODES[mode].takes == "nothing":
        raise UserError(
            f"--config.{overrides[0][0]} means nothing to --mode {mode}, which works "
            "without a model"
        )
    runs = [options.pop(name, []) for name in ("config", "workdir", "checkpoint")]
    _check_devices()
    with _mendable():
        run_lib.run(mode, runs[0], overrides, runs[1], runs[2], options)


@contextlib.contextmanager
def _mendable() -> Iterator[None]:
    """Makes a UserError of what arguments can cause in any place."""
    try:
        yield
    except MemoryError as error:
        raise UserError(
            f"out of memory: {error}. Ask for fewer or smaller images at a time"
        ) from error
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        raise UserError(f"the name is too long for this system: {error.filename}") from error


def join_processes() -> Peers:
    """Start jax.distributed: on pods by itself, elsewhere as three environment variables say."""
    number, index = (os.environ.get(f"JAX_{name}") for name in ("NUM_PROCESSES", "PROCESS_ID"))
    try:
        jax.distributed.initialize(
            num_processes=None if number is None else int(number),
            process_id=None if index is None else int(index),
        )
    except (ValueError, RuntimeError) as error:
        sys.exit(
            f"error: --distributed: {error} Outside of pods and clusters that jax knows, set "
            "JAX_COORDINATOR_ADDRESS=HOST:PORT, JAX_NUM_PROCESSES and JAX_PROCESS_ID (0, 1, ...) "
            "for each process."
        )
    return Peers(lambda: release_all(os.getpid()), service())


def _check_devices() -> None:
    """Raises UserError where JAX has not the devices that were asked for."""
    try:
        jax.devices()
    except (AssertionError, RuntimeError) as error:
        asked = os.environ.get("JAX_PLATFORMS", "")
        reason = (
            str(error).partition("\n")[0] or "there are none of that kind, or no plugin for them"
        )
        raise UserError(
            f"JAX cannot use its devices with JAX_PLATFORMS={asked!r}: {reason}. Leave "
            "JAX_PLATFORMS out, set it to cpu, or install jax for your accelerator"
        ) from error


def start(
    mode: str, given: Mapping[str, Any], overrides: Sequence[tuple[str, str]], distributed: bool
) -> None:
    """`run` as a process does it: kept programs, other processes, exit codes."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        cache = Path.home() / ".cache" / "score_sde" / "jax"
        jax.config.update("jax_compilation_cache_dir", str(cache))
    warnings.formatwarning = _warning
    peers = join_processes() if distributed else None
    try:
        answered(mode, lambda: run(mode, given, overrides), peers)
    except SystemExit as end:
        if not peers and isinstance(end.code, int) and end.code > 128:
            _leave(end.code)
        raise


def _leave(code: int) -> None:
    """End the process at once: the compiler and programs at work would crash an orderly end."""
    release_all(os.getpid())
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    line: str | None = None,
) -> str:
    """A warning of the library as a user reads it; others also say where they come from."""
    if Path(filename).is_relative_to(Path(__file__).parent):
        return f"warning: {message}\n"
    return f"{filename}:{lineno}: {category.__name__}: {message}\n"


def answered(mode: str, work: Callable[[], None], peers: Peers | None = None) -> None:
    """Do `work`. A signal or an error that the user can mend ends in a message and an exit code.

    That is 1, or 128 and the number of the signal. A second SIGTERM acts at once. `peers` are the
    other processes of a distributed job; they are told, and end too.
    """

    def stop(number: int, frame: Any) -> None:
        signal.signal(number, signal.SIG_DFL)
        raise Stopped(number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        with errors_told_once() as failed:
            work()
        for error in failed:
            raise error
    except UserError as error:
        _fail(str(error), peers)
    except OSError as error:
        place = error.filename or "a file"
        _fail(
            f"{place} cannot be read or written ({error.strerror or error}); {MODES[mode].kept}. "
            "Make room there or change its permissions first.",
            peers,
        )
    except KeyboardInterrupt as error:
        stopped = error if isinstance(error, Stopped) else Stopped(signal.SIGINT)
        if not stopped.told:
            name = signal.Signals(stopped.number).name
            print(f"\nstopped by {name}: {MODES[mode].kept}.", file=sys.stderr)
            if peers:
                peers.failed(f"stopped by {name}")
        sys.exit(128 + stopped.number)
    except Exception as error:
        if peers and isinstance(error, jax.errors.JaxRuntimeError):
            _fail(peers.of_computing(error), peers)
        if peers:
            peers.failed(f"{type(error).__name__}: {error}")
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def _fail(text: str, peers: Peers | None) -> None:
    """End the process with a message and the exit code 1."""
    if waiting() or peers:  # for a save that has failed, or for the end of the other processes
        print(f"error: {text}", file=sys.stderr, flush=True)
        if peers:
            peers.failed(text)
        _leave(1)
    sys.exit(f"error: {text}")
