"""Samplers that correct the denoised image by the measurement: DDNM, DDRM, DiffPIR; RePaint.

Each step has one evaluation and no derivative of the score. It denoises to x0 with the predicted
noise eps, corrects x0, and returns to noise level s. Samples do not depend on their batch.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree, Real

from score_sde.arrays import ScoreFn, Time, batch_time, left_broadcast
from score_sde.inverse.measurement import Measurement
from score_sde.inverse.operators import Spectrum, reciprocal
from score_sde.sde import Perturbation
from score_sde.steppers.base import Around, Noise, Pairs, Stepper, X


def _denoise(process: Perturbation, score_fn: ScoreFn, x: X, t: Time) -> tuple[X, X]:
    """(x0, eps) at time t."""
    score = score_fn(x, batch_time(t, x))
    return process.tweedie(x, t, score), -left_broadcast(process.marginal(t)[1], x) * score


def _check_part(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be in [0, 1]; got {value}")


@dataclasses.dataclass(frozen=True, eq=False)
class DDNM(Stepper):
    """alpha_s (x0 + A^+ (y - A x0)) + sigma_s (sqrt(1 - eta^2) eps + eta z).

    Measured with noise, the correction and the noise differ in each singular direction. There y has
    the noise std/s_i:

    - sigma_s >= alpha_s std/s_i: the correction is whole, and the new noise has variance
      sigma_s^2 - (alpha_s std/s_i)^2, without eps;
    - below: the correction is multiplied by sqrt(1 - eta^2) sigma_s s_i/(alpha_s std), and the
      noise is eta sigma_s z.

    So no small singular value blows noise up.

    Args:
        process: gives alpha and sigma.
        measurement: one row a sample. Noise needs an operator with a singular value decomposition;
            without one std is taken for 0.
        eta: in [0, 1]; published 0.85, with 100 steps.

    Source: Wang et al. 2023, "Zero-shot image restoration using denoising diffusion null-space
    model", algorithms 1 and 3; the noise as in their code.
    """

    process: Perturbation
    measurement: Measurement
    eta: float = 0.85

    def __post_init__(self):
        _check_part("eta", self.eta)

    def __call__(
        self, score_fn: ScoreFn, x: X, t: Time, s: Time, noise: Noise, carry: PyTree
    ) -> tuple[X, X, PyTree]:
        x0, eps = _denoise(self.process, score_fn, x, t)
        operator = self.measurement.operator
        change = operator.pinv(self.measurement.y - operator.forward(x0))
        alpha, sigma = (left_broadcast(v, x) for v in self.process.marginal(s))
        kept = math.sqrt(1 - self.eta**2)
        found, z = operator.decompose(), noise(0)
        if found is None:
            mean = alpha * (x0 + change) + kept * sigma * eps
            return mean + self.eta * sigma * z, mean, carry
        change, eps, z = (found.from_x(v) for v in (change, eps, z))
        measured, spread = _spread(found, self.measurement.std, x)
        spread, noisy = alpha * spread, measured & (spread > 0)
        coarse, fine = noisy & (sigma >= spread), noisy & (sigma < spread)
        weight = jnp.where(fine, kept * sigma * reciprocal(spread), 1.0)
        fresh = jnp.where(coarse, jnp.sqrt(jnp.maximum(sigma**2 - spread**2, 0)), self.eta * sigma)
        mean = alpha * weight * change + jnp.where(noisy, 0.0, kept * sigma * eps)
        mean = alpha * x0 + found.to_x(mean)
        return mean + found.to_x(fresh * z), mean, carry


@dataclasses.dataclass(frozen=True, eq=False)
class DDRM(Stepper):
    """Sampling in the singular directions of A, each by its own rule.

    With rho = sigma/alpha, b_i = u_i^T y/s_i and its noise n_i = std/s_i, the direction i of
    x_s/alpha_s is

    - x0_i + rho_s (sqrt(1 - eta^2) eps_i + eta z) where nothing is measured;
    - x0_i + rho_s (sqrt(1 - eta^2) (b_i - x0_i)/n_i + eta z) where rho_s < n_i;
    - (1 - eta_b) x0_i + eta_b b_i + sqrt(rho_s^2 - (eta_b n_i)^2) z elsewhere.

    Args:
        process: gives alpha and sigma.
        measurement: one row a sample; its operator has a singular value decomposition.
        eta, eta_b: in [0, 1]; published 0.85 and 1, with 20 steps.

    Source: Kawar et al. 2022, "Denoising diffusion restoration models", eqs. 7 and 8.
    """

    process: Perturbation
    measurement: Measurement
    eta: float = 0.85
    eta_b: float = 1.0

    def __post_init__(self):
        _check_part("eta", self.eta)
        _check_part("eta_b", self.eta_b)

    def begin(self, x: X) -> X:
        """The start x from a draw of the prior: measured directions around alpha b_i.

        Those whose noise at t_max is less than that of y are not used, as published.
        """
        t = jnp.asarray(self.process.t_max, x.dtype)
        alpha, sigma = (left_broadcast(v, x) for v in self.process.marginal(t))
        found = self.measurement.operator.spectrum()
        measured, spread = _spread(found, self.measurement.std, x)
        z = found.from_x(x / self.process.prior_std)
        around = alpha * self._seen(found)
        around += jnp.sqrt(jnp.maximum(sigma**2 - (alpha * spread) ** 2, 0)) * z
        return found.to_x(jnp.where(measured & (sigma > alpha * spread), around, sigma * z))

    def __call__(
        self, score_fn: ScoreFn, x: X, t: Time, s: Time, noise: Noise, carry: PyTree
    ) -> tuple[X, X, PyTree]:
        found = self.measurement.operator.spectrum()
        x0, eps, z = (found.from_x(v) for v in (*_denoise(self.process, score_fn, x, t), noise(0)))
        alpha, sigma = (left_broadcast(v, x) for v in self.process.marginal(s))
        measured, spread = _spread(found, self.measurement.std, x)
        seen, rho = self._seen(found), sigma / alpha
        fine, kept = measured & (rho < spread), math.sqrt(1 - self.eta**2)
        toward = jnp.where(fine, (seen - x0) * reciprocal(spread), eps)
        other = x0 + rho * kept * toward
        coarse = (1 - self.eta_b) * x0 + self.eta_b * seen
        rest = jnp.sqrt(jnp.maximum(rho**2 - (self.eta_b * spread) ** 2, 0))
        mean = alpha * found.to_x(jnp.where(measured & ~fine, coarse, other))
        fresh = alpha * found.to_x(jnp.where(measured & ~fine, rest, self.eta * rho) * z)
        return mean + fresh, mean, carry

    def _seen(self, found: Spectrum) -> Float[Array, "b ..."]:
        """b_i, 0 where nothing is measured."""
        c = found.from_y(self.measurement.y)
        return reciprocal(found.values).astype(c.dtype) * c


@dataclasses.dataclass(frozen=True, eq=False)
class DiffPIR(Stepper):
    """alpha_s p + sigma_s (sqrt(1 - zeta) eps_p + sqrt(zeta) z), eps_p = (x - alpha_t p)/sigma_t.

    p = argmin_u |y - A u|^2/std^2 + weight |u - x0|^2/rho_t^2 with rho = sigma/alpha, which is
    x0 + A^T (A A^T + (weight std^2/rho_t^2) I)^-1 (y - A x0). With std = 0 it meets y exactly.

    Args:
        process: gives alpha and sigma.
        measurement: one row a sample.
        weight: lambda > 0, in the paper 1 to 25.
        zeta: share of new noise, in [0, 1].

    Source: Zhu et al. 2023, "Denoising diffusion models for plug-and-play image restoration",
    algorithm 1. Their code for blur has weight 1 and zeta 0.1.
    """

    process: Perturbation
    measurement: Measurement
    weight: float = 7.0
    zeta: float = 0.3

    def __post_init__(self):
        _check_part("zeta", self.zeta)
        if self.weight <= 0:
            raise ValueError(f"weight must be positive; got {self.weight}")

    def __call__(
        self, score_fn: ScoreFn, x: X, t: Time, s: Time, noise: Noise, carry: PyTree
    ) -> tuple[X, X, PyTree]:
        x0, _ = _denoise(self.process, score_fn, x, t)
        operator, y, std = (
            self.measurement.operator,
            self.measurement.y,
            self.measurement.std,
        )
        alpha_t, sigma_t = self.process.marginal(batch_time(t, x))
        shift = self.weight * (std * alpha_t / sigma_t) ** 2
        p = x0 + operator.adjoint(operator.solve(y - operator.forward(x0), shift))
        eps = (x - left_broadcast(alpha_t, x) * p) / left_broadcast(sigma_t, x)
        alpha, sigma = (left_broadcast(v, x) for v in self.process.marginal(s))
        mean = alpha * p + math.sqrt(1 - self.zeta) * sigma * eps
        return mean + math.sqrt(self.zeta) * sigma * noise(0), mean, carry


@dataclasses.dataclass(frozen=True, eq=False)
class RePaint(Around):
    """A stepper that also goes back: a step to more noise is the forward process, a x + b z.

    The grid says where, see `grids.with_jumps`. A method with memory begins anew after a jump.

    Args:
        process: the forward process.
        stepper: takes the steps to less noise; made by `after`, it keeps what is known.

    Source: Lugmayr et al. 2022, "RePaint", algorithm 1; published jump and resample 10.
    """

    process: Perturbation
    stepper: Stepper

    @property
    def draws(self) -> int:  # type: ignore[override]
        """As the stepper's, at least the one of a jump."""
        return max(self.stepper.draws, 1)

    def taken(self, pairs: Pairs) -> Real[np.ndarray, "m 2"]:
        """The steps to less noise."""
        return pairs[pairs[:, 1] <= pairs[:, 0]]

    def __call__(
        self, score_fn: ScoreFn, x: X, t: Time, s: Time, noise: Noise, carry: PyTree
    ) -> tuple[X, X, PyTree]:
        def back():
            a, b = (left_broadcast(v, x) for v in self.process.transition(s, t))
            return a * x + b * noise(0), a * x, self.stepper.init(x)

        return jax.lax.cond(
            jnp.any(s > t), back, lambda: self.stepper(score_fn, x, t, s, noise, carry)
        )


def _spread(
    found: Spectrum, std: Float[Array, "b"], x: X
) -> tuple[Bool[Array, "rows ..."], Float[Array, "b ..."]]:
    """(which coordinates are measured, std/s_i there and 0 elsewhere), as x's type."""
    values = found.values.astype(x.dtype)
    noise = std.astype(x.dtype).reshape(-1, *(1,) * (values.ndim - 1))
    return values > 0, noise * reciprocal(values)
