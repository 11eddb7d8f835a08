"""Measures of samples and images; none of them knows anything of SDEs."""

from score_sde.metrics.frechet import Moments, frechet_distance, small_pixels
from score_sde.metrics.neighbors import NeighborDistances, nearest_neighbors, neighbor_distances

__all__ = [
    "Moments",
    "NeighborDistances",
    "frechet_distance",
    "nearest_neighbors",
    "neighbor_distances",
    "small_pixels",
]
