"""Adams-Bashforth methods for the probability flow in sigma/alpha, with exact coefficients."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PyTree

from score_sde.arrays import ScoreFn, Time, left_broadcast
from score_sde.sde import Perturbation
from score_sde.steppers.base import Noise, Stepper, X
from score_sde.steppers.ratio import predicted_noise, ratio, require_gaussian, time_at

_NODES_IN_TIME = 32
"""Of Gauss and Legendre in log rho: 1e-10 of a coefficient for steps of a factor 1,000 in rho."""


@dataclasses.dataclass(frozen=True)
class AdamsBashforth(Stepper):
    """v + sum_j C_j eps_j, C_j = int l_j drho over the step: one evaluation a step, order `order`.

    v = x/alpha, rho = sigma/alpha; eps_j is the predicted noise j steps ago. The l_j are the
    Lagrange polynomials through the last `order` values. The first steps have lower orders. They
    bound the order by 2 in theory; at much noise, where a grid starts, their errors are too small
    to be seen.

    - variable "rho": polynomials in rho. Zhang & Chen 2023 ("rho AB"), and "lms" of k-diffusion.
    - variable "time": polynomials in t ("tAB-DEIS", eq. 15). The integrals are by quadrature, to
      1e-10; the process must be a GaussianSDE.
    - variable "steps": polynomials in the number of the step, the constant weights of textbooks
      ("iPNDM"). The order is lost where the steps are unequal in rho.

    Order 1 is DDIM in each. The order of "tAB n" and "rho AB n" is here n + 1.

    Args:
        process: gives alpha and sigma.
        order: 1, 2, ...; published methods go up to 4.
        variable: as above.
        extrapolate: what a step to the clean image does. False: it has order 1, so that it returns
            the denoised image. True: it extrapolates as any other step, as k-diffusion does.

    Raises:
        ValueError: for an order below 1; for a process without times between steps.
    """

    process: Perturbation
    order: int
    variable: Literal["rho", "time", "steps"] = "rho"
    extrapolate: bool = False
    draws = 0

    def __post_init__(self):
        if self.order < 1:
            raise ValueError(f"order must be at least 1; got {self.order}")
        if self.variable not in ("rho", "time", "steps"):
            raise ValueError(f"variable must be 'rho', 'time' or 'steps'; got {self.variable!r}")
        if self.variable == "time":
            require_gaussian(self.process, "variable='time'")
            if self.extrapolate:
                raise ValueError(
                    "extrapolate=True reaches rho = 0, where log rho, the variable of the "
                    "quadrature, ends; take variable='rho' or 'steps'"
                )

    def init(self, x: X) -> PyTree:
        """How many earlier values are known, and these with their places, the newest first."""
        earlier = tuple((jnp.zeros((), x.dtype), jnp.zeros_like(x)) for _ in range(self.order - 1))
        return jnp.zeros((), jnp.int32), earlier

    def __call__(
        self, score_fn: ScoreFn, x: X, t: Time, s: Time, noise: Noise, carry: PyTree
    ) -> tuple[X, X, PyTree]:
        known, earlier = carry
        start, end = ratio(self.process, t), ratio(self.process, s)
        now = (
            t if self.variable == "time" else start,
            predicted_noise(self.process, score_fn, x, t),
        )
        values = (now, *earlier)
        used = known if self.extrapolate else jnp.where(end > 0, known, 0)
        weights = self._weights([place for place, _ in values], used, start, end)
        v = x / left_broadcast(self.process.marginal(t)[0], x)
        v = v + sum(left_broadcast(w, x) * e for w, (_, e) in zip(weights, values, strict=True))
        x = left_broadcast(self.process.marginal(s)[0], x) * v
        return x, x, (jnp.minimum(known + 1, self.order - 1), values[: self.order - 1])

    def _weights(
        self, places: list[Time], used: Int[Array, "..."], start: Time, end: Time
    ) -> list[Time]:
        """C_j, by a quadrature that is exact for polynomials of rho; 0 for j > used."""
        size = _NODES_IN_TIME if self.variable == "time" else self.order // 2 + 1
        nodes, weights = np.polynomial.legendre.leggauss(size)
        if self.variable == "steps":
            places = [jnp.full_like(start, -j) for j in range(self.order)]

        def at(q, weight):
            place, change = self._point(q, start, end)
            return [weight * change * _lagrange(place, places, j, used) for j in range(self.order)]

        half = jnp.asarray(0.5 * nodes + 0.5, start.dtype), jnp.asarray(0.5 * weights, start.dtype)
        found = [jnp.sum(values, axis=0) for values in jax.vmap(at)(*half)]
        alone = [end - start] + [jnp.zeros_like(start)] * (self.order - 1)
        # Alone, a value needs no quadrature, which has no limit in log rho at the clean image.
        return [jnp.where(used > 0, w, one) for w, one in zip(found, alone, strict=True)]

    def _point(self, q: Time, start: Time, end: Time) -> tuple[Time, Time]:
        """Where the part q of the step lies in the variable, and drho/dq there."""
        if self.variable == "rho":
            return start + q * (end - start), end - start
        if self.variable == "steps":
            return q, end - start
        length = jnp.log(end / start)
        rho = start * jnp.exp(q * length)
        return time_at(self.process, rho), rho * length


def _lagrange(place: Time, places: list[Time], j: int, used: Int[Array, "..."]) -> Time:
    """l_j at a place: 1 at places[j], 0 at the others up to number `used`; 0 for j > used."""
    value = jnp.where(used >= j, 1.0, 0.0).astype(place.dtype)
    for m, other in enumerate(places):
        if m != j:
            both = (used >= m) & (used >= j)
            gap = jnp.where(both, places[j] - other, 1.0)
            value = value * jnp.where(both, (place - other) / gap, 1.0)
    return value
