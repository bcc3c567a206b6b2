"""The two sides of an alignment: what a user has, as similarity matrices and units."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Literal

import numpy as np
import pandas as pd
import torch
import xarray as xr
from torch import Tensor

from softrsa._checks import check_floating
from softrsa._processes import Ranks
from softrsa._wording import counted, listed
from softrsa.errors import DataError, DTypeError, ShapeError, StimulusError
from softrsa.io import check_rdms, check_recording
from softrsa.io.axes import from_frame
from softrsa.io.matrices import ROUNDING
from softrsa.io.schema import check_labels, is_lazy
from softrsa.measures.missing import lacks_pairs
from softrsa.pairs import off_diagonal
from softrsa.recordings import join_stimuli, split_units
from softrsa.recordings.trials import share_or_copy
from softrsa.rsm import build_rsms, similarity_matrix, to_rsm
from softrsa.rsm.similarity import (
    SIMILARITIES,
    SIMILARITY_TABLE,
    SimilarityLike,
    as_similarity,
    check_rounding,
)
from softrsa.tiled.scores import MEASURES, lay_out
from softrsa.tiled.tiles import KEPT_BYTES, TiledRSM
from softrsa.transforms.center import as_double
from softrsa.transforms.on_rsms import Chain

One = xr.DataArray | pd.DataFrame | Tensor | np.ndarray
Data = One | Sequence[One]


@dataclass(frozen=True)
class Responses:
    """What one side of an alignment says about n stimuli: units, their RSMs, or both.

    Attributes
    ----------
    held : Tensor, shape (n_subjects, n_stimuli, n_stimuli), or None
        Similarities; float64 where `align` has read them. A model has one "subject". None where
        they are made on demand, whole or in tiles.
    units : tuple of Tensor, shape (n_stimuli, n_units) each, or None
        Per subject; None for RDMs.
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
    points : Tensor, shape (n_stimuli, m), or None
        Of a layer whose similarity is learned: points whose inner products are its similarities
        (correlation, cosine, dot), or those of its units.
    control : Tensor, shape (k, n_stimuli, n_stimuli), or None
        Of a layer, RSMs that its scores are given; see `softrsa.alignment.controlled`.
    raw : bool
        Whether points have the inner products of the units as they are, whatever the similarity.
    source : Tensor, shape (n_stimuli, n_units), or None
        The units as they were given, of all stimuli: what weights of units are told from. Parts of
        the stimuli do not have it.
    halves : Tensor, shape (n_splits, 2, n_stimuli, n_units), or None
        Of one subject of whom there are single trials: means of random halves of them.
    """

    held: Tensor | None
    units: tuple[Tensor, ...] | None
    stimuli: pd.Index | None
    subjects: tuple[str, ...]
    bounded: bool
    similarity: SimilarityLike = "correlation"
    averaged: bool = False
    points: Tensor | None = None
    source: Tensor | None = None
    raw: bool = False
    halves: Tensor | None = None
    control: Tensor | None = None

    @property
    def patterns(self) -> str:
        """Name of the similarity that units are prepared for before they are mapped, if any is."""
        name = "" if self.raw else as_similarity(self.similarity).name
        return name if name in ("correlation", "cosine", "dot") else ""

    @property
    def rsms(self) -> Tensor:
        """RSMs (n_subjects, n_stimuli, n_stimuli): those held, or made of the units."""
        if self.held is not None:
            return self.held
        units = self.units or ()
        return torch.stack([similarity_matrix(u, similarity=self.similarity) for u in units])

    @property
    def n_stimuli(self) -> int:
        """Number of stimuli."""
        return self._first.shape[-1 if self.units is None else -2]

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self._first.device

    @property
    def dtype(self) -> torch.dtype:
        """Number type that all subjects' units can be brought to without loss."""
        return reduce(torch.promote_types, (u.dtype for u in self.units or (self.rsms,)))

    @property
    def _first(self) -> Tensor:
        return self.rsms if self.units is None else self.units[0]

    def take(self, stimuli: Tensor) -> Responses:
        """Keep some stimuli, in the order given."""
        return replace(
            self,
            held=None if self.held is None else self.held[:, stimuli][:, :, stimuli],
            units=None if self.units is None else tuple(u[stimuli] for u in self.units),
            stimuli=None if self.stimuli is None else self.stimuli[stimuli.cpu().numpy()],
            points=None if self.points is None else self.points[stimuli],
            source=None,
            halves=None if self.halves is None else self.halves[:, :, stimuli],
            control=None if self.control is None else self.control[:, stimuli][:, :, stimuli],
        )

    def at(self, wanted: pd.Index, name: str) -> Responses:
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
        return self.take(torch.from_numpy(places).to(self.device))

    def take_subjects(self, subjects: Sequence[int]) -> Responses:
        """Keep some subjects, in the order given; all of them are not copied."""
        if tuple(subjects) == tuple(range(len(self.subjects))):
            return self
        return replace(
            self,
            held=None if self.held is None else self.held[list(subjects)],
            units=None if self.units is None else tuple(self.units[i] for i in subjects),
            subjects=tuple(self.subjects[i] for i in subjects),
        )

    def to(self, device: torch.device) -> Responses:
        """Move everything to a device."""
        return self.changed(lambda x: x.to(device))

    def changed(self, change: Callable[[Tensor], Tensor]) -> Responses:
        """Put all numbers through a change of device or type."""
        units = None if self.units is None else tuple(map(change, self.units))
        parts = {
            name: None if (one := getattr(self, name)) is None else change(one)
            for name in ("held", "points", "source", "halves", "control")
        }
        return replace(self, units=units, **parts)

    def all_units(self) -> Tensor:
        """All subjects' units side by side (n_stimuli, n_units)."""
        if self.units is None:
            raise DataError("Units (features or recordings) are needed, got RDMs or RSMs.")
        return torch.cat(self.units, 1)

    def with_units(self, units: Tensor, name: str) -> Responses:
        """Put other units (n_stimuli, n_units) in the place of one subject's, made by ``name``."""
        if units.ndim != 2 or len(units) != self.n_stimuli or not bool(units.isfinite().all()):
            raise DataError(
                f"{name!r} must give finite units of shape ({self.n_stimuli}, n_units), got shape "
                f"{tuple(units.shape)}."
            )
        rsms = similarity_matrix(units, similarity=self.similarity)[None].double()
        return replace(self, units=(units,), held=rsms)

    def tiles(self, dtype: torch.dtype | None = None, *, keep: bool = True) -> list[TiledRSM]:
        """One RSM in tiles per subject, in the number type of its units or another.

        Together they ``keep`` as many bytes of tiles as one RSM may.
        """
        units = self.units or ()
        room = KEPT_BYTES // len(units) if keep else 0
        return [
            lay_out(u.to(dtype or u.dtype), similarity=str(self.similarity), kept_bytes=room)
            for u in units
        ]


def one_subject(side: Responses) -> Responses:
    """Take the mean of the subjects' RSMs, and all their units: a model is one subject."""
    if len(side.subjects) == 1:
        return side
    return replace(
        side,
        held=side.rsms.mean(0, keepdim=True),
        units=None if side.units is None else (side.all_units(),),
        subjects=("mean",),
        averaged=True,
    )


def join_all(
    parts: Sequence[Data],
    *,
    how: Literal["exact", "intersection"] = "exact",
    ids: Literal["exact", "normalize"] = "exact",
) -> list[Data]:
    """Bring all labelled arrays, those in lists too, to the order of the first, by stimulus id.

    With ``how="intersection"`` to the stimuli that all share.
    """
    parts = [_labelled_frames(part) for part in parts]
    arrays = [array for part in parts for array in _listed(part) if isinstance(array, xr.DataArray)]
    if not arrays:
        return list(parts)
    reference = arrays[0]
    for array in arrays[1:]:
        reference, _ = join_stimuli(reference, array, how=how, ids=ids)

    def take(part: Data) -> Data:
        if isinstance(part, xr.DataArray):
            return join_stimuli(reference, part, how=how, ids=ids)[1]
        return [*map(take, part)] if isinstance(part, (list, tuple)) else part  # type: ignore[list-item]

    return [take(part) for part in parts]


def _labelled_frames(part: Data) -> Data:
    """Make labelled arrays of pandas' frames, in lists too."""
    if isinstance(part, pd.DataFrame):
        return from_frame(part)
    if isinstance(part, (list, tuple)):
        return [_labelled_frames(one) for one in part]  # type: ignore[misc]
    return part


def _listed(part: Data) -> Sequence[Tensor | np.ndarray | xr.DataArray]:
    return part if isinstance(part, (list, tuple)) else [part]  # type: ignore[list-item]


OVER_TIME = (
    "What is learned is of one time: select it, `.sel(time=...)`, or take means in windows, "
    "`softrsa.recordings.time_windows`. All times are scored, without learning, by "
    "`softrsa.inference.time_courses(layers, regions, measure)` (`softrsa time` on the command "
    "line)."
)
ORIGIN = ("similarity", "dissimilarity", "dissimilarity_measure")  # attributes of stacks


def as_responses(
    data: Data,
    *,
    similarity: SimilarityLike,
    name: str,
    subject: str = "subject",
    device: torch.device,
    units: bool = True,
    whole: bool = True,
    missing: bool = False,
) -> Responses:
    """Read features, recordings or RDMs, labelled or not, one or a list (of subjects).

    Labelled arrays are told apart by their dimensions. Of plain arrays, those whose last two
    dimensions are a symmetric matrix with a diagonal of zeros or ones are RDMs or RSMs, as in
    files; everything else is (n_stimuli, n_units). Without ``units``, those of dask-backed arrays
    are not kept, and so never in memory all at once. If not ``whole``, no RSMs are made of units.
    Pairs may be NaN where they are allowed to be ``missing``.
    """
    data = _labelled_frames(data)
    if isinstance(data, xr.DataArray):
        found = _from_labelled(data, similarity, name, subject, device, units=units, whole=whole)
    elif isinstance(data, (list, tuple)):
        members = [
            as_responses(
                item, similarity=similarity, name=f"{name}[{i}]", device=device, units=units,
                whole=whole, missing=missing,
            )
            for i, item in enumerate(join_all(data))
        ]  # fmt: skip
        found = _joined(members, name)
    elif isinstance(data, (Tensor, np.ndarray)):
        found = _from_plain(data, similarity, name, device, whole=whole)
    else:
        raise DTypeError(
            f"`{name}` must be an array, a labelled array or a list of either (one per subject), "
            f"got {type(data).__name__}. Files are read with `softrsa.load`."
        )
    if found.units is None and not missing and lacks_pairs(found.rsms):
        raise DataError(
            f"`{name}` has pairs that are missing (NaN). `align` and `softrsa.inference` leave "
            "them out; what is fitted needs all of them: leave out the stimuli that lack some."
        )
    if found.held is not None and not _is_finite(found):
        bad = (~found.held.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()
        raise DataError(
            f"`{name}` has similarities that are not finite (subjects {bad}): its values must be "
            "finite and no stimulus may be constant over units."
        )
    return found


def _is_finite(found: Responses) -> bool:
    """Tell whether similarities are numbers; NaN in RDMs are missing pairs."""
    bad = found.rsms.isinf() if found.units is None else ~found.rsms.isfinite()
    return not bool(bad.any())


def _from_labelled(
    data: xr.DataArray,
    similarity: SimilarityLike,
    name: str,
    subject: str,
    device: torch.device,
    *,
    units: bool,
    whole: bool,
) -> Responses:
    if "anchor" in data.dims:
        return _from_stack(check_rdms(data, name=name), name, subject, device)
    if "time" in data.dims:
        count = counted(data.sizes["time"], "time")
        raise ShapeError(f"`{name}` has a dimension 'time', of {count}. {OVER_TIME}")
    lazy = is_lazy(data) and whole  # `build_rsms` checks too, and values are read each time
    data = check_labels(data, name=name) if lazy else check_recording(data, name=name)
    has_subjects = subject in data.coords and data[subject].dims == ("unit",)
    # in float64: sums of float32 differ between processors in the eighth digit
    by = subject if has_subjects else None
    rsms = (
        build_rsms(data, by=by, similarity=similarity, dtype=torch.float64).values
        if whole
        else None
    )
    # in the order of the RSMs, so that positions mean the same in both
    parts = split_units(data, subject) if has_subjects else {"": data}
    return Responses(
        None
        if rsms is None
        else torch.from_numpy(rsms if has_subjects else rsms[None]).to(device, torch.float64),
        tuple(share_or_copy(part.values).to(device) for part in parts.values())
        if units or not lazy
        else None,
        data.indexes["stimulus"],
        tuple(parts),
        as_similarity(similarity).bounded,
        similarity,
    )


def _from_stack(stack: xr.DataArray, name: str, subject: str, device: torch.device) -> Responses:
    """RDM or RSM stack -> one RSM per subject, the mean over sessions and other dimensions."""
    rsms = to_rsm(stack)
    others = [str(dim) for dim in rsms.dims if dim not in ("anchor", "neighbor", subject)]
    several = [dim for dim in others if dim != "session" and rsms.sizes[dim] > 1]
    if several == ["time"]:
        raise DataError(f"`{name}` has RDMs of {rsms.sizes['time']} times. {OVER_TIME}")
    if several:
        raise DataError(
            f"`{name}` has RDMs by {listed(several)}, and nothing says what to do with these: name "
            "the one that holds layers or regions with `by` or `region` (`--by`, `--region`), or "
            f'take one or the mean first: `stack.mean("{several[0]}")`.'
        )
    rsms = rsms.mean(others) if others else rsms  # not-recorded sessions are NaN and left out
    if subject not in rsms.dims:
        rsms = rsms.expand_dims({subject: [""]})
    rsms = rsms.transpose(subject, "anchor", "neighbor")
    recorded = np.isfinite(rsms.values).any((1, 2))  # NaN are pairs that are missing
    if not recorded.any():
        raise DataError(f"`{name}` is empty: no subject has a matrix in it.")
    rsms = rsms[recorded]
    return Responses(
        as_double(torch.from_numpy(rsms.values.copy()).to(device)),
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
    data: Tensor | np.ndarray,
    similarity: SimilarityLike,
    name: str,
    device: torch.device,
    *,
    whole: bool,
) -> Responses:
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
        _check_clear(stack, diagonal, name)
        rsms = 1 - as_double(stack) if diagonal == 0 else as_double(stack)
        own = torch.eye(rsms.shape[-1], dtype=torch.bool, device=rsms.device)
        rsms = torch.where(own & rsms.isnan(), 1.0, rsms)
        return Responses(rsms, None, None, subjects, False)
    check_rounding(stack, as_similarity(similarity))
    rsms = similarity_matrix(stack.double(), similarity=similarity) if whole else None
    bounded = as_similarity(similarity).bounded
    return Responses(rsms, tuple(stack), None, subjects, bounded, similarity)


def _check_clear(stack: Tensor, diagonal: int, name: str) -> None:
    """Refuse plain squares that may as well be features: one unit per stimulus."""
    if diagonal == 1 and not bool(off_diagonal(stack).any()):
        raise DataError(
            f"`{name}` is 1 on its diagonal and 0 elsewhere: an RSM, or features? Label it: "
            "`xarray.DataArray(values, dims=('stimulus', 'unit'), coords={'stimulus': ids})` are "
            "features, `dims=('anchor', 'neighbor')` with `attrs={'kind': 'rsm'}` are similarities."
        )


def matrix_diagonal(stack: Tensor) -> int | None:
    """0 for RDMs, 1 for RSMs, None for anything that is not a symmetric similarity matrix."""
    if stack.shape[-1] != stack.shape[-2]:
        return None
    scale = float(stack.abs().nan_to_num(0.0).amax())
    tolerance = ROUNDING * scale
    if not math.isfinite(scale) or not torch.allclose(
        stack, stack.mT, rtol=0.0, atol=tolerance, equal_nan=True
    ):
        return None
    diagonal = stack.diagonal(dim1=-2, dim2=-1)
    for value in (0, 1):
        near = (diagonal - value).abs() <= max(tolerance, ROUNDING)
        if bool((near | diagonal.isnan()).all()):
            return value
    return None


def _joined(sides: list[Responses], name: str) -> Responses:
    """Subjects given as a list, over the same stimuli."""
    if not sides:
        raise DataError(f"`{name}` is an empty list: at least one subject is needed.")
    counts = {side.n_stimuli for side in sides}
    if len(counts) > 1:
        raise StimulusError(
            f"`{name}` has subjects with {sorted(counts)} stimuli; equal is needed."
        )
    units = [unit for side in sides for unit in side.units or ()]
    have_units = all(side.units is not None for side in sides)
    on_demand = have_units and any(side.held is None for side in sides)
    return Responses(
        None if on_demand else torch.cat([side.rsms.double() for side in sides]),
        tuple(units) if have_units else None,
        sides[0].stimuli,
        tuple(str(i) for i in range(sum(len(side.subjects) for side in sides))),
        all(side.bounded for side in sides),
        sides[0].similarity,
    )


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


def check_same_data(ranks: Ranks, *sides: Responses) -> None:
    """Refuse data that differ between processes."""
    ranks.check_same("features", *(u for side in sides for u in side.units or ()))


def as_tiled(
    data: Data, *, similarity: SimilarityLike, name: str, device: torch.device
) -> Responses:
    """Read features or recordings, as `as_responses`, for RSMs that are never held."""
    found = as_responses(data, similarity=similarity, name=name, device=device, whole=False)
    for units in found.units or ():  # now, while stimuli are in the order given
        lay_out(units, name, str(similarity))
    return found


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


def as_regions(
    brain: Data | Mapping[str, Data], similarity: SimilarityLike
) -> dict[str, Responses]:
    """Read regions: a mapping, an array with a coordinate `region`, or one array.

    RSMs of all stimuli may be large, and a batch needs but a block of them: none are made here.
    """
    if isinstance(brain, Mapping):
        parts: Mapping[str, Data] = {str(name): part for name, part in brain.items()}
    elif isinstance(brain, xr.DataArray) and "region" in brain.coords and "unit" in brain.dims:
        parts = dict(split_units(brain, "region"))
    elif isinstance(brain, xr.DataArray) and "region" in brain.dims:
        parts = {str(k): brain.sel(region=k, drop=True) for k in brain["region"].values}
    else:
        parts = {"brain": brain}
    return {name: _as_region(part, name, similarity) for name, part in parts.items()}


def _as_region(data: Data, name: str, similarity: SimilarityLike) -> Responses:
    """Read a region to look batches up in: a copy, of stimuli that all have similarities."""
    cpu = torch.device("cpu")
    found = as_responses(data, similarity=similarity, name=name, device=cpu, whole=False)
    for i, units in enumerate(found.units or ()):
        # correlations and cosines of a stimulus with itself are not a number where it is constant
        alone = units.unsqueeze(1)
        own = similarity_matrix(alone, similarity=similarity) if found.bounded else units
        bad = (~own.flatten(1).isfinite().all(1)).nonzero().flatten().tolist()
        if bad:
            raise DataError(
                f"{name!r} has similarities that are not finite (subject {i}, stimuli at "
                f"{bad[:10]}): values must be finite, and no stimulus constant over units."
            )
    return found.changed(torch.clone)


def as_batch(data: Tensor, name: str, similarity: SimilarityLike) -> Responses:
    """Read a batch's recordings (n, n_units) or (n_subjects, n, n_units), or RDMs or RSMs."""
    data = data.detach()
    if data.ndim not in (2, 3):
        raise ShapeError(
            f"{name!r} must be (n_stimuli, n_units), (n_subjects, n_stimuli, n_units), or RDMs, "
            f"got shape {tuple(data.shape)}."
        )
    stack = data if data.ndim == 3 else data[None]
    names = tuple(map(str, range(len(stack))))
    diagonal = matrix_diagonal(stack)
    if diagonal is None:
        bounded = as_similarity(similarity).bounded
        return Responses(None, stack.unbind(0), None, names, bounded, similarity)
    return Responses(1 - stack if diagonal == 0 else stack, None, None, names, False)
