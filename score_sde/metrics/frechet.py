"""Frechet distance between two sets of images.

It is the distance of the Gaussians with their means and covariances.
"""

import dataclasses

import jax
import numpy as np
from jaxtyping import Float, Num

from score_sde.errors import UserError
from score_sde.metrics.vectors import as_vectors


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Moments:
    """Number, mean and scatter of feature vectors, in float64; made by `of`, joined by `+`.

    A pytree whose leaves are NumPy's float64, for which jax's own arrays are too short unless
    `jax_enable_x64` is set. The order in which parts are joined does not matter, but for rounding.

    Args:
        n: vectors seen; 0 for none, which joined to others changes nothing.
        mean: (d,).
        scatter: (d, d), the sum of (f - mean)(f - mean)^T.
    """

    n: int
    mean: Float[np.ndarray, "d"]
    scatter: Float[np.ndarray, "d d"]

    @classmethod
    def of(cls, features: Num[np.ndarray, "n d"]) -> "Moments":
        """Those of some vectors, or of none, which need (0, d) for d.

        UserError for values that are not finite.
        """
        values = as_vectors("features", features, least=0).astype(np.float64)
        mean = values.sum(axis=0) / max(len(values), 1)
        return cls(len(values), mean, (values - mean).T @ (values - mean))

    def __add__(self, other: "Moments") -> "Moments":
        """Of both sets together (Chan et al. 1979). UserError for vectors of another length."""
        _check_length(self, other)
        n, step = self.n + other.n, other.mean - self.mean
        share = other.n / max(n, 1)
        scatter = self.scatter + other.scatter + np.outer(step, step) * (self.n * share)
        return Moments(n, self.mean + step * share, scatter)

    @property
    def covariance(self) -> Float[np.ndarray, "d d"]:
        """scatter/(n - 1)."""
        return self.scatter / (self.n - 1)


def frechet_distance(a: Moments, b: Moments) -> float:
    """|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a^(1/2) C_b C_a^(1/2))^(1/2)).

    Square roots are by symmetric eigendecompositions. With C_a = R R^T the last trace is that of
    (R^T C_b R)^(1/2). R (d, r) leaves out the directions without variance. Their eigenvalues are
    rounding errors, and the root would make much larger ones of them.

    It falls with the number of vectors, which must be the same where distances are compared.

    Raises UserError for fewer than two vectors, vectors of different lengths, or values that are
    not finite. Source: Heusel et al. 2017; Dowson and Landau 1982.
    """
    if min(a.n, b.n) < 2:
        raise UserError(
            f"a Frechet distance needs at least 2 images on either side; got {a.n} and {b.n}"
        )
    _check_length(a, b)
    if not all(np.isfinite(x).all() for m in (a, b) for x in (m.mean, m.scatter)):
        raise UserError("a Frechet distance needs finite features; some images are not finite")
    few, many = sorted((a, b), key=lambda m: m.n)  # fewer vectors, fewer directions
    values, vectors = np.linalg.eigh(few.covariance)
    kept = values > values[-1] * len(values) * np.finfo(np.float64).eps
    root = vectors[:, kept] * np.sqrt(values[kept])
    cross = np.linalg.eigvalsh(root.T @ many.covariance @ root)
    trace = (
        np.trace(a.covariance) + np.trace(b.covariance) - 2 * np.sqrt(np.maximum(cross, 0)).sum()
    )
    return float(((a.mean - b.mean) ** 2).sum() + trace)


def _check_length(a: Moments, b: Moments) -> None:
    if a.mean.shape != b.mean.shape:
        raise UserError(
            f"moments must be of vectors of one length; got {len(a.mean)} and {len(b.mean)}: take "
            "both from one extractor"
        )


def small_pixels(images: Float[np.ndarray, "n h w c"], size: int = 16) -> Float[np.ndarray, "n d"]:
    """Features without a trained network: pixels, averaged over squares.

    Height and width become at most `size`. Distances of such features order the checkpoints of one
    run; they are not comparable with published FIDs.
    """
    n, height, width, channels = images.shape
    k = max(1, -(-max(height, width) // size))
    images = images[:, : height // k * k, : width // k * k]
    blocks = images.reshape(n, height // k, k, width // k, k, channels)
    return blocks.mean(axis=(2, 4)).reshape(n, -1)
