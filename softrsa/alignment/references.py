"""What a network is aligned with: recordings or RSMs of regions, looked up by stimulus id."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
import torch
import xarray as xr
from torch import Tensor, nn

from softrsa.alignment.sides import Data, as_side, matrix_diagonal
from softrsa.errors import DataError, ShapeError, StimulusError
from softrsa.io import check_recording
from softrsa.recordings import split_units
from softrsa.rsm import similarity_matrix


class Region(nn.Module):
    """Recordings of a region's subjects over stimuli, or their RSMs where there is nothing else.

    Buffers, so that they move with the module they belong to; not saved with it.
    """

    def __init__(self, units: Sequence[Tensor], rsms: Tensor | None, stimuli: pd.Index | None):
        super().__init__()
        self.n_subjects = len(units)
        for i, unit in enumerate(units):
            self.register_buffer(f"units_{i}", unit, persistent=False)
        self.register_buffer("stored_rsms", rsms, persistent=False)
        self.stimuli = stimuli

    stored_rsms: Tensor | None

    @property
    def units(self) -> list[Tensor]:
        """Per subject (n_stimuli, n_units); empty for RSMs."""
        return [getattr(self, f"units_{i}") for i in range(self.n_subjects)]

    @property
    def n_stimuli(self) -> int:
        """Number of stimuli."""
        return len(self.units[0]) if self.stored_rsms is None else self.stored_rsms.shape[-1]

    def take(self, wanted: pd.Index, name: str) -> Region:
        """Keep the stimuli with these ids, in their order; of unlabelled data, these positions."""
        known = pd.RangeIndex(self.n_stimuli) if self.stimuli is None else self.stimuli
        if wanted.has_duplicates:
            repeated = wanted[wanted.duplicated()].unique().tolist()
            raise StimulusError(
                f"A batch must hold each stimulus once, since a pair of the same stimulus says "
                f"nothing; repeated: {repeated[:10]}."
            )
        places = known.get_indexer(wanted)
        if (places < 0).any():
            missing = wanted[places < 0].tolist()
            raise StimulusError(
                f"{name!r} has no recordings of the stimuli {missing[:10]}; its ids are such as "
                f"{known[:3].tolist()}."
            )
        first = self.units[0] if self.stored_rsms is None else self.stored_rsms
        at = torch.from_numpy(places).to(first.device)
        rsms = self.stored_rsms
        return Region(
            [u[at] for u in self.units], None if rsms is None else rsms[:, at][:, :, at], wanted
        )

    def rsms(self, similarity: str) -> Tensor:
        """RSMs (n_subjects, n_stimuli, n_stimuli)."""
        if self.stored_rsms is not None:
            return self.stored_rsms
        return torch.stack([similarity_matrix(u, similarity=similarity) for u in self.units])

    def all_units(self, measure: str) -> list[Tensor]:
        """Units of every subject, for a measure on features."""
        if self.stored_rsms is not None:
            raise DataError(f"{measure!r} compares features, and RDMs or RSMs are given only.")
        return self.units

    def joint_units(self) -> Tensor | None:
        """All subjects' units side by side."""
        return None if self.stored_rsms is not None else torch.cat(self.units, 1)


def as_regions(
    brain: Data | Mapping[str, Data], similarity: str, *, plain: bool = False
) -> dict[str, Region]:
    """Read regions: a mapping, an array with a coordinate `region`, or one array.

    ``plain`` are tensors of one batch: they stay on their device.
    """
    if isinstance(brain, Mapping):
        parts: Mapping[str, Data] = {str(name): part for name, part in brain.items()}
    elif isinstance(brain, xr.DataArray) and "region" in brain.coords and "unit" in brain.dims:
        parts = dict(split_units(brain, "region"))
    elif isinstance(brain, xr.DataArray) and "region" in brain.dims:
        parts = {str(k): brain.sel(region=k, drop=True) for k in brain["region"].values}
    else:
        parts = {"brain": brain}
    return {name: _as_region(part, name, similarity, plain) for name, part in parts.items()}


def _as_region(data: Data, name: str, similarity: str, plain: bool) -> Region:
    if isinstance(data, xr.DataArray) and "anchor" not in data.dims:
        data = check_recording(data, name=name)
        per_subject = "subject" in data.coords and data["subject"].dims == ("unit",)
        parts = split_units(data, "subject").values() if per_subject else [data]
        # RSMs of all stimuli may be large, and a batch needs but a block of them
        units = [torch.from_numpy(part.values.copy()) for part in parts]
        return Region(units, None, data.indexes["stimulus"])
    if plain and isinstance(data, Tensor):
        return _as_batch(data.detach(), name)
    side = as_side(data, similarity=similarity, name=name, device=torch.device("cpu"))
    if side.units is None:
        return Region([], side.rsms, side.stimuli)
    return Region(side.units, None, side.stimuli)


def _as_batch(data: Tensor, name: str) -> Region:
    """Read a batch's recordings (n, n_units) or (n_subjects, n, n_units), or RDMs or RSMs."""
    if data.ndim not in (2, 3):
        raise ShapeError(
            f"{name!r} must be (n_stimuli, n_units), (n_subjects, n_stimuli, n_units), or RDMs, "
            f"got shape {tuple(data.shape)}."
        )
    stack = data if data.ndim == 3 else data[None]
    diagonal = matrix_diagonal(stack)
    if diagonal is None:
        return Region(stack.unbind(0), None, None)
    return Region([], 1 - stack if diagonal == 0 else stack, None)
