"""softrsa: representational similarity analysis with learnable geo-topological transforms."""

from softrsa import datasets
from softrsa.activations import extract_activations
from softrsa.alignment import Aligner, align
from softrsa.io import load
from softrsa.transforms import SoftStep

__version__ = "0.1.0"

__all__ = ["Aligner", "SoftStep", "align", "datasets", "extract_activations", "load"]
