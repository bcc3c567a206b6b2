"""Tables and figures."""

from softrsa.reports.figures import plot_alignment, plot_transforms
from softrsa.reports.tables import format_best, format_table

__all__ = ["format_best", "format_table", "plot_alignment", "plot_transforms"]
