"""Time grids found for a model: those with which a solver errs least in so many steps.

A deterministic sampler maps a latent to an image. With few steps the image differs from that of
many steps, and by how much depends on where the steps are. The grid is moved along the gradient of
that error, through all steps and evaluations of the network.

What is moved are the steps' shares of the whole way in log(alpha^2/sigma^2), made positive and
summed up to one by a softmax. The ends stay.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from score_sde.arrays import ScoreFn
from score_sde.sampling import Sampler
from score_sde.sde import GaussianSDE

RATE = 0.1
"""Of Adam in the logarithms of the steps; it falls to zero by a cosine."""


class Tuned(NamedTuple):
    """times: (n+1,), decreasing. error: of it, on the latents it was found with.

    starts: by name, the error of each grid that was tried first. curve: the error before each
    update.
    """

    times: Float[np.ndarray, "n_plus_1"]
    error: float
    starts: dict[str, float]
    curve: Float[np.ndarray, "updates"]


def _no_noise(*_: Any) -> Array:
    raise ValueError(
        "the sampler draws noise, so few steps do not lead where many do; tune a deterministic one"
    )


def solve(
    sampler: Sampler, score_fn: ScoreFn, z: Float[Array, "batch ..."], times: Any
) -> Float[Array, "batch ..."]:
    """Images of latents z at times[0], by `sampler` with these times in place of its own.

    Raises:
        ValueError: the sampler draws noise.
    """
    sampler = dataclasses.replace(sampler, times=times, noise=_no_noise)
    state = sampler.advance(jax.random.key(0), score_fn, sampler.start(z), 0, sampler.steps)
    return sampler.finish(score_fn, state)


def distance(x: Float[Array, "batch ..."], y: Float[Array, "batch ..."]) -> Float[Array, ""]:
    """Root mean square over the entries of a sample, mean over the samples."""
    squares = jnp.mean((x - y).reshape(len(x), -1) ** 2, axis=1)
    return jnp.mean(jnp.sqrt(squares + 1e-12))


def _times(
    process: GaussianSDE, ends: Float[Array, "2"], logits: Float[Array, "n"]
) -> Float[Array, "n_plus_1"]:
    """The grid whose steps in log-SNR have the shares softmax(logits)."""
    first, last = process.log_snr(ends)
    passed = jnp.cumsum(jax.nn.softmax(logits))[:-1]
    wanted = first + (last - first) * passed
    found = jax.lax.stop_gradient(process.time_at_log_snr(wanted))
    value, slope = jax.jvp(process.log_snr, (found,), (jnp.ones_like(found),))
    # Newton's step, which is zero up to rounding, has the derivative that a bisection hides.
    value, slope = jax.lax.stop_gradient((value, slope))
    found = found + (wanted - jax.lax.stop_gradient(wanted)) / slope
    return jnp.concatenate([ends[:1], found, ends[1:]])


def _logits(process: GaussianSDE, times: Float[np.ndarray, "n1"]) -> Float[Array, "n"]:
    steps = np.diff(np.asarray(process.log_snr(jnp.asarray(times, jnp.float32)), np.float64))
    return jnp.asarray(np.log(np.maximum(steps, 1e-6 * steps.sum())), jnp.float32)


def tune(
    sampler: Sampler,
    score_fn: ScoreFn,
    z: Float[Array, "batch ..."],
    truth: Float[Array, "batch ..."],
    starts: Mapping[str, Float[np.ndarray, "n1"]],
    updates: int = 60,
) -> Tuned:
    """The grid of a deterministic sampler with the smallest distance to `truth`.

    Args:
        sampler: its times are not used.
        score_fn: of the model.
        z: latents at the first time.
        truth: what many steps make of them.
        starts: grids of one length and with the same ends; it begins with the best.
        updates: of Adam.

    Raises:
        ValueError: the sampler draws noise, or its process is a discrete chain.
    """
    process = sampler.process
    if not isinstance(process, GaussianSDE):
        raise ValueError("only the grid of a continuous process can be tuned; this is a chain")
    remembering = jax.checkpoint(score_fn)  # keeps memory that of one evaluation

    def error(times):
        return distance(solve(sampler, remembering, z, times), truth)

    measured = jax.jit(error)
    grids = {name: jnp.asarray(grid, z.dtype) for name, grid in starts.items()}
    errors = {name: float(measured(grid)) for name, grid in grids.items()}
    best = min(errors, key=lambda name: errors[name])
    times, lowest = np.asarray(starts[best], np.float64), errors[best]
    ends, curve = grids[best][jnp.asarray([0, -1])], []

    def of(logits):
        times = _times(process, ends, logits)
        return error(times), times

    for value, found in _descend(of, _logits(process, times), updates):
        curve.append(value)
        if value < lowest:
            times, lowest = found, value
    return Tuned(times, lowest, errors, np.asarray(curve))


def _descend(
    of: Callable[[Array], tuple[Array, Array]], logits: Float[Array, "n"], updates: int
) -> Iterator[tuple[float, Float[np.ndarray, "n_plus_1"]]]:
    """(error, times) before each update by Adam."""
    adam = optax.adam(optax.cosine_decay_schedule(RATE, updates))

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def update(logits, state):
        (value, times), gradient = jax.value_and_grad(of, has_aux=True)(logits)
        changes, state = adam.update(gradient, state)
        return optax.apply_updates(logits, changes), state, value, times

    state = adam.init(logits)
    for _ in range(updates):
        logits, state, value, found = update(logits, state)
        yield float(value), np.asarray(found, np.float64)
