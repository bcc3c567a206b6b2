"""Tables and figures."""

from softrsa.reports.figures import plot_alignment, plot_transforms
from softrsa.reports.synthesis_figures import (
    plot_capture,
    plot_component_curves,
    plot_decoding,
    plot_feasible_region,
    plot_scores,
)
from softrsa.reports.tables import format_best, format_table

__all__ = [
    "format_best",
    "format_table",
    "plot_alignment",
    "plot_capture",
    "plot_component_curves",
    "plot_decoding",
    "plot_feasible_region",
    "plot_scores",
    "plot_transforms",
]
