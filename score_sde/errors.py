"""The exceptions that the command line answers with a message, and what messages call it."""

import shlex
import sys
from pathlib import Path


class UserError(ValueError):
    """Something the user can mend.

    The message says what was received, why it is wrong and what to do.
    """


class Stopped(KeyboardInterrupt):
    """A signal has ended the work.

    Args:
        number: of the signal.
        told: whether the user knows already what is kept.
    """

    def __init__(self, number: int, told: bool = False):
        super().__init__(number)
        self.number, self.told = number, told


def command(flags: str) -> str:
    """A command line as the user would type it: this program as it was called, with other flags."""
    called = sys.argv[0] if sys.argv else ""
    program = f"python {quoted(called)}" if Path(called).name == "main.py" else "score-sde"
    return f"{program} {flags}"


def quoted(path: Path | str) -> str:
    """A path as a shell takes it: in quotes where it has blanks."""
    return shlex.quote(str(path))
