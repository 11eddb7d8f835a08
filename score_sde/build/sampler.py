"""The sampler that config.sampling describes: predictor, corrector, time grid.

A new stepper is a file in `steppers/` and a row of a table here. A row makes the stepper from what
it is `Given`: the process, the settings, and the table of published steps.
"""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np

from score_sde import grids, steppers
from score_sde.build.names import blame, choose
from score_sde.build.settings import Sampling
from score_sde.build.solvers import NOISY, OPTIONS, SOLVERS, USUAL, solver
from score_sde.data import PixelRange
from score_sde.errors import UserError
from score_sde.sampling import Sampler
from score_sde.sde import VE, VP, DiscreteChain, GaussianSDE, Perturbation, PublishedSteps, SubVP


@dataclasses.dataclass(frozen=True)
class Given:
    """What the rows of the tables make their objects from.

    Args:
        process: the forward process.
        sampling: the settings.
        table: the process, or with compat=published the published codes' table of steps.
    """

    process: Perturbation
    sampling: Sampling
    table: Perturbation

    @property
    def published(self) -> bool:
        """Whether the published codes are to be repeated."""
        return self.sampling.compat == "published"

    @property
    def discrete(self) -> bool:
        """Whether the process is a chain."""
        return isinstance(self.process, DiscreteChain)


def _published_table(process: Perturbation, steps: int) -> Perturbation:
    if isinstance(process, VE):
        return PublishedSteps(DiscreteChain.smld(process.sigma_min, process.sigma_max, steps))
    if isinstance(process, VP | SubVP):
        return PublishedSteps(DiscreteChain.ddpm(process.beta_min, process.beta_max, steps))
    if isinstance(process, DiscreteChain):
        return process
    raise ValueError(f"there is no published sampler for {type(process).__name__}; use compat=none")


def _euler_maruyama(given: Given, eta: float = 1.0) -> steppers.Stepper:
    if not isinstance(given.process, GaussianSDE):
        raise ValueError(
            "a discrete chain has no drift; use predictor=reverse_diffusion or ancestral"
        )
    return steppers.EulerMaruyama(given.process, eta)


def _reverse_diffusion(given: Given, eta: float = 1.0) -> steppers.Stepper:
    if isinstance(given.process, SubVP) and given.published:  # published: Euler's method
        return steppers.EulerMaruyama(given.process, eta)
    return steppers.ReverseDiffusion(given.table, eta)


def _solver(name: str) -> Callable[[Given], steppers.Stepper]:
    def make(given: Given) -> steppers.Stepper:
        if given.published:
            raise ValueError(
                f"compat=published repeats the samplers of Score SDE, which has no {name}; use "
                "compat=none"
            )
        return solver(name, given.process, given.sampling)

    return make


PREDICTORS: dict[str, Callable[[Given], steppers.Stepper]] = {
    "euler_maruyama": _euler_maruyama,
    "reverse_diffusion": _reverse_diffusion,
    "probability_flow": functools.partial(_reverse_diffusion, eta=0.0),
    "ancestral": lambda given: steppers.Ancestral(given.table, given.sampling.variance),
    "none": lambda given: steppers.Identity(),
    **{name: _solver(name) for name in (*SOLVERS, *NOISY)},
}
"""By the name in config.sampling.predictor."""


def _alpha(given: Given) -> dict[str, Callable]:
    return {"alpha": steppers.step_alpha(given.table)} if given.published else {}


def _ozaki(given: Given) -> steppers.Stepper:
    if given.published:
        raise ValueError("compat=published has no corrector=ozaki; use compat=none")
    sampling = given.sampling
    size = steppers.noise_level_step(given.process, sampling.snr)
    return steppers.Ozaki(None, size, n_steps=sampling.corrector_steps)


CORRECTORS: dict[str, Callable[[Given], steppers.Stepper | None]] = {
    "langevin": lambda given: steppers.Langevin(
        given.sampling.snr,
        given.sampling.corrector_steps,
        "batch" if given.published else given.sampling.norm,
        **_alpha(given),
    ),
    "annealed_langevin": lambda given: steppers.AnnealedLangevin(
        given.process, given.sampling.snr, given.sampling.corrector_steps, **_alpha(given)
    ),
    "ozaki": _ozaki,
    "none": lambda given: None,
}
"""By the name in config.sampling.corrector."""


def _uniform_grid(given: Given) -> np.ndarray:
    settings, tweedie = given.sampling, given.sampling.denoise == "tweedie"
    if isinstance(given.process, DiscreteChain):
        if settings.steps < 2 and tweedie and not given.published:
            raise ValueError(
                "steps must be at least 2 for a discrete chain with denoise=tweedie; "
                f"got {settings.steps}"
            )
        times = grids.chain_steps(given.process, settings.steps)
        # Tweedie's formula is the step to the clean image: a sampled one before it would leave
        # its noise in.
        return times[:-1] if tweedie and not given.published else times
    if given.published:
        return grids.published(settings.steps, settings.t_end)
    return grids.uniform(given.process, settings.steps, settings.t_end)


def _continuous(grid: Callable, exponent: str = "") -> Callable[[Given], np.ndarray]:
    """A grid of a continuous process. `exponent`: the name of its argument of that kind."""

    def make(given: Given) -> np.ndarray:
        settings = given.sampling
        if given.discrete or given.published:
            raise ValueError(
                "only grid=uniform and levels exist for discrete chains, and uniform alone for "
                "compat=published"
            )
        more = {exponent: settings.exponent} if exponent and settings.exponent else {}
        return grid(given.process, settings.steps, settings.t_end, **more)

    return make


def _given_times(given: Given) -> np.ndarray:
    """config.sampling.times."""
    times, low, high = np.asarray(given.sampling.times), given.process.t_min, given.process.t_max
    if len(times) != given.sampling.steps + 1:
        raise ValueError(
            f"grid=times needs times, one more than steps={given.sampling.steps}; got "
            f"{len(times)}. --mode tune_steps finds and sets them"
        )
    if given.published or not (
        high >= times[0] and times[-1] >= low and (np.diff(times) < 0).all()
    ):
        raise ValueError(
            f"times must fall from at most {high} to at least {low}, without compat=published; got "
            f"{given.sampling.times}"
        )
    return times


def _levels(given: Given) -> np.ndarray:
    process, settings = given.process, given.sampling
    moved = settings.predictor == "none" and settings.corrector != "none"
    if not (isinstance(process, DiscreteChain) and moved):
        raise ValueError(
            "grid=levels stays at each noise level of a discrete chain, so predictor must be none "
            f"and a corrector must move the samples; got {type(process).__name__}, "
            f"predictor={settings.predictor}, corrector={settings.corrector}"
        )
    if given.published:  # it would replace the denoising at the end, which NCSN has not
        raise ValueError(
            "grid=levels is the sampler of the published NCSN codes already; use compat=none"
        )
    if settings.steps > len(process.sigmas):
        raise ValueError(
            "steps is the number of noise levels to visit, at most "
            f"sde.n={len(process.sigmas)}; got {settings.steps}"
        )
    if settings.corrector == "annealed_langevin" and settings.snr >= 1:
        raise ValueError(
            "snr must be below 1: from there on a Langevin step, 2 (snr sigma)^2, is so long "
            f"that samples diverge; got {settings.snr}"
        )
    return grids.levels(process, settings.steps)


def _aligned(given: Given) -> np.ndarray:
    if not isinstance(given.process, GaussianSDE) or given.published:
        raise ValueError("grid=align_your_steps needs a continuous process and compat=none")
    return grids.align_your_steps(given.process, given.sampling.steps)


GRIDS: dict[str, Callable[[Given], np.ndarray]] = {
    "uniform": _uniform_grid,
    "levels": _levels,
    "log_snr": _continuous(grids.log_snr_uniform),
    "karras": _continuous(grids.karras, "rho"),
    "quadratic": _continuous(grids.power, "exponent"),
    "polyexponential": _continuous(grids.polyexponential, "exponent"),
    "iddpm": _continuous(grids.iddpm),
    "align_your_steps": _aligned,
    "times": _given_times,
}
"""By the name in config.sampling.grid."""
WITH_EXPONENT = ("karras", "quadratic", "polyexponential")


def _check_options(sampling: Sampling) -> None:
    """Raise ValueError for an option that means nothing to the parts that are named."""
    named = {name for name in OPTIONS if getattr(sampling, name) != getattr(USUAL, name)}
    if (
        named
        and sampling.predictor in PREDICTORS
        and sampling.predictor not in {**SOLVERS, **NOISY}
    ):
        raise ValueError(
            f"{', '.join(sorted(named))} mean nothing to predictor={sampling.predictor}; they are "
            f"for {', '.join(SOLVERS)}"
        )
    if sampling.exponent and sampling.grid not in WITH_EXPONENT:
        raise ValueError(
            f"exponent={sampling.exponent} means nothing to grid={sampling.grid}; it is for "
            f"{', '.join(WITH_EXPONENT)}"
        )
    interval = sampling.guidance_interval
    if interval and not (len(interval) == 2 and 0 <= interval[0] < interval[1]):
        raise ValueError(
            "guidance_interval must be the least and the largest sigma/alpha, like (0.2, 2.0); got "
            f"{interval}"
        )
    if sampling.times and sampling.grid != "times":
        raise ValueError(
            f"times are given, but grid={sampling.grid}; set grid=times, or times=() to leave them"
        )


def build_sampler(sampling: Sampling, process: Perturbation, pixels: PixelRange) -> Sampler:
    """The sampler of config.sampling, for images in the range `pixels`.

    compat = "none" is the mathematics as it should be. Steps fit the grid, the predictor comes
    before the corrector, and the end is as `denoise` says.

    compat = "published" repeats the updates of the published codes:
    - their grid and tables, with dt = 1/N;
    - the corrector before the predictor, and the factor alpha of VP in correctors;
    - plain Euler in place of sub-VP's reverse diffusion;
    - norms of the batch in the Langevin step;
    - the mean of the last step as the sample.

    Raises:
        UserError: unknown names, or parts that do not go together.
    """
    if not isinstance(process, DiscreteChain) and not sampling.t_end < process.t_max:
        raise UserError(
            f"config.sampling.t_end must be in [0, {process.t_max}); got {sampling.t_end}"
        )
    published = sampling.compat == "published"
    with blame("sampling"):
        table = _published_table(process, sampling.steps) if published else process
        given = Given(process, sampling, table)
        _check_options(sampling)
        predictor = choose("sampling.predictor", PREDICTORS, sampling.predictor)(given)
        corrector = choose("sampling.corrector", CORRECTORS, sampling.corrector)(given)
        times = choose("sampling.grid", GRIDS, sampling.grid)(given)
        if corrector is None:
            stepper = predictor
        elif published:
            stepper = steppers.chain(steppers.at_start(corrector), predictor)
        elif sampling.predictor == "none":
            stepper = corrector
        else:
            stepper = steppers.chain(predictor, corrector)
        start = (pixels.low, pixels.high) if sampling.start == "uniform" else None
        denoise = "mean" if published else sampling.denoise
        return Sampler(process, stepper, times, denoise, start)


def with_evaluations(
    sampling: Sampling, process: Perturbation, pixels: PixelRange, evaluations: int
) -> Sampling:
    """The settings with the most steps that make at most so many evaluations for one sample.

    Raises:
        UserError: fewer than the least number of steps makes, or what `build_sampler` refuses.
    """

    # Evaluations depend on the number of times alone, and those of other grids take a while.
    levels = sampling.grid == "levels"
    plain = dataclasses.replace(sampling, grid="uniform", exponent=0.0, times=())
    quick = sampling if levels else plain

    def made(steps: int) -> int:
        one = dataclasses.replace(quick, steps=steps)
        return build_sampler(one, process, pixels).evaluations

    chain = isinstance(process, DiscreteChain)
    least = 2 if chain and sampling.denoise == "tweedie" and sampling.grid == "uniform" else 1
    if made(least) > evaluations:
        what = ("one step", "makes") if least == 1 else ("two steps", "make")
        raise UserError(
            f"{what[0]} of {sampling.predictor} {what[1]} {made(least)} evaluations of the "
            f"network; got {evaluations}"
        )
    low, high = least, evaluations
    if isinstance(process, DiscreteChain):  # it has no more steps than noise levels
        high = min(high, len(process.sigmas))
    while low < high:  # evaluations grow with the steps
        middle = (low + high + 1) // 2
        low, high = (middle, high) if made(middle) <= evaluations else (low, middle - 1)
    return dataclasses.replace(sampling, steps=low)
