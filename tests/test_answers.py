"""How the command line answers what ends its work: by a message and an exit code."""

import os
import signal
from collections.abc import Callable

import pytest

from score_sde.cli import answered
from score_sde.errors import Stopped, UserError
from score_sde.modes.table import MODES


def ended(work: Callable[[], object], mode: str = "likelihood") -> int | str | None:
    with pytest.raises(SystemExit) as left:
        answered(mode, work)
    return left.value.code


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("mode", ["likelihood", "eval", "sample", "encode"])
def test_signals_say_what_is_kept(capsys, mode: str, number: signal.Signals) -> None:
    before = signal.getsignal(number)
    assert ended(lambda: os.kill(os.getpid(), number), mode) == 128 + number
    told = capsys.readouterr().err
    assert number.name in told and MODES[mode].kept in told
    assert signal.getsignal(number) == before


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
