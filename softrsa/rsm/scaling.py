"""Scaling similarities to [0, 1], where SoftStep and the geo-topological transforms live."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from softrsa._checks import broadcast_shape, check_floating
from softrsa._ranks import average_ranks, in_order, is_rounding, rounding_of
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
        Values in [0, 1]. The least and the largest entry of a row (`row_minmax`) or matrix
        (`minmax`, `rank`), and -1 and 1 under `affine`, become exactly 0 and 1; so does what is
        within rounding of them. A row or matrix with a NaN off the diagonal is NaN off the
        diagonal.

    Raises
    ------
    DTypeError
        If ``s`` is neither float32 nor float64.
    UnknownNameError
        If ``how`` is not in the table.
    ShapeError
        If ``s`` has less than two dimensions, or no pair.
    DataError
        If all entries of a row (`row_minmax`) or matrix (`minmax`, `rank`) are equal within
        rounding, or `affine` meets a value outside [-1, 1]; the message names the first.

    Notes
    -----
    Within rounding of an end is what differs from it by at most 8 (in float64 1024) units in the
    last place of the largest of both ends and the self-similarity: which of several equal pairs
    comes out least depends on the processor, and a SoftStep may be infinitely steep at 0.

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
    itself = _checked(s, how, exclude_self)
    scaled = SCALINGS[how](s, itself)
    return scaled if itself is None else scaled.masked_fill(itself, 1.0)


@dataclass(frozen=True)
class Scaling:
    """Scaling to [0, 1] by numbers that were learned on other similarities of the same kind.

    A held-out block is in the unit of the training stimuli, so that bounds learned on these mean
    the same for it, and a matrix times any positive factor is scaled alike. What lies beyond the
    similarities learned on becomes 0 or 1.

    ``numbers`` have the leading dimensions of the similarities learned on. `minmax`: the least and
    the largest and what differs by rounding, (..., 1, 1) each. `rank`: all pairs in order, (...,
    n_pairs), among which a similarity has, or would have, its average rank. Nothing for `affine`,
    which is the same everywhere, and `row_minmax`: a new anchor has a row of its own.
    """

    how: str
    numbers: tuple[Tensor, ...] = ()

    @classmethod
    def fit(cls, s: Tensor, how: str, *, exclude_self: bool = True) -> Scaling:
        """Learn from similarities (..., n_anchors, n_neighbors); errors of `scale_similarities`."""
        itself = _checked(s, how, exclude_self)
        if how == "minmax":
            return cls(how, _ends(s, itself, (-2, -1)))
        if how == "rank":
            pairs = s.detach().flatten(-2) if itself is None else _pairs(s.detach())
            low, high = pairs.amin(-1), pairs.amax(-1)
            constant = is_rounding(low, high, rounding_of(low, high))
            _refuse_constant(low[..., None, None], constant[..., None, None], 2)
            return cls(how, (in_order(pairs.contiguous()),))
        return cls(how)

    def __call__(self, s: Tensor, *, exclude_self: bool = True) -> Tensor:
        """Scale similarities (..., n_anchors, n_neighbors) of any stimuli."""
        if not self.numbers:
            return scale_similarities(s, self.how, exclude_self=exclude_self)
        itself = _checked(s, self.how, exclude_self)
        numbers = [number.to(s) for number in self.numbers]
        if self.how == "rank":
            scaled = _ranks_among(numbers[0], s.detach())
        else:
            low, high, rounding = numbers
            scaled = between(s, low, high, rounding)
        return scaled if itself is None else scaled.masked_fill(itself, 1.0)

    def fits(self, s: Tensor) -> bool:
        """Whether there are numbers for each of so many similarities, or none are needed."""
        n_own = 1 if self.how == "rank" else 2  # dimensions of what was learned of one matrix
        return not self.numbers or self.numbers[0].shape[:-n_own] == s.shape[:-2]

    def __getitem__(self, index: int | slice | Sequence[int]) -> Scaling:
        """Take members of the first leading dimension, such as one fit or some subjects."""
        return Scaling(self.how, tuple(number[index] for number in self.numbers))


def _checked(s: Tensor, how: str, exclude_self: bool) -> Tensor | None:
    """Check the arguments; where similarities of stimuli with themselves are, if anywhere."""
    check_floating(s=s)
    if how not in SCALINGS:
        raise unknown_name("scaling", how, SCALINGS)
    if s.ndim < 2 or 0 in s.shape[-2:]:
        raise ShapeError(
            f"`s` must have shape (..., n_anchors, n_neighbors), got {tuple(s.shape)}."
        )
    n = s.shape[-1]
    if not exclude_self or s.shape[-2] != n:
        return None
    if n < 2:
        raise ShapeError("`s` needs at least 2 stimuli when self-similarities are left out, got 1.")
    return torch.eye(n, dtype=torch.bool, device=s.device)


def _minmax(s: Tensor, itself: Tensor | None, axes: tuple[int, ...]) -> Tensor:
    return between(s, *_ends(s, itself, axes))


def _ends(s: Tensor, itself: Tensor | None, axes: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Least and largest similarity off the diagonal, and what differs by rounding only."""
    low = s if itself is None else s.masked_fill(itself, torch.inf)
    high = s if itself is None else s.masked_fill(itself, -torch.inf)
    low, high = low.amin(axes, keepdim=True), high.amax(axes, keepdim=True)
    rounding = rounding_of(low, high)
    if itself is not None:  # what is summed up is as large as this, even where the sum is not
        own = s.detach().diagonal(dim1=-2, dim2=-1).abs().unsqueeze(-1)
        own = own.masked_fill(~own.isfinite(), 0.0)
        own = own if axes == (-1,) else own.amax(-2, keepdim=True)
        rounding = torch.maximum(rounding, rounding_of(own, own))
    _refuse_constant(low, is_rounding(low, high, rounding), len(axes))
    return low, high, rounding


def undefined_where_constant(s: Tensor, how: str) -> Tensor:
    """Put NaN into square matrices (..., n, n) that have no scale, or a row that has none.

    Among many, one that cannot be scaled then says so for itself, and the others go on.
    """
    if how == "affine":
        return s
    itself = torch.eye(s.shape[-1], dtype=torch.bool, device=s.device)
    axes = (-1,) if how == "row_minmax" else (-2, -1)
    low = s.masked_fill(itself, torch.inf).amin(axes, keepdim=True)
    high = s.masked_fill(itself, -torch.inf).amax(axes, keepdim=True)
    own = s.diagonal(dim1=-2, dim2=-1).abs().amax(-1)[..., None, None]
    rounding = torch.maximum(rounding_of(low, high), rounding_of(own, own))
    constant = is_rounding(low, high, rounding).any(-2, keepdim=True)
    return s.masked_fill(constant, torch.nan)


def between(s: Tensor, low: Tensor, high: Tensor, rounding: Tensor) -> Tensor:
    """Share of the way from ``low`` to ``high``: exactly 0 and 1 there, within rounding, beyond."""
    share = (s - low) / (high - low)
    return share.masked_fill(s <= low + rounding, 0.0).masked_fill(s >= high - rounding, 1.0)


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
    constant = is_rounding(low, high, rounding_of(low, high))
    _refuse_constant(low.unsqueeze(-1), constant.unsqueeze(-1), 2)
    ranks = average_ranks(values, torch.float64)
    low, high = torch.aminmax(ranks, dim=-1, keepdim=True)
    return ((ranks - low) / (high - low)).to(values.dtype).masked_fill(undefined, torch.nan)


def _pairs(s: Tensor) -> Tensor:
    """Off-diagonal entries, each pair once where the matrices are symmetric."""
    return condense(s) if torch.equal(s, s.mT) else off_diagonal(s)


def _ranks_among(ordered: Tensor, s: Tensor) -> Tensor:
    """Min-max scaled average ranks that entries have, or would have, among values in order."""
    shape = broadcast_shape(ordered.shape[:-1], s.shape[:-2])
    ordered = ordered.expand(*shape, -1).contiguous()
    values = s.expand(*shape, -1, -1).flatten(-2).contiguous()
    ends = torch.stack([ordered[..., 0], ordered[..., -1]], -1)
    rounding = rounding_of(ends[..., :1], ends[..., 1:])
    ranks, limits = (
        (
            torch.searchsorted(ordered, x - rounding)
            + torch.searchsorted(ordered, x + rounding, right=True)
        ).double()
        / 2
        for x in (values, ends)
    )
    low, high = limits.split(1, -1)
    scaled = ((ranks - low) / (high - low)).clamp(0.0, 1.0).to(s.dtype)
    undefined = ordered[..., -1:].isnan() | values.isnan()
    return scaled.masked_fill(undefined, torch.nan).unflatten(-1, s.shape[-2:])


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
    one = torch.ones((), dtype=s.dtype, device=s.device)
    return between(s, -one, one, rounding_of(-one, one))


SCALINGS: dict[str, Callable[[Tensor, Tensor | None], Tensor]] = {
    "row_minmax": partial(_minmax, axes=(-1,)),
    "minmax": partial(_minmax, axes=(-2, -1)),
    "rank": _rank,
    "affine": _affine,
}
