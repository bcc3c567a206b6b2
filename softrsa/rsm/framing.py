"""Framed patterns: the origin and a constant pattern beside the stimuli."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from softrsa._checks import check_floating, checked
from softrsa._wording import listed
from softrsa.errors import DataError, ShapeError, StimulusError
from softrsa.io import check_recording

FRAME = ("origin", "constant")  # ids of the two
Units = TypeVar("Units", Tensor, xr.DataArray)


@checked
def framed(units: Units, *, level: float | None = None) -> Units:
    r"""Responses with two more stimuli, the origin and a constant pattern: for Framed RSA.

    Distances of stimuli alone do not change when all responses shift. With distances from the
    origin the norms of responses enter an RDM, and with those from a constant pattern :math:`c` the
    means over units: :math:`\lVert x - c\mathbf 1\rVert^2 = \lVert x\rVert^2 - 2cp\bar x + c^2p`.

    Parameters
    ----------
    units : Tensor, shape (..., n_stimuli, n_units), or DataArray, dims (stimulus, unit)
        Responses in a unit with a meaningful zero, such as spikes per second, activations or
        percent signal change: not z-scored over stimuli, whose origin is their mean.
    level : float, optional
        The response :math:`c` of every unit to the constant pattern. By default the root mean
        square of the responses, of each matrix if there are several, so that it is as far from the
        origin as stimuli are on average. For folds of one recording, as `crossnobis` takes them,
        give one number for all, such as ``x_folds.square().mean().sqrt()``.

    Returns
    -------
    Tensor, shape (..., n_stimuli + 2, n_units), or DataArray, dims (stimulus, unit)
        A new array: the stimuli, then the origin and the constant pattern, called "origin" and
        "constant" where stimuli have ids, which become strings if they are not. What else labels
        stimuli is "" or NaN for the two.

    Raises
    ------
    DTypeError
        If the numbers are not float32 or float64.
    ShapeError
        If dimensions are missing.
    StimusError
        If a stimulus is called "origin" or "constant".
    DataError
        If ``level`` is 0 or infinite, or 0 by default, as all responses are: the constant pattern
        would be the origin.

    Notes
    -----
    For squared Euclidean distances (`sqeuclidean`, `mahalanobis`, crossnobis) and Euclidean ones.
    `correlation` is undefined for both patterns and `cosine` for the origin, whose similarities are
    NaN. An RDM of it is framed on both sides or on none; both sides then share the last two ids.

    References
    ----------
    Taylor & Kriegeskorte (2025), "Framed RSA: honoring representational geometry and regional-mean
    response preferences", Cognitive Computational Neuroscience. Its abstract leaves the level of
    the constant pattern open.

    Examples
    --------
    >>> x = torch.tensor([[3.0, 1.0], [1.0, 3.0]])
    >>> framed(x, level=2.0)
    tensor([[3., 1.],
            [1., 3.],
            [0., 0.],
            [2., 2.]])
    >>> from softrsa.rsm import similarity_matrix
    >>> similarity_matrix(framed(x, level=2.0), similarity="sqeuclidean")[-2:]
    tensor([[-5., -5.,  0., -4.],
            [-1., -1., -4.,  0.]])
    """
    if isinstance(units, xr.DataArray):
        return _framed_labelled(check_recording(units), level)
    check_floating(units=units)
    if units.ndim < 2 or 0 in units.shape[-2:]:
        raise ShapeError(
            "`units` must have shape (..., n_stimuli, n_units) with at least one of each, got "
            f"{tuple(units.shape)}."
        )
    return _framed_tensor(units, level)


def _framed_tensor(units: Tensor, level: float | None) -> Tensor:
    square = units.double().square().mean((-2, -1), keepdim=True)
    chosen = square.sqrt() if level is None else torch.full_like(square, level)
    if not ((chosen != 0) & chosen.isfinite()).all():
        said = f"`level` is {level}" if level is not None else "all responses are 0, or not finite"
        raise DataError(
            f"The constant pattern must be finite and differ from the origin, but {said}. Give "
            "`level` as a number, such as a typical response."
        )
    row = chosen.to(units.dtype).expand(*units.shape[:-2], 1, units.shape[-1])
    return torch.cat([units, torch.zeros_like(row), row], dim=-2)


def _framed_labelled(array: xr.DataArray, level: float | None) -> xr.DataArray:
    values = _framed_tensor(torch.from_numpy(np.array(array.values)), level).numpy()
    ids = array["stimulus"].values.astype(np.str_)
    taken = [name for name in FRAME if name in ids]
    if taken:
        raise StimulusError(
            f"Stimuli are called {listed(taken)}, which the two patterns that are added are. "
            "Rename them, or give responses that are not framed."
        )
    coords = {name: coord for name, coord in array.coords.items() if "stimulus" not in coord.dims}
    beside = {
        name: ("stimulus", _lengthened(coord.values))
        for name, coord in array.coords.items()
        if coord.dims == ("stimulus",) and name != "stimulus"
    }
    return xr.DataArray(
        values,
        dims=("stimulus", "unit"),
        coords={"stimulus": np.concatenate([ids, FRAME]), **beside, **coords},
        name=array.name,
        attrs=array.attrs,
    )


def _lengthened(labels: np.ndarray) -> np.ndarray:
    """Lengthen labels of stimuli by two empty ones."""
    if labels.dtype.kind in "iufb":
        return np.concatenate([labels.astype(np.float64), [np.nan, np.nan]])
    return np.concatenate([labels.astype(np.str_), ["", ""]])
