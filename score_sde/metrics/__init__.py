"""Measures of samples and images; none of them knows anything of SDEs."""

from score_sde.metrics.neighbors import NeighborDistances, nearest_neighbors, neighbor_distances

__all__ = ["NeighborDistances", "nearest_neighbors", "neighbor_distances"]
