"""Diffusion posterior sampling as its authors' code has it: a predictor, then a gradient step."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Inexact, PyTree

from score_sde.arrays import ScoreFn, Time, batch_time, left_broadcast
from score_sde.inverse.denoise import denoise
from score_sde.inverse.measurement import Measurement
from score_sde.inverse.operators import inner, reciprocal
from score_sde.sde import Perturbation
from score_sde.steppers.base import Around, Noise, X
from score_sde.steppers.reverse import Ancestral, EulerMaruyama, ReverseDiffusion


@dataclasses.dataclass(frozen=True, eq=False)
class DPS(Around):
    """x_s = predictor(x_t) - zeta grad_x |y - A x0(x_t)|, x0 being Tweedie's denoiser at time t.

    The norm is a sample's own. It is the norm itself, not its square: the paper's step zeta/|r| on
    |r|^2 is twice this one. The noise of the measurement is not used. The predictor and the
    gradient share one evaluation of the score and take one vector-Jacobian product. The authors'
    settings also clip x0 to the range of pixels, which is left out here. `guidance.dps` is the
    method as a score.

    Args:
        stepper: a predictor that evaluates the score once, at the start of a step. The authors take
            `Ancestral`.
        process: gives alpha and sigma.
        measurement: one row a sample.
        zeta: length of the gradient step, 0.3 to 1 in the paper.

    Raises:
        ValueError: for another predictor, which would ask for the score elsewhere.

    Source: Chung et al. 2023, "Diffusion posterior sampling", algorithm 1, and their code.
    """

    stepper: Ancestral | ReverseDiffusion | EulerMaruyama
    process: Perturbation
    measurement: Measurement
    zeta: float = 1.0

    def __post_init__(self):
        if not isinstance(self.stepper, Ancestral | ReverseDiffusion | EulerMaruyama):
            raise ValueError(
                "DPS shares one score, at the start of the step, with its predictor; "
                f"{type(self.stepper).__name__} may ask for others; take Ancestral, "
                "ReverseDiffusion or EulerMaruyama"
            )

    def __call__(
        self, score_fn: ScoreFn, x: X, t: Time, s: Time, noise: Noise, carry: PyTree
    ) -> tuple[X, X, PyTree]:
        now = denoise(score_fn, self.process, x, batch_time(t, x))
        operator, y = self.measurement.operator, self.measurement.y
        direction = now.pull(operator.adjoint(_unit(y - operator.forward(now.x0))))
        x, mean, carry = self.stepper(lambda x, t: now.score, x, t, s, noise, carry)
        return x + self.zeta * direction, mean + self.zeta * direction, carry


def _unit(residual: Inexact[Array, "batch ..."]) -> Inexact[Array, "batch ..."]:
    """residual/|residual| of each sample; 0 where it is 0."""
    length = left_broadcast(reciprocal(jnp.sqrt(inner(residual, residual))), residual)
    return length.astype(residual.dtype) * residual
