"""What every builder needs: a name looked up in its table, and errors that name their section."""

from collections.abc import Mapping
from types import TracebackType
from typing import TypeVar

from score_sde.errors import UserError

Found = TypeVar("Found")


def choose(place: str, table: Mapping[str, Found], name: str) -> Found:
    """The entry of a table; raises UserError, with all names, where there is none."""
    if name not in table:
        raise UserError(f"config.{place}: unknown name {name!r}; known: {', '.join(table)}")
    return table[name]


class blame:
    """A context that turns a ValueError inside into a UserError that names the section."""

    def __init__(self, section: str):
        self.section = section

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(error, UserError) and str(error).startswith("config."):
            return
        if isinstance(error, ValueError):
            raise UserError(f"config.{self.section}: {error}") from error
