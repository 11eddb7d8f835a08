"""The other processes of a distributed job: where one ends early, none waits for it in vain.

Each process says through the service that joined them that it is at work, and why it failed. A
thread of each reads what the others say. Collective operations alone would wait for minutes.
"""

import atexit
import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn

BEAT = 2.0
"""Seconds between two looks."""
SILENCE = 60.0
"""Seconds without a word after which a process counts as gone."""
LEAVE = 15.0
"""Seconds that a failed process waits for the others to have read why."""
FOLDER = "score_sde"
AGAIN = (
    "for the reason above: most likely another process has ended. The same command on all "
    "processes goes on from what is kept.\n"
)
_ending = threading.Lock()


class Peers:
    """Watches the other processes, and tells them.

    Args:
        let_go: called before this process ends for another's sake, as to remove locks.
        service: client of what joins the processes, number of this one, how many there are. Without
            a client nothing is watched.
    """

    def __init__(self, let_go: Callable[[], None], service: tuple[Any, int, int]):
        self._client, self.number, self.count = service
        self._let_go, self._leaving, self._beat = let_go, False, 0
        self._heard = {i: ("", time.monotonic()) for i in range(self.count) if i != self.number}
        if self._client is not None:
            atexit.register(self._leave)  # before JAX waits for the others
            self._answer_aborts()
            threading.Thread(target=self._watch, name="peers", daemon=True).start()

    def _answer_aborts(self) -> None:
        """A word after JAX's own, where it aborts this process as the first one is gone.

        It does so in a thread of its own, where Python's handlers of signals are not called.
        """

        def answer(number: int) -> None:
            if not _ending.acquire(blocking=False):  # this process is ending with its own word
                time.sleep(LEAVE)
            os.write(2, f"\nerror: JAX has ended process {self.number} of {self.count}, ".encode())
            os.write(2, AGAIN.encode())
            self._let_go()
            os._exit(1)

        self._handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(answer)  # kept: C has its address
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).signal(signal.SIGABRT, self._handler)

    def _leave(self) -> None:
        self._leaving = True

    def failed(self, reason: str) -> None:
        """Tell the others that this process has failed; returns when they know or do not answer."""
        if self._client is None or not _ending.acquire(blocking=False):
            return
        try:
            self._set(f"failed/{self.number}", reason[:1000] or "an error")
            until = time.monotonic() + LEAVE
            while time.monotonic() < until and len(self._all("read")) < self.count - 1:
                time.sleep(BEAT / 10)
        except Exception:  # the service is gone: so are the others, or they will see that
            return

    def of_computing(self, error: Exception) -> str:
        """What to say where computing together has failed; whoever knows more speaks first."""
        time.sleep(3 * BEAT)
        return (
            f"process {self.number} of {self.count} cannot compute with the others any more "
            f"({_first_line(error)}). One of them has ended, or cannot be reached. "
            "The same command on all processes goes on from what is kept."
        )

    def _set(self, name: str, value: str) -> None:
        self._client.key_value_set(f"{FOLDER}/{name}", value, allow_overwrite=True)

    def _all(self, name: str) -> dict[int, str]:
        """What each process has said of this name."""
        found = self._client.key_value_dir_get(f"{FOLDER}/{name}/")
        return {int(key.rpartition("/")[2]): value for key, value in found}

    def _watch(self) -> None:
        while True:
            try:
                why = self._look()
            except Exception as error:
                if self._leaving:
                    return
                why = f"the service that joins the processes is gone ({_first_line(error)})"
            if why:
                self._end(why)
            time.sleep(BEAT)

    def _look(self) -> str:
        """Say that this process is at work; why it cannot go on, "" where it can."""
        self._beat += 1
        self._set(f"alive/{self.number}", str(self._beat))
        failed, alive = self._all("failed"), self._all("alive")
        failed.pop(self.number, None)
        if failed:
            number = min(failed)
            self._set(f"read/{self.number}", "yes")
            return f"process {number} has failed: {failed[number]}"
        if gone := self._silent(alive):
            return f"process {gone[0]} has not been heard of for {SILENCE:.0f} seconds"
        return ""

    def _silent(self, alive: dict[int, str]) -> list[int]:
        now = time.monotonic()
        for number, (word, _) in self._heard.items():
            if alive.get(number, "") != word:
                self._heard[number] = alive[number], now
        return [number for number, (_, when) in self._heard.items() if now - when > SILENCE]

    def _end(self, why: str) -> NoReturn:
        """End this process, unless it is ending by itself."""
        if not _ending.acquire(blocking=False):
            while True:
                time.sleep(BEAT)
        print(
            f"\nerror: {why}. So process {self.number} of {self.count} ends too. Mend that; the "
            "same command on all processes goes on from what is kept.",
            file=sys.stderr,
            flush=True,
        )
        self._let_go()
        sys.stdout.flush()
        os._exit(1)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


def service() -> tuple[Any, int, int]:
    """What `Peers` watches by; without a client where this version of JAX shows none."""
    try:
        from jax._src.distributed import global_state as state
    except ImportError:  # collective operations then end by themselves, after minutes
        return None, 0, 1
    names = ("key_value_set", "key_value_dir_get")
    known = all(hasattr(state.client, name) for name in names)
    return state.client if known else None, state.process_id, state.num_processes
