"""The forward process that config.sde names."""

import inspect
from collections.abc import Callable
from typing import Any

from score_sde.build.names import blame, choose
from score_sde.build.settings import Section, check_names
from score_sde.errors import UserError
from score_sde.sde import EDM, VE, VP, CosineVP, DiscreteChain, Perturbation, StraightPath, SubVP

PROCESSES: dict[str, Callable[..., Perturbation]] = {
    "ve": VE,
    "vp": VP,
    "subvp": SubVP,
    "edm": EDM,
    "cosine": CosineVP,
    "straight": StraightPath,
    "smld": DiscreteChain.smld,
    "ddpm": DiscreteChain.ddpm,
}
"""By the name in config.sde.name; the arguments are the other entries."""


def process_entries(name: str) -> dict[str, inspect.Parameter]:
    """The entries of config.sde for the process `name`, with their types and defaults."""
    return dict(inspect.signature(choose("sde.name", PROCESSES, name)).parameters)


def process_defaults(name: str) -> dict[str, Any]:
    """Entries of config.sde for the process `name` that have defaults of their own."""
    found = process_entries(name).items()
    return {entry: about.default for entry, about in found if about.default is not about.empty}


def build_process(section: Section) -> Perturbation:
    """The forward process of config.sde: `name` and its parameters.

    Raises:
        UserError: an unknown name or entry, or a value that the process does not take.
    """
    values = dict(section)
    name = values.pop("name")
    check_names("config.sde", values, process_entries(name))
    if values.get("n", 1) < 1:
        raise UserError(f"config.sde.n must be at least 1; got {values['n']}")
    with blame("sde"):
        return PROCESSES[name](**values)
