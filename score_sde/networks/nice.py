"""NICE: a volume-preserving flow but for one scale, with an exact likelihood and inverse."""

import math
from typing import Literal

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from score_sde.networks.curvature import Coupling, Elementwise, Layer, Linear, Scale, perceptron

LOGIT_MARGIN = 1e-3
"""Pixels are kept this far from 0 and 1 before the logit."""


def _log_logistic(h: Array) -> Array:
    return h - 2 * jax.nn.softplus(h)


def _log_normal(h: Array) -> Array:
    return -0.5 * h**2 - 0.5 * math.log(2 * math.pi)


PRIORS = {"logistic": _log_logistic, "normal": _log_normal}


class NICE(flax.struct.PyTreeNode):
    """h = exp(log_scale) (couplings(x)) with entries of h independent under a fixed prior.

    log p(x) = sum_i log prior(h_i) + sum_i log_scale_i. Couplings shift the odd entries by a
    network of the even ones, then the reverse, and so on. A pytree of what is trained.

    Args:
        couplings: `Coupling` of alternating parity.
        log_scale: (D,).
        prior: "logistic" or "normal".
    Source: Dinh et al. 2014; Song 2022 (dissertation), section 3.5.2 and table B.4: four couplings
        of five linear maps with 1000 units, softplus in between.
    """

    couplings: tuple
    log_scale: Array
    prior: Literal["logistic", "normal"] = flax.struct.field(pytree_node=False, default="logistic")

    @classmethod
    def create(
        cls,
        key: Key[Array, ""],
        d: int,
        hidden: int = 1000,
        depth: int = 5,
        couplings: int = 4,
    ) -> "NICE":
        """Fresh weights for points of d >= 2 entries; each coupling has `depth` linear maps.

        Raises:
            ValueError: d or depth is below 2.
        """
        if d < 2 or depth < 2:
            raise ValueError(f"need d >= 2 entries and depth >= 2; got d={d}, depth={depth}")
        even, odd = (d + 1) // 2, d // 2
        made = []
        for i in range(couplings):
            ends = (odd, even) if i % 2 else (even, odd)
            widths = (ends[0], *[hidden] * (depth - 1), ends[1])
            made.append(Coupling(perceptron(jax.random.fold_in(key, i), widths), bool(i % 2)))
        return cls(tuple(made), jnp.zeros(d))

    def encode(self, x: Float[Array, "batch d"]) -> Float[Array, "batch d"]:
        """h of x."""

        def one(x):
            for layer in (*self.couplings, Scale(self.log_scale)):
                x = layer(x)
            return x

        return jax.vmap(one)(x)

    def decode(self, h: Float[Array, "batch d"]) -> Float[Array, "batch d"]:
        """x of h."""

        def one(h):
            x = h * jnp.exp(-self.log_scale)
            for layer in reversed(self.couplings):
                x = layer.inverse(x)
            return x

        return jax.vmap(one)(h)

    def sample(self, key: Key[Array, ""], n: int) -> Float[Array, "n d"]:
        """n samples."""
        draw = {"logistic": jax.random.logistic, "normal": jax.random.normal}[self.prior]
        return self.decode(draw(key, (n, len(self.log_scale)), self.log_scale.dtype))

    def log_prob(self, x: Float[Array, "batch d"]) -> Float[Array, "batch"]:
        """log p(x) in nats."""
        return jnp.sum(PRIORS[self.prior](self.encode(x)), axis=1) + jnp.sum(self.log_scale)

    def layers(self) -> tuple[Layer, ...]:
        """log p as a layered network, but for a constant, for the baselines of `curvature`."""
        ones = jnp.ones((1, len(self.log_scale)), self.log_scale.dtype)
        last = (Scale(self.log_scale), Elementwise(PRIORS[self.prior]), Linear(ones))
        return (*self.couplings, *last)


def to_logits(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """log(x/(1 - x)) of pixels in [0, 1], kept `LOGIT_MARGIN` away from both ends."""
    x = jnp.clip(x, LOGIT_MARGIN, 1 - LOGIT_MARGIN)
    return jnp.log(x) - jnp.log1p(-x)
