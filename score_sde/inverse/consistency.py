"""Data consistency: steps that move x_t towards {A x = y_t}, y_t = alpha y + sigma A z.

The measurement y of the clean image is brought to the noise level of the state, z ~ N(0, I). Then
x' = k(x, y_t, lambda) of eq. 8.6 has lambda in [0, 1]: 0 leaves x as it is, 1 gives A x' = y_t. A
*move* is k with the measurement and lambda inside: (x, alpha, sigma, z) -> x', where z = None is no
noise. y_t does not know the noise of the measurement: a noisy y is met too closely unless lambda is
below 1.

`Consistency` is the move as a stepper. `before` and `after` join it with a sampler's stepper.

Source: dissertation section 8.3.2, algorithm 8.2; appendix B.5.9 for known pixels.
"""

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Inexact, PyTree

from score_sde.arrays import ScoreFn, Time, left_broadcast
from score_sde.inverse.measurement import Measurement
from score_sde.inverse.operators import Masked
from score_sde.sde import Perturbation
from score_sde.steppers.base import Around, Chain, Noise, Pairs, Stepper, X, at_start, chain
from score_sde.steppers.langevin import AnnealedLangevin, Langevin

Move = Callable[[X, Time, Time, X | None], X]


def towards(measurement: Measurement, strength: float = 1.0) -> Move:
    """x + lambda A^+ (y_t - A x): the nearest x' with A x' = y_t for lambda = 1.

    Args:
        measurement: one row a sample. Its operator's `pinv` is used.
        strength: lambda.

    Raises:
        ValueError: for lambda outside [0, 1].

    Source: eq. 8.8 with the norm of x itself.
    """
    _check(strength)
    operator, y = measurement.operator, measurement.y

    def move(x, alpha, sigma, z):
        clean = x if z is None else x - _scale(sigma, z)
        return x + strength * operator.pinv(_scale(alpha, y) - operator.forward(clean))

    return move


def overwrite(measurement: Measurement, strength: float = 1.0) -> Move:
    """T^-1 [lambda Lambda y_t + (1 - lambda) Lambda T x + (I - Lambda) T x].

    What is known replaces what is there, so that with T = I and lambda = 1 known pixels are exact
    to the last bit. Here y_t = alpha y + sigma z with noise z of the coordinates T x, which for
    orthogonal T is the same.

    Args:
        measurement: its operator is `Masked`: Lambda is the mask and T the operator inside, which
            must be invertible and keep the shape.
        strength: lambda.

    Raises:
        ValueError: for another operator, and lambda outside [0, 1].

    Source: eq. 8.9.
    """
    _check(strength)
    operator, y = measurement.operator, measurement.y
    if not (isinstance(operator, Masked) and operator.measured == operator.event):
        raise ValueError(
            f"{type(operator).__name__} does not say which coordinates are known; take Masked(T, "
            "mask), as `inpainting` and `grey_channel` make it, or `towards`"
        )

    def move(x, alpha, sigma, z):
        target = _scale(alpha, y) if z is None else _scale(alpha, y) + _scale(sigma, z)
        return _replace(operator, strength, x, target)

    return move


def merged(measurement: Measurement, strength: float = 1.0) -> Move:
    """T^+ [lambda Lambda y_t + (1 - lambda) Lambda T x + (I - Lambda) T x], any T.

    Here y_t = alpha y + sigma T z. The published step where T x has more numbers than x, such as
    the k-space of a real image: T^+ then loses what is not T of an image. For lambda = 1 it does
    not give A x' = y_t: a frequency that is known without its mirror gets the mean of y_t and of
    what was there. `towards` does. Both agree for masks with mirror symmetry.

    Args: as `overwrite`, T need not keep the shape.

    Raises:
        ValueError: for an operator other than `Masked`, and lambda outside [0, 1].

    Source: eq. 8.9, and the code of Song et al. 2022, "Solving inverse problems in medical imaging
    with score-based generative models", which takes the real part.
    """
    _check(strength)
    operator, y = measurement.operator, measurement.y
    if not isinstance(operator, Masked):
        raise ValueError(
            f"{type(operator).__name__} does not say which of its data are known; the published "
            "projection needs Masked(T, mask), as `single_coil` makes it"
        )

    def move(x, alpha, sigma, z):
        target = _scale(alpha, y)
        if z is not None:
            target = target + operator.operator.forward(_scale(sigma, z))
        return _replace(operator, strength, x, target)

    return move


def _replace(operator: Masked, strength: float, x: X, target: Inexact[Array, "b ..."]) -> X:
    """x with its known data moved to the target by lambda, the others as they are."""
    c = operator.operator.forward(x)
    kept = jnp.where(operator.mask, (1 - strength) * c + strength * target, c)
    return operator.operator.pinv(kept)


def consistent(measurement: Measurement, strength: float = 1.0) -> Move:
    """`overwrite` where coordinates of an orthogonal basis are known, else `towards`.

    Both are the same map, but for rounding.
    """
    operator = measurement.operator
    known = isinstance(operator, Masked) and operator.operator.orthogonal
    real = operator.measured == operator.event and not jnp.iscomplexobj(measurement.y)
    return (overwrite if known and real else towards)(measurement, strength)


def exact(measurement: Measurement) -> Callable[[X], X]:
    """x -> k(x, y, 1), the last operation, for samples whose measurement has no noise.

    The others stay as they are.
    """
    move = consistent(measurement)

    def finish(x):
        one = jnp.ones((), x.dtype)
        free = left_broadcast(measurement.std == 0, x)
        return jnp.where(free, move(x, one, 0 * one, None), x)

    return finish


@dataclasses.dataclass(frozen=True, eq=False)
class Consistency(Stepper):
    """x -> k(x, y_s, lambda) at the end s of a step, with one draw and no evaluation.

    Its mean is k(x, alpha y, lambda), without the noise.

    Args:
        process: gives alpha and sigma.
        move: made by `consistent`, `towards` or `overwrite`.
    """

    process: Perturbation
    move: Move
    draws = 1

    def evaluations(self, pairs: Pairs) -> int:
        """None."""
        return 0

    def __call__(
        self, score_fn: ScoreFn, x: X, t: Time, s: Time, noise: Noise, carry: PyTree
    ) -> tuple[X, X, PyTree]:
        return self.at(x, s, noise(0)), self.at(x, s, None), carry

    def at(self, x: X, s: Time, z: X | None) -> X:
        """k at time s."""
        return self.move(x, *self.process.marginal(s), z)


@dataclasses.dataclass(frozen=True, eq=False)
class Followed(Around):
    """A stepper, then consistency of its state and of its mean, at the time where it leaves them.

    The draw of the consistency is the last. Made by `after`.
    """

    stepper: Stepper
    consistency: Consistency

    @property
    def more_draws(self) -> int:
        """That of the consistency."""
        return 1

    def __call__(
        self, score_fn: ScoreFn, x: X, t: Time, s: Time, noise: Noise, carry: PyTree
    ) -> tuple[X, X, PyTree]:
        x, mean, carry = self.stepper(score_fn, x, t, s, noise, carry)
        time = t if isinstance(self.stepper, at_start) else s
        z = noise(self.stepper.draws)
        return self.consistency.at(x, time, z), self.consistency.at(mean, time, None), carry


def before(consistency: Consistency, stepper: Stepper) -> Chain:
    """Consistency before each part of a stepper, at the noise level where that part starts.

    A predictor starts at t, a corrector stays at s, and `at_start` at t. Algorithm 8.2.
    """
    return chain(
        *(
            step
            for part in parts(stepper)
            for step in (consistency if _stays(part) else at_start(consistency), part)
        )
    )


def after(consistency: Consistency, stepper: Stepper) -> Chain:
    """Consistency after each part of a stepper, at the noise level where that part ends (B.5.9)."""
    return chain(*(Followed(part, consistency) for part in parts(stepper)))


def parts(stepper: Stepper) -> tuple[Stepper, ...]:
    """What a chain is made of, or the stepper alone."""
    if not isinstance(stepper, Chain):
        return (stepper,)
    return tuple(part for one in stepper.steppers for part in parts(one))


def _stays(part: Stepper) -> bool:
    """Whether a part takes x at the end s of the step already."""
    return isinstance(part, Langevin | AnnealedLangevin)


def _check(strength: float) -> None:
    if not 0 <= strength <= 1:
        raise ValueError(f"lambda must be in [0, 1]; got {strength}")


def _scale(factor: Time, v: Inexact[Array, "b ..."]) -> Inexact[Array, "b ..."]:
    return left_broadcast(factor, v).astype(v.dtype) * v
