"""Scaling similarities to [0, 1], where SoftStep and the geo-topological transforms live."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from softrsa._checks import check_floating
from softrsa._ranks import average_ranks
from softrsa.errors import DataError, ShapeError, unknown_name
from softrsa.pairs import condense, expand, off_diagonal


def scale_similarities(s: Tensor, how: str, *, exclude_self: bool = True) -> Tensor:
    """Scale similarities to [0, 1], keeping their order.

    ============  ==========================================================================
    `row_minmax`  (s - min) / (max - min) within each anchor's row
    `minmax`      the same within each matrix
    `rank`        the same of the average ranks of all entries of a matrix
    `affine`      (1 + s) / 2, for similarities bounded by -1 and 1
    ============  ==========================================================================

    Parameters
    ----------
    s : Tensor, shape (..., n_anchors, n_neighbors)
        Similarities in any unit, float32 or float64; anchors are rows.
    how : str
        A name of the table above.
    exclude_self : bool
        Whether a square ``s`` compares stimuli with themselves. Its diagonal is then left out of
        every minimum, maximum and rank, and is 1 in the result. Rectangular ``s`` has no diagonal.

    Returns
    -------
    Tensor, shape (..., n_anchors, n_neighbors)
        Values in [0, 1]. A row (`row_minmax`) or matrix (`minmax`, `rank`) with a NaN off the
        diagonal is NaN off the diagonal.

    Raises
    ------
    DTypeError
        If ``s`` is neither float32 nor float64.
    UnknownNameError
        If ``how`` is not in the table.
    ShapeError
        If ``s`` has less than two dimensions, or no pair.
    DataError
        If all entries of a row (`row_minmax`) or matrix (`minmax`, `rank`) are equal, or
        `affine` meets a value outside [-1, 1]; the message names the first.

    Notes
    -----
    Differentiable except for `rank`, which passes no gradient. The diagonal never passes any.

    Examples
    --------
    >>> s = torch.tensor([[1.0, 0.5, 0.1], [0.5, 1.0, 0.3], [0.1, 0.3, 1.0]])
    >>> scale_similarities(s, "row_minmax")
    tensor([[1., 1., 0.],
            [1., 1., 0.],
            [0., 1., 1.]])
    >>> scale_similarities(s, "rank")
    tensor([[1.0000, 1.0000, 0.0000],
            [1.0000, 1.0000, 0.5000],
            [0.0000, 0.5000, 1.0000]])
    """
    check_floating(s=s)
    if how not in SCALINGS:
        raise unknown_name("scaling", how, SCALINGS)
    if s.ndim < 2 or 0 in s.shape[-2:]:
        raise ShapeError(
            f"`s` must have shape (..., n_anchors, n_neighbors), got {tuple(s.shape)}."
        )
    n = s.shape[-1]
    if not exclude_self or s.shape[-2] != n:
        return SCALINGS[how](s, None)
    if n < 2:
        raise ShapeError("`s` needs at least 2 stimuli when self-similarities are left out, got 1.")
    itself = torch.eye(n, dtype=torch.bool, device=s.device)
    return SCALINGS[how](s, itself).masked_fill(itself, 1.0)


def _row_minmax(s: Tensor, itself: Tensor | None) -> Tensor:
    return _minmax_over(s, itself, (-1,))


def _minmax(s: Tensor, itself: Tensor | None) -> Tensor:
    return _minmax_over(s, itself, (-2, -1))


def _minmax_over(s: Tensor, itself: Tensor | None, axes: tuple[int, ...]) -> Tensor:
    low = s if itself is None else s.masked_fill(itself, torch.inf)
    high = s if itself is None else s.masked_fill(itself, -torch.inf)
    low, high = low.amin(axes, keepdim=True), high.amax(axes, keepdim=True)
    _refuse_constant(low, low == high, len(axes))
    return (s - low) / (high - low)


def _refuse_constant(value: Tensor, constant: Tensor, n_axes: int) -> None:
    """Raise for the first constant row (one axis) or matrix (two axes)."""
    if not bool(constant.any()):
        return
    *lead, row, _ = constant.nonzero()[0].tolist()
    found = value[constant][0].item()
    names = [f"row {row}"] if n_axes == 1 else []
    names += [f"matrix {tuple(lead)}"] if lead else [] if names else ["the matrix"]
    raise DataError(
        f"All similarities of {' of '.join(names)} are {found:.6g}, so they have no scale from 0 "
        f"to 1 ({int(constant.sum())} such in all). Leave out stimuli that do not differ."
    )


def _rank(s: Tensor, itself: Tensor | None) -> Tensor:
    s = s.detach()
    if itself is None:
        return _scaled_ranks(s.flatten(-2)).unflatten(-1, s.shape[-2:])
    if torch.equal(s, s.mT):  # each pair twice: the same scaled ranks from half the sorting
        return expand(_scaled_ranks(condense(s)), 1.0)
    n = s.shape[-1]
    ranks = _scaled_ranks(off_diagonal(s)).unflatten(-1, (n - 1, n))
    flat = torch.nn.functional.pad(ranks, (1, 0)).flatten(-2)  # see `pairs.off_diagonal`
    return torch.nn.functional.pad(flat, (0, 1)).unflatten(-1, (n, n))


def _scaled_ranks(values: Tensor) -> Tensor:
    """Average ranks, counted in float64 and min-max scaled; NaN where any of ``values`` is NaN."""
    undefined = values.isnan().any(-1, keepdim=True)
    low, high = torch.aminmax(values, dim=-1, keepdim=True)
    _refuse_constant(low.unsqueeze(-1), (low == high).unsqueeze(-1), 2)
    ranks = average_ranks(values.double())
    low, high = torch.aminmax(ranks, dim=-1, keepdim=True)
    return ((ranks - low) / (high - low)).to(values.dtype).masked_fill(undefined, torch.nan)


def _affine(s: Tensor, itself: Tensor | None) -> Tensor:
    beyond = s.detach().abs() > 1 + torch.finfo(s.dtype).eps ** 0.75  # rounding of long sums
    if itself is not None:
        beyond = beyond & ~itself
    if bool(beyond.any()):
        index = tuple(beyond.nonzero()[0].tolist())
        raise DataError(
            f"`affine` needs similarities in [-1, 1], got {s[index].item():.6g} at {index} and "
            f"{int(beyond.sum()) - 1} more outside. Use 'minmax', 'row_minmax' or 'rank'."
        )
    return ((1 + s) / 2).clamp(0.0, 1.0)


SCALINGS: dict[str, Callable[[Tensor, Tensor | None], Tensor]] = {
    "row_minmax": _row_minmax,
    "minmax": _minmax,
    "rank": _rank,
    "affine": _affine,
}
