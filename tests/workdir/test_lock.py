"""One process, or distributed job, writes to a folder or a share of it at a time."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from score_sde.errors import UserError
from score_sde.workdir import lock
from score_sde.workdir.folder import result_folder
from score_sde.workdir.lock import check_held, hold, hold_file, released

HOLDS = """
import sys, time
from pathlib import Path
from score_sde.workdir.lock import hold
hold(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(100)
"""


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory):
    """(a process, the folder that it holds)."""
    folder = tmp_path_factory.mktemp("other")
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(folder)],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])},
    )
    assert process.stdout and process.stdout.readline() == b"held\n"
    yield process, folder
    process.kill()
    process.communicate()


def left(folder: Path, seconds: float = 0.0, name: str = ".lock", **owner: Any) -> Path:
    """A lock like one of this process, but for `owner`, touched `seconds` ago."""
    with released():
        hold(folder)
        written = json.loads((folder / ".lock").read_text())
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(json.dumps(written | owner))
    os.utime(path, (time.time() - seconds,) * 2)
    return path


def refused(folder: Path, message: str, share: tuple[int, int] = (0, 1)) -> None:
    with pytest.raises(UserError, match=message), released():
        hold(folder, share)


def test_a_second_process_is_refused_until_the_first_is_gone(other, capsys) -> None:
    """Also where it is killed: then its lock is taken, at once."""
    process, folder = other
    refused(folder, rf"{folder} is being written to by process {process.pid} on host .* since 2")
    for share in ((0, 2), (1, 2)):
        refused(folder, f"process {process.pid} ", share)
    assert [p.name for p in folder.iterdir()] == [".lock"]
    process.kill()
    process.wait()
    with released():
        hold(folder)
        assert json.loads((folder / ".lock").read_text())["process"] == os.getpid()
    assert f"process {process.pid} " in capsys.readouterr().out
    assert not list(folder.iterdir())


def test_nothing_is_left_and_results_are_locked(tmp_path: Path) -> None:
    with released():
        folder = result_folder(None, tmp_path / "run", "encode_step_3")
        hold(folder)  # again
        assert (folder / ".lock").exists()
        with released():
            hold(folder)
        assert (folder / ".lock").exists()  # it is the outer one's
    assert not list(tmp_path.iterdir())
    with pytest.raises(ZeroDivisionError), released():
        hold(tmp_path)
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())


ALIVE = {"process": 1, "begun": lock._begun(1)}


def test_shares_are_locked_one_by_one(tmp_path: Path) -> None:
    """Other shares of as many go together; others overlap."""
    left(tmp_path, name=".lock_1_of_3", **ALIVE)
    for share in ((0, 1), (1, 3), (0, 2), (0, 13)):
        refused(tmp_path, "process 1 ", share)
    with released():
        hold(tmp_path, (0, 3))
        hold(tmp_path, (2, 3))
        names = {p.name for p in tmp_path.iterdir()}
    assert names == {f".lock_{i}_of_3" for i in range(3)}
    assert [p.name for p in tmp_path.iterdir()] == [".lock_1_of_3"]


@pytest.mark.parametrize(
    ("owner", "seconds", "taken"),
    [
        (ALIVE, 1e6, False),  # suspended
        (ALIVE | {"begun": "-1"}, 0, True),  # the number came again
        ({"process": 2**22 + 1}, 0, True),
        ({}, 0, True),  # ours, and not held: of a container that began anew
        (ALIVE | {"space": "another"}, 1, False),
        (ALIVE | {"host": "another"}, 290, False),
        (ALIVE | {"host": "another"}, 310, True),
        ({"process": "?"}, 0, True),
        ({"host": 3, "process": []}, 310, True),
    ],
)
def test_locks_that_are_left(tmp_path, capsys, owner: dict, seconds: float, taken: bool) -> None:
    path = left(tmp_path, seconds, **owner)
    before = path.read_bytes()
    if not taken:
        refused(tmp_path, "is being written to by process 1 on host ")
        assert path.read_bytes() == before
        return
    with released():
        hold(tmp_path)
        assert json.loads(path.read_text())["process"] == os.getpid()
    assert "going on without it" in capsys.readouterr().out and not path.exists()


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b"[" * 100_000])
def test_locks_that_say_nothing(tmp_path: Path, content: bytes) -> None:
    """One just begun is empty; after minutes of silence it is taken."""
    path = tmp_path / ".lock"
    path.write_bytes(content)
    refused(tmp_path, r"process \? ")
    os.utime(path, (time.time() - 310,) * 2)
    with released():
        hold(tmp_path)


def test_a_lock_is_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []

    def sleep(seconds: float) -> None:
        if waited:
            raise SystemExit
        waited.append(seconds)

    with released():
        hold(tmp_path)
        os.utime(tmp_path / ".lock", (0, 0))
        monkeypatch.setattr(lock.time, "sleep", sleep)
        with pytest.raises(SystemExit):
            lock._beat()
        assert time.time() - (tmp_path / ".lock").stat().st_mtime < 100
    assert waited == [lock.BEAT] and lock.BEAT < lock.SILENCE / 5


def test_all_processes_of_a_job_are_refused(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The leading one alone asks for the lock; the others hear of it."""
    monkeypatch.setattr(lock, "leads", lambda: False)
    with released():
        hold(tmp_path / "none")
    assert not (tmp_path / "none").exists()
    monkeypatch.setattr(lock, "any_process", lambda value: True)
    refused(tmp_path, "leading process may not write")


def test_a_file_is_locked_without_its_folder(tmp_path: Path, capsys) -> None:
    path, name = tmp_path / "report.html", ".report.html.lock"
    with released():
        hold_file(path)
        written = json.loads((tmp_path / name).read_text())
        hold(tmp_path)
        hold_file(tmp_path / "html")
    assert not list(tmp_path.iterdir())
    (tmp_path / name).write_text(json.dumps(written | ALIVE))
    with pytest.raises(UserError, match=rf"{path} is being written to by process 1 "), released():
        hold_file(path)
    with released():
        hold(tmp_path)
        hold_file(tmp_path / "report")
    (tmp_path / name).write_text(json.dumps(written | {"process": 2**22 + 1}))
    with released():
        hold_file(path)
    assert f"which wrote to {path}, is no more" in capsys.readouterr().out


def test_a_folder_that_was_removed_meanwhile_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(UserError, match=rf"{folder}, or its lock, was removed while"), released():
        hold(folder)
        check_held()
        shutil.rmtree(folder)
        folder.mkdir()  # as by the next checkpoint
        (folder / "samples.npz").touch()
    assert [path.name for path in folder.iterdir()] == ["samples.npz"]
    with released():
        hold(folder)
    with pytest.raises(ZeroDivisionError), released():  # the first error is told
        hold(folder)
        shutil.rmtree(folder)
        raise ZeroDivisionError


def test_a_full_disk_leaves_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty one would be that of an unknown process, which nobody takes for minutes."""

    def full(*_) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(lock.json, "dump", full)
        refused(tmp_path, "cannot write to .*No space left on device")
    assert not list(tmp_path.iterdir())
    with released():
        hold(tmp_path)
