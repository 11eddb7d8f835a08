"""config.eval: the ODE of the probability flow and the likelihoods."""

import diffrax
import numpy as np
import pytest
from small import settings

from score_sde.build.likelihood import build_flow, build_likelihood
from score_sde.errors import UserError
from score_sde.flow import AdamsMoulton, Flow
from score_sde.sde import VP, DiscreteChain


def test_likelihood_tolerance_is_in_bits_per_dimension() -> None:
    section = settings("vp", "eval.bits_tol=1e-3", "eval.rtol=1e-2", "eval.variable=log_snr").eval
    ode, bound = build_likelihood(section, VP(), (4, 8, 3))
    assert bound is None and ode.flow.rtol == 1e-2 and ode.flow.variable == "log_snr"
    np.testing.assert_allclose(ode.tolerance, 1e-3 * 96 * np.log(2))
    with pytest.raises(
        UserError, match=r"config.eval.probes=0.* each of 3072 dimensions, too many above 1024"
    ):
        build_likelihood(settings("vp", "eval.probes=0").eval, VP(), (32, 32, 3))


def test_which_likelihoods_are_asked_for() -> None:
    ode, bound = build_likelihood(settings("vp", "eval.bound_draws=5").eval, VP(), (8, 8, 1))
    assert ode is not None and bound is not None and bound.draws == 5
    alone = settings("vp", "eval.bound_draws=5", "eval.probes=-1").eval
    assert build_likelihood(alone, VP(), (8, 8, 1))[0] is None
    ode, _ = build_likelihood(settings("vp", "eval.probes=0").eval, VP(), (8, 8, 1))
    assert ode is not None and ode.probes == 0
    with pytest.raises(UserError, match=r"config.eval leaves no likelihood to evaluate"):
        build_likelihood(settings("vp", "eval.probes=-1").eval, VP(), (8, 8, 1))


def test_solvers() -> None:
    section = settings("vp", "eval.solver=dopri8", "eval.atol=1e-3").eval
    flow = build_flow(section, VP())
    assert isinstance(flow.solver, diffrax.Dopri8) and (flow.rtol, flow.atol) == (1e-4, 1e-3)
    with pytest.raises(
        UserError, match=r"config.eval.solver: unknown name 'euler'; known: .*dopri8, adams"
    ):
        build_flow(settings("vp", "eval.solver=euler").eval, VP())
    section = settings("vp", "eval.solver=adams", "eval.steps=24", "eval.variable=angle").eval
    assert build_flow(section, VP()) == Flow(VP(), AdamsMoulton(), 1e-4, 1e-4, 24, "angle")
    with pytest.raises(UserError, match=r"config.eval: AdamsMoulton does not .*give steps=N"):
        build_flow(settings("vp", "eval.solver=adams").eval, VP())
    with pytest.raises(UserError, match=r"need a continuous process.*\*_cont"):
        build_flow(section, DiscreteChain.ddpm())
