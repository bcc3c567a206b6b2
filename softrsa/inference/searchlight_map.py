"""Maps of scores: models against the RDM around every voxel or vertex, tested over subjects."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
import xarray as xr
from torch import Tensor

from softrsa._wording import counted, listed
from softrsa.errors import DataError, StimulusError, unknown_name
from softrsa.inference.clusters import (
    ALTERNATIVES,
    METHODS,
    Alternative,
    ClusterTest,
    Method,
    cluster_test,
)
from softrsa.inference.movies import Labelled, MeasureLike, Reading, check_measure, model_stack
from softrsa.inference.result import SCHEMA, versions
from softrsa.inference.searchlight_result import TESTED, SearchlightResult
from softrsa.io import check_recording
from softrsa.measures import Measure
from softrsa.pairs import condense, expand
from softrsa.recordings import average_trials, join_stimuli
from softrsa.recordings.covariance import CovarianceMethod
from softrsa.recordings.trials import as_tensor, checked_trials, group_means, groups, residuals
from softrsa.rsm.neighborhoods import disks, spheres, touching
from softrsa.rsm.searchlight import FOLDED, WHITENED, searchlight
from softrsa.rsm.similarity import SimilarityLike

PLACED = ("i", "j", "k", "x", "y", "z", "vertex", "hemisphere", "region")
KEPT = ("grid", "affine", "sform_code", "qform_code", "vertices_left", "vertices_right")
Subjects = xr.DataArray | Sequence[xr.DataArray] | Mapping[str, xr.DataArray]


class _How(NamedTuple):
    """How RDMs are made around each center."""

    method: str
    fold: str
    noise: CovarianceMethod | None
    radius: float | None
    rings: int | None
    mesh: Any
    smallest: int
    join: Literal["exact", "intersection"]


def searchlight_maps(
    models: Labelled,
    recordings: Subjects,
    measure: MeasureLike = "spearman",
    *,
    radius: float | None = None,
    rings: int | None = None,
    mesh: Any = None,
    by: str = "layer",
    method: str = "correlation",
    fold: str = "run",
    noise: CovarianceMethod | None = "shrinkage_diagonal",
    smallest: int = 5,
    similarity: SimilarityLike = "correlation",
    join: Literal["exact", "intersection"] = "exact",
    chance: float = 0.0,
    alternative: Alternative = "greater",
    test: Method = "max",
    n_flips: int = 1000,
    n_permutations: int = 0,
    seed: int = 0,
    progress: bool = True,
) -> SearchlightResult:
    """Score models against the RDM around every voxel or vertex; test the map over subjects.

    Parameters
    ----------
    models : DataArray or mapping of str to DataArray
        RDMs or RSMs (layer, anchor, neighbor), activations (stimulus, unit) with layers on `unit`,
        or a mapping from names to either. All are scored in one pass.
    recordings : DataArray, or list or mapping of these
        Responses (stimulus, unit), or trials (trial, unit), with places in mm or vertices on
        `unit`: see `softrsa.io.from_nifti` and `from_gifti`. Several are subjects, on one grid.
    measure : str, Measure or callable
        Of RSMs: a name of `softrsa.measures.available`, its entry, or its function.
    radius : float, optional
        Of spheres, or with a mesh of disks along the surface, in mm.
    rings : int, optional
        Edges between a vertex and its neighbors, in place of a radius.
    mesh : Mesh, or mapping from hemispheres to meshes, optional
        The surface that vertices lie on: see `softrsa.io.read_mesh`.
    by : str
        The dimension or coordinate that holds models.
    method : str
        Of distances: see `softrsa.rsm.searchlight`. Cross-validated ones take trials; of others
        trials of a stimulus are averaged.
    fold : str
        The coordinate on `trial` that holds the folds of cross-validated distances.
    noise : str, optional
        For `crossnobis` and `mahalanobis`, how the noise covariance of each neighborhood is
        estimated, from trials less the mean of their stimulus. None takes none.
    smallest : int
        Centers with fewer units around them are NaN.
    similarity : str, Similarity or callable
        Of the models' activations: see `softrsa.rsm.similarity_matrix`.
    join : {"exact", "intersection"}
        Whether both sides must have the same stimuli.
    chance : float
        Score without any relation, which maps are tested against.
    alternative : {"greater", "less", "two-sided"}
        How scores differ from chance.
    test : {"max", "tfce", "mass"}
        Of several subjects, with flips of signs: the largest t of the map, threshold-free cluster
        enhancement, or cluster mass; see `cluster_test`.
    n_flips : int
        Of signs.
    n_permutations : int
        Of one subject: how often the models' stimuli are permuted. The largest score of the map is
        kept each time, so that p is corrected over centers. 0 tests nothing.
    seed : int
        Of flips and permutations.
    progress : bool
        Show progress bars where it takes longer than two seconds.

    Returns
    -------
    SearchlightResult
        With `data`, `table` (the peak of each model), `plot()`, `to_nifti(folder)`,
        `to_gifti(folder)` and `to_netcdf(path)`.

    Raises
    ------
    DTypeError, ShapeError, StimulusError
        If data are not labelled, or stimuli do not match.
    DataError
        If units have no places, subjects lie on different grids or share no unit, folds are
        missing, or models have times of their own or missing pairs.
    UnknownNameError
        If there is no such measure, method, test or alternative.

    Notes
    -----
    p of one subject is about these stimuli in this subject: permuting stimuli takes them for
    exchangeable. p of several subjects is about subjects. Neither is corrected over models.

    References
    ----------
    Kriegeskorte, Goebel & Bandettini (2006), doi:10.1073/pnas.0600244103; Nichols & Holmes (2002),
    doi:10.1002/hbm.1058.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> i, j = (part.ravel() for part in np.mgrid[:6, :6])
    >>> places = {"x": ("unit", 3.0 * i), "y": ("unit", 3.0 * j), "z": ("unit", 0.0 * i)}
    >>> ids = {"stimulus": np.arange(12)}
    >>> values = rng.normal(size=(12, 4)) @ rng.normal(size=(4, 36))
    >>> fc = xr.DataArray(values, dims=("stimulus", "unit"), coords=ids)
    >>> brain = (fc + rng.normal(size=(12, 36)) * (1 + 9 * (i < 3))).assign_coords(places)
    >>> result = searchlight_maps({"fc": fc}, brain, radius=6.0, n_permutations=99)
    >>> peak = result.table.iloc[0]
    >>> bool(peak["x"] >= 9), bool(peak["p_corrected"] < 0.05)
    (True, True)
    """
    if alternative not in ALTERNATIVES:
        raise unknown_name("alternative", alternative, ALTERNATIVES)
    if test not in METHODS:
        raise unknown_name("test", test, METHODS)
    entry = check_measure(measure)
    stack = model_stack(models, Reading(by=by, similarity=similarity, join=join))
    subjects = _subjects(recordings)
    how = _How(method, fold, noise, radius, rings, mesh, smallest, join)
    names, dim, labels = _models_of(stack)
    maps, nulls = [], []
    numbers = []
    for name, recording in subjects.items():
        one = _Subject(recording, name, how)
        pairs, n_stimuli = one.joined(stack, entry)
        numbers.append(n_stimuli)
        permuted = n_permutations if len(subjects) == 1 else 0
        scores, null = one.scores(pairs, entry, permuted, seed, progress=progress)
        maps.append(_on_units(scores, one.units, names))
        nulls.append(null)
    score = _together(maps, [*subjects])
    tested = {name: (("model", "unit"), np.full(score.shape[1:], np.nan)) for name in TESTED}
    values = score.to_numpy() - chance
    if len(subjects) > 1:
        flips = partial(
            cluster_test, adjacency=None if test == "max" else touching(score, mesh), method=test,
            alternative=alternative, n_flips=n_flips, seed=seed, progress=progress,
        )  # fmt: skip
        tested |= _over_subjects(values, flips)
    elif nulls[0] is not None:
        tested |= _over_stimuli(values[0], nulls[0] - chance, alternative)
    data = xr.Dataset({"score": score, **tested})
    first = next(iter(subjects.values()))
    kept = {key: value for key, value in first.attrs.items() if key in KEPT}
    notes = _notes(score, maps, subjects, numbers)
    return SearchlightResult(
        data.assign_attrs(
            softrsa_schema=SCHEMA, measure=entry.name, model_dim=dim, n_stimuli=min(numbers),
            method=method, radius=np.nan if radius is None else float(radius),
            rings=0 if rings is None else rings, test=test if len(subjects) > 1 else "max",
            chance=float(chance), alternative=alternative, n_flips=n_flips,
            n_permutations=n_permutations, seed=seed, labels=json.dumps(labels),
            warnings=json.dumps(notes), versions=json.dumps(versions()), **kept,
        )
    )  # fmt: skip


def _models_of(stack: xr.DataArray) -> tuple[list[str], str, list[str]]:
    """Names of models, of their dimension, and of the stimuli."""
    if "time" in stack.dims:
        raise DataError("The models have times of their own: take one, `models.sel(time=...)`.")
    dims = [str(d) for d in stack.dims if d not in ("anchor", "neighbor")]
    if not dims:
        return ["model 1"], "model", [*map(str, stack["anchor"].values)]
    names = stack[dims[0]].values if dims[0] in stack.coords else range(stack.shape[0])
    return [*map(str, names)], dims[0], [*map(str, stack["anchor"].values)]


def _subjects(recordings: Subjects) -> dict[str, xr.DataArray]:
    """Name recordings by subject, and refuse grids that differ."""
    if isinstance(recordings, xr.DataArray):
        own = recordings.coords.get("subject")
        names = [] if own is None else [*dict.fromkeys(map(str, np.atleast_1d(own.values)))]
        if len(names) > 1:
            return {
                name: recordings.isel(unit=recordings["subject"].values.astype(str) == name)
                for name in names
            }
        return {names[0] if names else "subject 1": recordings}
    if isinstance(recordings, Mapping):
        named = {str(name): one for name, one in recordings.items()}
    else:
        named = {f"subject {i + 1}": one for i, one in enumerate(recordings)}
    if not named:
        raise DataError("There are no recordings.")
    (first, one), *others = named.items()
    for name, other in others:
        differ = [k for k in KEPT if not np.allclose(other.attrs.get(k, 0), one.attrs.get(k, 0))
                  and not k.endswith("code")]  # fmt: skip
        if differ:
            raise DataError(
                f"Maps of subjects need one grid: {name!r} differs from {first!r} in "
                f"{listed(differ)}. Read images in a common space (`space-MNI...`), or run each "
                "subject by itself."
            )
    return named


class _Subject:
    """One subject's responses around centers."""

    def __init__(self, recording: xr.DataArray, name: str, how: _How):
        self.name, self.how = name, how
        self.trials: xr.DataArray | None = None
        if "trial" in getattr(recording, "dims", ()):
            self.trials = checked_trials(recording, name=f"recording of {name!r}")
            self.means = average_trials(self.trials)
        else:
            if how.method in FOLDED:
                raise DataError(
                    f"{how.method!r} needs single trials with a coordinate {how.fold!r}; {name!r} "
                    "has one row for each stimulus. Take method='correlation', or give trials."
                )
            self.means = check_recording(recording, name=f"recording of {name!r}")
        self.units = {
            key: c.variable for key, c in self.means.coords.items()
            if key in (*PLACED, "unit") and c.dims == ("unit",)
        }  # fmt: skip

    def joined(self, stack: xr.DataArray, entry: Measure) -> tuple[Tensor, int]:
        """Condensed RDMs or RSMs (model, pairs) of the models, of this subject's stimuli."""
        self.means, stack = join_stimuli(self.means, stack, how=self.how.join)
        n = self.means.sizes["stimulus"]
        if n < max(3, entry.smallest_n):
            raise StimulusError(
                f"{entry.name!r} needs at least {max(3, entry.smallest_n)} stimuli, got {n}."
            )
        values = torch.from_numpy(np.array(stack.values, dtype=np.float64)).reshape(-1, n, n)
        if stack.attrs["kind"] == "rsm":
            values = _distances(values, entry)
        pairs = condense(values)
        if bool(pairs.isnan().any()):
            raise DataError("Pairs of stimuli are missing (NaN) in the models; leave them out.")
        return pairs, n

    def scores(
        self, pairs: Tensor, entry: Measure, n_permutations: int, seed: int, *, progress: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Scores (unit, model), and the largest of each permutation (permutation, model)."""
        how = self.how
        neighbors = self._neighbors()
        large = [center for center, own in enumerate(neighbors) if len(own) >= how.smallest]
        if not large:
            raise DataError(
                f"No center has {how.smallest} units around it (at most "
                f"{max(map(len, neighbors))}): take a larger radius, or fewer with `smallest`."
            )
        keep = Extremes(pairs, entry, n_permutations, seed)
        rest: dict[str, Any] = {}
        if how.method in WHITENED and how.noise is not None:
            rest = self._noise()
        found = searchlight(
            self._responses(), [neighbors[center] for center in large], method=how.method,
            evaluate=keep, progress=progress, **rest,
        )  # fmt: skip
        scores = found.new_full((len(neighbors), found.shape[1]), torch.nan)
        scores[large] = found
        return scores, keep.largest

    def _neighbors(self) -> list[np.ndarray]:
        how = self.how
        if how.mesh is not None:
            return disks(self.means, how.mesh, radius=how.radius, rings=how.rings)
        if how.radius is None:
            raise DataError("Give `radius`, in mm; on a surface with `mesh`, or `rings`.")
        return spheres(self.means, how.radius)

    def _responses(self) -> Tensor:
        """(stimulus, unit), or (fold, stimulus, unit) in the order of the means."""
        ids = self.means["stimulus"].values.tolist()
        if self.how.method not in FOLDED or self.trials is None:
            return torch.from_numpy(np.array(self.means.values, dtype=np.float64))
        own = self.trials[np.isin(self.trials["stimulus"].values, ids)]
        stimuli = pd.Index(ids).get_indexer(pd.Index(own["stimulus"].values))
        folds, labels = groups(own, self.how.fold)
        if len(labels) < 2:
            raise DataError(
                f"Cross-validation needs at least 2 folds; all trials of {self.name!r} have one "
                f"`{self.how.fold}`."
            )
        codes = folds * len(ids) + torch.from_numpy(stimuli.astype(np.int64))
        means, counts = group_means(as_tensor(own), codes, len(labels) * len(ids))
        empty = (counts == 0).nonzero().flatten().tolist()
        if empty:
            fold, stimulus = divmod(empty[0], len(ids))
            raise DataError(
                f"A searchlight needs every stimulus in every fold; {counted(len(empty), 'pair')} "
                f"of both have no trial, the first {self.how.fold} {labels[fold]!r} and stimulus "
                f"{ids[stimulus]!r}. Leave these stimuli or folds out."
            )
        return means.unflatten(0, (len(labels), len(ids)))

    def _noise(self) -> dict[str, Any]:
        """Trials less the mean of their stimulus, and their degrees of freedom."""
        if self.trials is None:
            raise DataError(
                f"{self.how.method!r} estimates noise from single trials, and {self.name!r} has "
                "one row for each stimulus: give trials, or noise=None."
            )
        rest, dof = residuals(as_tensor(self.trials).double(), groups(self.trials, "stimulus")[0])
        return {"residuals": rest, "dof": dof, "noise": self.how.noise}


def _distances(rsms: Tensor, entry: Measure) -> Tensor:
    """Turn similarities into distances that are 0 between a stimulus and itself."""
    own = rsms.diagonal(dim1=-2, dim2=-1)
    mean = own.mean(-1, keepdim=True)
    if entry.takes == "matrices" and not torch.allclose(own, mean.expand_as(own)):
        raise DataError(
            f"{entry.name!r} uses how similar stimuli are to themselves, which is not the same for "
            "all in these models: give RDMs, or models' activations with another similarity."
        )
    return mean.unsqueeze(-1) - rsms


class Extremes:
    """Scores of models, and the largest over all centers when their stimuli are permuted."""

    def __init__(self, pairs: Tensor, entry: Measure, n_permutations: int, seed: int):
        self.n_models = len(pairs)
        self.n_permutations = n_permutations
        self.largest: Tensor | None = None
        self.score = entry.against(pairs)
        self.permuted: list[Callable[[Tensor], Tensor]] = []
        if n_permutations:
            self.largest = pairs.new_full((n_permutations, self.n_models), -torch.inf)
            self.permuted = [
                entry.against(block) for block in _permuted(pairs, n_permutations, seed)
            ]

    def __call__(self, rdms: Tensor) -> Tensor:
        """Score (center, model); keep the largest of each permutation."""
        found = self.score(rdms)
        place = 0
        for score in self.permuted:
            block = score(rdms).nan_to_num(-torch.inf).amax(0).view(-1, self.n_models)
            own = slice(place, place + len(block))
            if self.largest is not None:
                self.largest[own] = torch.maximum(self.largest[own], block)
            place += len(block)
        return found


BLOCK = 100  # permutations that are scored together


def _permuted(pairs: Tensor, n_permutations: int, seed: int) -> list[Tensor]:
    """Models with their stimuli permuted, in blocks (permutations * models, pairs)."""
    generator = torch.Generator().manual_seed(seed)
    squares = expand(pairs)
    n = squares.shape[-1]
    orders = [torch.randperm(n, generator=generator) for _ in range(n_permutations)]
    blocks = (orders[start : start + BLOCK] for start in range(0, n_permutations, BLOCK))
    return [
        torch.cat([condense(squares[:, order][:, :, order]) for order in block]) for block in blocks
    ]


def _on_units(scores: Tensor, units: Mapping[str, Any], names: list[str]) -> xr.DataArray:
    """Label scores (unit, model) by units and models."""
    coords = {**units, "model": np.array(names, dtype=object)}
    if "unit" not in units:
        coords["unit"] = np.arange(len(scores))
    return xr.DataArray(scores.T.numpy(), coords, ("model", "unit"))


def _together(maps: list[xr.DataArray], names: list[str]) -> xr.DataArray:
    """Scores (subject, model, unit) of the units that all subjects have."""
    shared: Any = xr.align(*maps, join="inner")
    if not shared[0].sizes["unit"]:
        raise DataError("The subjects share no unit: bring their images to one grid, or one mesh.")
    score: Any = xr.concat([*shared], pd.Index(names, name="subject", dtype=object))
    return score


def _over_subjects(values: np.ndarray, flips: Callable[[Tensor], ClusterTest]) -> dict[str, Any]:
    """Test the maps (subject, model, unit) of each model over subjects."""
    parts = []
    for model in range(values.shape[1]):
        own = values[:, model]
        found = flips(torch.from_numpy(np.where(np.isnan(own).any(0), np.nan, own)))
        parts.append((found.t, found.p_uncorrected, found.p))
    stacked = (torch.stack(part).numpy() for part in zip(*parts, strict=True))
    return {name: (("model", "unit"), part) for name, part in zip(TESTED, stacked, strict=True)}


def _over_stimuli(values: np.ndarray, null: Tensor, alternative: Alternative) -> dict[str, Any]:
    """Corrected p of scores (model, unit) from the largest of each permutation."""
    if alternative != "greater":
        raise DataError(
            "Permutations of one subject test whether scores are greater than chance; got "
            f"{alternative=}. Leave out `n_permutations`, or `alternative`."
        )
    largest = np.sort(null.numpy(), axis=0)
    p = np.full(values.shape, np.nan)
    for model, own in enumerate(values):
        beyond = len(largest) - np.searchsorted(largest[:, model], own - 1e-12, side="left")
        p[model] = np.where(np.isnan(own), np.nan, (1 + beyond) / (1 + len(largest)))
    return {"p_corrected": (("model", "unit"), p)}


def _notes(
    score: xr.DataArray, maps: list[xr.DataArray], subjects: Mapping[str, Any], numbers: list[int]
) -> list[str]:
    """Say what a reader of the maps must know."""
    notes = []
    most = max(one.sizes["unit"] for one in maps)
    if score.sizes["unit"] < most:
        notes.append(
            f"Maps are of the {score.sizes['unit']} units that all subjects have, of up to {most}."
        )
    if min(numbers) < max(numbers):
        notes.append(f"Subjects have {min(numbers)} to {max(numbers)} of the models' stimuli.")
    undefined = int(score.isnull().any(("model", "subject")).sum())
    if undefined:
        notes.append(
            f"{counted(undefined, 'center')} of {score.sizes['unit']} have no score (NaN): they "
            "have too few units around them, or responses that do not vary there."
        )
    if len(subjects) == 1:
        notes.append("One subject: nothing about other subjects is tested.")
    return notes
