"""Regions and stimuli told apart by their RDMs."""

from softrsa.identification.identify import identification_curves, identify_regions
from softrsa.identification.published import OptimisticWarning, PublishedIdentification
from softrsa.identification.result import IdentificationResult

__all__ = [
    "IdentificationResult",
    "OptimisticWarning",
    "PublishedIdentification",
    "identification_curves",
    "identify_regions",
]
