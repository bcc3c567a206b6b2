"""How learned transforms are fitted: one frozen set of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import NamedTuple, get_args

import torch
from torch import Tensor

from softrsa._wording import listed
from softrsa.errors import DataError, unknown_name
from softrsa.rsm import SCALINGS
from softrsa.transforms import Family

SMALLEST_BLOCK = 4  # stimuli a score needs: fewer leave nothing after double-centering


class Split(NamedTuple):
    """Positions of training and test stimuli, each ascending."""

    train: Tensor
    test: Tensor


def stimulus_folds(n_stimuli: int, folds: int, *, seed: int) -> list[Split]:
    """Split stimuli into folds: every stimulus is tested once.

    Parameters
    ----------
    n_stimuli : int
        Number of stimuli.
    folds : int
        Number of folds, at least 2; each needs at least 4 stimuli.
    seed : int
        Seed of the shuffle.

    Returns
    -------
    list of Split
        One per fold; test sizes differ by at most one.

    Raises
    ------
    DataError
        If ``folds`` is less than 2 or leaves fewer than 4 stimuli to a fold.

    Examples
    --------
    >>> [fold.test.tolist() for fold in stimulus_folds(9, 2, seed=0)]
    [[0, 2, 3, 7, 8], [1, 4, 5, 6]]
    """
    if folds < 2:
        raise DataError(f"`folds` must be at least 2, got {folds}.")
    if n_stimuli // folds < SMALLEST_BLOCK:
        raise DataError(
            f"{folds} folds of {n_stimuli} stimuli would test on {n_stimuli // folds} at a time; "
            f"at least {SMALLEST_BLOCK} are needed. Use at most "
            f"{max(n_stimuli // SMALLEST_BLOCK, 1)} folds, or more stimuli."
        )
    order = torch.randperm(n_stimuli, generator=torch.Generator().manual_seed(seed))
    return [_split(order, test) for test in order.tensor_split(folds)]


def random_splits(n_stimuli: int, n_train: int, n_splits: int, *, seed: int) -> list[Split]:
    """Draw independent splits into ``n_train`` training stimuli and the rest.

    Parameters
    ----------
    n_stimuli, n_train : int
        Number of stimuli, and how many of them to train on; both parts need at least 4.
    n_splits : int
        Number of splits.
    seed : int
        Seed of the draws.

    Returns
    -------
    list of Split
        The splits.

    Raises
    ------
    DataError
        If either part would have fewer than 4 stimuli.

    Examples
    --------
    >>> [len(part) for part in random_splits(92, 60, 1, seed=0)[0]]
    [60, 32]
    """
    if min(n_train, n_stimuli - n_train) < SMALLEST_BLOCK:
        raise DataError(
            f"Training and test both need at least {SMALLEST_BLOCK} stimuli, got {n_train} and "
            f"{n_stimuli - n_train} of {n_stimuli}."
        )
    generator = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(n_stimuli, generator=generator) for _ in range(n_splits)]
    return [_split(order, order[n_train:]) for order in orders]


def split_stimuli(n_stimuli: int, folds: int | Sequence[Split], *, seed: int) -> list[Split]:
    """Make so many folds, or check splits that are given."""
    if isinstance(folds, (int, Integral)):
        return stimulus_folds(n_stimuli, int(folds), seed=seed)
    if not len(folds):
        raise DataError("`folds` is empty; give at least one split of the stimuli.")
    for i, split in enumerate(folds):
        used = torch.cat([split.train, split.test])
        shared = split.test[torch.isin(split.test, split.train)].tolist()
        beyond = used[(used < 0) | (used >= n_stimuli)].tolist()
        if shared:
            raise DataError(f"In split {i} the stimuli {listed(shared)} are trained and tested on.")
        if beyond:
            raise DataError(
                f"In split {i} there are positions {listed(beyond)}, of {n_stimuli} stimuli."
            )
        if min(len(split.train), len(split.test)) < SMALLEST_BLOCK:
            raise DataError(
                f"Training and test both need at least {SMALLEST_BLOCK} stimuli; split {i} has "
                f"{len(split.train)} training and {len(split.test)} test stimuli."
            )
    return list(folds)


def _split(order: Tensor, test: Tensor) -> Split:
    mask = torch.zeros(len(order), dtype=torch.bool)
    mask[test] = True
    return Split((~mask).nonzero().squeeze(-1), mask.nonzero().squeeze(-1))


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
