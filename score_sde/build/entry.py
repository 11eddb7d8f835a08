"""One entry of a configuration: what is known of it beside its type and default."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Entry:
    """What is known of an entry beside its type and default.

    Args:
        meaning: one line, with the unit.
        least, most: closed bounds; `above`, `below`: open ones.
        choices: the only values, where the type of the field lists them.
        changeable: whether it may change from one start of a training run to the next.
        weights: whether the weights of a run belong to it.
        affects: which stored results depend on it: "samples", "likelihood", "flow".
        added: whether rows stored by older versions lack it; at its default it leaves no trace.
        name: in configurations, where it is no Python name.
    """

    meaning: str
    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None
    choices: tuple[str, ...] = ()
    changeable: bool = False
    weights: bool = False
    affects: tuple[str, ...] = ()
    added: bool = False
    name: str = ""

    @property
    def range(self) -> str:
        """The values allowed, in words: "in [0, 1)", "at least 1", "one of a, b".

        Empty where any are.
        """
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        lower, upper = (self.least, self.above), (self.most, self.below)
        if lower == (None, None) and upper == (None, None):
            return ""
        if upper == (None, None):
            if self.above == 0:
                return "positive"
            return f"above {self.above}" if self.least is None else f"at least {self.least:g}"
        first = f"({self.above:g}" if self.least is None else f"[{self.least:g}"
        last = f"{self.below:g})" if self.most is None else f"{self.most:g}]"
        return f"in {first}, {last}"

    def holds(self, value: Any) -> bool:
        """Whether a value of the right type is allowed."""
        if self.choices:
            return value in self.choices
        return (
            (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )


def entry(default: Any, meaning: str, **known: Any) -> Any:
    """A field of a section: its default, its meaning, and what `Entry` has besides."""
    return dataclasses.field(default=default, metadata={"entry": Entry(meaning, **known)})


def count(default: int, meaning: str, least: int = 1, **known: Any) -> Any:
    """A whole number of at least `least`."""
    return entry(default, meaning, least=least, **known)


def interval(default: int, meaning: str, least: int = 0) -> Any:
    """A number of steps between two events; 0 means never. It may change between starts."""
    return entry(default, meaning, least=least, changeable=True)
