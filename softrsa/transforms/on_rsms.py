"""What is done to one side's RSMs, as modules, and the table that `align` reads them from."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from softrsa._descent import first_best
from softrsa._table import Table
from softrsa.errors import DataError, DTypeError
from softrsa.pairs import expand
from softrsa.rsm.scaling import Scaling, scale_similarities
from softrsa.transforms.center import (
    MeansAndSizes,
    center_held,
    double_center,
    held_pairs,
    with_means_and_sizes,
)
from softrsa.transforms.gates import SoftStep, StepParameters
from softrsa.transforms.geo_topological import GeoTopological, geo_topological_grid


class Scoring(Protocol):
    """A measure, as `softrsa.measures.Measure`: what scores of square RSMs are made with."""

    @property
    def takes(self) -> str:
        """The kind of inputs."""
        ...

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """Score what the measure takes."""
        ...

    def between(self, x: Tensor, y: Tensor) -> Tensor:
        """Score square RSMs (..., n, n)."""
        ...


SEARCH_STIMULI = 512  # of more than these, evenly drawn ones serve to find thresholds


class Identity(nn.Module):
    """The RSM as it is: plain RSA."""

    def forward(self, rsms: Tensor, anchors: Tensor | None = None) -> Tensor:
        """Return ``rsms`` (..., n, n)."""
        del anchors
        return rsms


class Centered(nn.Module):
    """The double-centered RSM; where pairs are missing (NaN), centered on those there are."""

    def forward(self, rsms: Tensor, anchors: Tensor | None = None) -> Tensor:
        """Return the centered ``rsms`` (..., n, n)."""
        del anchors
        if not bool(rsms.isnan().any()):
            return double_center(rsms)
        each = [center_held(one, held_pairs(one)) for one in rsms.reshape(-1, *rsms.shape[-2:])]
        return torch.stack(each).view(rsms.shape)


class HardGT(nn.Module):
    """A geo-topological transform of 1 - similarity, turned back into a similarity."""

    def __init__(self, lower: float, upper: float):
        super().__init__()
        self.threshold = GeoTopological(lower, upper, "trsa")

    def forward(self, rsms: Tensor, anchors: Tensor | None = None) -> Tensor:
        """Return the transformed ``rsms`` (..., n, n)."""
        del anchors
        return 1 - self.threshold(1 - rsms)


class SoftGate(nn.Module):
    """Similarities scaled to [0, 1], through a SoftStep, symmetrized if asked for.

    With a `Scaling` learned on as many RSMs as there are, each is scaled by its own numbers; where
    there are more or fewer, as for other subjects, by those of the RSMs themselves. To ``keep``
    stimuli is to give every row the mean and the size that it had before the step, so that gates of
    single stimuli change geometry only.
    """

    def __init__(
        self, step: SoftStep, scaling: str | Scaling, symmetrize: bool, *, keep: bool = False
    ):
        super().__init__()
        self.keep = keep
        self.step = step
        self.scaling = Scaling(scaling) if isinstance(scaling, str) else scaling
        self.symmetrize = symmetrize

    def scale(self, rsms: Tensor) -> Tensor:
        """Bring similarities (..., n, n) to [0, 1]."""
        if self.scaling.fits(rsms):
            return self.scaling(rsms)
        return scale_similarities(rsms, self.scaling.how)

    def forward(self, rsms: Tensor, anchors: Tensor | None = None) -> Tensor:
        """Return the transformed ``rsms`` (..., n, n)."""
        return self.step_scaled(self.scale(rsms), anchors)

    def step_parameters(self, rsms: Tensor, anchors: Tensor | None = None) -> StepParameters:
        """Lower, upper and transition of the anchors of ``rsms``."""
        return self.step.gate(self.scale(rsms), anchors)

    def step_scaled(
        self, scaled: Tensor, anchors: Tensor | None = None, kept: MeansAndSizes | None = None
    ) -> Tensor:
        """Transform similarities that are scaled already; what is ``kept`` may be known."""
        stepped = self.step(scaled, anchors)
        if self.symmetrize:
            stepped = (stepped + stepped.mT).mul_(0.5)
        if not self.keep:
            return stepped
        found = with_means_and_sizes(stepped, kept or MeansAndSizes.of(scaled))
        return (found + found.mT).mul_(0.5) if self.symmetrize else found  # but for rounding, it is


def threshold_grid(steps: int) -> list[tuple[float, float]]:
    """Pairs l <= u on a regular grid of quantiles, without the two that leave a constant.

    Examples
    --------
    >>> threshold_grid(2)
    [(0.0, 0.5), (0.0, 1.0), (0.5, 0.5), (0.5, 1.0)]
    """
    levels = [i / steps for i in range(steps + 1)]
    pairs = [(low, high) for i, low in enumerate(levels) for high in levels[i:]]
    return [pair for pair in pairs if pair not in ((0.0, 0.0), (1.0, 1.0))]


def best_threshold(
    model: Tensor, brain: Tensor, measure: Scoring, steps: int
) -> tuple[float, float]:
    """Thresholds (l, u), the same for both sides, with the highest training score.

    ``model`` is (1, n, n), ``brain`` (n_subjects, n, n).
    """
    grid = threshold_grid(steps)
    low, high = torch.tensor(grid, dtype=torch.float64).T
    scores = []
    for part in geo_topological_grid(1 - torch.cat([model, brain]), low, high):
        if measure.takes in ("vectors", "pairs"):
            of_model, of_brain = (1 - part).split([1, len(brain)], dim=1)
            scores.append(measure(of_model, of_brain).mean(-1))
        else:
            of_model, of_brain = (1 - expand(part)).split([1, len(brain)], dim=1)
            scores.append(measure.between(of_model, of_brain).mean(-1))
    return grid[first_best(torch.cat(scores))]


class Training(NamedTuple):
    """What a transform is fitted to: both sides over training stimuli, and the measure in use.

    Attributes
    ----------
    model : Tensor, shape (1, n, n)
        The layer's RSM, float64.
    brain : Tensor, shape (n_subjects, n, n)
        The region's RSMs, one per subject.
    units : Tensor, shape (n, n_units), or None
        The layer's units; None where the layer is given as an RDM.
    measure : Measure
        What scores are made with: ``training.measure.between(rsm, rsm)``.
    grid : int
        Steps of a search between 0 and 1 (`FitSettings.grid`).
    """

    model: Tensor
    brain: Tensor
    units: Tensor | None
    measure: Scoring
    grid: int


Fit = Callable[[Callable[[], Training]], nn.Module]


@dataclass(frozen=True)
class Always:
    """Fit of a module that is always the same: two of one module are equal."""

    module: nn.Module

    def __call__(self, training: Callable[[], Training]) -> nn.Module:
        """Give the module."""
        del training
        return self.module


@dataclass(frozen=True, kw_only=True)
class Transform:
    """A row of the table of transforms: what it is called, where it acts, how it is fitted.

    Attributes
    ----------
    name : str
        By which `align` and the tables know it: letters, digits and underscores.
    title : str
        In figures and tables.
    words : str
        In the methods paragraph, after "compared under".
    acts_on : {"rsms", "units"}
        RSMs of both sides (..., n, n), or the layer's units (n, n_units) before they become an RSM.
    fit : callable, optional
        Given a function that returns the `Training` data, makes the module: from RSMs to RSMs, or
        from units to units. One that is always the same need not call it.
    gates : tuple of str
        Instead of ``fit``: kinds of gates whose SoftStep is learned by gradient descent
        ("global", "profile", "embedding"); inner folds choose among them.
    map : {"", "diagonal", "full", "ridge"}
        Instead of ``fit``, of units: how the linear map to the features that are compared is
        learned. Weights of principal components, any map of them (both by gradient descent), or
        ridge regression to the brain's units.
    tiled : bool
        Whether it works on RSMs that are never held whole.
    baseline : bool
        Whether it is fitted in every run, as one of those that gains are measured from.

    Raises
    ------
    DataError
        If the name cannot be used, or nothing, or too much, says how it is fitted.

    Examples
    --------
    >>> class Squared(nn.Module):
    ...     def forward(self, rsms, anchors=None):
    ...         return rsms.square()
    >>> row = Transform(
    ...     name="squared", title="squared", words="squared similarities", fit=lambda _: Squared()
    ... )
    >>> row.name, row.is_learned
    ('squared', False)
    """

    name: str
    title: str
    words: str
    acts_on: Literal["rsms", "units"] = "rsms"
    fit: Fit | None = None
    gates: tuple[str, ...] = ()
    map: Literal["", "diagonal", "full", "ridge"] = ""
    tiled: bool = False
    baseline: bool = False

    def __post_init__(self):
        if not re.fullmatch(r"\w+", self.name):
            raise DataError(
                f"A transform's name has letters, digits and underscores only, got {self.name!r}."
            )
        if not (self.title and self.words):
            raise DataError(f"Transform {self.name!r} needs a `title` and `words` for reports.")
        if self.acts_on not in ("rsms", "units"):
            raise DataError(
                f"Transform {self.name!r} must act on 'rsms' or 'units', got {self.acts_on!r}."
            )
        given = (self.fit is not None) + bool(self.gates) + bool(self.map)
        misplaced = self.gates if self.acts_on == "units" else self.map
        if given != (self.name != "selected") or misplaced:
            raise DataError(
                f"Transform {self.name!r} needs one of `fit`, `gates` of a SoftStep of RSMs, and "
                "`map` of units."
            )

    def __reduce__(self):
        # those of softrsa are the same object in every process
        if any(self is row for row in _ROWS):
            return _own_row, (self.name,)
        return super().__reduce__()

    @property
    def is_learned(self) -> bool:
        """Whether it is a SoftStep learned by gradient descent."""
        return bool(self.gates)


def _searched(training: Callable[[], Training]) -> HardGT:
    """Find the thresholds with the highest training score; of many stimuli, that of some."""
    model, brain, _, measure, grid = training()
    n = model.shape[-1]
    some = torch.linspace(0, n - 1, min(n, SEARCH_STIMULI), dtype=torch.float64).round().long()
    model, brain = (rsms[:, some][:, :, some] for rsms in (model, brain))
    return HardGT(*best_threshold(model, brain, measure, grid))


TRANSFORMS: Table[Transform] = Table("transform", Transform, "softrsa.transforms")  # by complexity
_ROWS = (
    Transform(
        name="identity", title="identity (plain RSM)", words="no transform",
        fit=lambda _: Identity(), tiled=True, baseline=True,
    ),
    Transform(
        name="centered", title="double-centered", words="double-centering",
        fit=lambda _: Centered(), tiled=True, baseline=True,
    ),
    Transform(
        name="geo_topological", title="geo-topological (grid)",
        words="geo-topological thresholds chosen on a grid", fit=_searched, baseline=True,
    ),
    Transform(
        name="global", title="SoftStep, global", words="a SoftStep common to all stimuli",
        gates=("global",), tiled=True,
    ),
    Transform(
        name="instance", title="SoftStep, instance-wise",
        words="a SoftStep for each anchor stimulus", gates=("profile", "embedding"), tiled=True,
    ),
    Transform(
        name="reweighted", title="reweighted components", acts_on="units", map="diagonal",
        words="learned non-negative weights of the layer's principal components",
    ),
    Transform(
        name="metric", title="learned metric", acts_on="units", map="full",
        words="a learned linear map of the layer's principal components",
    ),
    Transform(
        name="encoding", title="encoding model", acts_on="units", map="ridge",
        words="the similarity of the region's responses as ridge regression predicts them",
    ),
    Transform(
        name="selected", title="selected",
        words="the simplest transform within one standard error of the best on inner folds",
        tiled=True,
    ),
)  # fmt: skip
for _row in _ROWS:
    TRANSFORMS.add(_row)


def _own_row(name: str) -> Transform:
    return TRANSFORMS[name]


@dataclass(frozen=True)
class Chain:
    """What happens to a layer's units, if anything, and then to the RSMs of both sides."""

    units: Transform | None
    rsms: Transform

    @property
    def is_learned(self) -> bool:
        """Whether anything of it is learned: a map of units, or a SoftStep."""
        return self.rsms.is_learned or self.map != ""

    @property
    def map(self) -> str:
        """How the map of units is learned, if so."""
        return "" if self.units is None else self.units.map

    @property
    def name(self) -> str:
        """As `align` takes it: "units+rsms", or the one that does anything."""
        return "+".join(row.name for row in self.rows)

    @property
    def title(self) -> str:
        """In figures and tables."""
        return ", then ".join(row.title for row in self.rows)

    @property
    def words(self) -> str:
        """In the methods paragraph."""
        return " followed by ".join(row.words for row in self.rows)

    @property
    def rows(self) -> tuple[Transform, ...]:
        """Its parts that do anything."""
        if self.units is None:
            return (self.rsms,)
        return (self.units,) if self.rsms.name == "identity" else (self.units, self.rsms)


TransformLike = str | Transform | nn.Module | Chain


def as_chain(given: TransformLike) -> Chain:
    """Look a transform up: by name, "units+rsms", or a row or module of the user's own.

    Examples
    --------
    >>> as_chain("global").rsms.gates
    ('global',)
    >>> as_chain(Identity()).name
    'Identity'
    """
    if isinstance(given, Chain):
        return given
    if isinstance(given, nn.Module):
        name = type(given).__name__
        given = Transform(name=name, title=name, words=f"a transform {name}", fit=Always(given))
    if not isinstance(given, (str, Transform)):
        raise DTypeError(
            "A transform is given by its name, as a `softrsa.transforms.Transform` or as a module "
            f"from RSMs to RSMs, got {type(given).__name__}; names are {', '.join(TRANSFORMS)}."
        )
    parts = given.split("+") if isinstance(given, str) else [given]
    rows = [TRANSFORMS.row(part) for part in parts]
    return _chain(rows)


def _chain(rows: list[Transform]) -> Chain:
    """Put rows together: at most one on units, then at most one on RSMs."""
    acting = [row.acts_on for row in rows]
    if len(rows) > 1 and (acting != ["units", "rsms"] or rows[1].name == "selected"):
        said = " and ".join(f"{row.name!r} acts on {row.acts_on}" for row in rows)
        raise DataError(f"A chain is one transform of units, then one of RSMs; {said}.")
    if acting[-1] == "rsms":
        return Chain(rows[0] if len(rows) > 1 else None, rows[-1])
    return Chain(rows[0], TRANSFORMS["identity"])
