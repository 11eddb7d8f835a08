"""Uncertainty of the denoised image: Tweedie's covariance and its principal directions."""

import math
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.arrays import Keys, Time, batch_time, fold_in, normal
from score_sde.curvature.operators import Dense, LowRank, Product, decomposed
from score_sde.sde import Perturbation

Operator = TypeVar("Operator", LowRank, Dense, Product)


def tweedie_covariance(process: Perturbation, curvature: Operator, t: Time) -> Operator:
    """Cov[x_0 | x_t] = sigma^2/alpha^2 (I + sigma^2 s2), a map of the form of s2 (eq. 4.18).

    Its `diagonal` is the map of uncertainty; the mean is `process.tweedie`. An s2 that is not the
    exact one may give negative variances; they are kept, since they say that s2 is wrong. Where
    Cov is far below sigma^2/alpha^2, I + sigma^2 s2 cancels, and in single precision the variances
    have an error of about 1e-7 sigma^2/alpha^2.

    Args:
        curvature: s2 at x_t and t, say `jacobian_of(score_fn, x, t)` or `curvature_fn(x, t)`.
        t: the time or times of the samples.
    """
    like = curvature.like
    alpha, sigma = (v.astype(like.dtype) for v in process.marginal(batch_time(t, like)))
    variance = (sigma / alpha) ** 2
    return curvature.affine(variance * sigma**2, variance)


class Directions(NamedTuple):
    """Eigenvalues and eigenvectors of a map, the largest eigenvalues first.

    values: (batch, k). vectors: (batch, k, *event), orthonormal. residuals: (batch, k), the norms
    |A v - value v|: an eigenvalue of a symmetric A is at most that far from each value.
    """

    values: Float[Array, "batch k"]
    vectors: Float[Array, "batch k ..."]
    residuals: Float[Array, "batch k"]


def exact_directions(operator: LowRank | Dense | Product, k: int) -> Directions:
    """The k largest eigenvalues and their vectors, by decomposing the matrix.

    Negative eigenvalues are returned as they are. An operator that is not symmetric is made so.

    Raises:
        ValueError: k outside [1, D], or D above 1024 where the matrix is not given.
    """
    _check_count(k, math.prod(operator.event))
    values, vectors = decomposed(operator.dense())
    values, vectors = values[:, : -k - 1 : -1], vectors[:, :, : -k - 1 : -1]
    return _finish(operator, values, vectors)


def subspace_directions(
    keys: Keys, operator: LowRank | Dense | Product, k: int, steps: int, extra: int = 4
) -> Directions:
    """k principal directions by subspace iteration: products with k + `extra` vectors a step.

    Step: Q <- the orthonormal basis of A Q. At last the eigenvectors of Q^T A Q (Rayleigh-Ritz).
    It finds the eigenvalues that are largest in absolute value, and those of a covariance are
    positive. The error of direction i falls by |lambda_(k + extra + 1)/lambda_i| a step. The
    residuals tell whether there were enough steps.

    Args:
        keys: of the random start; one, or one for each sample.
        k: directions, at least 1; k + extra is at most D.
        steps: at least 1.
        extra: further vectors, which make it converge faster and are not returned.
    Raises:
        ValueError: k, steps or extra outside their ranges.
    Source: Halko, Martinsson and Tropp 2011, algorithm 4.4; Saad 2011, chapter 5.
    """
    d = math.prod(operator.event)
    if extra < 0 or steps < 1:
        raise ValueError(f"extra must be >= 0 and steps >= 1; got extra={extra}, steps={steps}")
    _check_count(k, d)
    _check_count(k + extra, d)
    product = _columns(operator)
    shape, dtype = (len(operator.like), d), operator.like.dtype
    start = jax.vmap(lambda i: normal(fold_in(keys, i), shape, dtype))(jnp.arange(k + extra))
    basis = jnp.linalg.qr(start.transpose(1, 2, 0))[0]
    basis = jax.lax.fori_loop(0, steps, lambda _, q: jnp.linalg.qr(product(q))[0], basis)
    small = jnp.einsum("bdi,bdj->bij", basis, product(basis))
    values, rotation = decomposed(small)
    values, rotation = values[:, : -k - 1 : -1], rotation[:, :, : -k - 1 : -1]
    return _finish(operator, values, jnp.einsum("bdi,bij->bdj", basis, rotation))


def _columns(operator):
    """(batch, D, k) -> A times each column."""

    def apply(columns):
        rows = columns.transpose(2, 0, 1).reshape(-1, len(columns), *operator.event)
        made = jax.lax.map(operator.product, rows)
        return made.reshape(len(rows), len(columns), -1).transpose(1, 2, 0)

    return apply


def _finish(operator, values, vectors) -> Directions:
    off = _columns(operator)(vectors) - values[:, None] * vectors
    residuals = jnp.sqrt(jnp.sum(off**2, axis=1))
    shaped = vectors.swapaxes(1, 2).reshape(*values.shape, *operator.event)
    return Directions(values, shaped, residuals)


def _check_count(k: int, d: int) -> None:
    if not 1 <= k <= d:
        raise ValueError(f"the number of directions must be in [1, {d}], at most D; got {k}")
