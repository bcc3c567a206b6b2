"""What a stack of RDMs or RSMs must look like."""

from __future__ import annotations

import numpy as np
import xarray as xr

from softrsa.errors import DataError, DTypeError, ShapeError, StimulusError
from softrsa.io.labels import check_distinct, check_dtype, stimulus_ids
from softrsa.io.wording import listed

__all__ = ["check_rdms"]

LEADING = ("layer", "region", "subject", "session", "time")
KINDS = ("rdm", "rsm")


def check_rdms(rdms: xr.DataArray, *, name: str = "RDM stack") -> xr.DataArray:
    """Check a stack of RDMs or RSMs and give its two stimulus dimensions one order.

    Parameters
    ----------
    rdms : DataArray, dims (..., anchor, neighbor) in any order
        Dissimilarities or similarities, float32 or float64. `anchor` and `neighbor` hold the same
        distinct stimulus ids; leading dimensions are named layer, region, subject, session or time.
        A matrix that is NaN throughout was not recorded. ``attrs["kind"]`` is ``"rdm"`` or
        ``"rsm"``; without it, a diagonal of zeros means RDM and one of ones RSM.
    name : str
        What to call the stack in messages.

    Returns
    -------
    DataArray, dims (..., anchor, neighbor)
        Leading dimensions in the order they had, neighbors in the order of the anchors, with
        ``attrs["kind"]``.

    Raises
    ------
    DTypeError
        If the numbers are not float32 or float64.
    ShapeError
        If the dimensions differ or there is but one stimulus.
    StimulusError
        If ids are absent or repeated, or anchors and neighbors differ.
    DataError
        If the stack is empty, a matrix is NaN or infinite in part, all are NaN, labels of a
        leading dimension repeat, or the kind cannot be told.

    Examples
    --------
    >>> array = xr.DataArray(
    ...     [[3.0, 0.0], [0.0, 3.0]],
    ...     dims=("anchor", "neighbor"),
    ...     coords={"anchor": ["a", "b"], "neighbor": ["b", "a"]},
    ... )
    >>> check_rdms(array).values, check_rdms(array).attrs["kind"]
    (array([[0., 3.],
           [3., 0.]]), 'rdm')
    """
    rdms = _rdms_in_order(rdms, name)
    rdms = _one_order(rdms, name)
    recorded = _check_finite_rdms(rdms, name)
    kind = rdms.attrs["kind"] if "kind" in rdms.attrs else _guess_kind(rdms, recorded, name)
    if kind not in KINDS:
        raise DataError(f'The {name} has attrs["kind"] = {kind!r}; it must be "rdm" or "rsm".')
    return rdms.assign_attrs(kind=kind)


def _rdms_in_order(rdms: xr.DataArray, name: str) -> xr.DataArray:
    """Check dimensions, their labels and the number type; move anchor and neighbor last."""
    if not isinstance(rdms, xr.DataArray):
        raise DTypeError(f"The {name} must be an xarray.DataArray, got {type(rdms).__name__}.")
    leading = [dim for dim in rdms.dims if dim not in ("anchor", "neighbor")]
    if len(leading) != rdms.ndim - 2 or not set(leading) <= set(LEADING):
        raise ShapeError(
            f"The {name} must have the dimensions (..., 'anchor', 'neighbor'), where ... are any "
            f"of {LEADING}; got {rdms.dims}."
        )
    rdms = check_dtype(rdms, name).transpose(*leading, "anchor", "neighbor")
    for dim in rdms.dims:
        if not rdms.sizes[dim]:
            raise DataError(f"The {name} is empty: it has 0 entries along `{dim}`.")
        labels = rdms.indexes.get(dim)
        if dim in LEADING and labels is not None and labels.has_duplicates:
            repeated = labels[labels.duplicated()].unique()
            raise DataError(f"The {name} has the {dim} {listed(repeated)} more than once.")
    return rdms


def _one_order(rdms: xr.DataArray, name: str) -> xr.DataArray:
    """Give the neighbors the order of the anchors."""
    for dim in ("anchor", "neighbor"):
        rdms = rdms.assign_coords({dim: stimulus_ids(rdms, dim, name)})
        check_distinct(rdms.indexes[dim], name)
    anchors, neighbors = rdms.indexes["anchor"], rdms.indexes["neighbor"]
    only_anchors, only_neighbors = anchors.difference(neighbors), neighbors.difference(anchors)
    if len(only_anchors) or len(only_neighbors):
        raise StimulusError(
            f"The anchors and neighbors of the {name} must be the same stimuli; only among the "
            f"anchors: {listed(only_anchors) or 'none'}; only among the neighbors: "
            f"{listed(only_neighbors) or 'none'}."
        )
    if len(anchors) == 1:
        raise ShapeError(f"The {name} has 1 stimulus; similarities need at least 2.")
    return rdms if anchors.equals(neighbors) else rdms.sel(neighbor=rdms["anchor"].values)


def _check_finite_rdms(rdms: xr.DataArray, name: str) -> np.ndarray:
    """Refuse matrices that are NaN or infinite in part; tell which were recorded, flat."""
    leading = rdms.shape[:-2]
    stack = rdms.values.reshape(-1, *rdms.shape[-2:])
    bad = ~np.isfinite(stack)
    absent = np.isnan(stack).all(axis=(1, 2))
    partial = bad.any(axis=(1, 2)) & ~absent
    if partial.any():
        culprits = rdms["anchor"].values[_to_leave_out(np.asarray(bad[partial].any(axis=0)))]
        slices = [_label(rdms, np.unravel_index(i, leading)) for i in np.flatnonzero(partial)]
        where = f" in {'; '.join(slices[:5])}" if leading else ""
        more = f" and {len(slices) - 5} more matrices" if len(slices) > 5 else ""
        raise DataError(
            f"The {name} has {bad[partial].sum()} values that are NaN or infinite{where}{more}, "
            f"all of them with the stimuli {listed(culprits)}. Leave these stimuli out, or set a "
            "matrix that was not recorded to NaN throughout."
        )
    if absent.all():
        raise DataError(f"The {name} holds nothing but NaN.")
    return np.asarray(~absent)


def _to_leave_out(bad: np.ndarray) -> list[int]:
    """Find few stimuli that all bad pairs share, by taking the one with the most, again and again.

    One missing stimulus spoils a pair of every other one; naming all of them would not help.
    """
    bad = bad | bad.T
    counts = bad.sum(axis=0)
    chosen = []
    while counts.any():
        worst = int(counts.argmax())
        chosen.append(worst)
        counts = counts - (bad[worst] & (counts > 0))
        counts[chosen] = 0
    return sorted(chosen)


def _label(rdms: xr.DataArray, position: tuple[np.intp, ...]) -> str:
    """Name one matrix of a stack by its labels."""
    names = (
        f"{dim} {rdms[dim][i].item()!r}" for dim, i in zip(rdms.dims[:-2], position, strict=True)
    )
    return ", ".join(names)


def _guess_kind(rdms: xr.DataArray, recorded: np.ndarray, name: str) -> str:
    """Tell the kind from the diagonal: zeros mean RDM, ones (to rounding) RSM."""
    stack = rdms.values.reshape(-1, *rdms.shape[-2:])[recorded]
    diagonal = np.diagonal(stack, axis1=1, axis2=2)
    tolerance = 100 * np.finfo(rdms.dtype).eps  # files often hold 1 - r with its rounding error
    if (abs(diagonal) <= tolerance).all():
        return "rdm"
    if (abs(diagonal - 1) <= tolerance).all():
        return "rsm"
    raise DataError(
        f"Cannot tell whether the {name} holds similarities or dissimilarities: its diagonal runs "
        f'from {diagonal.min():.3g} to {diagonal.max():.3g}. Set `array.attrs["kind"]` to "rdm" '
        'or "rsm".'
    )
