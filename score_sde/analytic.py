"""Ground truth: a Gaussian mixture stays one under x_t = alpha x_0 + sigma z.

So everything about it is exact. p_t = sum_k w_k N(alpha mu_k, alpha^2 C_k + sigma^2 I). Scores,
densities, denoisers and samples of this are what every approximate part of the library is tested
against. `LogisticMixture` is exact without noise alone.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Inexact, Key

from score_sde.arrays import ScoreFn, Time, batch_time, left_broadcast
from score_sde.curvature import CurvatureFn, Dense
from score_sde.sde import Perturbation


@runtime_checkable
class Linear(Protocol):
    """What `GaussianMixture.condition` needs of an operator: y = A x, batch axis first."""

    def forward(self, x: Array) -> Array:
        """(batch, *event) -> (batch, *measured)."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class GaussianMixture:
    """sum_k w_k N(mu_k, Q_k diag(v_k) Q_k^T) over samples of shape `event`.

    D is the number of their entries. Use `isotropic` or `full` to make one; a single Gaussian is a
    mixture of one component.

    Args:
        weights: (K,) positive, summing to 1.
        means: (K, *event).
        variances: (K, D) eigenvalues of the covariances.
        rotations: (K, D, D) their eigenvectors in columns, or None for the identity.
    """

    weights: np.ndarray
    means: np.ndarray
    variances: np.ndarray
    rotations: np.ndarray | None = None

    def __post_init__(self):
        if not (np.all(self.weights > 0) and abs(float(np.sum(self.weights)) - 1) < 1e-6):
            raise ValueError(f"weights must be positive and sum to 1; got {self.weights}")
        expected = (len(self.weights), math.prod(self.means.shape[1:]))
        if len(self.means) != expected[0] or self.variances.shape != expected:
            raise ValueError(
                f"expected {expected[0]} means and variances of shape {expected}; "
                f"got means {self.means.shape}, variances {self.variances.shape}"
            )
        if np.any(self.variances < 0):
            raise ValueError(
                "covariances must be positive semi-definite; got a negative eigenvalue"
            )

    @classmethod
    def isotropic(cls, weights, means, std) -> "GaussianMixture":
        """Covariances std_k^2 I; `std` is a number or (K,)."""
        means = np.asarray(means)
        std = np.broadcast_to(np.asarray(std), (len(means),))
        return cls(
            np.asarray(weights),
            means,
            np.repeat(std[:, None] ** 2, math.prod(means.shape[1:]), axis=1),
        )

    @classmethod
    def full(cls, weights, means, covariances) -> "GaussianMixture":
        """Covariances (K, D, D), over the flattened sample in row-major order."""
        variances, rotations = np.linalg.eigh(np.asarray(covariances))
        return cls(np.asarray(weights), np.asarray(means), np.maximum(variances, 0), rotations)

    @property
    def event(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return self.means.shape[1:]

    def mean(self) -> np.ndarray:
        """E[x] = sum_k w_k mu_k, of shape `event`."""
        return np.tensordot(self.weights, self.means, 1)

    def covariance(self) -> np.ndarray:
        """sum_k w_k (C_k + (mu_k - E[x]) (mu_k - E[x])^T), (D, D) over the flattened sample."""
        offsets = (self.means - self.mean()).reshape(len(self.weights), -1)
        roots = self._roots()
        within = np.einsum("k,kij,klj->il", self.weights, roots, roots)
        return within + np.einsum("k,ki,kj->ij", self.weights, offsets, offsets)

    def condition(
        self,
        operator: Linear,
        y: Inexact[Array, "..."] | Inexact[np.ndarray, "..."],
        std: float,
    ) -> "GaussianMixture":
        """The exact posterior p(x | y) of a measurement y = A x + std z, z ~ N(0, I).

        A mixture again. Its weights are proportional to w_k N(y; A mu_k, S_k). Its means are
        mu_k + C_k A^T S_k^-1 (y - A mu_k), its covariances C_k - C_k A^T S_k^-1 A C_k, where
        S_k = A C_k A^T + std^2 I. Its score under a process is the exact score given y, so that
        score minus the prior's is the exact guidance.

        It comes from the singular values of A C_k^(1/2), in double precision on the host. No
        covariance is subtracted, so none loses its sign. A is read by `forward` in the precision
        that JAX has. With std = 0 what A or C_k cannot reach is left out: S_k^-1 becomes the
        pseudo-inverse, N a density on the range of S_k. A component that cannot give y is dropped.
        Complex data count as pairs of real numbers, each with noise of its own.

        Args:
            operator: the linear map A, for one sample.
            y: one measurement, without a batch axis.
            std: of its noise, at least 0.

        Raises:
            ValueError: for a negative std; for a y that is not finite, not of the shape that
                `forward` gives, or, with std = 0, given by no component; and where with std = 0
                the ranges of S_k differ, since then their densities cannot be compared.
        """
        if not (np.isfinite(std) and std >= 0 and np.isfinite(y).all()):
            raise ValueError(f"std must be >= 0 and y finite; got std={std}, y={y}")
        matrix, y, tolerance = self._equations(operator, np.asarray(y))
        parts = [
            _posterior(matrix, root, y - matrix @ mean.ravel(), std, tolerance)
            for root, mean in zip(self._roots(), self.means, strict=True)
        ]
        log_densities, steps, covariances, ranges = (np.stack(part) for part in zip(*parts))
        if np.abs(ranges - ranges[0]).max() > tolerance**0.5:
            raise ValueError(
                "without noise the components give measurements in different subspaces (some "
                "covariances are singular), so their densities cannot be compared; take std > 0"
            )
        largest = log_densities.max()
        if largest == -np.inf:
            raise ValueError("no component can give this y without noise; take std > 0")
        weights = self.weights * np.exp(log_densities - largest)
        kept = weights > 0
        means = self.means.astype(np.float64) + steps.reshape(self.means.shape)
        return self.full((weights / weights.sum())[kept], means[kept], covariances[kept])

    def _roots(self) -> np.ndarray:
        """(K, D, D) R_k with C_k = R_k R_k^T."""
        rotations = np.eye(self.variances.shape[1]) if self.rotations is None else self.rotations
        return rotations * np.sqrt(self.variances.astype(np.float64))[:, None, :]

    def _equations(self, operator: Linear, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        """A as a matrix and y as a vector, both real, and the size of A's rounding errors."""
        unit = jnp.eye(self.variances.shape[1]).reshape(-1, 1, *self.event)
        columns = np.asarray(jax.vmap(operator.forward)(unit))
        if columns.shape[1:] != (1, *y.shape):
            raise ValueError(
                f"the operator makes {columns.shape[1:]} of one sample (1, *{self.event}); "
                f"y must be one measurement without a batch axis; got shape {y.shape}"
            )
        rows = np.concatenate([columns.reshape(len(unit), -1), y.reshape(1, -1)])
        if np.iscomplexobj(rows):
            rows = np.concatenate([rows.real, rows.imag], axis=1)
        rows = rows.astype(np.float64)
        return rows[:-1].T, rows[-1], 100 * float(np.finfo(columns.dtype).eps)

    def sample(self, key: Key[Array, ""], n: int, dtype=jnp.float32) -> Float[Array, "n ..."]:
        """n exact samples of p_0."""
        key_component, key_noise = jax.random.split(key)
        component = jax.random.categorical(
            key_component, jnp.log(jnp.asarray(self.weights, dtype)), shape=(n,)
        )
        z = jax.random.normal(key_noise, (n, self.variances.shape[1]), dtype)
        z = z * jnp.sqrt(jnp.asarray(self.variances, dtype))[component]
        if self.rotations is not None:
            z = jnp.einsum("nij,nj->ni", jnp.asarray(self.rotations, dtype)[component], z)
        return jnp.asarray(self.means, dtype)[component] + z.reshape(n, *self.event)

    def sample_at(
        self, key: Key[Array, ""], process: Perturbation, t: Time, n: int, dtype=jnp.float32
    ) -> Float[Array, "n ..."]:
        """n exact samples of p_t."""
        key_data, key_noise = jax.random.split(key)
        x0 = self.sample(key_data, n, dtype)
        return process.perturb(
            x0, jnp.asarray(t, dtype), jax.random.normal(key_noise, x0.shape, dtype)
        )

    def log_prob(
        self, process: Perturbation, x: Float[Array, "batch ..."], t: Time
    ) -> Float[Array, "batch"]:
        """log p_t(x) in nats."""
        components, _ = self._components(process, x, t)
        return jax.nn.logsumexp(components, axis=1)

    def score(
        self, process: Perturbation, x: Float[Array, "batch ..."], t: Time
    ) -> Float[Array, "batch ..."]:
        """grad_x log p_t(x) = -sum_k r_k(x) (alpha^2 C_k + sigma^2 I)^{-1} (x - alpha mu_k).

        r_k are the responsibilities.
        """
        components, pulls = self._components(process, x, t)
        return jnp.einsum("bk,bkd->bd", jax.nn.softmax(components, axis=1), pulls).reshape(x.shape)

    def score_fn(self, process: Perturbation) -> ScoreFn:
        """The exact score under `process` as the currency of the library."""
        return lambda x, t: self.score(process, x, t)

    def hessian(self, process: Perturbation, x: Float[Array, "batch ..."], t: Time) -> Dense:
        """The Hessian of log p_t(x): the exact second-order score s2.

            sum_k r_k ((u_k - s)(u_k - s)^T - (alpha^2 C_k + sigma^2 I)^{-1}), s = sum_k r_k u_k

        with u_k the score of component k and r_k the responsibilities. No large numbers cancel but
        the inverses with the spread of the u_k.
        """
        components, pulls = self._components(process, x, t)
        r = jax.nn.softmax(components, axis=1)
        spread = pulls - jnp.einsum("bk,bkd->bd", r, pulls)[:, None]
        alpha, sigma = self._marginal(process, x, t)
        variances = jnp.asarray(self.variances, x.dtype)[None]
        variance = left_broadcast(alpha, pulls) ** 2 * variances + left_broadcast(sigma, pulls) ** 2
        precision = r[:, :, None] / variance
        if self.rotations is None:
            inverse = jax.vmap(jnp.diag)(jnp.sum(precision, axis=1))
        else:
            q = jnp.asarray(self.rotations, x.dtype)
            inverse = jnp.einsum("kij,bkj,klj->bil", q, precision, q)
        matrix = jnp.einsum("bki,bkj->bij", r[:, :, None] * spread, spread) - inverse
        return Dense(matrix.reshape(len(x), *self.event, *self.event))

    def hessian_fn(self, process: Perturbation) -> CurvatureFn:
        """The exact second-order score under `process`."""
        return lambda x, t: self.hessian(process, x, t)

    def posterior(
        self, process: Perturbation, x: Float[Array, "..."] | Float[np.ndarray, "..."], t: float
    ) -> "GaussianMixture":
        """The exact p(x_0 | x_t = x) of one x of shape `event`: a mixture, by `condition`."""
        alpha, sigma = (float(v) for v in process.marginal(jnp.asarray(t)))
        return self.condition(_Scaled(alpha), x, sigma)

    def class_posterior(self, process: Perturbation) -> Callable[[Array, Array], Array]:
        """(x, t) -> (batch, K) log p_t(k | x): the exact classifier of the components.

        log(w_k N_k(x)) - log p_t(x), with x (batch, ...) and t (batch,).
        """
        return lambda x, t: jax.nn.log_softmax(self._components(process, x, t)[0], axis=1)

    def _components(
        self, process: Perturbation, x: Float[Array, "batch ..."], t: Time
    ) -> tuple[Float[Array, "batch k"], Float[Array, "batch k d"]]:
        """log(w_k N_k(x)) and grad_x log N_k(x)."""
        flat = x.reshape(len(x), 1, -1)
        alpha, sigma = (left_broadcast(v, flat) for v in self._marginal(process, x, t))
        means, variances = jnp.asarray(self.means, x.dtype), jnp.asarray(self.variances, x.dtype)
        offset = flat - alpha * means.reshape(1, len(means), -1)
        variance = alpha**2 * variances[None] + sigma**2
        if self.rotations is None:
            scaled = offset / variance
            pulls = -scaled
        else:
            rotations = jnp.asarray(self.rotations, x.dtype)
            offset = jnp.einsum("kij,bki->bkj", rotations, offset)
            scaled = offset / variance
            pulls = -jnp.einsum("kij,bkj->bki", rotations, scaled)
        quadratic = jnp.sum(offset * scaled + jnp.log(variance), axis=2)
        log_weights = jnp.log(jnp.asarray(self.weights, x.dtype))[None]
        return log_weights - 0.5 * quadratic - 0.5 * math.log(2 * math.pi) * flat.shape[2], pulls

    def _marginal(self, process, x, t):
        alpha, sigma = process.marginal(batch_time(t, x))
        return alpha.astype(x.dtype), sigma.astype(x.dtype)


@dataclasses.dataclass(frozen=True, eq=False)
class LogisticMixture:
    """sum_k w_k prod_i f((x_i - mu_ki)/b_k)/b_k with f(u) = e^-u/(1 + e^-u)^2, over vectors.

    It has tails that a Gaussian mixture lacks, and no closed form under noise. So its score is that
    of the data, which differs from the score at a noise level sigma by O(sigma^2).

    Args:
        weights: (K,) positive, summing to 1.
        means: (K, D).
        scales: (K,) b_k > 0; the standard deviations of component k are pi b_k/sqrt(3).

    Raises:
        ValueError: weights, shapes or scales that are no such mixture.
    """

    weights: np.ndarray
    means: np.ndarray
    scales: np.ndarray

    def __post_init__(self):
        if not (np.all(self.weights > 0) and abs(float(np.sum(self.weights)) - 1) < 1e-6):
            raise ValueError(f"weights must be positive and sum to 1; got {self.weights}")
        k = len(self.weights)
        if self.means.ndim != 2 or len(self.means) != k or self.scales.shape != (k,):
            raise ValueError(
                f"expected means ({k}, D) and scales ({k},); "
                f"got {self.means.shape} and {self.scales.shape}"
            )
        if not np.all(self.scales > 0):
            raise ValueError(f"scales must be positive; got {self.scales}")

    def sample(self, key: Key[Array, ""], n: int, dtype=jnp.float32) -> Float[Array, "n d"]:
        """n exact samples."""
        key_component, key_noise = jax.random.split(key)
        component = jax.random.categorical(
            key_component, jnp.log(jnp.asarray(self.weights, dtype)), shape=(n,)
        )
        u = jax.random.logistic(key_noise, (n, self.means.shape[1]), dtype)
        scales = jnp.asarray(self.scales, dtype)[component]
        return jnp.asarray(self.means, dtype)[component] + scales[:, None] * u

    def log_prob(self, x: Float[Array, "batch d"]) -> Float[Array, "batch"]:
        """log p(x) in nats."""
        return jax.nn.logsumexp(self._components(x)[0], axis=1)

    def score(self, x: Float[Array, "batch d"]) -> Float[Array, "batch d"]:
        """grad log p(x) = sum_k r_k g_k, g_k = -tanh(u_k/2)/b_k.

        r_k are the responsibilities, and u_k = (x - mu_k)/b_k.
        """
        components, pulls, _ = self._components(x)
        return jnp.einsum("bk,bkd->bd", jax.nn.softmax(components, axis=1), pulls)

    def hessian_diagonal(self, x: Float[Array, "batch d"]) -> Float[Array, "batch d"]:
        """The diagonal of the Hessian of log p(x): sum_k r_k (h_k + (g_k - s)^2).

        h_k = -(1 - tanh^2(u_k/2))/(2 b_k^2), and s is the score.
        """
        components, pulls, bends = self._components(x)
        r = jax.nn.softmax(components, axis=1)
        spread = pulls - jnp.einsum("bk,bkd->bd", r, pulls)[:, None]
        return jnp.einsum("bk,bkd->bd", r, bends + spread**2)

    def _components(self, x):
        """log(w_k p_k(x)), g_k and h_k."""
        scales = jnp.asarray(self.scales, x.dtype)[None, :, None]
        u = (x[:, None] - jnp.asarray(self.means, x.dtype)[None]) / scales
        logs = -jax.nn.softplus(u) - jax.nn.softplus(-u) - jnp.log(scales)
        components = jnp.sum(logs, axis=2) + jnp.log(jnp.asarray(self.weights, x.dtype))[None]
        slope = jnp.tanh(0.5 * u)
        return components, -slope / scales, -0.5 * (1 - slope**2) / scales**2


@dataclasses.dataclass(frozen=True)
class _Scaled:
    """x -> factor x."""

    factor: float

    def forward(self, x: Array) -> Array:
        """factor x."""
        return self.factor * x


def _posterior(
    matrix: np.ndarray, root: np.ndarray, residual: np.ndarray, std: float, tolerance: float
) -> tuple[float, np.ndarray, np.ndarray, np.ndarray]:
    """One component N(mu, R R^T) given A x + std z = y, by A R = U diag(s) V^T.

    Returns log N(y; A mu, S) but for a constant that all components share, the step of the mean,
    the covariance and the projector on the range of S.
    """
    u, s, vt = np.linalg.svd(matrix @ root)
    size = np.linalg.norm(matrix, 2) * np.linalg.norm(root, 2)
    s = np.where((s > tolerance * size) | (std > 0), s, 0.0)
    n, along = len(s), u.T @ residual
    variances = np.full(len(u), float(std) ** 2)
    variances[:n] += s**2
    inside = variances > 0
    safe = np.where(inside, variances, 1.0)
    missed = np.abs(along[~inside]).max(initial=0.0) > tolerance**0.5 * (size + np.abs(along).max())
    log_density = -0.5 * np.sum(np.where(inside, along**2, 0.0) / safe + np.log(safe))
    kept = np.ones(len(vt))
    kept[:n] = np.where(inside, std**2 / safe, 1.0)[:n]
    directions = root @ vt.T
    step = directions[:, :n] @ (s / safe[:n] * along[:n])
    covariance = directions * kept @ directions.T
    projector = u[:, inside] @ u[:, inside].T
    return -np.inf if missed else log_density, step, covariance, projector
