"""Any objective of score matching, applied to perturbed data at all noise levels."""

import dataclasses
import math
from typing import Any, Literal, Protocol, runtime_checkable

from jaxtyping import Array, Float

from score_sde.arrays import Keys, ScoreFn, Time, fold_in
from score_sde.objectives.denoising import Weight
from score_sde.objectives.times import TimeSampler, times_and_noise
from score_sde.sde import Perturbation


@runtime_checkable
class CleanObjective(Protocol):
    """An objective without noise of its own: `draw` has all that is random, `at` nothing."""

    def draw(self, keys: Keys, x: Float[Array, "batch ..."]) -> Any:
        """What is random about the loss, say projections."""
        ...

    def at(
        self, score_fn: ScoreFn, x: Float[Array, "batch ..."], t: Time, draws: Any
    ) -> Float[Array, "batch"]:
        """Loss of each example at times t."""
        ...


@dataclasses.dataclass(frozen=True)
class PerturbedData:
    """lambda(t) L(x_t, t) with x_t = alpha x_0 + sigma z and an objective L of clean data.

    Its mean is lambda/2 E|score(x_t, t) - grad log p_t(x_t)|^2 up to a constant: what denoising
    score matching minimizes, without its targets z/sigma. So NCSNs are trained by sliced score
    matching, with lambda = sigma^2 (section 5.4.2).

    Args:
        objective: L, say `SlicedScoreMatching()`; its own `time` is not used.
        process: the perturbation.
        times: time sampler; its w multiplies the loss.
        weight: lambda, as `objectives.variance_weight(process)`.
        reduce: "sum" for L as it is, half a sum over the D dimensions; "mean" for 2 L/D. Both as
            in `DenoisingScoreMatching`.
    """

    objective: CleanObjective
    process: Perturbation
    times: TimeSampler
    weight: Weight
    reduce: Literal["mean", "sum"] = "sum"

    def __post_init__(self):
        if self.reduce not in ("mean", "sum"):
            raise ValueError(f"reduce must be 'mean' or 'sum'; got {self.reduce!r}")

    def __call__(
        self, keys: Keys, score_fn: ScoreFn, x0: Float[Array, "batch ..."]
    ) -> Float[Array, "batch"]:
        """Loss of each example at a random time; keys: one, or one for each example."""
        t, w, z = self.draw(keys, x0)
        draws = self.objective.draw(fold_in(keys, 2), x0)
        return w * self.at(score_fn, x0, t, z, draws)

    def draw(
        self, keys: Keys, x0: Float[Array, "batch ..."]
    ) -> tuple[Float[Array, "batch"], Float[Array, "batch"], Float[Array, "batch ..."]]:
        """(t, w, z): the random times, weights and noise of `DenoisingScoreMatching`."""
        return times_and_noise(self.times, keys, x0)

    def at(
        self,
        score_fn: ScoreFn,
        x0: Float[Array, "batch ..."],
        t: Float[Array, "batch"],
        z: Float[Array, "batch ..."],
        draws: Any,
    ) -> Float[Array, "batch"]:
        """Loss of each example at times t with noise z and the draws of L, without the factor w."""
        loss = self.objective.at(score_fn, self.process.perturb(x0, t, z), t, draws)
        scale = 1 if self.reduce == "sum" else 2 / math.prod(x0.shape[1:])
        return self.weight(t) * scale * loss
