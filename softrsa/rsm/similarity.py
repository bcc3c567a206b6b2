"""Representational similarity matrices: similarities between stimuli across units."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from softrsa._checks import broadcast_shape, check_broadcast, check_definite, check_floating
from softrsa._precision import RoundingWarning, warn_of_rounding
from softrsa._table import Table
from softrsa.errors import DataError, DTypeError, ShapeError, unknown_name
from softrsa.pairs import condense
from softrsa.rsm._blocks import (
    RULES,
    WIDE,
    fill,
    rule_maker,
    whole,
    write_condensed,
    write_mirrored,
    write_rows,
)

PART_BYTES = 2**24


def rbf_from_distances(
    negative: Tensor, bandwidth: float | str | None, *, dims: int, n_self: int = 0
) -> Tensor:
    """Turn minus distances into ``exp(-d^2 / 2 sigma^2)``, in place where no gradient is needed.

    The last ``dims`` dimensions are one RSM; ``n_self`` of its entries are zeros of the diagonal.
    """
    if isinstance(bandwidth, (int, float)):
        sigma: float | Tensor = float(bandwidth)
    else:
        sigma = median_distance(negative, dims, n_self)
        if bool((sigma == 0).any()):
            if not bool(negative.any()):
                raise DataError(
                    "All stimuli have the same responses, and the median distance between stimuli "
                    "is 0: `rbf` has no scale, and RBF CKA is undefined."
                )
            raise DataError(
                "The median distance between stimuli is 0, so it cannot be the `bandwidth` of "
                "'rbf': most responses are equal. Give `bandwidth` as a number."
            )
    if negative.requires_grad:
        return (-0.5 * (negative / sigma).square()).exp()
    return negative.div_(sigma).square_().mul_(-0.5).exp_()


def median_distance(negative: Tensor, dims: int, n_self: int) -> Tensor:
    """Median of the distances of each RSM, shape (..., 1[, 1]).

    The median of an even number is the mean of the middle two. A symmetric matrix holds every
    pair twice, which leaves the median as it is.
    """
    flat = negative.flatten(-dims)
    n = flat.shape[-1] - n_self
    low, high = n_self + (n - 1) // 2, n_self + n // 2  # places of the middle two
    if flat.requires_grad or flat.numel() * flat.itemsize <= PART_BYTES:
        ordered = flat.sort(-1, descending=True).values
        middle = -(ordered[..., low] + ordered[..., high]) / 2
    else:
        rows = flat.reshape(-1, flat.shape[-1])
        middle = torch.stack([_middle(row, low + 1, high + 1) for row in rows])
    return middle.reshape(*negative.shape[:-dims], *[1] * dims)


def _middle(negative: Tensor, low: int, high: int) -> Tensor:
    """Mean of the low-th and high-th smallest of many distances, without a copy of them.

    The first is found by bisection of the bits of positive numbers, which are in their order: so
    many rounds as there are bits, and the device is never waited for.
    """
    parts = negative.split(max(1, PART_BYTES // (2 * negative.itemsize)))

    def reached(distance: Tensor, place: int) -> Tensor:
        counts = [torch.count_nonzero(part >= -distance) for part in parts]
        return torch.stack(counts).sum() >= place

    largest = negative.amin().abs()
    above = largest.view(torch.int32 if negative.itemsize == 4 else torch.int64)
    below = torch.full_like(above, -1)  # the bits of a NaN, which no distance reaches
    for _ in range(8 * negative.itemsize - 1):
        center = below + (above - below) // 2
        enough = reached(center.view(negative.dtype), low)
        above, below = torch.where(enough, center, above), torch.where(enough, below, center)
    found = above.view(negative.dtype)
    following = torch.stack([part.where(part < -found, -torch.inf).amax() for part in parts])
    middle = torch.where(reached(found, high), found, (found - following.amax()) / 2)
    return middle.masked_fill(largest.isnan(), torch.nan)


Bandwidth = float | Literal["median"] | None


def check_arguments(
    x: Tensor,
    y: Tensor | None,
    row: Similarity,
    bandwidth: Bandwidth,
    precision: Tensor | None,
) -> None:
    """Check types first, then shapes, then options."""
    similarity = row.name
    tensors: dict[str, Tensor] = {"x": x}
    tensors |= {} if y is None else {"y": y}
    tensors |= {} if precision is None else {"precision": precision}
    check_floating(**tensors)
    for name in tensors.keys() - {"precision"}:
        if tensors[name].ndim < 2 or 0 in tensors[name].shape[-2:]:
            raise ShapeError(
                f"`{name}` must have shape (..., n_stimuli, n_units) with at least one of each, "
                f"got {tuple(tensors[name].shape)}."
            )
    if y is not None:
        _check_pair(x, y)
    if (precision is None) == (similarity == "mahalanobis"):
        verb = "needs a" if precision is None else "takes no"
        raise DataError(f"`similarity={similarity!r}` {verb} `precision`.")
    if precision is not None:
        _check_precision(x, precision)
    if bandwidth is not None and similarity != "rbf":
        raise DataError(f"`similarity={similarity!r}` takes no `bandwidth`, got {bandwidth!r}.")
    if isinstance(bandwidth, str) and bandwidth != "median":
        raise unknown_name("bandwidth", bandwidth, ["median"])
    if not isinstance(bandwidth, str | int | float | None) or isinstance(bandwidth, bool):
        raise DTypeError(f"`bandwidth` must be a number or 'median', got {bandwidth!r}.")
    if isinstance(bandwidth, (int, float)) and not 0 < bandwidth < math.inf:
        raise DataError(f"`bandwidth` must be positive and finite, got {bandwidth!r}.")


def _check_precision(x: Tensor, precision: Tensor) -> None:
    if precision.shape[-2:] != (x.shape[-1], x.shape[-1]):
        raise ShapeError(
            f"`precision` must have shape {(x.shape[-1], x.shape[-1])} for {x.shape[-1]} units, "
            f"got {tuple(precision.shape)}."
        )
    check_broadcast(2, x=x, precision=precision)
    check_definite(precision=precision)


def _check_pair(x: Tensor, y: Tensor) -> None:
    if x.dtype != y.dtype:
        raise DTypeError(f"`x` and `y` must have one number type, got {x.dtype} and {y.dtype}.")
    if x.shape[-1] != y.shape[-1]:
        raise ShapeError(
            f"`x` and `y` must have the same units: `x` has {x.shape[-1]}, `y` has {y.shape[-1]}."
        )
    try:
        broadcast_shape(x.shape[:-2], y.shape[:-2])
    except RuntimeError as error:
        raise ShapeError(
            "The leading dimensions of `x` and `y` must broadcast, "
            f"got {tuple(x.shape[:-2])} and {tuple(y.shape[:-2])}."
        ) from error


@dataclass(frozen=True, kw_only=True)
class Similarity:
    """A row of the table of similarities.

    Attributes
    ----------
    name : str
        By which it is known.
    words : str
        In the methods paragraph: what entries of an RSM are.
    bounded : bool
        Whether it lies in [-1, 1] by its nature, so that (1 + s) / 2 lies in [0, 1].
    function : callable, optional
        From units x (..., n, n_units) and y (..., m, n_units) to similarities (..., n, m). None for
        those of softrsa, which are computed block by block.

    Examples
    --------
    >>> row = Similarity(
    ...     name="overlap", words="overlaps", function=lambda x, y: x.sign() @ y.sign().mT
    ... )
    >>> similarity_matrix(torch.tensor([[1.0, -2.0], [3.0, 1.0]]), similarity=row)
    tensor([[2., 0.],
            [0., 2.]])
    """

    name: str
    words: str
    bounded: bool = False
    function: Callable[[Tensor, Tensor], Tensor] | None = None

    def __post_init__(self):
        if not (self.name and self.words):
            raise DataError(f"A similarity needs a `name` and `words`, got {self!r}.")
        if self.function is None and self.name not in RULES:
            raise DataError(f"Similarity {self.name!r} needs a `function` of x and y.")


SIMILARITY_TABLE: Table[Similarity] = Table("similarity", Similarity, "softrsa.rsm")
for _row in (
    Similarity(name="correlation", words="Pearson correlations across units", bounded=True),
    Similarity(name="cosine", words="cosines", bounded=True),
    Similarity(name="dot", words="inner products divided by the number of units"),
    Similarity(name="l2", words="negative Euclidean distances"),
    Similarity(name="l1", words="negative city-block distances"),
    Similarity(
        name="sqeuclidean",
        words="negative squared Euclidean distances divided by the number of units",
    ),
    Similarity(name="rbf", words="Gaussian kernels of Euclidean distances"),
    Similarity(
        name="mahalanobis",
        words="negative squared Mahalanobis distances divided by the number of units",
    ),
):
    SIMILARITY_TABLE.add(_row)
SIMILARITIES = tuple(RULES)  # that softrsa computes itself
SimilarityLike = str | Similarity | Callable[[Tensor, Tensor], Tensor]


def as_similarity(given: SimilarityLike) -> Similarity:
    """Look a similarity up by name; a row stays what it is, and a function becomes one."""
    if callable(given) and not isinstance(given, Similarity):
        name = getattr(given, "__name__", type(given).__name__)
        given = Similarity(name=name, words=f"similarities by {name}", function=given)
    return SIMILARITY_TABLE.row(given)


def check_rounding(x: Tensor, row: Similarity) -> None:
    """Warn where float32 responses do not determine a similarity."""
    if row.name in RULES and row.name not in ("cosine", "dot"):
        warn_of_rounding(x, f"`{row.name}`", within_rows=row.name == "correlation")
    if row.name in ("dot", "sqeuclidean") and x.dtype == torch.float32 and not x.requires_grad:
        square, kind = x.abs().max().double().square().item(), torch.finfo(x.dtype)
        if square > kind.max / 4 or 0 < square < kind.tiny / kind.eps:
            warnings.warn(
                RoundingWarning(
                    f"Responses of {square**0.5:.1g} have squares beyond what float32 holds, and "
                    f"`{row.name}` is made of these: use another unit, or float64."
                ),
                stacklevel=3,
            )


def _by_function(function: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
    """Similarities by a function of the user's own, symmetric for a set with itself."""
    result = function(x, y)
    wanted = (*broadcast_shape(x.shape[:-2], y.shape[:-2]), x.shape[-2], y.shape[-2])
    if not isinstance(result, Tensor) or result.shape != wanted:
        shape = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
        raise ShapeError(f"The similarity function must give shape {wanted}, got {shape}.")
    return (result + result.mT) / 2 if y is x else result


def similarity_matrix(
    x: Tensor,
    y: Tensor | None = None,
    *,
    similarity: SimilarityLike = "correlation",
    bandwidth: Bandwidth = None,
    precision: Tensor | None = None,
) -> Tensor:
    r"""Similarity of every stimulus of ``x`` to every stimulus of ``y`` (of ``x`` by default).

    With rows :math:`x, y` of :math:`p` units, larger is always more similar:

    ==============  ======================================================================
    `correlation`   Pearson correlation across units
    `cosine`        :math:`\langle x, y\rangle / \lVert x\rVert\lVert y\rVert`
    `dot`           :math:`\langle x, y\rangle / p`
    `l2`, `l1`      :math:`-\lVert x - y\rVert_2`, :math:`-\lVert x - y\rVert_1`
    `sqeuclidean`   :math:`-\lVert x - y\rVert_2^2 / p`: minus rsatoolbox's "euclidean"
    `rbf`           :math:`\exp(-\lVert x - y\rVert_2^2 / 2\sigma^2)`
    `mahalanobis`   :math:`-(x - y)^\top P (x - y) / p`
    ==============  ======================================================================

    Parameters
    ----------
    x : Tensor, shape (..., n, n_units)
        Responses, float32 or float64, in any unit.
    y : Tensor, shape (..., m, n_units), optional
        Responses of other stimuli in the same units; leading dimensions broadcast with ``x``'s.
    similarity : str, Similarity or callable
        A name of the table above, or a function of your own: from ``x`` and ``y`` to (..., n, m).
    bandwidth : float or "median", optional
        :math:`\sigma` of `rbf`, in units of the Euclidean distance. None means "median": of the
        distances between different rows (all rows of ``x`` to all of ``y``), per matrix.
    precision : Tensor, shape (..., n_units, n_units), optional
        :math:`P` of `mahalanobis`, which needs it; leading dimensions broadcast with ``x``'s.

    Returns
    -------
    Tensor, shape (..., n, m)
        Without ``y`` exactly symmetric, with an exact 1 (`correlation`, `cosine`, `rbf`) or
        0 (distances) on the diagonal. NaN in the row and column of a stimulus whose response is
        constant (`correlation`) or zero (`cosine`), where the similarity is undefined.

    Raises
    ------
    DTypeError
        If a tensor is neither float32 nor float64, or they differ.
    UnknownNameError
        If ``similarity`` is not in the table.
    ShapeError
        If the shapes do not fit each other.
    DataError
        If ``precision`` or ``bandwidth`` does not suit the similarity, or ``precision`` is not
        symmetric and positive definite.

    Notes
    -----
    Distances are summed in float64 and pairs of nearly equal rows are taken one by one, so no
    digits are lost. `correlation`, `cosine` and `dot` multiply in the type of the input and add up
    stretches of units in float64. Under `torch.autocast` these three multiply float32 responses in
    its type (and entries are rounded to it; in float16, `dot` must stay below 65504 times the
    number of units); everything else, and the result, has the type of the input. Without gradient,
    memory beside the result stays below 200 MB; with gradient, a graph of the whole computation is
    held. Where two rows coincide, the gradient of `l2` and `l1` is 0; that of `rbf` flows through
    the median bandwidth too.

    References
    ----------
    Kriegeskorte, Mur & Bandettini (2008), doi:10.3389/neuro.06.004.2008.

    Examples
    --------
    >>> x = torch.tensor([[1.0, 2.0, 3.0], [2.0, 4.0, 6.0], [3.0, 1.0, 2.0]])
    >>> similarity_matrix(x)
    tensor([[ 1.0000,  1.0000, -0.5000],
            [ 1.0000,  1.0000, -0.5000],
            [-0.5000, -0.5000,  1.0000]])
    >>> similarity_matrix(x[:1], x[1:], similarity="sqeuclidean")
    tensor([[-4.6667, -2.0000]])
    """
    row = as_similarity(similarity)
    check_arguments(x, y, row, bandwidth, precision)
    check_rounding(x, row)
    if row.function is not None:
        return _by_function(row.function, x, x if y is None else y)
    similarity = row.name
    if precision is not None and precision.ndim > 2:
        return _each_precision(similarity_matrix, x, y, precision)
    if y is not None:
        lead = broadcast_shape(x.shape[:-2], y.shape[:-2])
        x, y = x.expand(*lead, -1, -1), y.expand(*lead, -1, -1)
    make = rule_maker(similarity, precision)
    if _needs_grad(x, y, precision):
        result = whole(x, y, make)
    else:
        result = x.new_empty(*x.shape[:-1], (x if y is None else y).shape[-2])
        write = write_mirrored if y is None else write_rows
        fill(result, x, y, make, write, wide=similarity in WIDE)
    if similarity == "rbf":
        return rbf_from_distances(
            result, bandwidth, dims=2, n_self=0 if y is not None else x.shape[-2]
        )
    return result


def condensed_similarity(
    x: Tensor,
    *,
    similarity: SimilarityLike = "correlation",
    bandwidth: Bandwidth = None,
    precision: Tensor | None = None,
) -> Tensor:
    """Upper triangle of `similarity_matrix`, without ever holding the square.

    Parameters
    ----------
    x : Tensor, shape (..., n_stimuli, n_units)
        Responses, float32 or float64; at least two stimuli.
    similarity, bandwidth, precision
        As in `similarity_matrix`.

    Returns
    -------
    Tensor, shape (..., n_pairs)
        Similarities in the order of `softrsa.pairs.condense`.

    Raises
    ------
    ShapeError
        If there are fewer than two stimuli; otherwise the errors of `similarity_matrix`.

    Notes
    -----
    Half the multiplications and half the memory of the square. With gradient, the square is made.

    Examples
    --------
    >>> condensed_similarity(torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0]]), similarity="l2")
    tensor([-5.0000, -1.0000, -4.2426])
    """
    row = as_similarity(similarity)
    check_arguments(x, None, row, bandwidth, precision)
    check_rounding(x, row)
    similarity, n = row.name, x.shape[-2]
    if n < 2:
        raise ShapeError(f"`x` needs at least 2 stimuli to make a pair, got {n}.")
    if row.function is not None:
        return condense(_by_function(row.function, x, x))
    if precision is not None and precision.ndim > 2:
        return _each_precision(condensed_similarity, x, None, precision)
    make = rule_maker(similarity, precision)
    if _needs_grad(x, precision):
        result = condense(whole(x, None, make))
    else:
        result = x.new_empty(*x.shape[:-2], n * (n - 1) // 2)
        fill(result, x, None, make, write_condensed, wide=similarity in WIDE)
    return rbf_from_distances(result, bandwidth, dims=1) if similarity == "rbf" else result


def _each_precision(
    compute: Callable[..., Tensor], x: Tensor, y: Tensor | None, precision: Tensor
) -> Tensor:
    """Compute Mahalanobis similarities one precision after the other."""
    given = [x, precision] if y is None else [x, precision, y]
    lead = broadcast_shape(*(tensor.shape[:-2] for tensor in given))
    flat = [tensor.expand(*lead, -1, -1).flatten(0, -3) for tensor in given]
    results = [
        compute(one, *other, similarity="mahalanobis", precision=matrix)
        for one, matrix, *other in zip(*flat, strict=True)
    ]
    return torch.stack(results).unflatten(0, lead)


def _needs_grad(*tensors: Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
