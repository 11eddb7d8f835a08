"""Correctors: Langevin dynamics at a fixed time, x + epsilon score + sqrt(2 epsilon) z.

They act at the end s of a step, where the predictor has brought the sample; `at_start` makes them
act at t. Each update makes its own draw inside a loop, so memory does not grow with their number.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PyTree

from score_sde.arrays import ScoreFn, Time, batch_time, left_broadcast
from score_sde.sde import Perturbation
from score_sde.steppers.base import Noise, Pairs, Stepper, X

Update = Callable[[X, X], tuple[X, X]]
"""(x, z) -> (new x, new x without its noise)."""


def step_alpha(process: Perturbation) -> Callable[[Time], Time]:
    """alpha_i = a^2 of the step i-1 -> i of a chain: 1 for VE, 1 - beta_i for VP (algorithm B.7).

    A factor of the published VP correctors. It depends on the number of steps; the library's
    default factor is 1.
    """
    return lambda t: process.transition(t, t - 1)[0] ** 2


def _unit(t: Time) -> Time:
    return jnp.ones_like(t)


@dataclasses.dataclass(frozen=True)
class Langevin(Stepper):
    """Langevin steps with epsilon = 2 alpha (r |z|/|score|)^2 (algorithms B.6, B.7).

    Args:
        snr: r > 0, the signal-to-noise ratio.
        n_steps: updates per call.
        norm: "sample" takes sqrt(D) for |z|, its root mean square, and each sample's own |score|.
            So a sample does not depend on its neighbours; D should not be small, since the score
            vanishes near a mode. "batch" takes means of both norms over the batch: the published
            rule.
        alpha: factor as a function of time; `step_alpha(chain)` is the published one for VP.

    Raises:
        ValueError: snr <= 0, n_steps < 1, or an unknown norm.
    """

    snr: float
    n_steps: int = 1
    norm: Literal["sample", "batch"] = "sample"
    alpha: Callable[[Time], Time] = _unit

    def __post_init__(self):
        _check_corrector(self.snr, self.n_steps)
        if self.norm not in ("sample", "batch"):
            raise ValueError(f"norm must be 'sample' or 'batch'; got {self.norm!r}")

    @property
    def draws(self) -> int:  # type: ignore[override]
        """One per update."""
        return self.n_steps

    def evaluations(self, pairs: Pairs) -> int:
        """One per update."""
        return self.n_steps * len(pairs)

    def __call__(
        self, score_fn: ScoreFn, x: X, t: Time, s: Time, noise: Noise, carry: PyTree
    ) -> tuple[X, X, PyTree]:
        alpha, time = batch_time(self.alpha(s), x), batch_time(s, x)

        def update(x, z):
            score = score_fn(x, time)
            return _langevin_update(
                x, score, 2 * alpha * (self.snr * self._ratio(z, score)) ** 2, z
            )

        return *_repeat(update, x, noise, self.n_steps), carry

    def _ratio(self, z, score):
        """|z|/|score|, (batch,) or a scalar."""
        score_norm = jnp.sqrt(jnp.sum(score.reshape(len(score), -1) ** 2, axis=1))
        if self.norm == "sample":
            return (z.size / len(z)) ** 0.5 / score_norm
        noise_norm = jnp.sqrt(jnp.sum(z.reshape(len(z), -1) ** 2, axis=1))
        return jnp.mean(noise_norm) / jnp.mean(score_norm)


@dataclasses.dataclass(frozen=True)
class AnnealedLangevin(Stepper):
    """Langevin steps with epsilon = 2 alpha (r sigma(s))^2: the step follows the noise level.

    Algorithms 5.1, 6.1. Independent of the batch and safe in low dimensions. `of_step_size` takes
    the published step sizes.

    Args: as `Langevin`; `process` gives sigma.
    """

    process: Perturbation
    snr: float
    n_steps: int = 1
    alpha: Callable[[Time], Time] = _unit

    @classmethod
    def of_step_size(
        cls,
        process: Perturbation,
        step_size: float,
        sigma_min: float,
        n_steps: int,
        half: bool = False,
    ) -> "AnnealedLangevin":
        """The stepper with the published step sizes alpha_i = step_size sigma_i^2/sigma_min^2.

        That is snr = sqrt(step_size/2)/sigma_min.

        Args:
            step_size: epsilon > 0, the step at the smallest noise level sigma_min.
            n_steps: T, the updates at each level.
            half: the convention. False: x + alpha score + sqrt(2 alpha) z (algorithm 6.1, and the
                codes of NCSN and NCSNv2). True: x + alpha/2 score + sqrt(alpha) z (algorithm 5.1),
                half that step.
        """
        if not (step_size > 0 and sigma_min > 0):
            raise ValueError(
                "step_size and sigma_min must be positive; "
                f"got step_size={step_size}, sigma_min={sigma_min}"
            )
        return cls(process, math.sqrt(step_size / (4 if half else 2)) / sigma_min, n_steps)

    def __post_init__(self):
        _check_corrector(self.snr, self.n_steps)

    @property
    def draws(self) -> int:  # type: ignore[override]
        """One per update."""
        return self.n_steps

    def evaluations(self, pairs: Pairs) -> int:
        """One per update."""
        return self.n_steps * len(pairs)

    def __call__(
        self, score_fn: ScoreFn, x: X, t: Time, s: Time, noise: Noise, carry: PyTree
    ) -> tuple[X, X, PyTree]:
        return *_repeat(self.update(score_fn, x, s), x, noise, self.n_steps), carry

    def update(self, score_fn: ScoreFn, x: X, s: Time) -> Update:
        """One step at time s, for states like x."""
        sigma, time = self.process.marginal(s)[1], batch_time(s, x)
        epsilon = batch_time(2 * self.alpha(s) * (self.snr * sigma) ** 2, x)
        return lambda x, z: _langevin_update(x, score_fn(x, time), epsilon, z)


@dataclasses.dataclass(frozen=True, eq=False)
class InpaintingLangevin(Stepper):
    """Annealed Langevin dynamics that keeps known pixels at the noise level: alpha image + sigma z.

    Args:
        langevin: the dynamics.
        image: (batch, ...), in the range of the data; what is unknown in it does not matter.
        known: booleans that broadcast with `image`, True where it is known.
        renew: "level" draws the noise of the known pixels once for each call and sets them at its
            start and after each update (the code of NCSN; algorithm B.2 has the latter alone).
            "update" draws it anew and sets them before each update, which then moves them too (the
            code of NCSNv2).

    Raises:
        ValueError: an unknown `renew`.
    """

    langevin: AnnealedLangevin
    image: X
    known: Bool[Array, "..."]
    renew: Literal["level", "update"] = "level"

    def __post_init__(self):
        if self.renew not in ("level", "update"):
            raise ValueError(f"renew must be 'level' or 'update'; got {self.renew!r}")

    @property
    def draws(self) -> int:  # type: ignore[override]
        """One per update, and one for the known pixels: once, or for each update."""
        return self.langevin.n_steps + (1 if self.renew == "level" else self.langevin.n_steps)

    def evaluations(self, pairs: Pairs) -> int:
        """As the dynamics."""
        return self.langevin.evaluations(pairs)

    def __call__(
        self, score_fn: ScoreFn, x: X, t: Time, s: Time, noise: Noise, carry: PyTree
    ) -> tuple[X, X, PyTree]:
        update, n_steps = self.langevin.update(score_fn, x, s), self.langevin.n_steps

        def put(x, z):
            return jnp.where(self.known, self.langevin.process.perturb(self.image, s, z), x)

        if self.renew == "update":
            # Draws 0, 2, ... are the known pixels', 1, 3, ... the updates'.
            update_all = _repeat(
                lambda x, both: update(put(x, both[0]), both[1]),
                x,
                lambda j: (noise(2 * j), noise(2 * j + 1)),
                n_steps,
            )
            return *update_all, carry
        kept = noise(0)
        x, mean = _repeat(
            lambda x, z: tuple(put(y, kept) for y in update(x, z)),
            put(x, kept),
            lambda j: noise(1 + j),
            n_steps,
        )
        return x, mean, carry


def _repeat(update: Callable, x: X, noise: Callable, n_steps: int) -> tuple[X, X]:
    """update(x, noise(j)) for j = 0, 1, ...: a loop that draws as it goes, perhaps 100 times."""
    if n_steps == 1:
        return update(x, noise(0))
    return jax.lax.fori_loop(0, n_steps, lambda j, state: update(state[0], noise(j)), (x, x))


def _langevin_update(x: X, score: X, epsilon: Time, z: X) -> tuple[X, X]:
    epsilon = left_broadcast(epsilon, x)
    mean = x + jnp.where(epsilon > 0, epsilon * score, 0.0)  # at sigma = 0 it may be infinite
    return mean + jnp.sqrt(2 * epsilon) * z, mean


def _check_corrector(snr: float, n_steps: int) -> None:
    if snr <= 0:
        raise ValueError(f"snr must be positive; got snr={snr}")
    if n_steps < 1:
        raise ValueError(
            f"n_steps must be at least 1 (leave the corrector out instead); got n_steps={n_steps}"
        )
