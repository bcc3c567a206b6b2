"""The activations of a torch model's layers over stimuli, as labelled arrays."""

from __future__ import annotations

from softrsa.activations.extraction import extract_activations
from softrsa.activations.layers import list_layers
from softrsa.activations.models import NamedModel, load_model
from softrsa.activations.stimuli import preprocess_image

__all__ = ["NamedModel", "extract_activations", "list_layers", "load_model", "preprocess_image"]
