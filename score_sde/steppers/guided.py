"""A stepper whose score is guided, with a draw of its own or without."""

import dataclasses
from collections.abc import Callable

from jaxtyping import PyTree

from score_sde.arrays import ScoreFn, Time
from score_sde.steppers.base import Around, Noise, Stepper, X


@dataclasses.dataclass(frozen=True, eq=False)
class Guided(Around):
    """A stepper with guide(score_fn, w) in place of score_fn, w being one draw for each call.

    All updates of a corrector share the w of their call. It is draw 0; the stepper takes the next
    ones. The score of the sampler's last operation is not guided.

    Args:
        stepper: the step.
        guide: (score_fn, w) -> score_fn, w standard normal and like x.
        drawn: False makes no draw; w is None.
    """

    stepper: Stepper
    guide: Callable[[ScoreFn, X | None], ScoreFn]
    drawn: bool = True

    @property
    def more_draws(self) -> int:
        """w."""
        return int(self.drawn)

    def __call__(
        self, score_fn: ScoreFn, x: X, t: Time, s: Time, noise: Noise, carry: PyTree
    ) -> tuple[X, X, PyTree]:
        guided = self.guide(score_fn, noise(0) if self.drawn else None)
        return self.stepper(guided, x, t, s, lambda j: noise(self.more_draws + j), carry)
