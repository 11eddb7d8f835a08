"""What a stepper is, and how steppers are joined."""

import abc
import dataclasses

from jaxtyping import Array, Float

from score_sde.types import ScoreFn, Time

State = Float[Array, "batch ..."]
Draws = Float[Array, "draws batch ..."]


class Stepper(abc.ABC):
    """One step x at time t -> x at time s <= t, as a pure function of standard normal draws.

    `__call__(score_fn, x, t, s, z) -> (x, mean)`: z has shape (draws, *x.shape), `mean` is the new state without the
    noise of the last update. The sampler draws z; so a step can be repeated, tested and differentiated.

    A new one sets `draws` (normal draws it consumes) and `nfe` (evaluations of the score) and defines `__call__`.
    """

    draws: int = 1
    nfe: int = 1

    @abc.abstractmethod
    def __call__(self, score_fn: ScoreFn, x: State, t: Time, s: Time, z: Draws) -> tuple[State, State]:
        """(new state, new state without the last noise)."""


class Identity(Stepper):
    """No change: for corrector-only or predictor-only sampling."""

    draws = 0
    nfe = 0

    def __call__(self, score_fn: ScoreFn, x: State, t: Time, s: Time, z: Draws) -> tuple[State, State]:
        return x, x


@dataclasses.dataclass(frozen=True)
class Chain(Stepper):
    """Steppers applied one after the other, all from the same t to the same s; made by `chain`."""

    steppers: tuple[Stepper, ...]

    @property
    def draws(self) -> int:  # type: ignore[override]
        """The sum of its parts'."""
        return sum(stepper.draws for stepper in self.steppers)

    @property
    def nfe(self) -> int:  # type: ignore[override]
        """The sum of its parts'."""
        return sum(stepper.nfe for stepper in self.steppers)

    def __call__(self, score_fn: ScoreFn, x: State, t: Time, s: Time, z: Draws) -> tuple[State, State]:
        mean, used = x, 0
        for stepper in self.steppers:
            x, mean = stepper(score_fn, x, t, s, z[used : used + stepper.draws])
            used += stepper.draws
        return x, mean


def chain(*steppers: Stepper) -> Chain:
    """Join steppers. Predictor-corrector sampling (algorithm B.3) is `chain(predictor, corrector)`.

    The published codes run the corrector first, at the time the step starts from:
    `chain(at_start(corrector), predictor)`.
    """
    return Chain(steppers)


@dataclasses.dataclass(frozen=True)
class at_start(Stepper):
    """A stepper that stays at the step's start: called with s = t."""

    stepper: Stepper

    @property
    def draws(self) -> int:  # type: ignore[override]
        """As the stepper's."""
        return self.stepper.draws

    @property
    def nfe(self) -> int:  # type: ignore[override]
        """As the stepper's."""
        return self.stepper.nfe

    def __call__(self, score_fn: ScoreFn, x: State, t: Time, s: Time, z: Draws) -> tuple[State, State]:
        return self.stepper(score_fn, x, t, t, z)
