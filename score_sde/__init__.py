"""Score-based generative modeling with stochastic differential equations.

The mathematics is here by name (`names.py`). Parts with heavier needs are modules of their own:
`score_sde.networks`, `score_sde.data`, `score_sde.training`, `score_sde.viz`, `score_sde.build`.
All are imported when they are asked for: the help of the command line needs none of them.
"""

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from score_sde.names import *  # noqa: F403

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if not name.startswith("_"):
        module = f"{__name__}.{name}"
        if importlib.util.find_spec(module):
            return importlib.import_module(module)
    names = importlib.import_module(f"{__name__}.names")
    if name == "__all__" or name in names.__all__:
        return globals().setdefault(name, getattr(names, name))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__getattr__("__all__")})
