"""How the command line answers what ends its work: by a message and an exit code."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from golden import REPOSITORY
from score_sde.errors import Stopped, UserError
from score_sde.modes.table import MODES
from score_sde.program import answered


def ended(work: Callable[[], object], mode: str = "likelihood") -> int | str | None:
    with pytest.raises(SystemExit) as left:
        answered(mode, work)
    return left.value.code


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("mode", ["likelihood", "eval", "sample", "encode"])
def test_signals_say_what_is_kept(capsys, mode: str, number: signal.Signals) -> None:
    usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
    found = signal.signal(number, usual)  # of a job in the background SIGINT is ignored
    try:
        assert ended(lambda: os.kill(os.getpid(), number), mode) == 128 + number
        assert signal.getsignal(number) == usual
    finally:
        signal.signal(number, found)
    told = capsys.readouterr().err
    assert number.name in told and MODES[mode].kept in told


def test_what_is_told_already_is_not_told_again(capsys) -> None:
    def work() -> None:
        raise Stopped(signal.SIGTERM, told=True)

    assert ended(work, "train") == 143
    assert capsys.readouterr() == ("", "")


def test_a_second_sigterm_acts_at_once() -> None:
    def work() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL

    assert ended(work) == 143


def test_errors_of_the_user_have_code_1() -> None:
    def work() -> None:
        raise UserError("too few")

    assert ended(work) == "error: too few"  # absl and Python make it 1


def test_nothing_is_said_of_work_that_is_done(capsys) -> None:
    answered("train", lambda: None)
    assert capsys.readouterr() == ("", "")


def test_what_cannot_be_written_is_one_message(tmp_path: Path) -> None:
    """Wherever a mode writes, also in the background."""

    def in_the_background() -> None:
        thread = threading.Thread(target=lambda: (tmp_path / "none" / "file").write_text(""))
        thread.start()
        thread.join()

    def at_once() -> None:
        (tmp_path / "none" / "file").write_text("")

    for work in (in_the_background, at_once):
        told = str(ended(work))
        assert str(tmp_path / "none" / "file") in told and "No such file" in told
        assert MODES["likelihood"].kept in told


def test_other_errors_of_threads_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", shown.append)

    def work() -> None:
        thread = threading.Thread(target=lambda: 1 / 0)
        thread.start()
        thread.join()

    answered("train", work)
    assert [one.exc_type for one in shown] == [ZeroDivisionError]


FULL = """
import resource, sys
from pathlib import Path
import jax.numpy as jnp, numpy as np
from score_sde.program import answered
from score_sde.training.checkpoint import Checkpoints
from score_sde.training.state import TrainState

def state(step):
    params = {"w": jnp.asarray(np.random.default_rng(0).normal(size=(300, 1000)), jnp.float32)}
    return TrainState(jnp.asarray(step, jnp.int32), params, (params,), ())

def work():
    checkpoints = Checkpoints(Path(sys.argv[1]))
    checkpoints.save(state(3), {})
    checkpoints.wait()
    if sys.argv[2] == "full":
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    else:
        Path(sys.argv[1]).rename(sys.argv[1] + "_moved")
        Path(sys.argv[1]).write_text("")
    try:
        checkpoints.save(state(8), {})
        checkpoints.wait()
    finally:
        checkpoints.close()

answered("train", work)
"""


@pytest.mark.parametrize("what", ["full", "gone"])
def test_a_checkpoint_that_cannot_be_written_is_one_message(tmp_path: Path, what: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path / "checkpoints"), what],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "XLA_FLAGS": ""},
        capture_output=True,
        text=True,
        timeout=100,
    )
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 1 and len(lines) == 1, done.stderr
    assert lines[0].startswith("error: checkpoint 8 in ") and "the same command goes on" in lines[0]
    if what == "full":
        assert "last good one is 3" in lines[0]
        assert (tmp_path / "checkpoints" / "3" / "digests.json").exists()
