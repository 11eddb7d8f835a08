"""Pictures: image grids, the animation of sampling, curves and histograms."""

from score_sde.viz.animation import save_animation
from score_sde.viz.curves import loss_curves, read_metrics
from score_sde.viz.grid import image_grid, neighbor_grid, png_bytes, save_images, save_png
from score_sde.viz.histogram import histogram, intervals, shares

__all__ = [
    "histogram",
    "image_grid",
    "intervals",
    "loss_curves",
    "neighbor_grid",
    "png_bytes",
    "read_metrics",
    "save_animation",
    "save_images",
    "save_png",
    "shares",
]
