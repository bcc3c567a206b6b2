"""Principal components of units, as embeddings of anchors that carry over to new stimuli."""

from __future__ import annotations

import torch
from torch import Tensor

from softrsa.errors import ShapeError


class Embedding:
    """Scores on the first principal components, each of unit variance over the training stimuli.

    Parameters
    ----------
    mean : Tensor, shape (n_units,)
        Mean response of each unit over the training stimuli.
    components : Tensor, shape (n_units, n_components)
        Directions, scaled so that training scores have unit variance.
    """

    def __init__(self, mean: Tensor, components: Tensor):
        self.mean = mean
        self.components = components

    @classmethod
    def fit(cls, units: Tensor, n_components: int) -> Embedding:
        """Find the components of ``units`` (n_stimuli, n_units); fewer where the rank is lower.

        In float64: components of float32 differ between processors in the sixth digit.
        """
        rounding = torch.finfo(units.dtype).eps
        units = units.double()
        mean = units.mean(0)
        centered = units - mean
        n, p = units.shape
        # the smaller of the two products: both have the variances as eigenvalues
        product = centered @ centered.mT if n <= p else centered.mT @ centered
        variance, vectors = torch.linalg.eigh(product)
        variance, vectors = variance.flip(0)[:n_components], vectors.flip(1)[:, :n_components]
        full = variance > variance[0] * n * rounding
        variance, vectors = variance[full], vectors[:, full]
        if n <= p:
            over_stimuli = vectors
            vectors = centered.mT @ (vectors / variance.sqrt())
        else:
            over_stimuli = centered @ vectors
        # signs are told by stimuli, which a rotation of the units leaves as they are
        sign = over_stimuli.gather(0, over_stimuli.abs().argmax(0, keepdim=True)).sign()
        scale = sign * ((n - 1) / variance).sqrt()  # scores get unit sample variance
        return cls(mean, vectors * scale)

    def project(self, units: Tensor) -> Tensor:
        """Scores (n_stimuli, n_components) of any stimuli with the same units."""
        if units.shape[-1] != len(self.mean):
            raise ShapeError(
                f"The transform was fitted on {len(self.mean)} units, got {units.shape[-1]}."
            )
        return (units - self.mean.to(units.device)) @ self.components.to(units.device)


def rotated(units: Tensor) -> Tensor:
    """Coordinates (n, at most n) with the same inner products: wide activations made small."""
    if units.shape[-1] <= len(units):
        return units.double()
    gram = torch.zeros(len(units), len(units), dtype=torch.float64, device=units.device)
    for chunk in units.split(16384, dim=-1):
        gram += chunk.double() @ chunk.double().mT
    values, vectors = torch.linalg.eigh(gram)
    return vectors * values.clamp_min(0).sqrt()
