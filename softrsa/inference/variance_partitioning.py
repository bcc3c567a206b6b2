"""Variance partitioning: what sets of model RSMs explain of brain RSMs, each alone and shared."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations
from math import factorial
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
import xarray as xr
from torch import Tensor

from softrsa._checks import check_floating
from softrsa._files import StoredResult
from softrsa.errors import DataError, ShapeError, StimulusError, unknown_name
from softrsa.inference.least_squares import (
    METHODS,
    choose_penalty,
    fit_held_out,
    fitted_shares,
    held_out_shares,
    resampled_means,
    spread,
    standardized,
    variance_inflation,
    with_intervals,
)
from softrsa.inference.pair_table import Stack, as_stack, stack_rsms
from softrsa.inference.regression import (
    as_labels,
    describe_fit,
    said_unusable,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_APART = 4  # sets of which every overlap is told
MOST_SETS = 10  # of which all subsets are fitted


class Part(NamedTuple):
    """A row of the table: a sum of the variances that subsets of the sets explain."""

    name: str
    kind: str
    weights: np.ndarray  # (n_subsets,)


@dataclass(frozen=True)
class PartitionResult(StoredResult):
    """Variance of brain RSMs that sets of model RSMs explain, alone and together.

    Attributes
    ----------
    data : Dataset
        `explained` (subset, subject), the variance that every subset of the sets explains;
        `part_variance` (part, subject), `part_kind` (part), `part_se` (part) and `resampled_part`
        (kind, resample, part); `vif` (predictor). `attrs` hold the sets, method, folds, seed and
        versions.

    Examples
    --------
    >>> rng = torch.Generator().manual_seed(0)
    >>> a, b = torch.rand(2, 435, generator=rng)
    >>> brains = a + b + torch.rand(5, 435, generator=rng)
    >>> result = partition_variance({"a": a, "b": b}, brains, n_resamples=100)
    >>> result.table[["part", "kind"]].values.tolist()
    [['a', 'unique'], ['b', 'unique'], ['a & b', 'shared'], ['all', 'total']]
    """

    data: xr.Dataset
    _kind = "partition_result"
    _what = "result of `partition_variance`"

    @property
    def warnings(self) -> list[str]:
        """What a reader of the shares must know before believing them."""
        return json.loads(self.data.attrs["warnings"])

    @property
    def table(self) -> pd.DataFrame:
        """One row per part of the variance; unique and shared ones add up to the total.

        Returns
        -------
        DataFrame
            `part`, its `kind` (unique, shared, total; of more than 4 sets unique, shapley, total),
            `variance` (mean over subjects, as a share of the variance of their RSMs), bootstrapped
            standard error `se`, 95 % interval `ci_low`, `ci_high`, and counts. Parts may be below
            0: shared ones where predictors suppress each other, all of them where they are held
            out and there is nothing to explain.
        """
        data = self.data
        value = data["part_variance"].mean("subject", skipna=False).values
        columns = {
            "part": data["part"].values, "kind": data["part_kind"].values, "variance": value,
            **with_intervals(value, data["part_se"].values, int(data.attrs["df"])),
            "n_subjects": data.sizes["subject"], "n_stimuli": data.attrs["n_stimuli"],
        }  # fmt: skip
        return pd.DataFrame(columns)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw unique and shared variance as bars with their intervals."""
        from softrsa.reports.regression_figures import plot_partition

        return plot_partition(self.table, held_out=bool(self.data.attrs["folds"]), ax=ax)

    def plot_venn(self, ax: Axes | None = None) -> Axes:
        """Draw the parts of two or three sets as overlapping circles, with numbers in percent."""
        from softrsa.reports.regression_figures import plot_venn

        return plot_venn(self.table, json.loads(self.data.attrs["sets"]), ax=ax)


def partition_variance(
    predictor_sets: Mapping[str, Tensor | xr.DataArray],
    subjects_rsms: Tensor | xr.DataArray,
    *,
    method: Literal["ols", "nnls", "ridge"] = "ols",
    folds: int | None = 5,
    over: Literal["stimuli", "subjects", "both"] | None = None,
    n_resamples: int = 1000,
    seed: int = 0,
) -> PartitionResult:
    r"""Partition the variance of subjects' RSMs among sets of model RSMs.

    Regressions on all subsets of the sets are fitted. With :math:`R^2(S)` the variance that the
    sets :math:`S` explain and :math:`A` all of them, what exactly the sets :math:`T` share is

    .. math:: C(T) = \sum_{U \subseteq T} (-1)^{|U| + 1} R^2\big((A \setminus T) \cup U\big)

    which for one set is unique to it; all of them add up to :math:`R^2(A)`. Of more than 4 sets the
    unique variance is given, and Shapley values: what a set adds, averaged over all orders in which
    the sets may be added, which add up to :math:`R^2(A)` as well.

    Parameters
    ----------
    predictor_sets : mapping of str to Tensor or DataArray
        2 to 10 sets, each one RSM or several: (n_stimuli, n_stimuli), (k, n_stimuli, n_stimuli),
        (n_pairs,) or (k, n_pairs), or a labelled stack.
    subjects_rsms : Tensor or DataArray
        Of each subject, of the same stimuli; see `softrsa.inference.evaluate`.
    method : {"ols", "nnls", "ridge"}
        See `softrsa.inference.regress_rdms`. A ridge's penalty is chosen for every subset and fold,
        on training stimuli.
    folds : int or None
        Parts of the stimuli, of at least 4 each: pairs within a part are predicted with the mean
        coefficients of the other subjects (of one subject, its own), fitted to pairs among all
        other stimuli. None explains the stimuli that were fitted, of each subject by its own
        coefficients, which grows with the number of predictors.
    over : {"stimuli", "subjects", "both"}, optional
        What intervals should hold for; by default both, and stimuli where there is one subject.
        What is held out is drawn anew, the fits of the folds stay as they are.
    n_resamples : int
        At least 2.
    seed : int
        Of the parts and draws; held in the result.

    Returns
    -------
    PartitionResult
        With `table`, `plot()`, `plot_venn()`, `to_netcdf(path)`.

    Raises
    ------
    DTypeError, ShapeError, StimulusError, DataError, UnknownNameError
        As `softrsa.inference.regress_rdms`; DataError also for fewer than 2 or more than 10 sets.

    Notes
    -----
    The variance explained on held-out stimuli is that of each subject's RSM less its mean in the
    part and divided by its standard deviation over all pairs; errors are summed over parts.

    References
    ----------
    Nimon et al. (2008), doi:10.3758/BRM.40.2.457; Groen et al. (2018), doi:10.7554/eLife.32962;
    Lindeman, Merenda & Gold (1980), Introduction to bivariate and multivariate analysis.

    Examples
    --------
    >>> rng = torch.Generator().manual_seed(0)
    >>> pixels, shape = torch.rand(2, 435, generator=rng)
    >>> brains = pixels + 2 * shape + torch.rand(5, 435, generator=rng)
    >>> sets = {"pixels": pixels, "shape": shape}
    >>> result = partition_variance(sets, brains, n_resamples=100)
    >>> result.table["variance"].round(1).tolist()
    [0.2, 0.7, 0.1, 0.9]
    """
    if method not in METHODS:
        raise unknown_name("method of regression", method, METHODS)
    models, members = _gathered(predictor_sets, labelled=isinstance(subjects_rsms, xr.DataArray))
    stack = stack_rsms(models, subjects_rsms, "pearson", [one for each in members for one in each])
    over = over or ("both" if stack.n_subjects > 1 else "stimuli")
    values = standardized(stack, [*stack.models, *stack.subjects])
    vif = variance_inflation(values[: stack.n_models], stack.models)
    notes: list[str] = []
    names = list(predictor_sets)
    subsets = _subsets(len(names))
    columns = _columns(subsets, list(map(len, members)))
    parts = _parts(names, subsets)
    mixing = torch.tensor(np.array([part.weights for part in parts])).to(values)
    shares = _shares(stack, values, columns, method=method, folds=folds, seed=seed)

    def of_stimuli(counts: Tensor) -> Tensor:
        return torch.einsum("pk,rks->rps", mixing, shares(counts))

    explained = shares(values.new_ones(1, stack.n_stimuli))[0]
    resampled = resampled_means(of_stimuli, stack, over, n_resamples, seed)
    error, usable, df = spread(
        resampled, over, n_subjects=stack.n_subjects, n_stimuli=stack.n_stimuli
    )
    notes += said_unusable(usable)
    if folds is None:
        notes.append("Variance is of the stimuli that were fitted, which favors many predictors.")
    data = xr.Dataset(
        {
            "explained": (("subset", "subject"), explained.cpu().numpy()),
            "part_variance": (("part", "subject"), (mixing @ explained).cpu().numpy()),
            "part_kind": ("part", as_labels([part.kind for part in parts])),
            "part_se": ("part", error),
            "resampled_part": (("kind", "resample", "part"), resampled),
            "vif": ("predictor", vif.cpu().numpy()),
        },
        {
            "subset": as_labels([" + ".join(names[i] for i in subset) for subset in subsets]),
            "part": as_labels([part.name for part in parts]),
            "predictor": as_labels(stack.models), "subject": as_labels(stack.subjects),
        },
    )  # fmt: skip
    settings = {
        "method": method, "folds": folds or 0, "df": df, "sets": json.dumps(names),
        "procedure": "partition_variance",
    }  # fmt: skip
    return PartitionResult(data.assign_attrs(settings | describe_fit(stack, over, seed, notes)))


class _Shares(NamedTuple):
    """Gives variance explained (r, subsets, s) where stimuli occur so often (r, n)."""

    stack: Stack
    values: Tensor
    columns: list[tuple[int, ...]]
    method: str
    penalties: dict[tuple[int, ...], float]
    fits: list | None

    def __call__(self, counts: Tensor) -> Tensor:
        if self.fits is None:
            found = fitted_shares(
                self.stack, self.values, self.columns, counts,
                method=self.method, penalties=self.penalties,
            )  # fmt: skip
        else:
            found = held_out_shares(self.stack, self.values, self.fits, counts)
        return torch.stack([found[some] for some in self.columns], 1)


def _shares(
    stack: Stack,
    values: Tensor,
    columns: list[tuple[int, ...]],
    *,
    method: str,
    folds: int | None,
    seed: int,
) -> _Shares:
    """Fit what is to be fitted once."""
    fits, penalties = None, {}
    if folds is not None:
        fits = fit_held_out(stack, values, columns, folds=folds, method=method, seed=seed)
    elif method == "ridge":
        everything = torch.arange(stack.n_stimuli)
        penalties = {
            some: choose_penalty(stack, values, some, everything, seed) for some in columns
        }
    return _Shares(stack, values, columns, method, penalties, fits)


def _subsets(n_sets: int) -> list[tuple[int, ...]]:
    """List all subsets but the empty one, small ones first."""
    sizes = (combinations(range(n_sets), size) for size in range(1, n_sets + 1))
    return list(chain.from_iterable(sizes))


def _columns(subsets: list[tuple[int, ...]], sizes: list[int]) -> list[tuple[int, ...]]:
    """Places of the predictors of each subset."""
    ends = np.cumsum([0, *sizes])
    return [tuple(i for k in subset for i in range(ends[k], ends[k + 1])) for subset in subsets]


def _parts(names: list[str], subsets: list[tuple[int, ...]]) -> list[Part]:
    """Rows of the table: every overlap of few sets, unique variance and Shapley values of many."""
    n, place = len(names), {subset: i for i, subset in enumerate(subsets)}

    def row(terms: Mapping[tuple[int, ...], float]) -> np.ndarray:
        weights = np.zeros(len(subsets))
        for subset, weight in terms.items():
            if subset:  # the empty one explains nothing
                weights[place[subset]] += weight
        return weights

    if n <= MOST_APART:
        told, others = subsets, []
    else:
        told = [(i,) for i in range(n)]
        others = [Part(names[i], "shapley", row(_shapley(i, n))) for i in range(n)]
    parts = [
        Part(
            " & ".join(names[i] for i in one),
            "unique" if len(one) == 1 else "shared",
            row(_overlap(one, n)),
        )
        for one in told
    ]
    return [*parts, *others, Part("all", "total", row({tuple(range(n)): 1.0}))]


def _overlap(one: tuple[int, ...], n: int) -> dict[tuple[int, ...], float]:
    """Weights of subsets in what exactly these sets share."""
    rest = set(range(n)) - set(one)
    inner = chain.from_iterable(combinations(one, size) for size in range(len(one) + 1))
    return {tuple(sorted(rest | set(some))): (-1.0) ** (len(some) + 1) for some in inner}


def _shapley(i: int, n: int) -> dict[tuple[int, ...], float]:
    """Weights of subsets in what a set adds, averaged over all orders."""
    others = [j for j in range(n) if j != i]
    found: dict[tuple[int, ...], float] = {}
    for before in chain.from_iterable(combinations(others, size) for size in range(n)):
        weight = factorial(len(before)) * factorial(n - len(before) - 1) / factorial(n)
        found[tuple(sorted((*before, i)))] = weight
        found[before] = found.get(before, 0.0) - weight
    return found


Gathered = tuple[Tensor | xr.DataArray, list[list[str]]]


def _gathered(sets: Mapping[str, Tensor | xr.DataArray], *, labelled: bool) -> Gathered:
    """Put the RSMs of all sets into one stack, and name those of each set."""
    if not isinstance(sets, Mapping) or not 2 <= len(sets) <= MOST_SETS:
        found = len(sets) if isinstance(sets, Mapping) else type(sets).__name__
        raise DataError(
            f"`predictor_sets` must be a mapping from 2 to {MOST_SETS} names to RSMs, got {found}. "
            "Put RSMs that belong together into one set; a single set is for `regress_rdms`."
        )
    arrays = {name: one for name, one in sets.items() if isinstance(one, xr.DataArray)}
    tensors = {name: one for name, one in sets.items() if not isinstance(one, xr.DataArray)}
    if tensors if labelled else arrays:
        raise StimulusError(
            "All predictor sets and subjects must be labelled, or none: without labels on both "
            "sides stimuli cannot be matched. Take `torch.as_tensor(array.values)` of all."
        )
    return _of_arrays(arrays) if labelled else _of_tensors(tensors)


def _of_tensors(sets: Mapping[str, Tensor]) -> Gathered:
    stacks = {name: as_stack(one[None] if one.ndim == 1 else one) for name, one in sets.items()}
    check_floating(**stacks)
    shapes = {name: tuple(one.shape[1:]) for name, one in stacks.items()}
    if len({*shapes.values()}) > 1:
        found = ", ".join(f"{name!r} {shape}" for name, shape in shapes.items())
        raise ShapeError(f"All predictor sets must cover the same stimuli, alike; got {found}.")
    members = [_names(name, range(1, len(one) + 1)) for name, one in stacks.items()]
    return torch.cat([*stacks.values()]), members  # in the widest of their types


def _of_arrays(sets: Mapping[str, xr.DataArray]) -> Gathered:
    stacks = {name: _labelled(one, name) for name, one in sets.items()}
    members = []
    for name, one in stacks.items():
        dim = one.dims[0]
        members.append(_names(name, one[dim].values.tolist()))  # places, where it has no labels
    return _joined(stacks), members


def _names(name: str, labels: Sequence[object]) -> list[str]:
    return [name] if len(labels) == 1 else [f"{name} {label}" for label in labels]


def _labelled(one: xr.DataArray, name: str) -> xr.DataArray:
    """Check a stack, and give a single RSM a dimension before."""
    from softrsa.io import check_rdms

    one = check_rdms(one, name=name)
    if one.ndim > 3:
        raise ShapeError(
            f"Predictor set {name!r} must have one dimension before `anchor` and `neighbor`, got "
            f"{one.dims}."
        )
    return one.expand_dims("layer") if one.ndim == 2 else one


def _joined(stacks: Mapping[str, xr.DataArray]) -> xr.DataArray:
    """Bring labelled stacks to the stimuli of the first, and put them into one."""
    first = next(iter(stacks))
    ids, kind = stacks[first]["anchor"].values, stacks[first].attrs["kind"]
    arrays = []
    for name, one in stacks.items():
        strange = np.setxor1d(ids, one["anchor"].values)
        if strange.size:
            raise StimulusError(
                f"Predictor sets must hold the same stimuli; {strange.size} are in {first!r} or in "
                f"{name!r} only, such as {strange[:3].tolist()}. Select the common ones with "
                "`.sel`."
            )
        if one.attrs["kind"] != kind:
            raise DataError(
                f"{first!r} is of kind {kind!r}, {name!r} of kind "
                f"{one.attrs['kind']!r}; turn one into the other, e.g. 1 - correlation."
            )
        arrays.append(one.sel(anchor=ids, neighbor=ids).values)
    return xr.DataArray(
        np.concatenate(arrays), dims=("layer", "anchor", "neighbor"),
        coords={"anchor": ids, "neighbor": ids}, attrs={"kind": kind},
    )  # fmt: skip
