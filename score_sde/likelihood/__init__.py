"""Likelihoods: exact by the probability-flow ODE, and bounds."""

from score_sde.likelihood.bound import Bound, kl_bound
from score_sde.likelihood.ode import LogProb, ODELikelihood

__all__ = ["Bound", "LogProb", "ODELikelihood", "kl_bound"]
