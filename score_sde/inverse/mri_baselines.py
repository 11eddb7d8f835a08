"""MRI without learning: zero-filled images, root of sum of squares, SENSE."""

import jax.numpy as jnp
from jaxtyping import Array, Complex, Float

from score_sde.inverse.measurement import Measurement
from score_sde.inverse.mri import centred_ifft2
from score_sde.inverse.operators import X, conjugate_gradients, least_squares


def zero_filled(measurement: Measurement) -> X:
    """A^H y: the inverse transform with 0 for what is not measured, of coils their combination."""
    return measurement.operator.adjoint(measurement.y)


def root_sum_of_squares(
    kspace: Complex[Array, "b coils h w c"],
) -> Float[Array, "b h w c"]:
    """sqrt(sum_i |F^H y_i|^2): the magnitude of zero-filled coil images, which needs no maps."""
    return jnp.sqrt(jnp.sum(jnp.abs(centred_ifft2(kspace)) ** 2, axis=1))


def sense(measurement: Measurement, steps: int = 30, weight: float = 0.0) -> X:
    """argmin |y - A x|^2 + weight |x|^2 by conjugate gradients.

    Args:
        measurement: usually of `multi_coil`, or of `radial`.
        steps: of conjugate gradients. With weight 0 noise grows with the steps, so that few of them
            are a regularization too.
        weight: >= 0.

    Raises:
        ValueError: for a negative weight or steps below 1.

    Source: Pruessmann et al. 2001, "Advances in sensitivity encoding with arbitrary k-space
    trajectories".
    """
    if weight < 0 or steps < 1:
        raise ValueError(f"sense takes weight >= 0 and steps >= 1; got {weight} and {steps}")
    operator, y = measurement.operator, measurement.y
    if weight == 0:
        return least_squares(operator, y, steps)

    def apply(x):
        return operator.adjoint(operator.forward(x)) + weight * x

    return conjugate_gradients(apply, operator.adjoint(y), steps)
