"""Inter-subject RSA: whether subjects who behave alike have brains that respond alike."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import torch
import xarray as xr
from torch import Tensor

from softrsa._checks import check_floating
from softrsa._files import StoredResult
from softrsa.errors import DataError, ShapeError, StimulusError, unknown_name
from softrsa.inference.pair_table import FEWEST_STIMULI, find_measure, stack_subjects, unlabeled
from softrsa.inference.permutation import permutation_test
from softrsa.inference.result import SCHEMA, versions
from softrsa.measures import Measure

WAYS = ("nearest_neighbor", "anna_karenina")


def intersubject_rsm(
    subjects_rsms: Tensor | xr.DataArray,
    measure: str | Measure | Callable[[Tensor, Tensor], Tensor] = "pearson",
) -> Tensor:
    """Similarity of every two subjects: the score of one's RSM with the other's.

    Parameters
    ----------
    subjects_rsms : Tensor or DataArray, shape (n_subjects, n_stimuli, n_stimuli) or condensed
        RSMs or RDMs of each subject; see `softrsa.inference.evaluate`.
    measure : str, Measure or callable
        Of RSMs, symmetric.

    Returns
    -------
    Tensor, shape (n_subjects, n_subjects)
        Float64, symmetric; 1 on the diagonal for correlations. NaN with a subject whose RSM is
        constant.

    Raises
    ------
    DTypeError, ShapeError, DataError, UnknownNameError
        As `softrsa.inference.noise_ceiling`; DataError also if the measure is not symmetric.

    Notes
    -----
    Pairs of stimuli that one subject lacks are left out of all.

    Examples
    --------
    >>> rsms = torch.tensor([[1.0, 2.0, 3.0, 5.0, 4.0, 6.0], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]])
    >>> round(float(intersubject_rsm(rsms)[0, 1]), 3)
    0.943
    """
    entry = find_measure(measure)
    if not entry.symmetric:
        raise DataError(
            f"The similarity of two subjects must not depend on their order, and {entry.name!r} is "
            "not symmetric. Use a correlation, such as 'pearson'."
        )
    if isinstance(subjects_rsms, xr.DataArray):
        subjects_rsms = unlabeled(subjects_rsms, entry)
    stack = stack_subjects(subjects_rsms, entry)
    rows = stack.of_subjects
    rows = stack.squares(rows) if entry.on_squares else rows
    found = torch.stack([entry(one[None], rows) for one in rows])
    return (found + found.mT) / 2


def behavior_rsm(
    scores: Tensor, model: Literal["nearest_neighbor", "anna_karenina"] = "nearest_neighbor"
) -> Tensor:
    r"""Similarity of every two subjects' behavior, by how they are thought to be alike.

    .. math:: -\lVert b_i - b_j\rVert \quad\text{(nearest neighbor)}, \qquad
              \tfrac12 (b_i + b_j) \quad\text{(Anna Karenina)}

    Parameters
    ----------
    scores : Tensor, shape (n_subjects,) or (n_subjects, n_scores)
        Of behavior; several for nearest neighbors only, all in one unit. For ranks give ranks.
    model : {"nearest_neighbor", "anna_karenina"}
        Subjects with near scores are alike; or all with high scores are alike, and each with a low
        one is different in its own way (the reverse, if the correlation is negative).

    Returns
    -------
    Tensor, shape (n_subjects, n_subjects)
        Float64, in the unit of the scores, larger is more alike.

    Raises
    ------
    DTypeError
        If ``scores`` is not float32 or float64.
    ShapeError
        If it has another shape.
    DataError
        If a score is not finite.
    UnknownNameError
        If there is no such model.

    References
    ----------
    Finn et al. (2020), doi:10.1016/j.neuroimage.2020.116828.

    Examples
    --------
    >>> scores = torch.tensor([1.0, 2.0, 4.0])
    >>> behavior_rsm(scores)[0].tolist()
    [0.0, -1.0, -3.0]
    >>> behavior_rsm(scores, "anna_karenina")[0].tolist()
    [1.0, 1.5, 2.5]
    """
    if model not in WAYS:
        raise unknown_name("model of subjects", model, WAYS)
    check_floating(scores=scores)
    table = scores.detach().double()
    table = table[:, None] if table.ndim == 1 else table
    if table.ndim != 2 or (model == "anna_karenina" and table.shape[1] != 1):
        wanted = "(n_subjects,)" + " or (n_subjects, n_scores)" * (model == "nearest_neighbor")
        raise ShapeError(
            f"`scores` must have shape {wanted} for {model!r}, got {tuple(scores.shape)}."
        )
    if not bool(table.isfinite().all()):
        lost = (~table.isfinite().all(1)).nonzero().flatten().tolist()
        raise DataError(f"Scores of the subjects {lost} are not finite; leave these out.")
    if model == "anna_karenina":
        return (table + table.T) / 2
    return 0.0 - (table[:, None] - table).norm(dim=-1)


@dataclass(frozen=True)
class IntersubjectResult(StoredResult):
    """Whether the similarity of subjects' behavior goes with that of their brains.

    Attributes
    ----------
    data : Dataset
        `score`, `p`, `p_fwer` (region, model) and `permuted_score` (region, permutation, model).
        `attrs` hold measure, seed, numbers and versions.

    Examples
    --------
    >>> rng = torch.Generator().manual_seed(0)
    >>> behavior = behavior_rsm(torch.rand(12, generator=rng))
    >>> result = intersubject_rsa(behavior, behavior, n_permutations=99)
    >>> result.table[["region", "model", "score", "p"]].values.tolist()
    [['region 1', 'model 1', 1.0, 0.01]]
    """

    data: xr.Dataset
    _kind = "intersubject_result"
    _what = "result of `intersubject_rsa`"

    @property
    def warnings(self) -> list[str]:
        """What a reader of the scores must know before believing them."""
        return json.loads(self.data.attrs["warnings"])

    @property
    def table(self) -> pd.DataFrame:
        """One row per region and model of behavior.

        Returns
        -------
        DataFrame
            `region`, `model`, `score`, `p` of the permutation test, `p_fwer`, which holds the
            family-wise error rate over models in a region (not over regions), and `n_subjects`.
        """
        names = ["score", "p", "p_fwer"]
        table = self.data[names].to_dataframe(dim_order=["region", "model"]).reset_index()
        table["n_subjects"] = self.data.attrs["n_subjects"]
        return table[["region", "model", *names, "n_subjects"]]


def intersubject_rsa(
    brains: Tensor | xr.DataArray,
    behavior: Tensor | xr.DataArray,
    *,
    measure: str | Measure | Callable[[Tensor, Tensor], Tensor] = "spearman",
    control: Tensor | xr.DataArray | None = None,
    n_permutations: int = 1000,
    two_sided: bool = False,
    seed: int = 0,
    names: Sequence[str] | None = None,
) -> IntersubjectResult:
    r"""Compare similarities of subjects' brains with those of their behavior, by a Mantel test.

    Subjects are permuted, rows and columns together, and :math:`p = (1 + \#\{\text{permuted} \ge
    \text{observed}\}) / (1 + n)`. Pairs of subjects are not independent, subjects are: a test that
    takes pairs for independent would find too much.

    Parameters
    ----------
    brains : Tensor, shape (n_subjects, n_subjects) or (n_regions, ...), or DataArray
        How alike subjects' brains are, such as `intersubject_rsm` gives. Labelled with dims
        (..., anchor, neighbor) that hold subjects' ids, and ``attrs["kind"]`` "rsm" or "rdm".
    behavior : Tensor, shape (n_subjects, n_subjects) or (n_models, ...), or DataArray
        How alike their behavior is, such as `behavior_rsm` gives; labelled ones are joined by id.
    measure : str, Measure or callable
        Of RSMs; Spearman's by default.
    control : Tensor or DataArray, optional
        Similarities that are held constant, such as those of age: a partial Mantel test. What it
        leaves of the behavior is permuted.
    n_permutations : int
        At least 1; the smallest p is 1 / (1 + n_permutations).
    two_sided : bool
        Whether absolute scores are compared, as where it is not known which scores of an "Anna
        Karenina" model are alike.
    seed : int
        Of the permutations; held in the result.
    names : sequence of str, optional
        What to call the models of behavior; by default their labels, or "model 1" and so on.

    Returns
    -------
    IntersubjectResult
        With `table`, `to_netcdf(path)`. NaN, with a warning, for a constant RSM.

    Raises
    ------
    DTypeError, ShapeError, DataError, UnknownNameError
        As `softrsa.inference.permutation_test`; ShapeError also for matrices that are not square
        and for fewer than 4 subjects.
    StimulusError
        If labelled matrices differ in their subjects, or only one side is labelled.

    References
    ----------
    Finn et al. (2020), doi:10.1016/j.neuroimage.2020.116828; Mantel (1967), Cancer Research 27,
    209-220.

    Examples
    --------
    >>> rng = torch.Generator().manual_seed(0)
    >>> scores = torch.rand(20, generator=rng)
    >>> brains = behavior_rsm(scores + 0.3 * torch.rand(20, generator=rng))
    >>> result = intersubject_rsa(brains, behavior_rsm(scores), n_permutations=199)
    >>> bool(result.table["score"][0] > 0.5), float(result.table["p"][0])
    (True, 0.005)
    """
    matrices, regions = _regions(brains)
    _check_subjects(matrices, behavior, control)
    results = [
        permutation_test(
            behavior, one, measure, n_permutations=n_permutations, seed=seed, two_sided=two_sided,
            names=names, control=control,
        ).data
        for one in matrices
    ]  # fmt: skip
    variables = {
        "score": "score", "p": "p_permutation", "p_fwer": "p_permutation_fwer",
        "permuted_score": "permuted_score",
    }  # fmt: skip
    notes = [note for one in results for note in json.loads(one.attrs["warnings"])]
    kept = [note for note in dict.fromkeys(notes) if not note.startswith("One subject")]
    data = xr.Dataset(
        {
            new: xr.concat(
                [
                    one[old].mean("subject", skipna=False)
                    if "subject" in one[old].dims
                    else one[old]
                    for one in results
                ],
                "region",
            )
            for new, old in variables.items()
        }
    ).assign_coords(region=np.array(regions, dtype=object))
    first = results[0].attrs
    attrs = {
        "softrsa_schema": SCHEMA, "procedure": "intersubject_rsa", "measure": first["measure"],
        "control": first.get("control", ""), "seed": seed, "two_sided": int(two_sided),
        "n_permutations": n_permutations, "n_subjects": first["n_stimuli"],
        "warnings": json.dumps(kept), "versions": json.dumps(versions()),
    }  # fmt: skip
    return IntersubjectResult(data.assign_attrs(attrs))


def _regions(brains: Tensor | xr.DataArray) -> tuple[list[Tensor] | list[xr.DataArray], list[str]]:
    """Take the brains' matrices one by one, with their names."""
    if brains.ndim not in (2, 3) or brains.shape[-1] != brains.shape[-2]:
        raise ShapeError(
            "`brains` must be (n_subjects, n_subjects) or (n_regions, n_subjects, n_subjects), got "
            f"shape {tuple(brains.shape)}; `intersubject_rsm` makes such a matrix of subjects' "
            "RSMs."
        )
    if isinstance(brains, xr.DataArray):
        if brains.ndim == 2:
            return [brains], ["region 1"]
        dim = next(dim for dim in brains.dims if dim not in ("anchor", "neighbor"))
        labels = brains[dim].values.tolist()
        return [brains.isel({dim: i}, drop=True) for i in range(len(labels))], [*map(str, labels)]
    stack = brains if brains.ndim == 3 else brains[None]
    return [one[None] for one in stack], [f"region {i + 1}" for i in range(len(stack))]


def _check_subjects(
    brains: list[Tensor] | list[xr.DataArray],
    behavior: Tensor | xr.DataArray,
    control: Tensor | xr.DataArray | None,
) -> None:
    """Refuse matrices of other subjects, and too few subjects to permute."""
    first = brains[0]
    n = first.shape[-1]
    for name, given in (("behavior", behavior), ("control", control)):
        if given is None:
            continue
        if given.ndim not in (2, 3) or given.shape[-1] != n or given.shape[-2] != n:
            raise ShapeError(
                f"`{name}` must be (n_subjects, n_subjects), or several of these, with the {n} "
                f"subjects of `brains`, got shape {tuple(given.shape)}."
            )
        if isinstance(first, xr.DataArray) and isinstance(given, xr.DataArray):
            strange = np.setxor1d(first["anchor"].values, given["anchor"].values)
            if strange.size:
                raise StimulusError(
                    f"`brains` and `{name}` must hold the same subjects; {strange.size} are in one "
                    f"only, such as {strange[:3].tolist()}. Select the common ones with `.sel`."
                )
    if n < FEWEST_STIMULI:
        raise ShapeError(
            f"Inter-subject RSA permutes subjects, and needs at least {FEWEST_STIMULI}, got {n}."
        )
