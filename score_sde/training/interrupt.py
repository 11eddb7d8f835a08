"""Stopping on request: SIGTERM (schedulers) and SIGINT (Ctrl-C) end the loop after a step."""

import signal

from score_sde.devices import any_process, processes


class Interrupt:
    """Context manager; `requested()` says whether a signal has come, to any process.

    A second Ctrl-C acts at once.
    """

    def __enter__(self) -> "Interrupt":
        self._signal = 0
        self._before = {s: signal.signal(s, self._receive) for s in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number, frame) -> None:
        if self._signal and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._signal = number

    @property
    def number(self) -> int:
        """The signal that came; SIGTERM where another process got it."""
        return self._signal or signal.SIGTERM

    def requested(self, agree: bool = True) -> bool:
        """Whether to stop now.

        Several processes must stop at the same step: they agree on it where `agree` is True (all
            must ask then), and go on elsewhere.
        """
        if processes()[1] == 1:
            return bool(self._signal)
        return agree and any_process(bool(self._signal))
