"""Tables, figures and the HTML report."""

from softrsa.reports.figures import (
    format_best,
    format_table,
    plot_alignment,
    plot_curve,
    plot_profile,
    plot_transforms,
)
from softrsa.reports.identification_figures import plot_geo_topological_grid
from softrsa.reports.prediction_figures import plot_neighbors
from softrsa.reports.regression_figures import plot_coefficients, plot_partition, plot_venn
from softrsa.reports.rsm_figures import plot_mds, plot_rsm
from softrsa.reports.similarity_figures import (
    gains_beside,
    plot_beside,
    plot_learned_similarity,
)
from softrsa.reports.synthesis_figures import (
    plot_capture,
    plot_component_curves,
    plot_decoding,
    plot_feasible_region,
    plot_scores,
)
from softrsa.reports.time_figures import plot_time_courses, plot_time_generalization

__all__ = [
    "format_best",
    "format_table",
    "gains_beside",
    "plot_alignment",
    "plot_beside",
    "plot_capture",
    "plot_coefficients",
    "plot_component_curves",
    "plot_curve",
    "plot_decoding",
    "plot_feasible_region",
    "plot_geo_topological_grid",
    "plot_learned_similarity",
    "plot_mds",
    "plot_neighbors",
    "plot_partition",
    "plot_profile",
    "plot_rsm",
    "plot_scores",
    "plot_time_courses",
    "plot_time_generalization",
    "plot_transforms",
    "plot_venn",
]
