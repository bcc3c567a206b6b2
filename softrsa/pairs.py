"""Square matrices and condensed vectors: the one definition of pair order (as SciPy's)."""

from __future__ import annotations

from math import isfinite, isqrt
from numbers import Real

import torch
from torch import Tensor

from softrsa._checks import check_square
from softrsa.errors import DTypeError, ShapeError

__all__ = ["condense", "expand", "off_diagonal"]


def condense(matrix: Tensor) -> Tensor:
    """Take the upper triangle of symmetric matrices as vectors.

    Parameters
    ----------
    matrix : Tensor, shape (..., n_stimuli, n_stimuli)
        Symmetric matrices of any number type; only the entries above the diagonal are read.

    Returns
    -------
    Tensor, shape (..., n_stimuli * (n_stimuli - 1) / 2)
        Entries (0, 1), (0, 2), ..., (1, 2), ...: the order of `scipy.spatial.distance.squareform`.

    Raises
    ------
    ShapeError
        If the last two dimensions are unequal or shorter than 2.

    Examples
    --------
    >>> condense(torch.tensor([[0, 1, 2], [1, 0, 3], [2, 3, 0]]))
    tensor([1, 2, 3])
    """
    check_square(matrix=matrix)
    n = matrix.shape[-1]
    row, column = torch.triu_indices(n, n, offset=1, device=matrix.device)
    return matrix[..., row, column]


def expand(vector: Tensor, diagonal: float = 0.0) -> Tensor:
    """Turn condensed vectors back into symmetric matrices.

    Parameters
    ----------
    vector : Tensor, shape (..., n_pairs)
        Condensed entries in the order of `condense`; n_pairs must be n (n - 1) / 2 for some n >= 2.
    diagonal : float
        The value on the diagonal: 0 for an RDM, 1 for an RSM of correlations.

    Returns
    -------
    Tensor, shape (..., n_stimuli, n_stimuli)
        Symmetric matrices.

    Raises
    ------
    ShapeError
        If the length of the last dimension is not a number of pairs.
    DTypeError
        If ``vector`` is of whole numbers and the diagonal is not.

    Examples
    --------
    >>> expand(torch.tensor([1.0, 2.0, 3.0]))
    tensor([[0., 1., 2.],
            [1., 0., 3.],
            [2., 3., 0.]])
    """
    n = check_pairs(vector=vector)
    if not isinstance(diagonal, Real):
        raise DTypeError(f"`diagonal` must be a number, got {diagonal!r}.")
    if not vector.is_floating_point() and diagonal != int(isfinite(diagonal) and diagonal):
        raise DTypeError(
            f"`vector` is of {vector.dtype}, which has no {diagonal!r} for the diagonal. "
            "Use `vector.double()`."
        )
    row, column = torch.triu_indices(n, n, offset=1, device=vector.device)
    matrix = vector.new_full((*vector.shape[:-1], n, n), diagonal)
    matrix[..., row, column] = vector
    matrix[..., column, row] = vector
    return matrix


def check_pairs(**vectors: Tensor) -> int:
    """Check that tensors are (..., n_pairs), and give the number of stimuli of the last."""
    n = 0
    for name, value in vectors.items():
        if not isinstance(value, Tensor):
            raise DTypeError(f"`{name}` must be a torch.Tensor, got {type(value).__name__}.")
        n_pairs = value.shape[-1] if value.ndim else 0
        n = (1 + isqrt(1 + 8 * n_pairs)) // 2
        if n < 2 or n * (n - 1) // 2 != n_pairs:
            raise ShapeError(
                f"`{name}` must hold n (n - 1) / 2 pairs (1, 3, 6, 10, ...), got {n_pairs}; "
                f"{n} stimuli have {n * (n - 1) // 2}. Its shape is {tuple(value.shape)}."
            )
    return n


def off_diagonal(matrix: Tensor) -> Tensor:
    """Take all entries but the diagonal, row by row: the pairs of an asymmetric matrix.

    Parameters
    ----------
    matrix : Tensor, shape (..., n_stimuli, n_stimuli)
        Square matrices; anchors are rows, neighbors columns.

    Returns
    -------
    Tensor, shape (..., n_stimuli * (n_stimuli - 1))
        Entries (0, 1), (0, 2), ..., (1, 0), (1, 2), ...

    Raises
    ------
    ShapeError
        If the last two dimensions are unequal or shorter than 2.

    Examples
    --------
    >>> off_diagonal(torch.tensor([[0, 1, 2], [3, 0, 4], [5, 6, 0]]))
    tensor([1, 2, 3, 4, 5, 6])
    """
    check_square(matrix=matrix)
    n = matrix.shape[-1]
    flat = matrix.reshape(*matrix.shape[:-2], n * n)[..., :-1]
    # without its last entry the matrix is n - 1 runs of (diagonal entry, n others)
    return flat.reshape(*matrix.shape[:-2], n - 1, n + 1)[..., 1:].flatten(-2)
