"""Locks: a folder, or a share of it, is written to by one process or one distributed job at a time.

A lock is a file of that folder with host, process and time. Its owner touches it while it works and
removes it at the end. One that a killed process left is recognized and taken.
"""

import atexit
import contextlib
import datetime
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from score_sde.devices import any_process, leads, say
from score_sde.errors import UserError
from score_sde.files import writing

NAME = ".lock"
BEAT = 20.0
"""Seconds between two touches."""
SILENCE = 300.0
"""Seconds without a touch after which the owner on another host counts as gone."""
_held: dict[Path, list[Path]] = {}
"""Lock -> folders that were made for it, the inner ones first."""


def hold(folder: Path, share: tuple[int, int] = (0, 1), advice: str = "") -> None:
    """Lock a folder, until the enclosing `released` ends, or the process.

    Held already, it stays so. All processes of a job must call this; the leading one has the lock.

    Args:
        folder: made where it is missing.
        share: (i, n) locks the i-th of n shares; (0, 1) all of them.
        advice: what to do where nothing can be written there.

    Raises:
        UserError: another process holds it, or one that overlaps; or nothing can be written.
    """
    name = NAME if share[1] == 1 else f"{NAME}_{share[0]}_of_{share[1]}"
    _lock(folder.absolute() / name, f"{NAME}*", folder, advice)


def hold_file(path: Path, advice: str = "") -> None:
    """The same for one file, whatever is done to others of its folder.

    Raises:
        UserError: another process is writing it; or nothing can be written there.
    """
    path = path.absolute()
    name = f".{path.name}{NAME}"
    _lock(path.with_name(name), name, path, advice)


def _lock(path: Path, others: str, place: Path, advice: str) -> None:
    """Take the lock `path` among `others`, a pattern; on all processes, which agree on errors."""
    error = None
    if leads():
        try:
            with writing(place, advice or "choose another folder with --output"):
                _hold(path, others)
        except UserError as found:
            error = found
    if any_process(error is not None):
        raise error or UserError(f"the leading process may not write to {place}")


@contextlib.contextmanager
def released() -> Iterator[None]:
    """Lets go of what is locked within it.

    Raises:
        UserError: some of that is gone meanwhile.
    """
    before = set(_held)
    try:
        yield
        check_held()
    finally:
        _release(set(_held) - before)


def check_held() -> None:
    """Raises UserError where a folder that this process has locked was removed meanwhile."""
    gone = [path for path in _held if not path.exists()]
    if gone:
        raise UserError(
            f"{_locked(gone[0])}, or its lock, was removed while this command wrote to it. What "
            "was there before is gone, and what was written since is not whole. Restore the "
            "folder, or move it away; then give the command again"
        )


def _hold(path: Path, others: str) -> None:
    if path in _held:
        return
    folder = path.parent
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    if not _create(path):
        _check_gone(path)
        if not _create(path):  # another process took it first
            _refuse(path, _read(path)[0])
    _held[path] = made
    try:
        for other in folder.glob(others):
            if other not in _held and _overlap(path.name, other.name):
                _check_gone(other)
    except BaseException:
        _release({path})
        raise
    _start_beating()


def _overlap(mine: str, other: str) -> bool:
    """Whether two locks have rows in common; other shares of as many have none."""
    return NAME in (mine, other) or mine.rpartition("_")[2] != other.rpartition("_")[2]


def _create(path: Path) -> bool:
    """Make the lock; False where it is there."""
    try:
        number = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return False
    now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    mine = _place() | {"process": os.getpid(), "begun": _begun(os.getpid()), "at": now}
    try:
        with os.fdopen(number, "w") as file:
            json.dump(mine, file)
    except BaseException:  # a full disk: what is left would be a lock of nobody
        path.unlink(missing_ok=True)
        raise
    return True


def _place() -> dict[str, str]:
    """Where numbers of processes mean the same: the host, and on it the container."""
    try:
        return {"host": socket.gethostname(), "space": os.readlink("/proc/self/ns/pid")}
    except OSError:
        return {"host": socket.gethostname(), "space": ""}


def _begun(process: int) -> str:
    """When a process began, since numbers come again; "" where that is not known."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _read(path: Path) -> tuple[dict[str, Any], float, bytes]:
    """(owner, seconds since the last touch, content); nothing is known of a lock just begun."""
    try:
        content, silence = path.read_bytes(), time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return {}, 0.0, b""
    try:
        owner = json.loads(content)
        return (owner if isinstance(owner, dict) else {}), silence, content
    except (ValueError, RecursionError):
        return {}, silence, content


def _check_gone(path: Path) -> None:
    """Remove the lock of a process that is no more; raises UserError where it may be at work."""
    owner, silence, content = _read(path)
    if not path.exists():
        return
    if {name: owner.get(name) for name in ("host", "space")} == _place():
        gone, why = not _lives(owner), "is no more"
    else:
        gone, why = silence > SILENCE, f"has been silent for {silence / 60:.0f} minutes"
    if not gone:
        _refuse(path, owner)
    aside = path.with_name(f".gone{path.name}.{os.getpid()}")
    try:
        os.rename(path, aside)  # one process alone succeeds
    except FileNotFoundError:
        return
    if aside.read_bytes() != content:  # another process took it between reading and renaming
        with contextlib.suppress(OSError):
            os.link(aside, path)
        aside.unlink()
        _refuse(path, _read(path)[0])
    aside.unlink()
    say(f"{_named(owner)}, which wrote to {_locked(path)}, {why}: going on without it")


def _lives(owner: dict[str, Any]) -> bool:
    process = owner.get("process")
    if not isinstance(process, int) or process <= 0 or process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return owner.get("begun", "") == _begun(process)


def _named(owner: dict[str, Any]) -> str:
    return f"process {owner.get('process', '?')} on host {owner.get('host', '?')}"


def _locked(path: Path) -> Path:
    """The folder or file that a lock is of."""
    if path.name.startswith(NAME):
        return path.parent
    return path.with_name(path.name[1:].removesuffix(NAME))


def _refuse(path: Path, owner: dict[str, Any]) -> None:
    raise UserError(
        f"{_locked(path)} is being written to by {_named(owner)} since {owner.get('at', '?')}. "
        f"Wait until it ends, stop it, or choose another folder. If it is no more, remove {path}."
    )


def _release(paths: set[Path]) -> None:
    for path in paths:
        made = _held.pop(path)
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
            for place in made:  # those that stayed empty
                place.rmdir()


def release_all(process: int) -> None:
    """Let go of all locks at the end of this process, whose number is `process`."""
    if os.getpid() == process:  # no fork of it
        _release(set(_held))


_beating = threading.Lock()


def _start_beating() -> None:
    """Touch all locks from now on, in the background of this process."""
    if not _beating.acquire(blocking=False):
        return
    atexit.register(release_all, os.getpid())
    threading.Thread(target=_beat, name="locks", daemon=True).start()


def _beat() -> None:
    while True:
        time.sleep(BEAT)
        for path in list(_held):
            with contextlib.suppress(OSError):
                os.utime(path)
