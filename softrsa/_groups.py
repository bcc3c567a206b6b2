"""Groups of stimuli or of subjects: what is drawn, exchanged and held out together."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import permutations, product
from math import factorial, prod
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from softrsa._wording import counted, listed
from softrsa.errors import DataError, ShapeError


@dataclass(frozen=True)
class Groups:
    """Which of n things belong together; things by themselves are groups of one.

    Attributes
    ----------
    codes : Tensor of int64, shape (n,)
        The group of each, numbered by first appearance.
    labels : tuple
        Of each thing, as given; empty where nothing was.
    """

    codes: Tensor
    labels: tuple[Hashable, ...] = ()

    def __len__(self) -> int:
        return int(self.codes.max()) + 1

    @cached_property
    def sizes(self) -> Tensor:
        """How many are in each group, (n_groups,)."""
        return self.codes.bincount()

    @property
    def are_single(self) -> bool:
        """Whether each is a group by itself."""
        return len(self) == len(self.codes)

    @property
    def shares(self) -> Tensor:
        """Weights (n,) of mean 1 under which groups count alike: 1 where they are of one size."""
        share = len(self.codes) / (len(self) * self.sizes.double())
        return share[self.codes]

    @property
    def together(self) -> Tensor:
        """Whether two are of one group, (n, n), as 1 and 0 in float64."""
        return (self.codes[:, None] == self.codes).double()

    def take(self, places: Tensor) -> Groups:
        """Keep some, whose groups are numbered anew."""
        codes, _ = pd.factorize(self.codes[places].numpy())
        labels = tuple(self.labels[i] for i in places.tolist()) if self.labels else ()
        return Groups(torch.from_numpy(codes), labels)

    def means(self, values: np.ndarray) -> np.ndarray:
        """Means (..., n_groups) of values (..., n) within groups; NaN where one is."""
        if self.are_single:
            return values
        members = np.eye(len(self))[self.codes.numpy()]
        sums = np.nan_to_num(values) @ members
        missing = np.isnan(values) @ members > 0
        return np.where(missing, np.nan, sums / self.sizes.numpy())

    def attributes(self, name: str) -> dict[str, str]:
        """Labels as netCDF keeps them, under a name; nothing where none were given."""
        if not self.labels:
            return {}
        return {name: json.dumps(plain_labels(self.labels))}


def plain_labels(labels: Sequence[object]) -> list[object]:
    """Labels as JSON has them; pairs of labels as lists."""

    def plain(one: object) -> object:
        if isinstance(one, tuple):
            return [*map(plain, one)]
        return one if isinstance(one, str | int | float) else str(one)

    return [*map(plain, labels)]


def alone(n: int) -> Groups:
    """Make n groups of one."""
    return Groups(torch.arange(n))


def as_groups(labels: Sequence[object] | None, n: int, name: str, kind: str) -> Groups:
    """Check labels, one for each of n stimuli or subjects; without any, each is by itself.

    ``name`` is that of the argument, ``kind`` the word for one thing: "stimulus" or "subject".
    """
    if labels is None:
        return alone(n)
    plural = {"stimulus": "stimuli"}.get(kind, f"{kind}s")
    found = _as_list(labels, name, kind)
    if len(found) != n:
        raise ShapeError(
            f"`{name}` must have a label for each of {counted(n, kind, plural)}, in their order; "
            f"got {len(found)}."
        )
    lost = [i for i, label in enumerate(found) if _is_missing(label)]
    if lost:
        raise DataError(
            f"`{name}` must have a label for every {kind}; missing (None, NaN or empty) at the "
            f"places {listed(lost)}. Give {plural} that belong to no group labels of their own, or "
            "leave them out."
        )
    codes, names = pd.factorize(np.fromiter(found, dtype=object, count=n))
    if len(names) < 2:
        raise DataError(
            f"`{name}` must hold at least 2 groups, got one, {found[0]!r}: nothing shows then how "
            f"groups differ. Leave it out to treat {plural} one by one."
        )
    return Groups(torch.from_numpy(codes), tuple(found))


def groups_in(attrs: Mapping[Any, Any], name: str, n: int) -> Groups:
    """Read the groups of a result from its attributes; groups of one where it has none."""
    return as_groups(json.loads(attrs[name]) if name in attrs else None, n, name, "label")


UNITS = {"stimuli": ["stimulus"], "subjects": ["subject"], "both": ["stimulus", "subject"]}


def unit_of_generalization(over: str, attrs: Mapping[Any, Any]) -> str:
    """Say what results hold for beyond the data, where these were drawn: "stimuli", "both", ...

    ``attrs`` hold `stimulus_groups` and `subject_groups` where whole groups were drawn.

    Examples
    --------
    >>> unit_of_generalization("both", {"subject_groups": '["a", "a", "b"]'})
    'other stimuli and other groups of subjects'
    >>> unit_of_generalization("none", {})
    'these stimuli and these subjects only'
    """
    kinds = {"stimulus": "stimuli", "subject": "subjects"}
    others = [
        f"other {'groups of ' if f'{kind}_groups' in attrs else ''}{kinds[kind]}"
        for kind in UNITS.get(over, [])
    ]
    if not others:
        return "these stimuli and these subjects only"
    rest = [f"the same {plural}" for kind, plural in kinds.items() if kind not in UNITS[over]]
    return " and ".join([*others, *rest])


def _as_list(labels: Any, name: str, kind: str) -> list:
    if isinstance(labels, str | bytes | Mapping) or not hasattr(labels, "__len__"):
        raise DataError(
            f"`{name}` must be a sequence of labels, one for each {kind}, got {labels!r}."
        )
    found = labels.tolist() if hasattr(labels, "tolist") else list(labels)
    strange = [label for label in found if not isinstance(label, Hashable)]
    if strange or not isinstance(found, list):
        raise DataError(
            f"`{name}` must be a flat sequence of labels, one for each {kind}, such as texts or "
            f"numbers; got {strange[0] if strange else found!r} among them."
        )
    return found


def _is_missing(label: object) -> bool:
    return label == "" or bool(pd.isna(label))  # type: ignore[call-overload]


def deal_groups(groups: Groups, folds: int, rng: torch.Generator) -> list[Tensor]:
    """Deal whole groups to folds, the largest first, each to the smallest fold so far.

    Gives the places in each fold, ascending. Groups of one size come in random order.
    """
    if not 2 <= folds <= len(groups):
        raise DataError(
            f"`folds` must be between 2 and the number of groups, {len(groups)}, got {folds}: "
            "a group is never split."
        )
    sizes = groups.sizes
    order = torch.randperm(len(groups), generator=rng)
    order = order[sizes[order].argsort(descending=True, stable=True)]
    filled = torch.zeros(folds, dtype=torch.long)
    fold_of = torch.zeros(len(groups), dtype=torch.long)
    for group in order.tolist():
        smallest = int(filled.argmin())
        fold_of[group] = smallest
        filled[smallest] += sizes[group]
    each = fold_of[groups.codes]
    return [(each == k).nonzero().flatten() for k in range(folds)]


def exchange(groups: Groups, keys: Tensor) -> Tensor:
    """Orders (r, n) that exchange whole groups of one size, by the order of keys (r, n_groups).

    Members keep their order within a group.
    """
    orders = torch.arange(len(groups.codes)).repeat(len(keys), 1)
    for size in groups.sizes.unique().tolist():
        chosen = (groups.sizes == size).nonzero().flatten()
        members = torch.stack([(groups.codes == g).nonzero().flatten() for g in chosen])
        orders[:, members.flatten()] = members[keys[:, chosen].argsort(-1)].flatten(1)
    return orders


def shuffle_within(groups: Groups, keys: Tensor) -> Tensor:
    """Orders (r, n) that permute the members of each group, by the order of keys (r, n)."""
    orders = torch.arange(len(groups.codes)).repeat(len(keys), 1)
    for g in range(len(groups)):
        members = (groups.codes == g).nonzero().flatten()
        orders[:, members] = members[keys[:, members].argsort(-1)]
    return orders


def n_exchanges(groups: Groups) -> int:
    """How many orders `exchange` can give."""
    return prod(factorial(n) for n in groups.sizes.bincount().tolist())


def n_within(groups: Groups) -> int:
    """How many orders `shuffle_within` can give."""
    return prod(factorial(n) for n in groups.sizes.tolist())


def every_key(sizes: Sequence[int]) -> Tensor:
    """Keys of all orders of consecutive runs of these sizes, but the one they have."""
    each = [list(permutations(range(size))) for size in sizes]
    found = [sum(keys, ()) for keys in product(*each)]
    return torch.tensor(found[1:])
