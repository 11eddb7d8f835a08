"""Likelihoods: exact by the probability-flow ODE, bounds, and dequantization of integer images."""

from score_sde.likelihood.annealed import AnnealedImportanceSampling, Estimate
from score_sde.likelihood.bound import Bound, kl_bound
from score_sde.likelihood.dequantize import Dequantizer, Uniform, Variational
from score_sde.likelihood.ode import LogProb, ODELikelihood

__all__ = [
    "AnnealedImportanceSampling",
    "Bound",
    "Dequantizer",
    "Estimate",
    "LogProb",
    "ODELikelihood",
    "Uniform",
    "Variational",
    "kl_bound",
]
