"""Objectives of log-densities that are linear in alpha: quadratic forms, and their minimizers.

The log-density is a . F(x) with a = (alpha, 1) and `features` F. Its score is linear in a. So each
objective of score matching is a quadratic function of alpha,

    loss(alpha) = mean over the batch of |rows a|^2/2 + slopes . a,

and a function of this module gives rows and slopes of one objective. The best alpha solves a linear
system. Its derivative with respect to what else F depends on is that of the solution.

Source: Wenliang et al. 2019; Song 2022 (dissertation), appendix B.1.1, proposition B.1.
"""

from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Features = Callable[[Float[Array, "d"]], Float[Array, "features"]]
"""F of one point; the last feature has the coefficient 1."""


class QuadraticForm(flax.struct.PyTreeNode):
    """An objective as a function of alpha.

    Args:
        rows: (batch, k, features).
        slopes: (batch, features).
    """

    rows: Float[Array, "batch k features"]
    slopes: Float[Array, "batch features"]

    def losses(self, alpha: Float[Array, "l"]) -> Float[Array, "batch"]:
        """Loss of each example."""
        a = jnp.append(alpha, jnp.ones((), alpha.dtype))
        return 0.5 * jnp.sum((self.rows @ a) ** 2, axis=1) + self.slopes @ a

    def solve(self, ridge: Float[Array, ""]) -> Float[Array, "l"]:
        """-(G + ridge I)^-1 b: the alpha with the least mean loss + ridge |alpha|^2/2.

        G = mean rows^T rows over alpha's features, b its gradient at alpha = 0. By Cholesky. The
        derivative is that of the solution, a second solution with the same factor: through the
        Cholesky factor itself it takes 20 times longer on a CPU.
        """
        n, flat = len(self.rows), self.rows.reshape(-1, self.rows.shape[-1])
        gram = flat.T @ flat / n
        b = gram[:-1, -1] + jnp.mean(self.slopes, axis=0)[:-1]
        matrix = gram[:-1, :-1] + ridge * jnp.eye(len(b), dtype=b.dtype)
        factor = jax.scipy.linalg.cho_factor(jax.lax.stop_gradient(matrix))

        def back(_, b):
            return jax.scipy.linalg.cho_solve(factor, b)

        return -jax.lax.custom_linear_solve(lambda a: matrix @ a, b, back, symmetric=True)


def solve_alpha(form: QuadraticForm, ridge: Float[Array, ""]) -> Float[Array, "l"]:
    """The best alpha of any objective: `form.solve(ridge)`."""
    return form.solve(ridge)


def exact(features: Features, x: Float[Array, "batch d"]) -> QuadraticForm:
    """Exact score matching: tr H + |score|^2/2. Time grows as D passes."""
    rows = gradients(features, x)
    unit = jnp.eye(x.shape[1], dtype=x.dtype)
    traces = jax.vmap(lambda x: jnp.sum(jax.vmap(lambda v: _curvature(features, x, v))(unit), 0))(x)
    return QuadraticForm(rows, traces)


def sliced(
    features: Features,
    x: Float[Array, "batch d"],
    v: Float[Array, "projections batch d"],
    variance_reduced: bool = False,
) -> QuadraticForm:
    """Sliced score matching, v^T H v + (v^T score)^2/2, or with |score|^2/2 (proposition B.1)."""
    slopes = jnp.mean(
        jax.vmap(lambda v: jax.vmap(lambda x, v: _curvature(features, x, v))(x, v))(v), axis=0
    )
    if variance_reduced:
        return QuadraticForm(gradients(features, x), slopes)

    def push(x, v):
        return jax.jvp(features, (x,), (v,))[1]

    rows = jax.vmap(lambda v: jax.vmap(push)(x, v), out_axes=1)(v) * len(v) ** -0.5
    return QuadraticForm(rows, slopes)


def denoising(
    features: Features, x: Float[Array, "batch d"], z: Float[Array, "batch d"], sigma: float
) -> QuadraticForm:
    """Denoising score matching at one noise level: |score(x + sigma z) + z/sigma|^2/2."""
    rows = gradients(features, x + sigma * z)
    rows = rows.at[:, :, -1].add(z / sigma)
    return QuadraticForm(rows, jnp.zeros_like(rows[:, 0]))


def with_traces(
    features: Features, x: Float[Array, "batch d"], traces: Float[Array, "batch features"]
) -> QuadraticForm:
    """Score matching with given estimates of the Hessian's trace, of each feature."""
    return QuadraticForm(gradients(features, x), traces)


def gradients(features: Features, x: Float[Array, "batch d"]) -> Float[Array, "batch d features"]:
    """d F/dx, by a forward pass for each dimension."""
    unit = jnp.eye(x.shape[1], dtype=x.dtype)
    one = jax.vmap(lambda x, v: jax.jvp(features, (x,), (v,))[1], (None, 0))
    return jax.vmap(one, (0, None))(x, unit)


def _curvature(features: Features, x: Array, v: Array) -> Float[Array, "features"]:
    """v^T H v of each feature at one point."""

    def slope(x):
        return jax.jvp(features, (x,), (v,))[1]

    return jax.jvp(slope, (x,), (v,))[1]
