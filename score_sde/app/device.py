"""One thread that computes: pieces of work of all users, one after another, that can be stopped."""

import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any, Literal

from score_sde.errors import UserError
from score_sde.parallel.loop import Progress, watching
from score_sde.workdir.lock import released

State = Literal["waiting", "working", "done", "stopped", "failed"]


class Cancelled(Exception):
    """The user has stopped a piece of work."""


class Ticket:
    """A piece of work of one user.

    title: in words. state: where it stands. progress: how far it is, where it says so. look: a PNG
    file of what there is so far. result: of the work. error: what a user may read. began: when
    it was begun, in seconds of `time.monotonic`. ended: set at its end.
    """

    def __init__(self, title: str, work: Callable[["Ticket"], Any]):
        self.title, self.work = title, work
        self.state: State = "waiting"
        self.progress: Progress | None = None
        self.look: Callable[[], bytes | None] | None = None
        self.result: Any = None
        self.error = ""
        self.began = 0.0
        self.ended = threading.Event()
        self._stop = threading.Event()

    def cancel(self) -> None:
        """Stop it: at once where it waits, else after the part that is computed now."""
        self._stop.set()

    @property
    def stopping(self) -> bool:
        """Whether it was told to stop and has not ended."""
        return self._stop.is_set() and not self.ended.is_set()

    def watch(self, progress: Progress) -> None:
        """Told of progress by the library; raises Cancelled where the user has stopped it."""
        self.progress = progress
        self.check()

    def check(self) -> None:
        """Raises Cancelled where the user has stopped it."""
        if self._stop.is_set():
            raise Cancelled

    def do(self) -> None:
        """Do the work, and keep its result or its error."""
        self.began, self.state = time.monotonic(), "working"
        try:
            self.check()
            with watching(self.watch), released():
                self.result = self.work(self)
            self.state = "done"
        except Cancelled:
            self.state = "stopped"
        except UserError as error:
            self.state, self.error = "failed", str(error)
        except Exception:
            traceback.print_exc(file=sys.stderr)
            self.state = "failed"
            self.error = (
                "This is an error of the program, not yours. The terminal of --mode app shows "
                "where it was; please report it."
            )
        finally:
            self.ended.set()


class Device:
    """The queue of all users: one piece of work at a time, in the order they came."""

    def __init__(self) -> None:
        self._tickets: list[Ticket] = []
        self._changed = threading.Condition()
        threading.Thread(target=self._work, name="device", daemon=True).start()

    def submit(self, title: str, work: Callable[[Ticket], Any]) -> Ticket:
        """Queue a piece of work."""
        ticket = Ticket(title, work)
        with self._changed:
            self._tickets.append(ticket)
            self._changed.notify()
        return ticket

    def ahead(self, ticket: Ticket) -> int:
        """How many pieces of work are to be done before this one."""
        with self._changed:
            return self._tickets.index(ticket) if ticket in self._tickets else 0

    def busy(self) -> list[str]:
        """Titles of what is done now and of what waits."""
        with self._changed:
            return [ticket.title for ticket in self._tickets]

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._tickets)
                ticket = self._tickets[0]
            ticket.do()
            with self._changed:
                self._tickets.remove(ticket)
