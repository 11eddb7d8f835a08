"""Stopping on signals."""

import os
import signal

import pytest

from score_sde.training.interrupt import Interrupt


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_is_a_request_and_not_an_end(number: signal.Signals) -> None:
    with Interrupt() as interrupt:
        assert not interrupt.requested()
        os.kill(os.getpid(), number)
        assert interrupt.requested()
        assert interrupt.requested()  # it stays so


def test_second_ctrl_c_acts_at_once_and_second_sigterm_does_not() -> None:
    with Interrupt() as interrupt:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert interrupt.requested()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_handlers_are_put_back_also_after_an_error() -> None:
    before = [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises(RuntimeError), Interrupt():
        assert signal.getsignal(signal.SIGTERM) != before[0]
        raise RuntimeError
    assert [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)] == before


def test_can_be_used_again() -> None:
    interrupt = Interrupt()
    with interrupt:
        os.kill(os.getpid(), signal.SIGTERM)
    with interrupt:
        assert not interrupt.requested()
