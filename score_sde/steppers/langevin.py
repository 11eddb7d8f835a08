"""Correctors: Langevin dynamics at a fixed time, x + epsilon score + sqrt(2 epsilon) z.

They act at the end s of a step, where the predictor has brought the sample; `at_start` makes them act at t.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from score_sde.sde import Perturbation
from score_sde.steppers.base import Draws, State, Stepper
from score_sde.types import ScoreFn, Time, batch_time, left_broadcast


def step_alpha(process: Perturbation) -> Callable[[Time], Time]:
    """alpha_i = a^2 of the step i-1 -> i of a chain: 1 for VE, 1 - beta_i for VP (algorithm B.7).

    A factor of the published VP correctors. It depends on the number of steps; the library's default factor is 1.
    """
    return lambda t: process.transition(t, t - 1)[0] ** 2


def _unit(t: Time) -> Time:
    return jnp.ones_like(t)


@dataclasses.dataclass(frozen=True)
class Langevin(Stepper):
    """Langevin steps with epsilon = 2 alpha (r |z|/|score|)^2, r the signal-to-noise ratio (algorithms B.6, B.7).

    Args:
        snr: r > 0.
        n_steps: updates per call.
        norm: "sample" takes sqrt(D) for |z| (its expectation) and each sample's own |score|, so that a sample does not
            depend on its neighbours; D should not be small, since the score vanishes near a mode. "batch" takes means of
            both norms over the batch: the published rule.
        alpha: factor as a function of time; `step_alpha(chain)` is the published one for VP.
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

    @property
    def nfe(self) -> int:  # type: ignore[override]
        """One per update."""
        return self.n_steps

    def __call__(self, score_fn: ScoreFn, x: State, t: Time, s: Time, z: Draws) -> tuple[State, State]:
        alpha, time = batch_time(self.alpha(s), x), batch_time(s, x)

        def update(x, noise):
            score = score_fn(x, time)
            epsilon = 2 * alpha * (self.snr * self._ratio(noise, score)) ** 2
            return _langevin_update(x, score, epsilon, noise)

        return _repeat(update, x, z)

    def _ratio(self, noise, score):
        """|z|/|score|, (batch,) or a scalar."""
        score_norm = jnp.sqrt(jnp.sum(score.reshape(len(score), -1) ** 2, axis=1))
        if self.norm == "sample":
            return (noise.size / len(noise)) ** 0.5 / score_norm
        noise_norm = jnp.sqrt(jnp.sum(noise.reshape(len(noise), -1) ** 2, axis=1))
        return jnp.mean(noise_norm) / jnp.mean(score_norm)


@dataclasses.dataclass(frozen=True)
class AnnealedLangevin(Stepper):
    """Langevin steps with epsilon = 2 alpha (r sigma(s))^2: the step follows the noise level (algorithms 5.1, 6.1).

    Independent of the batch and safe in low dimensions. `of_step_size` takes the published step sizes.

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
        """The stepper with the published step sizes alpha_i = step_size sigma_i^2/sigma_min^2: snr = sqrt(step_size/2)/sigma_min.

        Args:
            step_size: epsilon > 0, the step at the smallest noise level sigma_min.
            n_steps: T, the updates at each level.
            half: the convention. False: x + alpha score + sqrt(2 alpha) z (algorithm 6.1, and the codes of NCSN and NCSNv2).
                True: x + alpha/2 score + sqrt(alpha) z (algorithm 5.1), half that step.
        """
        if not (step_size > 0 and sigma_min > 0):
            raise ValueError(
                f"step_size and sigma_min must be positive; got step_size={step_size}, sigma_min={sigma_min}"
            )
        return cls(process, math.sqrt(step_size / (4 if half else 2)) / sigma_min, n_steps)

    def __post_init__(self):
        _check_corrector(self.snr, self.n_steps)

    @property
    def draws(self) -> int:  # type: ignore[override]
        """One per update."""
        return self.n_steps

    @property
    def nfe(self) -> int:  # type: ignore[override]
        """One per update."""
        return self.n_steps

    def __call__(self, score_fn: ScoreFn, x: State, t: Time, s: Time, z: Draws) -> tuple[State, State]:
        return _repeat(self.update(score_fn, x, s), x, z)

    def update(self, score_fn: ScoreFn, x: State, s: Time) -> Callable[[State, State], tuple[State, State]]:
        """One step at time s for states like x: (x, z) -> (new state, new state without its noise)."""
        sigma, time = self.process.marginal(s)[1], batch_time(s, x)
        epsilon = batch_time(2 * self.alpha(s) * (self.snr * sigma) ** 2, x)
        return lambda x, noise: _langevin_update(x, score_fn(x, time), epsilon, noise)


@dataclasses.dataclass(frozen=True, eq=False)
class InpaintingLangevin(Stepper):
    """Annealed Langevin dynamics that keeps the known pixels of an image at the noise level: alpha image + sigma z.

    Args:
        langevin: the dynamics.
        image: (batch, ...), in the range of the data; what is unknown in it does not matter.
        known: booleans that broadcast with `image`, True where it is known.
        renew: "level" draws the noise of the known pixels once for each call and sets them at its start and after each
            update (algorithm B.2, the code of NCSN); "update" draws it anew and sets them before each update, which
            then moves them too (the code of NCSNv2).
    """

    langevin: AnnealedLangevin
    image: State
    known: Bool[Array, "..."]
    renew: Literal["level", "update"] = "level"

    def __post_init__(self):
        if self.renew not in ("level", "update"):
            raise ValueError(f"renew must be 'level' or 'update'; got {self.renew!r}")

    @property
    def draws(self) -> int:  # type: ignore[override]
        """One per update, and one for the known pixels: once, or for each update."""
        return self.langevin.n_steps + (1 if self.renew == "level" else self.langevin.n_steps)

    @property
    def nfe(self) -> int:  # type: ignore[override]
        """As the dynamics."""
        return self.langevin.nfe

    def __call__(self, score_fn: ScoreFn, x: State, t: Time, s: Time, z: Draws) -> tuple[State, State]:
        update = self.langevin.update(score_fn, x, s)

        def put(x, noise):
            return jnp.where(self.known, self.langevin.process.perturb(self.image, s, noise), x)

        if self.renew == "update":
            pairs = z.reshape(-1, 2, *x.shape)
            return _repeat(lambda x, pair: update(put(x, pair[0]), pair[1]), x, pairs)
        x, mean = _repeat(lambda x, noise: tuple(put(y, z[0]) for y in update(x, noise)), put(x, z[0]), z[1:])
        return x, mean


def _repeat(update, x: State, z: Float[Array, "draws ..."]) -> tuple[State, State]:
    """One update for each draw; a loop, since there may be hundreds."""
    if len(z) == 1:
        return update(x, z[0])
    return jax.lax.scan(lambda carry, noise: (update(carry[0], noise), None), (x, x), z)[0]


def _langevin_update(x: State, score: State, epsilon: Time, noise: State) -> tuple[State, State]:
    epsilon = left_broadcast(epsilon, x)
    mean = x + jnp.where(epsilon > 0, epsilon * score, 0.0)  # at sigma = 0 the score may be infinite
    return mean + jnp.sqrt(2 * epsilon) * noise, mean


def _check_corrector(snr: float, n_steps: int) -> None:
    if snr <= 0:
        raise ValueError(f"snr must be positive; got snr={snr}")
    if n_steps < 1:
        raise ValueError(
            f"n_steps must be at least 1 (leave the corrector out instead); got n_steps={n_steps}"
        )
