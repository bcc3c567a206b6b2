"""Measures of single units: which unit of one side has the tuning of which unit of the other."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from softrsa._gradients import within
from softrsa.errors import DataError
from softrsa.measures._features import centered, check_features, first_order

COPIES = 3000  # of units, up to which these are assigned one to one
ENTRIES = 300_000  # of a plan, beyond which a linear program takes minutes


def soft_matching(x: Tensor, y: Tensor) -> Tensor:
    r"""Mean correlation of units that are matched softly, for any two numbers of units.

    With :math:`r_{ij}` the correlation over stimuli of unit i of x with unit j of y,

    .. math:: \max_P \sum_{ij} P_{ij} r_{ij}, \qquad P_{ij} \ge 0, \quad
              \sum_j P_{ij} = \tfrac1p, \quad \sum_i P_{ij} = \tfrac1q

    Parameters
    ----------
    x : Tensor, shape (..., n_stimuli, p)
        Responses, float32 or float64, in any unit.
    y : Tensor, shape (..., n_stimuli, q)
        Responses to the same stimuli; leading dimensions broadcast.

    Returns
    -------
    Tensor, shape (...)
        Score in [-1, 1]; of unrelated features above 0, since the best match is taken. NaN where a
        unit does not vary over stimuli: leave it out.

    Raises
    ------
    DTypeError
        If a tensor is neither float32 nor float64, or they differ.
    ShapeError
        If the two do not have the same stimuli, or fewer than 2.
    DataError
        If the two numbers of units differ, their least common multiple is above 3000, and their
        product above 300 000.

    Notes
    -----
    Exact optimal transport: of equally many units one to one (:math:`O(p^3)`), as also of copies of
    units up to their least common multiple, otherwise a linear program with p x q unknowns (10
    seconds at 500 x 480). Solved on the CPU. The matching stays as it is while features change a
    little, so the gradient is that of the correlations matched. First derivatives only.

    See Also
    --------
    soft_matching_distance : its form for tuning curves with their size.

    References
    ----------
    Khosla & Williams (2024), arXiv:2311.09466.

    Examples
    --------
    >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])
    >>> soft_matching(x, 2 * x.flip(-1) + 1)
    tensor(1.)
    >>> soft_matching(x, x[:, :1])
    tensor(0.7500)
    """
    check_features(x, y)
    found = _correlations(x, y)
    score = (_plans(found.detach()) * found).sum((-2, -1))
    return first_order(within(score).to(x.dtype))


def permutation_matching(x: Tensor, y: Tensor) -> Tensor:
    r"""Mean correlation of units that are matched one to one.

    With :math:`r_{ij}` the correlation over stimuli of unit i of x with unit j of y, over all ways
    to give each unit of the smaller side one of its own on the other,

    .. math:: \max_\pi \frac1p \sum_i r_{i \pi(i)}, \qquad p \le q

    Parameters
    ----------
    x, y : Tensor, shape (..., n_stimuli, p) and (..., n_stimuli, q)
        As for `soft_matching`. Of the side with more units, those that match worst are left out.

    Returns
    -------
    Tensor, shape (...)
        Score in [-1, 1]; of unrelated features above 0, since the best match is taken, the more so
        the more units there are to choose from. NaN where a unit does not vary over stimuli.

    Raises
    ------
    DTypeError, ShapeError
        As `soft_matching`.

    Notes
    -----
    Of equally many units it is `soft_matching`. Solved on the CPU. First derivatives only, of the
    correlations matched.

    References
    ----------
    Li, Yosinski, Clune, Lipson & Hopcroft (2015), arXiv:1511.07543.

    Examples
    --------
    >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])
    >>> permutation_matching(x, x[:, :1])
    tensor(1.)
    """
    check_features(x, y)
    found = _correlations(x, y)
    score = (_plans(found.detach(), one_to_one=True) * found).sum((-2, -1))
    return first_order(within(score).to(x.dtype))


def soft_matching_distance(x: Tensor, y: Tensor) -> Tensor:
    r"""Root mean squared distance of tuning curves that are matched softly.

    With columns centered, and P as in `soft_matching`,

    .. math:: \sqrt{\min_P \sum_{ij} P_{ij} \lVert x_i - y_j\rVert^2}

    Parameters
    ----------
    x, y : Tensor, shape (..., n_stimuli, p) and (..., n_stimuli, q)
        As for `soft_matching`.

    Returns
    -------
    Tensor, shape (...)
        Distance from 0, in the unit of the responses; a metric: the Wasserstein distance of the
        two sets of tuning curves.

    Raises
    ------
    DTypeError, ShapeError, DataError
        As `soft_matching`.

    Notes
    -----
    At a distance of 0, where it has a kink, the gradient is 0. Of tuning curves of norm 1 it is
    the root of 2 - 2 `soft_matching`. First derivatives only.

    References
    ----------
    Khosla & Williams (2024), arXiv:2311.09466.

    Examples
    --------
    >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])
    >>> soft_matching_distance(x, 2 * x.flip(-1))
    tensor(1.4142)
    """
    check_features(x, y)
    left, right = centered(x.double()), centered(y.double())
    products = left.mT @ right
    sizes, others = left.square().sum(-2), right.square().sum(-2)
    apart = sizes.unsqueeze(-1) + others.unsqueeze(-2) - 2 * products
    square = (_plans(products.detach()) * apart).sum((-2, -1))
    rounding = 8 * torch.finfo(torch.float64).eps * (sizes.mean(-1) + others.mean(-1)).detach()
    beyond = (square > rounding) | square.isnan()
    distance = square.where(beyond, 1.0).sqrt().where(beyond, 0.0)
    return first_order(distance.to(x.dtype))


def _correlations(x: Tensor, y: Tensor) -> Tensor:
    """Correlate units (..., p, q), float64; NaN of those that do not vary."""
    sides = []
    for z in (x, y):
        rest = centered(z.double())
        size = rest.norm(dim=-2, keepdim=True)
        constant = size == 0
        # filled in, because the gradient of 0 / 0 would spread
        sides.append((rest / size.masked_fill(constant, 1.0)).masked_fill(constant, torch.nan))
    return sides[0].mT @ sides[1]


def _plans(gains: Tensor, *, one_to_one: bool = False) -> Tensor:
    """Share of units (..., p, q) matched with one another so that gains are largest, 1 in sum."""
    flat = gains.reshape(-1, *gains.shape[-2:]).cpu().numpy()
    plans = np.zeros_like(flat)
    for gain, plan in zip(flat, plans, strict=True):
        if np.isfinite(gain).all():  # of others the score is NaN
            plan[...] = _one_to_one(gain) if one_to_one else _transport(gain)
    return torch.from_numpy(plans).reshape(gains.shape).to(gains.device)


def _one_to_one(gain: np.ndarray) -> np.ndarray:
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(gain, maximize=True)
    plan = np.zeros_like(gain)
    plan[rows, columns] = 1 / len(rows)
    return plan


def _transport(gain: np.ndarray) -> np.ndarray:
    """Transport uniform masses, exactly."""
    p, q = gain.shape
    copies = math.lcm(p, q)
    if copies > max(COPIES, p, q):
        return _by_linear_program(gain)
    many = gain.repeat(copies // p, 0).repeat(copies // q, 1)
    return _one_to_one(many).reshape(p, copies // p, q, copies // q).sum((1, 3))


def _by_linear_program(gain: np.ndarray) -> np.ndarray:
    from scipy import sparse
    from scipy.optimize import linprog

    p, q = gain.shape
    if p * q > ENTRIES:
        raise DataError(
            f"Units can be matched softly if they are equally many, or their numbers multiply to "
            f"{ENTRIES} at most, got {p} and {q}. Take fewer units at random, as many on either "
            "side, or `permutation_matching`."
        )
    rows = sparse.kron(sparse.eye(p), np.ones((1, q)))
    columns = sparse.kron(np.ones((1, p)), sparse.eye(q))
    masses = np.concatenate([np.full(p, 1 / p), np.full(q, 1 / q)])
    sums: Any = sparse.vstack([rows, columns]).tocsr()
    found = linprog(-gain.ravel(), A_eq=sums, b_eq=masses)
    if found.x is None:
        raise DataError(f"SciPy found no matching of {p} and {q} units: {found.message}")
    return found.x.reshape(p, q)
