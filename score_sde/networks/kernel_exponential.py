"""The deep kernel exponential family: a log-density that is linear in its last weights."""

import math

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from score_sde.networks.curvature import (
    GaussianBump,
    Linear,
    Skip,
    approximate_backpropagation,
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
        networks: phi_r, each a tuple of layers: linear maps with softplus in between, plus a linear
            map of x.
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
            layers = perceptron(first, (d, hidden, hidden, hidden))
            layers = tuple(
                layer.replace(weight=_scaled(layer.weight, hidden))
                if isinstance(layer, Linear)
                else layer
                for layer in layers
            )
            skip = jax.random.normal(last, (hidden, d)) * hidden**-0.5
            return (Skip(layers, skip),)

        return cls(
            tuple(network(jax.random.fold_in(key, r)) for r in range(len(widths))),
            points,
            jnp.log(jnp.asarray(widths)),
            jnp.zeros(len(widths)),
            jnp.log(jnp.asarray(ridge)),
        )

    def features(self, x: Float[Array, "d"]) -> Float[Array, "features"]:
        """k(x, z_l) for each l, and log q0(x) at the end: log p~ is their product with (alpha, 1).

        One point; `jax.vmap` does batches.
        """
        kernels = jnp.zeros(len(self.points), x.dtype)
        for network, width, weight in self._kernels():
            inside = jax.vmap(lambda z, network=network: evaluate(network, z))(self.points)
            squares = jnp.sum((evaluate(network, x)[None] - inside) ** 2, axis=1)
            kernels = kernels + weight * jnp.exp(-0.5 * squares / width**2)
        return jnp.append(kernels, self.base_log_density(x))

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

        With a key by curvature propagation, without one by approximate back-propagation.
        """

        def one(z, key):
            total = jnp.zeros_like(x)
            for r, (network, width, weight) in enumerate(self._kernels()):
                layers = (*network, GaussianBump(evaluate(network, z), width))
                if key is None:
                    _, diagonal = approximate_backpropagation(layers, x)
                else:
                    _, diagonal = curvature_propagation(jax.random.fold_in(key, r), layers, x)
                total = total + weight * diagonal
            return total

        if key is None:
            kernels = jax.vmap(lambda z: one(z, None))(self.points)
        else:
            kernels = jax.vmap(one)(self.points, jax.random.split(key, len(self.points)))
        return jnp.concatenate([kernels, jnp.full((1, len(x)), -1 / self.base_std**2, x.dtype)])

    def _kernels(self):
        return zip(
            self.networks, jnp.exp(self.log_widths), jax.nn.softmax(self.log_weights), strict=True
        )


def _scaled(weight: Array, n: int) -> Array:
    """N(0, 1/inputs) weights brought to N(0, 1/n)."""
    return weight * (weight.shape[1] / n) ** 0.5
