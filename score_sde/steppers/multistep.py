"""Multistep solvers in log-SNR: DPM-Solver(++), its SDE forms, and UniPC. One evaluation a step."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from score_sde.arrays import ScoreFn, Time, left_broadcast
from score_sde.steppers.base import Noise, Pairs, Stepper, X
from score_sde.steppers.exponential import (
    Exponential,
    Orders,
    Rule,
    check_orders,
    difference_weights,
    each_order,
    highest,
    moments,
    noised,
    order_at,
    select,
)


class History(NamedTuple):
    """What `Multistep` remembers.

    models: predictions of earlier steps, newest first. times: when they were made. taken: steps so
    far.
    """

    models: tuple[X, ...]
    times: tuple[Float[Array, ""], ...]
    taken: Int[Array, ""]


@dataclasses.dataclass(frozen=True)
class Multistep(Stepper):
    """A step with the polynomial through this prediction and those of earlier steps.

    The first steps have as many predictions as there are: order 1, then 2, then 3. Where steps are
    very small, the first one bounds the order of the whole: by 2, with the corrector by 3.

    | method | declaration |
    |---|---|
    | DPM-Solver++(2M), dpmpp_2m | `Multistep(Exponential(process))` |
    | DPM-Solver-2 multistep | `Multistep(Exponential(process, "noise"))` |
    | SDE-DPM-Solver++(2M), dpmpp_2m_sde | `Multistep(Exponential(process, eta=1.0))` |
    | the same, solver type heun | `Multistep(Exponential(process, eta=1.0), 2, "exact")` |
    | dpmpp_3m_sde | `Multistep(Exponential(process, eta=1.0), 3, "exact", published=True)` |
    | UniPC-3 | `Multistep(Exponential(process), 3, corrector=True)` |

    Args:
        exponential: process, prediction and noise.
        order: 1, 2 or 3, or one for each step, see `lowered_orders`.
        weights: of a single difference, see `difference_weights`. UniPC has "bh1" and "bh2";
            DPM-Solver's type "dpmsolver", or midpoint, is "bh2", its type "taylor", or heun,
            "exact".
        corrector: correct each step, but the last, by the prediction at its end, which the next
            step needs in any case. The order is one higher, at no cost, up to that bound.
        published: repeat the published order 3, whose steps are of order 2, see
            `difference_weights`.

    Raises:
        ValueError: an order other than 1, 2, 3; unknown weights; published with a corrector.

    Sources: as `exponential`.
    """

    exponential: Exponential
    order: Orders = 2
    weights: Rule = "bh2"
    corrector: bool = False
    published: bool = False

    def __post_init__(self):
        check_orders(self.order)
        if self.weights not in ("exact", "bh1", "bh2"):
            raise ValueError(f"weights must be 'exact', 'bh1' or 'bh2'; got {self.weights!r}")
        if self.published and self.corrector:
            raise ValueError(
                "published=True repeats codes that have no corrector, but corrector=True; "
                "leave one of them out"
            )

    @property
    def draws(self) -> int:  # type: ignore[override]
        """1 with noise, else 0."""
        return int(self.exponential.eta > 0)

    def init(self, x: X) -> PyTree:
        """No predictions yet."""
        depth = highest(self.order) - 1 + self.corrector
        start = jnp.full((), self.exponential.process.t_max, x.dtype)
        return History((jnp.zeros_like(x),) * depth, (start,) * depth, jnp.zeros((), jnp.int32))

    def evaluations(self, pairs: Pairs) -> int:
        """One a step. Raises ValueError where `order` is a tuple of another length."""
        return len(each_order(self.order, pairs))

    def __call__(
        self, score_fn: ScoreFn, x: X, t: Time, s: Time, noise: Noise, carry: PyTree
    ) -> tuple[X, X, PyTree]:
        model = self.exponential.predict(score_fn, x, t)
        if self.corrector:
            x = jnp.where(carry.taken > 0, x + self._correction(model, t, carry), x)
        order = jnp.minimum(order_at(self.order, carry.taken), carry.taken + 1)
        bridge, earlier = self.exponential.bridge(t, s), highest(self.order) - 1
        nodes = self._nodes(t, s, carry.times[:earlier], carry.taken)
        powers = moments(bridge.z, earlier)
        pairs = list(zip(self._weights(order, powers, bridge.z, nodes), carry.models))
        mean = self.exponential.land(x, (t, s), bridge, model, pairs)
        x = noised(mean, bridge.std, noise, self.exponential.eta)
        depth = len(carry.models)
        models, times = (model, *carry.models)[:depth], (t, *carry.times)[:depth]
        return x, mean, History(models, times, carry.taken + 1)

    def _nodes(self, t: Time, s: Time, times: Sequence[Time], available: Int[Array, ""]):
        """Where earlier predictions lie, in units of the step; -1, -2 where there is none yet."""
        position, h = self.exponential.position, self.exponential.length(t, s)
        return [
            jnp.where(k < available, (position(time) - position(t)) / h, -1.0 - k)
            for k, time in enumerate(times)
        ]

    def _weights(self, order, powers, z: Time, nodes: Sequence[Time], end=()) -> list[Time]:
        """Weights of the prediction at `end`, if given, and then of all earlier ones."""
        square = 0.5 if self.published else 1.0
        table = [
            difference_weights(powers, z, [*end, *nodes[:size]], self.weights, square)
            for size in range(len(nodes) + 1)
        ]
        return select(order, table, z)

    def _correction(self, model: X, t: Time, carry: History) -> X:
        """What the prediction at its end changes in the last step: UniC of Zhao et al. 2023.

        The step as it would be with this value, less the step as it was: the two differ only in the
        weights, so that a change of x in between is kept.
        """
        (first, *others), (before, *times) = carry.models, carry.times
        bridge = self.exponential.bridge(before, t)
        order = jnp.minimum(order_at(self.order, carry.taken - 1), carry.taken)
        nodes = self._nodes(before, t, times, carry.taken - 1)
        powers = moments(bridge.z, len(nodes) + 1)
        predicted = self._weights(order, powers, bridge.z, nodes)
        last, *corrected = self._weights(order, powers, bridge.z, nodes, (jnp.ones_like(bridge.z),))
        change = left_broadcast(last, model) * (model - first)
        for new, old, value in zip(corrected, predicted, others):
            change = change + left_broadcast(new - old, model) * (value - first)
        return -left_broadcast(bridge.gain, model) * change
