"""The two sides of an alignment: what a user has, as similarity matrices and units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
import xarray as xr
from torch import Tensor

from softrsa._checks import check_floating
from softrsa.errors import DataError, DTypeError, ShapeError, StimulusError
from softrsa.io import check_rdms, check_recording
from softrsa.recordings import split_units
from softrsa.rsm import build_rsms, similarity_matrix, to_rsm

Data = xr.DataArray | Tensor | np.ndarray | Sequence[Tensor | np.ndarray | xr.DataArray]


@dataclass(frozen=True)
class Side:
    """Similarity matrices of one side over n stimuli.

    Attributes
    ----------
    rsms : Tensor, shape (n_subjects, n_stimuli, n_stimuli)
        Similarities, float64; a model has one "subject".
    units : Tensor, shape (n_stimuli, n_units), or None
        All subjects' units side by side, for embeddings; None for RDMs.
    stimuli : pandas.Index or None
        Ids, where the data carry them.
    subjects : tuple of str
        Labels.
    """

    rsms: Tensor
    units: Tensor | None
    stimuli: pd.Index | None
    subjects: tuple[str, ...]

    @property
    def n_stimuli(self) -> int:
        """Number of stimuli."""
        return self.rsms.shape[-1]

    def take(self, stimuli: Tensor, subjects: Sequence[int] | None = None) -> Side:
        """Keep some stimuli, and some subjects."""
        rsms = self.rsms if subjects is None else self.rsms[list(subjects)]
        names = self.subjects if subjects is None else tuple(self.subjects[i] for i in subjects)
        return replace(
            self,
            rsms=rsms[:, stimuli][:, :, stimuli],
            units=None if self.units is None else self.units[stimuli],
            stimuli=None if self.stimuli is None else self.stimuli[stimuli.numpy()],
            subjects=names,
        )


def as_side(
    data: Data, *, similarity: str, name: str, subject: str = "subject", device: torch.device
) -> Side:
    """Read features, recordings or RDMs, labelled or not, one or a list (of subjects).

    Labelled arrays are told apart by their dimensions. Of plain arrays, those whose last two
    dimensions are a symmetric matrix with a diagonal of zeros or ones are RDMs or RSMs, as in
    files; everything else is (n_stimuli, n_units).
    """
    if isinstance(data, xr.DataArray):
        side = _from_labelled(data, similarity, name, subject, device)
    elif not isinstance(data, (Tensor, np.ndarray)):
        side = _joined(
            [
                as_side(item, similarity=similarity, name=f"{name}[{i}]", device=device)
                for i, item in enumerate(data)
            ],
            name,
        )
    else:
        side = _from_plain(data, similarity, name, device)
    if not side.rsms.isfinite().all():
        bad = (~side.rsms.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()
        raise DataError(
            f"`{name}` has similarities that are not finite (subjects {bad}): its values must be "
            "finite and no stimulus may be constant over units."
        )
    return side


def _from_labelled(
    data: xr.DataArray, similarity: str, name: str, subject: str, device: torch.device
) -> Side:
    if "anchor" in data.dims:
        return _from_stack(check_rdms(data, name=name), name, subject, device)
    data = check_recording(data, name=name)
    has_subjects = subject in data.coords and data[subject].dims == ("unit",)
    rsms = build_rsms(data, by=subject if has_subjects else None, similarity=similarity)
    units = data.values
    if has_subjects:  # the order of the RSMs, so that positions mean the same in both
        units = np.concatenate([part.values for part in split_units(data, subject).values()], 1)
    square = rsms.values if has_subjects else rsms.values[None]
    subjects = tuple(map(str, rsms[subject].values)) if has_subjects else ("",)
    return Side(
        torch.from_numpy(square).to(device, torch.float64),
        torch.from_numpy(np.ascontiguousarray(units)).to(device),
        data.indexes["stimulus"],
        subjects,
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
    diagonal = _matrix_diagonal(stack)
    if diagonal is not None:
        rsms = 1 - stack.double() if diagonal == 0 else stack.double()
        return Side(rsms, None, None, subjects)
    rsms = similarity_matrix(stack, similarity=similarity).double()
    return Side(rsms, torch.cat(list(stack), 1), None, subjects)


def _matrix_diagonal(stack: Tensor) -> int | None:
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
    units = [side.units for side in sides if side.units is not None]
    return Side(
        torch.cat([side.rsms for side in sides]),
        torch.cat(units, 1) if len(units) == len(sides) else None,
        sides[0].stimuli,
        tuple(str(i) for i in range(sum(len(side.rsms) for side in sides))),
    )
