"""Scores of flexible models on stimuli and subjects they were not fitted on."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from softrsa._checks import check_floating
from softrsa._groups import Groups, deal_groups
from softrsa._ranks import average_ranks
from softrsa.errors import DataError, FitError, ShapeError, unknown_name
from softrsa.inference.noise_ceiling import noise_ceiling
from softrsa.inference.pair_table import (
    FEWEST_STIMULI,
    Labels,
    find_measure,
    stack_rsms,
    with_groups,
)
from softrsa.inference.result import InferenceResult, cautions, describe
from softrsa.measures import Measure
from softrsa.measures.correlation import centered
from softrsa.measures.rank import SOFT_STRENGTH
from softrsa.pairs import condense
from softrsa.transforms import soft_rank

KINDS = ("weighted", "select", "interpolate")
MOST_STEPS = 200


@dataclass(frozen=True)
class FlexibleModel:
    """Several RSMs and how they make one prediction; fitted in `crossvalidate` or by `fit`.

    Attributes
    ----------
    name : str
        What to call it.
    rsms : Tensor, shape (k, n_stimuli, n_stimuli)
        Square RSMs or RDMs, such as those of a network's layers.
    kind : {"weighted", "select", "interpolate"}
        A sum with non-negative weights; the best single one; or a mixture of two that follow each
        other, such as neighboring layers.
    """

    name: str
    rsms: Tensor
    kind: Literal["weighted", "select", "interpolate"] = "weighted"

    def __post_init__(self):
        check_floating(rsms=self.rsms)
        if self.kind not in KINDS:
            raise unknown_name("kind of model", self.kind, KINDS)
        if self.rsms.ndim != 3 or self.rsms.shape[-1] != self.rsms.shape[-2]:
            raise ShapeError(
                "`rsms` must be square, of shape (k, n_stimuli, n_stimuli), got "
                f"{tuple(self.rsms.shape)}."
            )
        if not torch.isfinite(self.rsms).all():
            raise DataError(f"All entries of the RSMs of {self.name!r} must be finite.")
        if self.kind == "interpolate" and len(self.rsms) < 2:
            raise ShapeError("A mixture of neighbors needs at least 2 RSMs, got 1.")

    def fit(
        self,
        subjects_rsms: Tensor,
        measure: str | Measure | Callable[[Tensor, Tensor], Tensor],
        *,
        stimuli: Tensor | None = None,
    ) -> Tensor:
        """Find the weights with the best mean score over subjects.

        Parameters
        ----------
        subjects_rsms : Tensor, shape (n_subjects, n_stimuli, n_stimuli)
            Square RSMs of the same stimuli as the model's.
        measure : str, Measure or callable
            Of RSMs.
        stimuli : Tensor of int, optional
            The training stimuli: only pairs among them are used. All by default.

        Returns
        -------
        Tensor, shape (k,)
            Weights in float64, none negative; of unit norm for "weighted", else of sum 1.

        Raises
        ------
        ShapeError
            If the stimuli differ in number.
        FitError
            If no weights give a defined score.
        UnknownNameError
            If there is no such measure.
        """
        entry = find_measure(measure)
        models, subjects = self._training_pairs(subjects_rsms, entry, stimuli)
        fit = {"weighted": _fit_weighted, "select": _fit_select, "interpolate": _fit_mixture}
        weights = fit[self.kind](models, subjects, entry)
        if not torch.isfinite(weights).all() or not weights.any():
            raise FitError(
                f"No weights of {self.name!r} give a defined score: its RSMs or the subjects' are "
                "constant among the training stimuli, or none of them is positively related."
            )
        return weights

    def fit_single(
        self,
        subjects_rsms: Tensor,
        measure: str | Measure | Callable[[Tensor, Tensor], Tensor],
        *,
        stimuli: Tensor | None = None,
    ) -> Tensor:
        """Choose the single best, or least bad, RSM; what is left where `fit` is impossible.

        Parameters
        ----------
        subjects_rsms, measure, stimuli
            As in `fit`.

        Returns
        -------
        Tensor, shape (k,)
            1 for the RSM with the best mean score over the subjects of whom it has one, 0 for the
            others; the first RSM where no score is defined.

        Raises
        ------
        ShapeError, UnknownNameError
            As `fit`.
        """
        entry = find_measure(measure)
        models, subjects = self._training_pairs(subjects_rsms, entry, stimuli)
        scores = entry.function(models[:, None], subjects).nanmean(1).nan_to_num(nan=-torch.inf)
        return _chosen(scores)

    def _training_pairs(
        self, subjects_rsms: Tensor, entry: Measure, stimuli: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """RSMs of the model and the subjects among training stimuli, as the measure takes them."""
        if subjects_rsms.shape[-2:] != self.rsms.shape[-2:]:
            raise ShapeError(
                f"{self.name!r} has {self.rsms.shape[-1]} stimuli, the subjects' RSMs have shape "
                f"{tuple(subjects_rsms.shape)}; they must cover the same stimuli."
            )
        chosen = torch.arange(self.rsms.shape[-1]) if stimuli is None else stimuli
        models, subjects = (
            entry.pairs_of(_within(rsms, chosen).double()) for rsms in (self.rsms, subjects_rsms)
        )
        return models, subjects

    def predict(self, weights: Tensor) -> Tensor:
        """Combine the RSMs: (n_stimuli, n_stimuli), in float64."""
        return torch.einsum("k,kij->ij", weights.double(), self.rsms.double())


def weighted_rsm_model(rsms: Tensor, *, name: str = "weighted") -> FlexibleModel:
    r"""Make a model that predicts a weighted sum of RSMs with weights fitted, none negative.

    For measures that are a cosine in some space (cosine, Pearson, whitened, centered) the weights
    are the non-negative least-squares solution there, towards the mean of the subjects' unit
    vectors, which is the best mean score; for others soft Spearman is ascended by its gradient.

    Parameters
    ----------
    rsms : Tensor, shape (k, n_stimuli, n_stimuli)
        Square RSMs or RDMs.
    name : str
        What to call it.

    Returns
    -------
    FlexibleModel
        To be fitted by `FlexibleModel.fit` or in `crossvalidate`.

    Raises
    ------
    DTypeError, ShapeError, DataError
        If the RSMs are not floating point, square, or finite.

    References
    ----------
    Khaligh-Razavi & Kriegeskorte (2014), doi:10.1371/journal.pcbi.1003915.

    Examples
    --------
    >>> from softrsa.pairs import expand
    >>> rsms = expand(torch.rand(3, 45, generator=torch.Generator().manual_seed(0)))
    >>> subject = 3 * rsms[0] + 4 * rsms[2]
    >>> weighted_rsm_model(rsms).fit(subject[None], "pearson").round(decimals=4).tolist()
    [0.6, 0.0, 0.8]
    """
    return FlexibleModel(name, rsms, "weighted")


def _within(rsms: Tensor, stimuli: Tensor) -> Tensor:
    return rsms[:, stimuli][:, :, stimuli]


def mean_scores(models: Tensor, subjects: Tensor, entry: Measure) -> Tensor:
    """Mean score over subjects of each model, both in the form the measure takes: (k,)."""
    return entry.function(models[:, None], subjects).mean(1)


def _fit_select(models: Tensor, subjects: Tensor, entry: Measure) -> Tensor:
    scores = mean_scores(models, subjects, entry).nan_to_num(nan=-torch.inf)
    return _chosen(scores) if torch.isfinite(scores).any() else torch.zeros_like(scores)


def _chosen(scores: Tensor) -> Tensor:
    """Weight 1 for the highest score, 0 for the others."""
    weights = torch.zeros_like(scores)
    weights[scores.argmax()] = 1.0
    return weights


def _fit_mixture(models: Tensor, subjects: Tensor, entry: Measure) -> Tensor:
    """Best share between two neighbors by bounded search, over all neighbors."""
    from scipy.optimize import minimize_scalar

    best, weights = -torch.inf, torch.zeros(len(models), dtype=torch.float64, device=models.device)
    for i in range(len(models) - 1):

        def loss(share: float, i: int = i) -> float:
            mixture = share * models[i] + (1 - share) * models[i + 1]
            return -mean_scores(mixture[None], subjects, entry).item()

        found = minimize_scalar(loss, bounds=(0.0, 1.0), method="bounded")
        if -found.fun > best:
            best, weights = -found.fun, torch.zeros_like(weights)
            weights[i], weights[i + 1] = found.x, 1 - found.x
    return weights


def _fit_weighted(models: Tensor, subjects: Tensor, entry: Measure) -> Tensor:
    if entry.embed is None or entry.embed.of == "ranks":  # ranks of a sum are no sum of ranks
        return _ascended(models, subjects, entry)
    return _least_squares(entry.embed.vectors(models), entry.embed.unit(subjects).mean(0))


def _least_squares(columns: Tensor, target: Tensor) -> Tensor:
    """Non-negative weights, of unit norm, of columns (k, m) towards a target (m,)."""
    from scipy.optimize import nnls

    # the k x k triangle has the same solution as the n_pairs x k problem, and is small
    basis, triangle = torch.linalg.qr(columns.T)
    if not (torch.isfinite(triangle).all() and torch.isfinite(target).all()):
        return columns.new_full((len(columns),), torch.nan)
    weights, _ = nnls(triangle.cpu().numpy(), (basis.T @ target).cpu().numpy())
    found = torch.from_numpy(weights).to(columns)
    return found / found.norm() if found.any() else found


def _ascended(models: Tensor, subjects: Tensor, entry: Measure) -> Tensor:
    """Ascend soft Spearman by its gradient within non-negative weights.

    From the least-squares solution on ranks, or equal weights where that is nothing.
    """
    from scipy.optimize import minimize

    if entry.on_squares:
        models, subjects = condense(models), condense(subjects)
    scale = models.std(1, keepdim=True)
    scaled = models / scale.where(scale > 0, torch.inf)
    target = _unit_ranks(soft_rank(subjects, strength=SOFT_STRENGTH)).mean(0)
    start = _least_squares(_unit_ranks(average_ranks(scaled)).nan_to_num(0.0), target)
    if not torch.isfinite(start).all():
        return start
    start = start if start.any() else torch.ones_like(start)

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        mixing = torch.from_numpy(weights).to(scaled).requires_grad_()
        mixture = _unit_ranks(soft_rank(mixing @ scaled, strength=SOFT_STRENGTH))
        value = -mixture @ target  # minus the mean soft Spearman over subjects
        (slope,) = torch.autograd.grad(value, mixing)
        return value.item(), slope.cpu().numpy()

    found = minimize(
        loss, start.cpu().numpy(), jac=True, method="L-BFGS-B",
        bounds=[(0.0, None)] * len(start), options={"maxiter": MOST_STEPS, "ftol": 1e-9},
    )  # fmt: skip
    weights = torch.from_numpy(found.x).to(scaled) / scale.squeeze(1)
    weights = weights.where(scale.squeeze(1) > 0, 0.0)
    return weights / weights.norm()


def _unit_ranks(ranks: Tensor) -> Tensor:
    """Ranks less their mean, of length 1."""
    ranks = centered(ranks)
    return ranks / ranks.norm(dim=-1, keepdim=True)


def crossvalidate(
    models: Sequence[FlexibleModel],
    subjects_rsms: Tensor,
    measure: str | Measure | Callable[[Tensor, Tensor], Tensor],
    *,
    stimulus_folds: int = 5,
    subject_folds: int | None = None,
    seed: int = 0,
    progress: bool = False,
    stimulus_groups: Labels = None,
    subject_groups: Labels = None,
) -> InferenceResult:
    """Fit flexible models on training stimuli and subjects, score them on held-out ones.

    Parameters
    ----------
    models : sequence of FlexibleModel
        With different names, of the stimuli of the subjects.
    subjects_rsms : Tensor, shape (n_subjects, n_stimuli, n_stimuli)
        Square RSMs or RDMs, no pair missing.
    measure : str, Measure or callable
        Of RSMs: a name of `softrsa.measures.available`, its entry, or its function.
    stimulus_folds : int
        Parts of the stimuli, each of at least 4: pairs within a part are predicted from weights
        fitted to pairs among all the other stimuli. 1 holds no stimuli out.
    subject_folds : int, optional
        Parts of the subjects, likewise; each subject, or group of subjects, is a part by default. 1
        holds none out, and is the only possibility with one subject.
    seed : int
        Of the folds; held in the result.
    progress : bool
        Whether to show a bar of the fits, after two seconds.
    stimulus_groups, subject_groups : sequence, optional
        The group of each stimulus, such as its category, and of each subject, such as a family:
        folds keep groups whole, so that scores hold for groups that were not fitted. Of subjects,
        see also `evaluate`.

    Returns
    -------
    InferenceResult
        `score` of each subject, held out, as mean over the parts of the stimuli; `weights` (model,
        fold, part of subjects, rsm); ceilings over the pairs that were scored. Where a model cannot
        be fitted, its RSMs being constant among the training stimuli or none positively related, it
        predicts with the best single RSM (`FlexibleModel.fit_single`), and the result's `warnings`
        say how often. NaN, with a warning, where predictions or data are constant among held-out
        stimuli.

    Raises
    ------
    DTypeError
        If RSMs are not float32 or float64.
    ShapeError
        If models and subjects differ in their stimuli, or the subjects' RSMs are not square.
    DataError
        If nothing is held out, there are too many folds, or more than groups, pairs are missing, or
        names repeat; a group is missing, or there is but one.
    UnknownNameError
        If there is no such measure.

    Examples
    --------
    >>> from softrsa.inference import weighted_rsm_model
    >>> from softrsa.pairs import expand
    >>> rng = torch.Generator().manual_seed(0)
    >>> layers = expand(torch.rand(3, 435, generator=rng))
    >>> subjects = layers[0] + layers[1] + expand(torch.rand(4, 435, generator=rng))
    >>> result = crossvalidate([weighted_rsm_model(layers)], subjects, "pearson")
    >>> bool(result.table["score"][0] > 0.6)
    True
    """
    if subjects_rsms.ndim != 3:
        raise ShapeError(
            "`subjects_rsms` must be square, (n_subjects, n_stimuli, n_stimuli), got "
            f"{tuple(subjects_rsms.shape)}; use `softrsa.pairs.expand`."
        )
    stack = stack_rsms(subjects_rsms, subjects_rsms, measure)
    if stack.n_missing:
        raise DataError(f"{stack.n_missing} pairs are NaN; leave out their stimuli to split them.")
    stack = with_groups(
        stack, subjects_rsms, subjects_rsms, stimuli=stimulus_groups, subjects=subject_groups
    )
    names = [model.name for model in models]
    if not names or len(set(names)) < len(names):
        raise DataError(f"Models must be there and have different names, got {names}.")
    n_parts = len(stack.subject_groups) if subject_folds is None else subject_folds
    rng = torch.Generator().manual_seed(seed)
    stimuli = _splits(stack.stimulus_groups, stimulus_folds, "stimulus", FEWEST_STIMULI, rng)
    subjects = _splits(stack.subject_groups, n_parts, "subject", 1, rng)
    if len(stimuli) == len(subjects) == 1:
        raise DataError("Nothing is held out: use at least 2 stimulus or subject folds.")
    scores, weights, failed = _fit_and_score(
        models, subjects_rsms, stack.entry, stimuli, subjects, progress=progress
    )
    settings = {"stimulus_folds": stimulus_folds, "subject_folds": n_parts, "seed": seed}
    data = describe(stack, **settings, procedure="crossvalidate").drop_vars(["score", "model"])
    known = cautions(replace(stack, models=tuple(names)), torch.from_numpy(scores))
    data.attrs["warnings"] = json.dumps([*known, *_fallbacks(names, failed)])
    tests = [test for _, test in stimuli]
    ceilings = _held_out_ceilings(subjects_rsms, stack.entry, tests, stack.subject_groups)
    return InferenceResult(
        data.assign(
            score=(("model", "subject"), scores),
            ceiling=(("bound", "subject"), ceilings),
            weights=(("model", "fold", "part", "rsm"), weights),
        ).assign_coords(model=np.array(names, dtype=object))
    )


def _splits(
    groups: Groups, folds: int, kind: str, fewest: int, rng: torch.Generator
) -> list[tuple[Tensor, Tensor]]:
    """Training and test indices of each fold; the same ones for a single fold."""
    n = len(groups.codes)
    if not 1 <= folds <= max(1, n // fewest):
        raise DataError(
            f"`{kind}_folds` must be from 1 to {max(1, n // fewest)} for {n} "
            f"{'stimuli' if kind == 'stimulus' else 'subjects'}, of which a fold needs {fewest}; "
            f"got {folds}."
        )
    everything = torch.arange(n)
    if groups.are_single:
        order = torch.randperm(n, generator=rng)
        tests = [order[i::folds].sort().values for i in range(folds)]
    else:
        tests = [everything] if folds == 1 else _whole_groups(groups, folds, kind, fewest, rng)
    if folds == 1:
        return [(tests[0], tests[0])]
    return [(everything[~torch.isin(everything, test)], test) for test in tests]


def _whole_groups(
    groups: Groups, folds: int, kind: str, fewest: int, rng: torch.Generator
) -> list[Tensor]:
    """Test indices of folds that keep groups whole."""
    if folds > len(groups):
        raise DataError(
            f"`{kind}_folds` must be at most the {len(groups)} groups, which are never split; got "
            f"{folds}."
        )
    tests = deal_groups(groups, folds, rng)
    smallest = min(map(len, tests))
    if smallest < fewest:
        raise DataError(
            f"With `{kind}_groups` of {groups.sizes.tolist()}, a fold of {folds} holds {smallest}, "
            f"and {fewest} are needed. Use fewer `{kind}_folds`, or merge groups."
        )
    return tests


def _fit_and_score(
    models: Sequence[FlexibleModel],
    rsms: Tensor,
    entry: Measure,
    stimuli: list[tuple[Tensor, Tensor]],
    subjects: list[tuple[Tensor, Tensor]],
    *,
    progress: bool,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Held-out scores (model, subject), weights (model, fold, part, rsm), and which fits failed."""
    most = max(len(model.rsms) for model in models)
    scores = torch.zeros(len(models), len(rsms), dtype=torch.float64)
    weights = torch.full((len(models), len(stimuli), len(subjects), most), torch.nan).double()
    failed = np.zeros((len(models), len(stimuli), len(subjects)), dtype=bool)
    bar = tqdm(total=failed.size, desc="crossvalidate", unit="fit", delay=2, disable=not progress)
    with bar:
        for f, (train, test) in enumerate(stimuli):
            held = entry.pairs_of(rsms.double()[:, test][:, :, test])
            for p, (others, tested) in enumerate(subjects):
                for m, model in enumerate(models):
                    found, failed[m, f, p] = _fitted(model, rsms[others], entry, train)
                    weights[m, f, p, : len(found)] = found.cpu()
                    predicted = entry.pairs_of(model.predict(found)[test][:, test])
                    scores[m, tested] += entry.function(predicted, held[tested]).cpu()
                    bar.update()
    return scores.numpy() / len(stimuli), weights.numpy(), failed


def _fitted(
    model: FlexibleModel, rsms: Tensor, entry: Measure, train: Tensor
) -> tuple[Tensor, bool]:
    """Weights of a model, and whether it could not be fitted and these are of its best RSM."""
    try:
        return model.fit(rsms, entry, stimuli=train), False
    except FitError:
        return model.fit_single(rsms, entry, stimuli=train), True


def _fallbacks(names: list[str], failed: np.ndarray) -> list[str]:
    """Say of which models how many fits were impossible."""
    return [
        f"{name!r} could not be fitted in {int(lost.sum())} of {lost.size} fits, no weights giving "
        "a defined, positive score; its best single RSM was taken there."
        for name, lost in zip(names, failed, strict=True)
        if lost.any()
    ]


def _held_out_ceilings(
    rsms: Tensor, entry: Measure, tests: list[Tensor], groups: Groups
) -> np.ndarray:
    """Mean ceilings (2, n_subjects) over the parts of the stimuli that were scored."""
    labels = groups.labels or None
    each = [
        noise_ceiling(rsms.double()[:, test][:, :, test], entry, subject_groups=labels)
        for test in tests
    ]
    return torch.stack([torch.stack(tuple(ceiling)) for ceiling in each]).mean(0).cpu().numpy()
