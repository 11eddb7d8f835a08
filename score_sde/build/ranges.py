"""The options of solvers of config.inverse that --mode tune tries, and from where to where."""

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

from score_sde.build.inverse import OPTIONS, build_solver
from score_sde.build.settings import Settings
from score_sde.errors import UserError
from score_sde.solvers import Solver


class Range(NamedTuple):
    """Numbers from low to high; log: evenly in their logarithms."""

    low: float
    high: float
    log: bool = False

    def __str__(self) -> str:
        return f"{self.low:g}:{self.high:g}" + (":log" if self.log else "")


Choices: TypeAlias = Range | tuple[str, ...]

RANGES: dict[str, Choices] = {
    "model_std": Range(1e-3, 1.0, log=True),
    "strength": Range(0.0, 1.0),
    "eta": Range(0.0, 1.0),
    "weight": Range(0.1, 100.0, log=True),
    "zeta": Range(0.05, 1.0),
    "rate": Range(0.1, 20.0, log=True),
    "snr": Range(0.05, 0.8),
    "jump": Range(1, 20),
    "resample": Range(1, 20),
    "guided_below": Range(0.5, 50.0, log=True),
    "cg_steps": Range(1, 5),
    "iterations": Range(1, 100, log=True),
    "tv_weight": Range(1e-4, 3.0, log=True),
    "window": ("ramp", "shepp-logan", "cosine", "hamming", "hann"),
}
"""By entry of config.inverse. Published are strength 0 .. 1, rate 0.1 .. 20, snr 0.1 .. 0.8."""
SNR = Range(0.05, 0.8)
"""Of the corrector, for solvers that leave the sampler as it is. Published: 0.1 .. 0.8."""


def value_of(settings: Settings, name: str) -> Any:
    """The entry with this dotted name, None where there is none."""
    section, _, entry = name.partition(".")
    return getattr(getattr(settings, section, None), entry, None)


def tuned_entries(settings: Settings, asked: Mapping[str, Range] | None) -> dict[str, Choices]:
    """What is tried, by dotted entry: `asked`, or all options of the solver and the corrector's.

    Raises:
        UserError: entries that mean nothing to the solver, or are no numbers; no options at all.
    """
    name, solver = settings.inverse.solver, build_solver(settings)
    found = {f"inverse.{entry}": RANGES[entry] for entry in OPTIONS.get(name, {})}
    if asked is not None:
        for entry, wanted in asked.items():
            _check(settings, entry, wanted, tuple(found))
        return dict(asked)
    corrects = settings.sampling.corrector != "none"
    if isinstance(solver, Solver) and not solver.own_steps and corrects:
        found["sampling.snr"] = SNR
    if not found:
        raise UserError(
            f"config.inverse.solver={name} has no options to tune; name entries of config.sampling "
            "with --ranges, like sampling.steps=50:500"
        )
    return found


def _check(settings: Settings, name: str, wanted: Range, own: tuple[str, ...]) -> None:
    there = value_of(settings, name)
    if not name.startswith("sampling.") and name not in own:
        raise UserError(
            f"--ranges: {name} is no option of inverse.solver={settings.inverse.solver}; it has "
            f"{', '.join(own) or 'none'}, and there are the numbers of config.sampling"
        )
    if isinstance(there, bool) or not isinstance(there, int | float):
        raise UserError(f"--ranges: config.{name} is no number; got {there!r} there")
    if isinstance(there, int) and not all(float(end).is_integer() for end in wanted[:2]):
        raise UserError(f"--ranges: config.{name} takes whole numbers; got {wanted}")
