"""The table of measures: one row each, with what it promises; the contract test reads it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from softrsa._ranks import average_ranks
from softrsa.errors import unknown_name
from softrsa.measures.correlation import centered_pearson, cosine, pearson, spearman
from softrsa.pairs import off_diagonal
from softrsa.transforms import double_center


@dataclass(frozen=True)
class Measure:
    """A measure and its declared properties.

    Attributes
    ----------
    name : str
        The name of the function and of the entry.
    function : callable
        Takes two inputs of the kind ``takes`` and returns the score, shape (...).
    normalize : callable
        Brings one input to the form whose mean over subjects is the pooled RSM of a noise ceiling:
        what the measure ignores is removed.
    takes : {"vectors", "matrices"}
        Condensed pairs (..., n_pairs), or square RSMs (..., n, n).
    range : tuple of float
        Smallest and largest value; larger is more similar.
    symmetric, metric, differentiable : bool
        Whether the order of the two does not matter, whether it is a metric, whether gradients
        reach both inputs.
    invariant_to : frozenset of str
        Changes of one input that leave the score as it is: "scale" (positive factor), "shift"
        (a constant added), "monotone" (any increasing function), "row_offset" (a number added per
        row).
    smallest_n : int
        Fewest stimuli for which the score is defined.
    reference : str
        Where it comes from.
    """

    name: str
    function: Callable[[Tensor, Tensor], Tensor]
    normalize: Callable[[Tensor], Tensor]
    takes: Literal["vectors", "matrices"]
    range: tuple[float, float]
    symmetric: bool
    metric: bool
    differentiable: bool
    invariant_to: frozenset[str]
    smallest_n: int
    reference: str

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """Score two inputs of the kind the function takes."""
        return self.function(x, y)

    def pairs_of(self, rsms: Tensor) -> Tensor:
        """Put square RSMs (..., n, n) into the form the function takes."""
        return rsms if self.takes == "matrices" else off_diagonal(rsms)

    def between(self, x: Tensor, y: Tensor) -> Tensor:
        """Score square RSMs (..., n, n) over all their off-diagonal entries."""
        return self.function(self.pairs_of(x), self.pairs_of(y))


def _unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True)


def _standard(x: Tensor) -> Tensor:
    return _unit(x - x.mean(-1, keepdim=True))


def _centered_unit(x: Tensor) -> Tensor:
    centered = double_center(x)
    return centered / centered.norm(dim=(-2, -1), keepdim=True)


_RSA = "Kriegeskorte, Mur & Bandettini (2008), doi:10.3389/neuro.06.004.2008"
_UNIT = (-1.0, 1.0)
_ROWS = (
    Measure(
        "centered_pearson", centered_pearson, _centered_unit, "matrices", _UNIT, True, False, True,
        frozenset({"scale", "shift", "row_offset"}), 4, "softrsa, SPEC section 5",
    ),
    Measure(
        "cosine", cosine, _unit, "vectors", _UNIT, True, False, True, frozenset({"scale"}), 2, _RSA,
    ),
    Measure(
        "pearson", pearson, _standard, "vectors", _UNIT, True, False, True,
        frozenset({"scale", "shift"}), 3, _RSA,
    ),
    Measure(
        "spearman", spearman, average_ranks, "vectors", _UNIT, True, False, False,
        frozenset({"scale", "shift", "monotone"}), 3, _RSA,
    ),
)  # fmt: skip
_TABLE = {row.name: row for row in _ROWS}


def available() -> dict[str, Measure]:
    """All measures by name, with their declared properties.

    Returns
    -------
    dict of str to Measure
        In alphabetical order.

    Examples
    --------
    >>> available()["spearman"].differentiable
    False
    """
    return dict(_TABLE)


def get(name: str) -> Measure:
    """Look a measure up by name.

    Parameters
    ----------
    name : str
        One of `available`.

    Returns
    -------
    Measure
        The function with its properties.

    Raises
    ------
    UnknownNameError
        If there is no such measure; the message offers the nearest names.

    Examples
    --------
    >>> get("pearson").range
    (-1.0, 1.0)
    >>> import torch
    >>> get("pearson")(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 3.0, 2.0]))
    tensor(0.5000)
    """
    if name not in _TABLE:
        raise unknown_name("measure", name, _TABLE)
    return _TABLE[name]
