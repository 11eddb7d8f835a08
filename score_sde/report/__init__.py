"""The page made of a run: report.html and its sections."""

from score_sde.report.levels import level_curves, levels_section
from score_sde.report.memorization import Memorization, distance_chart, memorization_section
from score_sde.report.page import Report, environment
from score_sde.report.uncertainty import uncertainty_section

__all__ = [
    "Memorization",
    "Report",
    "distance_chart",
    "environment",
    "level_curves",
    "levels_section",
    "memorization_section",
    "uncertainty_section",
]
