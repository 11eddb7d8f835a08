"""The probability-flow ODE: a deterministic map between data and latents, solved by diffrax.

dx/dt = f(x, t) - g(t)^2/2 score(x, t) has the marginals of the SDE (dissertation eq. 7.13, B.5.4).
Encoding integrates it from t_min to t_max, decoding back.

What is integrated is y = x/S(t), with S(t)^2 = alpha^2 c^2 + sigma^2 the variance that data from
N(0, c^2 I) would have:

    dy/dt = -g^2/(2 S^2) (y + S score(S y, t))

For such data y stands still; for others it stays of order 1, so one absolute tolerance serves from
data to noise.

Each sample has its own step sizes and its own error control, so a result does not depend on the
batch it is in. All samples of a batch are solved in one compiled call; it lasts as long as the
hardest sample.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from score_sde.arrays import ScoreFn
from score_sde.sde import GaussianSDE

DATA_STD = 0.5
"""c: about the spread of pixels in [-1, 1].

Twice as much changes the number of evaluations by some percent.
"""

Variable = Literal["t", "angle", "log_snr", "angle_log_snr"]
"""What is integrated over: time, arctan(sigma/(alpha c)), log(alpha^2/sigma^2), or the mean of the
last two, each as a share of its range."""

FIRST = {"t": 1e-3, "angle": 0.08, "log_snr": 1e-3, "angle_log_snr": 1e-3}
"""The first step that is tried, as a share of the whole."""

Field = Callable[[Float[Array, ""], Any, Any], Any]
"""(t, state of one sample, data of that sample) -> d state/dt."""


class Solution(NamedTuple):
    """state: at the end, for each sample. nfe: (batch,), evaluations of the field.

    nfe is -1 where the solver's number is unknown. success: (batch,); False where the solver gave
    up (too many steps, or values that are not
        finite).
    """

    state: PyTree
    nfe: Int[Array, "batch"]
    success: Bool[Array, "batch"]


@dataclasses.dataclass(frozen=True)
class AdamsMoulton:
    """A fixed number of steps, for all samples alike: one evaluation each, and one at the start.

    The polynomial through the last `order - 1` derivatives predicts the end of a step
    (Adams-Bashforth). There the derivative is evaluated. The polynomial through it and the last
    `order - 1` corrects the step (Adams-Moulton). The derivative at the prediction is the one
    that is remembered: there is no evaluation after the correction ("PEC"). The first step is a
    quarter of the others, the second half of them. Their orders, 2 and 3, bound the order of the
    whole by 3 where steps are very small.

    Log p of exact mixtures in 64 dimensions, over the angle: 17, 25, 33, 49 and 65 evaluations err
    by 8e-3, 1e-3, 6e-4, 2e-4 and 6e-5 nats (median) with VP, and alike with VE. Trained networks
    are rougher, at large noise above all. They want variable "angle_log_snr" (digits in single
    precision, VP: 17, 25 and 33 evaluations err by 0.4, 0.1 and 0.05 nats; over the angle by 6, 1.5
    and 0.7).

    Args:
        order: of the correction, 2 or more.

    Raises:
        ValueError: order below 2.

    Source: Hairer, Norsett & Wanner 1993, Solving Ordinary Differential Equations I, section III.1.
    """

    order: int = 4

    def __post_init__(self):
        if self.order < 2:
            raise ValueError(f"order must be 2 or more; got {self.order}")

    def __call__(
        self, rate: Field, ends: Float[Array, "2"], steps: int, y: PyTree, data: Any
    ) -> PyTree:
        """The state y of one sample at the second of `ends`, from that at the first."""
        start, end = ends
        rows = tuple(jnp.asarray(table, start.dtype) for table in self.tables(steps))
        history = jax.tree.map(lambda leaf: jnp.zeros((self.order, *leaf.shape), leaf.dtype), y)

        def step(carry, row):
            y, predicted, history = carry
            node, correct, predict = row
            now = rate(start + node * (end - start), predicted, data)
            history = jax.tree.map(lambda h, d: jnp.roll(h, 1, 0).at[0].set(d), history, now)

            def moved(y, weights):
                return jax.tree.map(
                    lambda y, h: y + (end - start) * jnp.tensordot(weights, h, 1), y, history
                )

            y = moved(y, correct)
            return (y, moved(y, predict), history), None

        (y, _, _), _ = jax.lax.scan(step, (y, y, history), rows)
        return y

    def tables(self, steps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(nodes in [0, 1], weights of corrections, of predictions), with a row for each node.

        Weights are those of the last `order` derivatives, the newest first. The correction of a
        node belongs to the step that ends there, its prediction to the step that begins there.
        """
        sizes = np.ones(steps)
        sizes[:-1][:2] = (0.25, 0.5)[: steps - 1]
        nodes = np.concatenate([[0.0], np.cumsum(sizes)]) / np.sum(sizes)
        correct, predict = np.zeros((2, steps + 1, self.order))
        for i in range(steps + 1):
            last = nodes[max(i - self.order + 1, 0) : i + 1][::-1]
            if i > 0:
                correct[i, : len(last)] = _integrals(last, nodes[i - 1], nodes[i])
            if i < steps:
                last = last[: self.order - 1]
                predict[i, : len(last)] = _integrals(last, nodes[i], nodes[i + 1])
        return nodes, correct, predict


def _integrals(nodes: np.ndarray, start: float, end: float) -> np.ndarray:
    """Integrals from start to end of the Lagrange polynomials of some nodes."""
    places = (nodes - start) / (end - start)
    powers = np.arange(len(nodes))
    return (end - start) * np.linalg.solve(places ** powers[:, None], 1 / (powers + 1))


@dataclasses.dataclass(frozen=True)
class Flow:
    """The probability-flow ODE of `sde` with a way to solve it.

    Args:
        sde: gives the coefficients and the interval [t_min, t_max].
        solver: any diffrax solver; with `steps = 0` it must estimate its error (Tsit5, Dopri5,
            Dopri8, ...). Or `AdamsMoulton`, with `steps`.
        rtol, atol: a step may err by (atol + rtol)/4 in y, which is of order 1, by the root mean
            square over a sample's entries; what is integrated beside it has tolerances of its own.
            Errors grow on the way: there and back, mixtures in 2 to 64 dimensions return to within
            5 (atol + rtol).
        steps: number of steps, equal in `variable` but for the start of `AdamsMoulton`; 0 chooses
            them by the error.
        variable: integrate in "t", in "log_snr", log(alpha^2/sigma^2), in "angle_log_snr", or in
            "angle", arctan(sigma/(alpha c)), in which y moves with a bounded velocity. The path is
            the same, the steps are not. At loose tolerances the angle is the cheapest for exact
            mixtures: 64 dimensions, double precision, rtol = atol = 1e-3: log p errs by 7e-4 nats
            (median) with 56 evaluations for VP, sub-VP, VE and EDM; t takes 89 to 106. Between t
            and log_snr, t is the cheaper or the more exact: evaluations for log p at 1e-5 (median
            error in nats), t against log_snr: mixtures in 64 dimensions, VP 156 (4e-7), 220 (1e-6),
            sub-VP 184 (3e-7), 276 (6e-7), EDM 227 (1e-6), 211 (9e-7), for VE both are one; DDPM++
            trained on digits, in single precision, at 1e-4 246 (5e-2), 289 (4e-2), at 1e-3 150
            (3e-2), 120 (7e-2).
        max_steps: per sample, accepted and rejected together. `steps` may not be more.

    Raises:
        ValueError: an unknown variable, numbers of steps or tolerances out of range, or a solver
            without an error estimate and no `steps`.
    """

    sde: GaussianSDE
    solver: diffrax.AbstractSolver | AdamsMoulton = dataclasses.field(
        default_factory=diffrax.Dopri5
    )
    rtol: float = 1e-5
    atol: float = 1e-5
    steps: int = 0
    variable: Variable = "t"
    max_steps: int = 10_000

    def __post_init__(self):
        if self.variable not in get_args(Variable):
            known = ", ".join(map(repr, get_args(Variable)))
            raise ValueError(f"variable must be one of {known}; got {self.variable!r}")
        if self.steps < 0 or self.max_steps < 1:
            raise ValueError(
                f"steps must be >= 0 and max_steps >= 1; got {self.steps}, {self.max_steps}"
            )
        if self.steps > self.max_steps:
            raise ValueError(
                f"steps={self.steps:,} is more than max_steps={self.max_steps:,}; take fewer, as "
                "hundreds are mostly enough, or raise max_steps"
            )
        if not self.steps and not isinstance(self.solver, diffrax.AbstractAdaptiveSolver):
            raise ValueError(
                f"{type(self.solver).__name__} does not estimate its error, so it cannot choose "
                "its steps; give steps=N, or a solver such as Tsit5 or Dopri5"
            )
        if not self.steps and (self.rtol <= 0 or self.atol <= 0):
            raise ValueError(f"tolerances must be positive; got rtol={self.rtol}, atol={self.atol}")

    def encode(self, score_fn: ScoreFn, x: Float[Array, "batch ..."]) -> Solution:
        """Data at t_min -> latents at t_max."""
        return self._transport(score_fn, x, self.sde.t_min, self.sde.t_max)

    def decode(self, score_fn: ScoreFn, z: Float[Array, "batch ..."]) -> Solution:
        """Latents at t_max -> data at t_min.

        z from N(0, prior_std^2 I) gives samples of the model.
        """
        return self._transport(score_fn, z, self.sde.t_max, self.sde.t_min)

    def _transport(self, score_fn, x, start, end):
        y, nfe, success = self.solve(
            self.field(score_fn), x / self.scale(start, x.dtype), start, end
        )
        return Solution(y * self.scale(end, x.dtype), nfe, success)

    @property
    def tolerance(self) -> float:
        """What a step may err by in y: (atol + rtol)/4."""
        return (self.atol + self.rtol) / 4

    def scale(self, t: float | Float[Array, ""], dtype=None) -> Float[Array, ""]:
        """S(t) = sqrt(alpha^2 c^2 + sigma^2)."""
        alpha, sigma = self.sde.marginal(jnp.asarray(t, dtype))
        return jnp.sqrt((alpha * DATA_STD) ** 2 + sigma**2)

    def field(self, score_fn: ScoreFn) -> Field:
        """dy/dt = -g^2/(2 S^2) (y + S score(S y, t)) for one sample y = x/S."""

        def drift(t, y, _):
            _, g2 = self.sde.coefficients(t)
            scale = self.scale(t)
            return -0.5 * g2 / scale**2 * (y + scale * score_fn((scale * y)[None], t[None])[0])

        return drift

    def solve(
        self,
        field: Field,
        state: PyTree,
        start: float,
        end: float,
        data: PyTree = None,
        tolerances: PyTree = None,
    ) -> Solution:
        """Integrate d state/dt = field(t, state, data) of each sample from time `start` to `end`.

        `state`: arrays with a leading batch axis, of one floating type. `data`: likewise, constants
        of each sample; they do not enter the error. `tolerances`: absolute, one for each part of
        the state; `tolerance` for all where not given.
        """
        if tolerances is None:
            tolerances = jax.tree.map(lambda _: self.tolerance, state)
        with jax.ensure_compile_time_eval():
            ends = jnp.asarray([start, end], jax.tree.leaves(state)[0].dtype)
            ends = self._of_time(ends)
        rate: Any = self._rate(field)
        solver = self.solver
        if isinstance(solver, AdamsMoulton):
            final = jax.vmap(lambda y, data: solver(rate, ends, self.steps, y, data))(state, data)
            nfe = jnp.full(len(jax.tree.leaves(state)[0]), self.steps + 1)
            return Solution(final, nfe, _finite(final))
        with jax.ensure_compile_time_eval():
            control, first, limit = self._step_control(ends[1] - ends[0], tolerances)
            times = _as_numbers(ends[0], ends[1], first)
        term = diffrax.ODETerm(rate)

        def solve_one(y0, data):
            solution = diffrax.diffeqsolve(
                term,
                solver,
                *times,
                y0,
                data,
                stepsize_controller=control,
                saveat=diffrax.SaveAt(t1=True),
                max_steps=limit,
                throw=False,
            )
            final = jax.tree.map(lambda leaf: leaf[0], solution.ys)
            reached = solution.result == diffrax.RESULTS.successful
            return final, self._evaluations(solution.stats["num_steps"]), reached

        final, nfe, reached = jax.vmap(solve_one)(state, data)
        return Solution(final, nfe, reached & _finite(final))

    def _of_time(self, t: Float[Array, "..."]) -> Float[Array, "..."]:
        """The variable of integration at time t."""
        if self.variable == "t":
            return t
        if self.variable == "log_snr":
            return self.sde.log_snr(t)
        if self.variable == "angle_log_snr":
            return self._mean_share(self.sde.log_snr(t))
        alpha, sigma = self.sde.marginal(t)
        return jnp.arctan2(sigma, alpha * DATA_STD)

    def _log_snrs(self, dtype) -> Float[Array, "2"]:
        """The log-SNR at t_min and at t_max."""
        return self.sde.log_snr(jnp.asarray([self.sde.t_min, self.sde.t_max], dtype))

    def _mean_share(self, log_snr: Float[Array, "..."]) -> Float[Array, "..."]:
        """Mean of the shares of the ranges of angle and log-SNR that lie before it; from 0 to 1."""
        ends = self._log_snrs(log_snr.dtype)

        def angle(log_snr):
            return jnp.arctan(jnp.exp(-log_snr / 2) / DATA_STD)

        first, last = angle(ends)
        of_angle = (angle(log_snr) - first) / (last - first)
        return (of_angle + (log_snr - ends[0]) / (ends[1] - ends[0])) / 2

    def _time_at(self, value: Float[Array, ""]) -> Float[Array, ""]:
        """The time at which the variable of integration, which is not t, has this value."""
        if self.variable == "angle":
            value = -2 * jnp.log(DATA_STD * jnp.tan(value))
        if self.variable == "angle_log_snr":
            value = self._log_snr_at_share(value)
        return self.sde.time_at_log_snr(value)

    def _log_snr_at_share(self, share: Float[Array, ""]) -> Float[Array, ""]:
        """The inverse of `_mean_share`, by bisection to the last bit."""

        def halve(_, ends):
            before, behind = ends
            middle = (before + behind) / 2
            early = self._mean_share(middle) < share
            return jnp.where(early, middle, before), jnp.where(early, behind, middle)

        ends = self._log_snrs(share.dtype)
        before, behind = jax.lax.fori_loop(0, 60, halve, (ends[0], ends[1]))
        return (before + behind) / 2

    def _rate(self, field: Field) -> Field:
        """`field` as the derivative with respect to the variable of integration."""
        if self.variable == "t":
            return field

        def rate(value, y, data):
            t = self._time_at(value)
            _, slope = jax.jvp(self._of_time, (t,), (jnp.ones_like(t),))
            return jax.tree.map(lambda d: d / slope, field(t, y, data))

        return rate

    def _step_control(
        self, length: Float[Array, ""], tolerances: PyTree
    ) -> tuple[diffrax.AbstractStepSizeController, Float[Array, ""], int]:
        """(controller, first step, most steps) of an integration over `length`."""
        if self.steps:
            # Rounding may leave a sliver, which takes one more step.
            return diffrax.ConstantStepSize(), length / self.steps, self.steps + 1
        # Growth is limited: of a step much longer than the last the error estimate may be small
        # by accident.
        control = diffrax.PIDController(
            0.0,
            1.0,
            pcoeff=0.2,
            icoeff=0.7,
            factormax=3.0,
            norm=lambda errors: _worst(errors, tolerances),
        )
        return control, FIRST[self.variable] * length, self.max_steps

    def _evaluations(self, steps: Int[Array, ""]) -> Int[Array, ""]:
        """Evaluations of the field in `steps` steps, accepted or not.

        Where the very first step is rejected, some solvers repeat one evaluation more; it is not
        counted.
        """
        if isinstance(self.solver, diffrax.Euler):
            return steps
        if not isinstance(self.solver, diffrax.AbstractERK):
            return jnp.full_like(steps, -1)
        tableau: Any = self.solver.tableau
        stages, reuse = tableau.num_stages, int(tableau.fsal)
        return (stages - reuse) * steps + reuse


def _as_numbers(*times: Float[Array, ""]) -> tuple[Any, ...]:
    """The times as Python numbers, where these stand for the same type.

    Then diffrax checks their order while it is traced. Of arrays it is checked by a call of Python
    in the compiled program, which keeps the program out of jax's compilation cache.
    """
    usual = jnp.result_type(float)
    if any(isinstance(time, jax.core.Tracer) or time.dtype != usual for time in times):
        return times
    return tuple(float(time) for time in times)


def _finite(state: PyTree) -> Bool[Array, "batch"]:
    """Whether all entries of a sample are finite."""
    rows = [leaf.reshape(len(leaf), -1) for leaf in jax.tree.leaves(state)]
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(row), axis=1) for row in rows]), axis=0)


def _worst(errors: PyTree, tolerances: PyTree) -> Float[Array, ""]:
    """Largest root mean square, by its tolerance, among the parts of a state.

    One over all entries would drown a log-density in pixels.
    """
    parts = jax.tree.map(
        lambda e, tolerance: jnp.sqrt(jnp.mean(e**2)) / tolerance, errors, tolerances
    )
    return jnp.max(jnp.stack(jax.tree.leaves(parts)))


def spherical(
    z0: Float[Array, "batch ..."], z1: Float[Array, "batch ..."], weights: Float[Array, "k"]
) -> Float[Array, "k batch ..."]:
    """Spherical interpolation of latents.

    sin((1-w) a)/sin(a) z0 + sin(w a)/sin(a) z1, a the angle between them. It keeps the norm of
    Gaussian latents, where linear interpolation shrinks it (B.5.4, figure B.40). w = 0 is z0.
    """
    flat0, flat1 = z0.reshape(len(z0), -1), z1.reshape(len(z1), -1)
    norms = jnp.linalg.norm(flat0, axis=1) * jnp.linalg.norm(flat1, axis=1)
    angle = jnp.arccos(jnp.clip(jnp.sum(flat0 * flat1, axis=1) / norms, -1.0, 1.0))
    w = weights[:, None]
    near = angle[None] < 1e-4
    safe = jnp.where(near, 1.0, angle[None])
    parts = (
        jnp.where(near, 1 - w, jnp.sin((1 - w) * safe) / jnp.sin(safe)),
        jnp.where(near, w, jnp.sin(w * safe) / jnp.sin(safe)),
    )
    shape = parts[0].shape + (1,) * (z0.ndim - 1)
    return parts[0].reshape(shape) * z0[None] + parts[1].reshape(shape) * z1[None]
