"""Geo-topological (GT) transforms of RDMs: hard thresholds below and above."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from numbers import Real
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from softrsa._checks import broadcast_shape, check_floating, check_symmetric, holds
from softrsa._ranks import average_ranks, in_order, rounding_of, sorted_quantile, tied
from softrsa.errors import DataError, DTypeError, ShapeError, unknown_name
from softrsa.pairs import check_pairs, condense, expand

Preset = Literal["trsa", "quantile", "value"]


def geo_topological(
    rdm: Tensor, lower: float | Tensor, upper: float | Tensor, *, preset: Preset = "trsa"
) -> Tensor:
    r"""Clamp an RDM between two thresholds and rescale: small distances 0, large ones 1.

    .. math:: GT_{l,u}(d) = 0 \;(d < l), \quad 1 \;(d > u), \quad \frac{d - l}{u - l}
              \text{ between}

    Parameters
    ----------
    rdm : Tensor, shape (..., n_stimuli, n_stimuli) or (..., n_pairs)
        Dissimilarities: square symmetric RDMs, of which the upper triangle is read, or condensed
        ones in the order of `softrsa.pairs.condense`. Equal last two dimensions mean square.
    lower, upper : float or Tensor, shape (...)
        Thresholds with ``lower <= upper``; tensors broadcast against the leading dimensions, so a
        grid of thresholds is one call. Quantiles in [0, 1] for ``"trsa"`` and ``"quantile"``,
        dissimilarities for ``"value"``.
    preset : {"trsa", "quantile", "value"}
        ``"trsa"``: average ranks, scaled to [0, 1], thresholds at quantiles of each RDM (the
        published procedure). ``"quantile"``: quantiles of the raw values of each RDM.
        ``"value"``: thresholds are values.

    Returns
    -------
    Tensor
        GT-transformed RDMs in [0, 1], square with a zero diagonal or condensed, like ``rdm``.
        With ``lower == upper`` a hard step that is 0 at the threshold itself. NaN under
        ``"trsa"`` where an RDM is constant, because its ranks then have no range.

    Raises
    ------
    UnknownNameError
        If ``preset`` is not one of the three.
    DTypeError
        If ``rdm`` is not float32 or float64.
    ShapeError
        If ``rdm`` is neither square nor as long as pairs of stimuli are.
    DataError
        If ``rdm`` is not symmetric, or infinite somewhere, ``lower > upper``, or a quantile is
        outside [0, 1].

    Notes
    -----
    Values are equal, or at a threshold, if they are so within rounding: 8 units in the last place
    of the largest, 1024 in float64. Thresholds are taken per RDM, never over the stack, and nothing
    is written in place. Ranks pass no gradient; the ``"value"`` preset passes it between the
    thresholds.

    References
    ----------
    Lin & Kriegeskorte (2024), PNAS 121(42), doi:10.1073/pnas.2317881121.

    Examples
    --------
    >>> geo_topological(torch.tensor([0.1, 0.9, 0.4]), 0.0, 1.0)
    tensor([0.0000, 1.0000, 0.5000])
    >>> geo_topological(torch.tensor([0.1, 0.9, 0.4]), 0.4, 0.4, preset="value")
    tensor([0., 1., 0.])
    """
    values, square = comparable(rdm, lower, upper, preset)
    low, high = _thresholds(values, lower, upper, preset)
    ramp = (values - low) / torch.where(high > low, high - low, 1.0)
    rounding = _rounding(values)
    below = values <= low + rounding
    clamped = ramp.masked_fill(below, 0.0).masked_fill((values >= high - rounding) & ~below, 1.0)
    return expand(clamped) if square else clamped


class GeoTopological(nn.Module):
    """`geo_topological` with its thresholds and preset, as a module.

    Parameters
    ----------
    lower, upper : float
        Thresholds with ``lower <= upper``; see `geo_topological`.
    preset : {"trsa", "quantile", "value"}
        What the thresholds refer to.

    Examples
    --------
    >>> GeoTopological(0.0, 0.5)(torch.tensor([0.1, 0.9, 0.4]))
    tensor([0., 1., 1.])
    """

    def __init__(self, lower: float, upper: float, preset: Preset = "trsa"):
        super().__init__()
        if preset not in get_args(Preset):
            raise unknown_name("preset", preset, get_args(Preset))
        _check_thresholds(lower, upper, preset)
        self.lower = float(lower)
        self.upper = float(upper)
        self.preset: Preset = preset

    def forward(self, rdm: Tensor) -> Tensor:
        """Transform RDMs; see `geo_topological`."""
        return geo_topological(rdm, self.lower, self.upper, preset=self.preset)

    def extra_repr(self) -> str:
        """Show the thresholds and what they refer to."""
        return f"lower={self.lower:.3g}, upper={self.upper:.3g}, preset={self.preset!r}"


def comparable(
    rdm: Tensor, lower: float | Tensor, upper: float | Tensor, preset: Preset
) -> tuple[Tensor, bool]:
    """Check everything; condensed RDMs that thresholds are compared with, and whether square."""
    if preset not in get_args(Preset):
        raise unknown_name("preset", preset, get_args(Preset))
    check_floating(rdm=rdm)
    _check_thresholds(lower, upper, preset)
    square = rdm.ndim > 1 and rdm.shape[-1] == rdm.shape[-2]
    if square:
        check_symmetric(rdm=rdm)
    else:
        check_pairs(rdm=rdm)
    values = condense(rdm) if square else rdm
    if not holds(~values.isinf().any()):
        raise DataError(
            f"`rdm` must be finite, got {int(values.isinf().sum())} infinite dissimilarities. "
            "Leave those stimuli out, or set them to NaN."
        )
    return (_unit_ranks if preset == "trsa" else tied)(values), square


def _rounding(values: Tensor) -> Tensor:
    """Difference from a threshold that is none, (..., 1)."""
    low, high = torch.aminmax(values.detach(), dim=-1, keepdim=True)
    return rounding_of(low, high)


def _check_thresholds(lower: float | Tensor, upper: float | Tensor, preset: Preset) -> None:
    """Check that thresholds are in order, and quantiles where they are to be."""
    for name, value in (("lower", lower), ("upper", upper)):
        if isinstance(value, bool) or not isinstance(value, (Tensor, Real)):
            raise DTypeError(f"`{name}` must be a number or a torch.Tensor, got {value!r}.")
    try:
        ordered = torch.as_tensor(lower <= upper)
    except RuntimeError as error:
        shapes = [tuple(value.shape) for value in (lower, upper) if isinstance(value, Tensor)]
        raise ShapeError(
            f"`lower` and `upper` must broadcast, got {' and '.join(map(str, shapes))}."
        ) from error
    if not holds(ordered.all()):
        raise DataError(f"`lower` must not exceed `upper`, got {lower=}, {upper=}.")
    inside = (torch.as_tensor(lower >= 0), torch.as_tensor(upper <= 1))
    if preset != "value" and not all(holds(one.all()) for one in inside):
        raise DataError(
            f"With preset {preset!r} the thresholds are quantiles in [0, 1], got {lower=}, "
            f"{upper=}. For thresholds in the unit of the RDM use preset='value'."
        )


def _unit_ranks(values: Tensor) -> Tensor:
    """Average ranks scaled to [0, 1]; NaN where all values are equal."""
    ranks = average_ranks(values)
    low = ranks.amin(-1, keepdim=True)
    return (ranks - low) / (ranks.amax(-1, keepdim=True) - low)


def _thresholds(
    values: Tensor, lower: float | Tensor, upper: float | Tensor, preset: Preset
) -> tuple[Tensor, Tensor]:
    """Both thresholds in the unit of ``values``, shape (..., 1)."""
    low, high = (
        torch.as_tensor(x, dtype=values.dtype, device=values.device) for x in (lower, upper)
    )
    try:
        broadcast_shape(low.shape, high.shape, values.shape[:-1])
    except RuntimeError as error:
        raise ShapeError(
            f"`lower` {tuple(low.shape)} and `upper` {tuple(high.shape)} must broadcast against "
            f"the leading dimensions {tuple(values.shape[:-1])} of `rdm`."
        ) from error
    if preset != "value":
        ordered = in_order(values)
        low, high = sorted_quantile(ordered, low), sorted_quantile(ordered, high)
    return low.unsqueeze(-1), high.unsqueeze(-1)


PART = 2**21  # entries of transformed RDMs that are held at once


def geo_topological_grid(
    rdm: Tensor,
    lower: Tensor | Sequence[float],
    upper: Tensor | Sequence[float],
    *,
    preset: Preset = "trsa",
) -> Iterator[Tensor]:
    """Transform RDMs at one pair of thresholds after another, some at a time.

    What `geo_topological` gives for ``lower[0], upper[0]``, then for ``lower[1], upper[1]`` and so
    on; but RDMs are ranked and sorted once, not for every pair, and a grid of any size fits into
    memory.

    Parameters
    ----------
    rdm : Tensor, shape (..., n_stimuli, n_stimuli) or (..., n_pairs)
        Dissimilarities, square or condensed; see `geo_topological`.
    lower, upper : Tensor or sequence of float, shape (n_thresholds,)
        Pairs of thresholds, each ``lower <= upper``.
    preset : {"trsa", "quantile", "value"}
        What the thresholds refer to; see `geo_topological`.

    Yields
    ------
    Tensor, shape (k, ..., n_pairs)
        Condensed RDMs in [0, 1] at the next ``k`` pairs of thresholds, as many as about 2 million
        entries allow and at least one.

    Raises
    ------
    UnknownNameError, DTypeError, DataError
        As `geo_topological`.
    ShapeError
        If ``lower`` and ``upper`` are not vectors of the same length.

    Notes
    -----
    No gradient.

    References
    ----------
    Lin & Kriegeskorte (2024), PNAS 121(42), doi:10.1073/pnas.2317881121.

    Examples
    --------
    >>> rdm = torch.tensor([0.1, 0.9, 0.4])
    >>> torch.cat([*geo_topological_grid(rdm, [0.0, 0.5], [1.0, 0.5])])
    tensor([[0.0000, 1.0000, 0.5000],
            [0.0000, 1.0000, 0.0000]])
    """
    low, high = (torch.as_tensor(x, dtype=torch.float64).detach() for x in (lower, upper))
    if low.ndim != 1 or low.shape != high.shape:
        raise ShapeError(
            "`lower` and `upper` must be vectors of the same length, one pair of thresholds at "
            f"each place, got shapes {tuple(low.shape)} and {tuple(high.shape)}."
        )
    if not bool((low <= high).all()):
        worst = int((low > high).int().argmax())
        raise DataError(
            f"`lower` must not exceed `upper`, got {low[worst]:g} and {high[worst]:g} at {worst}."
        )
    if preset != "value" and len(low) and not (low.min() >= 0 and high.max() <= 1):
        raise DataError(
            f"With preset {preset!r} the thresholds are quantiles in [0, 1], got {low.min():g} to "
            f"{high.max():g}. For thresholds in the unit of the RDM use preset='value'."
        )
    values, _ = comparable(rdm.detach(), low, high, preset)
    return _parts(values, low, high, preset)


def _parts(values: Tensor, low: Tensor, high: Tensor, preset: Preset) -> Iterator[Tensor]:
    each = (-1, *[1] * (values.ndim - 1))
    low, high = (x.to(values).view(each) for x in (low, high))
    if preset != "value":
        ordered = in_order(values)
        low, high = sorted_quantile(ordered, low), sorted_quantile(ordered, high)
    # over next to nothing, whatever is above equal thresholds becomes 1 and they themselves 0
    width = (high - low).clamp_min(torch.finfo(values.dtype).tiny)
    size = max(1, PART // max(values.numel(), 1))
    rounding = _rounding(values)
    for at, wide in zip(low.split(size), width.split(size), strict=True):
        above = values - at[..., None]
        above.masked_fill_(above <= rounding, 0.0)
        yield above.div_(wide[..., None]).clamp_(0.0, 1.0)


def threshold_correlations(
    rdms: Tensor,
    lower: Tensor | Sequence[float],
    upper: Tensor | Sequence[float],
    references: Tensor | None = None,
    *,
    preset: Preset = "trsa",
) -> Tensor:
    """Pearson correlations of RDMs under `geo_topological`, at many pairs of thresholds.

    Parameters
    ----------
    rdms : Tensor, shape (n_rdms, n_pairs)
        Condensed RDMs, in the order of `softrsa.pairs.condense`.
    lower, upper : Tensor or sequence of float, shape (n_thresholds,)
        Pairs of thresholds, each ``lower <= upper``.
    references : Tensor, shape (n_references, n_pairs), optional
        Correlate with these, as they are. By default the transformed RDMs with each other.
    preset : {"trsa", "quantile", "value"}
        What the thresholds refer to; see `geo_topological`.

    Returns
    -------
    Tensor, shape (n_thresholds, n_rdms, n_references) or (n_thresholds, n_rdms, n_rdms)
        Correlations in [-1, 1]. NaN where a reference is constant, or an RDM is one after the
        transform.

    Raises
    ------
    ShapeError
        If ``rdms`` or ``references`` are not matrices of the same number of pairs, or thresholds
        not vectors of one length.
    UnknownNameError, DTypeError, DataError
        As `geo_topological_grid`.

    Notes
    -----
    Each RDM is ranked and sorted once; a pair of thresholds costs a clamp and a matrix product. No
    gradient.

    References
    ----------
    Lin & Kriegeskorte (2024), PNAS 121(42), doi:10.1073/pnas.2317881121.

    Examples
    --------
    >>> rdms = torch.tensor([[0.1, 0.9, 0.4], [0.2, 0.8, 0.7]])
    >>> threshold_correlations(rdms, [0.0, 0.0], [1.0, 0.5], torch.tensor([[0.1, 0.2, 0.3]]))[:, 0]
    tensor([[0.5000],
            [0.8660]])
    """
    check_floating(rdms=rdms)
    if rdms.ndim != 2:
        raise ShapeError(f"`rdms` must be (n_rdms, n_pairs), got shape {tuple(rdms.shape)}.")
    against = None
    if references is not None:
        check_floating(references=references)
        if references.ndim != 2 or references.shape[1] != rdms.shape[1]:
            raise ShapeError(
                f"`references` must be (n_references, {rdms.shape[1]}), with as many pairs as "
                f"`rdms`, got shape {tuple(references.shape)}."
            )
        against = _standardized(references.detach().clone().to(rdms))
    found = []
    for part in geo_topological_grid(rdms, lower, upper, preset=preset):
        _standardized(part)
        found.append(part @ (part if against is None else against).mT)
    return torch.cat(found).clamp_(-1.0, 1.0)


def _standardized(x: Tensor) -> Tensor:
    """Take the mean off vectors (..., n_pairs) and bring them to length 1, NaN of equal values."""
    low, high = torch.aminmax(x, dim=-1, keepdim=True)
    constant = low == high  # less their mean, equal values may leave rounding
    x -= x.mean(-1, keepdim=True)
    x /= x.norm(dim=-1, keepdim=True).masked_fill_(constant, torch.nan)
    return x
