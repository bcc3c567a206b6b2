"""Groups of stimuli and subjects in an alignment: where their labels come from, and folds."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import xarray as xr

from softrsa._groups import Groups, as_groups
from softrsa._wording import counted, listed
from softrsa.alignment.resampling import FEWEST_ORDERS, Scored, n_orders
from softrsa.alignment.responses import Data, Responses
from softrsa.alignment.settings import GroupLabels, Options, Split, grouped_folds, split_stimuli
from softrsa.errors import DataError, unknown_name

LabelsLike = Sequence[object] | Mapping[Any, object] | str | None


def labels_of_stimuli(
    given: LabelsLike, parts: Sequence[Mapping[str, Data]], n_stimuli: int
) -> GroupLabels:
    """Labels of stimuli in the order of the data: as given, by stimulus id, or of a coordinate."""
    if given is None:
        return GroupLabels()
    arrays = [*_arrays(*parts)]
    labels: Any = given
    if isinstance(given, str):
        found = _along(arrays, ("stimulus", "anchor"))
        if given not in found:
            raise unknown_name("coordinate along `stimulus`, for `stimulus_groups`:", given, found)
        labels = found[given].values
    elif isinstance(given, Mapping):
        labels = _looked_up(given, _stimulus_ids(arrays, n_stimuli), "stimulus_groups", "stimuli")
    elif hasattr(given, "__len__") and len(given) > n_stimuli and _left_out(arrays):
        raise DataError(
            f"`stimulus_groups` has {len(given)} labels, and {n_stimuli} stimuli are left of the "
            "intersection: give a mapping from stimulus ids to groups, or the name of a coordinate "
            "along `stimulus` that holds them."
        )
    known = as_groups(labels, n_stimuli, "stimulus_groups", "stimulus")
    return GroupLabels(known.labels, given if isinstance(given, str) else "")


def labels_of_subjects(
    given: LabelsLike, regions: Mapping[str, Data], sides: Mapping[str, Responses], subject: str
) -> GroupLabels:
    """Pairs of a subject and its group: as given, by name of the subject, or of a coordinate."""
    if given is None:
        return GroupLabels()
    people = [*dict.fromkeys(name for side in sides.values() for name in side.subjects)]
    labels: Any = given
    if isinstance(given, str):
        labels = _by_subject(given, [*_arrays(regions)], subject)
    if isinstance(labels, Mapping):
        known = {str(name): label for name, label in labels.items()}
        labels = _looked_up(known, people, "subject_groups", "subjects")
    found = as_groups(labels, len(people), "subject_groups", "subject").labels
    source = given if isinstance(given, str) else ""
    return GroupLabels(tuple(zip(people, found, strict=True)), source)


def _arrays(*parts: Mapping[str, Data]) -> Iterator[xr.DataArray]:
    """Labelled arrays among data, those of lists too."""
    for part in parts:
        for data in part.values():
            for one in data if isinstance(data, list | tuple) else [data]:
                if isinstance(one, xr.DataArray):
                    yield one


def _along(arrays: Sequence[xr.DataArray], dims: Sequence[str]) -> dict[str, xr.DataArray]:
    """Coordinates along some dimension, of the first array that has them."""
    return {
        str(name): coordinate
        for array in reversed(arrays)
        for name, coordinate in array.coords.items()
        if coordinate.dims in {(dim,) for dim in dims}
    }


def _stimulus_ids(arrays: Sequence[xr.DataArray], n_stimuli: int) -> Sequence[Hashable]:
    if not arrays:
        return range(n_stimuli)
    return arrays[0].indexes["anchor" if "anchor" in arrays[0].dims else "stimulus"].tolist()


def _left_out(arrays: Sequence[xr.DataArray]) -> bool:
    return any("stimuli_left_out" in array.attrs for array in arrays)


def _looked_up(
    given: Mapping[Any, object], names: Sequence[Hashable], argument: str, plural: str
) -> list[object]:
    """Look the groups of things up by name."""
    lost = [name for name in names if name not in given]
    if lost:
        raise DataError(
            f"`{argument}` has no group for the {plural} {listed(lost)}: a mapping must hold all "
            f"{counted(len(names), 'name')} in the data."
        )
    return [given[name] for name in names]


def _by_subject(name: str, arrays: Sequence[xr.DataArray], subject: str) -> dict[str, object]:
    """Map subjects to their group, from a coordinate beside that of subjects."""
    found: dict[str, object] = {}
    known: dict[str, None] = {}
    for array in arrays:
        if subject not in array.coords:
            continue
        beside = _along([array], [str(dim) for dim in array[subject].dims])
        known |= dict.fromkeys(beside)
        if name not in beside:
            continue
        pairs = zip(map(str, array[subject].values), beside[name].values, strict=True)
        for person, label in dict.fromkeys(pairs):
            if found.setdefault(person, label) != label:
                raise DataError(
                    f"Subject {person!r} is in two groups of the coordinate {name!r}, "
                    f"{found[person]!r} and {label!r}; each subject must be in one."
                )
    if not found:
        raise unknown_name(f"coordinate beside {subject!r}, for `subject_groups`:", name, known)
    return found


def splits_of(n_stimuli: int, options: Options) -> list[Split]:
    """Folds of a run, which keep groups of stimuli whole."""
    groups, folds = options.groups_of_stimuli(n_stimuli), options.folds
    if isinstance(folds, int) and not groups.are_single:
        return grouped_folds(groups.labels, folds, seed=options.seed)
    splits = split_stimuli(n_stimuli, folds, seed=options.seed)
    for i, split in enumerate(splits if folds is not None else ()):
        shared = torch.isin(groups.codes[split.test], groups.codes[split.train])
        if shared.any():
            torn = {groups.labels[place] for place in split.test[shared].tolist()}
            raise DataError(
                f"In split {i} the groups {listed(torn)} are trained and tested on. Splits must "
                "keep groups whole, as those of `grouped_folds` do."
            )
    return splits


def count_groups(
    splits: Sequence[Split], groups: Groups, sides: Mapping[str, Responses], options: Options
) -> tuple[dict[str, int], list[int]]:
    """Count groups of stimuli, if there are any, and of subjects, of each region."""
    people = [len(options.groups_of_subjects(side.subjects)) for side in sides.values()]
    if not groups.labels:
        return {}, people
    tested = torch.cat([split.test for split in splits]).unique()
    return {"n_groups": len(groups), "n_groups_tested": len(groups.take(tested))}, people


def few_group_warnings(runs: Sequence[Scored], options: Options, n_stimuli: int) -> list[str]:
    """Say where groups are too few for p against chance."""
    groups = options.groups_of_stimuli(n_stimuli)
    n = n_orders(runs, groups)
    if groups.are_single or not options.resamples or n >= FEWEST_ORDERS:
        return []
    return [
        f"p against chance is NaN: whole groups of one size can be put in {counted(n, 'order')} "
        f"within folds, so that the smallest p would be {1 / n:.3g}. Use fewer folds, or more "
        "groups of one size."
    ]


def without(labels: GroupLabels, places: torch.Tensor) -> GroupLabels:
    """Labels of the stimuli that are kept."""
    if not labels.labels:
        return labels
    kept = tuple(labels.labels[i] for i in places.tolist())
    return replace(labels, labels=as_groups(kept, len(kept), "stimulus_groups", "stimulus").labels)
