"""What a user can choose: samplers, tasks and solvers by the names of the field, with ranges."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from score_sde.build.experiment import Experiment
from score_sde.build.sampler import with_evaluations
from score_sde.build.sections import InverseSettings
from score_sde.build.settings import Sampling, Settings
from score_sde.errors import UserError
from score_sde.sde import GaussianSDE

OWN = "own"
BATCH = 16
"""Samples at a time: the first of them are shown while others are drawn."""
SAMPLERS: dict[str, tuple[str, dict[str, str]]] = {
    "unipc": ("UniPC", {"predictor": "unipc"}),
    "dpmpp_2m": ("DPM-Solver++ (2M)", {"predictor": "dpmpp_2m"}),
    "heun": ("Heun (EDM)", {"predictor": "heun"}),
    "ddim": ("DDIM", {"predictor": "ddim"}),
    "dpmpp_2m_sde": ("DPM-Solver++ (2M SDE), with noise", {"predictor": "dpmpp_2m_sde"}),
    "pc": (
        "Predictor-corrector: reverse diffusion, Langevin",
        {"predictor": "reverse_diffusion", "corrector": "langevin", "grid": "uniform"},
    ),
    OWN: ("The run's own sampler", {}),
}
"""By name: what the page calls it, and entries of config.sampling."""
OF_CHAINS = (OWN, "ddim", "dpmpp_2m", "unipc")
"""Those that stay on the grid of a discrete chain."""


class Option(NamedTuple):
    """The one entry of config.inverse that a task shows.

    label: of its slider. low, high, usual: its range and the value it begins with.
    """

    entry: str
    label: str
    low: int
    high: int
    usual: int


class Task(NamedTuple):
    """A task of --mode reconstruct as the page has it."""

    label: str
    option: Option | None


TASKS = {
    "superresolve": Task(
        "Super-resolution", Option("scale", "Pixels of a side that become one", 2, 8, 2)
    ),
    "deblur": Task("Deblurring", Option("width", "Width of the blur, in pixels", 1, 8, 1)),
    "colorize": Task("Colorization", None),
    "ct": Task("Computed tomography", Option("views", "Views over half a turn", 2, 180, 16)),
    "mri": Task("MRI", Option("acceleration", "Acceleration", 2, 8, 4)),
}
"""By the name in config.inverse.task."""
SOLVERS = {
    "ddnm": "DDNM",
    "ddrm": "DDRM",
    "diffpir": "DiffPIR",
    "projection": "Projection (Song et al.)",
    "pigdm": "PiGDM",
    "dps": "DPS",
}
"""By the name in config.inverse.solver."""
FILLERS = {"ddnm": "DDNM", "repaint": "RePaint", "diffpir": "DiffPIR", "pigdm": "PiGDM"}
"""Solvers that fill in."""
MASKS = ("left", "right", "top", "bottom", "box", "random", "scratches")
"""Masks by name, beside a painted one; the known half, or what is hidden."""


def samplers(continuous: bool) -> list[tuple[str, str]]:
    """(label, name) of the samplers of a process, the best one for few evaluations first."""
    names = SAMPLERS if continuous else OF_CHAINS
    return [(SAMPLERS[name][0], name) for name in names]


def tasks(channels: int) -> list[tuple[str, str]]:
    """(label, name) of the tasks of images with so many channels."""
    return [
        (task.label, name) for name, task in TASKS.items() if channels > 1 or name != "colorize"
    ]


def with_sampler(
    settings: Settings, experiment: Experiment, name: str, evaluations: int
) -> Settings:
    """The settings with a sampler by name, and the most steps within so many evaluations.

    Raises:
        UserError: an unknown sampler, or too few evaluations for it.
    """
    if name not in SAMPLERS:
        raise UserError(f"sampler {name!r} is not known; choose one of the list")
    own = settings.sampling
    if name == OWN:
        sampling = own
    else:
        grid = "log_snr" if isinstance(experiment.process, GaussianSDE) else "uniform"
        kept: dict[str, Any] = {"t_end": own.t_end, "snr": own.snr, "grid": grid}
        sampling = dataclasses.replace(Sampling(), **(kept | SAMPLERS[name][1]))
    if sampling.grid != "times":  # whose number is fixed
        process, pixels = experiment.process, experiment.pixel_range
        sampling = with_evaluations(sampling, process, pixels, evaluations)
    frames = min(8, sampling.steps)
    sampling = dataclasses.replace(sampling, batch_size=BATCH, frames=frames, files="npz")
    return dataclasses.replace(settings, sampling=sampling)


def with_solver(settings: Settings, task: str, solver: str, values: Mapping[str, Any]) -> Settings:
    """The settings with a task and a solver of --mode reconstruct, and other values of entries."""
    chosen: dict[str, Any] = {"task": task, "solver": solver} | dict(values)
    return dataclasses.replace(settings, inverse=InverseSettings(**chosen))


def whole(name: str, value: Any, low: int, high: int) -> int:
    """A whole number within a range.

    Raises:
        UserError: it is none.
    """
    good = isinstance(value, int | float) and math.isfinite(value) and value == int(value)
    if not good or not low <= value <= high:
        raise UserError(f"{name} must be a whole number from {low} to {high:,}; got {value!r}")
    return int(value)
