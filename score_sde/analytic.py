"""Ground truth: a Gaussian mixture stays one under x_t = alpha x_0 + sigma z.

So everything about it is exact. p_t = sum_k w_k N(alpha mu_k, alpha^2 C_k + sigma^2 I). Scores,
densities, denoisers and samples of this are what every approximate part of the library is tested
against.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from score_sde.arrays import ScoreFn, Time, batch_time, left_broadcast
from score_sde.sde import Perturbation


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
