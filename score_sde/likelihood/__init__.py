"""Likelihoods: exact by the probability-flow ODE, bounds, and dequantization of integer images."""

from score_sde.likelihood.bound import Bound, kl_bound
from score_sde.likelihood.dequantize import Dequantizer, Uniform, Variational
from score_sde.likelihood.ode import LogProb, ODELikelihood

__all__ = ["Bound", "Dequantizer", "LogProb", "ODELikelihood", "Uniform", "Variational", "kl_bound"]
