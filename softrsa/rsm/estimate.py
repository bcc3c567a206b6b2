"""From labelled trials to labelled stacks of RDMs, freed of noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from softrsa._checks import resolve_device
from softrsa._wording import counted, listed
from softrsa.errors import DataError, ShapeError, SoftRSAError, UnknownNameError, unknown_name
from softrsa.io.schema import labels_along
from softrsa.recordings import precision_of, residual_covariance
from softrsa.recordings.covariance import METHODS as NOISE
from softrsa.recordings.covariance import CovarianceMethod
from softrsa.recordings.trials import as_tensor, checked_trials, group_means, groups, residuals
from softrsa.rsm.build import stack_parts, where
from softrsa.rsm.crossnobis import OVER, crossnobis, crossnobis_unbalanced
from softrsa.rsm.poisson import poisson_cv, poisson_kl
from softrsa.rsm.similarity import similarity_matrix

METHODS = ("crossnobis", "mahalanobis", "poisson", "poisson_cv")
CROSS_VALIDATED = ("crossnobis", "poisson_cv")
MAKE_FOLDS = 'make folds of repeats, `softrsa.recordings.to_folds(trials, 2)` with `fold="fold"`'


class _Plan(NamedTuple):
    """What to estimate, and which trial is of which stimulus and fold."""

    method: str
    noise: CovarianceMethod | None
    per_fold: bool
    over: Literal["shared", "all"]
    stimuli: Tensor
    folds: Tensor  # all 0 without cross-validation
    n_stimuli: int
    fold_names: list[str]
    prior: dict[str, float]
    device: torch.device


def build_rdms(
    trials: xr.DataArray,
    *,
    method: Literal["crossnobis", "mahalanobis", "poisson", "poisson_cv"] = "crossnobis",
    fold: str = "run",
    by: str | Sequence[str] | None = None,
    noise: CovarianceMethod | None = "shrinkage_diagonal",
    per_fold: bool = False,
    over: Literal["shared", "all"] = "shared",
    prior_lambda: float = 1.0,
    prior_weight: float = 0.1,
    device: str | torch.device = "cpu",
) -> xr.DataArray:
    r"""Distances between stimuli from single trials, one RDM per region, subject and time.

    ==============  ===========================================================================
    `crossnobis`    cross-validated Mahalanobis distance: `softrsa.rsm.crossnobis`
    `mahalanobis`   squared distance of stimulus means under the noise precision, per unit
    `poisson`       symmetrized divergence of mean spike counts: `softrsa.rsm.poisson_kl`
    `poisson_cv`    the same, cross-validated: `softrsa.rsm.poisson_cv`
    ==============  ===========================================================================

    Parameters
    ----------
    trials : DataArray, dims (trial, unit) or (trial, unit, time)
        Responses, float32 or float64, with a coordinate `stimulus` on `trial`.
    method : str
        A name of the table above.
    fold : str
        For `crossnobis` and `poisson_cv`, the coordinate on `trial` whose labels are the folds.
        Trials of a stimulus are averaged within it.
    by : str or sequence of str, optional
        Coordinates on `unit` whose labels get an RDM each, such as ``("region", "subject")``; one
        RDM of all units by default.
    noise : {"shrinkage_diagonal", "shrinkage_identity", "diagonal", "full"}, optional
        For `crossnobis` and `mahalanobis`, how to estimate the noise covariance of each region,
        subject and time from trials less the mean of their stimulus, as
        `softrsa.recordings.noise_precision` does. None takes plain squared distances.
    per_fold : bool
        For `crossnobis`, whether each fold has a noise covariance of its own, from trials less the
        mean of their stimulus in that fold, which takes several trials of a stimulus there.
    over : {"shared", "all"}
        What `crossnobis` averages where folds lack stimuli: see
        `softrsa.rsm.crossnobis_unbalanced`. ``"all"`` weights folds by their trials.
    prior_lambda, prior_weight : float
        For `poisson` and `poisson_cv`, the rate expected beforehand, in the unit of ``trials``, and
        how many trials it counts for: see `softrsa.rsm.poisson_kl`.
    device : str or torch.device
        Where to compute; ``"auto"`` takes CUDA where there is one.

    Returns
    -------
    DataArray, dims (\*by, [time,] anchor, neighbor)
        RDMs, exactly symmetric, 0 on the diagonal, with ``attrs["kind"] = "rdm"`` and the method,
        in the number type of ``trials``. Stimuli and labels are in order of first appearance; a
        combination of labels without units is NaN.

    Raises
    ------
    DTypeError, ShapeError, StimulusError, DataError
        If the trials are not as `softrsa.io.check_trials` wants them.
    UnknownNameError
        If ``method``, ``noise`` or ``over`` is unknown, trials have no coordinate ``fold``, or
        units none of ``by``.
    ShapeError
        If there are fewer than 2 stimuli or folds, or ``per_fold`` meets a fold that lacks some.
    DataError
        If ``per_fold`` is asked for without crossnobis or noise, or
        if stimuli cannot be compared because too few folds have them, a noise covariance has no
        inverse, or a Poisson rate is not positive; the message names stimuli, or region and
        subject.
    DeviceError
        If CUDA is asked for and absent.

    Notes
    -----
    Computed in float64. The precision is that of single trials.

    References
    ----------
    Walther et al. (2016), doi:10.1016/j.neuroimage.2015.12.012.

    Examples
    --------
    >>> trials = xr.DataArray(
    ...     [[1.0, 5.0], [4.0, 2.0], [2.0, 5.5], [5.0, 1.0]],
    ...     dims=("trial", "unit"),
    ...     coords={
    ...         "stimulus": ("trial", ["face", "house", "face", "house"]),
    ...         "run": ("trial", [1, 1, 2, 2]),
    ...         "region": ("unit", ["V4", "IT"]),
    ...     },
    ... )
    >>> build_rdms(trials, by="region", noise=None).sel(region="IT").values
    array([[ 0. , 13.5],
           [13.5,  0. ]])
    """
    trials = checked_trials(trials)
    for kind, value, choices in (("method", method, METHODS), ("average (`over`)", over, OVER)):
        if value not in choices:
            raise unknown_name(kind, value, choices)
    if noise is not None and noise not in NOISE:
        raise unknown_name("noise covariance (`noise`)", noise, NOISE)
    if per_fold and (method != "crossnobis" or noise is None):
        raise DataError(f"`per_fold` is for crossnobis with noise, got {method=}, {noise=}.")
    stimuli, ids = groups(trials, "stimulus")
    if len(ids) < 2:
        raise ShapeError(f"The trials are of {len(ids)} stimulus; distances need at least 2.")
    folds, fold_names = torch.zeros_like(stimuli), []
    if method in CROSS_VALIDATED:
        if fold not in labels_along(trials, "trial"):
            raise _no_folds(trials, fold)
        folds, labels = groups(trials, fold)
        fold_names = [f"{fold} {label!r}" for label in labels]
        _check_folds(
            _counts(stimuli, folds), ids, fold, over if method == "crossnobis" else "shared"
        )
    target = resolve_device(device)
    plan = _Plan(
        method,
        noise,
        per_fold,
        over,
        stimuli.to(target),
        folds.to(target),
        len(ids),
        fold_names,
        {"prior_lambda": prior_lambda, "prior_weight": prior_weight},
        target,
    )
    names = (by,) if isinstance(by, str) else tuple(by or ())
    kind = torch.from_numpy(np.empty(0, trials.dtype)).dtype
    stack = stack_parts(
        trials, names, np.asarray(ids), lambda part, named: _named(part, named, plan), kind
    )
    attrs = {"kind": "rdm", "dissimilarity": method}
    if method in ("crossnobis", "mahalanobis"):
        attrs["noise"] = noise or "none"
    return stack.rename("dissimilarity").assign_attrs(attrs)


def _named(part: xr.DataArray, labels: Mapping[str, str], plan: _Plan) -> Tensor:
    """Compute the RDM of a part; its labels lead any message."""
    try:
        return _rdm(as_tensor(part).to(plan.device, torch.float64), plan)
    except SoftRSAError as error:
        if not labels:
            raise
        raise type(error)(f"In {where(labels).removeprefix(', ')}: {error}") from error


def _rdm(x: Tensor, plan: _Plan) -> Tensor:
    """Compute an RDM of ([time,] trial, unit)."""
    if plan.method in ("mahalanobis", "poisson"):
        means, _ = group_means(x, plan.stimuli, plan.n_stimuli)
        if plan.method == "poisson":
            return poisson_kl(means, **plan.prior)
        precision = _precision(x, plan)
        similarity = "sqeuclidean" if precision is None else "mahalanobis"
        return -similarity_matrix(means, similarity=similarity, precision=precision)
    shape = (len(plan.fold_names), plan.n_stimuli)
    means, counts = group_means(x, plan.folds * shape[1] + plan.stimuli, shape[0] * shape[1])
    means, counts = means.unflatten(-2, shape), counts.unflatten(0, shape)
    if plan.method == "poisson_cv":
        return poisson_cv(means, **plan.prior)
    return _crossnobis(means, counts, _precision(x, plan), plan)


def _crossnobis(means: Tensor, counts: Tensor, precision: Tensor | None, plan: _Plan) -> Tensor:
    if precision is not None and precision.ndim > 2 and not plan.per_fold:
        precision = precision.unsqueeze(-3)  # one for all folds
    if plan.over == "all" and not plan.per_fold:
        return crossnobis_unbalanced(means, precision, over="all", counts=counts)
    if bool((counts > 0).all()):
        return crossnobis(means, precision)
    if plan.per_fold:
        fold, _ = (counts == 0).nonzero()[0].tolist()
        raise ShapeError(
            f"`per_fold` needs every stimulus in every fold; {plan.fold_names[fold]} lacks "
            f"{int((counts[fold] == 0).sum())} of {plan.n_stimuli}. Take one noise covariance for "
            "all folds, or leave these stimuli out."
        )
    return crossnobis_unbalanced(means, precision)


def _precision(x: Tensor, plan: _Plan) -> Tensor | None:
    """Estimate the noise precision, of all trials or of each fold, ([time,] [fold,] p, p)."""
    if plan.noise is None:
        return None
    if not (plan.per_fold and plan.fold_names):
        rest, dof = residuals(x, plan.stimuli)
        return precision_of(residual_covariance(rest, method=plan.noise, dof=dof))
    each = []
    for code, name in enumerate(plan.fold_names):
        mine = plan.folds == code
        own = torch.unique(plan.stimuli[mine], return_inverse=True)[1]
        rest, dof = residuals(x[..., mine, :], own)
        try:
            each.append(precision_of(residual_covariance(rest, method=plan.noise, dof=dof)))
        except SoftRSAError as error:
            raise type(error)(f"{name}: {error}") from error
    return torch.stack(each, dim=-3)


def _no_folds(trials: xr.DataArray, fold: str) -> UnknownNameError:
    """Say which coordinates could be folds, and how folds are made."""
    error = unknown_name("trial coordinate", fold, labels_along(trials, "trial"))
    return UnknownNameError(f"{error} Where there are no runs or blocks, {MAKE_FOLDS}.")


def _counts(stimuli: Tensor, folds: Tensor) -> Tensor:
    """Count the trials of each stimulus in each fold, (fold, stimulus)."""
    shape = int(folds.max()) + 1, int(stimuli.max()) + 1
    return torch.bincount(folds * shape[1] + stimuli, minlength=shape[0] * shape[1]).reshape(shape)


def _check_folds(counts: Tensor, ids: list, fold: str, over: str) -> None:
    """Refuse designs in which a distance would be undefined."""
    if len(counts) < 2:
        raise ShapeError(
            f"Cross-validation needs at least 2 folds, all trials have one `{fold}`. Give another "
            f"coordinate as `fold`, {MAKE_FOLDS}, or take method='mahalanobis'."
        )
    present = (counts > 0).double()
    if over == "all":
        alone = (present.sum(0) < 2).nonzero()[:, 0].tolist()
        if alone:
            raise DataError(
                f"{counted(len(alone), 'stimulus is', 'stimuli are')} in one `{fold}` only "
                f"({listed(ids[i] for i in alone)}); cross-validation needs two. Leave them out, "
                f"or {MAKE_FOLDS}."
            )
        return
    pairs = (present.mT @ present < 2).triu(1).nonzero().tolist()
    if pairs:
        stimuli = listed(dict.fromkeys(ids[i] for pair in pairs for i in pair))
        raise DataError(
            f"{counted(len(pairs), 'pair')} of stimuli share fewer than two `{fold}`s, the first "
            f"{ids[pairs[0][0]]!r} and {ids[pairs[0][1]]!r} (of {stimuli}). Leave stimuli out, "
            f'{MAKE_FOLDS}, or for crossnobis compare them over="all" folds.'
        )
