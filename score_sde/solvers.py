"""Solvers of linear inverse problems: samples of p(x | y) for a measurement y = A x + std z.

A solver is a condition (see `conditioning`) whose `given` is a `Measurement` with one row a sample.
It is made of parts: guidance of the score, data consistency, a stepper, a grid, and what happens at
the start and at the end. `SOLVERS` has a function of options for each name:

    solver = SOLVERS["ddnm"](eta=0.85)
    solver.check(measurement)             # raises UserError for what it cannot do
    sampler = solver.prepare(sampler)     # its grid
    conditioned, guided = solver(sampler, score_fn, measurement)     # inside jit

None is exact for all data; docs/results/inverse.md measures how far each is from the posterior.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from score_sde import guidance, steppers
from score_sde.arrays import ScoreFn
from score_sde.conditioning import Condition
from score_sde.errors import UserError
from score_sde.grids import with_jumps
from score_sde.inverse.consistency import (
    Consistency,
    Move,
    after,
    before,
    consistent,
    exact,
    merged,
    overwrite,
    parts,
)
from score_sde.inverse.dps import DPS
from score_sde.inverse.measurement import Measurement
from score_sde.inverse.operators import Masked
from score_sde.inverse.restoration import DDNM, DDRM, DiffPIR, RePaint
from score_sde.sampling import Sampler

PLAIN = guidance.Cost(evaluations=1, vjps=0)
"""An evaluation without derivatives."""


def _anything(measurement: Measurement) -> None:
    """No measurement is refused."""


def _same(times: Any) -> Any:
    """The grid as it is."""
    return times


@dataclasses.dataclass(frozen=True)
class Solver:
    """A condition for measurements, and what must be known before it runs.

    Args:
        condition: (sampler, score_fn, measurement) -> (sampler, score_fn), inside jit.
        check: outside jit; raises UserError for a measurement that the solver cannot use.
        grid: what becomes of the times of the sampler.
        own_steps: whether it brings its own stepper, so that the sampler's is not used.
        cost: of one evaluation that the sampler counts.
    """

    condition: Condition
    check: Callable[[Measurement], None] = _anything
    grid: Callable[[Any], Any] = _same
    own_steps: bool = False
    cost: guidance.Cost = PLAIN

    def __call__(
        self, sampler: Sampler, score_fn: ScoreFn, given: Measurement
    ) -> tuple[Sampler, ScoreFn]:
        """The condition."""
        return self.condition(sampler, score_fn, given)

    def prepare(self, sampler: Sampler) -> Sampler:
        """The sampler with the solver's grid, outside jit: a driver counts its steps."""
        return dataclasses.replace(sampler, times=self.grid(sampler.times))


def _guided(name: str, check: Callable[[Measurement], None] = _anything, **options: Any) -> Solver:
    """A guidance of that name: the score is changed, the sampler stays."""
    make, cost = getattr(guidance, name), guidance.cost(name, options.get("steps", 1))

    def condition(sampler, score_fn, given):
        return sampler, make(score_fn, sampler.process, given, **options)

    return Solver(condition, check, cost=cost)


def _dps(data_std: float = 1.0) -> Solver:
    return _guided("dps", _check_spread(data_std), data_std=data_std)


def _check_spread(data_std: float) -> Callable[[Measurement], None]:
    def check(measurement):
        if data_std == 0 and not np.all(np.asarray(measurement.std) > 0):
            raise UserError(
                "dps with data_std=0 divides by the noise of the measurement, which is 0; take "
                "data_std > 0, the standard deviation of the data"
            )

    return check


def _dps_published(zeta: float = 1.0) -> Solver:
    def condition(sampler, score_fn, given):
        stepper = DPS(sampler.stepper, sampler.process, given, zeta)
        return dataclasses.replace(sampler, stepper=stepper), score_fn

    return Solver(condition, cost=guidance.Cost(1, 1))


def _own(make: Callable[..., Any], check=_anything, begin: bool = False) -> Solver:
    """A stepper of its own, `make(process, measurement)`, and an exact end without noise."""

    def condition(sampler, score_fn, given):
        stepper = make(sampler.process, given)
        changes = {"stepper": stepper, "on_finish": exact(given)}
        if begin:
            changes["on_begin"] = _begin_of(sampler, stepper.begin)
        return dataclasses.replace(sampler, **changes), score_fn

    return Solver(condition, check, own_steps=True)


def _ddnm(eta: float = 0.85) -> Solver:
    def check(measurement):
        if np.any(np.asarray(measurement.std) > 0):
            measurement.operator.spectrum()

    return _own(lambda process, given: DDNM(process, given, eta), check)


def _ddrm(eta: float = 0.85, eta_b: float = 1.0) -> Solver:
    def check(measurement):
        measurement.operator.spectrum()

    return _own(lambda process, given: DDRM(process, given, eta, eta_b), check, begin=True)


def _diffpir(weight: float = 7.0, zeta: float = 0.3) -> Solver:
    return _own(lambda process, given: DiffPIR(process, given, weight, zeta))


def _projection(strength: float = 1.0, published: bool = False) -> Solver:
    """Algorithm 8.2: consistency before each predictor and corrector, exact at the end.

    The published code merges data as `merged` does, and ends with lambda = 1 whatever the noise.
    """

    def condition(sampler, score_fn, given):
        return _project(sampler, given, strength, 1.0 if published else None), score_fn

    return Solver(condition, _masked if published else _anything)


def _langevin_projection(
    strength: float = 1.0, snr: float = 0.386, n_steps: int = 3, published: bool = False
) -> Solver:
    """Algorithm 8.2 with annealed Langevin dynamics; published 700 levels.

    The published code ends with lambda = strength.
    """

    def condition(sampler, score_fn, given):
        stepper = steppers.AnnealedLangevin(sampler.process, snr, n_steps)
        sampler = dataclasses.replace(sampler, stepper=stepper)
        return _project(sampler, given, strength, strength if published else None), score_fn

    return Solver(condition, _masked if published else _anything, own_steps=True)


def _project(sampler: Sampler, given: Measurement, strength: float, last: float | None) -> Sampler:
    """Consistency before each part. `last` is the published final lambda, None the default end."""
    move = consistent(given, strength) if last is None else merged(given, strength)
    finish = exact(given) if last is None else _noise_free_move(merged(given, last))
    stepper = before(Consistency(sampler.process, move), sampler.stepper)
    return dataclasses.replace(sampler, stepper=stepper, on_finish=finish)


def _noise_free_move(move: Move) -> Callable:
    """x -> k(x, y, lambda) at noise level 0, for every sample."""

    def finish(x):
        one = jnp.ones((), x.dtype)
        return move(x, one, 0 * one, None)

    return finish


def _masked(measurement: Measurement) -> None:
    if not isinstance(measurement.operator, Masked):
        kind = type(measurement.operator).__name__
        raise UserError(
            f"the published projection replaces known data, and {kind} does not say which are "
            "known; take published=False, or Masked(T, mask)"
        )


def _score_sde(rate: float = 1.231) -> Solver:
    """B.36: before each predictor and corrector a draw w, by which the score is guided."""

    def condition(sampler, score_fn, given):
        def guide(score_fn, w):
            return guidance.annealed(score_fn, sampler.process, given, rate, w)

        guided = (steppers.Guided(part, guide) for part in parts(sampler.stepper))
        return dataclasses.replace(sampler, stepper=steppers.chain(*guided)), score_fn

    return Solver(condition)


def _langevin(
    rate: float | None = None,
    scale: Literal["rate", "relative"] = "rate",
    weight: float | None = None,
    snr: float = 0.212,
    n_steps: int = 3,
) -> Solver:
    """Annealed Langevin dynamics of a guided score (Jalal et al. 2021); published 700 levels."""
    if scale not in ("rate", "relative"):
        raise ValueError(f"scale must be 'rate' or 'relative'; got {scale!r}")
    for name, value, own in (("rate", rate, "rate"), ("weight", weight, "relative")):
        if value is not None and scale != own:
            raise ValueError(f"{name}={value} means nothing to scale={scale!r}; take {own!r}")

    def condition(sampler, score_fn, given):
        process = sampler.process

        def guide(score_fn, w):
            if scale == "rate":
                return guidance.annealed(score_fn, process, given, 0.713 if rate is None else rate)
            strength = 5.0 if weight is None else weight
            return guidance.annealed_relative(score_fn, process, given, strength)

        dynamics = steppers.AnnealedLangevin(process, snr, n_steps)
        stepper = steppers.Guided(dynamics, guide, drawn=False)
        return dataclasses.replace(sampler, stepper=stepper), score_fn

    return Solver(condition, own_steps=True)


def _imputation(published: bool = False) -> Solver:
    """B.5.9: what is known replaces what is there after each predictor and corrector."""
    return Solver(_impute_published if published else _impute, _noise_free("imputation"))


def _impute(sampler, score_fn, given):
    step = Consistency(sampler.process, consistent(given))

    def begin(x):
        t = jnp.asarray(sampler.process.t_max, x.dtype)
        return step.at(x, t, x / sampler.process.prior_std)

    return (
        dataclasses.replace(
            sampler,
            stepper=after(step, sampler.stepper),
            on_begin=_begin_of(sampler, begin),
            on_finish=exact(given),
        ),
        score_fn,
    )


def _impute_published(sampler, score_fn, given):
    """The published code, which differs from the default:

    - The start has the known data without noise.
    - The known data after the predictor have the noise level at the step's start.
    - The mean is that of the overwritten state, so it keeps the noise of the last step.
    - Nothing is done after the last step: the known data are alpha y there.
    """
    step = Consistency(sampler.process, overwrite(given))
    stepper = steppers.chain(
        *(one for part in parts(sampler.stepper) for one in (part, steppers.at_start(step)))
    )
    basis, mask = given.operator.operator, given.operator.mask

    def begin(x):
        known = jnp.where(mask, given.y, jnp.zeros((), x.dtype))
        prior = jnp.where(mask, jnp.zeros((), x.dtype), x)  # in x itself, whatever the basis
        return basis.pinv(known + basis.forward(prior))

    changed = {"stepper": stepper, "on_begin": _begin_of(sampler, begin)}
    return dataclasses.replace(sampler, **changed), score_fn


def _repaint(jump: int = 10, resample: int = 10) -> Solver:
    def condition(sampler, score_fn, given):
        sampler, score_fn = _impute(sampler, score_fn, given)
        stepper = RePaint(sampler.process, sampler.stepper)
        return dataclasses.replace(sampler, stepper=stepper), score_fn

    def grid(times):
        return with_jumps(times, jump, resample)

    return Solver(condition, _noise_free("repaint"), grid)


def _begin_of(sampler: Sampler, begin: Callable) -> Callable:
    """`begin` of a draw of the prior."""
    if sampler.uniform is not None:
        raise ValueError(
            "the solver starts from the prior, but the sampler from uniform noise; use "
            "sampling.start=prior"
        )
    return begin


def _noise_free(name: str) -> Callable[[Measurement], None]:
    def check(measurement):
        noisy = int(np.sum(np.asarray(measurement.std) > 0))
        if noisy:
            raise UserError(
                f"{name} is for measurements without noise, and {noisy} of "
                f"{len(measurement.std)} have std > 0: it would repeat their noise; take std=0, or "
                f"one of {', '.join(n for n in SOLVERS if n not in ('imputation', 'repaint'))}"
            )

    return check


SOLVERS: Mapping[str, Callable[..., Solver]] = {
    "dps": _dps,
    "pigdm": lambda data_std=1.0: _guided("pigdm", data_std=data_std),
    "mmps": lambda steps=1: _guided("mmps", steps=steps),
    "tmpd": lambda: _guided("tmpd"),
    "dps_published": _dps_published,
    "imputation": _imputation,
    "projection": _projection,
    "langevin_projection": _langevin_projection,
    "score_sde": _score_sde,
    "langevin": _langevin,
    "ddnm": _ddnm,
    "ddrm": _ddrm,
    "diffpir": _diffpir,
    "repaint": _repaint,
}
"""Options -> `Solver`, by name. The options and their defaults are those of the parts:

| name | options | takes std > 0 |
|---|---|---|
| dps, pigdm | data_std 1 | yes |
| mmps | steps 1 | yes |
| tmpd | | yes |
| dps_published | zeta 1 | its size is not used |
| imputation | published False | no |
| projection | strength 1 (lambda), published False | lambda < 1, its size is not used |
| langevin_projection | strength 1, snr 0.386, n_steps 3, published False | as projection |
| score_sde | rate 1.231 | yes |
| langevin | rate 0.713, or scale "relative" and weight 5; snr 0.212, n_steps 3 | with a rate |
| ddnm | eta 0.85 | with a spectrum |
| ddrm | eta 0.85, eta_b 1 | yes; needs a spectrum |
| diffpir | weight 7, zeta 0.3 | yes |
| repaint | jump 10, resample 10 | no |

`langevin` and `langevin_projection` bring annealed Langevin dynamics; published 700 noise levels.
With published=True a projection needs a `Masked` operator, whose data it merges as `merged` says.
`dps_published` needs a predictor alone: Ancestral, ReverseDiffusion or EulerMaruyama. `imputation`
with published=True needs a `Masked` operator and denoise="mean", as samplers with
sampling.compat=published have it.
"""
