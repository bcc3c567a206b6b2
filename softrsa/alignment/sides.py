"""The two sides of an alignment: what a user has, as similarity matrices and units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd
import torch
import xarray as xr
from torch import Tensor

from softrsa._checks import check_floating
from softrsa.errors import DataError, DTypeError, ShapeError, StimulusError
from softrsa.io import check_rdms, check_recording
from softrsa.io.lazy import is_lazy
from softrsa.io.schema import check_labels
from softrsa.recordings import join_stimuli, split_units
from softrsa.recordings._trials import share_or_copy
from softrsa.rsm import build_rsms, similarity_matrix, to_rsm

Data = xr.DataArray | Tensor | np.ndarray | Sequence[Tensor | np.ndarray | xr.DataArray]


@dataclass(frozen=True)
class Side:
    """Similarity matrices of one side over n stimuli.

    Attributes
    ----------
    rsms : Tensor, shape (n_subjects, n_stimuli, n_stimuli)
        Similarities, float64; a model has one "subject".
    units : tuple of Tensor, shape (n_stimuli, n_units) each, or None
        Per subject, for embeddings; None for RDMs.
    stimuli : pandas.Index or None
        Ids, where the data carry them.
    subjects : tuple of str
        Labels.
    bounded : bool
        Whether similarities lie in [-1, 1] by their nature, so that they scale to [0, 1] without
        looking at other stimuli.
    """

    rsms: Tensor
    units: tuple[Tensor, ...] | None
    stimuli: pd.Index | None
    subjects: tuple[str, ...]
    bounded: bool

    @property
    def n_stimuli(self) -> int:
        """Number of stimuli."""
        return self.rsms.shape[-1]

    def take(self, stimuli: Tensor) -> Side:
        """Keep some stimuli, in the order given."""
        return replace(
            self,
            rsms=self.rsms[:, stimuli][:, :, stimuli],
            units=None if self.units is None else tuple(u[stimuli] for u in self.units),
            stimuli=None if self.stimuli is None else self.stimuli[stimuli.numpy()],
        )

    def take_subjects(self, subjects: Sequence[int]) -> Side:
        """Keep some subjects, in the order given; all of them are not copied."""
        if tuple(subjects) == tuple(range(len(self.subjects))):
            return self
        return replace(
            self,
            rsms=self.rsms[list(subjects)],
            units=None if self.units is None else tuple(self.units[i] for i in subjects),
            subjects=tuple(self.subjects[i] for i in subjects),
        )

    def to(self, device: torch.device) -> Side:
        """Move everything to a device."""
        units = None if self.units is None else tuple(u.to(device) for u in self.units)
        return replace(self, rsms=self.rsms.to(device), units=units)

    def all_units(self) -> Tensor | None:
        """All subjects' units side by side (n_stimuli, n_units)."""
        return None if self.units is None else torch.cat(self.units, 1)


def one_subject(side: Side) -> Side:
    """Take the mean of the subjects' RSMs, and all their units: a model is one subject."""
    if len(side.subjects) == 1:
        return side
    units = side.all_units()
    return replace(
        side,
        rsms=side.rsms.mean(0, keepdim=True),
        units=None if units is None else (units,),
        subjects=("mean",),
    )


def join_all(
    parts: Sequence[Data], *, how: Literal["exact", "intersection"] = "exact"
) -> list[Data]:
    """Bring all labelled arrays, those in lists too, to the order of the first, by stimulus id.

    With ``how="intersection"`` to the stimuli that all share.
    """
    arrays = [array for part in parts for array in _listed(part) if isinstance(array, xr.DataArray)]
    if not arrays:
        return list(parts)
    reference = arrays[0]
    for array in arrays[1:]:
        reference, _ = join_stimuli(reference, array, how=how)

    def take(part: Data) -> Data:
        if isinstance(part, xr.DataArray):
            return join_stimuli(reference, part, how=how)[1]
        return [*map(take, part)] if isinstance(part, (list, tuple)) else part  # type: ignore[list-item]

    return [take(part) for part in parts]


def _listed(part: Data) -> Sequence[Tensor | np.ndarray | xr.DataArray]:
    return part if isinstance(part, (list, tuple)) else [part]  # type: ignore[list-item]


BOUNDED = ("correlation", "cosine")


def as_side(
    data: Data,
    *,
    similarity: str,
    name: str,
    subject: str = "subject",
    device: torch.device,
    units: bool = True,
) -> Side:
    """Read features, recordings or RDMs, labelled or not, one or a list (of subjects).

    Labelled arrays are told apart by their dimensions. Of plain arrays, those whose last two
    dimensions are a symmetric matrix with a diagonal of zeros or ones are RDMs or RSMs, as in
    files; everything else is (n_stimuli, n_units). Without ``units``, those of dask-backed arrays
    are not kept, and so never in memory all at once.
    """
    if isinstance(data, xr.DataArray):
        side = _from_labelled(data, similarity, name, subject, device, units=units)
    elif isinstance(data, (list, tuple)):
        side = _joined(
            [
                as_side(
                    item, similarity=similarity, name=f"{name}[{i}]", device=device, units=units
                )
                for i, item in enumerate(join_all(data))
            ],
            name,
        )
    elif isinstance(data, (Tensor, np.ndarray)):
        side = _from_plain(data, similarity, name, device)
    else:
        raise DTypeError(
            f"`{name}` must be an array, a labelled array or a list of either (one per subject), "
            f"got {type(data).__name__}. Files are read with `softrsa.load`."
        )
    if not side.rsms.isfinite().all():
        bad = (~side.rsms.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()
        raise DataError(
            f"`{name}` has similarities that are not finite (subjects {bad}): its values must be "
            "finite and no stimulus may be constant over units."
        )
    return side


def _from_labelled(
    data: xr.DataArray,
    similarity: str,
    name: str,
    subject: str,
    device: torch.device,
    *,
    units: bool,
) -> Side:
    if "anchor" in data.dims:
        return _from_stack(check_rdms(data, name=name), name, subject, device)
    lazy = is_lazy(data)  # `build_rsms` checks values too, and they are read from disk each time
    data = check_labels(data, name=name) if lazy else check_recording(data, name=name)
    has_subjects = subject in data.coords and data[subject].dims == ("unit",)
    rsms = build_rsms(data, by=subject if has_subjects else None, similarity=similarity)
    # in the order of the RSMs, so that positions mean the same in both
    parts = split_units(data, subject) if has_subjects else {"": data}
    return Side(
        torch.from_numpy(rsms.values if has_subjects else rsms.values[None]).to(
            device, torch.float64
        ),
        tuple(share_or_copy(part.values).to(device) for part in parts.values())
        if units or not lazy
        else None,
        data.indexes["stimulus"],
        tuple(parts),
        similarity in BOUNDED,
    )


def _from_stack(stack: xr.DataArray, name: str, subject: str, device: torch.device) -> Side:
    """RDM or RSM stack -> one RSM per subject, the mean over sessions and other dimensions."""
    rsms = to_rsm(stack)
    others = [str(dim) for dim in rsms.dims if dim not in ("anchor", "neighbor", subject)]
    rsms = rsms.mean(others) if others else rsms  # not-recorded sessions are NaN and left out
    if subject not in rsms.dims:
        rsms = rsms.expand_dims({subject: [""]})
    rsms = rsms.transpose(subject, "anchor", "neighbor")
    recorded = np.isfinite(rsms.values).all((1, 2))
    if not recorded.any():
        raise DataError(f"`{name}` is empty: no subject has a matrix in it.")
    rsms = rsms[recorded]
    return Side(
        torch.from_numpy(rsms.values.copy()).to(device, torch.float64),
        None,
        rsms.indexes["anchor"],
        tuple(map(str, rsms[subject].values)),
        bool((np.abs(rsms.values) <= 1).all()),
    )


def _from_plain(
    data: Tensor | np.ndarray, similarity: str, name: str, device: torch.device
) -> Side:
    if isinstance(data, np.ndarray):
        if data.dtype.kind not in "fiuc":
            raise DTypeError(f"`{name}` must hold float32 or float64 numbers, got {data.dtype}.")
        data = torch.from_numpy(np.ascontiguousarray(data))
    check_floating(**{name: data})
    data = data.detach().to(device)
    if data.ndim not in (2, 3):
        raise ShapeError(
            f"`{name}` must be (n_stimuli, n_units), (n_stimuli, n_stimuli), or a stack of either "
            f"over subjects, got shape {tuple(data.shape)}."
        )
    stack = data if data.ndim == 3 else data[None]
    subjects = tuple(str(i) for i in range(len(stack))) if data.ndim == 3 else ("",)
    diagonal = matrix_diagonal(stack)
    if diagonal is not None:
        rsms = 1 - stack.double() if diagonal == 0 else stack.double()
        return Side(rsms, None, None, subjects, bool((rsms.abs() <= 1).all()))
    rsms = similarity_matrix(stack, similarity=similarity).double()
    return Side(rsms, tuple(stack), None, subjects, similarity in BOUNDED)


def matrix_diagonal(stack: Tensor) -> int | None:
    """0 for RDMs, 1 for RSMs, None for anything that is not a symmetric similarity matrix."""
    if stack.shape[-1] != stack.shape[-2]:
        return None
    scale = stack.abs().amax()
    if not torch.allclose(stack, stack.mT, atol=1e-5 * float(scale)):
        return None
    diagonal = stack.diagonal(dim1=-2, dim2=-1)
    for value in (0, 1):
        if (diagonal - value).abs().max() <= 1e-5:
            return value
    return None


def _joined(sides: list[Side], name: str) -> Side:
    """Subjects given as a list, over the same stimuli."""
    if not sides:
        raise DataError(f"`{name}` is an empty list: at least one subject is needed.")
    counts = {side.n_stimuli for side in sides}
    if len(counts) > 1:
        raise StimulusError(
            f"`{name}` has subjects with {sorted(counts)} stimuli; equal is needed."
        )
    units = [unit for side in sides for unit in side.units or ()]
    return Side(
        torch.cat([side.rsms for side in sides]),
        tuple(units) if all(side.units is not None for side in sides) else None,
        sides[0].stimuli,
        tuple(str(i) for i in range(sum(len(side.rsms) for side in sides))),
        all(side.bounded for side in sides),
    )
