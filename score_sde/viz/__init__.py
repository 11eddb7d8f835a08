"""Pictures: image grids, the animation of sampling, loss curves and the HTML report."""

from score_sde.viz.animation import save_animation
from score_sde.viz.curves import loss_curves, read_metrics
from score_sde.viz.grid import image_grid, neighbor_grid, png_bytes, save_images, save_png
from score_sde.viz.histogram import histogram, intervals
from score_sde.viz.levels import level_curves, levels_section
from score_sde.viz.memorization import distance_chart, memorization_section
from score_sde.viz.report import Report, environment

__all__ = [
    "Report",
    "distance_chart",
    "environment",
    "histogram",
    "image_grid",
    "intervals",
    "level_curves",
    "levels_section",
    "loss_curves",
    "memorization_section",
    "neighbor_grid",
    "png_bytes",
    "read_metrics",
    "save_animation",
    "save_images",
    "save_png",
]
