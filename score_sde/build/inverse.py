"""What config.inverse describes: which linear map of an image is measured, and the solver."""

import dataclasses
import functools
import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Complex, Float

from score_sde import guidance, inverse
from score_sde.build.baselines import BASELINES
from score_sde.build.names import blame, choose
from score_sde.build.sections import InverseSettings
from score_sde.build.settings import Settings
from score_sde.conditioning import Condition
from score_sde.errors import UserError
from score_sde.inverse import Measurement, Operator
from score_sde.inverse.ct import ParallelBeam, parallel_beam
from score_sde.inverse.fan import FanBeam, fan_beam
from score_sde.inverse.image_operators import Event
from score_sde.inverse.metal import check_trace, metal_trace
from score_sde.inverse.operators import Masked
from score_sde.solvers import SOLVERS, Solver

Known = Bool[np.ndarray, "h w 1"]
"""True where a pixel, or a point of k-space, is known, of --mask; False where metal is."""
Maps = Complex[np.ndarray, "..."]
"""Sensitivities of coils, (coils, h, w) or (n, coils, h, w)."""


def _blur(section: InverseSettings, event: Event, known: Known) -> Operator:
    if section.kernel == "gaussian":
        kernel = inverse.gaussian_kernel(section.width)
    else:
        kernel = inverse.motion_kernel(section.width, math.radians(section.angle))
    return inverse.blur(event, kernel, section.edges)


def _smaller(section: InverseSettings, event: Event, known: Known) -> Operator:
    make = {"block_mean": inverse.block_mean, "bicubic": inverse.bicubic}[section.filter]
    return make(event, section.scale)


def _grey(section: InverseSettings, event: Event, known: Known) -> Operator:
    if event[2] == 1:
        raise ValueError("task=colorize needs images with several channels; these are grey")
    return inverse.colorization(event)


def _beam(section: InverseSettings, event: Event, known: Known) -> Operator:
    if section.rays == "parallel":
        return parallel_beam(event, section.views)
    return fan_beam(event, section.views, section.rays == "curved")


def _beam_past_metal(section: InverseSettings, event: Event, known: Known) -> Operator:
    """Line integrals outside the trace of metal; what is inside is useless, and left out."""
    beam = _beam(section, event, known)
    metal = np.broadcast_to(~known, (1, *event))
    trace = metal_trace(beam, jnp.asarray(metal))
    check_trace(trace)
    return Masked(beam, ~trace)


def _kspace_mask(section: InverseSettings, event: Event, known: Known) -> Bool[np.ndarray, "h w"]:
    height, width = event[:2]
    if section.kspace == "mask":
        if section.acceleration != InverseSettings().acceleration:
            raise ValueError(
                f"acceleration={section.acceleration:g} means nothing to kspace=mask; leave it out"
            )
        return known[..., 0]
    if section.kspace == "published":
        return inverse.published_equispaced(height, width, round(width / section.acceleration))
    columns = section.kspace in ("equispaced", "random")
    # .08 of the columns at 4x and .04 at 8x are fastMRI's; a square of 8 points at 64 pixels
    centre = 0.32 / section.acceleration if columns else min(8, min(height, width) // 8)
    return KSPACE[section.kspace](height, width, section.acceleration, centre)


def _masked_fourier(
    section: InverseSettings, event: Event, known: Known, maps: Maps | None = None
) -> Operator:
    mask = _kspace_mask(section, event, known)
    if maps is None and section.coils == 1:
        return inverse.single_coil(event, mask)
    if maps is None:
        maps = inverse.birdcage_maps(section.coils, *event[:2])
    return inverse.multi_coil(event, maps, mask, complex_images=False)


KSPACE: dict[str, Callable[..., Bool[np.ndarray, "h w"]]] = {
    "equispaced": inverse.fastmri_equispaced,
    "random": inverse.fastmri_random,
    "variable_density": inverse.variable_density,
    "poisson_disc": inverse.poisson_disc,
}
"""Masks by the name in config.inverse.kspace; `published` counts columns instead, and `mask` is
--mask."""


TASKS: dict[str, Callable[[InverseSettings, Event, Known], Operator]] = {
    "inpaint": lambda section, event, known: inverse.inpainting(event, known),
    "colorize": _grey,
    "superresolve": _smaller,
    "deblur": _blur,
    "ct": _beam,
    "mar": _beam_past_metal,
    "mri": _masked_fourier,
}
"""By the name in config.inverse.task."""


def build_operator(
    section: InverseSettings, event: Event, known: Known, maps: Maps | None = None
) -> Operator:
    """The operator of config.inverse for images of shape `event`.

    `maps`: sensitivities (coils, h, w), or (n, coils, h, w) of each image, in place of simulated
    ones. Images are real, so the phase of an image belongs to its maps.

    Raises:
        UserError: what an operator refuses, such as a scale that does not divide the image, an
            entry that means nothing to the task, or maps of another number of coils.
    """
    make = choose("inverse.task", TASKS, section.task)
    _check_entries(section, "task", TASK_ENTRIES)
    with blame("inverse"):
        if maps is not None:
            _check_maps(section, maps)
            make = functools.partial(_masked_fourier, maps=maps)
        return make(section, event, known)


def _check_maps(section: InverseSettings, maps: Maps) -> None:
    if section.task != "mri":
        raise ValueError(f"maps of coils mean nothing to task={section.task}; leave them out")
    if maps.ndim not in (3, 4) or maps.shape[-3] != section.coils:
        raise ValueError(
            f"coils={section.coils} is not the first axis of maps (coils, h, w), nor the second of "
            f"(n, coils, h, w); their shape is {maps.shape}"
        )


def build_simulator(section: InverseSettings, operator: Operator) -> Operator:
    """What simulates y: `operator`, or for finer > 1 its geometry with pixels of 1/finer.

    Data that are computed from the pixels of the result favour every method.
    """
    if section.finer == 1:
        return operator
    if isinstance(operator, Masked):
        return Masked(build_simulator(section, operator.operator), operator.mask)
    assert isinstance(operator, ParallelBeam | FanBeam)  # finer is an entry of ct and mar alone
    height, width, channels = operator.event
    event = (height * section.finer, width * section.finer, channels)
    return dataclasses.replace(operator, event=event, pixel=operator.pixel / section.finer)


def _check_entries(
    section: InverseSettings, kind: str, table: Mapping[str, Collection[str]]
) -> None:
    """Raises UserError for an entry of the table that means nothing to the task or solver."""
    chosen, usual = getattr(section, kind), InverseSettings()
    for entry in dict.fromkeys(entry for entries in table.values() for entry in entries):
        value, default = getattr(section, entry), getattr(usual, entry)
        if value != default and entry not in table.get(chosen, ()):
            known = ", ".join(name for name, entries in table.items() if entry in entries)
            raise UserError(
                f"config.inverse.{entry}={value} means nothing to {kind}={chosen}; leave it at "
                f"{default}, or take {known}"
            )


def takes_mask(section: InverseSettings) -> bool:
    """Whether --mask says what is measured: pixels, points of k-space, or rays that miss metal."""
    return section.task in USUAL_MASKS or (section.task == "mri" and section.kspace == "mask")


USUAL_MASKS = {"inpaint": "left", "mar": "implants"}
"""By task: the mask where --mask names none."""


TASK_ENTRIES: dict[str, tuple[str, ...]] = {
    "inpaint": (),
    "colorize": (),
    "superresolve": ("scale", "filter"),
    "deblur": ("kernel", "width", "angle", "edges"),
    "ct": ("rays", "views", "finer"),
    "mar": ("rays", "views", "finer"),
    "mri": ("kspace", "acceleration", "coils"),
}
"""By task: the entries of config.inverse that are its own."""


OPTIONS: dict[str, dict[str, str]] = {
    "dps": {"model_std": "", "guided_below": ""},
    "pigdm": {"model_std": "", "guided_below": ""},
    "tmpd": {"model_std": "", "guided_below": ""},
    "mmps": {"model_std": "", "guided_below": "", "cg_steps": "steps"},
    "dps_published": {"zeta": "zeta"},
    "projection": {"strength": "strength"},
    "ddnm": {"eta": "eta"},
    "ddrm": {"eta": "eta"},
    "diffpir": {"model_std": "", "weight": "weight", "zeta": "zeta"},
    "repaint": {"jump": "jump", "resample": "resample"},
    "langevin_projection": {"strength": "strength", "snr": "snr"},
    "score_sde": {"rate": "rate"},
    "langevin": {"rate": "rate", "snr": "snr"},
    "fbp": {"window": ""},
    "li": {"window": ""},
    "cgls": {"iterations": ""},
    "tv": {"tv_weight": ""},
}
"""By solver: entry of config.inverse -> option of the solver; "" is done here."""


def only_own_entries(section: InverseSettings, solvers: Collection[str]) -> list[InverseSettings]:
    """The section for each of several solvers, entries that mean nothing to one at their defaults.

    Raises:
        UserError: an unknown solver, or an entry that means nothing to any of them.
    """
    for solver in solvers:
        choose("inverse.solver", KINDS, solver)
    usual, known = InverseSettings(), {entry for own in OPTIONS.values() for entry in own}
    some = {entry for solver in solvers for entry in OPTIONS.get(solver, ())}
    for entry in sorted(known - some):
        if getattr(section, entry) != getattr(usual, entry):
            raise UserError(
                f"config.inverse.{entry}={getattr(section, entry)} means nothing to "
                f"{', '.join(solvers)}; leave it at {getattr(usual, entry)}"
            )
    found = []
    for solver in solvers:
        foreign = known - OPTIONS.get(solver, {}).keys()
        reset = {entry: getattr(usual, entry) for entry in foreign}
        found.append(dataclasses.replace(section, solver=solver, **reset))
    return found


KINDS: dict[str, Callable[..., Any]] = {**SOLVERS, **BASELINES}
"""By the name in config.inverse.solver."""
WITH_DATA_STD = ("dps", "pigdm")
"""Solvers that need to know the standard deviation of the data, config.data.std."""


Baseline = Callable[[Measurement], Float[Array, "n h w c"]]
"""The images that measurements of images in [0, 1] are taken for."""


def build_solver(settings: Settings) -> Solver | Baseline:
    """The solver of config.inverse, or what reconstructs without a model.

    Raises:
        UserError: an unknown solver, or an entry that means nothing to it.
    """
    section = settings.inverse
    make = choose("inverse.solver", KINDS, section.solver)
    own = OPTIONS.get(section.solver, {})
    _check_entries(section, "solver", OPTIONS)
    if section.solver in BASELINES:
        return functools.partial(make, section)
    options = {name: getattr(section, entry) for entry, name in own.items() if name}
    options = {n: v for n, v in options.items() if v or n not in ("zeta", "rate", "snr")}
    if section.solver in WITH_DATA_STD:
        options["data_std"] = settings.data.std
    with blame("inverse"):
        solver = make(**options)
    if "guided_below" not in own:
        return solver
    return dataclasses.replace(solver, condition=_limited(solver, section.guided_below))


def _limited(solver: Solver, most: float) -> Condition:
    """The solver's guidance at noise levels up to `most` alone.

    The derivative of the denoised image is that of x + sigma^2 score, divided by alpha: where alpha
    is small, so it must be too, and the error of a network is multiplied. There samples know
    nothing of the image yet.
    """

    def condition(sampler, score_fn, given):
        sampler, guided = solver(sampler, score_fn, given)
        return sampler, guidance.within(guided, score_fn, sampler.process, 0.0, most)

    return condition
