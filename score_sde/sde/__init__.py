"""Forward processes: how data becomes noise.

Time runs from t = 0 (data) to t = t_max (noise). Three kinds of process share two small interfaces:

- `Perturbation`: x_t = alpha(t) x_0 + sigma(t) z with z ~ N(0, I). Everything that needs only the
  marginals (objectives, ancestral and reverse-diffusion steps, Tweedie's formula) takes this.
- `SDE`: dx = f(x, t) dt + G(x, t) dw. Everything that needs coefficients (Euler-Maruyama, the ODE)
  takes this.
- `GaussianSDE` is both: its coefficients follow from its marginals. `DiscreteChain` is only the
  first, `MatrixSDE` only the second.

There is no number of steps, no step size and no network in here.

Source: Song, "Learning to Generate Data by Estimating Gradients of the Data Distribution" (2022),
chapter 7 and B.5.
"""

from score_sde.sde.base import SDE, GaussianSDE, Perturbation, probability_flow, simulate
from score_sde.sde.chains import DiscreteChain, PublishedSteps
from score_sde.sde.gaussian import EDM, VE, VP, CosineVP, StraightPath, SubVP
from score_sde.sde.matrix import MatrixSDE
from score_sde.sde.noise import check_noise, noise_range, time_at_noise

__all__ = [
    "EDM",
    "SDE",
    "VE",
    "VP",
    "CosineVP",
    "DiscreteChain",
    "GaussianSDE",
    "MatrixSDE",
    "Perturbation",
    "PublishedSteps",
    "StraightPath",
    "SubVP",
    "check_noise",
    "noise_range",
    "probability_flow",
    "simulate",
    "time_at_noise",
]
