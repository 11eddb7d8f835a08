"""Adaptive single-step solvers in log-SNR: as many steps as a tolerance asks for."""

import dataclasses
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from score_sde.arrays import ScoreFn, Time, batch_time, left_broadcast
from score_sde.steppers.base import Noise, Pairs, Stepper, X
from score_sde.steppers.exponential import Exponential, moments
from score_sde.steppers.singlestep import (
    Kind,
    check_stages,
    inner_time,
    second_stage,
    stage_weights,
)

Rows = Float[Array, "batch"]

Control = Callable[[Rows, Rows, Rows, int], tuple[Bool[Array, "batch"], Rows]]
"""(error, wanted step, step made, order) -> (whether to accept it, the next wanted step).

Steps are in lambda. The step made is shorter than wanted where the end is near. An error of 1 is
what the tolerances allow.
"""


def power_control(
    error: Rows, wanted: Rows, made: Rows, order: int, theta: float = 0.9
) -> tuple[Bool[Array, "batch"], Rows]:
    """Accept an error of at most 1; the next step is theta made error^(-1/order).

    Source: Lu et al. 2022, DPM-Solver, algorithm of the adaptive step size.
    """
    return error <= 1, theta * made * error ** (-1 / order)


def arctan_control(
    error: Rows, wanted: Rows, made: Rows, order: int, threshold: float = 0.81
) -> tuple[Bool[Array, "batch"], Rows]:
    """Multiply the step by f = 1 + arctan((error + 1e-8)^(-1/order) - 1); accept f >= threshold.

    Source: the step control of k-diffusion with its default, integral, coefficients; the limiter is
    that of Soederlind & Wang 2006.
    """
    factor = 1 + jnp.arctan((error + 1e-8) ** (-1 / order) - 1)
    return factor >= threshold, wanted * factor


class Progress(NamedTuple):
    """What `Adaptive` remembers, a row a sample.

    h: step in lambda to try next. lower: last accepted state of the lower order. nfe: evaluations
    so far.
    """

    h: Rows
    lower: X
    nfe: Int[Array, "batch"]


class _Trial(NamedTuple):
    """A loop over trial steps: x at `time`, progress, and how many trials there were."""

    x: X
    time: Rows
    progress: Progress
    trials: Int[Array, ""]


@dataclasses.dataclass(frozen=True)
class Adaptive(Stepper):
    """From t to s in steps of DPM-Solver-12 or -23, each sample with steps of its own.

    A step of `order` and one of the order below share their evaluations. The error is
    rms((higher - lower)/max(atol, rtol max(|lower|, |lower before|))) over a sample's entries. A
    time grid (t_max, t_end) is one call; a longer one only says where states are wanted. A call
    with sigma(s) = 0 gives alpha_s D, by one evaluation.

    A sample that has not arrived after `max_steps` trials is NaN.

    Args:
        exponential: process (a `GaussianSDE`) and prediction, without noise.
        order: 2 or 3, of the solution.
        rtol, atol: tolerances, positive.
        kind: see `singlestep.stage_weights`.
        norm: "sample" gives each sample its own error. The published codes give all samples one
            error, so that a sample depends on its batch: "largest" takes the largest of them
            (DPM-Solver), "batch" the rms over the whole batch (k-diffusion).
        control: of the steps, `power_control` or `arctan_control`.
        first: step in lambda to try first.
        close: a sample has arrived when time is within this of s, as in the published codes; 0
            goes to s itself.
        max_steps: trials in a call.

    Raises:
        ValueError: noise; another order; unknown names; a process without times in between.

    Source: Lu et al. 2022, "DPM-Solver", adaptive step size.
    """

    exponential: Exponential
    order: int = 3
    rtol: float = 0.05
    atol: float = 0.0078
    kind: Kind = "dpmsolver"
    norm: Literal["sample", "largest", "batch"] = "sample"
    control: Control = power_control
    first: float = 0.05
    close: float = 0.0
    max_steps: int = 1000

    draws = 0

    def __post_init__(self):
        check_stages(self.exponential, self.kind)
        if self.exponential.eta > 0:
            raise ValueError(
                "the error is measured between solutions of an ODE, so there can be no noise; "
                f"got eta={self.exponential.eta}"
            )
        if self.order not in (2, 3):
            raise ValueError(f"order must be 2 or 3; got {self.order}")
        if self.norm not in ("sample", "largest", "batch"):
            raise ValueError(f"norm must be 'sample', 'largest' or 'batch'; got {self.norm!r}")
        if not (self.rtol > 0 and self.atol > 0):
            raise ValueError(f"tolerances must be positive; got rtol={self.rtol}, atol={self.atol}")

    def init(self, x: X) -> PyTree:
        """The first step to try, and no evaluations."""
        rows = len(x)
        return Progress(jnp.full(rows, self.first, x.dtype), x, jnp.zeros(rows, jnp.int32))

    def evaluations(self, pairs: Pairs) -> int:
        """At most so many; `spent` has the number for each sample."""
        return self.order * self.max_steps * len(pairs)

    def spent(self, carry: PyTree, pairs: Pairs) -> Int[Array, "batch"]:
        """Evaluations that each sample needed."""
        return carry.nfe

    def __call__(
        self, score_fn: ScoreFn, x: X, t: Time, s: Time, noise: Noise, carry: PyTree
    ) -> tuple[X, X, PyTree]:
        exponential, end = self.exponential, batch_time(s, x)

        def follow():
            start = _Trial(x, batch_time(t, x), carry, jnp.zeros((), jnp.int32))
            last = jax.lax.while_loop(
                lambda trial: jnp.any(self._active(trial, end)) & (trial.trials < self.max_steps),
                lambda trial: self._try(score_fn, trial, end),
                start,
            )
            lost = left_broadcast(self._active(last, end), x)
            return jnp.where(lost, jnp.full_like(x, jnp.nan), last.x), last.progress

        def denoise():
            bridge, first = exponential.bridge(t, s), exponential.predict(score_fn, x, t)
            y = exponential.land(x, (t, s), bridge, first)
            return y, carry._replace(nfe=carry.nfe + 1)

        clean = exponential.process.marginal(jnp.max(end))[1] == 0
        x, carry = jax.lax.cond(clean, denoise, follow)
        return x, x, carry

    def _active(self, trial: _Trial, end: Rows) -> Bool[Array, "batch"]:
        return trial.time - end > self.close

    def _try(self, score_fn: ScoreFn, trial: _Trial, end: Rows) -> _Trial:
        """One trial step of all samples; those that have arrived stay."""
        x, progress = trial.x, trial.progress
        active = self._active(trial, end)
        remaining = self.exponential.length(trial.time, end)
        made = jnp.where(active, jnp.minimum(progress.h, remaining), remaining)
        target = inner_time(self.exponential, trial.time, made)
        target = jnp.where(progress.h < remaining, target, end)
        lower, higher = self._both(score_fn, x, trial.time, target)
        scale = jnp.maximum(jnp.abs(lower), jnp.abs(progress.lower))
        ratio = (higher - lower) / jnp.maximum(self.atol, self.rtol * scale)
        error = self._error(ratio, active)
        accepted, wanted = self.control(error, progress.h, made, self.order)
        moved = active & accepted
        rows = left_broadcast(moved, x)
        return _Trial(
            jnp.where(rows, higher, x),
            jnp.where(moved, target, trial.time),
            Progress(
                jnp.where(active, wanted, progress.h),
                jnp.where(rows, lower, progress.lower),
                progress.nfe + self.order * active.astype(jnp.int32),
            ),
            trial.trials + 1,
        )

    def _error(self, ratio: X, active: Bool[Array, "batch"]) -> Rows:
        square = jnp.mean(ratio.reshape(len(ratio), -1) ** 2, axis=1)
        if self.norm == "largest":
            square = jnp.full_like(square, jnp.max(square, where=active, initial=0.0))
        elif self.norm == "batch":
            square = jnp.full_like(square, jnp.mean(square, where=active))
        return jnp.sqrt(square)

    def _both(self, score_fn: ScoreFn, x: X, t: Rows, s: Rows) -> tuple[X, X]:
        """x at s by the order below and by the order, without noise."""
        exponential, order, ends = self.exponential, self.order, (t, s)
        bridge, models = exponential.bridge(t, s), [exponential.predict(score_fn, x, t)]
        reach, position = jnp.abs(bridge.z), exponential.position
        times = [inner_time(exponential, t, k / order * reach) for k in range(1, order)]
        nodes = [(position(time) - position(t)) / reach for time in times]
        for time in times:
            if len(models) == 1:
                y = exponential.land(x, (t, time), exponential.bridge(t, time), models[0])
            else:
                node = nodes[0] / nodes[1]
                y = second_stage(exponential, x, (t, time), node, (models[0], models[1]))
            models.append(exponential.predict(score_fn, y, time))
        powers = moments(bridge.z, order - 1)

        def by(size: int) -> X:
            weights = stage_weights(size, powers, bridge.z, nodes, self.kind)
            return exponential.land(x, ends, bridge, models[0], list(zip(weights, models[1:])))

        return by(order - 1), by(order)
