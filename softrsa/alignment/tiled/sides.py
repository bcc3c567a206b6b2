"""The two sides of an alignment as features only: their RSMs come tile by tile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr
from torch import Tensor

from softrsa._checks import check_floating
from softrsa._processes import Ranks
from softrsa.alignment.sides import BOUNDED, Data, Side, join_all, matrix_diagonal
from softrsa.alignment.tiled.objective import lay_out
from softrsa.alignment.tiled.reuse import KEPT_BYTES
from softrsa.alignment.tiled.scores import MEASURES
from softrsa.alignment.tiled.tiles import TiledRSM
from softrsa.errors import ShapeError, StimulusError
from softrsa.io import check_recording
from softrsa.recordings import split_units


@dataclass(frozen=True)
class TiledSide:
    """Features of one side over n stimuli; as `softrsa.alignment.sides.Side`, without its RSMs."""

    units: tuple[Tensor, ...]
    similarity: str
    stimuli: pd.Index | None
    subjects: tuple[str, ...]

    @property
    def n_stimuli(self) -> int:
        """Number of stimuli."""
        return len(self.units[0])

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self.units[0].device

    @property
    def dtype(self) -> torch.dtype:
        """Number type that all subjects' features can be brought to without loss."""
        return reduce(torch.promote_types, (u.dtype for u in self.units))

    @property
    def bounded(self) -> bool:
        """Whether similarities lie in [-1, 1] by their nature."""
        return self.similarity in BOUNDED

    def take(self, stimuli: Tensor) -> TiledSide:
        """Keep some stimuli, in the order given."""
        ids = None if self.stimuli is None else self.stimuli[stimuli.cpu().numpy()]
        return replace(self, units=tuple(u[stimuli] for u in self.units), stimuli=ids)

    def all_units(self) -> Tensor:
        """All subjects' units side by side (n_stimuli, n_units)."""
        return torch.cat(self.units, 1)

    def rsms(self, dtype: torch.dtype | None = None, *, keep: bool = True) -> list[TiledRSM]:
        """One RSM per subject, in the number type of its features or another.

        Together they ``keep`` as many bytes of tiles as one RSM may.
        """
        room = KEPT_BYTES // len(self.units) if keep else 0
        return [
            lay_out(u.to(dtype or u.dtype), similarity=self.similarity, kept_bytes=room)
            for u in self.units
        ]


TILED_CHOICES = ("identity", "centered", "global", "instance")


def tiling_obstacle(
    transform: str, measure: str, similarity: str, sides: Sequence[Data]
) -> str | None:
    """Say why an alignment cannot be done in tiles, if so."""
    if transform == "geo_topological":
        return "its thresholds are ranks of all pairs."
    if measure not in MEASURES:
        return f"{measure!r} is not made of sums over pairs, as {', '.join(MEASURES)} are."
    if similarity in ("rbf", "mahalanobis"):
        return f"{similarity!r} needs a bandwidth or a precision, which an Aligner does not take."
    if not all(has_features_only(data) for data in sides):
        return "they are there already, as RDMs or RSMs; features are needed on both sides."
    return None


def rsm_bytes(*sides: Data) -> int:
    """Memory that the RSMs of some data would take, as float64."""
    return sum(8 * n_stimuli**2 * count for n_stimuli, count in map(_counts, sides))


def check_same_data(ranks: Ranks, *sides: Side | TiledSide) -> None:
    """Refuse data that differ between processes."""
    ranks.check_same("features", *(u for side in sides for u in side.units or ()))


def as_tiled_side(
    data: Data, *, similarity: str, name: str, device: torch.device, subject: str = "subject"
) -> TiledSide:
    """Read features or recordings, labelled or not, one or a list (of subjects)."""
    members: list[Any] = join_all(data) if isinstance(data, (list, tuple)) else [data]
    found: list[tuple[Tensor, pd.Index | None, str]] = []
    for i, member in enumerate(members):
        place = f"{name}[{i}]" if isinstance(data, (list, tuple)) else name
        found += _units_of(member, place, subject)
    counts = {len(units) for units, _, _ in found}
    if len(counts) != 1:
        raise StimulusError(
            f"`{name}` has subjects with {sorted(counts)} stimuli; equal is needed."
        )
    names = [label for _, _, label in found]
    if isinstance(data, (list, tuple)):
        names = [str(i) for i in range(len(found))]
    units = tuple(x.to(device) for x, _, _ in found)
    for x in units:  # now, while stimuli are in the order given
        lay_out(x, name, similarity)
    return TiledSide(units, similarity, found[0][1], tuple(names))


def has_features_only(data: Data) -> bool:
    """Whether all of this side are features or recordings, none of it RDMs."""
    if isinstance(data, (list, tuple)):
        return all(has_features_only(member) for member in data)
    if isinstance(data, xr.DataArray):
        return "anchor" not in data.dims
    if isinstance(data, np.ndarray) and data.dtype.kind in "fiu":
        data = torch.from_numpy(np.ascontiguousarray(data))
    if not isinstance(data, Tensor):
        return False  # refused where it is read
    return data.ndim not in (2, 3) or matrix_diagonal(data) is None


def _counts(data: Data) -> tuple[int, int]:
    """Numbers of stimuli and of subjects."""
    if isinstance(data, (list, tuple)):
        found = [_counts(member) for member in data]
        return max((n for n, _ in found), default=0), sum(count for _, count in found)
    if isinstance(data, xr.DataArray):
        n_stimuli = data.sizes.get("stimulus", data.sizes.get("anchor", 0))
        subjects = data.coords.get("subject")
        return n_stimuli, 1 if subjects is None else len(np.unique(subjects.values))
    if data.ndim < 2:  # type: ignore[union-attr]
        return 0, 0  # refused where it is read
    return data.shape[-2], data.shape[0] if data.ndim == 3 else 1  # type: ignore[union-attr]


def _units_of(
    data: Tensor | np.ndarray | xr.DataArray, name: str, subject: str
) -> list[tuple[Tensor, pd.Index | None, str]]:
    """Units (n_stimuli, n_units) of each subject, the stimuli, and the subject's label."""
    if isinstance(data, xr.DataArray):
        recording = check_recording(data, name=name)
        labelled = subject in recording.coords and recording[subject].dims == ("unit",)
        parts = split_units(recording, subject) if labelled else {"": recording}
        stimuli = recording.indexes["stimulus"]
        return [(_tensor(part.values), stimuli, str(label)) for label, part in parts.items()]
    x = data if isinstance(data, Tensor) else _tensor(data)
    check_floating(**{name: x})
    if x.ndim not in (2, 3):
        raise ShapeError(
            f"`{name}` must be (n_stimuli, n_units), or a stack of these over subjects, got shape "
            f"{tuple(x.shape)}."
        )
    stack = x.detach().unsqueeze(0) if x.ndim == 2 else x.detach()
    return [(units, None, str(i) if x.ndim == 3 else "") for i, units in enumerate(stack)]


def _tensor(values: np.ndarray) -> Tensor:
    writable = values if values.flags.writeable else values.copy()  # torch would warn
    return torch.from_numpy(np.ascontiguousarray(writable))
