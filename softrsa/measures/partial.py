"""Correlations between RSMs given others: what controls explain of them is removed first."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from softrsa._checks import check_broadcast, check_floating
from softrsa._ranks import average_ranks, rounding_of
from softrsa.errors import DataError, ShapeError
from softrsa.measures.correlation import centered, check_pairs, cosine
from softrsa.measures.registry import MEASURES, Measure
from softrsa.transforms.center import center_held, double_center

TWICE = 2  # once more, for what rounding has left


def partial_correlation(x: Tensor, y: Tensor, control: Tensor, *, rank: bool = False) -> Tensor:
    r"""Correlation of two condensed RSMs given others: partial Pearson, or partial Spearman.

    .. math:: r(x, y \mid C) = \cos(x - P_C x,\; y - P_C y)

    with :math:`P_C` the least-squares fit by the controls and a constant.

    Parameters
    ----------
    x, y : Tensor, shape (..., n_pairs)
        Pairs of two RSMs in the same order; any unit; leading dimensions broadcast.
    control : Tensor, shape (n_pairs,) or (..., n_controls, n_pairs)
        Pairs of what is held constant, such as low-level similarity. Controls may be collinear:
        what another explains counts once. A constant one removes nothing.
    rank : bool
        Whether everything is replaced by its average ranks first: partial Spearman.

    Returns
    -------
    Tensor, shape (...)
        Correlation in [-1, 1]. NaN where the controls explain all of ``x`` or of ``y`` but
        rounding, as where a control is ``x`` itself, and where a value is missing.

    Raises
    ------
    DTypeError
        If a tensor is not float32 or float64.
    ShapeError
        If they do not have the same number of pairs, or there are fewer than ``n_controls + 3``:
        with fewer the residuals always agree.

    Notes
    -----
    Differentiable wherever it is defined, without ``rank``. Computed in float64. What is removed is
    linear in the control, of ranks linear in its ranks: two RSMs that follow the control along the
    same curve keep that in common. Sums of squared distances that share nothing but the control
    have a partial Pearson correlation of 0, and a small positive partial Spearman correlation.

    References
    ----------
    Legendre & Legendre (2012), Numerical ecology, section 10.5; `scipy.stats` has no such function,
    ``pingouin.partial_corr`` gives the same numbers.

    Examples
    --------
    >>> x, y = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]), torch.tensor([2.0, 1.0, 4.0, 3.0, 5.0])
    >>> control = torch.tensor([1.0, 1.0, 3.0, 3.0, 6.0])
    >>> round(float(partial_correlation(x, y, control)), 3)
    -0.4
    """
    control = _checked(x, y, control)
    axes = orthonormal(_embedded(control, rank=rank), _size(control, rank=rank))
    rest = [unexplained(_embedded(v, rank=rank), axes, _size(v, rank=rank)) for v in (x, y)]
    return cosine(*rest).to(torch.promote_types(x.dtype, y.dtype))


def semipartial_correlation(x: Tensor, y: Tensor, control: Tensor, *, rank: bool = False) -> Tensor:
    r"""Correlation of what controls leave of one condensed RSM with all of another.

    Its square is the share of the variance of ``y`` that ``x`` explains beyond the controls.

    .. math:: r(x - P_C x,\; y)

    Parameters
    ----------
    x : Tensor, shape (..., n_pairs)
        Pairs of the RSM of which the controls are removed: the model.
    y : Tensor, shape (..., n_pairs)
        Pairs of the RSM that stays as it is: the brain.
    control : Tensor, shape (n_pairs,) or (..., n_controls, n_pairs)
        What is removed from ``x``; see `partial_correlation`.
    rank : bool
        Whether everything is replaced by its average ranks first.

    Returns
    -------
    Tensor, shape (...)
        Correlation in [-1, 1], never farther from 0 than `partial_correlation`. NaN where the
        controls explain all of ``x`` but rounding, ``y`` is constant, or a value is missing.

    Raises
    ------
    DTypeError, ShapeError
        As `partial_correlation`.

    References
    ----------
    Cohen, Cohen, West & Aiken (2003), Applied multiple regression, section 3.3.

    Examples
    --------
    >>> x, y = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]), torch.tensor([2.0, 1.0, 4.0, 3.0, 5.0])
    >>> control = torch.tensor([1.0, 1.0, 3.0, 3.0, 6.0])
    >>> round(float(semipartial_correlation(x, y, control)), 3)
    -0.151
    """
    control = _checked(x, y, control)
    axes = orthonormal(_embedded(control, rank=rank), _size(control, rank=rank))
    rest = unexplained(_embedded(x, rank=rank), axes, _size(x, rank=rank))
    whole = unexplained(_embedded(y, rank=rank), axes[..., :0, :], _size(y, rank=rank))
    return cosine(rest, whole).to(torch.promote_types(x.dtype, y.dtype))


def _checked(x: Tensor, y: Tensor, control: Tensor) -> Tensor:
    """Give controls (..., n_controls, n_pairs) that go with two RSMs."""
    check_pairs(x=x, y=y)
    check_floating(control=control)
    control = control[None] if control.ndim == 1 else control
    n_controls, n_pairs = control.shape[-2:] if control.ndim > 1 else (0, 0)
    if n_pairs != x.shape[-1] or not n_controls:
        raise ShapeError(
            "`control` must have shape (n_pairs,) or (..., n_controls, n_pairs) with the "
            f"{x.shape[-1]} pairs of `x` and `y`, got {tuple(control.shape)}."
        )
    check_broadcast(1, x=x, y=y)
    check_left(n_pairs, n_controls)
    return control


def check_left(n_pairs: int, n_controls: int, of: str = "") -> None:
    """Refuse so many controls that nothing is left to correlate."""
    if n_pairs < n_controls + 3:
        raise ShapeError(
            f"Given {n_controls} controls, a correlation needs at least {n_controls + 3} pairs"
            f"{of}, got {n_pairs}: what is left of two RSMs would always agree. Use more stimuli "
            "(fewer folds) or fewer controls."
        )


def check_stimuli_left(n_stimuli: int, n_controls: int, measure: Measure) -> None:
    """Refuse too few stimuli for so many controls under a measure."""
    n_pairs = n_stimuli * (n_stimuli - 1) // 2
    if measure.embed is not None and measure.embed.offsets == "removed":
        # centering takes one number per stimulus, of which the constant is one
        check_left(n_pairs - n_stimuli + 1, n_controls, " beyond row and column means")
    else:
        check_left(n_pairs, n_controls)


def _embedded(x: Tensor, *, rank: bool) -> Tensor:
    """Deviations of values or ranks, float64."""
    return centered(average_ranks(x, torch.float64) if rank else x.double())


def _size(x: Tensor, *, rank: bool) -> Tensor:
    """Length (..., 1) that is rounding in vectors of the type and size of ``x`` (..., m)."""
    n = x.shape[-1]
    if rank:
        whole = x.new_full((*x.shape[:-1], 1), float(n), dtype=torch.float64)
        return rounding_of(whole, whole) * n**0.5
    low, high = torch.aminmax(x.detach(), dim=-1, keepdim=True)
    return rounding_of(low.double(), high.double(), x.dtype) * n**0.5


def orthonormal(vectors: Tensor, size: Tensor) -> Tensor:
    """Orthonormal vectors (..., k, m) that span the same; 0 for those that earlier ones explain.

    ``size`` (..., k, 1) is the length that counts as rounding in each.
    """
    axes: list[Tensor] = []
    for one, rounding in zip(vectors.unbind(-2), size.unbind(-2), strict=True):
        rest = one
        for _ in range(TWICE):
            for axis in axes:
                rest = rest - (rest * axis).sum(-1, keepdim=True) * axis
        length = rest.norm(dim=-1, keepdim=True)
        nothing = length <= rounding
        axes.append((rest / length.masked_fill(nothing, 1.0)).masked_fill(nothing, 0.0))
    return torch.stack(axes, -2)


def unexplained(vectors: Tensor, axes: Tensor, size: Tensor) -> Tensor:
    """Take from vectors (..., m) what orthonormal axes (..., k, m) explain; 0 up to ``size``."""
    rest = vectors
    for _ in range(TWICE):
        share = (rest.unsqueeze(-2) * axes).sum(-1, keepdim=True)
        rest = rest - (share * axes).sum(-2)
    return rest.masked_fill(rest.detach().norm(dim=-1, keepdim=True) <= size, 0.0)


def check_partial(measure: Measure) -> None:
    """Refuse a measure that is no correlation of vectors, and name those that are."""
    if not _is_partial(measure):
        able = ", ".join(row.name for row in MEASURES.values() if _is_partial(row))
        raise DataError(
            f"Given a control, scores are partial correlations, and {measure.name!r} has no "
            f"partial form. Use one of {able}, or leave out the control."
        )


def _is_partial(measure: Measure) -> bool:
    embed = measure.embed
    return embed is not None and embed.offsets != "whitened" and not embed.untied


def of_residuals(measure: Measure) -> Measure:
    """Give the measure that compares what controls leave: residuals of ranks are ranked no more."""
    check_partial(measure)
    is_ranked = measure.embed is not None and measure.embed.of == "ranks"
    return MEASURES["pearson"] if is_ranked else measure


def residual_squares(
    rsms: Tensor, control: Tensor, measure: Measure, held: Tensor | None = None
) -> Tensor:
    """Take from RSMs what controls explain of what a measure compares.

    Parameters
    ----------
    rsms : Tensor, shape (..., n, n)
        Square RSMs, float64, symmetric or not.
    control : Tensor, shape (..., k, n, n)
        Square RSMs of the same stimuli, float64.
    measure : Measure
        One with a partial form; see `check_partial`.
    held : Tensor of bool, shape (n, n), optional
        Pairs that are there in all RSMs, where some are missing.

    Returns
    -------
    Tensor, shape (..., n, n)
        Residuals of the entries off the diagonal, of ranks where the measure ranks, after centering
        where it centers; 0 on the diagonal, and everywhere if controls explain all but rounding;
        NaN for pairs that are not held. `of_residuals` scores them.
    """
    check_partial(measure)
    n = rsms.shape[-1]
    apart = ~torch.eye(n, dtype=torch.bool, device=rsms.device)
    pairs = apart if held is None else held
    if held is None:
        check_stimuli_left(n, control.shape[-3], measure)
    else:
        offsets = n - 1 if measure.on_squares else 0
        check_left(int(held.sum()) // 2 - offsets, control.shape[-3])
    rank = measure.embed is not None and measure.embed.of == "ranks"
    entries, given = rsms[..., pairs], control[..., pairs]
    sizes = _size(entries, rank=rank), _size(given, rank=rank)
    if measure.on_squares:
        center = double_center if held is None else partial(center_held, held=held)
        entries, given = (center(one)[..., pairs] for one in (rsms, control))
    else:
        entries, given = (_vectors(one, measure) for one in (entries, given))
    rest = unexplained(entries, orthonormal(given, sizes[1]), sizes[0])
    square = rest.new_full((*rest.shape[:-1], n, n), torch.nan).masked_fill(~apart, 0.0)
    square[..., pairs] = rest
    return square


def residual_pairs(values: Tensor, control: Tensor, measure: Measure) -> Tensor:
    """Take from entries (..., n_pairs), float64, what controls (k, n_pairs) explain of them."""
    rank = measure.embed is not None and measure.embed.of == "ranks"
    axes = orthonormal(_vectors(control, measure), _size(control, rank=rank))
    return unexplained(_vectors(values, measure), axes, _size(values, rank=rank))


def _vectors(entries: Tensor, measure: Measure) -> Tensor:
    """Embed entries (..., m): as they are, their deviations, or those of their ranks."""
    return entries if measure.embed is None else measure.embed.vectors(entries)
