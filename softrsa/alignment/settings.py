"""How learned transforms are fitted: one frozen set of numbers."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from numbers import Integral
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from softrsa._groups import Groups, alone, as_groups, deal_groups, plain_labels
from softrsa._wording import listed
from softrsa.errors import DataError, unknown_name
from softrsa.measures import Measure
from softrsa.measures.missing import on_held_pairs
from softrsa.measures.registry import MEASURES, properties
from softrsa.rsm import SCALINGS
from softrsa.rsm.similarity import SIMILARITY_TABLE, Similarity
from softrsa.transforms import Family
from softrsa.transforms.on_rsms import TRANSFORMS, Centered, Chain, Identity, Transform, as_chain

SELECTED = as_chain("selected")
SMALLEST_BLOCK = 4  # stimuli a score needs: fewer leave nothing after double-centering


class DegenerateFitWarning(UserWarning):
    """A learned transform collapsed or could not start, and something else was taken instead."""


class StimulusScaleWarning(UserWarning):
    """A gain is, or may be, one factor per stimulus that both sides agree on, not geometry."""


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
    most = n_stimuli // SMALLEST_BLOCK
    if most < folds:
        fewer = f"Use at most {most} folds, or score" if most > 1 else "Score"
        raise DataError(
            f"{folds} folds of {n_stimuli} stimuli would test on {n_stimuli // folds} at a time; "
            f"at least {SMALLEST_BLOCK} are needed. {fewer} transforms without parameters on all "
            "stimuli, with `folds=None` (`--folds none`)."
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


def grouped_folds(groups: Sequence[object], folds: int, *, seed: int) -> list[Split]:
    """Split stimuli into folds that keep groups whole: scores then hold for other groups.

    Stimuli of one category, video or session are alike. Where some of a group are learned from and
    others tested, a score says nothing of groups that were never seen.

    Parameters
    ----------
    groups : sequence
        The group of each stimulus, in the order of the data, such as its category.
    folds : int
        Number of folds, at least 2 and at most as many as there are groups.
    seed : int
        Of the order of groups of one size.

    Returns
    -------
    list of Split
        One per fold; the largest groups are dealt first, each to the smallest fold so far.

    Raises
    ------
    DataError
        If ``folds`` is less than 2 or more than the groups, or a fold would test or train on fewer
        than 4 stimuli; the message has the numbers. Also if a group is missing (None, NaN), or
        there is but one.

    Examples
    --------
    >>> animals = ["dog"] * 4 + ["cat"] * 5 + ["cow"] * 6
    >>> [fold.test.tolist() for fold in grouped_folds(animals, 3, seed=0)]
    [[9, 10, 11, 12, 13, 14], [4, 5, 6, 7, 8], [0, 1, 2, 3]]
    """
    known = as_groups(groups, len(groups), "groups", "stimulus")
    found = splits_of_groups(known, folds, seed=seed)
    return split_stimuli(len(known.codes), found, seed=seed)


def splits_of_groups(groups: Groups, folds: int, *, seed: int) -> list[Split]:
    """Folds that keep groups whole, of any size."""
    tests = deal_groups(groups, folds, torch.Generator().manual_seed(seed))
    return [_split(torch.arange(len(groups.codes)), test) for test in tests]


def split_stimuli(n_stimuli: int, folds: int | Sequence[Split] | None, *, seed: int) -> list[Split]:
    """Make so many folds, check splits that are given, or score all stimuli without any."""
    if folds is None:
        if n_stimuli < SMALLEST_BLOCK:
            raise DataError(f"At least {SMALLEST_BLOCK} stimuli are needed, got {n_stimuli}.")
        everything = torch.arange(n_stimuli)
        return [Split(everything, everything)]
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


def splits_or_count(folds: int | Sequence[Split] | None) -> int | tuple[Split, ...] | None:
    """Give a number of folds of any integer type as an int, and splits as a tuple."""
    if folds is None:
        return None
    return int(folds) if isinstance(folds, (int, Integral)) else tuple(folds)


def _split(order: Tensor, test: Tensor) -> Split:
    mask = torch.zeros(len(order), dtype=torch.bool)
    mask[test] = True
    return Split((~mask).nonzero().squeeze(-1), mask.nonzero().squeeze(-1))


GATES = ("profile", "embedding")
Sides = Literal["both", "model", "brain"]
UNFITTED = {"identity": Identity, "centered": Centered}  # without parameters


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
        depends on no other stimulus) and "minmax" otherwise, as for matrices whose ``attrs`` do not
        say what they are (``similarity`` or ``dissimilarity``: "correlation" or "cosine").
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
        Of Adam's first step, on the gates' logits; it falls to a half over 160 steps, and faster
        for a fit that has lost what it had gained.
    inner_folds : int
        Folds of the training stimuli on which all of this is chosen.
    grid : int
        Steps of the geo-topological (l, u) grid between 0 and 1.
    sides : {"both", "model", "brain"}
        Whose RSMs a SoftStep is learned of; those of the other side stay as they are.
    keep_stimuli : bool
        Whether instance-wise gates leave every stimulus the mean and the size of its row of the
        RSM, so that no score can be won by one number or factor per stimulus. Not in tiles.
    gate_measure : str, optional
        Measure that gates are fitted and chosen under; by default the measure in use, or centered
        Pearson where that is not differentiable. "balanced_pearson" is the other way to keep a
        factor per stimulus from winning. In tiles it is always the measure in use.
    map_sizes : tuple of int
        Learned similarity: numbers of principal components of a layer's units to choose among;
        where there are fewer, all of them.
    map_penalties : tuple of float
        Weights on the squared distance of a map from the identity, to choose among.
    map_steps : tuple of int
        Numbers of gradient steps of a map to choose among, ascending.
    map_rate : float
        Of the first step of a map.
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
    sides: Sides = "both"
    keep_stimuli: bool = True
    gate_measure: str | None = None
    map_sizes: tuple[int, ...] = (50, 400)
    map_penalties: tuple[float, ...] = (1e-6, 1e-4, 1e-3, 1e-2)
    map_steps: tuple[int, ...] = (5, 10, 20, 40, 80, 160)
    map_rate: float = 0.05

    @property
    def map_stops(self) -> tuple[int, ...]:
        """Numbers of steps at which a map may stop, the first being none."""
        return (0, *self.map_steps)

    @property
    def stops(self) -> tuple[int, ...]:
        """Numbers of steps at which a fit may stop, the first being none."""
        return (0, *self.steps)

    def __post_init__(self):
        names = [("gate", gate, GATES) for gate in self.gates]
        names += [("family", self.family, get_args(Family))]
        names += [("scaling", self.scaling, ("auto", *SCALINGS))]
        names += [("side", self.sides, get_args(Sides))]
        for kind, name, known in names:
            if name not in known:
                raise unknown_name(kind, name, known)
        if not self.gates:
            raise DataError(f"`gates` is empty; choose among {', '.join(GATES)}.")
        self._check_numbers()
        if self.gate_measure is not None:
            _check_gate_measure(self.gate_measure)

    def _check_numbers(self) -> None:
        """Refuse numbers that make no fit."""
        for name in ("steps", "map_steps", "map_sizes"):
            values = getattr(self, name)
            if not values or list(values) != sorted(set(values)) or values[0] < 1:
                raise DataError(f"`{name}` must be ascending and at least 1, got {values}.")
        for name in ("penalties", "map_penalties"):
            values = getattr(self, name)
            if not values or min(values) < 0:
                raise DataError(f"`{name}` must be at least 0, got {values}.")
        for name in ("learning_rate", "map_rate"):
            if getattr(self, name) <= 0:
                raise DataError(f"`{name}` must be above 0, got {getattr(self, name)}.")
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


def _check_gate_measure(name: str) -> None:
    """Refuse a measure that gates cannot be fitted under."""
    measure = MEASURES[name]
    if not measure.differentiable or measure.takes == "features":
        why = "compares features" if measure.takes == "features" else "has no gradient"
        raise DataError(
            f"`gate_measure` must be a differentiable measure of RSMs, and {name!r} {why}: "
            "'balanced_pearson' for example."
        )


@dataclass(frozen=True)
class GroupLabels:
    """Labels of groups: one per stimulus, or pairs of a subject and its group.

    ``source`` is the coordinate that they were read from, if any.
    """

    labels: tuple[Any, ...] = ()
    source: str = ""


@dataclass(frozen=True)
class Options:
    """Everything that `align` is asked for, besides the data: what decides its results.

    The fingerprint of a stored run, the attributes of a result, the call that repeats it and what
    workers are sent are all made from this.
    """

    transforms: tuple[Chain, ...]
    measure: Measure
    similarity: Similarity = SIMILARITY_TABLE["correlation"]
    by: str = "layer"
    region: str = "region"
    subject: str = "subject"
    folds: int | tuple[Split, ...] | None = 5
    subjects: Literal["pooled", "leave_one_out"] = "pooled"
    join: Literal["exact", "intersection"] = "exact"
    ids: Literal["exact", "normalize"] = "exact"
    permute: bool = False
    settings: FitSettings = FitSettings()
    n_resamples: int = 1000
    seed: int = 0
    missing: bool = False  # whether pairs are missing in the data
    unavailable: tuple[str, ...] = ()  # ways to learn a similarity that the data do not allow
    control: tuple[str, ...] = ()  # names of the RSMs that scores are given: these are partial then
    stimulus_groups: GroupLabels = GroupLabels()
    subject_groups: GroupLabels = GroupLabels()

    def __post_init__(self):
        if not self.transforms:
            raise DataError(f"`transforms` is empty; choose among {', '.join(TRANSFORMS)}.")
        if self.subjects not in ("pooled", "leave_one_out"):
            raise unknown_name("way to use subjects", self.subjects, ("pooled", "leave_one_out"))
        if self.n_resamples < 0 or self.n_resamples == 1:
            raise DataError(
                f"`n_resamples` must be 0 or at least 2, got {self.n_resamples}, e.g. 1000."
            )

    @property
    def of_features(self) -> bool:
        """Whether features are compared, without RSMs: nothing is fitted or resampled then."""
        return self.measure.takes == "features"

    @property
    def scoring(self) -> Measure:
        """What scores RSMs: the measure, on the pairs there are where some are missing."""
        return on_held_pairs(self.measure) if self.missing else self.measure

    def groups_of_stimuli(self, n_stimuli: int) -> Groups:
        """Which stimuli are drawn and held out together; groups of one where nothing says so."""
        labels = self.stimulus_groups.labels or None
        return as_groups(labels, n_stimuli, "stimulus_groups", "stimulus")

    def groups_of_subjects(self, subjects: Sequence[str]) -> Groups:
        """Which of some subjects are drawn and left out together."""
        if not self.subject_groups.labels:
            return alone(len(subjects))
        group = dict(self.subject_groups.labels)
        return number_groups([group[name] for name in subjects])

    @property
    def fixed_only(self) -> bool:
        """Whether only what has no parameters can be scored."""
        return self.folds is None or self.missing

    @property
    def fitted(self) -> tuple[Chain, ...]:
        """Transforms to fit, simplest first: those asked for, and those gains are measured from."""
        fixed = [one for one in baselines() if one.name in UNFITTED or not self.fixed_only]
        wanted = [one for one in with_choices(self.transforms) if one.map not in self.unavailable]
        if self.of_features:
            fixed, wanted = fixed[:1], [one for one in wanted if acts_on_units_only(one)]
        return ordered([*fixed, *wanted])

    def own_rows(self) -> list[Transform | Measure | Similarity]:
        """List what is not of softrsa's own tables, whose version says what they do."""
        transforms = {row.name: row for one in self.fitted for row in one.rows}
        tables = (
            (TRANSFORMS, transforms.values(), "fit"),
            (MEASURES, [self.measure], "function"),
            (SIMILARITY_TABLE, [self.similarity], "function"),
        )
        return [
            row
            for table, rows, name in tables
            for row in rows
            if row.name not in table
            or table[row.name] is not row
            or not getattr(getattr(row, name), "__module__", "softrsa.").startswith("softrsa.")
        ]

    @property
    def asked(self) -> list[str]:
        """Names of the transforms that were asked for."""
        return [one.name for one in self.transforms]

    @property
    def learns(self) -> bool:
        """Whether anything is learned by descent, or chosen on inner folds."""
        return any(one.is_learned or one.name == "selected" for one in self.transforms)

    @property
    def resamples(self) -> bool:
        """Whether scores are resampled."""
        return self.n_resamples > 0

    @property
    def resampling_seed(self) -> int:
        """Seed of the resamples."""
        return self.seed + 2

    def attributes(self) -> dict[str, Any]:
        """All of it as texts and numbers, as a netCDF file holds them."""
        return {
            "transforms": ",".join(one.name for one in self.transforms),
            "titles": json.dumps({one.name: one.title for one in self.fitted}),
            "words": json.dumps({one.name: one.words for one in self.fitted}),
            "learned": ",".join(one.name for one in self.fitted if one.rsms.is_learned),
            "mapped": ",".join(one.name for one in self.fitted if one.map),
            "baselines": ",".join(
                one.name for one in self.fitted if one.rsms.baseline and one.units is None
            ),
            "measure": self.measure.name, "measure_properties": properties(self.measure),
            "similarity": self.similarity.name, "similarity_words": self.similarity.words,
            "subjects": self.subjects, "join": self.join, "ids": self.ids,
            "permuted": int(self.permute),
            "by": self.by, "region_coordinate": self.region, "subject_coordinate": self.subject,
            "settings": json.dumps(asdict(self.settings)), "seed": self.seed,
            "n_resamples": self.n_resamples, "resampling_seed": self.resampling_seed,
            "own_folds": int(isinstance(self.folds, tuple)),
            "all_stimuli_scored": int(self.folds is None),
            "pairs_missing": int(self.missing),
            **({"control": json.dumps(self.control)} if self.control else {}),
            **_group_attributes("stimulus_groups", self.stimulus_groups),
            **_group_attributes("subject_groups", self.subject_groups),
        }  # fmt: skip


def number_groups(labels: Sequence[Hashable]) -> Groups:
    """Give checked labels their groups, which may be a single one."""
    places = {label: i for i, label in enumerate(dict.fromkeys(labels))}
    return Groups(torch.tensor([places[label] for label in labels]), tuple(labels))


def _group_attributes(name: str, given: GroupLabels) -> dict[str, str]:
    """Write groups as texts, where there are any."""
    if not given.labels:
        return {}
    return {name: json.dumps(plain_labels(given.labels)), f"{name}_from": given.source}


ARGUMENTS = {  # of `align`, and the attributes of its results that hold them
    "by": "by", "region": "region_coordinate", "subject": "subject_coordinate", "join": "join",
    "ids": "ids",
    "transforms": "transforms", "measure": "measure", "similarity": "similarity",
    "folds": "n_folds", "subjects": "subjects", "permute": "permuted",
    "n_resamples": "n_resamples", "seed": "seed",
}  # fmt: skip


def arguments_of(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of the call of `align` that made a result: what `Options.attributes` says of it."""
    found = {name: attrs[key] for name, key in ARGUMENTS.items() if key in attrs}
    for name in ("folds", "n_resamples", "seed"):
        found[name] = int(found[name])
    if attrs.get("all_stimuli_scored"):
        found["folds"] = None
    if found.get("ids") == "exact":
        del found["ids"]
    return found | {
        "transforms": found["transforms"].split(","),
        "permute": bool(found["permute"]),
        "settings": json.loads(attrs["settings"]),
    }


def repeat_call(attrs: Mapping[str, Any]) -> str:
    """Write the Python call that makes the same result of the same data."""
    options = arguments_of(attrs)
    settings = options.pop("settings")
    lines = ["import softrsa", "from softrsa.alignment import FitSettings"]
    lines += ["", "result = softrsa.align(", "    layers,", "    regions,"]
    if "control" in attrs:
        lines.append(f"    control=control,  # {', '.join(json.loads(attrs['control']))}")
    for name in ("stimulus_groups", "subject_groups"):
        if name in attrs:
            source = attrs[f"{name}_from"]
            given = f"{json.dumps(source)}," if source else f"{name},  # labels as given"
            lines.append(f"    {name}={given}")
    for name, value in options.items():
        own = "  # in fact folds of your own" if name == "folds" and attrs.get("own_folds") else ""
        lines.append(
            f"    {name}={json.dumps(value) if isinstance(value, (str, list)) else value},{own}"
        )
    lines.append("    settings=FitSettings(")
    for name, value in settings.items():
        lines.append(f"        {name}={tuple(value) if isinstance(value, list) else value!r},")
    lines.append("    ),")
    lines.append(")")
    if "command" in attrs:
        lines = ["# on the command line:", f"# {attrs['command']}", "", *lines]
    return "\n".join(lines)


def acts_on_units_only(one: Chain) -> bool:
    """Whether RSMs stay as they are, so that features can be compared as well."""
    return one.rsms.name in ("identity", "selected")


def baselines() -> list[Chain]:
    """List the fixed transforms of every run."""
    return [as_chain(row) for row in TRANSFORMS.values() if row.baseline]


def with_choices(chains: Sequence[Chain]) -> list[Chain]:
    """Add what "selected" chooses among, where it is alone: all of the table."""
    if [one.name for one in chains] != [SELECTED.name]:
        return [*chains]
    return [as_chain(row) for row in TRANSFORMS.values()]


def ordered(chains: Sequence[Chain]) -> tuple[Chain, ...]:
    """Each transform once, from simple to complex; those alike in the order of the table or given.

    Raises
    ------
    DataError
        If two different ones have the same name.
    """
    by_name: dict[str, Chain] = {}
    for one in chains:
        if by_name.setdefault(one.name, one) != one:
            raise DataError(f"Two different transforms are named {one.name!r}; rename one.")

    names = [*TRANSFORMS]

    def place(row: Transform) -> int:
        return names.index(row.name) if row.name in names else len(names)

    def complexity(one: Chain) -> tuple[bool, int, int, int]:
        row = one.rsms
        learned = 0 if row.baseline else 2 if row.is_learned else 1
        of_units = -1 if one.units is None else place(one.units)
        return row.name == "selected", of_units, learned, place(row)

    return tuple(sorted(by_name.values(), key=complexity))
