"""Correlations of thresholded RDMs over a whole grid of thresholds."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from softrsa._checks import check_floating
from softrsa.errors import ShapeError
from softrsa.transforms import geo_topological_grid
from softrsa.transforms.geo_topological import Preset


def threshold_correlations(
    rdms: Tensor,
    lower: Tensor | Sequence[float],
    upper: Tensor | Sequence[float],
    references: Tensor | None = None,
    *,
    preset: Preset = "trsa",
) -> Tensor:
    """Pearson correlations of RDMs under `geo_topological`, at many pairs of thresholds.

    Parameters
    ----------
    rdms : Tensor, shape (n_rdms, n_pairs)
        Condensed RDMs, in the order of `softrsa.pairs.condense`.
    lower, upper : Tensor or sequence of float, shape (n_thresholds,)
        Pairs of thresholds, each ``lower <= upper``.
    references : Tensor, shape (n_references, n_pairs), optional
        Correlate with these, as they are. By default the transformed RDMs with each other.
    preset : {"trsa", "quantile", "value"}
        What the thresholds refer to; see `geo_topological`.

    Returns
    -------
    Tensor, shape (n_thresholds, n_rdms, n_references) or (n_thresholds, n_rdms, n_rdms)
        Correlations in [-1, 1]. NaN where a reference is constant, or an RDM is one after the
        transform.

    Raises
    ------
    ShapeError
        If ``rdms`` or ``references`` are not matrices of the same number of pairs, or thresholds
        not vectors of one length.
    UnknownNameError, DTypeError, DataError
        As `geo_topological_grid`.

    Notes
    -----
    Each RDM is ranked and sorted once; a pair of thresholds costs a clamp and a matrix product. No
    gradient.

    References
    ----------
    Lin & Kriegeskorte (2024), PNAS 121(42), doi:10.1073/pnas.2317881121.

    Examples
    --------
    >>> rdms = torch.tensor([[0.1, 0.9, 0.4], [0.2, 0.8, 0.7]])
    >>> threshold_correlations(rdms, [0.0, 0.0], [1.0, 0.5], torch.tensor([[0.1, 0.2, 0.3]]))[:, 0]
    tensor([[0.5000],
            [0.8660]])
    """
    check_floating(rdms=rdms)
    if rdms.ndim != 2:
        raise ShapeError(f"`rdms` must be (n_rdms, n_pairs), got shape {tuple(rdms.shape)}.")
    against = None
    if references is not None:
        check_floating(references=references)
        if references.ndim != 2 or references.shape[1] != rdms.shape[1]:
            raise ShapeError(
                f"`references` must be (n_references, {rdms.shape[1]}), with as many pairs as "
                f"`rdms`, got shape {tuple(references.shape)}."
            )
        against = _standardized(references.detach().clone().to(rdms))
    found = []
    for part in geo_topological_grid(rdms, lower, upper, preset=preset):
        _standardized(part)
        found.append(part @ (part if against is None else against).mT)
    return torch.cat(found).clamp_(-1.0, 1.0)


def _standardized(x: Tensor) -> Tensor:
    """Take the mean off vectors (..., n_pairs) and bring them to length 1, NaN of equal values."""
    low, high = torch.aminmax(x, dim=-1, keepdim=True)
    constant = low == high  # less their mean, equal values may leave rounding
    x -= x.mean(-1, keepdim=True)
    x /= x.norm(dim=-1, keepdim=True).masked_fill_(constant, torch.nan)
    return x
