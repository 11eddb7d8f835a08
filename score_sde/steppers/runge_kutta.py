"""Explicit Runge-Kutta methods for the probability flow: in sigma/alpha, or in the process's time.

DDIM, Heun's method of EDM, DPM-Solver-2 of k-diffusion, its ancestral samplers and the Runge-Kutta
methods of DEIS are all `RungeKutta`. `Churn` adds the noise of EDM's stochastic sampler to any.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PyTree

from score_sde.arrays import ScoreFn, Time, batch_time, left_broadcast
from score_sde.sde import GaussianSDE, Perturbation
from score_sde.steppers.base import Around, Noise, Pairs, Stepper, X
from score_sde.steppers.ratio import predicted_noise, ratio, require_gaussian, time_at


class Tableau(NamedTuple):
    """Coefficients of an explicit method, y + h sum_i b_i k_i.

    k_1 is the slope at the start, k_i the slope at y + h sum_j a_ij k_j, a part sum_j a_ij of the
    step further on.

    rows: a_2, a_3, ..., of 1, 2, ... numbers. weights: b.
    """

    rows: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]


def second_order(alpha: float) -> Tableau:
    """Two slopes, the second one at alpha of the step: order 2 (Karras et al. 2022, algorithm 3).

    alpha = 1 is Heun's method, 1/2 the midpoint rule, 2/3 Ralston's method. Raises ValueError
    unless 0 < alpha <= 1.
    """
    if not 0 < alpha <= 1:
        raise ValueError(f"alpha, the place of the second slope, must be in (0, 1]; got {alpha}")
    return Tableau(((alpha,),), (1 - 1 / (2 * alpha), 1 / (2 * alpha)))


EULER = Tableau((), (1.0,))
HEUN = second_order(1.0)
MIDPOINT = second_order(0.5)
KUTTA = Tableau(((0.5,), (-1.0, 2.0)), (1 / 6, 2 / 3, 1 / 6))
"""Kutta's method of order 3."""
HEUN_3 = Tableau(((1 / 3,), (0.0, 2 / 3)), (1 / 4, 0.0, 3 / 4))
"""Heun's method of order 3."""
RK4 = Tableau(((0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)), (1 / 6, 1 / 3, 1 / 3, 1 / 6))
"""The classical method of order 4."""


def _combine(weights: tuple[float, ...], slopes: list[X]) -> X:
    return sum(w * k for w, k in zip(weights[1:], slopes[1:], strict=True)) + weights[0] * slopes[0]


def _integrate(
    tableau: Tableau,
    slope: Callable[[float, X], X],
    reach: Callable[[float], Time],
    y: X,
    inside: Bool[Array, "..."],
) -> X:
    """One step from y. reach(c) is the length of the way to node c, slope(c, y) the slope there.

    A step that is not `inside`, to the clean image, is Euler's: no score exists at its end. Its
    other stages are not evaluated.
    """
    h = left_broadcast(reach(1.0), y)
    first = slope(0.0, y)
    euler = y + h * first
    if not tableau.rows:
        return euler

    def all_stages():
        slopes = [first]
        for row in tableau.rows:
            c = sum(row)
            slopes.append(slope(c, y + left_broadcast(reach(c), y) / c * _combine(row, slopes)))
        return jnp.where(
            left_broadcast(inside, y), y + h * _combine(tableau.weights, slopes), euler
        )

    return jax.lax.cond(jnp.any(inside), all_stages, lambda: euler)


def _evaluations(process: Perturbation, tableau: Tableau, pairs: Pairs) -> int:
    """One for each stage, and one alone in steps to the clean image."""
    with jax.ensure_compile_time_eval():  # a sampler counts inside jit
        inside = int(jnp.sum(process.marginal(jnp.asarray(pairs[:, 1], float))[1] > 0))
    return len(pairs) + inside * len(tableau.rows)


@dataclasses.dataclass(frozen=True)
class RungeKutta(Stepper):
    """A Runge-Kutta step of dv/drho = eps, v = x/alpha and rho = sigma/alpha, and perhaps noise.

    With eta > 0 the step goes to rho_down < rho(s), then noise of std rho_up lifts it to rho(s):
    rho_up = eta rho_s sqrt(1 - rho_s^2/rho_t^2), at most rho_s, rho_down^2 = rho_s^2 - rho_up^2.

    - EULER: DDIM with any eta (Song et al. 2021, eq. 12, 16), which is "euler" and
      "euler_ancestral" of k-diffusion as well. eta = 1 is ancestral sampling.
    - HEUN: EDM's sampler (Karras et al. 2022, algorithm 1). `second_order` has its relatives.
    - MIDPOINT with nodes "log_rho": DPM-Solver-2 as k-diffusion has it, "dpm_2" and
      "dpm_2_ancestral".
    - HEUN, KUTTA, HEUN_3, RK4: "rho RK" of DEIS (Zhang & Chen 2023, section 4).

    A step to the clean image, `t_clean`, is Euler's and returns the denoised image.

    Args:
        process: gives alpha and sigma. Nodes inside a step need a GaussianSDE.
        tableau: the method.
        nodes: where a node c lies, "rho": rho_t + c (rho_s - rho_t); "log_rho": the same in
            log rho, where methods have order 2 at most.
        eta: the amount of noise. More than one slope then needs nodes "log_rho" up to 1/2: those
            lie above rho(s), where the score is known.
        s_noise: factor of the noise; published values are a little above 1.

    Raises:
        ValueError: for parts that do not go together, as said above.
    """

    process: Perturbation
    tableau: Tableau = EULER
    nodes: Literal["rho", "log_rho"] = "rho"
    eta: float = 0.0
    s_noise: float = 1.0

    def __post_init__(self):
        if self.nodes not in ("rho", "log_rho"):
            raise ValueError(f"nodes must be 'rho' or 'log_rho'; got {self.nodes!r}")
        if self.eta < 0:
            raise ValueError(f"eta must be at least 0; got {self.eta}")
        latest = max((sum(row) for row in self.tableau.rows), default=0.0)
        if self.eta > 0 and latest > (0.5 if self.nodes == "log_rho" else 0):
            raise ValueError(
                f"with noise, eta={self.eta}, a slope at {latest:.3g} of the step ({self.nodes}) "
                "may lie below the end of the step; take EULER, or nodes='log_rho' up to 1/2"
            )
        if any(sum(row) != 1 for row in self.tableau.rows):
            require_gaussian(self.process, f"a Runge-Kutta method with rows {self.tableau.rows}")

    @property
    def draws(self) -> int:  # type: ignore[override]
        """One if there is noise."""
        return int(self.eta > 0)

    def evaluations(self, pairs: Pairs) -> int:
        """One for each stage, and one alone in steps to the clean image."""
        return _evaluations(self.process, self.tableau, pairs)

    def __call__(
        self, score_fn: ScoreFn, x: X, t: Time, s: Time, noise: Noise, carry: PyTree
    ) -> tuple[X, X, PyTree]:
        start, end = ratio(self.process, t), ratio(self.process, s)
        down, up = _split(start, end, self.eta)

        def reach(c):
            if self.nodes == "rho" or c == 1:
                return c * (down - start)
            return start * jnp.expm1(c * jnp.log(down / start))

        def slope(c, v):
            if c in (0, 1):
                time = t if c == 0 else s
            else:
                time = time_at(self.process, start + reach(c))
            alpha = left_broadcast(self.process.marginal(time)[0], v)
            return predicted_noise(self.process, score_fn, alpha * v, time)

        v = x / left_broadcast(self.process.marginal(t)[0], x)
        alpha = left_broadcast(self.process.marginal(s)[0], x)
        mean = alpha * _integrate(self.tableau, slope, reach, v, end > 0)
        if self.eta == 0:
            return mean, mean, carry
        return mean + alpha * self.s_noise * left_broadcast(up, x) * noise(0), mean, carry


def _split(start: Time, end: Time, eta: float) -> tuple[Time, Time]:
    """(rho_down, rho_up) of a step between two ratios, without cancellation for eta <= 1."""
    if eta == 0:
        return end, jnp.zeros_like(end)
    fall = end / start
    up = jnp.minimum(eta * jnp.sqrt((1 - fall) * (1 + fall)), 1.0)
    return end * jnp.sqrt(jnp.maximum(1 - eta**2 + (eta * fall) ** 2, 0.0)), end * up


@dataclasses.dataclass(frozen=True)
class FlowRungeKutta(Stepper):
    """A Runge-Kutta step of the probability flow dx/dt in the process's own time.

    That is EDM's generalized sampler for any schedule and scaling (Karras et al. 2022, eq. 4,
    algorithm 3). For EDM itself it equals `RungeKutta`. A step to the clean image is Euler's, which
    denoises fully for EDM alone: with sigma = sqrt(t) it goes half the way, as the published code
    does. Such a step needs a finite `t_clean`; `RungeKutta` has neither limit.
    """

    process: GaussianSDE
    tableau: Tableau
    draws = 0

    def evaluations(self, pairs: Pairs) -> int:
        """One for each stage, and one alone in steps to the clean image."""
        return _evaluations(self.process, self.tableau, pairs)

    def __call__(
        self, score_fn: ScoreFn, x: X, t: Time, s: Time, noise: Noise, carry: PyTree
    ) -> tuple[X, X, PyTree]:
        def slope(c, x):
            time = t + c * (s - t)
            return self.process.reverse_drift(x, time, score_fn(x, batch_time(time, x)), eta=0.0)

        inside = self.process.marginal(s)[1] > 0
        x = _integrate(self.tableau, slope, lambda c: c * (s - t), x, inside)
        return x, x, carry


@dataclasses.dataclass(frozen=True)
class Churn(Around):
    """Add noise, then let another stepper go down from there: EDM's stochastic sampler.

    x is lifted from rho = sigma/alpha to (1 + gamma) rho by noise of std s_noise sqrt(rho_hat^2 -
    rho^2), in x/alpha. gamma = min(churn, sqrt(2) - 1) where s_min <= rho <= s_max, else 0. No
    level is lifted above that of t_max: there is no score. (Karras et al. 2022, algorithm 2.)

    Args:
        process: gives alpha and sigma.
        stepper: goes from the lifted level to s, say `RungeKutta(process, HEUN)`.
        churn: S_churn/n of the paper, n the number of steps.
        s_min, s_max: the range of sigma/alpha that is churned.
        s_noise: factor of the noise.

    Raises:
        ValueError: for a negative churn.
    """

    process: GaussianSDE
    stepper: Stepper
    churn: float
    s_min: float = 0.0
    s_max: float = math.inf
    s_noise: float = 1.0

    def __post_init__(self):
        if self.churn < 0:
            raise ValueError(f"churn, S_churn/n, must be at least 0; got {self.churn}")
        require_gaussian(self.process, "churn")

    @property
    def more_draws(self) -> int:
        """The first one."""
        return 1

    def __call__(
        self, score_fn: ScoreFn, x: X, t: Time, s: Time, noise: Noise, carry: PyTree
    ) -> tuple[X, X, PyTree]:
        alpha, rho = self.process.marginal(t)[0], ratio(self.process, t)
        churned = (self.s_min <= rho) & (rho <= self.s_max)
        gamma = jnp.where(churned, min(self.churn, math.sqrt(2) - 1), 0.0)
        top = ratio(self.process, jnp.full_like(t, self.process.t_max))
        lifted = jnp.maximum(jnp.minimum(rho * (1 + gamma), top), rho)
        time = jnp.where(lifted > rho, time_at(self.process, lifted), t)
        std = self.s_noise * jnp.sqrt((lifted - rho) * (lifted + rho))
        v = x / left_broadcast(alpha, x) + left_broadcast(std, x) * noise(0)
        x = left_broadcast(self.process.marginal(time)[0], x) * v
        return self.stepper(score_fn, x, time, s, lambda j: noise(1 + j), carry)
