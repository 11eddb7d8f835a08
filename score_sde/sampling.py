"""Samplers: a stepper driven over a time grid."""

import dataclasses
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from score_sde.grids import as_pairs
from score_sde.sde import Perturbation
from score_sde.steppers import Stepper
from score_sde.types import Keys, ScoreFn, batch_time, fold_in, normal, uniform


class Samples(NamedTuple):
    """What a sampler returns.

    x: (batch, ...) samples. nfe: evaluations of the score per sample. trajectory: (frames + 1, batch, ...) states from
    the prior to the samples, or None.
    """

    x: Array
    nfe: int
    trajectory: Array | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Sampler:
    """Integrate from the prior to data: `sampler(keys, score_fn, shape) -> Samples` (algorithm B.3).

    Pure and jittable. `begin`, `advance` and `finish` are its three parts, for a driver that shows progress.

    Args:
        process: gives the prior and Tweedie's formula.
        stepper: the step, often `chain(predictor, corrector)`.
        times: time grid (n+1,) or pairs (n, 2), see `grids`.
        denoise: the last operation. "tweedie" returns E[x_0 | x] at the last time, (x + sigma^2 score)/alpha; "mean" the
            last step without its noise (the published choice); "none" the state itself.
        uniform: (low, high): start from uniform noise in this range, as annealed Langevin dynamics does (section 5.5),
            in place of the prior.
    """

    process: Perturbation
    stepper: Stepper
    times: np.ndarray
    denoise: Literal["tweedie", "mean", "none"] = "tweedie"
    uniform: tuple[float, float] | None = None

    def __post_init__(self):
        if self.denoise not in ("tweedie", "mean", "none"):
            raise ValueError(f"denoise must be 'tweedie', 'mean' or 'none'; got {self.denoise!r}")
        as_pairs(self.times)

    @property
    def steps(self) -> int:
        """Number of steps of the grid."""
        return len(as_pairs(self.times))

    @property
    def nfe(self) -> int:
        """Evaluations of the score per sample."""
        return self.steps * self.stepper.nfe + (self.denoise == "tweedie")

    def __call__(self, keys: Keys, score_fn: ScoreFn, shape: tuple[int, ...], frames: int = 0) -> Samples:
        """Samples of `shape` = (batch, ...), with `frames` evenly spaced intermediate states on request."""
        x = self.begin(keys, shape)
        bounds = np.linspace(0, self.steps, max(frames, 1) + 1).astype(np.int32)

        def segment(carry, ends):
            x, mean = self.advance(keys, score_fn, carry[0], ends[0], ends[1])
            return (x, mean), x if frames else None

        ends = jnp.asarray(np.stack([bounds[:-1], bounds[1:]], axis=1))
        (last, mean), states = jax.lax.scan(segment, (x, x), ends)
        final = self.finish(score_fn, last, mean)
        return Samples(
            final, self.nfe, jnp.concatenate([x[None], states[:-1], final[None]]) if frames else None
        )

    def begin(self, keys: Keys, shape: tuple[int, ...], dtype=jnp.float32) -> Float[Array, "batch ..."]:
        """A draw from the prior, or uniform noise."""
        if self.uniform is None:
            return self.process.prior_sample(fold_in(keys, 0), shape, dtype)
        low, high = self.uniform
        return low + (high - low) * uniform(fold_in(keys, 0), shape, dtype)

    def advance(
        self,
        keys: Keys,
        score_fn: ScoreFn,
        x: Float[Array, "batch ..."],
        first: int | Int[Array, ""],
        last: int | Int[Array, ""],
    ) -> tuple[Float[Array, "batch ..."], Float[Array, "batch ..."]]:
        """Steps number first .. last-1: (state, state without the last noise)."""
        return self.follow(score_fn, x, lambda i: self.noise(keys, i, x), first, last)

    def noise(
        self, keys: Keys, i: int | Int[Array, ""], x: Float[Array, "batch ..."]
    ) -> Float[Array, "draws batch ..."]:
        """The normal draws of step number i for a state like x."""
        key = fold_in(keys, i + 1)
        if not self.stepper.draws:
            return jnp.zeros((0, *x.shape), x.dtype)
        return jax.vmap(lambda j: normal(fold_in(key, j), x.shape, x.dtype))(jnp.arange(self.stepper.draws))

    def follow(self, score_fn: ScoreFn, x: Float[Array, "batch ..."], draw, first, last):
        """`advance` with given noise: draw(i) -> (draws, batch, ...) standard normal values of step i."""
        pairs = jnp.asarray(as_pairs(self.times), x.dtype)

        def step(i, carry):
            return self.stepper(score_fn, carry[0], pairs[i, 0], pairs[i, 1], draw(i))

        return jax.lax.fori_loop(first, last, step, (x, x))

    def finish(
        self, score_fn: ScoreFn, x: Float[Array, "batch ..."], mean: Float[Array, "batch ..."]
    ) -> Float[Array, "batch ..."]:
        """The final denoising."""
        if self.denoise == "tweedie":
            t = jnp.asarray(as_pairs(self.times)[-1, 1], x.dtype)
            return self.process.tweedie(x, t, score_fn(x, batch_time(t, x)))
        return mean if self.denoise == "mean" else x
