"""The run-time check of annotations that conftest.py applies to every function of the library."""

from collections.abc import Callable
from typing import Any

from beartype import BeartypeConf, beartype

# As in static checkers, an int is accepted where a float is asked for.
_beartype = beartype(conf=BeartypeConf(is_pep484_tower=True))


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """Check the arguments and the result of a function against its annotations.

    Constructors are left out: jax rebuilds a dataclass that is a pytree with placeholders in the
    place of its arrays, and a dataclass of parameters validates them itself, with a better message.
    """
    return function if function.__name__ == "__init__" else _beartype(function)
