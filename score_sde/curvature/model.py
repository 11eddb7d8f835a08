"""From what a network computes to the second-order score."""

import dataclasses
import math
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.arrays import ScoreFn, Time, batch_time, left_broadcast
from score_sde.curvature.operators import (
    Curvature,
    CurvatureFn,
    Dense,
    LowRank,
    check_dense,
)
from score_sde.curvature.posterior import tweedie_covariance
from score_sde.parameterize import Coefficient, centred
from score_sde.sde import Perturbation


def _one(t: Time) -> Time:
    return jnp.ones_like(t)


@dataclasses.dataclass(frozen=True, eq=False)
class ScoreWithCurvature:
    """A score function that has its second-order score with it, for steppers that ask for both.

    A network's weights change, and a stepper has none. So they come with the score.
    """

    score_fn: ScoreFn
    curvature_fn: CurvatureFn

    def __call__(self, x: Float[Array, "batch ..."], t: Time) -> Float[Array, "batch ..."]:
        """s1(x, t)."""
        return self.score_fn(x, t)


@dataclasses.dataclass(frozen=True)
class CurvatureParameterization:
    """s2(x, t) of a network with C (1 + r) outputs where the data have C: diagonal + low rank.

    The outputs are a, of the shape of the data, and the columns B of a factor:

        "plain"       s2 = (diag(a) + B B^T)/sigma^2 (section 4.4.2, which has no 1/sigma^2);
        "covariance"  Cov = c (diag(softplus a) + B B^T), s2 = (alpha^2/sigma^2 Cov - I)/sigma^2.

    In the second Cov = Cov[x_0 | x_t] is positive semi-definite by construction, as eq. 4.18 asks.
    The first cannot have an s2 below its own diagonal part. c = nu^2 sigma_data^2/(nu^2 +
    sigma_data^2) with nu = sigma/alpha is the exact variance for Gaussian data of the standard
    deviation sigma_data. So outputs of the size of 1 serve all noise levels.

    Without a rank the network has C D outputs, a whole D x D matrix A for each sample: "plain" is
    s2 = (A + A^T)/(2 sigma^2), and "covariance" is Cov = c (I + A)(I + A)^T. They can be any
    symmetric and any positive semi-definite matrix.

    Args:
        process: gives alpha and sigma.
        rank: r >= 0, or None for whole matrices of at most 1024 dimensions.
        c_noise, c_in, centre: as in `parameterize.Parameterization`.
        form: "covariance" or "plain".
        sigma_data: the standard deviation of the data, for "covariance".

    Raises:
        ValueError: an unknown form, a negative rank, a sigma_data that is not positive; when
            called, a network with another number of outputs, or whole matrices that are too large.
    """

    process: Perturbation
    rank: int | None
    c_noise: Coefficient
    c_in: Coefficient = _one
    centre: bool = False
    form: Literal["covariance", "plain"] = "covariance"
    sigma_data: float = 0.5

    def __post_init__(self):
        if self.form not in ("covariance", "plain"):
            raise ValueError(f"form must be 'covariance' or 'plain'; got {self.form!r}")
        if not ((self.rank is None or self.rank >= 0) and self.sigma_data > 0):
            raise ValueError(
                "rank must be at least 0 and sigma_data positive; "
                f"got rank={self.rank}, sigma_data={self.sigma_data}"
            )

    def curvature_fn(self, network: Callable[[Array, Array], Array]) -> CurvatureFn:
        """s2 of `network(x, labels)`."""

        def curvature(x: Float[Array, "batch ..."], t: Time) -> Curvature:
            made, (alpha, sigma) = self._outputs(network, x, t)
            scale, shift = 1 / sigma**2, jnp.zeros_like(sigma)
            if self.form == "covariance":
                scale, shift = self._level(alpha, sigma) * alpha**2 / sigma**4, -(sigma**-2)
            return made.affine(scale, shift)

        return curvature

    def covariance_fn(self, network: Callable[[Array, Array], Array]) -> CurvatureFn:
        """Cov[x_0 | x_t] of `network(x, labels)`.

        With "covariance" nothing is subtracted, so that no rounding makes it indefinite. With
        "plain" it is eq. 4.18 applied to s2.
        """

        def covariance(x: Float[Array, "batch ..."], t: Time) -> Curvature:
            made, (alpha, sigma) = self._outputs(network, x, t)
            if self.form == "covariance":
                return made.affine(self._level(alpha, sigma), jnp.zeros_like(sigma))
            s2 = made.affine(1 / sigma**2, jnp.zeros_like(sigma))
            return tweedie_covariance(self.process, s2, batch_time(t, x))

        return covariance

    def _level(self, alpha, sigma):
        """c, the variance of x_0 given x_t for Gaussian data."""
        return (sigma * self.sigma_data) ** 2 / (sigma**2 + (alpha * self.sigma_data) ** 2)

    def _outputs(self, network, x, t):
        t = batch_time(t, x)
        scaled = left_broadcast(self.c_in(t), x) * x
        output = network(centred(scaled) if self.centre else scaled, self.c_noise(t))
        d, channels = math.prod(x.shape[1:]), x.shape[-1]
        each, how = (d, "D") if self.rank is None else (1 + self.rank, "1 + rank")
        expected = (*x.shape[:-1], channels * each)
        if output.shape != expected:
            raise ValueError(
                f"a network of rank {self.rank} must return {expected} for samples {x.shape}: "
                f"{how} numbers for each of theirs; got {output.shape}"
            )
        output = output.astype(x.dtype)
        made = self._whole(output, x) if self.rank is None else self._low_rank(output, channels)
        return made, self.process.marginal(t)

    def _low_rank(self, output, channels) -> LowRank:
        a, columns = output[..., :channels], output[..., channels:]
        if self.form == "covariance":
            a = jax.nn.softplus(a)
        return LowRank(a, columns.reshape(*a.shape, self.rank) if self.rank else None)

    def _whole(self, output, x) -> Dense:
        check_dense(x.shape[1:])
        matrix = output.reshape(len(x), math.prod(x.shape[1:]), -1)
        if self.form == "covariance":
            root = matrix + jnp.eye(matrix.shape[1], dtype=x.dtype)[None]
            matrix = jnp.einsum("bik,bjk->bij", root, root)
        else:
            matrix = 0.5 * (matrix + matrix.swapaxes(1, 2))
        return Dense(matrix.reshape(len(x), *x.shape[1:], *x.shape[1:]))
