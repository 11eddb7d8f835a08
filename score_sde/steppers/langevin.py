"""Correctors: Langevin dynamics at a fixed time, x + epsilon score + sqrt(2 epsilon) z.

They act at the end s of a step, where the predictor has brought the sample; `at_start` makes them act at t.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal

import jax.numpy as jnp

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
        mean, alpha = x, batch_time(self.alpha(s), x)
        for noise in z:
            score = score_fn(x, batch_time(s, x))
            epsilon = 2 * alpha * (self.snr * self._ratio(noise, score)) ** 2
            x, mean = _langevin_update(x, score, epsilon, noise)
        return x, mean

    def _ratio(self, noise, score):
        """|z|/|score|, (batch,) or a scalar."""
        score_norm = jnp.sqrt(jnp.sum(score.reshape(len(score), -1) ** 2, axis=1))
        if self.norm == "sample":
            return (noise.size / len(noise)) ** 0.5 / score_norm
        noise_norm = jnp.sqrt(jnp.sum(noise.reshape(len(noise), -1) ** 2, axis=1))
        return jnp.mean(noise_norm) / jnp.mean(score_norm)


@dataclasses.dataclass(frozen=True)
class AnnealedLangevin(Stepper):
    """Langevin steps with epsilon = 2 alpha (r sigma(s))^2: the step follows the noise level (algorithm 5.1).

    NCSN's step_lr (sigma_i/sigma_L)^2 is the same with r = sqrt(step_lr/2)/sigma_L. Independent of the batch and safe in
    low dimensions.

    Args: as `Langevin`; `process` gives sigma.
    """

    process: Perturbation
    snr: float
    n_steps: int = 1
    alpha: Callable[[Time], Time] = _unit

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
        mean, sigma = x, self.process.marginal(s)[1]
        epsilon = batch_time(2 * self.alpha(s) * (self.snr * sigma) ** 2, x)
        for noise in z:
            x, mean = _langevin_update(x, score_fn(x, batch_time(s, x)), epsilon, noise)
        return x, mean


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
