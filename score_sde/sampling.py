"""Samplers: a stepper driven over a time grid."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from score_sde.arrays import Keys, ScoreFn, batch_time, fold_in, normal, uniform
from score_sde.grids import as_pairs
from score_sde.sde import Perturbation
from score_sde.steppers import Stepper


class State(NamedTuple):
    """Where a run of a sampler stands.

    x: (batch, ...). mean: x without the noise of the last step. carry: what the stepper remembers.
    """

    x: Float[Array, "batch ..."]
    mean: Float[Array, "batch ..."]
    carry: PyTree = ()


class Samples(NamedTuple):
    """What a sampler returns.

    x: (batch, ...) samples. nfe: evaluations of the score per sample, one number or, of an adaptive
    stepper, (batch,). trajectory: (frames + 1, batch, ...) states from the prior to the samples, or
    None.
    """

    x: Array
    nfe: int | Int[Array, "batch"]
    trajectory: Array | None = None


def independent_noise(
    keys: Keys, i: int | Int[Array, ""], j: int | Int[Array, ""], x: Float[Array, "batch ..."]
) -> Float[Array, "batch ..."]:
    """Draw j of step i, standard normal and like x: from fold_in(fold_in(keys, i + 1), j)."""
    return normal(fold_in(fold_in(keys, i + 1), j), x.shape, x.dtype)


def as_it_is(x: Float[Array, "batch ..."]) -> Float[Array, "batch ..."]:
    """x."""
    return x


@dataclasses.dataclass(frozen=True, eq=False)
class Sampler:
    """Integrate from the prior to data: `sampler(keys, score_fn, shape) -> Samples`.

    Algorithm B.3. Pure and jittable. `begin`, `advance` and `finish` are its three parts, for a
    driver that shows progress.

    Args:
        process: gives the prior and Tweedie's formula.
        stepper: the step, often `chain(predictor, corrector)`.
        times: time grid (n+1,) or pairs (n, 2), see `grids`.
        denoise: the last operation. "tweedie" returns E[x_0 | x] at the last time,
            (x + sigma^2 score)/alpha; "mean" the last step without its noise (the published
            choice); "none" the state itself.
        uniform: (low, high): start from uniform noise in this range, as annealed Langevin dynamics
            does (section 5.5), in place of the prior.
        noise: (keys, i, j, x) -> draw j of step number i, standard normal and like x.
        on_begin: what becomes of the first state, a draw of prior or uniform noise.
        on_finish: the very last operation, after `denoise`. Conditions set both.
    """

    process: Perturbation
    stepper: Stepper
    times: Any
    denoise: Literal["tweedie", "mean", "none"] = "tweedie"
    uniform: tuple[float, float] | None = None
    noise: Callable[..., Float[Array, "batch ..."]] = independent_noise
    on_begin: Callable[[Array], Array] = as_it_is
    on_finish: Callable[[Array], Array] = as_it_is

    def __post_init__(self):
        if self.denoise not in ("tweedie", "mean", "none"):
            raise ValueError(f"denoise must be 'tweedie', 'mean' or 'none'; got {self.denoise!r}")
        as_pairs(self.times)

    @property
    def steps(self) -> int:
        """Number of steps of the grid."""
        return len(as_pairs(self.times))

    @property
    def evaluations(self) -> int:
        """Evaluations of the score per sample; with an adaptive stepper at most so many."""
        return self.stepper.evaluations(as_pairs(self.times)) + (self.denoise == "tweedie")

    def __call__(
        self, keys: Keys, score_fn: ScoreFn, shape: tuple[int, ...], frames: int = 0
    ) -> Samples:
        """Samples of `shape` = (batch, ...), on request with `frames` evenly spaced states."""
        start = self.begin(keys, shape)
        bounds = np.linspace(0, self.steps, max(frames, 1) + 1).astype(np.int32)

        def segment(state, ends):
            state = self.advance(keys, score_fn, state, ends[0], ends[1])
            return state, state.x if frames else None

        ends = jnp.asarray(np.stack([bounds[:-1], bounds[1:]], axis=1))
        state, passed = jax.lax.scan(segment, start, ends)
        x = self.finish(score_fn, state)
        trajectory = jnp.concatenate([start.x[None], passed[:-1], x[None]]) if frames else None
        return Samples(x, self.nfe(state), trajectory)

    def begin(self, keys: Keys, shape: tuple[int, ...], dtype=jnp.float32) -> State:
        """A draw from the prior, or uniform noise, as `on_begin` has it, and the carry."""
        if self.uniform is None:
            x = self.process.prior_sample(fold_in(keys, 0), shape, dtype)
        else:
            low, high = self.uniform
            x = low + (high - low) * uniform(fold_in(keys, 0), shape, dtype)
        return self.start(self.on_begin(x))

    def start(self, x: Float[Array, "batch ..."]) -> State:
        """The state of a run that begins at x."""
        return State(x, x, self.stepper.init(x))

    def advance(
        self,
        keys: Keys,
        score_fn: ScoreFn,
        state: State,
        first: int | Int[Array, ""],
        last: int | Int[Array, ""],
    ) -> State:
        """Steps number first .. last-1, each with draws of its own."""
        pairs = jnp.asarray(as_pairs(self.times), state.x.dtype)

        def step(i, state):
            x, carry = state.x, state.carry
            t, s = pairs[i, 0], pairs[i, 1]
            return State(
                *self.stepper(score_fn, x, t, s, lambda j: self.noise(keys, i, j, x), carry)
            )

        return jax.lax.fori_loop(first, last, step, state)

    def nfe(self, state: State) -> int | Int[Array, "batch"]:
        """Evaluations of the score in a run that ended in this state, and in its end."""
        spent = self.stepper.spent(state.carry, as_pairs(self.times))
        return spent + int(self.denoise == "tweedie")

    def finish(self, score_fn: ScoreFn, state: State) -> Float[Array, "batch ..."]:
        """The final denoising, and `on_finish`."""
        x = state.mean if self.denoise == "mean" else state.x
        if self.denoise == "tweedie":
            t = jnp.asarray(as_pairs(self.times)[-1, 1], x.dtype)
            x = self.process.tweedie(x, t, score_fn(x, batch_time(t, x)))
        return self.on_finish(x)
