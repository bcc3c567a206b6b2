"""Double-centering: what an RSM says beyond one number per stimulus."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from softrsa._checks import check_floating, check_square
from softrsa._gradients import again
from softrsa._ranks import rounding_of, tied
from softrsa.errors import ShapeError


def double_center(matrix: Tensor) -> Tensor:
    r"""Remove row and column offsets from the off-diagonal entries.

    Returns the residual of the least-squares fit :math:`M_{ij} \approx \mu + r_i + c_j` over
    :math:`i \ne j`: every row and every column of the result sums to zero over its off-diagonal
    entries, and an anchor-only or neighbor-only pattern becomes exactly nothing.

    Parameters
    ----------
    matrix : Tensor, shape (..., n_stimuli, n_stimuli)
        RSMs or RDMs, symmetric or not; the diagonal is not read. At least 3 stimuli.

    Returns
    -------
    Tensor, shape (..., n_stimuli, n_stimuli)
        Centered matrices with a zero diagonal, in the unit of ``matrix``.

    Raises
    ------
    DTypeError
        If ``matrix`` is not float32 or float64.
    ShapeError
        If ``matrix`` is not square or has fewer than 3 stimuli.

    Notes
    -----
    This is not :math:`HMH` with the diagonal included: self-similarities are not data, so they are
    left out of the means, as they are left out of every comparison of RSMs.

    Examples
    --------
    >>> rows = torch.tensor([1.0, 2.0, 4.0, 8.0])
    >>> double_center(rows[:, None] + torch.zeros(4, 4)).abs().max() < 1e-6
    tensor(True)
    """
    check_floating(matrix=matrix)
    check_square(matrix=matrix)
    n = matrix.shape[-1]
    if n < 3:
        raise ShapeError(f"Double-centering needs at least 3 stimuli, got {n}.")
    return _DoubleCenter.apply(matrix)


class _DoubleCenter(torch.autograd.Function):
    """The projection on what rows and columns do not explain: its own adjoint, hence gradient."""

    @staticmethod
    def forward(ctx, matrix: Tensor) -> Tensor:
        del ctx
        rest, _, scale = residual(matrix)
        return rest.div_(scale)

    @staticmethod
    def backward(ctx, *grad_outputs: Tensor) -> Tensor:
        del ctx
        return double_center(grad_outputs[0])


class Residual(NamedTuple):
    """Double-centered matrices times a power of 2, (..., 1, 1), and how large they were before."""

    rest: Tensor
    size: Tensor
    scale: Tensor


def residual(matrix: Tensor) -> Residual:
    """Double-center a copy, scaled; exactly 0 where nothing but rounding is left.

    The mean is taken off first, entry by entry, so that equal entries stay equal and rounding is
    that of what differs, not of what all have in common.
    """
    n = matrix.shape[-1]
    matrix = zero_diagonal(matrix)
    largest = torch.linalg.vector_norm(matrix, torch.inf, (-2, -1), keepdim=True)
    most = math.frexp(torch.finfo(matrix.dtype).max)[1] - 2  # subnormal numbers want more
    exponent = largest.frexp().exponent.clamp_min(-most)
    scale = torch.ldexp(torch.ones_like(largest), -exponent)
    size = norm(matrix.mul_(scale))
    mean = matrix.sum(-1, keepdim=True).sum(-2, keepdim=True) / (n * (n - 1))
    _without_diagonal(matrix.sub_(mean))
    without_offsets(matrix)
    nothing = norm(matrix) <= rounding_of(size, size)
    return Residual(matrix.masked_fill_(nothing, 0.0), size, scale)


def without_offsets(matrix: Tensor) -> Tensor:
    """Double-center in place what is 0 on the diagonal, whatever rounding is left of it."""
    n = matrix.shape[-1]
    rows, columns = matrix.sum(-1), matrix.sum(-2)
    total = rows.sum(-1)[..., None] / ((n - 1) * (n - 2))
    # normal equations of M_ij ~ r_i + c_j over i != j, solved in closed form:
    # (n - 1) r_i + sum_{j != i} c_j = rows_i, and the same for columns
    row_offset = ((n - 1) * rows + columns) / (n * (n - 2)) - total
    column_offset = ((n - 1) * columns + rows) / (n * (n - 2))
    matrix.sub_(row_offset.unsqueeze(-1)).sub_(column_offset.unsqueeze(-2))
    return _without_diagonal(matrix)


ROUNDS = 3  # after which the sizes of rows agree to some percent, or much better


class MeansAndSizes(NamedTuple):
    """Row and column offsets (..., n, n) of RSMs, and the sizes of rows (..., n) without them."""

    offsets: Tensor
    sizes: Tensor

    @classmethod
    def of(cls, rsms: Tensor) -> MeansAndSizes:
        """Measure ``rsms`` (..., n, n)."""
        rest = double_center(rsms)
        return cls(rsms - rest, torch.linalg.vector_norm(rest, dim=-1))


def with_means_and_sizes(matrix: Tensor, like: MeansAndSizes) -> Tensor:
    """Give RSMs (..., n, n) the row and column offsets, and the sizes of rows, of other RSMs.

    What is left of a change is what differs within rows: neither a number nor a factor per stimulus
    can be part of it. A row that is nothing on either side keeps its size.
    """
    own, sizes = torch.broadcast_tensors(double_center(matrix), like.sizes.unsqueeze(-1))
    return like.offsets + _Sized.apply(own, sizes[..., 0])


def _sized(own: Tensor, sizes: Tensor) -> Tensor:
    """Scale rows and columns (..., n, n) by one factor per stimulus, so that rows have sizes."""
    return own * _outer_square(_factors(own.square(), sizes)[-1])


def _factors(squares: Tensor, sizes: Tensor) -> list[Tensor]:
    """Factors (..., n) after every round, the first being 1."""
    factors = [torch.ones_like(sizes)]
    for _ in range(ROUNDS):
        square, nothing = _row_squares(squares, factors[-1], sizes)
        ratio = sizes.masked_fill(nothing, 1.0) / square.masked_fill(nothing, 1.0).sqrt()
        factors.append((factors[-1] * ratio).sqrt())
    return factors


def _row_squares(squares: Tensor, factor: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
    """Squared sizes of rows whose columns are scaled, and where there is nothing to scale."""
    square = (squares @ factor.square().unsqueeze(-1)).squeeze(-1)
    return square, (square == 0) | (sizes == 0)


def _outer_square(factor: Tensor) -> Tensor:
    return factor.unsqueeze(-1) * factor.unsqueeze(-2)


class _Sized(torch.autograd.Function):
    """`_sized` with its gradient in closed form, which adds all rounds in one product."""

    @staticmethod
    def forward(ctx, own: Tensor, sizes: Tensor) -> Tensor:
        squares = own.square()
        factors = _factors(squares, sizes)
        ctx.save_for_backward(own, sizes, squares, *factors)
        return _outer_square(factors[-1]).mul_(own)

    @staticmethod
    def backward(ctx, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        own, sizes, squares, *factors = ctx.saved_tensors
        if torch.is_grad_enabled():  # somebody will differentiate once more
            return again(_sized, (own, sizes), grad_outputs[0], ctx.needs_input_grad)
        weighted, last = grad_outputs[0] * own, factors[-1].unsqueeze(-1)
        of_factor = (weighted @ last + weighted.mT @ last).squeeze(-1)
        of_sizes, of_squares = torch.zeros_like(sizes), []
        for before, after in reversed(list(pairwise(factors))):
            square, nothing = _row_squares(squares, before, sizes)
            half = (
                of_factor * after / 2
            )  # log after = (log before + log sizes) / 2 - log square / 4
            of_sizes += (half / sizes).masked_fill_(nothing, 0.0)
            of_squares.append((-half / (2 * square)).masked_fill_(nothing, 0.0))
            back = (squares.mT @ of_squares[-1].unsqueeze(-1)).squeeze(-1)
            of_factor = half / before + 2 * before * back
        scaled = torch.stack([factor.square() for factor in factors[-2::-1]], -2)
        of_own = (torch.stack(of_squares, -1) @ scaled).mul_(own).mul_(2)
        of_own.addcmul_(grad_outputs[0], _outer_square(factors[-1]))
        return of_own, of_sizes


TIED = 4096  # stimuli: of more, ties are not sought in an RSM that is only made float64


def as_double(rsms: Tensor) -> Tensor:
    """Square RSMs (..., n, n) in float64, without the rounding they come with where it matters.

    Where float32 holds nothing else than rounding beside a constant, or beside row and column
    offsets, there is none of it left, and entries that are tied in float32 are equal.
    """
    double = rsms.double()
    n = rsms.shape[-1]
    if rsms.dtype == torch.float64 or n < 3:
        return double
    if n <= TIED:
        own = torch.eye(n, dtype=torch.bool, device=rsms.device)
        pairs = double[..., ~own]
        if bool(pairs.isfinite().all()):
            double = double.clone()
            # self-similarities say how large the sums are, also where the entries are small
            size = double.abs().amax((-2, -1)).unsqueeze(-1)
            double[..., ~own] = tied(pairs, rsms.dtype, size)
    rest, size = double_center(double), norm(zero_diagonal(double))
    return torch.where(norm(rest) <= rounding_of(size, size, rsms.dtype), double - rest, double)


def norm(matrix: Tensor) -> Tensor:
    """Frobenius norms (..., 1, 1); those of rows are put together in float64."""
    rows = torch.linalg.vector_norm(matrix, dim=-1, keepdim=True).double()
    return torch.linalg.vector_norm(rows, dim=-2, keepdim=True).to(matrix.dtype)


def zero_diagonal(matrix: Tensor) -> Tensor:
    """Copy with zeros on the diagonal, whatever stood there; the diagonal gets no gradient."""
    return _without_diagonal(matrix.clone())


def _without_diagonal(matrix: Tensor) -> Tensor:
    """Zero the diagonal in place, whatever stood there."""
    matrix.diagonal(dim1=-2, dim2=-1).zero_()
    return matrix


def held_pairs(*rsms: Tensor) -> Tensor:
    """Tell which pairs (n, n) no RSM (..., n, n) misses, either way round; never the diagonal."""
    n = rsms[0].shape[-1]
    held = ~torch.eye(n, dtype=torch.bool, device=rsms[0].device)
    for each in rsms:
        held &= ~each.isnan().reshape(-1, n, n).any(0)
    return held & held.mT


def center_held(rsms: Tensor, held: Tensor) -> Tensor:
    r"""Remove row and column offsets from the pairs (n, n) that are held; NaN elsewhere.

    The residual of the least-squares fit :math:`M_{ij} \approx r_i + c_j` over held pairs; with all
    pairs that of `softrsa.transforms.double_center`. A matrix of nothing but offsets, up to
    rounding, becomes 0.
    """
    weights = held.to(torch.float64)
    values = torch.where(held, rsms, 0.0).double()
    size = torch.linalg.vector_norm(values, dim=(-2, -1), keepdim=True)
    rows, columns = values.sum(-1), values.sum(-2)
    degree = torch.diag(weights.sum(-1))
    # the normal equations fall apart into those of the sums r + c and the differences r - c
    both = (rows + columns) @ torch.linalg.pinv(degree + weights, hermitian=True)
    apart = (rows - columns) @ torch.linalg.pinv(degree - weights, hermitian=True)
    fitted = ((both + apart) / 2).unsqueeze(-1) + ((both - apart) / 2).unsqueeze(-2)
    left = torch.where(held, values - fitted, 0.0)
    rounding = 100 * held.shape[-1] ** 0.5 * torch.finfo(rsms.dtype).eps
    nothing = torch.linalg.vector_norm(left, dim=(-2, -1), keepdim=True) <= rounding * size
    left = torch.where(nothing, 0.0, left)
    return torch.where(held, left, torch.nan).to(rsms.dtype)


def center_counted(rsms: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Remove row and column offsets where stimuli occur so often (n,); copies make no pair.

    Returns the residual (..., m, m) of the m stimuli that occur, each once, in float64 with a
    diagonal of zeros, and how often they do (m,). An exact 0 where nothing but rounding is left.
    """
    there = counts.nonzero().squeeze(1)
    weights = counts[there].double()
    values = zero_diagonal(rsms.double().index_select(-2, there).index_select(-1, there))
    rows, columns = values @ weights, values.mT @ weights
    # the normal equations fall apart into those of the sums r + c and the differences r - c
    total = weights.sum()
    system = torch.diag(total - 2 * weights) + weights
    both, failed = torch.linalg.solve_ex(system, (rows + columns).unsqueeze(-1))
    both = both.masked_fill((failed != 0).view(1, 1), torch.nan).squeeze(-1)
    apart = (rows - columns) / total
    fitted = ((both + apart) / 2).unsqueeze(-1) + ((both - apart) / 2).unsqueeze(-2)
    size, rest = norm(values), zero_diagonal(values - fitted)
    return rest.masked_fill_(norm(rest) <= rounding_of(size, size), 0.0), weights
