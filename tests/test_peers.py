"""Where a process of a distributed job fails or dies, the others end with a word."""

import socket
import subprocess
import sys
import threading
import time

from commands import environment
from processes import by_variables

from golden import REPOSITORY
from score_sde import peers
from score_sde.peers import Peers


class Service(dict):
    """What the processes say, as JAX's client of its service keeps it."""

    def key_value_set(self, name: str, value: str, allow_overwrite: bool) -> None:
        assert allow_overwrite
        self[name] = value

    def key_value_dir_get(self, folder: str) -> list[tuple[str, str]]:
        return [(name, value) for name, value in self.items() if name.startswith(folder)]


def both(service: Service) -> list[Peers]:
    """Two processes that look when they are asked to."""
    found = [Peers(lambda: None, (None, number, 2)) for number in range(2)]
    for one in found:
        one._client = service
    return found


def test_at_work_nobody_is_told_anything() -> None:
    service = Service()
    for _ in range(3):
        assert [one._look() for one in both(service)] == ["", ""]


def test_the_reason_reaches_the_others(monkeypatch) -> None:
    monkeypatch.setattr(peers, "_ending", threading.Lock())
    first, second = both(Service())
    reader = threading.Timer(0.2, lambda: said.append(first._look()))
    said: list[str] = []
    reader.start()
    begun = time.monotonic()
    second.failed("cannot write to runs/a (No space left on device)")
    reader.join()
    assert time.monotonic() - begun < 5  # it waits no longer than the others need
    assert said == ["process 1 has failed: cannot write to runs/a (No space left on device)"]
    assert second._look() == ""  # it knows that itself


def test_a_process_that_died_is_missed(monkeypatch) -> None:
    first, second = both(Service())
    assert second._look() == first._look() == ""
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + peers.SILENCE - 1)
    assert first._look() == ""
    monkeypatch.setattr(time, "monotonic", lambda: now + peers.SILENCE + 1)
    assert first._look() == "process 1 has not been heard of for 60 seconds"
    second._look()
    assert first._look() == ""


FAILS = """
import sys, time
from score_sde import program
from score_sde.errors import UserError

def work():
    import jax
    if jax.process_index() == 1:
        raise UserError("its disk is full")
    time.sleep(200)

program.answered("train", work, program.join_processes())
"""


def test_one_process_that_fails_ends_the_others_in_seconds() -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    both = [
        subprocess.Popen(
            [sys.executable, "-c", FAILS],
            cwd=REPOSITORY,
            env=environment(**by_variables(number, port)),
            text=True,
            stderr=subprocess.PIPE,
        )
        for number in range(2)
    ]
    try:
        ends = [process.communicate(timeout=120)[1] for process in both]
    finally:
        for process in both:
            process.kill()
    assert [process.returncode for process in both] == [1, 1], ends
    assert "error: process 1 has failed: its disk is full. So process 0 of 2 ends too" in ends[0]
    assert "error: its disk is full" in ends[1]
    assert not any("Traceback" in said for said in ends)
