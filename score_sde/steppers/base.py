"""What a stepper is, and how steppers are joined."""

import abc
import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Array, Float, Int, PyTree, Real

from score_sde.arrays import ScoreFn, Time

X = Float[Array, "batch ..."]
"""Samples on their way from noise to data."""

Noise = Callable[[int | Int[Array, ""]], X]
"""noise(j): the j-th standard normal draw of a step, in the shape of x. One j gives one draw."""

Pairs = Real[np.ndarray, "n 2"]
"""Steps of a time grid: (from, to)."""


class Stepper(abc.ABC):
    """One step x at time t -> x at time s <= t, as a pure function of standard normal draws.

    A new stepper defines `__call__`. It sets `draws` unless it asks for one draw, and overrides
    `evaluations` unless it evaluates the score once. A multistep method overrides `init` as well:
    what it remembers of earlier steps travels in the carry. The others return the carry unchanged.
    """

    draws: int = 1
    """`__call__` asks for noise(0), ..., noise(draws - 1), or fewer of them."""

    def init(self, x: X) -> PyTree:
        """The carry before the first step; x is the start.

        Each array of the carry has one row a sample, or is a scalar. Shapes and types stay the
        same from step to step.
        """
        return ()

    def evaluations(self, pairs: Pairs) -> int:
        """Evaluations of the score in the steps (from, to) of a time grid.

        An adaptive method says how many they are at most.
        """
        return len(pairs)

    def spent(self, carry: PyTree, pairs: Pairs) -> int | Int[Array, "batch"]:
        """Evaluations in a run over the grid that ended with this carry.

        An adaptive method counts them in its carry, for each sample.
        """
        return self.evaluations(pairs)

    @abc.abstractmethod
    def __call__(
        self, score_fn: ScoreFn, x: X, t: Time, s: Time, noise: Noise, carry: PyTree
    ) -> tuple[X, X, PyTree]:
        """(new x, new x without the noise of the last update, carry for the next step)."""


class Identity(Stepper):
    """No change: for corrector-only or predictor-only sampling."""

    draws = 0

    def evaluations(self, pairs: Pairs) -> int:
        """None."""
        return 0

    def __call__(
        self, score_fn: ScoreFn, x: X, t: Time, s: Time, noise: Noise, carry: PyTree
    ) -> tuple[X, X, PyTree]:
        return x, x, carry


@dataclasses.dataclass(frozen=True)
class Chain(Stepper):
    """Steppers applied one after the other, all from the same t to the same s; made by `chain`.

    Its carry is the tuple of theirs. The first part takes the first draws, the next part the next.
    """

    steppers: tuple[Stepper, ...]

    @property
    def draws(self) -> int:  # type: ignore[override]
        """The sum of its parts'."""
        return sum(stepper.draws for stepper in self.steppers)

    def init(self, x: X) -> PyTree:
        """A tuple of its parts' carries."""
        return tuple(stepper.init(x) for stepper in self.steppers)

    def evaluations(self, pairs: Pairs) -> int:
        """The sum of its parts'."""
        return sum(stepper.evaluations(pairs) for stepper in self.steppers)

    def spent(self, carry: PyTree, pairs: Pairs) -> int | Int[Array, "batch"]:
        """The sum of its parts'."""
        each = zip(self.steppers, carry, strict=True)
        return sum((stepper.spent(own, pairs) for stepper, own in each), 0)

    def __call__(
        self, score_fn: ScoreFn, x: X, t: Time, s: Time, noise: Noise, carry: PyTree
    ) -> tuple[X, X, PyTree]:
        mean, first, carries = x, 0, []
        for stepper, own in zip(self.steppers, carry, strict=True):
            x, mean, own = stepper(score_fn, x, t, s, _from(noise, first), own)
            first += stepper.draws
            carries.append(own)
        return x, mean, tuple(carries)


def _from(noise: Noise, first: int) -> Noise:
    """The draws first, first + 1, ..."""
    return lambda j: noise(first + j)


def chain(*steppers: Stepper) -> Chain:
    """Join steppers. Predictor-corrector sampling (algorithm B.3) is `chain(predictor, corrector)`.

    The published codes run the corrector first, at the time the step starts from:
    `chain(at_start(corrector), predictor)`.
    """
    return Chain(steppers)


class Around(Stepper):
    """A step made of one of `stepper`: its carry and its evaluations are that one's.

    A subclass has the field `stepper`, says what it draws beside it, and which steps it leaves to
    it.
    """

    stepper: Stepper

    @property
    def more_draws(self) -> int:
        """Draws beside the stepper's."""
        return 0

    @property
    def draws(self) -> int:  # type: ignore[override]
        """The stepper's and its own."""
        return self.more_draws + self.stepper.draws

    def taken(self, pairs: Pairs) -> Real[np.ndarray, "m 2"]:
        """The steps of `stepper` in the steps of a grid."""
        return pairs

    def init(self, x: X) -> PyTree:
        """As the stepper's."""
        return self.stepper.init(x)

    def evaluations(self, pairs: Pairs) -> int:
        """The stepper's."""
        return self.stepper.evaluations(self.taken(pairs))

    def spent(self, carry: PyTree, pairs: Pairs) -> int | Int[Array, "batch"]:
        """The stepper's."""
        return self.stepper.spent(carry, self.taken(pairs))


@dataclasses.dataclass(frozen=True)
class at_start(Around):
    """A stepper that stays at the step's start: called with s = t."""

    stepper: Stepper

    def taken(self, pairs: Pairs) -> Real[np.ndarray, "m 2"]:
        """Steps from each t to itself."""
        return pairs[:, [0, 0]]

    def __call__(
        self, score_fn: ScoreFn, x: X, t: Time, s: Time, noise: Noise, carry: PyTree
    ) -> tuple[X, X, PyTree]:
        return self.stepper(score_fn, x, t, t, noise, carry)
