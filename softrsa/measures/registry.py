"""The table of measures: one row each, with what it promises; the contract test reads it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import cache, partial
from typing import Any, Literal

import torch
from torch import Tensor

from softrsa._gradients import within
from softrsa._ranks import average_ranks
from softrsa._table import Table
from softrsa.errors import DataError, DTypeError, ShapeError, unknown_name
from softrsa.measures.anchors import (
    per_anchor_pearson,
    resampled_identification,
    resampled_per_anchor_pearson,
    stimulus_identification,
)
from softrsa.measures.balanced import balanced_pearson, resampled_balanced_pearson
from softrsa.measures.cka import angular_cka, debiased_cka, linear_cka, rbf_cka
from softrsa.measures.correlation import (
    Embedding,
    centered_pearson,
    cosine,
    pearson,
    spearman,
)
from softrsa.measures.kernels import (
    kernel_cka,
    kernel_nbs,
    positive_kernel,
    resampled_kernel_cka,
    resampled_kernel_nbs,
    unit_kernel,
)
from softrsa.measures.matching import (
    permutation_matching,
    soft_matching,
    soft_matching_distance,
)
from softrsa.measures.neighbors import (
    cknna,
    mean_neighbors,
    mutual_knn,
    neighbor_graph,
    neighbor_jaccard,
    resampled_cknna,
    resampled_jaccard,
    resampled_mutual_knn,
)
from softrsa.measures.predictivity import (
    held_out_predictivity,
    linear_predictivity,
    ridge_predictivity,
)
from softrsa.measures.rank import (
    SOFT_STRENGTH,
    kendall_tau_a,
    kendall_tau_b,
    rho_a,
    soft_spearman,
)
from softrsa.measures.regressions import held_out_pls, pls_predictivity
from softrsa.measures.shape import angular_procrustes, cca, nbs, procrustes_distance, svcca
from softrsa.measures.shape_alignment import (
    cca_predictivity,
    held_out_shape,
    procrustes_predictivity,
)
from softrsa.measures.whitened import whitened_cosine, whitened_pearson
from softrsa.pairs import condense, expand, off_diagonal
from softrsa.transforms import soft_rank


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A measure and its declared properties.

    Attributes
    ----------
    function : callable
        Takes two inputs of the kind ``takes`` and returns the score, shape (...).
    takes : {"vectors", "pairs", "dissimilarities", "matrices", "kernels", "features"}
        Vectors of entries in any order (..., n_pairs); the same, each pair of stimuli once, because
        the mirror image of an entry would count as a tie or has no place; the same, dissimilarities
        that are 0 of a stimulus to itself; square RSMs (..., n, n); the same, whose diagonal is
        data; or features (..., n, p) and (..., n, q) of the same stimuli.
    range : tuple of float
        Smallest and largest value.
    symmetric : bool
        Whether the order of the two inputs does not matter.
    metric : bool
        Whether the distance it gives (itself, or 1 - score) obeys the triangle inequality and is
        0 for inputs that differ by ``invariances`` only.
    differentiable : bool
        Whether gradients reach both inputs.
    larger_is_more_similar : bool
        False for distances, which have "distance" in their name.
    invariances : frozenset of str
        Changes of either input that leave the score as it is: "scale" (positive factor), "shift"
        (a constant added; to features, one number per unit), "monotone" (any increasing function),
        "row_offset" and "column_offset" (a number added per row, or per column, of an RSM),
        "row_scale" and "stimulus_scale" (a positive factor per row of a double-centered RSM, or one
        per stimulus, for its row and its column), "orthogonal" (rotation or reflection of
        features), "linear" (any invertible linear map of features).
    smallest_n : int
        Fewest stimuli for which the score is defined.
    reference : str
        Where it comes from.
    embed : Embedding, optional
        Of a measure on RSMs that is a cosine: of what. Bootstraps, permutations, noise ceilings,
        flexible models and the intervals of `align` are then computed all at once; otherwise the
        function is called for each resample.
    normalize : callable, optional
        Of a measure on RSMs: brings one input to the form whose mean over subjects is the pooled
        RSM of a noise ceiling; what the measure ignores is removed. That of ``embed``, if given.
    resampled : callable, optional
        Of a measure on RSMs without ``embed``: the score (...) where stimuli are drawn with
        replacement, given (x, y, counts), how often each occurs (n,). Without it, a bootstrap over
        stimuli is refused for square RSMs, and repeats pairs of others.
    held_out : callable, optional
        Of a measure on features that fits one to the other: the score (...) of stimuli that were
        not fitted, given (x_train, y_train, x_test, y_test). It must not change when units of x
        are rotated: `align` does that to wide layers.
    unbiased : bool
        Whether unrelated features score no more than 0 on average, however many their units.
    words : str
        In the methods paragraph, after "RSMs were compared by"; the name by default.

    Raises
    ------
    DataError
        If ``embed`` contradicts what the function takes or the scores it gives of an example.

    Examples
    --------
    >>> def correlation(a, b):
    ...     a, b = (x - x.mean(-1, keepdim=True) for x in (a, b))
    ...     return torch.nn.functional.cosine_similarity(a, b, dim=-1)
    >>> mine = Measure(
    ...     function=correlation, takes="vectors", range=(-1, 1), smallest_n=3, reference="here",
    ...     embed=Embedding(of="deviations"),
    ... )
    >>> mine(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 3.0, 2.0]))
    tensor(0.5000)
    """

    function: Callable[..., Tensor]
    takes: Literal["vectors", "pairs", "dissimilarities", "matrices", "kernels", "features"]
    range: tuple[float, float]
    symmetric: bool = True
    metric: bool = False
    differentiable: bool = True
    larger_is_more_similar: bool = True
    invariances: frozenset[str] = frozenset()
    smallest_n: int
    reference: str
    embed: Embedding | None = None
    normalize: Callable[[Tensor], Tensor] | None = field(default=None, compare=False)
    resampled: Callable[..., Tensor] | None = field(default=None, compare=False)
    held_out: Callable[..., Tensor] | None = field(default=None, compare=False)
    unbiased: bool = False
    words: str = ""

    def __post_init__(self):
        if self.embed is not None:
            object.__setattr__(self, "normalize", self.embed.normalize)
            with torch.device("cpu"):  # whatever the default is
                _check_embed(self, self.embed)

    @property
    def name(self) -> str:
        """The name of the function and of the entry."""
        return self.function.__name__

    @property
    def on_squares(self) -> bool:
        """Whether it takes square RSMs, with or without their diagonal."""
        return self.takes in ("matrices", "kernels")

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """Score two inputs of the kind the function takes."""
        return self.function(x, y)

    def pairs_of(self, rsms: Tensor) -> Tensor:
        """Put square RSMs (..., n, n) into the form the function takes.

        All off-diagonal entries become vectors. "pairs" are those of the mean of an RSM and its
        transpose, "dissimilarities" also subtract them from the mean of the two self-similarities:
        1 - correlation, a squared distance of a kernel, minus a negative distance.
        """
        if self.takes == "features":
            raise DataError(f"{self.name!r} compares features, not RSMs; give it (..., n, p).")
        if self.on_squares:
            return rsms
        if self.takes == "vectors":
            return off_diagonal(rsms)
        pairs = condense(rsms + rsms.mT) / 2
        if self.takes == "pairs":
            return pairs
        own = rsms.diagonal(dim1=-2, dim2=-1)
        return condense(own.unsqueeze(-1) + own.unsqueeze(-2)) / 2 - pairs

    def between(self, x: Tensor, y: Tensor) -> Tensor:
        """Score square RSMs (..., n, n) over all their off-diagonal entries; see `pairs_of`."""
        return self.function(self.pairs_of(x), self.pairs_of(y))

    def against(self, models: Tensor) -> Callable[[Tensor], Tensor]:
        """Scores of many RDMs with the same models, fast: for a searchlight's ``evaluate``.

        Parameters
        ----------
        models : Tensor, shape (n_models, n_pairs)
            Condensed RDMs, float32 or float64.

        Returns
        -------
        callable
            Takes condensed RDMs (k, n_pairs) of the same stimuli and gives scores (k, n_models).

        Raises
        ------
        DataError
            If the measure compares features, or self-similarities, which condensed RDMs lack.
        ShapeError
            If ``models`` are not condensed.

        Examples
        --------
        >>> models = torch.tensor([[1.0, 2.0, 3.0], [3.0, 1.0, 2.0]])
        >>> get("spearman").against(models)(torch.tensor([[1.0, 2.0, 3.0]]))
        tensor([[ 1.0000, -0.5000]])
        """
        if self.takes in ("features", "kernels"):
            raise DataError(
                f"{self.name!r} compares {self.takes}; take a measure that compares pairs of "
                "stimuli, such as 'pearson' or 'centered_pearson'."
            )
        if models.ndim != 2:
            raise ShapeError(
                f"`models` must be condensed RDMs (n_models, n_pairs), got {tuple(models.shape)}."
            )
        given = expand if self.takes == "matrices" else _same
        if self.embed is None:
            prepared = given(models)
            return lambda rdms: self(given(rdms).unsqueeze(1), prepared)
        embed, units = self.embed, self.embed.unit(given(models))
        return lambda rdms: within(embed.unit(given(rdms)) @ units.mT)


def _same(x: Tensor) -> Tensor:
    return x


def _check_embed(measure: Measure, embed: Embedding) -> None:
    """Compare a measure with the cosine it says it is, on an example."""
    if measure.takes not in embed.takes:
        raise DataError(
            f"{measure.name!r} takes {measure.takes!r}; a measure with embed={embed} takes "
            f"{' or '.join(map(repr, embed.takes))}."
        )
    x, y = (measure.pairs_of(rsms) for rsms in _example(max(7, measure.smallest_n)))
    expected = (embed.unit(x) * embed.unit(y)).sum(-1)
    found = measure(x, y).expand_as(expected)
    apart = (found - expected).abs().nan_to_num(torch.inf)
    worst = apart.argmax()
    if apart[worst] > 1e-9:
        raise DataError(
            f"{measure.name!r} is not what it says: its function scores an example "
            f"{found[worst].item():.6g}, embed={embed} {expected[worst].item():.6g}. Mend one of "
            "them; without `embed` each resample is scored by the function, which takes longer."
        )


@cache
def _example(n: int) -> Tensor:
    """Two times eight asymmetric RSMs of few different values, some positively related."""
    rng = torch.Generator().manual_seed(0)
    return torch.randn(2, 8, n, n, generator=rng, dtype=torch.float64).mul_(3).round_()


def _soft_ranks(x: Tensor) -> Tensor:
    return soft_rank(x, strength=SOFT_STRENGTH)


_RSA = "Kriegeskorte, Mur & Bandettini (2008), doi:10.3389/neuro.06.004.2008"
_CKA = "Kornblith et al. (2019), arXiv:1905.00414"
_SHAPE = "Williams et al. (2021), arXiv:2110.14739"
_CCA = "Raghu et al. (2017), arXiv:1706.05806"
_SYNTHESIS = "Cloos et al. (2024), arXiv:2407.07059"
_NILI = "Nili et al. (2014), doi:10.1371/journal.pcbi.1003553"
_WHITE = "Diedrichsen et al. (2021), arXiv:2007.02789"
_MATCHING = "Khosla & Williams (2024), arXiv:2311.09466"
_PLATO = "Huh et al. (2024), arXiv:2405.07987"
_UNIT = (-1.0, 1.0)
_POSITIVE = (0.0, 1.0)
_RIGID = frozenset({"orthogonal", "shift"})
_SIMILAR = _RIGID | {"scale"}
_ORDER = frozenset({"scale", "shift", "monotone"})
# of those that center: their further scaling is of each RSM by itself, and would undo centering
_CENTERED_UNIT = Embedding(offsets="removed").normalize
_CENTERED = frozenset({"scale", "shift", "row_offset", "column_offset"})
_ROW_ORDER = _ORDER | {"row_offset", "row_scale"}
_ROWS = (
    Measure(
        function=balanced_pearson, takes="matrices", range=_UNIT, smallest_n=4,
        invariances=_CENTERED | {"stimulus_scale"}, normalize=_CENTERED_UNIT,
        resampled=resampled_balanced_pearson, reference="softrsa: Pearson of balanced RSMs",
        words=('the Pearson correlation of their off-diagonal entries after double-centering and '
        'balancing, which removes row and column means and one positive factor per stimulus'),
    ),
    Measure(
        function=centered_pearson, takes="matrices", range=_UNIT, smallest_n=4,
        invariances=_CENTERED,
        embed=Embedding(offsets="removed"), reference="softrsa: Pearson of double-centered RSMs",
        words=('the Pearson correlation of their off-diagonal entries after double-centering, '
        'which removes row and column means'),
    ),
    Measure(
        function=cosine, takes="vectors", range=_UNIT, smallest_n=2,
        invariances=frozenset({"scale"}), embed=Embedding(), reference=_RSA,
        words="the cosine of their off-diagonal entries",
    ),
    Measure(
        function=pearson, takes="vectors", range=_UNIT, smallest_n=3,
        invariances=frozenset({"scale", "shift"}), embed=Embedding("deviations"), reference=_RSA,
        words="the Pearson correlation of their off-diagonal entries",
    ),
    Measure(
        function=spearman, takes="vectors", range=_UNIT, smallest_n=3, differentiable=False,
        invariances=_ORDER, embed=Embedding("ranks"), reference=_RSA,
        words="the Spearman correlation of their off-diagonal entries",
    ),
    Measure(
        function=kendall_tau_a, takes="pairs", range=_UNIT, smallest_n=3, differentiable=False,
        invariances=_ORDER, normalize=average_ranks, reference=_NILI,
        words="Kendall's tau-a of their off-diagonal entries",
    ),
    Measure(
        function=kendall_tau_b, takes="pairs", range=_UNIT, smallest_n=3, differentiable=False,
        invariances=_ORDER, normalize=average_ranks,
        reference="Kendall (1945), doi:10.1093/biomet/33.3.239",
        words="Kendall's tau-b of their off-diagonal entries",
    ),
    Measure(
        function=rho_a, takes="pairs", range=_UNIT, smallest_n=3, differentiable=False,
        invariances=_ORDER, embed=Embedding("ranks", untied=True),
        reference="Schütt et al. (2023), doi:10.7554/eLife.82566",
        words="rho-a (Spearman's with ties broken at random) of their off-diagonal entries",
    ),
    Measure(
        function=soft_spearman, takes="vectors", range=_UNIT, smallest_n=3,
        invariances=frozenset({"scale", "shift"}), normalize=_soft_ranks,
        reference="Blondel et al. (2020), arXiv:2002.08871",
    ),
    Measure(
        function=whitened_cosine, takes="dissimilarities", range=_UNIT, smallest_n=2,
        invariances=frozenset({"scale"}), embed=Embedding(offsets="whitened"), reference=_WHITE,
        words="the whitened cosine of their dissimilarities",
    ),
    Measure(
        function=whitened_pearson, takes="pairs", range=_UNIT, smallest_n=3,
        invariances=frozenset({"scale", "shift"}), embed=Embedding("deviations", "whitened"),
        reference=_WHITE,
        words="the whitened Pearson correlation of their dissimilarities",
    ),
    Measure(
        function=per_anchor_pearson, takes="matrices", range=_UNIT, smallest_n=4,
        invariances=_CENTERED | {"row_scale"}, normalize=_CENTERED_UNIT,
        resampled=resampled_per_anchor_pearson,
        reference="softrsa: mean Pearson of the rows of double-centered RSMs",
        words=('the mean over stimuli of the Pearson correlation of their rows after '
        'double-centering'),
    ),
    Measure(
        function=stimulus_identification, takes="matrices", range=_POSITIVE, smallest_n=5,
        differentiable=False, invariances=_CENTERED | {"row_scale"}, normalize=_CENTERED_UNIT,
        resampled=resampled_identification,
        reference="Kay et al. (2008), doi:10.1038/nature06713",
        words=('how often the row of a stimulus in one double-centered RSM matches its own row in '
        'the other better than that of another stimulus (chance is .5)'),
    ),
    Measure(
        function=kernel_cka, takes="kernels", range=_UNIT, smallest_n=2,
        invariances=_CENTERED, normalize=unit_kernel, resampled=resampled_kernel_cka,
        reference="Cortes, Mohri & Rostamizadeh (2012), JMLR 13, 795-828",
        words="centered kernel alignment of the RSMs as kernels",
    ),
    Measure(
        function=kernel_nbs, takes="kernels", range=_POSITIVE, smallest_n=2,
        invariances=_CENTERED, normalize=positive_kernel, resampled=resampled_kernel_nbs,
        reference="Harvey, Larsen & Williams (2024), arXiv:2311.11436",
        words="the normalized Bures similarity of the RSMs as kernels",
    ),
    Measure(
        function=mutual_knn, takes="matrices", range=_POSITIVE, smallest_n=3, differentiable=False,
        invariances=_ROW_ORDER, normalize=neighbor_graph, resampled=resampled_mutual_knn,
        reference=_PLATO,
        words="the share of the nearest neighbors of each stimulus that both RSMs have in common",
    ),
    Measure(
        function=neighbor_jaccard, takes="matrices", range=_POSITIVE, smallest_n=3,
        differentiable=False, invariances=_ROW_ORDER, normalize=neighbor_graph,
        resampled=resampled_jaccard, reference="Klabunde et al. (2025), doi:10.1145/3728458",
        words="the Jaccard similarity of the nearest neighbors of each stimulus in both RSMs",
    ),
    Measure(
        function=cknna, takes="matrices", range=(-0.29, 1.0), smallest_n=3, differentiable=False,
        invariances=frozenset({"scale", "shift", "row_offset"}), normalize=mean_neighbors,
        resampled=resampled_cknna, reference=_PLATO,
        words="the alignment of both RSMs over mutual nearest neighbors (CKNNA)",
    ),
    Measure(
        function=linear_cka, takes="features", range=_POSITIVE, smallest_n=2, invariances=_SIMILAR,
        reference=_CKA,
        words="linear centered kernel alignment",
    ),
    Measure(
        function=angular_cka, takes="features", range=_POSITIVE, smallest_n=2, metric=True,
        invariances=_SIMILAR, reference=_SHAPE,
    ),
    Measure(
        function=debiased_cka, takes="features", range=_UNIT, smallest_n=4, invariances=_SIMILAR,
        unbiased=True,
        reference="Song et al. (2012), JMLR 13, 1393-1434",
        words="debiased linear centered kernel alignment",
    ),
    Measure(
        function=rbf_cka, takes="features", range=_POSITIVE, smallest_n=2, invariances=_SIMILAR,
        reference=_CKA,
    ),
    Measure(
        function=nbs, takes="features", range=_POSITIVE, smallest_n=2, invariances=_SIMILAR,
        reference="Harvey, Larsen & Williams (2024), arXiv:2311.11436",
        words="normalized Bures similarity",
    ),
    Measure(
        function=angular_procrustes, takes="features", range=_POSITIVE, smallest_n=2, metric=True,
        invariances=_SIMILAR, reference=_SHAPE,
    ),
    Measure(
        function=procrustes_distance, takes="features", range=(0.0, math.inf), smallest_n=2,
        metric=True, larger_is_more_similar=False, invariances=_RIGID, reference=_SHAPE,
    ),
    Measure(
        function=cca, takes="features", range=_POSITIVE, smallest_n=2,
        invariances=_SIMILAR | {"linear"}, reference=_CCA,
    ),
    Measure(
        function=svcca, takes="features", range=_POSITIVE, smallest_n=2, invariances=_SIMILAR,
        reference=_CCA,
    ),
    Measure(
        function=soft_matching, takes="features", range=_UNIT, smallest_n=2,
        invariances=frozenset({"scale", "shift"}), reference=_MATCHING,
        words="the mean correlation of softly matched units",
    ),
    Measure(
        function=permutation_matching, takes="features", range=_UNIT, smallest_n=2,
        invariances=frozenset({"scale", "shift"}),
        reference="Li et al. (2015), arXiv:1511.07543",
        words="the mean correlation of units matched one to one",
    ),
    Measure(
        function=soft_matching_distance, takes="features", range=(0.0, math.inf), smallest_n=2,
        metric=True, larger_is_more_similar=False, invariances=frozenset({"shift"}),
        reference=_MATCHING, words="the soft matching distance of units",
    ),
    Measure(
        function=procrustes_predictivity, takes="features", range=_UNIT, smallest_n=2,
        held_out=partial(held_out_shape, alpha=1.0), invariances=_SIMILAR, reference=_SHAPE,
        words="the cosine after the best rotation",
    ),
    Measure(
        function=cca_predictivity, takes="features", range=_UNIT, smallest_n=2,
        held_out=partial(held_out_shape, alpha=0.0), invariances=_SIMILAR | {"linear"},
        reference=_SHAPE, words="the cosine after whitening and the best rotation (CCA)",
    ),
    Measure(
        function=linear_predictivity, takes="features", range=(-math.inf, 1.0), symmetric=False,
        held_out=partial(held_out_predictivity, kind="linear"),
        smallest_n=2, invariances=frozenset({"scale", "shift"}), reference=_SYNTHESIS,
    ),
    Measure(
        function=ridge_predictivity, takes="features", range=(-math.inf, 1.0), symmetric=False,
        held_out=partial(held_out_predictivity, kind="ridge"),
        smallest_n=2, invariances=frozenset({"scale", "shift"}),
        reference="Golub, Heath & Wahba (1979), doi:10.1080/00401706.1979.10489751",
    ),
    Measure(
        function=pls_predictivity, takes="features", range=(-math.inf, 1.0), symmetric=False,
        held_out=held_out_pls, smallest_n=2, invariances=frozenset({"scale", "shift"}),
        reference="Wold, Sjöström & Eriksson (2001), doi:10.1016/S0169-7439(01)00155-1",
        words="predictions by partial least squares",
    ),
)  # fmt: skip
MEASURES: Table[Measure] = Table("measure", Measure, "softrsa.measures")
for _row in _ROWS:
    MEASURES.add(_row)


def properties(measure: Measure) -> str:
    """Describe a measure as JSON, so that a result can be read where the measure is unknown."""
    plain = {f.name: getattr(measure, f.name) for f in fields(measure)}
    for unsaid in ("function", "embed", "normalize", "resampled", "held_out"):
        del plain[unsaid]
    return json.dumps({**plain, "name": measure.name, "invariances": sorted(measure.invariances)})


def measure_of(attrs: Mapping[Any, Any]) -> Measure:
    """Give the measure of a result; one of the user's own as described, not to be called."""
    name = attrs["measure"]
    if name in MEASURES or "measure_properties" not in attrs:
        return get(name)
    described = json.loads(attrs["measure_properties"])
    low, high = described["range"]

    def unknown(x: Tensor, y: Tensor) -> Tensor:
        raise DataError(f"Measure {name!r} is known by its description only.")

    unknown.__name__ = described.pop("name")
    described |= {"range": (low, high), "invariances": frozenset(described["invariances"])}
    return Measure(function=unknown, **described)


def measure_title(attrs: Mapping[Any, Any]) -> str:
    """Name the measure of a result for a figure: "partial spearman" where a control is held."""
    partial = "partial " if attrs.get("control") else ""
    return partial + attrs["measure"].replace("_", " ")


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
    return dict(sorted(MEASURES.items()))


def get(name: str | Measure) -> Measure:
    """Look a measure up by name.

    Parameters
    ----------
    name : str or Measure
        One of `available`; a measure itself is given back.

    Returns
    -------
    Measure
        The function with its properties.

    Raises
    ------
    UnknownNameError
        If there is no such measure; the message offers the nearest names.
    DTypeError
        If ``name`` is neither.

    Examples
    --------
    >>> get("pearson").range
    (-1.0, 1.0)
    >>> import torch
    >>> get("pearson")(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 3.0, 2.0]))
    tensor(0.5000)
    """
    if isinstance(name, Measure):
        return name
    if not isinstance(name, str):
        raise DTypeError(
            "A measure is given by its name, such as 'centered_pearson', or as a `Measure`, got "
            f"{type(name).__name__}; `softrsa.measures.available()` has the names."
        )
    if name not in MEASURES:
        raise unknown_name("measure", name, available())
    return MEASURES[name]
