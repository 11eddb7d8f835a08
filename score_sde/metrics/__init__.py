"""Measures of samples and images; none of them knows anything of SDEs."""

from score_sde.metrics.chains import autocorrelation, effective_sample_size, split_rhat
from score_sde.metrics.estimate import Estimate
from score_sde.metrics.frechet import Moments, frechet_distance, small_pixels
from score_sde.metrics.image import psnr, ssim
from score_sde.metrics.inception_score import ScoreSums
from score_sde.metrics.kernel import kernel_distance
from score_sde.metrics.manifold import density_coverage, precision_recall
from score_sde.metrics.neighbors import (
    NeighborDistances,
    Neighbors,
    nearest_neighbors,
    neighbor_distances,
)
from score_sde.metrics.scans import circle, grey_levels
from score_sde.metrics.two_sample import energy_test

__all__ = [
    "Estimate",
    "Moments",
    "NeighborDistances",
    "Neighbors",
    "ScoreSums",
    "autocorrelation",
    "circle",
    "density_coverage",
    "effective_sample_size",
    "energy_test",
    "frechet_distance",
    "grey_levels",
    "kernel_distance",
    "nearest_neighbors",
    "neighbor_distances",
    "precision_recall",
    "psnr",
    "small_pixels",
    "split_rhat",
    "ssim",
]
