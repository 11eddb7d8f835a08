"""Scores of a distribution that is known by samples alone: kernel estimators. Parzen windows.

Both estimators of scores are linear in the Gaussian kernel K_ij = exp(-|x_i - x_j|^2/(2 h^2)) of
the samples, and extend to other points. A score network trained by sliced score matching does the
same without linear systems as large as the number of samples. Functions take one set of samples;
`jax.vmap` does many.

Source: Li & Turner 2018, "Gradient estimators for implicit models" (Stein); Shi et al. 2018, "A
spectral approach to gradient estimation for implicit distributions"; Song 2022 (dissertation),
section 3.2.2.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

Points = Float[Array, "n d"]


def kernel_width(x: Points) -> Float[Array, ""]:
    """h: the floor(n^2/2)-th largest of all n^2 distances, those of a point to itself included.

    As in the published code. For even n^2 it is the upper median. No gradient goes through it.
    """
    distances = jnp.sort(jnp.sqrt(_squares(x, x)).ravel())
    n = len(distances)
    return jax.lax.stop_gradient(distances[n - n // 2])


def _squares(a: Points, b: Float[Array, "m d"]) -> Float[Array, "n m"]:
    return jnp.sum((a[:, None] - b[None]) ** 2, axis=2)


def _kernel(a: Points, b: Float[Array, "m d"], h: Float[Array, ""]) -> Float[Array, "n m"]:
    return jnp.exp(-0.5 * _squares(a, b) / h**2)


def _slopes(a: Points, b: Float[Array, "m d"], h: Float[Array, ""]) -> Float[Array, "m d"]:
    """sum_i d K(a_i, b_j)/d a_i, for each b_j."""
    k = _kernel(a, b, h)
    return -(k.T @ a - jnp.sum(k, axis=0)[:, None] * b) / h**2


@dataclasses.dataclass(frozen=True)
class SteinEstimator:
    """G = -(K + eta I)^-1 S with S_i = sum_j (x_i - x_j) K_ij/h^2: the score at the samples.

    It fits Stein's identity of the kernel's features, with a ridge. At another point y the samples
    keep their G, and y joins them in the identity. With k = K(y, X), A = k (K + eta I)^-1 and
    d_j = k_j (x_j - y)/h^2,

        score(y) = -(k G - (A + 1) d)/(1 + eta - A k^T).

    Args:
        eta: the ridge, positive.

    Raises:
        ValueError: eta is not positive.
    """

    eta: float = 1e-3

    def __post_init__(self):
        _check_ridge(self.eta, positive=True)

    def __call__(self, samples: Points, query: Float[Array, "m d"] | None = None) -> Array:
        """Scores at `query` (m, d), one point at a time; without it at the samples."""
        h = kernel_width(samples)
        matrix = _kernel(samples, samples, h) + self.eta * jnp.eye(len(samples), dtype=h.dtype)
        slopes = -_slopes(samples, samples, h)
        # S_i = sum_j (x_i - x_j) K_ij/h^2 = -sum_j d K(x_j, x_i)/d x_j, with the sign turned.
        at_samples = jnp.linalg.solve(matrix, slopes)
        if query is None:
            return at_samples
        k = _kernel(query, samples, h)
        a = jnp.linalg.solve(matrix, k.T).T
        d = k[:, :, None] * (samples[None] - query[:, None]) / h**2
        top = k @ at_samples - jnp.einsum("mj,mjd->md", a + 1, d)
        return -top / (1 + self.eta - jnp.sum(a * k, axis=1))[:, None]


@dataclasses.dataclass(frozen=True)
class SpectralEstimator:
    """sum_r beta_r psi_r over the first eigenfunctions of the kernel, by Nystroem's formula.

    With eigenpairs (lambda_r, u_r) of K + eta I over M samples,

        psi_r(y) = sqrt(M) K(y, X) u_r/lambda_r,
        beta_r = -mean_i grad psi_r(x_i),

    the latter by Stein's identity. The estimate is defined at every point.

    Args:
        n_eigen: how many are used, the largest first; None for `threshold`.
        threshold: share in the sum of eigenvalues that the used ones stay below; at least one is.
        eta: ridge, at least 0.

    Raises:
        ValueError: a ridge below 0, a threshold outside (0, 1], no eigenfunction.
    """

    n_eigen: int | None = None
    threshold: float = 0.99
    eta: float = 0.0

    def __post_init__(self):
        _check_ridge(self.eta, positive=False)
        if not 0 < self.threshold <= 1:
            raise ValueError(f"threshold must be in (0, 1]; got {self.threshold}")
        if self.n_eigen is not None and self.n_eigen < 1:
            raise ValueError(f"n_eigen must be at least 1; got {self.n_eigen}")

    def __call__(self, samples: Points, query: Float[Array, "m d"] | None = None) -> Array:
        """Scores at `query` (m, d), or without it at the samples.

        The kernel's width is that of all points, samples and query together.
        """
        points = samples if query is None else jnp.concatenate([samples, query])
        h = kernel_width(points)
        values, vectors = self._spectrum(samples, h)
        used = jnp.arange(len(values)) < self._number(values)
        safe = jnp.where(used, values, 1)
        to_functions = jnp.where(used[None], vectors / safe[None], 0) * len(samples) ** 0.5
        # psi(y) = K(y, X) to_functions; its mean slope over the samples is that of K in y.
        mean_slopes = _slopes(samples, samples, h) / len(samples)
        beta = -to_functions.T @ mean_slopes
        return _kernel(samples if query is None else query, samples, h) @ to_functions @ beta

    def number(
        self, samples: Float[Array, "*sets n d"], query: Float[Array, "*sets m d"] | None = None
    ) -> Int[Array, ""]:
        """How many eigenfunctions `threshold` allows for the mean spectrum of several sets.

        The published code takes one number for a batch of sets, that of its first call.
        """

        def spectrum(samples, points):
            return self._spectrum(samples, kernel_width(points))[0]

        points = samples if query is None else jnp.concatenate([samples, query], axis=-2)
        if samples.ndim == 2:
            return self._number(spectrum(samples, points))
        return self._number(jnp.mean(jax.vmap(spectrum)(samples, points), axis=0))

    def _spectrum(self, samples, h):
        """Eigenvalues and vectors of K + eta I, the largest first."""
        matrix = _kernel(samples, samples, h) + self.eta * jnp.eye(len(samples), dtype=h.dtype)
        values, vectors = jnp.linalg.eigh(matrix)
        return values[::-1], vectors[:, ::-1]

    def _number(self, values):
        if self.n_eigen is not None:
            return jnp.asarray(self.n_eigen)
        shares = jnp.cumsum(values) / jnp.sum(values)
        return jnp.maximum(jnp.sum(shares < self.threshold), 1)


def entropy_surrogate(
    score: Float[Array, "batch ..."], z: Float[Array, "batch ..."]
) -> Float[Array, "batch"]:
    """score . z without a gradient through the score: its gradient is that of E log q(z).

    For z = g(eps) with density q, the gradient of the entropy with respect to what g depends on is
    -E[grad log q(z) . dz], since the density's own change has the mean 0 (section 3.2.2). So
    minus the mean of this stands for the entropy in a loss of an implicit distribution.

    Args:
        score: grad log q at z, estimated or exact.
        z: samples of q as a function of parameters.
    """
    return jnp.sum((jax.lax.stop_gradient(score) * z).reshape(len(z), -1), axis=1)


def parzen_log_likelihood(
    train: Float[Array, "n *event"],
    held_out: Float[Array, "m *event"],
    width: Float[Array, ""] | float,
) -> Float[Array, ""]:
    """Mean over held-out points of log (1/n) sum_i N(x; x_i, width^2 I), in nats.

    The published code has a constant larger by D ln(2 pi)/2, which leaves its maximum in place,
    and sums where this means over n.
    """
    a, b = train.reshape(len(train), -1), held_out.reshape(len(held_out), -1)
    d, width = a.shape[1], jnp.asarray(width, a.dtype)

    def one(x):
        squares = jnp.sum((a - x[None]) ** 2, axis=1)
        return jax.nn.logsumexp(-0.5 * squares / width**2)

    constant = d * (0.5 * math.log(2 * math.pi) + jnp.log(width)) + math.log(len(a))
    return jnp.mean(jax.lax.map(one, b)) - constant


def parzen_width(
    train: Float[Array, "n *event"],
    held_out: Float[Array, "m *event"],
    low: float = 1e-3,
    high: float = 1e2,
) -> float:
    """The width that maximizes `parzen_log_likelihood` of held-out points.

    A heuristic noise level for denoising score matching at one sigma. It is found by geometric
    grids, refined around their best point, to 1e-3 of itself.
    Source: Saremi et al. 2018, "Deep energy estimator networks"; dissertation, section 3.5.1.

    Args:
        train, held_out: points of one shape.
        low, high: the widths between which it is looked for.

    Raises:
        ValueError: the bounds are not positive and increasing, or the best width is one of them.
    """
    if not 0 < low < high:
        raise ValueError(f"need 0 < low < high; got low={low}, high={high}")
    score = jax.jit(jax.vmap(lambda width: parzen_log_likelihood(train, held_out, width)))
    ends, best = (low, high), 0.0
    while high / low > 1 + 1e-3:
        grid = np.geomspace(low, high, 21)
        i = int(np.argmax(np.asarray(score(jnp.asarray(grid, train.dtype)))))
        low, high, best = float(grid[max(i - 1, 0)]), float(grid[min(i + 1, 20)]), float(grid[i])
    if best < ends[0] * 1.01 or best > ends[1] / 1.01:
        raise ValueError(
            f"the likelihood of held-out points is largest at the bound {best:.3g} of "
            f"[{ends[0]}, {ends[1]}]; widen it, or look for copies of held-out points in training"
        )
    return best


def _check_ridge(eta: float, positive: bool) -> None:
    if eta < 0 or (positive and eta == 0):
        least = "positive" if positive else "at least 0"
        raise ValueError(f"eta, the ridge of the kernel matrix, must be {least}; got {eta}")
