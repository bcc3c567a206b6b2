"""Balanced Pearson: centered RSMs whose stimuli are brought to equal weight before comparison."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from softrsa._gradients import again, within
from softrsa._precision import warn_of_lost, without_autocast
from softrsa._ranks import rounding_of
from softrsa.measures.correlation import check_same_stimuli
from softrsa.transforms import double_center
from softrsa.transforms.center import center_counted, residual, without_offsets
from softrsa.transforms.center import norm as norm_of

BALANCED = 1e-8  # largest deviation of a row's sum from 1 for which RSMs count as balanced
SETTLED = 1e-13  # below this, deviations are rounding
ACCURACY = 1e-12  # of the linear system that gradients pass through
BLOCKS, BLOCK = 5, 8  # of simple iterations, after each of which deviations are looked at
NEWTON, INNER = 50, 100  # most steps where simple iterations do not do, and iterations in each
NEWTON_UNSEEN, INNER_UNSEEN = 4, 10  # steps on a device, whose results are not waited for
DENSE = 24  # stimuli up to which a linear system is solved at once
TOGETHER = 128  # stimuli up to which both sides are balanced at once


def balanced_pearson(x: Tensor, y: Tensor) -> Tensor:
    r"""Pearson correlation of two square RSMs in which every stimulus has the same weight.

    Both RSMs are double-centered (`softrsa.transforms.double_center`) to :math:`C`, and balanced:

    .. math:: M_{ij} = d_i C_{ij} d_j, \qquad d > 0, \qquad
              \sum_j \frac{M_{ij}^2 + M_{ji}^2}{2} = 1 \text{ for every } i.

    The score is the Pearson correlation of the off-diagonal entries of the two :math:`M`.

    Parameters
    ----------
    x, y : Tensor, shape (..., n_stimuli, n_stimuli)
        Square RSMs, symmetric or not, of the same stimuli; leading dimensions broadcast. At least
        4 stimuli. The diagonal is not read.

    Returns
    -------
    Tensor, shape (...)
        Correlation in [-1, 1]. NaN where a stimulus is left with nothing after centering, or where
        no such factors exist, for instance because several stimuli are related to the same single
        other one only.

    Raises
    ------
    DTypeError
        If either tensor is not float32 or float64.
    ShapeError
        If the two are not square, differ in their number of stimuli, or have fewer than 4.

    Notes
    -----
    Two RSMs can agree on one number per stimulus in two ways. A number *added* to a row is what
    double-centering removes. A *factor* per stimulus is left by it and is removed here: the score
    of :math:`C` and of :math:`E C E`, with :math:`E` a positive diagonal matrix, is the same.

    The factors are unique. They are found in float64 by Sinkhorn iterations, which Newton steps end
    at rounding. Differentiable wherever it is defined, through the factors too.

    References
    ----------
    Sinkhorn & Knopp (1967), doi:10.2140/pjm.1967.21.343; Knight & Ruiz (2013),
    doi:10.1093/imanum/drs019.

    Examples
    --------
    >>> x = torch.rand(8, 8, generator=torch.Generator().manual_seed(0))
    >>> balanced_pearson(x, 3 * x + torch.arange(8))
    tensor(1.)
    >>> balanced_pearson(x, x.mT)
    tensor(0.1724)
    """
    check_same_stimuli(x, y, at_least=4)
    return within(_BalancedCosine.apply(x, y))


class Balanced(NamedTuple):
    """Balanced RSMs less their mean, of norm 1, and what they are made with; see `_balanced`.

    ``unit`` (..., n, n), 0 on the diagonal; ``mean`` and ``norm`` (..., 1, 1), infinite where the
    RSM cannot be balanced; ``factors`` (..., n) of the centered RSM, float64.
    """

    unit: Tensor
    mean: Tensor
    norm: Tensor
    factors: Tensor


class _Centered(NamedTuple):
    """Double-centered RSMs, times ``scale``; their squares, and whether one has an empty row."""

    rest: Tensor
    scale: Tensor
    squares: Tensor
    empty: Tensor


def _balanced(*matrices: Tensor) -> list[Balanced]:
    """Center, balance, and take off the mean."""
    parts = [_centered(matrix) for matrix in matrices]
    n = matrices[0].shape[-1]
    if n > TOGETHER:
        return [_taken_apart(part, log_factors(part.squares)) for part in parts]
    logs = log_factors(torch.cat([part.squares.reshape(-1, n, n) for part in parts]))
    each = logs.split([part.squares[..., 0, 0].numel() for part in parts])
    return [
        _taken_apart(part, one.view(part.squares.shape[:-1]))
        for part, one in zip(parts, each, strict=True)
    ]


def _centered(matrix: Tensor) -> _Centered:
    rest, size, scale = residual(matrix)
    squares = _symmetric_squares(rest).double()
    rows = squares.sum(-1)
    if rest.dtype == torch.float32 and not matrix.requires_grad:
        share = size[..., 0, 0] / rows.sum(-1).sqrt()
        warn_of_lost(torch.finfo(rest.dtype).eps * share, "a score of balanced RSMs")
    # what centering leaves of a row may be nothing but its rounding
    least = rounding_of(size, size)[..., 0].double().square() / matrix.shape[-1]
    return _Centered(rest, scale, squares, (rows <= least).any(-1, keepdim=True))


def _taken_apart(centered: _Centered, logs: Tensor) -> Balanced:
    """Balance, in place, and take off the mean."""
    rest, scale, _, empty = centered
    n = rest.shape[-1]
    bad = (empty | ~logs.isfinite().all(-1, keepdim=True)).unsqueeze(-1)
    factors = (logs / 2).exp().masked_fill_(bad[..., 0], 1.0)
    root = factors.to(rest.dtype)
    rest.mul_(root.unsqueeze(-1)).mul_(root.unsqueeze(-2))
    mean = rest.sum(-1, keepdim=True).sum(-2, keepdim=True) / (n * (n - 1))
    rest.sub_(mean).diagonal(dim1=-2, dim2=-1).zero_()
    norm = norm_of(rest)
    bad = bad | ~(norm > 0)
    norm = norm.masked_fill(bad, torch.inf)
    mean, factors = mean.masked_fill(bad, 0.0), factors * scale[..., 0].sqrt()
    return Balanced(rest.div_(norm), mean, norm, factors)


def _symmetric_squares(matrix: Tensor) -> Tensor:
    """Mean of squared entries and those of the transpose."""
    squares = matrix.square()
    return (squares + squares.mT).mul_(0.5)


def log_factors(squares: Tensor, sums: Tensor | None = None) -> Tensor:
    r"""Logarithms of factors s that make rows of S P S sum to 1, or to ``sums``, S = diag(s).

    ``squares`` P (..., n, n), symmetric, not negative, 0 on the diagonal, float64. The result
    (..., n) is NaN where there are no such factors.
    """
    with torch.no_grad():
        matrix = squares.reshape(-1, *squares.shape[-2:])
        wanted = matrix.new_ones(1, 1, matrix.shape[-1]) if sums is None else sums[None, None]
        factors, deviation = _sinkhorn(matrix, wanted)
        seen = _seen(matrix)
        for _ in range(NEWTON if seen else NEWTON_UNSEEN):
            if seen and _largest(deviation) <= SETTLED:
                break
            scaled = matrix * factors * factors.mT
            sums = scaled.sum(-2, keepdim=True)
            accuracy = _largest(deviation).clamp(1e-6, 1e-2)
            step = _solve(scaled, sums, wanted - sums, torch.zeros_like(sums), accuracy)
            factors = factors * step.clamp_(-1.0, 1.0).exp()
            deviation = factors * torch.bmm(factors, matrix) / wanted - 1
        balanced = deviation.abs().amax(-1, keepdim=True) <= BALANCED
        return factors.log().masked_fill_(~balanced, torch.nan).view(squares.shape[:-1])


def _sinkhorn(matrix: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Factors (b, 1, n) that bring the sums of rows near to what is wanted, and how near."""
    factors = wanted / matrix.sum(-2, keepdim=True)
    deviation = factors
    for _ in range(1 if matrix.shape[-1] <= DENSE else BLOCKS):
        for _ in range(BLOCK):
            factors = wanted / torch.bmm(factors, matrix)
        sums = factors * torch.bmm(factors, matrix)
        # a factor common to all has gone to and fro
        total = sums.sum(-1, keepdim=True) / wanted.sum(-1, keepdim=True)
        factors, deviation = factors / total.sqrt(), sums / total / wanted - 1
        if _seen(matrix) and _largest(deviation) <= SETTLED:
            break
    return factors, deviation


def _solve(
    matrix: Tensor, diagonal: Tensor, right: Tensor, start: Tensor, accuracy: Tensor | float
) -> Tensor:
    """Solve v (diag + matrix) = right (b, 1, n); of many stimuli by conjugate gradients.

    ``diagonal`` holds the row sums of the matrix, whose entries are not negative: no eigenvalue is.
    """
    if matrix.shape[-1] <= DENSE:
        system = matrix + torch.diag_embed(diagonal[:, 0])
        return torch.linalg.solve_ex(system, right.mT).result.mT
    found = start
    rest = right - torch.bmm(start, matrix) - diagonal * start
    direction = rest / diagonal
    length = (rest * direction).sum(-1, keepdim=True)
    enough = accuracy**2 * (right * right / diagonal).sum(-1, keepdim=True)
    for _ in range(INNER if _seen(matrix) else INNER_UNSEEN):
        if _seen(matrix) and not bool((length > enough).any()):
            break
        image = torch.bmm(direction, matrix) + diagonal * direction
        step = _ratio(length, (direction * image).sum(-1, keepdim=True))
        found = found + step * direction
        rest = rest - step * image
        towards = rest / diagonal
        before, length = length, (rest * towards).sum(-1, keepdim=True)
        direction = towards + _ratio(length, before) * direction
    return found


def _pulled_back(matrix: Tensor, right: Tensor, accuracy: float) -> Tensor:
    """Solve v (1 + matrix) = right (b, 1, n) where all rows of the symmetric matrix sum to 1."""
    one = torch.ones_like(right)
    if matrix.shape[-1] <= DENSE:
        return _solve(matrix, one, right, right, accuracy)
    common = right.mean(-1, keepdim=True)
    rest = right - common
    found = rest
    before = found
    for _ in range(BLOCKS):
        for _ in range(BLOCK):  # the other eigenvalues are small for most RSMs
            before, found = found, torch.baddbmm(rest, found, matrix, alpha=-1)
        missing = (found - before).abs().amax(-1) > accuracy * rest.abs().amax(-1)
        if _seen(matrix) and not bool(missing.any()):
            return found + common / 2
    return _solve(matrix, one, rest, found, accuracy) + common / 2


def _seen(matrix: Tensor) -> bool:
    """Whether results can be looked at without waiting for a device."""
    return matrix.device.type == "cpu"


def _largest(deviation: Tensor) -> Tensor:
    """Largest deviation of all that are numbers."""
    return deviation.abs().nan_to_num_(0.0, posinf=0.0).amax()


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    return torch.where(b > 0, a / b, 0.0)


class _BalancedCosine(torch.autograd.Function):
    """`_balanced_pearson` with its gradient in closed form.

    The factors follow from the centered RSM by an equation, F(log s, C) = 0, and so does their
    derivative: one more linear system.
    """

    @staticmethod
    def forward(ctx, x: Tensor, y: Tensor) -> Tensor:
        of_x, of_y = _balanced(x, y)
        rows = (of_x.unit * of_y.unit).sum(-1, keepdim=True)
        score = rows.double().sum(-2, keepdim=True).to(rows.dtype)
        ctx.save_for_backward(x, y, score, *of_x, *of_y)
        undefined = of_x.norm.isinf() | of_y.norm.isinf()
        return score.masked_fill(undefined, torch.nan)[..., 0, 0]

    @staticmethod
    def backward(ctx, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        x, y, score, *parts = ctx.saved_tensors
        needed = ctx.needs_input_grad
        if torch.is_grad_enabled():  # somebody will differentiate once more
            return again(_balanced_pearson, (x, y), grad_outputs[0], needed)
        of_x, of_y = Balanced(*parts[:4]), Balanced(*parts[4:])
        grad = grad_outputs[0][..., None, None]

        def gradient(own: Balanced, other: Balanced) -> Tensor:
            to_balanced = torch.sub(other.unit, score * own.unit).mul_(grad / own.norm)
            return _through_factors(own, to_balanced.sum_to_size(own.unit.shape))

        return (
            gradient(of_x, of_y) if needed[0] else None,
            gradient(of_y, of_x) if needed[1] else None,
        )


def _through_factors(own: Balanced, grad: Tensor) -> Tensor:
    """Gradient to RSMs from that to balanced ones (..., n, n), which is 0 on the diagonal."""
    n = grad.shape[-1]
    whole = own.unit * own.norm.masked_fill(own.norm.isinf(), 0.0)
    whole.add_(own.mean).diagonal(dim1=-2, dim2=-1).zero_()
    both = grad * whole
    to_logs = (both.sum(-1) + both.sum(-2)).div_(2).view(-1, 1, n)
    squares = _symmetric_squares(whole).view(-1, n, n)
    accuracy = max(10 * torch.finfo(grad.dtype).eps, ACCURACY)
    with without_autocast(grad):
        pull = _pulled_back(squares, to_logs, accuracy).view(own.factors.shape)
    root = own.factors.to(grad.dtype)
    torch.add(pull.unsqueeze(-1), pull.unsqueeze(-2), out=both)
    torch.addcmul(grad, both, whole, value=-1, out=both)
    return without_offsets(both.mul_(root.unsqueeze(-1)).mul_(root.unsqueeze(-2)))


def _balanced_pearson(x: Tensor, y: Tensor) -> Tensor:
    """`balanced_pearson` in plain arithmetic, twice differentiable."""
    left, right = _plain_unit(x), _plain_unit(y)
    return (left * right).sum((-2, -1)).to(torch.promote_types(x.dtype, y.dtype))


def _plain_unit(matrix: Tensor) -> Tensor:
    rest = double_center(matrix.double())
    rest = rest / norm_of(rest.detach())
    squares = rest.square()
    squares = (squares + squares.mT) / 2
    logs = log_factors(squares.detach())
    for _ in range(2):  # a step from the solution has its first derivative, two have the second
        s = logs.exp()
        found = squares * s.unsqueeze(-1) * s.unsqueeze(-2)
        sums = found.sum(-1)
        logs = logs + torch.linalg.solve(found + torch.diag_embed(sums), 1 - sums)
    return _unit_of(rest, logs, torch.ones_like(logs))


def _unit_of(rest: Tensor, logs: Tensor, weights: Tensor) -> Tensor:
    """Balance, take off the mean of pairs that occur so often, and bring to norm 1."""
    root = (logs / 2).exp()
    times = weights.unsqueeze(-1) * weights.unsqueeze(-2)
    times = times - torch.diag_embed(times.diagonal(dim1=-2, dim2=-1))
    balanced = rest * root.unsqueeze(-1) * root.unsqueeze(-2)
    mean = (balanced * times).sum((-2, -1), keepdim=True) / times.sum((-2, -1), keepdim=True)
    unit = (balanced - mean) * times.sqrt()
    return unit / unit.square().sum((-2, -1), keepdim=True).sqrt()


def resampled_balanced_pearson(x: Tensor, y: Tensor, counts: Tensor) -> Tensor:
    """`balanced_pearson` where stimuli occur so often (n,); copies of one make no pair."""

    def unit(matrix: Tensor) -> Tensor:
        rest, weights = center_counted(matrix, counts)
        times = weights.unsqueeze(-1) * weights
        logs = log_factors(_symmetric_squares(rest) * times, weights)
        return _unit_of(rest, logs, weights)

    return within((unit(x) * unit(y)).sum((-2, -1)))
