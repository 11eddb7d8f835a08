"""Single-step solvers in log-SNR: DPM-Solver(++) of orders 1 to 3, and its ancestral forms."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from score_sde.arrays import ScoreFn, Time, left_broadcast
from score_sde.sde import GaussianSDE
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

Kind = Literal["dpmsolver", "taylor"]
"""The weights of the stages, see `stage_weights`."""


def stage_weights(
    order: int, powers: Sequence[Time], z: Time, nodes: Sequence[Time], kind: Kind
) -> list[Time]:
    """Weights of the order - 1 inner predictions at `nodes`, see `difference_weights`.

    "taylor" takes the polynomial through all of them. "dpmsolver" takes at order 2 the rule "bh2",
    at order 3 the last prediction alone (DPM-Solver, algorithms 1 and 2).
    """
    if order == 2:
        rule: Rule = "bh2" if kind == "dpmsolver" else "exact"
        return difference_weights(powers, z, nodes[:1], rule)
    if order == 3 and kind == "dpmsolver":
        return [jnp.zeros_like(z), *difference_weights(powers, z, nodes[1:2])]
    return difference_weights(powers, z, nodes[: order - 1])


def check_stages(exponential: Exponential, kind: str) -> None:
    """Raise ValueError where a solver with inner times cannot work, or `kind` is unknown."""
    if kind not in ("dpmsolver", "taylor"):
        raise ValueError(f"kind must be 'dpmsolver' or 'taylor'; got {kind!r}")
    if not isinstance(exponential.process, GaussianSDE):
        raise ValueError(
            "a single-step solver evaluates the score between two times of the grid, and "
            f"{type(exponential.process).__name__} has none there; use Multistep"
        )
    if exponential.eta > 0 and (exponential.prediction, exponential.law) == ("noise", "sde"):
        raise ValueError(
            "a single-step solver renews noise, and prediction='noise' with law='sde' is no such "
            "form; use law='ancestral' or prediction='data'"
        )


def quiet(exponential: Exponential) -> Exponential:
    """The same without noise."""
    return dataclasses.replace(exponential, eta=0.0)


def inner_time(exponential: Exponential, t: Time, way: Time) -> Time:
    """The time at which lambda is lambda(t) + way; at most t_max, at least t_min."""
    process = exponential.process
    assert isinstance(process, GaussianSDE)  # `check_stages`
    return process.time_at_log_snr(2 * (exponential.position(t) + way))


def second_stage(
    exponential: Exponential, x: X, ends: tuple[Time, Time], node: Time, models: tuple[X, X]
) -> X:
    """x at the second inner time of order 3.

    Args:
        exponential: without noise.
        ends: start of the step and the second inner time.
        node: the first inner place, in units of the way to the second.
        models: predictions at the start and at the first inner time.
    """
    bridge = exponential.bridge(*ends)
    weights = difference_weights(moments(bridge.z, 1), bridge.z, [node])
    return exponential.land(x, ends, bridge, models[0], [(weights[0], models[1])])


@dataclasses.dataclass(frozen=True)
class Singlestep(Stepper):
    """A step of order k with k - 1 inner evaluations, and no memory.

    With noise, the ODE is followed to a lower noise level, and noise brings the state back to
    sigma_s: the law of the result is as exact as the solution of the ODE.

    | method | declaration |
    |---|---|
    | DPM-Solver-k | `Singlestep(Exponential(process, "noise"), k)` |
    | DPM-Solver++(2S) | `Singlestep(Exponential(process))` |
    | DPM-Solver-fast | `Singlestep(Exponential(process, "noise"), fast_orders(3, evaluations))` |
    | dpmpp_2s_ancestral | `Singlestep(Exponential(process, eta=1.0, law="ancestral"))` |
    | dpmpp_sde | `Singlestep(Exponential(process, eta=1.0, law="ancestral"), noisy=True)` |

    Args:
        exponential: process (a `GaussianSDE`: there must be times in between), prediction, noise.
        order: 1, 2 or 3, or one for each step, see `fast_orders`.
        kind: see `stage_weights`.
        between: the inner times are spaced evenly in this: "log_snr", "time", or "quadratic" (the
            root of time).
        noisy: with noise, at order 2, the inner state gets its noise too. Both draws belong to one
            Brownian path, in the time e^(2 kappa) in which the noise of the SDE grows.

    Raises:
        ValueError: an order other than 1, 2, 3; unknown names; a process without times in between;
            noise of another form ("noise" prediction with law "sde"); noisy at another order.

    Sources: as `exponential`.
    """

    exponential: Exponential
    order: Orders = 2
    kind: Kind = "dpmsolver"
    between: Literal["log_snr", "time", "quadratic"] = "log_snr"
    noisy: bool = False

    def __post_init__(self):
        check_orders(self.order)
        check_stages(self.exponential, self.kind)
        if self.between not in ("log_snr", "time", "quadratic"):
            raise ValueError(
                f"between must be 'log_snr', 'time' or 'quadratic'; got {self.between!r}"
            )
        if self.noisy and highest(self.order) != 2:
            raise ValueError(f"noisy=True is a method of order 2; got order={self.order}")

    @property
    def draws(self) -> int:  # type: ignore[override]
        """0 without noise, 2 if the inner state gets noise, else 1."""
        return int(self.exponential.eta > 0) * (1 + self.noisy)

    def init(self, x: X) -> PyTree:
        """The number of steps so far."""
        return jnp.zeros((), jnp.int32)

    def evaluations(self, pairs: Pairs) -> int:
        """The sum of the orders; a step to sigma = 0 has order 1.

        Raises ValueError where `order` is a tuple of another length.
        """
        with jax.ensure_compile_time_eval():
            ends = jnp.asarray(pairs[:, 1], float)
            sigma = np.asarray(self.exponential.process.marginal(ends)[1])
        return int(np.where(sigma > 0, each_order(self.order, pairs), 1).sum())

    def __call__(
        self, score_fn: ScoreFn, x: X, t: Time, s: Time, noise: Noise, carry: PyTree
    ) -> tuple[X, X, PyTree]:
        exponential = self.exponential
        clean = exponential.process.marginal(s)[1] == 0
        order = jnp.where(clean, 1, order_at(self.order, carry))
        bridge, first = exponential.bridge(t, s), exponential.predict(score_fn, x, t)
        noisy = self.noisy and exponential.eta > 0
        reach = exponential.length(t, s) if noisy else jnp.abs(bridge.z)
        inner = [self._inner(t, s, reach, order, k) for k in range(1, highest(self.order))]
        if noisy:
            noise = _one_path(noise, exponential.bridge(t, inner[0][0]).kappa, bridge.kappa)
        models = self._models(score_fn, (x, t, first), inner, order, noise)
        nodes = [node for _, node in inner]
        powers, sizes = moments(bridge.z, len(nodes)), range(1, len(nodes) + 2)
        table = [stage_weights(size, powers, bridge.z, nodes, self.kind) for size in sizes]
        weights = select(order, table, bridge.z)
        mean = exponential.land(x, (t, s), bridge, first, list(zip(weights, models)))
        last = (lambda j: noise(1)) if noisy else noise
        return noised(mean, bridge.std, last, exponential.eta), mean, carry + 1

    def _inner(self, t, s, reach, order, k):
        """Time of inner prediction k of a step of this order, and its place in units of reach."""
        position = self.exponential.position
        r = k / jnp.maximum(order, k + 1).astype(t.dtype)
        if self.between == "time":
            time = t + r * (s - t)
        elif self.between == "quadratic":
            time = (jnp.sqrt(t) + r * (jnp.sqrt(s) - jnp.sqrt(t))) ** 2
        else:
            time = inner_time(self.exponential, t, r * reach)
        return time, (position(time) - position(t)) / reach

    def _models(self, score_fn, start, inner, order, noise) -> list[X]:
        """The inner predictions; those that the order of the step has not are not evaluated."""
        x, t, first = start
        stage = self.exponential if self.noisy else quiet(self.exponential)
        models: list[X] = []

        def at_first(time):
            bridge = stage.bridge(t, time)
            y = noised(stage.land(x, (t, time), bridge, first), bridge.std, noise, stage.eta)
            return stage.predict(score_fn, y, time)

        def at_second(time):
            node = inner[0][1] / inner[1][1]
            y = second_stage(stage, x, (t, time), node, (first, models[0]))
            return stage.predict(score_fn, y, time)

        for needed, evaluate, (time, _) in zip((1, 2), (at_first, at_second), inner):
            models.append(jax.lax.cond(order > needed, evaluate, lambda _: first, time))
        return models


def _one_path(noise: Noise, inner: Time, whole: Time) -> Noise:
    """Draw 0 for the way to the inner time, draw 1 for the whole step, of one Brownian path.

    Their correlation is sqrt((e^(2 inner) - 1)/(e^(2 whole) - 1)), for kappa of either way.
    """
    share = jnp.exp(2 * (inner - whole)) * jnp.expm1(-2 * inner) / jnp.expm1(-2 * whole)

    def joined(j):
        if j == 0:
            return noise(0)
        before, after = noise(0), noise(1)
        part, rest = (left_broadcast(jnp.sqrt(v), before) for v in (share, 1 - share))
        return part * before + rest * after

    return joined
