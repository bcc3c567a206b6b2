"""Feature-reweighted RSA as published: a ridge weight for each unit, scored on held-out stimuli."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import xarray as xr
from scipy.optimize import nnls
from torch import Tensor
from tqdm import tqdm

from softrsa._checks import check_floating, checked
from softrsa._descent import first_best
from softrsa._wording import listed
from softrsa.alignment.settings import SMALLEST_BLOCK, Split, split_stimuli, stimulus_folds
from softrsa.errors import DataError, MemoryLimitError, ShapeError
from softrsa.io import check_rdms, check_recording
from softrsa.io.schema import labels_along
from softrsa.measures import Measure, get
from softrsa.pairs import condense, expand
from softrsa.recordings import join_stimuli
from softrsa.rsm import to_rsm

FRACTIONS = tuple(round(0.1 + 0.9 * i / 19, 6) for i in range(20))  # as published
RELATIVE_PENALTIES = tuple(10.0**k for k in range(3, -5, -1))  # of the mean squared singular value
LARGEST = 5000  # units, or pairs of stimuli, whichever is less: an eigenproblem of 200 MB
MOST_NONNEGATIVE = 1000  # units
PART_ENTRIES = 2**22  # of products of units that are held at a time


@dataclass(frozen=True)
class FeatureReweighting:
    """What `feature_reweighted_rsa` found.

    Attributes
    ----------
    table : DataFrame
        A row per fold: `score` of the weighted similarities on held-out stimuli, `unweighted`, that
        of plain RSA on the same ones, `fraction` (NaN where penalties were given) and `penalty`
        chosen, `n_train` and `n_test` stimuli.
    weights : DataArray, dims (fold, unit)
        The factor of each unit's product in the correlation, where plain RSA has 1; float64. With
        the units' labels.
    intercepts : DataArray, dims (fold,)
        What is added to the weighted sum.
    predicted : DataArray, dims (anchor, neighbor)
        Similarities of held-out pairs, the mean over the folds that tested them; NaN where none
        did, and on the diagonal.
    """

    table: pd.DataFrame = field(repr=False)
    weights: xr.DataArray = field(repr=False)
    intercepts: xr.DataArray = field(repr=False)
    predicted: xr.DataArray = field(repr=False)

    @property
    def score(self) -> float:
        """Mean of the weighted scores over folds; NaN where one is undefined."""
        return float(self.table["score"].mean(skipna=False))

    @property
    def unweighted(self) -> float:
        """Mean of the scores of plain RSA over the same folds; NaN where one is undefined."""
        return float(self.table["unweighted"].mean(skipna=False))


@checked
def feature_reweighted_rsa(
    units: Tensor | xr.DataArray,
    target: Tensor | xr.DataArray,
    *,
    folds: int | Sequence[Split] = 5,
    inner_folds: int | Sequence[Sequence[Split]] = 5,
    fractions: Sequence[float] | None = None,
    penalties: Sequence[float] | None = None,
    nonnegative: bool = False,
    measure: str | Measure = "pearson",
    seed: int = 0,
    progress: bool = False,
) -> FeatureReweighting:
    r"""RSA with a weight for each unit, learned by ridge regression, on held-out stimuli.

    With responses z-scored over units for each stimulus, :math:`z_i`, the correlation of two
    stimuli is a sum of products. Each product gets a weight:

    .. math:: \hat s_{ij} = b + \sum_u w_u \, z_{iu} z_{ju} / p, \qquad
              \min_{w, b} \sum_{i < j} (s_{ij} - \hat s_{ij})^2 + \lambda \lVert w \rVert^2

    Weights are fitted on the pairs of training stimuli and scored on the pairs of test stimuli;
    pairs with one foot in each are not used. The strength of the ridge is chosen by inner folds of
    the training stimuli, in the same way.

    Parameters
    ----------
    units : Tensor, shape (n_stimuli, n_units), or DataArray, dims (stimulus, unit)
        Whose units are weighted: a layer of a model, or voxels.
    target : Tensor, shape (n_stimuli, n_stimuli), or DataArray, dims (anchor, neighbor)
        What is predicted: an RSM, or an RDM (zeros on the diagonal, or ``attrs["kind"]``), which is
        taken as 1 - distance. Labelled on both sides, stimuli are joined by id.
    folds : int or sequence of Split
        Number of folds of shuffled stimuli, or splits of your own, such as the published fifty:
        ``random_splits(n, n - n // 5, 50, seed=0)``. Test parts need at least 4 stimuli.
    inner_folds : int or sequence of sequences of Split
        Folds of the training stimuli, or for each outer fold splits of your own of its training
        stimuli, as positions among all stimuli.
    fractions : sequence of float, optional
        Strengths to choose among: the length of the weights as a share of those of least squares,
        above 0 and at most 1; as published, 20 from .1 to 1 by default.
    penalties : sequence of float, optional
        Strengths :math:`\lambda` to choose among instead, as scikit-learn's ``Ridge(alpha)`` of the
        products divided by ``p``; with ``nonnegative``, powers of ten from 1e-4 to 1e3 times the
        mean squared singular value of the centered products by default.
    nonnegative : bool
        Whether weights may not be negative; takes penalties.
    measure : str or Measure
        What compares predicted and target RSMs: any measure of RSMs.
    seed : int
        Of folds and inner folds.
    progress : bool
        Show a progress bar.

    Returns
    -------
    FeatureReweighting
        Scores by fold, with those of plain RSA beside them, strengths, weights and predictions.
        Scores are within the range of ``measure``, NaN where it is undefined.

    Raises
    ------
    DTypeError, ShapeError
        If the two are not float32 or float64, or not of the same stimuli.
    StimusError
        If labelled sides have different stimuli.
    UnknownNameError
        If ``measure`` is unknown.
    DataError
        If responses of a stimulus are constant, values are missing, splits or strengths cannot be
        used, ``measure`` takes features, or no inner fold has a defined score.
    MemoryLimitError
        If there are more than 5000 units and also more than 5000 pairs, or more than 1000 units
        with ``nonnegative``.

    Notes
    -----
    Computed in float64. Of fewer units than pairs, pairs are never listed: sums over them follow
    from products of units. Of more, everything is in inner products of pairs, summed over stretches
    of units. Directions that are rounding get no weight. Scores do not say that weights are unique.

    References
    ----------
    Kaniuth & Hebart (2022), doi:10.1016/j.neuroimage.2022.119294; fractions: Rokem & Kay (2020),
    doi:10.1093/gigascience/giaa133.

    Examples
    --------
    >>> from softrsa.rsm import similarity_matrix
    >>> rng = torch.Generator().manual_seed(0)
    >>> units = torch.randn(40, 12, generator=rng)
    >>> brain = torch.tensor([3.0] * 3 + [0.0] * 9) * units  # reads out three units
    >>> result = feature_reweighted_rsa(units, similarity_matrix(brain))
    >>> bool(result.score > result.unweighted + 0.2)
    True
    >>> result.weights.dims
    ('fold', 'unit')
    """
    problem = _read(units, target, get(measure), nonnegative)
    strengths = _checked_strengths(fractions, penalties, nonnegative)
    splits = split_stimuli(len(problem.z), folds, seed=seed)
    inner = _inner_splits(inner_folds, splits, seed)
    n_train = max(len(split.train) for split in splits)
    problem = problem._replace(products=_products(problem.z, n_train, nonnegative))
    rows = []
    with tqdm(total=len(splits), desc="reweight", disable=not progress) as bar:
        for split, within in zip(splits, inner, strict=True):
            rows.append(_one_fold(problem, split, within, strengths))
            bar.update()
    return _result(rows, splits, problem)


class _Strengths(NamedTuple):
    """What to choose among, strongest shrinkage first."""

    kind: str  # "fraction", "penalty", or "relative" to the mean squared singular value
    values: Tensor


class _Problem(NamedTuple):
    """Both sides as the fits read them."""

    z: Tensor  # (n, p), rows of mean 0 and squares that sum to 1: sums of products are correlations
    rsm: Tensor  # (n, n)
    products: Tensor | None  # of all pairs (n_pairs, n_pairs); None where units are fewer
    measure: Measure
    nonnegative: bool
    ids: np.ndarray
    labels: dict[str, tuple[str, np.ndarray]]  # of units

    def score(self, predicted: Tensor, stimuli: Tensor) -> float:
        """Compare similarities (m, m) with the target of these stimuli."""
        target = self.rsm[stimuli[:, None], stimuli]
        return float(self.measure.between(predicted, target))


class _Fit(NamedTuple):
    """Weights (k, p) and intercepts (k,) for k strengths, and the penalties these amount to."""

    weights: Tensor
    intercepts: Tensor
    penalties: Tensor


class _Row(NamedTuple):
    """What came of a fold."""

    score: float
    unweighted: float
    fraction: float
    penalty: float
    weights: Tensor
    intercept: float
    predicted: Tensor


def _one_fold(
    problem: _Problem, split: Split, inner: Sequence[Split], strengths: _Strengths
) -> _Row:
    """Choose a strength on inner folds, fit it on all training stimuli, score the others."""
    best = 0
    if len(strengths.values) > 1:
        scores = torch.tensor(
            [_inner_scores(problem, part, strengths) for part in inner], dtype=torch.float64
        )
        defined = ~scores.isnan().all(-1)
        if not defined.any():
            raise DataError(
                f"No inner fold has a defined score under {problem.measure.name!r}: the target or "
                "its predictions are constant in every one. Use fewer `inner_folds`, or give one "
                "strength."
            )
        best = first_best(scores[defined].nan_to_num(-torch.inf).mean(0))
    chosen = strengths._replace(values=strengths.values[best : best + 1])
    fit = _fit(problem, split.train, chosen)
    z = problem.z.index_select(0, split.test)
    predicted = _predict(z, fit.weights[0], fit.intercepts[0])
    return _Row(
        problem.score(predicted, split.test),
        problem.score(z @ z.mT, split.test),
        float(chosen.values[0]) if strengths.kind == "fraction" else float("nan"),
        float(fit.penalties[0]),
        fit.weights[0],
        float(fit.intercepts[0]),
        predicted,
    )


def _inner_scores(problem: _Problem, split: Split, strengths: _Strengths) -> list[float]:
    """Score every strength on one inner fold."""
    fit = _fit(problem, split.train, strengths)
    z = problem.z.index_select(0, split.test)
    return [
        problem.score(_predict(z, weights, intercept), split.test)
        for weights, intercept in zip(fit.weights, fit.intercepts, strict=True)
    ]


def _predict(z: Tensor, weights: Tensor, intercept: Tensor) -> Tensor:
    return (z * weights) @ z.mT + intercept


def _fit(problem: _Problem, stimuli: Tensor, strengths: _Strengths) -> _Fit:
    """Fit the pairs of some stimuli with every strength.

    Least squares is written in the singular vectors of the centered products, where a ridge shrinks
    each coefficient by its own factor.
    """
    z = problem.z.index_select(0, stimuli)
    y = condense(problem.rsm[stimuli[:, None], stimuli])
    centered = y - y.mean()
    mean = (z.sum(0).square() - z.square().sum(0)) / 2 / len(y)
    of_pairs = problem.products is not None
    gram = (
        _between_units(z, mean, len(y))
        if problem.products is None
        else _between_pairs(problem.products, stimuli, len(problem.z))
    )
    squares, vectors = torch.linalg.eigh(gram)
    kept = squares > len(gram) * torch.finfo(gram.dtype).eps * squares[-1]
    squares, vectors = squares[kept], vectors[:, kept]
    coefficients = (
        vectors.mT @ centered / squares.sqrt()
        if of_pairs
        else vectors.mT @ _back(z, centered[None])[0] / squares
    )
    penalties = _penalties(strengths, squares, coefficients)
    shrunk = coefficients * squares / (squares + penalties[:, None])
    if problem.nonnegative:
        each = [_nonnegative(squares, vectors, coefficients, float(one)) for one in penalties]
        weights = torch.stack(each)
    elif of_pairs:
        weights = _back(z, (shrunk / squares.sqrt()) @ vectors.mT)
    else:
        weights = shrunk @ vectors.mT
    return _Fit(weights, y.mean() - weights @ mean, penalties)


def _between_units(z: Tensor, mean: Tensor, n_pairs: int) -> Tensor:
    """Inner products (p, p) of the units' centered products over pairs, which are never listed."""
    square, moment = z.mT @ z, z.square()
    return (square.square() - moment.mT @ moment) / 2 - n_pairs * mean.outer(mean)


def _back(z: Tensor, pairs: Tensor) -> Tensor:
    """Sum numbers of pairs (k, n_pairs) times the pairs' products of units: (k, p)."""
    return torch.stack([((expand(one) @ z) * z).sum(0) / 2 for one in pairs])


def _between_pairs(products: Tensor, stimuli: Tensor, n: int) -> Tensor:
    """Inner products of the pairs of some stimuli, less the mean over these pairs on both sides."""
    first, second = torch.triu_indices(len(stimuli), len(stimuli), 1).unbind()
    low = torch.minimum(stimuli[first], stimuli[second])
    high = torch.maximum(stimuli[first], stimuli[second])
    places = low * n - low * (low + 1) // 2 + high - low - 1
    gram = products[places[:, None], places]
    return gram - gram.mean(0) - gram.mean(1, keepdim=True) + gram.mean()


def _penalties(strengths: _Strengths, squares: Tensor, coefficients: Tensor) -> Tensor:
    """Penalties that strengths amount to, for fractions by bisection of their logarithm."""
    values = strengths.values
    if strengths.kind == "penalty":
        return values
    if strengths.kind == "relative":
        return values * squares.mean()
    ratio = ((1 - values) / values).clamp_min(torch.finfo(values.dtype).tiny)
    low, high = (ratio * squares[0]).log(), (ratio * squares[-1]).log()
    wanted = values * coefficients.norm()
    for _ in range(100):
        middle = (low + high) / 2
        shrunk = coefficients * squares / (squares + middle.exp()[:, None])
        longer = shrunk.norm(dim=-1) > wanted
        low, high = torch.where(longer, middle, low), torch.where(longer, high, middle)
    return torch.where(values == 1, 0.0, ((low + high) / 2).exp())


def _nonnegative(squares: Tensor, vectors: Tensor, coefficients: Tensor, penalty: float) -> Tensor:
    """Ridge weights that are at least 0, exactly, by an active set."""
    p = len(vectors)
    system = torch.cat([squares.sqrt()[:, None] * vectors.mT, penalty**0.5 * torch.eye(p).double()])
    wanted = torch.cat([squares.sqrt() * coefficients, torch.zeros(p, dtype=torch.float64)])
    return torch.from_numpy(nnls(system.numpy(), wanted.numpy(), maxiter=30 * p)[0])


def _read(
    units: Tensor | xr.DataArray, target: Tensor | xr.DataArray, measure: Measure, nonnegative: bool
) -> _Problem:
    """Check both sides, join them by id where both are labelled, and prepare their numbers."""
    recording = _labelled(units, "units", ("stimulus", "unit"))
    stack = _labelled(target, "target", ("anchor", "neighbor"))
    if stack.ndim != 2:
        raise ShapeError(
            f"`target` must be one RSM or RDM with the dimensions anchor and neighbor, got "
            f"{stack.dims}. Select one with `target.sel(...)`, or average over the others."
        )
    if not (isinstance(units, xr.DataArray) and isinstance(target, xr.DataArray)):
        recording, stack = _with_one_set_of_ids(recording, stack, isinstance(units, xr.DataArray))
    recording = check_recording(recording, name="`units`")
    stack = check_rdms(stack, name="`target`", complete=True)
    recording, stack = join_stimuli(recording, stack)
    ids = recording["stimulus"].values
    z = _unit_rows(torch.from_numpy(np.array(recording.values, dtype=np.float64)), ids)
    labels = {name: ("unit", row) for name, row in labels_along(recording, "unit").items()}
    rsm = torch.from_numpy(np.array(to_rsm(stack).values, dtype=np.float64))
    return _Problem(z, rsm, None, measure, nonnegative, ids, labels)


def _labelled(given: Tensor | xr.DataArray, name: str, dims: tuple[str, str]) -> xr.DataArray:
    """Give a tensor of two dimensions labels: stimuli are numbered."""
    if isinstance(given, xr.DataArray):
        return given
    check_floating(**{name: given})
    if given.ndim != 2:
        raise ShapeError(f"`{name}` must have the dimensions {dims}, got {tuple(given.shape)}.")
    ids = {dim: np.arange(n) for dim, n in zip(dims, given.shape, strict=True) if dim != "unit"}
    return xr.DataArray(given.detach().cpu().numpy(), dims=dims, coords=ids)


def _with_one_set_of_ids(
    recording: xr.DataArray, stack: xr.DataArray, keep_first: bool
) -> tuple[xr.DataArray, xr.DataArray]:
    """Give the side without labels, whose order must be the same, those of the other."""
    sizes = recording.sizes.get("stimulus"), *stack.shape
    if len(set(sizes)) > 1:
        raise ShapeError(
            "`units` and `target` must be of the same stimuli: `units` has "
            f"{sizes[0]}, `target` has shape {stack.shape}."
        )
    if keep_first and "stimulus" in recording.coords:
        ids = recording["stimulus"].values
        return recording, stack.assign_coords(anchor=ids, neighbor=ids)
    if "anchor" in stack.coords:
        return recording.assign_coords(stimulus=stack["anchor"].values), stack
    return recording, stack


def _unit_rows(x: Tensor, ids: np.ndarray) -> Tensor:
    """Center rows and give them length 1, so that inner products are correlations."""
    low, high = torch.aminmax(x, dim=-1)
    constant = (low == high).numpy()
    if constant.any():
        raise DataError(
            f"Responses of the stimuli {listed(ids[constant])} are the same in all units, so they "
            "have no correlation with others. Leave them out."
        )
    return torch.nn.functional.normalize(x - x.mean(-1, keepdim=True), dim=-1, eps=0.0)


def _products(z: Tensor, n_train: int, nonnegative: bool) -> Tensor | None:
    """Inner products of all pairs' products of units; None where units are fewer than pairs.

    Those of training stimuli count, which are what is decomposed, unless all pairs are too many.
    """
    n, p = z.shape
    n_pairs = n * (n - 1) // 2
    most = MOST_NONNEGATIVE if nonnegative else LARGEST
    if min(p, p if nonnegative else n_pairs) > most:
        pairs = "" if nonnegative else f" or {LARGEST} pairs"
        raise MemoryLimitError(
            f"There may be {most} units{pairs} at most; there are {p} units and {n_pairs} pairs of "
            f"{n} stimuli. Take principal components of the units, on which weights then act, or "
            "fewer units."
        )
    if nonnegative or p <= n_train * (n_train - 1) // 2 or n_pairs > LARGEST:
        return None
    first, second = torch.triu_indices(n, n, 1).unbind()
    gram = torch.zeros(n_pairs, n_pairs, dtype=z.dtype)
    for part in z.split(max(1, PART_ENTRIES // n_pairs), dim=1):
        rows = part.index_select(0, first) * part.index_select(0, second)
        gram.addmm_(rows, rows.mT)
    return gram


def _checked_strengths(
    fractions: Sequence[float] | None, penalties: Sequence[float] | None, nonnegative: bool
) -> _Strengths:
    """Settle what to choose among, strongest shrinkage first."""
    if fractions is not None and penalties is not None:
        raise DataError("Give `fractions` or `penalties` of the ridge, not both.")
    if fractions is not None and nonnegative:
        raise DataError(
            "`fractions` are shares of least squares, which `nonnegative` weights are not: give "
            "`penalties`."
        )
    if penalties is None and nonnegative:
        return _Strengths("relative", torch.tensor(RELATIVE_PENALTIES, dtype=torch.float64))
    if penalties is not None:
        kind, values = "penalty", sorted(map(float, penalties), reverse=True)
        right = [0 <= value < float("inf") for value in values]
    else:
        kind, values = "fraction", sorted(map(float, FRACTIONS if fractions is None else fractions))
        right = [0 < value <= 1 for value in values]
    if not values or not all(right):
        wanted = "at least 0 and finite" if kind == "penalty" else "above 0 and at most 1"
        name = "penalties" if kind == "penalty" else "fractions"
        raise DataError(f"`{name}` must be {wanted}, and one at least, got {values}.")
    return _Strengths(kind, torch.tensor(values, dtype=torch.float64))


def _inner_splits(
    inner_folds: int | Sequence[Sequence[Split]], splits: Sequence[Split], seed: int
) -> list[list[Split]]:
    """Split the training stimuli of every fold, or check splits that are given."""
    if not isinstance(inner_folds, int):
        if len(inner_folds) != len(splits):
            raise DataError(
                f"`inner_folds` must have a sequence of splits for each of {len(splits)} folds, "
                f"got {len(inner_folds)}."
            )
        for i, (split, inner) in enumerate(zip(splits, inner_folds, strict=True)):
            used = torch.cat([torch.cat(list(part)) for part in inner])
            beyond = used[~torch.isin(used, split.train)].unique().tolist()
            if beyond:
                raise DataError(
                    f"Inner splits of fold {i} use the stimuli at {listed(beyond)}, which are not "
                    "among its training stimuli. Positions are those among all stimuli."
                )
            split_stimuli(int(used.max()) + 1, inner, seed=seed)
        return [list(inner) for inner in inner_folds]
    fewest = min(len(split.train) for split in splits)
    if inner_folds < 2 or fewest // SMALLEST_BLOCK < inner_folds:
        raise DataError(
            f"`inner_folds` must be at least 2 and leave {SMALLEST_BLOCK} stimuli to each, got "
            f"{inner_folds} of {fewest} training stimuli."
        )
    return [
        [
            Split(*(split.train[part] for part in inner))
            for inner in stimulus_folds(len(split.train), inner_folds, seed=seed + 1 + i)
        ]
        for i, split in enumerate(splits)
    ]


def _result(rows: Sequence[_Row], splits: Sequence[Split], problem: _Problem) -> FeatureReweighting:
    """Put folds together, with labels."""
    names = ["score", "unweighted", "fraction", "penalty"]
    table = pd.DataFrame([{name: getattr(row, name) for name in names} for row in rows])
    table.insert(0, "fold", range(len(rows)))
    table["n_train"] = [len(split.train) for split in splits]
    table["n_test"] = [len(split.test) for split in splits]
    total = torch.zeros_like(problem.rsm)
    count = torch.zeros_like(problem.rsm)
    for row, split in zip(rows, splits, strict=True):
        total[split.test[:, None], split.test] += row.predicted
        count[split.test[:, None], split.test] += 1
    mean = total.div_(count.fill_diagonal_(0))  # never tested: 0 / 0
    fold = {"fold": table["fold"].to_numpy()}
    weights = torch.stack([row.weights for row in rows]).numpy()
    intercepts = np.array([row.intercept for row in rows])
    return FeatureReweighting(
        table,
        xr.DataArray(weights, dims=("fold", "unit"), coords={**fold, **problem.labels}),
        xr.DataArray(intercepts, dims="fold", coords=fold),
        xr.DataArray(
            mean.fill_diagonal_(torch.nan).numpy(),
            dims=("anchor", "neighbor"),
            coords={"anchor": problem.ids, "neighbor": problem.ids},
            attrs={"kind": "rsm"},
        ),
    )
