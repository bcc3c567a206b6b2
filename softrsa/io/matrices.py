"""Squares of similarities among numbers: whether they are one, which half says it, the diagonal."""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt
from typing import Literal, NamedTuple

import numpy as np

from softrsa._wording import counted, listed
from softrsa.errors import DataError, ShapeError

Halves = Literal["mean", "lower", "upper", "both"]
ROUNDING = 1e-5  # of the largest value: what is left of float32 sums, or of texts of six digits


class Settled(NamedTuple):
    """Matrices whose halves agree, and what was done for it, in words."""

    values: np.ndarray
    notes: list[str]  # choices
    facts: list[str]  # what changes nothing but rounding, or was asked for


def settle_halves(
    values: np.ndarray, name: str, halves: Halves | None = None, *, strict: bool = True
) -> Settled:
    """Give both halves of matrices (..., n, n) the same values.

    Parameters
    ----------
    values : ndarray, shape (..., n, n)
        Similarities or dissimilarities; those that are NaN throughout stay so.
    name : str
        What to call them in messages.
    halves : {"mean", "lower", "upper", "both"}, optional
        What to take where the halves differ; ``"both"`` keeps them as they are. By default a half
        of zeros or NaN is filled from the other, and differences within rounding are averaged.
    strict : bool
        Whether halves that differ beyond rounding are refused; otherwise they are kept.

    Returns
    -------
    Settled
        The values, copied where they change, and sentences about what was done.

    Raises
    ------
    DataError
        If halves differ beyond rounding, none is empty, and ``halves`` is not given.
    """
    if halves == "both":
        return Settled(values, [], [])
    if np.array_equal(values, values.swapaxes(-1, -2), equal_nan=True):
        return Settled(values, [], [])
    rows, columns = np.triu_indices(values.shape[-1], 1)
    upper, lower = values[..., rows, columns], values[..., columns, rows]
    if halves is not None:
        taken = {"upper": upper, "lower": lower, "mean": _mean(upper, lower)}[halves]
        facts = [f"the halves of the {name} differ: {halves} is taken, as asked"]
        return Settled(_with_halves(values, taken, taken), [], facts)
    shape = upper.shape
    upper, lower = upper.reshape(-1, shape[-1]), lower.reshape(-1, shape[-1])
    notes = [
        *_mirror(upper, lower, "upper", "lower", name),
        *_mirror(lower, upper, "lower", "upper", name),
        *_fill(upper, lower, name),
    ]
    facts = _average_rounding(upper, lower, name) if strict else []
    if not (notes or strict):
        return Settled(values, [], [])
    both = _with_halves(values, upper.reshape(shape), lower.reshape(shape))
    return Settled(both, notes, facts)


def _mirror(half: np.ndarray, other: np.ndarray, which: str, from_: str, name: str) -> list[str]:
    """Put the other half in place of an empty one."""
    empty = _empty(half) & ~_empty(other)
    half[empty] = other[empty]
    if not empty.any():
        return []
    of = f" in {counted(int(empty.sum()), 'matrix', 'matrices')}" if len(half) > 1 else ""
    return [f"the {which} half of the {name} is empty{of}: the {from_} one is mirrored"]


def _fill(upper: np.ndarray, lower: np.ndarray, name: str) -> list[str]:
    """Take from the other half what is missing in one."""
    missing = np.isnan(upper) ^ np.isnan(lower)
    if not missing.any():
        return []
    upper[missing] = lower[missing] = _mean(upper, lower)[missing]
    count = counted(int(missing.sum()), "value")
    return [f"{count} of the {name} missing in one half are taken from the other"]


def _average_rounding(upper: np.ndarray, lower: np.ndarray, name: str) -> list[str]:
    """Average halves that differ within rounding; refuse others."""
    difference = np.nan_to_num(np.abs(upper - lower))
    if not difference.any():
        return []
    scale = np.nanmax(np.abs(upper), axis=-1, initial=0.0, keepdims=True)
    if (difference > ROUNDING * scale).any():
        raise DataError(_differ(upper, lower, difference, name))
    upper[:] = lower[:] = _mean(upper, lower)
    if (difference <= 16 * np.finfo(upper.dtype).eps * scale).all():
        return []  # what any order of sums leaves
    return [
        f"the halves of the {name} differ by up to {difference.max():.1g}, within rounding: their "
        "mean is taken"
    ]


def _differ(upper: np.ndarray, lower: np.ndarray, difference: np.ndarray, name: str) -> str:
    """Say that both halves are filled, and differently."""
    n_differing = int((difference > 0).sum())
    i = np.unravel_index(int(difference.argmax()), difference.shape)
    return (
        f"The {name} is a square whose halves differ: {n_differing} of {difference.size} pairs, "
        f"such as {upper[i]:.6g} above the diagonal and {lower[i]:.6g} below. Similarities must be "
        'the same both ways. Say which to take with `halves="lower"`, "upper" or "mean" (or "both" '
        "to keep an asymmetric matrix); or, if its rows are stimuli and its columns units, "
        '`kind="recording"`. On the command line: `--halves` or `--kind`.'
    )


def _empty(half: np.ndarray) -> np.ndarray:
    """Tell which rows hold nothing but zeros and NaN."""
    return ((half == 0) | np.isnan(half)).all(-1)


def _mean(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Average without rounding where both are the same, and take the one where one is NaN."""
    mean = np.where(a == b, a, a / 2 + b / 2)
    return np.where(np.isnan(a), b, np.where(np.isnan(b), a, mean))


def _with_halves(values: np.ndarray, upper: np.ndarray, lower: np.ndarray) -> np.ndarray:
    """Put values in both halves of a copy."""
    rows, columns = np.triu_indices(values.shape[-1], 1)
    copy = values.copy()
    copy[..., rows, columns], copy[..., columns, rows] = upper, lower
    return copy


def looks_square(values: np.ndarray) -> bool:
    """Tell whether matrices (..., n, n) are symmetric within rounding, or in one half empty."""
    rows, columns = np.triu_indices(values.shape[-1], 1)
    upper, lower = values[..., rows, columns], values[..., columns, rows]
    half = _empty(upper) ^ _empty(lower)
    scale = np.nanmax(np.abs(values), initial=0.0)
    same = (np.abs(upper - lower) <= ROUNDING * scale) | np.isnan(upper) | np.isnan(lower)
    even = kind_of_diagonal(values) is not None
    return bool((same.all(-1) | (half & even)).all())


def has_even_diagonal(values: np.ndarray) -> bool:
    """Tell whether all diagonals are zeros, ones or NaN, as those of RDMs and RSMs are."""
    return kind_of_diagonal(values) is not None


def kind_of_diagonal(values: np.ndarray) -> Literal["rdm", "rsm"] | None:
    """Tell dissimilarities, zero (or NaN) on the diagonal, from similarities, one; or say None."""
    diagonal = np.diagonal(values, axis1=-2, axis2=-1)
    scale = float(np.nanmax(np.abs(values), initial=0.0))
    if (np.isnan(diagonal) | (np.abs(diagonal) <= ROUNDING * scale)).all():
        return "rdm"
    ones = np.abs(diagonal - 1) <= ROUNDING * max(1.0, scale)
    return "rsm" if (np.isnan(diagonal) | ones).all() else None


def expand_rows(rows: np.ndarray, name: str, diagonal: float = 0.0) -> np.ndarray:
    """Expand upper triangles (..., n_pairs), in SciPy's order, to squares (..., n, n)."""
    n_pairs = rows.shape[-1]
    n = n_stimuli(n_pairs)
    if n is None:
        raise ShapeError(
            f"The {name} has rows of {n_pairs} pairs, which is no n (n - 1) / 2: they are no upper "
            "triangles of RDMs."
        )
    upper, lower = np.triu_indices(n, 1)
    squares = np.full((*rows.shape[:-1], n, n), diagonal, dtype=rows.dtype)
    squares[..., upper, lower] = squares[..., lower, upper] = rows
    absent = np.isnan(rows).all(axis=-1)
    squares[absent] = np.nan  # not recorded: NaN throughout, the diagonal too
    return squares


def n_stimuli(n_pairs: int) -> int | None:
    """Tell how many stimuli have so many pairs."""
    n = (1 + isqrt(1 + 8 * n_pairs)) // 2
    return n if n > 1 and n * (n - 1) // 2 == n_pairs else None


def in_own_orders(
    squares: Sequence[np.ndarray], orders: Sequence[np.ndarray], name: str
) -> tuple[np.ndarray, np.ndarray]:
    """Bring matrices with stimuli in orders of their own to one; pairs a matrix lacks are NaN.

    Parameters
    ----------
    squares : sequence of ndarray, shape (n_i, n_i) each
        Matrices of several subjects.
    orders : sequence of ndarray, shape (n_i,) each
        The stimulus ids of each.
    name : str
        What to call them in messages.

    Returns
    -------
    tuple of ndarray
        The stack (n_subjects, n, n) and its ids (n,), in the order of first appearance.
    """
    for square, ids in zip(squares, orders, strict=True):
        if len(ids) != len(square) or len({*ids.tolist()}) < len(ids):
            raise DataError(
                f"The {name} has a matrix of {len(square)} stimuli with {len(ids)} ids "
                f"({listed(ids, 3)}); one distinct id per stimulus is needed."
            )
    known = list(dict.fromkeys(label for ids in orders for label in ids.tolist()))
    places = {label: i for i, label in enumerate(known)}
    stack = np.full((len(squares), len(known), len(known)), np.nan)
    for whole, square, ids in zip(stack, squares, orders, strict=True):
        at = np.array([places[label] for label in ids.tolist()])
        whole[np.ix_(at, at)] = square
    diagonal = np.einsum("kii->ki", stack)  # a view, written to
    own = [square[0, 0] for square in squares]
    for row, value in zip(diagonal, own, strict=True):
        row[np.isnan(row)] = value
    return stack, np.array(known)
