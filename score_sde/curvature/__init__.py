"""Second-order scores: s2 = the Hessian of log p_t, and what it tells of the clean image.

Maps of samples (`operators`), network -> s2 (`model`), Tweedie's covariance and its principal
directions (`posterior`).
"""

from score_sde.curvature.model import CurvatureParameterization, ScoreWithCurvature
from score_sde.curvature.operators import (
    Curvature,
    CurvatureFn,
    Dense,
    LowRank,
    Product,
    decomposed,
    estimate_diagonal,
    jacobian_of,
)
from score_sde.curvature.posterior import (
    Directions,
    exact_directions,
    subspace_directions,
    tweedie_covariance,
)

__all__ = [
    "Curvature",
    "CurvatureFn",
    "CurvatureParameterization",
    "Dense",
    "Directions",
    "LowRank",
    "Product",
    "ScoreWithCurvature",
    "decomposed",
    "estimate_diagonal",
    "exact_directions",
    "jacobian_of",
    "subspace_directions",
    "tweedie_covariance",
]
