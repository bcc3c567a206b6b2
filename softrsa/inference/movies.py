"""RSMs over time: labelled inputs read once, joined by stimulus id, and scored at all times."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import reduce
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
import xarray as xr
from torch import Tensor, nn

from softrsa._wording import counted, listed
from softrsa.errors import DataError, DTypeError, ShapeError, StimulusError
from softrsa.inference.inner_products import Forms, form_ceilings
from softrsa.inference.noise_ceiling import noise_ceiling
from softrsa.inference.pair_table import FEWEST_STIMULI, find_measure
from softrsa.io import check_rdms
from softrsa.io.schema import labels_along
from softrsa.measures import Measure
from softrsa.measures.missing import check_leaves_out, on_held_pairs
from softrsa.recordings import join_stimuli
from softrsa.rsm import build_rsms, to_rsm
from softrsa.rsm.similarity import SimilarityLike
from softrsa.transforms.center import as_double, held_pairs
from softrsa.transforms.on_rsms import TransformLike, as_chain

Labelled = xr.DataArray | Sequence[xr.DataArray] | Mapping[str, "Labelled"]
MeasureLike = str | Measure | Callable[[Tensor, Tensor], Tensor]
CHUNK_BYTES = 2e6  # of RSMs that are brought into the form of a measure at a time


class Movie(NamedTuple):
    """RSMs of one region over time: ``rsms`` (n_subjects, n_times, n, n), float64."""

    rsms: Tensor
    subjects: tuple[str, ...]
    times: np.ndarray


class Models(NamedTuple):
    """RSMs of models: ``rsms`` (n_models, [n_times,] n, n), float64, and what they are called."""

    rsms: Tensor
    names: tuple[str, ...]
    dim: str
    times: np.ndarray | None


class Reading(NamedTuple):
    """How labelled data are taken: names of coordinates, similarity, and how stimuli are joined."""

    by: str = "layer"
    region: str = "region"
    subject: str = "subject"
    similarity: SimilarityLike = "correlation"
    join: Literal["exact", "intersection"] = "exact"
    transform: TransformLike = "identity"


def read_sides(
    models: Labelled, regions: Labelled, measure: MeasureLike, how: Reading
) -> tuple[Measure, Models, dict[str, Movie]]:
    """Read models and the movies of regions, of the same stimuli in the same order."""
    entry = check_measure(measure)
    stack = model_stack(models, how)
    movies = _region_stacks(regions, how)
    stack, *found = _joined([stack, *movies.values()], entry, how)
    dim = next((str(d) for d in stack.dims if d not in ("time", "anchor", "neighbor")), "model")
    names = _names(stack, dim) if dim in stack.dims else ("model 1",)
    squares = _squares(stack, entry)
    squares = squares if dim in stack.dims else squares[None]
    times = stack["time"].values if "time" in stack.dims else None
    read = Models(squares, names, dim, times)
    named = zip(movies, found, strict=True)
    return entry, read, {name: _movie(one, name, entry) for name, one in named}


def read_movies(
    movies: Sequence[Labelled], measure: MeasureLike, how: Reading
) -> tuple[Measure, list[Movie]]:
    """Read movies of one region each, of the same stimuli in the same order."""
    entry = check_measure(measure)
    stacks = [_subject_stack(movie, how) for movie in movies]
    return entry, [_movie(one, "the movie", entry) for one in _joined(stacks, entry, how)]


def check_measure(measure: MeasureLike) -> Measure:
    """Find a measure of RSMs of which more is more similar."""
    entry = find_measure(measure)
    if entry.takes == "features":
        raise DataError(
            f"{entry.name!r} compares features, not RSMs; over time RSMs are compared, such as by "
            "'centered_pearson' or 'spearman'."
        )
    return entry


def _stack_of(data: object, by: Sequence[str], how: Reading, name: str) -> xr.DataArray:
    """RSMs or RDMs (..., anchor, neighbor) as given, or of recordings, one per label of units."""
    if not isinstance(data, xr.DataArray):
        raise DTypeError(
            f"{name} must be labelled, an xarray.DataArray with stimulus ids or a mapping of "
            f"names to such, got {type(data).__name__}. Files are read with `softrsa.load`."
        )
    if "anchor" in data.dims:
        return check_rdms(data, name=name)
    if "trial" in data.dims:
        raise DataError(
            f"{name} holds single trials: average them with `softrsa.recordings.average_trials`, "
            "or make RDMs of them with `softrsa.rsm.build_rdms`."
        )
    there = labels_along(data, "unit")
    kept = [label for label in by if label in there]
    return build_rsms(data, by=kept, similarity=how.similarity, dtype=torch.float64)


def model_stack(models: Labelled, how: Reading) -> xr.DataArray:
    """Models (layer, [time,] anchor, neighbor), from a mapping too."""
    if not isinstance(models, Mapping):
        stack = _stack_of(models, [how.by], how, "The models' array")
    else:
        parts = [_stack_of(one, [], how, f"Model {name!r}") for name, one in models.items()]
        if not parts:
            raise DataError("No model given: the mapping is empty.")
        parts = _one_kind(_to_common(parts, how.join))
        stack = xr.concat(parts, pd.Index([*map(str, models)], name="layer"), join="exact")
        stack = stack.assign_attrs(kind=parts[0].attrs["kind"])
    leading = [str(dim) for dim in stack.dims[:-2] if dim != "time"]
    if len(leading) > 1:
        raise ShapeError(
            f"Models must have one dimension beside time, anchor and neighbor, got {stack.dims}: "
            f"say which holds the models with `by={leading[-1]!r}`, or select from or average over "
            f"the others of {listed(leading)}."
        )
    return stack.transpose(*leading, ..., "anchor", "neighbor")


def _region_stacks(regions: Labelled, how: Reading) -> dict[str, xr.DataArray]:
    """Movies (subject, time, anchor, neighbor) by region."""
    if isinstance(regions, Mapping):
        if not regions:
            raise DataError("No region given: the mapping is empty.")
        return {str(name): _subject_stack(one, how, str(name)) for name, one in regions.items()}
    if not isinstance(regions, xr.DataArray):
        return {"brain": _subject_stack(regions, how)}
    stack = _stack_of(regions, [how.region, how.subject], how, "The recordings")
    if how.region not in stack.dims:
        return {"brain": _subject_stack(stack, how)}
    names = _names(stack, how.region)
    parts = (stack.isel({how.region: i}, drop=True) for i in range(len(names)))
    return {name: _subject_stack(one, how, name) for name, one in zip(names, parts, strict=True)}


def _subject_stack(data: Labelled, how: Reading, name: str = "brain") -> xr.DataArray:
    """Give one region's movie (subject, time, anchor, neighbor); from a list, one per subject."""
    if isinstance(data, (list, tuple)):
        data = _of_subjects(data, how, name)
    stack = _stack_of(data, [how.subject], how, f"Region {name!r}")
    if "time" not in stack.dims:
        raise ShapeError(
            f"Region {name!r} has no dimension `time`, only {stack.dims}. Recordings over time are "
            "(stimulus, unit, time), RDM movies (..., time, anchor, neighbor); without time, use "
            "`softrsa.align` or `softrsa.inference.evaluate`."
        )
    others = {*map(str, stack.dims)} - {how.subject, "time", "anchor", "neighbor"}
    if others:
        raise ShapeError(
            f"Region {name!r} has RDMs by {listed(sorted(others))} beside subject and time: select "
            f'from or average over these first, e.g. `stack.mean("{min(others)}")`.'
        )
    if how.subject not in stack.dims:
        stack = stack.expand_dims({how.subject: ["subject 1"]})
    _check_times(stack["time"].values, name)
    return stack.transpose(how.subject, "time", "anchor", "neighbor")


def _of_subjects(data: Sequence[xr.DataArray], how: Reading, name: str) -> xr.DataArray:
    """Put movies of one subject each together."""
    parts = [
        _stack_of(one, [], how, f"Region {name!r}, subject {i + 1},")
        for i, one in enumerate(data)
    ]  # fmt: skip
    if not parts:
        raise DataError(f"Region {name!r} has no subject: the list is empty.")
    for i, part in enumerate(parts):
        own, first = (np.asarray(one["time"].values) if "time" in one.dims else np.empty(0)
                      for one in (part, parts[0]))  # fmt: skip
        if not np.array_equal(own, first):
            raise DataError(
                f"All subjects of region {name!r} need the same times: subject 1 has "
                f"{_span(first)}, subject {i + 1} has {_span(own)}. Select common ones, e.g. with "
                "`.sel(time=...)`, or bring them to common ones with `.interp(time=...)`."
            )
    parts = _one_kind(_to_common(parts, how.join))
    names = [f"subject {i + 1}" for i in range(len(parts))]
    stack = xr.concat(parts, pd.Index(names, name=how.subject), join="exact")
    return stack.assign_attrs(kind=parts[0].attrs["kind"])


def _span(times: np.ndarray) -> str:
    return f"{len(times)} from {times[0]:g} to {times[-1]:g}" if len(times) else "none"


def _check_times(times: np.ndarray, name: str) -> None:
    if times.dtype.kind not in "iuf" or not np.isfinite(times).all() or (np.diff(times) <= 0).any():
        raise DataError(
            f"The times of region {name!r} must be numbers that increase, got {listed(times, 4)}; "
            "sort by them: `array.sortby('time')`."
        )


def _to_common(
    parts: Sequence[xr.DataArray], join: Literal["exact", "intersection"]
) -> list[xr.DataArray]:
    """Bring all stacks to the stimuli of the first, in its order, or to those that all share."""
    shared = reduce(lambda kept, one: join_stimuli(kept, one, how=join)[0], parts)
    return [join_stimuli(shared, one, how=join)[1] for one in parts]


def _one_kind(parts: Sequence[xr.DataArray]) -> list[xr.DataArray]:
    """Leave stacks of one kind as they are; of both kinds, make all of them RSMs."""
    kinds = {part.attrs["kind"] for part in parts}
    return [*parts] if len(kinds) == 1 else [to_rsm(part) for part in parts]


def _joined(parts: Sequence[xr.DataArray], entry: Measure, how: Reading) -> list[xr.DataArray]:
    """Bring all stacks to common stimuli, one kind, and under the transform."""
    common = _one_kind(_to_common(parts, how.join))
    n = common[0].sizes["anchor"]
    if n < max(FEWEST_STIMULI, entry.smallest_n):
        raise StimulusError(
            f"{entry.name!r} over time needs at least {max(FEWEST_STIMULI, entry.smallest_n)} "
            f"stimuli, got {n}."
        )
    module = _fixed(how.transform)
    return common if module is None else [_transformed(to_rsm(part), module) for part in common]


def _fixed(transform: TransformLike) -> nn.Module | None:
    """Give the module of a transform without fit; None for the identity."""
    chain = as_chain(transform)

    def refuse() -> object:
        raise DataError(
            f"{chain.name!r} is fitted to stimuli of its own, and all times are scored on all "
            "stimuli here: take 'identity', 'centered' or a module of your own, or fit it at one "
            "time with `softrsa.align(layers, movie.sel(time=...))`."
        )

    if chain.name == "identity":
        return None
    if chain.units is not None or chain.rsms.fit is None:
        refuse()
    fit = chain.rsms.fit
    return fit(refuse) if fit else None  # type: ignore[arg-type]


@torch.no_grad()
def _transformed(stack: xr.DataArray, module: nn.Module) -> xr.DataArray:
    """Put RSMs through a module that takes (k, n, n)."""
    squares = as_double(torch.from_numpy(np.array(stack.values)))
    found = module(squares.flatten(0, -3)) if squares.ndim > 2 else module(squares[None])[0]
    return stack.copy(data=found.view(squares.shape).cpu().numpy())


def _names(stack: xr.DataArray, dim: str) -> tuple[str, ...]:
    if dim in stack.coords:
        return tuple(str(name) for name in stack[dim].values)
    return tuple(f"{dim} {i + 1}" for i in range(stack.sizes[dim]))


def _squares(stack: xr.DataArray, entry: Measure) -> Tensor:
    """Take values in float64; minus dissimilarities where the measure compares kernels."""
    squares = as_double(torch.from_numpy(np.array(stack.values)))
    return -squares if entry.takes == "kernels" and stack.attrs["kind"] == "rdm" else squares


def _movie(stack: xr.DataArray, name: str, entry: Measure) -> Movie:
    """Take one region's values, without subjects of whom nothing is there."""
    dim = str(stack.dims[0])
    squares, subjects = _squares(stack, entry), np.array(_names(stack, dim), dtype=object)
    n = squares.shape[-1]
    apart = ~torch.eye(n, dtype=torch.bool)
    there = ~squares[..., apart].isnan().all(-1)
    partly = there.any(1) & ~there.all(1)
    if bool(partly.any()):
        who = int(partly.nonzero()[0])
        lost = (~there[who]).nonzero().flatten().numpy()
        raise DataError(
            f"All subjects of region {name!r} need all times: {subjects[who]!r} has no RDM at "
            f"{counted(len(lost), 'time')} of {there.shape[1]} "
            f"({listed(stack['time'].values[lost], 3)}). Select the times that all have, or leave "
            "the subject out."
        )
    kept = there.all(1)
    if not bool(kept.any()):
        raise DataError(f"Region {name!r} is empty: no subject has an RDM in it.")
    return Movie(squares[kept], tuple(subjects[kept.numpy()]), np.asarray(stack["time"].values))


def without_missing(
    entry: Measure, models: Tensor, movie: Tensor, name: str
) -> tuple[Measure, Tensor, Tensor, int]:
    """Leave out of all RSMs, at all times, the pairs that one of them misses (NaN).

    Gives a measure that leaves them out, both sides, and how many pairs these are.
    """
    held = held_pairs(models, movie)
    n = held.shape[-1]
    n_missing = (n * (n - 1) - int(held.sum())) // 2
    if not n_missing:
        return entry, models, movie, 0
    check_leaves_out(entry, f"the models or region {name!r}")
    if int(held.sum()) < 2 * entry.smallest_n:
        raise DataError(
            f"A pair missing (NaN) in one RSM at one time is left out of all, and of "
            f"{n * (n - 1) // 2} pairs {int(held.sum()) // 2} are left in region {name!r}."
        )
    gaps = ~held & ~torch.eye(n, dtype=torch.bool)
    models, movie = (side.masked_fill(gaps, torch.nan) for side in (models, movie))
    return on_held_pairs(entry), models, movie, n_missing


def over_time(
    able: Measure, entry: Measure, models: Tensor, movie: Tensor
) -> tuple[Tensor, Tensor]:
    """Scores (n_models, n_subjects, n_times) of models (m, n, n) with RSMs (s, t, n, n).

    Also lower and upper noise ceilings (2, n_subjects, n_times). ``able`` leaves out missing pairs
    where ``entry`` does not.
    """
    scores, ceilings = [], []
    for some in times_at_once(movie):
        part = movie[:, some]
        embed = able.embed
        if embed is None:
            scores.append(torch.stack([able.between(one, part) for one in models]))
            ceilings.append(_ceilings(entry, part))
            continue
        own = embed.unit(able.pairs_of(models))
        units = embed.unit(able.pairs_of(part))
        scores.append(torch.einsum("mp,stp->mst", own, units).clamp_(*able.range))
        pooled = embed.of != "ranks" and embed.offsets != "whitened"
        ceilings.append(_ceilings_of_units(units) if pooled else _ceilings(entry, part))
    return torch.cat(scores, -1), torch.cat(ceilings, -1)


def times_at_once(movie: Tensor) -> Iterator[slice]:
    """Split times into stretches that stay in the processor's cache."""
    n_subjects, n_times, n, _ = movie.shape
    size = max(1, int(CHUNK_BYTES / (8 * n * n * n_subjects)))
    for start in range(0, n_times, size):
        yield slice(start, min(start + size, n_times))


def _ceilings(entry: Measure, part: Tensor) -> Tensor:
    """Noise ceilings (2, n_subjects, n_times) of RSMs (s, t, n, n)."""
    pool = "normalized" if entry.normalize else "raw"
    return torch.stack([*noise_ceiling(part.transpose(0, 1), entry, pool=pool)]).transpose(1, 2)


def _ceilings_of_units(units: Tensor) -> Tensor:
    """Noise ceilings (2, n_subjects, n_times) of vectors (s, t, p) whose products are scores."""
    by_time = units.transpose(0, 1)
    among = by_time @ by_time.mT
    everyone = torch.ones_like(among[..., 0])
    if units.shape[0] < 2:
        return everyone.mT.mul(torch.nan).expand(2, -1, -1)
    alone = torch.eye(len(units)).to(among)
    empty = everyone[:, :0]
    forms = Forms(empty, empty, among, empty, empty, empty)
    return torch.stack(form_ceilings(forms, forms, alone, everyone)).transpose(1, 2)
