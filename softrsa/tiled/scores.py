"""Measures on RSMs, from sums over their entries."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Literal, overload

import torch
from torch import Tensor, nn

from softrsa._checks import check_floating
from softrsa._processes import ALONE, Ranks, current_ranks
from softrsa.errors import DataError, DTypeError, ShapeError, unknown_name
from softrsa.inference.noise_ceiling import NoiseCeiling
from softrsa.measures import get
from softrsa.rsm import SIMILARITIES
from softrsa.tiled.by_stimulus import CenteredTiles, tiled_identification
from softrsa.tiled.moments import Moments, TransformedRSM, moments
from softrsa.tiled.scaling import (
    Scale,
    profile,
    raw_bounds,
    scale_of,
    second_family,
)
from softrsa.tiled.tiles import TiledRSM, tiled_features
from softrsa.transforms import EmbeddingGate, ProfileGate, SoftStep, StepParameters
from softrsa.transforms.on_rsms import Centered, Identity, SoftGate

Pair = tuple[int, int]


class Products:
    """Inner products of listed pairs of RSMs; measures differ in what they remove before.

    ``sums`` are `moments` of these pairs, among them (i, i) of every RSM; ``centered`` says which
    RSMs are double-centered first, whatever the measure; ``own`` is the self-similarity in each,
    None where stimuli differ in it; the rounding of entries of ``dtype`` bounds what a difference
    of sums can tell.
    """

    def __init__(
        self,
        sums: Moments,
        pairs: Sequence[Pair],
        *,
        centered: Sequence[bool],
        own: Sequence[float | None],
        dtype: torch.dtype,
    ):
        self.sums, self.centered, self.own, self.dtype = sums, centered, own, dtype
        self.places = {pair: i for i, pair in enumerate(pairs)}
        self.n = sums.rows.shape[-1]

    def score(self, measure: str, i: int, j: int) -> Tensor:
        """Score two RSMs; NaN where next to nothing is left of one.

        What is left is a difference of sums, and below their rounding it would be any number.
        """
        product, norms = self.of_measure(measure), []
        for k in (i, j):
            found, whole = product(k, k), self.plain(k, k)
            lost = found <= 8 * torch.finfo(self.dtype).eps * whole
            norms.append(found.masked_fill(lost, torch.nan).sqrt())
        return product(i, j) / norms[0] / norms[1]

    def of_measure(self, measure: str) -> Callable[[int, int], Tensor]:
        """Inner product of which the measure is the cosine."""
        product = MEASURES[measure]

        def inner(i: int, j: int) -> Tensor:
            # centering one side is enough, and nothing else is left to remove then
            kind = Products.double_centered if self.centered[i] or self.centered[j] else product
            return kind(self, i, j)

        return inner

    def norm(self, measure: str, i: int) -> Tensor:
        """Length that an RSM is divided by before it is pooled with others."""
        if self.centered[i] or measure == "centered_pearson":
            return self.double_centered(i, i).sqrt()
        if measure == "whitened_cosine":
            return self._of_distances(i, i).sqrt()
        return (self.plain if measure == "cosine" else self.without_mean)(i, i).sqrt()

    def plain(self, i: int, j: int) -> Tensor:
        """Take the off-diagonal entries as they are."""
        return self.sums.products[self.places[(i, j) if (i, j) in self.places else (j, i)]]

    def without_mean(self, i: int, j: int) -> Tensor:
        """Take the entries less their mean."""
        totals = self.sums.rows.sum(-1)
        return self.plain(i, j) - totals[i] * totals[j] / (self.n * (self.n - 1))

    def row_offset_share(self, i: int, j: int) -> Tensor:
        """Part of what two RSMs share that row and column means alone explain."""
        geometry = self.double_centered(i, j)
        if self.centered[i] or self.centered[j]:
            return geometry * 0
        offsets = self.without_mean(i, j) - geometry
        return offsets.abs() / (offsets.abs() + geometry.abs())

    def double_centered(self, i: int, j: int) -> Tensor:
        """Take what row and column offsets do not explain, see `double_center`."""
        n, rows, columns = self.n, self.sums.rows, self.sums.columns
        total = rows[i].sum() / ((n - 1) * (n - 2))
        of_rows = ((n - 1) * rows[i] + columns[i]) / (n * (n - 2)) - total
        of_columns = ((n - 1) * columns[i] + rows[i]) / (n * (n - 2))
        return self.plain(i, j) - (of_rows * rows[j]).sum() - (of_columns * columns[j]).sum()

    def whitened(self, i: int, j: int) -> Tensor:
        """Take C D C, of D the symmetric RSM less its mean and 0 on the diagonal."""
        n, rows = self.n, self.sums.rows
        a, b = (rows[k] - rows[k].sum() / n for k in (i, j))
        return self.without_mean(i, j) - 2 / n * (a * b).sum()

    def whitened_distances(self, i: int, j: int) -> Tensor:
        """Take C D C, of D the dissimilarities: self-similarity less similarity."""
        n = self.n
        a, b = ((n - 1) * self._own(k) - self.sums.rows[k] for k in (i, j))
        return self._of_distances(i, j) - 2 / n * (a * b).sum() + a.sum() * b.sum() / n**2

    def _of_distances(self, i: int, j: int) -> Tensor:
        a, b = self._own(i), self._own(j)
        totals = self.sums.rows.sum(-1)
        return self.plain(i, j) - a * totals[j] - b * totals[i] + a * b * self.n * (self.n - 1)

    def _own(self, i: int) -> float:
        own = self.own[i]
        return float("nan") if own is None else own


MEASURES: dict[str, Callable[[Products, int, int], Tensor]] = {
    "centered_pearson": Products.double_centered,
    "cosine": Products.plain,
    "pearson": Products.without_mean,
    "whitened_cosine": Products.whitened_distances,
    "whitened_pearson": Products.whitened,
}


Features = Tensor | TiledRSM
Transform = nn.Module | None


@overload
def tiled_scores(
    model: Features,
    brain: Features | Sequence[Features],
    *,
    measure: str = ...,
    model_transform: Transform = ...,
    brain_transform: Transform = ...,
    model_anchors: Tensor | None = ...,
    brain_anchors: Tensor | None = ...,
    similarity: str = ...,
    bandwidth: float | None = ...,
    distributed: bool = ...,
    beside: Literal[False] = ...,
) -> Tensor: ...


@overload
def tiled_scores(
    model: Features,
    brain: Features | Sequence[Features],
    *,
    measure: str = ...,
    model_transform: Transform = ...,
    brain_transform: Transform = ...,
    model_anchors: Tensor | None = ...,
    brain_anchors: Tensor | None = ...,
    similarity: str = ...,
    bandwidth: float | None = ...,
    distributed: bool = ...,
    beside: Literal[True],
) -> dict[str, Tensor]: ...


def tiled_scores(
    model: Features,
    brain: Features | Sequence[Features],
    *,
    measure: str = "centered_pearson",
    model_transform: Transform = None,
    brain_transform: Transform = None,
    model_anchors: Tensor | None = None,
    brain_anchors: Tensor | None = None,
    similarity: str = "correlation",
    bandwidth: float | None = None,
    distributed: bool = False,
    beside: bool = False,
) -> Tensor | dict[str, Tensor]:
    r"""Score a model with each subject of a brain without ever holding an n x n matrix.

    RSMs are computed tile by tile, transformed, and summed up; the backward pass computes the
    tiles again. Values and gradients are those of the plain path: building both RSMs, transforming
    them, and comparing them.

    Parameters
    ----------
    model : Tensor, shape (n_stimuli, n_units)
        Features, float32 or float64, in any unit.
    brain : Tensor, shape (n_stimuli, n_units), or sequence of these
        Responses to the same stimuli, of one subject or several.
    measure : str
        "centered_pearson", "pearson", "cosine", "whitened_pearson" or "whitened_cosine": those that
        are made of sums over pairs. Without gradient also "per_anchor_pearson", which takes one
        more pass over the tiles, and "balanced_pearson", which takes some twenty.
    model_transform, brain_transform : SoftStep or Module, optional
        A `SoftStep` (its similarities are scaled to [0, 1], by `affine` for correlation and cosine
        and by `minmax` otherwise, and the result is symmetrized), or what a fitted `Aligner` has as
        ``model_transform_``, except thresholds. None leaves RSMs as they are.
    model_anchors, brain_anchors : Tensor, shape (n_stimuli, n_features), optional
        Embeddings of the stimuli, for an `EmbeddingGate`; a `ProfileGate` may be given its
        profiles, which are found otherwise.
    similarity : str
        A name of `softrsa.rsm.similarity_matrix` other than `mahalanobis`.
    bandwidth : float, optional
        Of `rbf`, which needs a number here: the median is not a sum.
    distributed : bool
        Share the tiles among the processes of the process group there is (`torchrun`). All must be
        given the same data; each gets the whole score and the whole gradient.
    beside : bool
        Return a dict: beside "score" also "row_offset_share" (`softrsa.measures.row_offset_share`),
        "per_anchor_score", "balanced_score" and "identification", which say whether the score is
        one of geometry. Identification is that of at most 2000 stimuli, drawn evenly. These have no
        gradient.

    Returns
    -------
    Tensor, shape (n_subjects,)
        Scores in the number type of ``model``; larger is more similar. NaN where an RSM is constant
        as the measure sees it: where what is left is below the rounding of sums. With ``beside`` a
        dict of such tensors.

    Raises
    ------
    DTypeError, ShapeError
        If features are not float32 or float64, or not of the same stimuli.
    UnknownNameError
        If the measure or the similarity is unknown.
    DataError
        If the measure, the transform or the scaling needs all pairs at once (ranks, thresholds),
        similarities are not finite, or a gradient is asked of a measure that has none in tiles.
    ProcessError
        If another process fails.

    Notes
    -----
    Memory is that of the features, twice with gradient to them, some tiles per core, and up to
    256 MB per RSM of tiles that are kept rather than computed again. Sums are taken in float64, of
    products in the type of the features. Gradients are of the first order; of equal extremes of a
    row, one gets the whole gradient. Under autocast, products of features are taken in its type.

    Examples
    --------
    >>> from softrsa.transforms import GlobalGate
    >>> x, y = torch.randn(2, 300, 8, generator=torch.Generator().manual_seed(0))
    >>> step = SoftStep(GlobalGate())
    >>> score = tiled_scores(x, [x + y, y], model_transform=step)
    >>> score.detach().round(decimals=1) + 0
    tensor([0.5000, 0.0000])
    >>> score.sum().backward()
    >>> step.gate.bias.grad.isfinite().all()
    tensor(True)
    >>> sorted(tiled_scores(x, y, beside=True))
    ['balanced_score', 'identification', 'per_anchor_score', 'row_offset_share', 'score']
    """
    subjects = [brain] if isinstance(brain, (Tensor, TiledRSM)) else list(brain)
    data = {"model": [model], "brain": subjects}
    rsms, ranks = _laid_out(
        data, measure, similarity, bandwidth, distributed, able=(*MEASURES, *BY_STIMULUS)
    )
    sides = [prepare(rsms[0], model_transform, model_anchors, measure, ranks)]
    sides += [prepare(rsm, brain_transform, brain_anchors, measure, ranks) for rsm in rsms[1:]]
    transformed, others = [side.transformed for side in sides], range(1, len(sides))
    if measure in BY_STIMULUS:
        _check_without_gradient(transformed, measure)
        score = BY_STIMULUS[measure](CenteredTiles(transformed, ranks))
    else:
        products = compare(sides, with_first(len(sides)), ranks)
        score = torch.stack([products.score(measure, 0, k) for k in others])
    if not beside:
        return score.to(rsms[0].dtype)
    with torch.no_grad():
        found = _beside(sides, ranks)
    return {name: one.to(rsms[0].dtype) for name, one in {"score": score, **found}.items()}


BY_STIMULUS: dict[str, Callable[[CenteredTiles], Tensor]] = {
    "balanced_pearson": CenteredTiles.balanced,
    "per_anchor_pearson": CenteredTiles.per_anchor,
}


def _beside(sides: Sequence[Prepared], ranks: Ranks) -> dict[str, Tensor]:
    """Score what stands beside a score."""
    transformed = [side.transformed for side in sides]
    products, centered = (
        compare(sides, with_first(len(sides)), ranks),
        CenteredTiles(transformed, ranks),
    )
    shares = [products.row_offset_share(0, k) for k in range(1, len(sides))]
    return {
        "row_offset_share": torch.stack(shares),
        "per_anchor_score": centered.per_anchor(),
        "balanced_score": centered.balanced(),
        "identification": tiled_identification(transformed),
    }


def _check_without_gradient(rsms: Sequence[TransformedRSM], measure: str) -> None:
    """Refuse a gradient that would be missing without a word."""
    if torch.is_grad_enabled() and any(t.requires_grad for r in rsms for t in r.tensors):
        raise DataError(
            f"{measure!r} has no gradient in tiles: score under `torch.no_grad()`, and fit under "
            f"{', '.join(MEASURES)}, or on fewer stimuli in memory."
        )


def tiled_noise_ceiling(
    brain: Sequence[Features],
    *,
    measure: str = "centered_pearson",
    transform: Transform = None,
    anchors: Tensor | None = None,
    similarity: str = "correlation",
    bandwidth: float | None = None,
    distributed: bool = False,
) -> NoiseCeiling:
    """Noise ceilings of RSMs too large to hold: see `softrsa.inference.noise_ceiling`.

    Parameters
    ----------
    brain : sequence of Tensor, shape (n_stimuli, n_units) each
        Responses of two subjects or more to the same stimuli.
    measure, transform, anchors, similarity, bandwidth, distributed
        As in `tiled_scores`.

    Returns
    -------
    NoiseCeiling
        Lower and upper ceiling of each subject, shape (n_subjects,).

    Raises
    ------
    ShapeError
        If there are fewer than two subjects; otherwise the errors of `tiled_scores`.

    Notes
    -----
    All follows from the inner products of the subjects' RSMs, of which there are as many as pairs
    of subjects.

    Examples
    --------
    >>> x, *noise = torch.randn(4, 200, 8, generator=torch.Generator().manual_seed(0))
    >>> ceiling = tiled_noise_ceiling([x + 0.5 * e for e in noise])
    >>> bool((ceiling.lower < ceiling.upper).all())
    True
    """
    if len(brain) < 2:
        raise ShapeError(f"A noise ceiling needs at least 2 subjects, got {len(brain)}.")
    rsms, ranks = _laid_out({"brain": brain}, measure, similarity, bandwidth, distributed)
    sides = [prepare(rsm, transform, anchors, measure, ranks) for rsm in rsms]
    return NoiseCeiling(*(c.to(rsms[0].dtype) for c in ceilings_of(sides, measure, ranks)))


@dataclass(frozen=True)
class Prepared:
    """One RSM, what is done to its entries, and what a measure must know besides."""

    transformed: TransformedRSM
    centered: bool
    own: float | None


@dataclass(frozen=True)
class Placed:
    """One RSM, its scale, and what a gate reads of its anchors: all that a fit leaves as it is."""

    rsm: TiledRSM
    scale: Scale | None = None
    anchors: Tensor | None = None


def place(
    rsm: TiledRSM,
    transform: nn.Module | None,
    anchors: Tensor | None,
    ranks: Ranks = ALONE,
    *,
    which: int = 0,
) -> Placed:
    """Find the scale and, where a `ProfileGate` reads them, the profiles of an RSM.

    ``which`` of the RSMs that a transform has learned the scale of it is.
    """
    if anchors is not None and len(anchors) != rsm.n:
        raise ShapeError(f"There must be {rsm.n} anchors, one per stimulus, got {len(anchors)}.")
    if not isinstance(transform, SoftGate):
        return Placed(rsm)
    numbers = transform.scaling.numbers
    if numbers and which < len(numbers[0]):
        scale = Scale(*(number[which].flatten().to(rsm.device, rsm.dtype) for number in numbers))
    else:
        scale = scale_of(rsm, transform.scaling.how, ranks)
    gate = transform.step.gate
    if isinstance(gate, ProfileGate) and anchors is None:
        anchors = profile(rsm, scale, gate.n_features, ranks)
    if isinstance(gate, EmbeddingGate) and anchors is None:
        raise DataError("EmbeddingGate needs the anchors' embeddings: pass `anchors`.")
    return Placed(rsm, scale, anchors)


def apply_transform(placed: Placed, transform: nn.Module | None, measure: str) -> Prepared:
    """Turn a gate's bounds into those of an RSM's own similarities."""
    rsm, scale = placed.rsm, placed.scale
    if not isinstance(transform, SoftGate) or scale is None:
        own = rsm.source.self_similarity
        if own is None and measure == "whitened_cosine":
            raise DataError(
                "'whitened_cosine' in tiles needs stimuli that are equally similar to themselves, "
                "which inner products ('dot') are not: use 'whitened_pearson', or 'cosine'."
            )
        return Prepared(TransformedRSM(rsm), isinstance(transform, Centered), own)
    gates = StepParameters(*(p.to(rsm.dtype) for p in transform.step.gate(None, placed.anchors)))
    family = transform.step.family
    found = (raw_bounds if family == "s1" else second_family)(scale, gates)
    parameters = tuple(p.expand(rsm.n) for p in found)
    # of a whitened measure both triangles are one
    symmetrize = transform.symmetrize or measure.startswith("whitened")
    unit = float(scale.width.detach().max())
    return Prepared(TransformedRSM(rsm, family, parameters, unit, symmetrize), False, 1.0)


def prepare(
    rsm: TiledRSM, transform: Transform, anchors: Tensor | None, measure: str, ranks: Ranks = ALONE
) -> Prepared:
    """Lay a transform out over an RSM."""
    if isinstance(transform, SoftStep):
        how = "affine" if rsm.bounded else "minmax"
        transform = SoftGate(transform, how, symmetrize=True)
    if not (transform is None or isinstance(transform, Identity | Centered | SoftGate)):
        raise DataError(
            f"{type(transform).__name__} needs all pairs at once and cannot be done in tiles; "
            "give a SoftStep, or the fitted transform of an Aligner without thresholds."
        )
    return apply_transform(place(rsm, transform, anchors, ranks), transform, measure)


def with_first(n_sides: int) -> list[tuple[int, int]]:
    """Pairs of the first side with all others, and of each with itself."""
    return [(k, k) for k in range(n_sides)] + [(0, k) for k in range(1, n_sides)]


def compare(
    sides: Sequence[Prepared], pairs: Sequence[tuple[int, int]], ranks: Ranks = ALONE
) -> Products:
    """Sum up all tiles of all sides."""
    return Products(
        moments([side.transformed for side in sides], pairs, ranks=ranks),
        pairs,
        centered=[side.centered for side in sides],
        own=[side.own for side in sides],
        dtype=sides[0].transformed.rsm.dtype,
    )


def ceilings_of(
    sides: Sequence[Prepared], measure: str, ranks: Ranks = ALONE
) -> tuple[Tensor, Tensor]:
    """Lower and upper noise ceiling of each side, in float64."""
    numbers = range(len(sides))
    pairs = [(i, j) for i in numbers for j in numbers[i:]]
    products = compare(sides, pairs, ranks)
    inner = products.of_measure(measure)
    table = torch.stack([torch.stack([inner(i, j) for j in numbers]) for i in numbers])
    norms = torch.stack([products.norm(measure, i) for i in numbers])
    pooled = table / norms / norms.unsqueeze(-1)  # of RSMs as they are pooled

    def against(members: Tensor) -> Tensor:
        """Score each RSM against the mean of those with a 1 in its row."""
        size = torch.einsum("kl,km,lm->k", members, members, pooled).sqrt()
        return (members * pooled).sum(-1) / pooled.diagonal().sqrt() / size

    everyone = torch.ones_like(pooled)
    return against(everyone - everyone.diag().diag()), against(everyone)


def _laid_out(
    data: Mapping[str, Sequence[Features]],
    measure: str,
    similarity: str,
    bandwidth: float | None,
    distributed: bool,
    *,
    able: Collection[str] | None = None,
) -> tuple[list[TiledRSM], Ranks]:
    """Check everything that can be checked, and lay out all RSMs."""
    check_tiled_measure(measure, able)
    if similarity not in SIMILARITIES or similarity == "mahalanobis":
        raise unknown_name(
            "similarity", similarity, [s for s in SIMILARITIES if s != "mahalanobis"]
        )
    if similarity == "rbf" and bandwidth is None:
        raise DataError("In tiles, 'rbf' needs a `bandwidth`: the median needs all pairs at once.")
    named = {
        f"{side}[{i}]" if len(members) > 1 else side: x
        for side, members in data.items()
        for i, x in enumerate(members)
    }
    if "brain" in data and not len(data["brain"]):
        raise ShapeError("`brain` is an empty list: at least one subject is needed.")
    given = {name: x.source.tensor if isinstance(x, TiledRSM) else x for name, x in named.items()}
    check_floating(**given)
    ranks = current_ranks() if distributed else ALONE
    ranks.check_same("features", *(x.detach() for x in given.values()))
    kind = reduce(torch.promote_types, (x.dtype for x in given.values()))
    rsms = [
        x if isinstance(x, TiledRSM) else lay_out(x.to(kind), name, similarity, bandwidth)
        for name, x in named.items()
    ]
    if any(rsm.dtype != kind for rsm in rsms):
        found = ", ".join(f"`{name}` {x.dtype}" for name, x in given.items())
        raise DTypeError(f"RSMs laid out before must have one number type, got {found}.")
    counts = {rsm.n for rsm in rsms}
    smallest = get(measure).smallest_n
    if len(counts) > 1 or min(counts) < smallest:
        raise ShapeError(
            f"All must be of the same stimuli, at least {smallest} for {measure!r}, "
            f"got {[rsm.n for rsm in rsms]}."
        )
    return rsms, ranks


def check_tiled_measure(measure: str, able: Collection[str] | None = None) -> None:
    """Refuse measures that are not made of sums over pairs, or not among these."""
    get(measure)
    able = MEASURES if able is None else able
    if measure in able:
        return
    if measure in BY_STIMULUS:
        raise DataError(
            f"{measure!r} can be computed in tiles by `tiled_scores` only, without gradient: "
            f"here use {', '.join(able)}."
        )
    raise DataError(
        f"{measure!r} is not made of sums over pairs, so it cannot be computed in tiles: "
        f"use {', '.join(able)}."
    )


def lay_out(
    x: Tensor,
    name: str = "x",
    similarity: str = "correlation",
    bandwidth: float | None = None,
    kept_bytes: int | None = None,
) -> TiledRSM:
    """Check features (n, p) and lay out their RSM."""
    check_floating(**{name: x})
    if x.ndim != 2 or 0 in x.shape:
        raise ShapeError(f"`{name}` must be (n_stimuli, n_units), got shape {tuple(x.shape)}.")
    rsm = tiled_features(x, similarity, bandwidth, kept_bytes)
    finite = rsm.source.tensor.detach().isfinite().all(-1)
    if not bool(finite.all()):
        bad = (~finite).nonzero().flatten().tolist()
        raise DataError(
            f"`{name}` must be finite, and for correlation no stimulus constant over units (for "
            f"cosine not zero); {len(bad)} are not so: {bad[:10]}."
        )
    return rsm
