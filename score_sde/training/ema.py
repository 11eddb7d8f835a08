"""Moving averages of the weights: their profiles, and one update.

A profile says what share of the new weights goes into the average at update n = 1, 2, ...:

    average <- average + share(n) (weights - average)

The published codes name the decay, 1 - share. Near 1 it has too few digits in single precision: at
update 10^6 a decay of 1 - 1e-5 is off by 3e-3 of its share. So shares are computed without it.
"""

import dataclasses
import math
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

STD_BELOW = 0.29
"""Widths of averages are below it: t^0, the plain mean, has 12^(-1/2) = 0.2887."""


@dataclasses.dataclass(frozen=True)
class Average:
    """A rate with the published warm-up: the decay of update n is min(rate, (1 + n)/(10 + n)).

    The warm-up keeps the random initial weights out of early averages. The published PyTorch code
    has it, the published JAX code has not. From update (10 rate - 1)/(1 - rate) on they
    agree.

    Args:
        rate: the decay in the end, in [0, 1). 0 is no average: the weights themselves.
        warmup: without, the decay is `rate` throughout.

    Raises:
        ValueError: rate outside [0, 1).
    """

    rate: float
    warmup: bool = True

    def __post_init__(self):
        if not 0 <= self.rate < 1:
            raise ValueError(f"the rate of an average must be in [0, 1); got {self.rate}")

    def share(self, update: Int[Array, ""]) -> Float[Array, ""]:
        """max(1 - rate, 9/(10 + n)) at update n = 1, 2, ..."""
        n = update.astype(float)
        if not self.warmup:
            return jnp.full_like(n, 1 - self.rate)
        return jnp.maximum(1 - self.rate, 9 / (10 + n))


@dataclasses.dataclass(frozen=True)
class HalfLife:
    """A half-life in images, ramped up: EDM's average (Karras et al. 2022, appendix F.2).

    decay = 0.5^(batch_size/h), h = min(images, rampup seen), `seen` being the images before the
    update. With a ramp-up the first update copies the weights.

    Args:
        images: the half-life in the end, positive.
        batch_size: images of an update, at least 1.
        rampup: positive, 0.05 in EDM; None is no ramp-up.

    Raises:
        ValueError: a value out of range.
    """

    images: float
    batch_size: int
    rampup: float | None

    def __post_init__(self):
        ramped = self.rampup is None or self.rampup > 0
        if not (self.images > 0 and self.batch_size >= 1 and ramped):
            raise ValueError(
                "an average needs a positive half-life, a batch of 1 or more and a positive "
                f"ramp-up; got {self.images}, {self.batch_size} and {self.rampup}"
            )

    def share(self, update: Int[Array, ""]) -> Float[Array, ""]:
        """1 - 0.5^(batch_size/h) at update n = 1, 2, ..."""
        return self.after((update.astype(float) - 1) * self.batch_size)

    def after(self, seen: Float[Array, ""]) -> Float[Array, ""]:
        """The share where the ramp-up counts `seen` images."""
        halflife = jnp.full_like(seen, self.images)
        if self.rampup is not None:
            halflife = jnp.minimum(halflife, self.rampup * seen)
        return -jnp.expm1(-math.log(2) * self.batch_size / jnp.maximum(halflife, 1e-8))


@dataclasses.dataclass(frozen=True)
class Power:
    """EDM2's power function: after n updates the weights of time t <= n count as t^gamma.

    The decay of update n is (1 - 1/n)^(gamma + 1). The first update copies the weights. (Karras
    et al. 2024, section 3.1 and appendix C.)

    Args:
        std: standard deviation of the profile relative to its length, in (0, 0.29).

    Raises:
        ValueError: std out of range.
    """

    std: float

    def __post_init__(self):
        exponent(self.std)

    def share(self, update: Int[Array, ""]) -> Float[Array, ""]:
        """1 - (1 - 1/n)^(gamma + 1) at update n = 1, 2, ..."""
        return -jnp.expm1((exponent(self.std) + 1) * jnp.log1p(-1 / update.astype(float)))


Profile: TypeAlias = Average | HalfLife | Power


def exponent(std: float) -> float:
    """gamma of the profile t^gamma: std^2 = (gamma + 1)/((gamma + 2)^2 (gamma + 3)), largest root.

    Raises:
        ValueError: std outside (0, 0.29).
    """
    if not 0 < std < STD_BELOW:
        raise ValueError(
            f"the std of a power-function average must be in (0, {STD_BELOW}); got {std}"
        )
    square = std**-2
    return float(np.roots([1, 7, 16 - square, 12 - square]).real.max())


def ema_update(average: PyTree, params: PyTree, share: Float[Array, ""]) -> PyTree:
    """average + share (params - average), leaf by leaf.

    From the nearer end, so that a share of 1 gives the params bit for bit.
    """

    def update(a: Array, p: Array) -> Array:
        near = share.astype(p.dtype)
        far = (1 - share).astype(p.dtype)
        return jnp.where(share < 0.5, a + near * (p - a), p + far * (a - p))

    return jax.tree.map(update, average, params)
