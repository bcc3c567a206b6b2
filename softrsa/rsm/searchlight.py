"""One RDM for the units around each of many centers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from softrsa._checks import check_floating
from softrsa._wording import counted
from softrsa.errors import DataError, ShapeError, unknown_name
from softrsa.pairs import condense
from softrsa.recordings import precision_of, residual_covariance
from softrsa.recordings.covariance import CovarianceMethod
from softrsa.rsm.crossnobis import crossnobis
from softrsa.rsm.poisson import poisson_cv, poisson_kl
from softrsa.rsm.similarity import condensed_similarity

Neighbors = Sequence[Sequence[int] | np.ndarray | Tensor] | np.ndarray | Tensor
Priors = dict[str, float]  # of Poisson rates
# (B, [folds,] n, p), precision, prior -> (B, pairs)
Distances = Callable[[Tensor, Tensor | None, Priors], Tensor]


def _similarity(name: str, own: float) -> Distances:
    return lambda x, *_: own - condensed_similarity(x, similarity=name)


def _mahalanobis(x: Tensor, precision: Tensor | None, _: Priors) -> Tensor:
    if precision is not None:  # far quicker than one quadratic form after the other
        x = (x.double() @ torch.linalg.cholesky(precision.double())).to(x.dtype)
    return -condensed_similarity(x, similarity="sqeuclidean")


def _crossnobis(x: Tensor, precision: Tensor | None, _: Priors) -> Tensor:
    return condense(crossnobis(x, None if precision is None else precision.unsqueeze(-3)))


METHODS: dict[str, Distances] = {
    "correlation": _similarity("correlation", 1.0),
    "cosine": _similarity("cosine", 1.0),
    "sqeuclidean": _similarity("sqeuclidean", 0.0),
    "l2": _similarity("l2", 0.0),
    "l1": _similarity("l1", 0.0),
    "mahalanobis": _mahalanobis,
    "crossnobis": _crossnobis,
    "poisson": lambda x, _, prior: condense(poisson_kl(x, **prior)),
    "poisson_cv": lambda x, _, prior: condense(poisson_cv(x, **prior)),
}
FOLDED = ("crossnobis", "poisson_cv")
WHITENED = ("crossnobis", "mahalanobis")


def searchlight(
    x: Tensor,
    neighbors: Neighbors,
    *,
    method: str = "correlation",
    evaluate: Callable[[Tensor], Tensor] | None = None,
    residuals: Tensor | None = None,
    noise: CovarianceMethod = "shrinkage_diagonal",
    dof: int | None = None,
    prior_lambda: float = 1.0,
    prior_weight: float = 0.1,
    memory: int = 16 * 2**20,
    progress: bool = True,
) -> Tensor:
    r"""Distances between stimuli around each center of a searchlight, or a score of them.

    ================  =====================================================================
    `correlation`     1 - Pearson correlation across the neighbors
    `cosine`          1 - cosine
    `sqeuclidean`     squared Euclidean distance per unit
    `l2`, `l1`        Euclidean and city-block distance
    `mahalanobis`     squared, per unit, under the noise of ``residuals``
    `crossnobis`      `softrsa.rsm.crossnobis`, under the noise of ``residuals`` if given
    `poisson`         `softrsa.rsm.poisson_kl`
    `poisson_cv`      `softrsa.rsm.poisson_cv`
    ================  =====================================================================

    Parameters
    ----------
    x : Tensor, shape (n_stimuli, n_units) or (n_folds, n_stimuli, n_units)
        Responses, float32 or float64, in any unit; with folds for `crossnobis` and `poisson_cv`.
    neighbors : sequence of index arrays, or bool Tensor or array, shape (n_centers, n_units)
        The units around each center, itself among them if it is to count.
    method : str
        A name of the table above.
    evaluate : callable, optional
        Takes the RDMs of some centers, a Tensor of shape (n_some, n_pairs), and gives a Tensor of
        shape (n_some, ...), such as their similarity to a model. Then only that is kept.
        ``softrsa.measures.get("spearman").against(models)`` is such a callable.
    residuals : Tensor, shape (n_residuals, n_units), optional
        Trials less the mean of their stimulus, in the units of ``x``: each center has the noise
        precision of its own neighbors. For `crossnobis` and `mahalanobis`; the second needs them.
    noise : str
        How to estimate the covariance of ``residuals``: see
        `softrsa.recordings.residual_covariance`.
    dof : int, optional
        Degrees of freedom of ``residuals``, without which they are refused: their number less that
        of the means taken out of them, so trials less stimuli. Distances are inverse to the
        covariance, and so proportional to it.
    prior_lambda, prior_weight : float
        For `poisson` and `poisson_cv`: see `softrsa.rsm.poisson_kl`.
    memory : int
        Bytes that may be needed at a time beside ``x``, the result and what ``evaluate`` needs.
        One center is always computed, whatever it takes. More is not faster: the default is what
        stays in a processor's cache.
    progress : bool
        Whether to show a bar, after two seconds.

    Returns
    -------
    Tensor, shape (n_centers, n_pairs) or (n_centers, ...)
        RDMs in the order of `softrsa.pairs.condense` (`softrsa.pairs.expand` makes them square),
        in the number type and on the device of ``x``; or what ``evaluate`` gave. NaN where a
        similarity is undefined, as a `correlation` of constant responses or of a single neighbor.

    Raises
    ------
    DTypeError
        If ``x`` or ``residuals`` are neither float32 nor float64.
    UnknownNameError
        If ``method`` is not in the table.
    ShapeError
        If the shapes do not fit each other or the method, or ``evaluate`` does not give a row for
        each center.
    DataError
        If there are no centers, a center has no neighbors or neighbors beyond the units,
        ``residuals`` do not suit the method or come without ``dof``, a center's noise covariance
        has no inverse, or, of `crossnobis` and Poisson methods, a response is not finite or a rate
        not positive.

    Notes
    -----
    Centers with equally many neighbors are computed together, as many as ``memory`` holds; without
    padding, so that each has exactly the value that it would have alone but for rounding. Passes
    no gradient.

    References
    ----------
    Kriegeskorte, Goebel & Bandettini (2006), doi:10.1073/pnas.0600244103.

    Examples
    --------
    >>> x = torch.tensor([[0.0, 1.0, 5.0], [2.0, 1.0, 1.0], [4.0, 4.0, 1.0]])
    >>> searchlight(x, [[0, 1], [1, 2]], method="l1")
    tensor([[2., 7., 5.],
            [4., 7., 3.]])
    >>> searchlight(x, [[0, 1], [1, 2]], method="l1", evaluate=lambda rdms: rdms.mean(-1))
    tensor([4.6667, 4.6667])
    """
    _check(x, method, residuals, dof)
    prior = {"prior_lambda": prior_lambda, "prior_weight": prior_weight}
    groups = _by_size(_indices(neighbors, x.shape[-1]), x.device)
    n_centers = sum(len(centers) for centers, _ in groups)
    result: Tensor | None = None
    bar = tqdm(total=n_centers, desc="searchlight", unit="center", delay=2, disable=not progress)
    with torch.no_grad(), bar:
        for centers, units in groups:
            step = max(1, memory // _center_bytes(x, units.shape[-1], residuals))
            for start in range(0, len(centers), step):
                some = units[start : start + step]
                precision = _precision(residuals, some, noise, dof)
                found = METHODS[method](_gather(x, some), precision, prior)
                found = found if evaluate is None else _evaluated(evaluate, found)
                if result is None:
                    result = found.new_empty(n_centers, *found.shape[1:])
                result[centers[start : start + step]] = found
                bar.update(len(some))
    if result is None:
        raise DataError("There are no centers: `neighbors` is empty.")
    return result


def _gather(x: Tensor, units: Tensor) -> Tensor:
    """Take the units of each center: (..., n, units) gives (centers, ..., n, p)."""
    return x[..., units].movedim(-2, 0)


def _precision(
    residuals: Tensor | None, units: Tensor, noise: CovarianceMethod, dof: int | None
) -> Tensor | None:
    if residuals is None:
        return None
    return precision_of(
        residual_covariance(_gather(residuals, units).double(), method=noise, dof=dof)
    )


def _center_bytes(x: Tensor, n_neighbors: int, residuals: Tensor | None) -> int:
    """Bound what one center needs: float64 copies of responses, matrices, covariances."""
    rows = x.shape[:-1].numel()
    n = x.shape[-2]
    floats = 5 * rows * n_neighbors + 6 * n * n
    if residuals is not None:
        floats += 5 * residuals.shape[0] * n_neighbors + 10 * n_neighbors**2
    return 8 * floats


def _evaluated(evaluate: Callable[[Tensor], Tensor], rdms: Tensor) -> Tensor:
    scores = evaluate(rdms)
    if not isinstance(scores, Tensor) or not scores.ndim or len(scores) != len(rdms):
        shape = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise ShapeError(
            f"`evaluate` must give a Tensor with a row for each of {len(rdms)} centers, got "
            f"{shape}."
        )
    return scores


def _indices(neighbors: Neighbors, n_units: int) -> list[np.ndarray]:
    """Give the neighbors of each center as an array of indices, checked."""
    if isinstance(neighbors, (np.ndarray, Tensor)) and neighbors.ndim == 2:
        matrix = np.asarray(neighbors)
        if matrix.dtype == np.bool_:
            if matrix.shape[1] != n_units:
                raise ShapeError(
                    f"`neighbors` must have shape (n_centers, {n_units}), got {matrix.shape}."
                )
            neighbors = [np.flatnonzero(row) for row in matrix]
    indices = [np.asarray(own).reshape(-1) for own in neighbors]
    for center, own in enumerate(indices):
        if not len(own):
            raise DataError(f"Center {center} has no neighbors. Leave it out.")
        if own.dtype.kind not in "iu":
            raise DataError(f"The neighbors of center {center} must be integers, got {own.dtype}.")
        if own.min() < 0 or own.max() >= n_units:
            raise DataError(
                f"The neighbors of center {center} run from {own.min()} to {own.max()}; "
                f"there are {counted(n_units, 'unit')}, numbered from 0."
            )
    return indices


def _by_size(indices: list[np.ndarray], device: torch.device) -> list[tuple[Tensor, Tensor]]:
    """Put together centers with equally many neighbors: their numbers, and (centers, p) units."""
    sizes = np.array([len(own) for own in indices])
    groups = []
    for size in np.unique(sizes):
        centers = np.flatnonzero(sizes == size)
        units = np.stack([indices[center] for center in centers]).astype(np.int64)
        groups.append((torch.from_numpy(centers).to(device), torch.from_numpy(units).to(device)))
    return groups


def _check(x: Tensor, method: str, residuals: Tensor | None, dof: int | None) -> None:
    """Check types, then the method, then shapes, then what the method needs."""
    check_floating(x=x, **({} if residuals is None else {"residuals": residuals}))
    if method not in METHODS:
        raise unknown_name("method", method, METHODS)
    n_dims = 3 if method in FOLDED else 2
    wanted = ("n_folds", "n_stimuli", "n_units")[-n_dims:]
    if x.ndim != n_dims or x.shape[-2] < 2 or not x.shape[-1]:
        raise ShapeError(
            f"`x` must have shape ({', '.join(wanted)}) for {method!r} with at least 2 stimuli, "
            f"got {tuple(x.shape)}."
        )
    if residuals is None:
        if method == "mahalanobis":
            raise DataError("`method='mahalanobis'` needs `residuals`, or take 'sqeuclidean'.")
        return
    if method not in WHITENED:
        raise DataError(f"`method={method!r}` takes no `residuals`.")
    if residuals.ndim != 2 or residuals.shape[1] != x.shape[-1]:
        raise ShapeError(
            f"`residuals` must have shape (n_residuals, {x.shape[-1]}), got "
            f"{tuple(residuals.shape)}."
        )
    if dof is None:
        raise DataError(
            "`residuals` need `dof`, their degrees of freedom: how many they are less the means "
            f"taken out of them. Of {residuals.shape[0]} trials less the mean of each of "
            f"{x.shape[-2]} stimuli, dof={residuals.shape[0] - x.shape[-2]}."
        )
