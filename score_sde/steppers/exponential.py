"""Exponential integrators in lambda = log(alpha/sigma): what the fast solvers share.

Under the probability flow, and under the reverse SDE, the state is linear in the prediction m of a
model. The linear part is solved exactly, so from time t to time s

    x_s = scale x_t - gain z integral_0^1 e^(z (1-v)) m(lambda_t + v h) dv + std noise,

with h = lambda_s - lambda_t. `Exponential` gives the factors. A solver puts a polynomial through
values of m, and `difference_weights` integrates it.

Sources: Lu et al. 2022, "DPM-Solver" [1] and "DPM-Solver++" [2]; Zhao et al. 2023, "UniPC" [3]; Xue
et al. 2023, "SA-Solver" [4]; Song et al. 2021, "DDIM" [5].
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from score_sde.arrays import ScoreFn, Time, batch_time, left_broadcast
from score_sde.sde import Perturbation
from score_sde.steppers.base import Noise, Pairs, X

Rule = Literal["exact", "bh1", "bh2"]
"""How a single difference is weighted, see `difference_weights`."""

Orders = int | tuple[int, ...]
"""One order for all steps, or one for each step of the grid."""


class Bridge(NamedTuple):
    """The exact part of a step: x' = scale x - gain (e^z - 1) m + std noise where m is constant.

    kappa: with the law of `Exponential`, the noise has the share 1 - e^(-2 kappa) of sigma_s^2
        (noise prediction with law "sde": eta^2 (e^(2h) - 1)).
    """

    scale: Time
    gain: Time
    z: Time
    kappa: Time
    std: Time


@dataclasses.dataclass(frozen=True)
class Exponential:
    """A process in lambda = log(alpha/sigma), and what of the score is taken as constant in a step.

    Args:
        process: gives alpha and sigma.
        prediction: "data" is D = (x + sigma^2 score)/alpha, as DPM-Solver++ has it; "noise" is
            -sigma score, as DPM-Solver has it. They differ from order 2 on.
        eta: >= 0, the noise; 0 is the probability flow, 1 the reverse SDE.
        law: "sde" is the reverse family with noise eta g dw, that is kappa = eta^2 h [4]. The eta
            of k-diffusion's SDE solvers is this eta^2. "ancestral" takes eta times the standard
            deviation of q(x_s | x_t, x_0), for eta <= 1: the eta of [5] and of k-diffusion's
            ancestral solvers. For data prediction both agree at eta = 0 and 1. For noise
            prediction, "sde" is SDE-DPM-Solver of [2], with the noise eta sigma_s sqrt(e^(2h) - 1),
            which is larger than sigma_s in long steps.

    Raises:
        ValueError: an unknown name, or eta out of its range.
    """

    process: Perturbation
    prediction: Literal["data", "noise"] = "data"
    eta: float = 0.0
    law: Literal["sde", "ancestral"] = "sde"

    def __post_init__(self):
        if self.prediction not in ("data", "noise"):
            raise ValueError(f"prediction must be 'data' or 'noise'; got {self.prediction!r}")
        if self.law not in ("sde", "ancestral"):
            raise ValueError(f"law must be 'sde' or 'ancestral'; got {self.law!r}")
        if self.eta < 0 or (self.law == "ancestral" and self.eta > 1):
            raise ValueError(
                "eta is the noise, at least 0, and at most 1 with law='ancestral'; "
                f"got eta={self.eta}, law={self.law!r}"
            )

    def position(self, t: Time) -> Time:
        """lambda(t) = log(alpha/sigma), half the log-SNR."""
        return self.process.log_snr(t) / 2

    def length(self, t: Time, s: Time) -> Time:
        """h = lambda(s) - lambda(t); 1 where sigma(s) = 0, so that nothing becomes infinite."""
        (alpha_t, sigma_t), (alpha_s, sigma_s) = self.process.marginal(t), self.process.marginal(s)
        clean = sigma_s == 0
        h = jnp.log(alpha_s / alpha_t) + jnp.log(sigma_t / jnp.where(clean, sigma_t, sigma_s))
        return jnp.where(clean, jnp.ones_like(h), h)

    def predict(self, score_fn: ScoreFn, x: X, t: Time) -> X:
        """The prediction m at x and t: one evaluation of the score."""
        score = score_fn(x, batch_time(t, x))
        if self.prediction == "data":
            return self.process.tweedie(x, t, score)
        return -left_broadcast(self.process.marginal(t)[1], x) * score

    def bridge(self, t: Time, s: Time) -> Bridge:
        """The factors of the step from t to s; see the module's formula and `law`."""
        (alpha_t, sigma_t), (alpha_s, sigma_s) = self.process.marginal(t), self.process.marginal(s)
        h = self.length(t, s)
        kappa = self.eta**2 * h
        if self.law == "ancestral" and self.eta < 1:
            kappa = -0.5 * jnp.log1p(self.eta**2 * jnp.expm1(-2 * h))
        std = sigma_s * jnp.sqrt(-jnp.expm1(-2 * kappa))
        if self.prediction == "data":
            return Bridge(sigma_s / sigma_t * jnp.exp(-kappa), alpha_s, -(h + kappa), kappa, std)
        if self.law == "sde" and self.eta > 0:
            std = self.eta * sigma_s * jnp.sqrt(jnp.expm1(2 * h))
            return Bridge(alpha_s / alpha_t, (1 + self.eta**2) * sigma_s, h, kappa, std)
        return Bridge(alpha_s / alpha_t, sigma_s * jnp.exp(-kappa), h + kappa, kappa, std)

    def land(
        self,
        x: X,
        ends: tuple[Time, Time],
        bridge: Bridge,
        first: X,
        others: Sequence[tuple[Time, X]] = (),
    ) -> X:
        """x_s without noise: scale x - gain ((e^z - 1) m + sum_k w_k (m_k - m)).

        A step to sigma_s = 0 gives alpha_s D: there the weights have no meaning.

        Args:
            ends: (t, s).
            bridge: the factors of that step.
            first: m, the prediction at x and t.
            others: the pairs (w_k, m_k).
        """
        total = left_broadcast(jnp.expm1(bridge.z), x) * first
        for weight, value in others:
            total = total + left_broadcast(weight, x) * (value - first)
        moved = left_broadcast(bridge.scale, x) * x - left_broadcast(bridge.gain, x) * total
        (alpha_t, sigma_t), (alpha_s, sigma_s) = (
            (left_broadcast(v, x) for v in self.process.marginal(time)) for time in ends
        )
        data = first if self.prediction == "data" else (x - sigma_t * first) / alpha_t
        return jnp.where(sigma_s > 0, moved, alpha_s * data)


def noised(mean: X, std: Time, noise: Noise, eta: float) -> X:
    """mean + std noise(0), or mean itself where there is no noise to draw."""
    return mean if eta == 0 else mean + left_broadcast(std, mean) * noise(0)


def moments(z: Time, highest: int) -> list[Time]:
    """z M_n(z), M_n = integral_0^1 e^(z (1-v)) v^n dv = n! phi_{n+1}(z), for n = 0..highest.

    M_0 = (e^z - 1)/z and M_n = (n M_{n-1} - 1)/z. That recursion cancels for small z: there the
    highest is a power series, and the recursion runs downwards. Accurate to rounding for all z.
    """
    small = jnp.abs(z) < 1
    near, far = jnp.where(small, z, jnp.zeros_like(z)), jnp.where(small, jnp.ones_like(z), z)
    top = jnp.zeros_like(z)
    for j in reversed(range(20)):
        top = math.factorial(highest) / math.factorial(highest + 1 + j) + near * top
    down = [top]
    for n in range(highest, 0, -1):
        down.insert(0, (near * down[0] + 1) / n)
    up = [jnp.expm1(far) / far]
    for n in range(1, highest + 1):
        up.append((n * up[-1] - 1) / far)
    return [z * jnp.where(small, a, b) for a, b in zip(down, up)]


def difference_weights(
    powers: Sequence[Time], z: Time, nodes: Sequence[Time], rule: Rule = "exact", square: float = 1
) -> list[Time]:
    """w_k with z integral_0^1 e^(z (1-v)) (p(v) - m) dv = sum_k w_k (m_k - m).

    p is the polynomial through m at v = 0 and m_k at v = nodes[k].

    Args:
        powers: `moments` of z, at least one more than nodes.
        z: of the step, see `Bridge`.
        nodes: places v of the values in units of the step; distinct, not 0. A value of an earlier
            step has v < 0.
        rule: of a single node. "exact" is the integral. "bh1" and "bh2" put B/(2 nodes[0]) in its
            place, B = z or e^z - 1: the same to the order of the method [3].
        square: factor of the square term of p. The published codes of multistep DPM-Solver-3 and of
            dpmpp_3m_sde have 1/2, and lose the third order by it.
    """
    if len(nodes) == 1 and rule != "exact":
        return [(z if rule == "bh1" else powers[0]) / (2 * nodes[0])]
    weights = []
    for k, node in enumerate(nodes):
        # l_k = v prod_j (v - v_j)/(v_k prod_j (v_k - v_j)); coefficients of prod_j, lowest first.
        coefficients, scale = [jnp.ones_like(z)], node
        for other in (*nodes[:k], *nodes[k + 1 :]):
            zero = [jnp.zeros_like(z)]
            shifted = zip(zero + coefficients, coefficients + zero, strict=True)
            coefficients = [a - other * b for a, b in shifted]
            scale = scale * (node - other)
        factors = (1.0, square if len(nodes) == 2 else 1.0, 1.0)
        terms = zip(factors, coefficients, powers[1:])
        weights.append(sum((f * c * m for f, c, m in terms), jnp.zeros_like(z)) / scale)
    return weights


def select(order: Int[Array, ""], table: Sequence[Sequence[Time]], like: Time) -> list[Time]:
    """Row order - 1 of a table of weights; a shorter row ends with zeros.

    All rows are computed, since the order is not known when the step is compiled.
    """
    width = max(len(row) for row in table)
    full = [[*row, *[jnp.zeros_like(like)] * (width - len(row))] for row in table]
    return [jnp.stack(column)[order - 1] for column in zip(*full)]


def check_orders(orders: Orders) -> None:
    """Raise ValueError unless all orders are 1, 2 or 3."""
    each = orders if isinstance(orders, tuple) else (orders,)
    if not (each and all(order in (1, 2, 3) for order in each)):
        raise ValueError(f"an order is 1, 2 or 3, or a tuple of one for each step; got {orders}")


def highest(orders: Orders) -> int:
    """The largest of the orders."""
    return max(orders) if isinstance(orders, tuple) else orders


def order_at(orders: Orders, i: Int[Array, ""]) -> Int[Array, ""]:
    """The order of step number i, counted from 0; past the end of a tuple its last."""
    table = jnp.asarray(orders if isinstance(orders, tuple) else (orders,), jnp.int32)
    return table[jnp.clip(i, 0, len(table) - 1)]


def each_order(orders: Orders, pairs: Pairs) -> Int[np.ndarray, "n"]:
    """The order of each step of a grid. Raises ValueError where a tuple has another length."""
    if isinstance(orders, tuple) and len(orders) != len(pairs):
        raise ValueError(
            f"order is a tuple of {len(orders)}, one for each step, but the time grid has "
            f"{len(pairs)} steps; make both of one length"
        )
    return np.broadcast_to(np.asarray(orders), len(pairs))


def lowered_orders(order: int, steps: int) -> tuple[int, ...]:
    """(order, ..., order, 2, 1): the order falls over the last steps of a grid of `steps`.

    It is stabler with few steps; the published codes call it lower_order_final.
    """
    return tuple(min(order, steps - i) for i in range(steps))


def fast_orders(order: int, evaluations: int) -> tuple[int, ...]:
    """Orders of single steps that make `evaluations` in all, as DPM-Solver-fast has them.

    As many steps of `order` as fit, then one of the rest. Where order 3 fits evenly, its last step
    becomes two, of orders 2 and 1 [1].
    """
    check_orders(order)
    if evaluations < 1:
        raise ValueError(f"a solver makes at least 1 evaluation; got evaluations={evaluations}")
    whole, rest = divmod(evaluations, order)
    if order == 3 and rest == 0:
        return (3,) * (whole - 1) + (2, 1)
    return (order,) * whole + ((rest,) if rest else ())
