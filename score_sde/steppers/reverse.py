"""Predictors: steps of the reverse-time SDE and of the probability flow."""

import dataclasses
from typing import Literal

import jax.numpy as jnp
from jaxtyping import PyTree

from score_sde.arrays import ScoreFn, Time, batch_time, left_broadcast
from score_sde.sde import SDE, Perturbation
from score_sde.steppers.base import Noise, Stepper, X


@dataclasses.dataclass(frozen=True)
class EulerMaruyama(Stepper):
    """x - h (f - (1+eta^2)/2 G G^T score) + eta sqrt(h) G z, h = t - s, for any SDE.

    eta = 1 samples the reverse SDE (dissertation eq. 7.6, B.5). eta = 0 is the probability flow:
    Euler's method for eq. 7.13. Order 1.
    """

    sde: SDE
    eta: float = 1.0

    def __call__(
        self, score_fn: ScoreFn, x: X, t: Time, s: Time, noise: Noise, carry: PyTree
    ) -> tuple[X, X, PyTree]:
        h = left_broadcast(t - s, x)
        mean = x - h * self.sde.reverse_drift(x, t, score_fn(x, batch_time(t, x)), self.eta)
        if self.eta == 0:
            return mean, mean, carry
        return mean + self.eta * jnp.sqrt(h) * self.sde.diffuse(x, t, noise(0)), mean, carry


@dataclasses.dataclass(frozen=True)
class ReverseDiffusion(Stepper):
    """(2 - a) x + (1+eta^2)/2 b^2 score + eta b z, where x_t = a x_s + b z is the forward step.

    The reverse step has the form of the forward one (eq. B.32). eta = 0 is the probability-flow
    predictor of B.5.4. Order 1.
    """

    process: Perturbation
    eta: float = 1.0

    def __call__(
        self, score_fn: ScoreFn, x: X, t: Time, s: Time, noise: Noise, carry: PyTree
    ) -> tuple[X, X, PyTree]:
        a, b = (left_broadcast(v, x) for v in self.process.transition(t, s))
        mean = (2 - a) * x + (1 + self.eta**2) / 2 * b**2 * score_fn(x, batch_time(t, x))
        return mean if self.eta == 0 else mean + self.eta * b * noise(0), mean, carry


@dataclasses.dataclass(frozen=True)
class Ancestral(Stepper):
    """(x + b^2 score)/a + std z: the mean of q(x_s | x_t, x_0) at the denoised x_0.

    Eq. B.33 for VE, 7.4 for VP. Order 1.

    Args:
        process: gives the forward step x_t = a x_s + b z.
        variance: "posterior" uses that distribution's own std, b sigma_s/sigma_t (published for
            VE; a step to clean data has no noise). "forward" uses b (published for VP). Ho et al.
            2020 call them the two extremes.
    """

    process: Perturbation
    variance: Literal["posterior", "forward"] = "posterior"

    def __post_init__(self):
        if self.variance not in ("posterior", "forward"):
            raise ValueError(f"variance must be 'posterior' or 'forward'; got {self.variance!r}")

    def __call__(
        self, score_fn: ScoreFn, x: X, t: Time, s: Time, noise: Noise, carry: PyTree
    ) -> tuple[X, X, PyTree]:
        a, b = (left_broadcast(v, x) for v in self.process.transition(t, s))
        mean = (x + b**2 * score_fn(x, batch_time(t, x))) / a
        return mean + self._std(t, a, b, x) * noise(0), mean, carry

    def _std(self, t, a, b, x):
        if self.variance == "forward":
            return b
        variance_t = left_broadcast(self.process.marginal(t)[1], x) ** 2
        variance_s = jnp.maximum(variance_t - b**2, 0.0) / a**2  # sigma_t^2 = a^2 sigma_s^2 + b^2
        return b * jnp.sqrt(variance_s / variance_t)
