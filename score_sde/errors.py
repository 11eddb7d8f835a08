"""The exceptions that the command line answers with a message, and what messages call it."""

import difflib
import importlib
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType


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


def optional(package: str, extra: str, who: str, instead: str = "") -> ModuleType:
    """A package of one of the library's extras, which `who` needs.

    Raises:
        UserError: it cannot be imported; `instead` says what else can be done.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise UserError(
            f"{who} needs the package {package}, which cannot be imported ({error}). Install it: "
            f'pip install "score_sde[{extra}]"{instead}'
        ) from error


def nearest(name: str, known: Iterable[str]) -> str:
    """The question "Did you mean 'X'?" after a blank, of the known name most alike; else ""."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""
