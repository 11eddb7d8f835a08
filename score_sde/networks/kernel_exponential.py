"""The deep kernel exponential family: a log-density that is linear in its last weights."""

import math
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from score_sde.networks.curvature import (
    GaussianBump,
    Linear,
    Skip,
    approximate_backpropagation,
    back,
    curvature_propagation,
    evaluate,
    perceptron,
)


class DeepKernelExponentialFamily(flax.struct.PyTreeNode):
    """log p~(x) = sum_l alpha_l k(x, z_l) + log q0(x), with q0 = N(0, base_std^2 I) and

        k(x, z) = sum_r rho_r exp(-|phi_r(x) - phi_r(z)|^2/(2 width_r^2)).

    A pytree of all that is trained but alpha. Given the rest, every objective of score matching is
    quadratic in alpha, so its best alpha is the solution of a linear system
    (`objectives.exponential.solve_alpha`), through which the rest is trained. Make one by `create`.

    Args:
        networks: phi_r, a tuple of layers whose arrays have the leading axis R: linear maps with
            softplus in between, plus a linear map of x.
        points: z (L, D), inducing points; they begin as data.
        log_widths, log_weights: (R,); rho is the softmax of the latter.
        log_ridge: logarithm of the ridge of alpha.
        base_std: of q0.
    Source: Wenliang et al. 2019, "Learning deep kernels for exponential family densities"; Song
        2022 (dissertation), sections 3.5.1 and B.1.1.
    """

    networks: tuple
    points: Array
    log_widths: Array
    log_weights: Array
    log_ridge: Array
    base_std: float = flax.struct.field(pytree_node=False, default=2.0)

    @classmethod
    def create(
        cls,
        key: Key[Array, ""],
        points: Float[Array, "l d"],
        widths: tuple[float, ...] = (1.0, 3.3, 10.0),
        hidden: int = 30,
        ridge: float = 1e-2,
    ) -> "DeepKernelExponentialFamily":
        """Fresh networks D-hidden-hidden-hidden, weights N(0, 1/hidden); one for each width."""
        d = points.shape[1]

        def network(key):
            first, last = jax.random.split(key)
            layers: Any = perceptron(first, (d, hidden, hidden, hidden))
            first_weight = layers[0].weight * (d / hidden) ** 0.5
            skip = jax.random.normal(last, (hidden, d)) * hidden**-0.5
            return (Skip((Linear(first_weight, layers[0].bias), *layers[1:]), skip),)

        return cls(
            jax.jit(jax.vmap(network))(jax.random.split(key, len(widths))),
            points,
            jnp.log(jnp.asarray(widths)),
            jnp.zeros(len(widths)),
            jnp.log(jnp.asarray(ridge)),
        )

    def features(self, x: Float[Array, "d"]) -> Float[Array, "features"]:
        """k(x, z_l) for each l, and log q0(x) at the end: log p~ is their product with (alpha, 1).

        One point; `jax.vmap` does batches. Squares of distances are taken apart, so that passes for
        many directions are products of matrices.
        """

        def kernel(network, width):
            inside = jax.vmap(lambda z: evaluate(network, z))(self.points)
            at = evaluate(network, x)
            squares = jnp.sum(inside**2, axis=1) + jnp.sum(at**2) - 2 * inside @ at
            return jnp.exp(-0.5 * squares / width**2)

        kernels = jax.vmap(kernel)(self.networks, jnp.exp(self.log_widths))
        return jnp.append(jax.nn.softmax(self.log_weights) @ kernels, self.base_log_density(x))

    def base_log_density(self, x: Float[Array, "d"]) -> Float[Array, ""]:
        """log q0(x), normalized."""
        constant = len(x) * (0.5 * math.log(2 * math.pi) + math.log(self.base_std))
        return -0.5 * jnp.sum(x**2) / self.base_std**2 - constant

    def log_density(
        self, alpha: Float[Array, "l"], x: Float[Array, "batch d"]
    ) -> Float[Array, "batch"]:
        """log p~ of a batch, up to a constant."""
        return jax.vmap(self.features)(x) @ jnp.append(alpha, jnp.ones((), x.dtype))

    def hessian_diagonals(
        self, x: Float[Array, "d"], key: Key[Array, ""] | None = None
    ) -> Float[Array, "features d"]:
        """Estimates of the diagonal of the Hessian of each of `features` at one point.

        With a key by curvature propagation, without one by approximate back-propagation. All
        features have the same signs inside a network, as one function of them would have.
        """

        def one(network, width, z, key):
            layers = (*network, GaussianBump(evaluate(network, z), width))
            if key is None:
                return approximate_backpropagation(layers, x)[1]
            return curvature_propagation(key, layers, x)[1]

        keys = None if key is None else jax.random.split(key, len(self.log_widths))
        every = jax.vmap(
            jax.vmap(one, (None, None, 0, None)), (0, 0, None, None if key is None else 0)
        )
        each = every(self.networks, jnp.exp(self.log_widths), self.points, keys)
        kernels = jnp.einsum("r,rld->ld", jax.nn.softmax(self.log_weights), each)
        return jnp.concatenate([kernels, jnp.full((1, len(x)), -1 / self.base_std**2, x.dtype)])

    def hessian_traces(
        self, x: Float[Array, "d"], key: Key[Array, ""] | None = None
    ) -> Float[Array, "features"]:
        """Sums of `hessian_diagonals`, for approximate back-propagation by a cheaper way.

        What it sums is linear in (g, h) at the network's output, with the same coefficients for all
        kernels. So one pass through a network does for all of them.
        """
        if key is not None:
            return jnp.sum(self.hessian_diagonals(x, key), axis=1)

        def kernels(network, width):
            at = evaluate(network, x)

            def total(g, h):
                return jnp.sum(back(network, x, g, h)[1])

            along_g, along_h = jax.grad(total, (0, 1))(0 * at, 0 * at)
            one = jnp.ones((1,), x.dtype)

            def trace(z):
                g, h = GaussianBump(evaluate(network, z), width).back(at, one, 0 * one)
                return g @ along_g + h @ along_h

            return jax.vmap(trace)(self.points)

        each = jax.vmap(kernels)(self.networks, jnp.exp(self.log_widths))
        base = jnp.full((), -len(x) / self.base_std**2, x.dtype)
        return jnp.append(jax.nn.softmax(self.log_weights) @ each, base)
