"""The two sides of an alignment: what a user has, as similarity matrices and units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
import xarray as xr
from torch import Tensor, nn

from softrsa._checks import check_floating
from softrsa._processes import Ranks
from softrsa.errors import DataError, DTypeError, ShapeError, StimulusError
from softrsa.io import check_rdms, check_recording
from softrsa.io.schema import check_labels, is_lazy
from softrsa.recordings import join_stimuli, split_units
from softrsa.recordings.trials import share_or_copy
from softrsa.rsm import build_rsms, similarity_matrix, to_rsm
from softrsa.rsm.similarity import SIMILARITIES, SIMILARITY_TABLE, SimilarityLike, as_similarity
from softrsa.tiled.scores import MEASURES, lay_out
from softrsa.tiled.tiles import KEPT_BYTES, TiledRSM
from softrsa.transforms.on_rsms import Chain

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
        Whether similarities are known to lie in [-1, 1] by their nature (correlation, cosine), so
        that they scale to [0, 1] without looking at other stimuli. Values alone do not say so: a
        distance may be as small in the unit it was measured in.
    similarity : str, Similarity or callable
        How units become similarities.
    averaged : bool
        Whether it is the mean of several subjects' RSMs, with all their units side by side.
    """

    rsms: Tensor
    units: tuple[Tensor, ...] | None
    stimuli: pd.Index | None
    subjects: tuple[str, ...]
    bounded: bool
    similarity: SimilarityLike = "correlation"
    averaged: bool = False

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

    def with_units(self, units: Tensor, name: str) -> Side:
        """Put other units (n_stimuli, n_units) in the place of one subject's, made by ``name``."""
        if units.ndim != 2 or len(units) != self.n_stimuli or not bool(units.isfinite().all()):
            raise DataError(
                f"{name!r} must give finite units of shape ({self.n_stimuli}, n_units), got shape "
                f"{tuple(units.shape)}."
            )
        rsms = similarity_matrix(units, similarity=self.similarity)[None].double()
        return replace(self, units=(units,), rsms=rsms)


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
        averaged=True,
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


ORIGIN = ("similarity", "dissimilarity", "dissimilarity_measure")  # attributes of stacks


def as_side(
    data: Data,
    *,
    similarity: SimilarityLike,
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
    similarity: SimilarityLike,
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
    # in float64: sums of float32 differ between processors in the eighth digit
    rsms = build_rsms(
        data, by=subject if has_subjects else None, similarity=similarity, dtype=torch.float64
    )
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
        as_similarity(similarity).bounded,
        similarity,
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
        _is_bounded(stack),
    )


def _is_bounded(stack: xr.DataArray) -> bool:
    """Whether the attributes of matrices say that they are correlations or cosines."""
    names = {str(stack.attrs[key]) for key in ORIGIN if key in stack.attrs}
    return any(SIMILARITY_TABLE[name].bounded for name in names if name in SIMILARITY_TABLE)


def _from_plain(
    data: Tensor | np.ndarray, similarity: SimilarityLike, name: str, device: torch.device
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
        return Side(rsms, None, None, subjects, False)
    rsms = similarity_matrix(stack.double(), similarity=similarity)
    bounded = as_similarity(similarity).bounded
    return Side(rsms, tuple(stack), None, subjects, bounded, similarity)


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
        sides[0].similarity,
    )


@dataclass(frozen=True)
class TiledSide:
    """Features of one side over n stimuli; as `Side`, without its RSMs."""

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
        return as_similarity(self.similarity).bounded

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


def tiling_obstacle(
    one: Chain, measure: str, similarity: SimilarityLike, sides: Sequence[Data]
) -> str | None:
    """Say why an alignment cannot be done in tiles, if so."""
    if one.units is not None or not one.rsms.tiled:
        return f"{one.name!r} needs whole matrices, such as ranks of all pairs or units of its own."
    if similarity not in SIMILARITIES:
        return "a similarity function of your own makes whole matrices."
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
