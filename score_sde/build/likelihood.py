"""The probability-flow ODE and the likelihoods that config.eval describes."""

import math

import diffrax

from score_sde import objectives
from score_sde.build.names import blame, choose
from score_sde.build.settings import Eval
from score_sde.errors import UserError
from score_sde.flow import AdamsMoulton, Flow
from score_sde.likelihood import Bound, ODELikelihood
from score_sde.sde import GaussianSDE, Perturbation

SOLVERS = {
    "tsit5": diffrax.Tsit5,
    "dopri5": diffrax.Dopri5,
    "dopri8": diffrax.Dopri8,
    "adams": AdamsMoulton,
}
"""By the name in config.eval.solver."""
EXACT_DIMENSIONS = 1024
"""Largest images whose divergence may be computed exactly."""


def build_flow(section: Eval, process: Perturbation) -> Flow:
    """The probability-flow ODE with the solver of config.eval.

    Raises:
        UserError: a discrete chain, or settings that no solver takes.
    """
    if not isinstance(process, GaussianSDE):
        raise UserError(
            "likelihoods and encodings need a continuous process, whose probability flow is an "
            "ODE; train a *_cont recipe"
        )
    with blame("eval"):
        solver = choose("eval.solver", SOLVERS, section.solver)()
        return Flow(
            process, solver, section.rtol, section.atol, section.steps, variable=section.variable
        )


def build_likelihood(
    section: Eval, process: Perturbation, shape: tuple[int, int, int]
) -> tuple[ODELikelihood | None, Bound | None]:
    """(exact likelihood, bound) as config.eval asks.

    `probes` = -1 leaves the first out, `bound_draws` = 0 the second. A step of the ODE may err by
    `bits_tol` bits/dim.

    Raises:
        UserError: neither is asked for, or the exact trace of a large image.
    """
    flow = build_flow(section, process)
    assert isinstance(process, GaussianSDE)
    if section.probes == 0 and math.prod(shape) > EXACT_DIMENSIONS:
        raise UserError(
            "config.eval.probes=0, the exact trace, takes one derivative for each of "
            f"{math.prod(shape)} dimensions, too many above {EXACT_DIMENSIONS}; use probes >= 1"
        )
    if section.probes < 0 and not section.bound_draws:
        raise UserError(
            "config.eval leaves no likelihood to evaluate: set probes to 0 or more, or bound_draws "
            "to 1 or more"
        )
    ode, bound = None, None
    with blame("eval"):
        if section.probes >= 0:
            nats = section.bits_tol * math.prod(shape) * math.log(2)
            ode = ODELikelihood(flow, section.probes, tolerance=nats)
        if section.bound_draws:
            bound = Bound(process, objectives.LogSNRUniform(process), section.bound_draws)
    return ode, bound
