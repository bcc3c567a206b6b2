"""How learned transforms are fitted: one frozen set of numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from softrsa.errors import DataError, unknown_name
from softrsa.rsm import SCALINGS
from softrsa.transforms import Family

GATES = ("profile", "embedding")


@dataclass(frozen=True)
class FitSettings:
    """What decides a fit besides the data; every field has a sensible default.

    Attributes
    ----------
    gates : tuple of {"profile", "embedding"}
        Instance-wise gates to choose among by inner folds. An embedding gate needs units (features
        or recordings) on both sides and is left out for RDMs.
    family : {"s1", "s2"}
        Family of the step.
    scaling : {"auto", "affine", "minmax", "rank", "row_minmax"}
        How similarities are brought to [0, 1]; "auto" is "affine" for correlation and cosine (it
        depends on no other stimulus) and "minmax" otherwise.
    symmetrize : bool
        Compare the mean of a transformed RSM and its transpose, or all n (n - 1) entries.
    n_quantiles : int
        Profile gates: quantiles of the anchor's row.
    n_components : int
        Embedding gates: principal components of the units.
    penalties : tuple of float
        Weights on the squared distance of a gate from the identity, to choose among.
    steps : tuple of int
        Numbers of gradient steps to choose among, ascending (early stopping); none at all, the
        identity, is always among the choices.
    learning_rate : float
        Of Adam, on the gates' logits.
    inner_folds : int
        Folds of the training stimuli on which all of this is chosen.
    grid : int
        Steps of the geo-topological (l, u) grid between 0 and 1.
    """

    gates: tuple[str, ...] = GATES
    family: Family = "s1"
    scaling: str = "auto"
    symmetrize: bool = True
    n_quantiles: int = 9
    n_components: int = 3
    penalties: tuple[float, ...] = (1e-4,)
    steps: tuple[int, ...] = (5, 10, 20, 40, 80, 160)
    learning_rate: float = 0.2
    inner_folds: int = 3
    grid: int = 10

    @property
    def stops(self) -> tuple[int, ...]:
        """Numbers of steps at which a fit may stop, the first being none."""
        return (0, *self.steps)

    def __post_init__(self):
        names = [("gate", gate, GATES) for gate in self.gates]
        names += [("family", self.family, get_args(Family))]
        names += [("scaling", self.scaling, ("auto", *SCALINGS))]
        for kind, name, known in names:
            if name not in known:
                raise unknown_name(kind, name, known)
        if not self.gates:
            raise DataError(f"`gates` is empty; choose among {', '.join(GATES)}.")
        if not self.steps or list(self.steps) != sorted(set(self.steps)) or self.steps[0] < 1:
            raise DataError(f"`steps` must be ascending and at least 1, got {self.steps}.")
        if not self.penalties or min(self.penalties) < 0:
            raise DataError(f"`penalties` must be at least 0, got {self.penalties}.")
        if self.learning_rate <= 0:
            raise DataError(f"`learning_rate` must be above 0, got {self.learning_rate}.")
        if min(self.n_quantiles, self.n_components) < 1:
            raise DataError(
                "`n_quantiles` and `n_components` must be at least 1, "
                f"got {self.n_quantiles} and {self.n_components}."
            )
        if self.inner_folds < 2 or self.grid < 1:
            raise DataError(
                "`inner_folds` must be at least 2 and `grid` at least 1, "
                f"got {self.inner_folds} and {self.grid}."
            )
