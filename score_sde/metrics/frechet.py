"""Frechet distance between two sets of images: the distance of the Gaussians with their means and covariances."""

import dataclasses

import numpy as np
from jaxtyping import Float, Num

from score_sde.errors import UserError


@dataclasses.dataclass(frozen=True)
class Moments:
    """Number, mean and scatter of feature vectors, in float64; made by `of`, joined by `+`.

    Args:
        n: vectors seen.
        mean: (d,).
        scatter: (d, d), the sum of (f - mean)(f - mean)^T.
    """

    n: int
    mean: Float[np.ndarray, "d"]
    scatter: Float[np.ndarray, "d d"]

    @classmethod
    def of(cls, features: Num[np.ndarray, "n d"]) -> "Moments":
        """Those of some vectors, at least one."""
        values = np.asarray(features, np.float64)
        mean = values.mean(axis=0)
        return cls(len(values), mean, (values - mean).T @ (values - mean))

    def __add__(self, other: "Moments") -> "Moments":
        """Of both sets together (Chan et al. 1979)."""
        n, step = self.n + other.n, other.mean - self.mean
        scatter = self.scatter + other.scatter + np.outer(step, step) * (self.n * other.n / n)
        return Moments(n, self.mean + step * (other.n / n), scatter)

    @property
    def covariance(self) -> Float[np.ndarray, "d d"]:
        """scatter/(n - 1)."""
        return self.scatter / (self.n - 1)


def frechet_distance(a: Moments, b: Moments) -> float:
    """|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a^(1/2) C_b C_a^(1/2))^(1/2)), by symmetric eigendecompositions.

    It falls with the number of vectors, which must be the same where distances are compared.

    Raises UserError for fewer than two vectors, or values that are not finite.
    Source: Heusel et al. 2017; Dowson and Landau 1982.
    """
    if min(a.n, b.n) < 2:
        raise UserError(f"a Frechet distance needs at least 2 images on either side; got {a.n} and {b.n}")
    if not all(np.isfinite(x).all() for m in (a, b) for x in (m.mean, m.scatter)):
        raise UserError("a Frechet distance needs finite features; some images are not finite")
    values, vectors = np.linalg.eigh(a.covariance)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    cross = np.linalg.eigvalsh(root @ b.covariance @ root)
    trace = np.trace(a.covariance) + np.trace(b.covariance) - 2 * np.sqrt(np.maximum(cross, 0)).sum()
    return float(((a.mean - b.mean) ** 2).sum() + trace)


def small_pixels(images: Float[np.ndarray, "n h w c"], size: int = 16) -> Float[np.ndarray, "n d"]:
    """Features without a trained network: pixels, averaged over squares until height and width are at most `size`.

    Distances of such features order the checkpoints of one run; they are not comparable with published FIDs.
    """
    n, height, width, channels = images.shape
    k = max(1, -(-max(height, width) // size))
    images = images[:, : height // k * k, : width // k * k]
    blocks = images.reshape(n, height // k, k, width // k, k, channels)
    return blocks.mean(axis=(2, 4)).reshape(n, -1)
