"""Alignment as a loss: train a network to be like recordings, beside its task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from softrsa.alignment.responses import Data, Responses, as_batch, as_regions
from softrsa.errors import DataError, FitError, ShapeError, unknown_name
from softrsa.measures import Measure, available, get
from softrsa.rsm import similarity_matrix
from softrsa.rsm.similarity import SimilarityLike, as_similarity
from softrsa.transforms import EmbeddingGate, GeoTopological, SoftStep
from softrsa.transforms.learned_similarity import LearnedSimilarities, LearnedSimilarity
from softrsa.transforms.on_rsms import SoftGate

Transform = Callable[[Tensor], Tensor]
Features = Tensor | Mapping[str, Tensor]
Stimuli = Sequence[object] | np.ndarray | pd.Index | Tensor


class AlignmentLoss(nn.Module):
    r"""One minus the alignment of a network's features with recordings of the same stimuli.

    For layers :math:`l`, regions :math:`r`, weights :math:`w` and subjects :math:`s`,

    .. math:: L = \frac{\sum_{lr} w_{lr} \big(1 - \operatorname{mean}_s
              \mathrm{measure}(T_M(S_l), T_B(S_{rs}))\big)}{\sum_{lr} w_{lr}}

    with :math:`S` the RSMs of the batch, those of layers after a learned similarity if one is
    given. Add it, with a weight of your choice, to a task's loss.

    Parameters
    ----------
    brain : DataArray, array, or mapping of str to either, optional
        Recordings (stimulus, unit), which may hold several subjects or regions in coordinates of
        these names, or RDM or RSM stacks (..., anchor, neighbor), kept in the module and looked up
        by stimulus id. Without it, the batch's recordings are passed to `forward`.
    measure : str
        A differentiable measure, see `softrsa.measures.available`. One on features compares the
        features themselves.
    model_transform, brain_transform : Module or callable, optional
        From RSMs (..., n, n) to RSMs: a `SoftStep` (its similarities are scaled to [0, 1] and the
        result symmetrized), a `GeoTopological`, a fitted `Aligner.model_transform_`, or any
        function such as `double_center`. Parameters of modules train along with the network where
        they require gradients and are given to the optimizer; `requires_grad_(False)` freezes them.
    model_similarity : Module, optional
        From a layer's units (n, n_units) to the features (n, n_features) that are compared, by
        their RSM or, under a measure on features, themselves: a `LearnedSimilarity`, which brings
        its own way to compare features, such as a fitted `Aligner.model_similarity_` or one that
        trains along (`LearnedSimilarity.trainable`), or any module. Its parameters train where they
        require gradients; gates that read an embedding read the features.
    similarity : str
        How units become similarities, see `softrsa.rsm.similarity_matrix`.
    weights : mapping of (layer, region) to float, optional
        Which layer goes with which region, and how much each pair counts. By default, all with all.
    penalty : float
        Weight on how far learned SoftSteps have gone from the identity.

    Raises
    ------
    UnknownNameError
        If a name is unknown.
    DataError
        If the measure is not differentiable, transforms are given for one on features, or
        ``model_similarity`` is no module.

    Notes
    -----
    A map that was learned for each of several subjects goes with recordings of these subjects, in
    this order.

    Batches of few stimuli are noisy estimates: their RSMs have n (n - 1) / 2 pairs. A distance is
    itself the loss. Similarities that are not finite (stimuli with constant features, as dead
    rectifiers give) are an error that names them.

    Examples
    --------
    >>> generator = torch.Generator().manual_seed(0)
    >>> features, recordings = torch.randn(2, 32, 10, generator=generator)
    >>> loss = AlignmentLoss(measure="centered_pearson")
    >>> round(loss(features, features).item(), 4) + 0
    0.0
    >>> round(loss(features.requires_grad_(), recordings).item(), 1)
    1.0

    A map that trains along finds the units that the recordings are of:

    >>> from softrsa.transforms import LearnedSimilarity
    >>> learned = LearnedSimilarity.trainable(10, 10, similarity="correlation")
    >>> loss = AlignmentLoss(model_similarity=learned)
    >>> optimizer = torch.optim.Adam(loss.parameters(), lr=0.05)
    >>> values = []
    >>> for _ in range(20):
    ...     optimizer.zero_grad()
    ...     value = loss(features, features[:, :3])
    ...     value.backward()
    ...     optimizer.step()
    ...     values.append(value.item())
    >>> values[-1] < values[0] / 2
    True
    """

    def __init__(
        self,
        brain: Data | Mapping[str, Data] | None = None,
        *,
        measure: str | Measure = "centered_pearson",
        model_transform: Transform | None = None,
        brain_transform: Transform | None = None,
        model_similarity: nn.Module | None = None,
        similarity: SimilarityLike = "correlation",
        weights: Mapping[tuple[str, str], float] | None = None,
        penalty: float = 1e-4,
    ):
        super().__init__()
        self.entry = _differentiable(measure, model_transform, brain_transform)
        if not penalty >= 0:
            raise DataError(f"`penalty` must be at least 0, got {penalty}.")
        if weights is not None and not all(w > 0 for w in weights.values()):
            raise DataError(f"`weights` must be above 0, got {dict(weights)}; leave pairs out.")
        self.similarity, self.penalty = as_similarity(similarity), penalty
        self.model_transform = _on_rsms(model_transform, self.similarity.bounded)
        self.brain_transform = _on_rsms(brain_transform, self.similarity.bounded)
        self.model_similarity = _checked(model_similarity)
        self.scales_brain = isinstance(brain_transform, SoftStep)  # nobody has said how
        self.weights = None if weights is None else dict(weights)
        self.regions = {} if brain is None else as_regions(brain, self.similarity)

    def _apply(self, fn, recurse: bool = True):
        # recordings move with the module, and are not saved with it
        self.regions = {name: region.changed(fn) for name, region in self.regions.items()}
        return super()._apply(fn, recurse)

    def forward(
        self,
        features: Features,
        brain: Features | None = None,
        *,
        stimuli: Stimuli | None = None,
    ) -> Tensor:
        """Loss of a batch.

        Parameters
        ----------
        features : Tensor, shape (n, ...), or mapping of layer to Tensor
            What the network makes of n stimuli; dimensions after the first are flattened. Those
            of mixed precision (float16, bfloat16) are compared in float32.
        brain : Tensor or mapping of region to Tensor, optional
            Recordings (n, n_units), or (n_subjects, n, n_units), of the same stimuli; or their
            RDM or RSM (n, n), known by its diagonal of zeros or ones. No gradient reaches them.
        stimuli : sequence of str or int, shape (n,), optional
            Ids to look up in the recordings the loss was made with.

        Returns
        -------
        Tensor, shape ()
            0 for a perfect match, 1 for none (correlations), in the type of the features.

        Raises
        ------
        DataError
            If neither or both of ``brain`` and ``stimuli`` are given, or names do not match.
        StimulusError
            If ids are unknown or repeated.
        ShapeError
            If the sides differ in their number of stimuli, or there are too few for the measure.
        FitError
            If similarities of the features, or a score, are not finite.
        """
        layers = _named(features, "model")
        regions = self._batch_regions(brain, stimuli)
        pairs = self.weights or {(a, b): 1.0 for a in layers for b in regions}
        for layer, region in pairs:
            for name, kind, known in ((layer, "layer", layers), (region, "region", regions)):
                if name not in known:
                    raise unknown_name(f"{kind} of `weights`", name, known)
        self._check_counts(layers, regions)
        total = torch.stack(
            [w * self._distance(layers, regions, pair) for pair, w in pairs.items()]
        ).sum()
        return total / sum(pairs.values()) + self._penalty().to(total)

    def _batch_regions(
        self, brain: Features | None, stimuli: Stimuli | None
    ) -> dict[str, Responses]:
        if (brain is None) == (stimuli is None):
            given = "neither" if brain is None else "both"
            raise DataError(f"Give the batch's `brain` data or its `stimuli` ids, got {given}.")
        if brain is not None:
            named = _named(brain, "brain")
            return {name: as_batch(x, name, self.similarity) for name, x in named.items()}
        if not self.regions:
            raise DataError("To look `stimuli` up, give the recordings: AlignmentLoss(brain, ...).")
        ids = pd.Index(stimuli.cpu().numpy() if isinstance(stimuli, Tensor) else stimuli)  # type: ignore[arg-type]
        return {name: region.at(ids, name) for name, region in self.regions.items()}

    def _check_counts(self, layers: Mapping[str, Tensor], regions: Mapping[str, Responses]) -> None:
        counts = {name: len(x) for name, x in layers.items()}
        counts |= {name: region.n_stimuli for name, region in regions.items()}
        found = ", ".join(f"{name!r} {n}" for name, n in counts.items())
        if len(set(counts.values())) > 1:
            raise ShapeError(f"All must be of the same stimuli, got: {found}.")
        if min(counts.values()) < self.entry.smallest_n:
            raise ShapeError(
                f"{self.entry.name!r} needs batches of at least {self.entry.smallest_n} stimuli, "
                f"got: {found}."
            )

    def _distance(
        self, layers: Mapping[str, Tensor], regions: Mapping[str, Responses], pair: tuple[str, str]
    ) -> Tensor:
        """1 - mean score over subjects, or the mean distance, of a layer and a region."""
        x, region = layers[pair[0]].flatten(1), regions[pair[1]]
        score_of = (
            self._score_of_features if self.entry.takes == "features" else self._score_of_rsms
        )
        score = score_of(x, region, pair)
        if not bool(score.detach().isfinite()):
            raise FitError(
                f"{self.entry.name!r} of layer {pair[0]!r} and region {pair[1]!r} is "
                f"{score.item()}: values of the batch are not finite, or constant on one side "
                "(over units, for similarities 'correlation' and 'cosine')."
            )
        return 1 - score if self.entry.larger_is_more_similar else score

    def _score_of_features(self, x: Tensor, region: Responses, pair: tuple[str, str]) -> Tensor:
        """Mean score over subjects of a layer's features."""
        if region.units is None:
            raise DataError(
                f"{self.entry.name!r} compares features, and RDMs or RSMs are given only."
            )
        features = _features(self.model_similarity, x, region, pair)
        if len(features) == 1:
            features *= len(region.units)
        each = zip(features, region.units, strict=True)
        return torch.stack([self.entry(own, units.to(own)) for own, units in each]).mean()

    def _score_of_rsms(self, x: Tensor, region: Responses, pair: tuple[str, str]) -> Tensor:
        """Mean score over subjects of a layer's RSM."""
        features = _features(self.model_similarity, x, region, pair)
        rsm = self._rsms(features)
        _check_finite(rsm, pair[0])
        model = _transformed(self.model_transform, rsm, torch.cat(features, 1))
        units = None if region.units is None else region.all_units().to(x)
        transform = self.brain_transform
        if isinstance(transform, SoftGate) and self.scales_brain and not region.bounded:
            transform = SoftGate(
                transform.step, "minmax", transform.symmetrize, keep=transform.keep
            )
        brain = _transformed(transform, region.rsms.to(rsm), units)
        return self.entry.between(model, brain).mean()

    def _rsms(self, features: list[Tensor]) -> Tensor:
        """RSM (n, n) of features, or one for each of several maps (n_maps, n, n)."""
        learned = self.model_similarity
        if isinstance(learned, LearnedSimilarities):
            parts = zip(learned.each(), features, strict=True)
            rsms = torch.stack([one.compare(own) for one, own in parts])
            return rsms[0] if len(rsms) == 1 else rsms
        if isinstance(learned, LearnedSimilarity):
            return learned.compare(features[0])
        return similarity_matrix(features[0], similarity=self.similarity)

    def _penalty(self) -> Tensor:
        transforms = self.model_transform, self.brain_transform
        gates = {t.step.gate for t in transforms if isinstance(t, SoftGate)}  # a shared one once
        return self.penalty * sum((gate.penalty() for gate in gates), torch.zeros(()))

    def extra_repr(self) -> str:
        """Show the measure and the similarity."""
        return f"measure={self.entry.name!r}, similarity={self.similarity.name!r}"


class _OnRDMs(nn.Module):
    """A transform of RDMs, as one of similarities."""

    def __init__(self, transform: GeoTopological):
        super().__init__()
        self.transform = transform

    def forward(self, rsms: Tensor) -> Tensor:
        return 1 - self.transform(1 - rsms)


def _differentiable(measure: str | Measure, *transforms: Transform | None) -> Measure:
    entry = get(measure)
    if not entry.differentiable:
        able = ", ".join(name for name, m in available().items() if m.differentiable)
        raise DataError(f"A loss needs a differentiable measure, and {measure!r} is none: {able}.")
    if entry.takes == "features" and any(t is not None for t in transforms):
        raise DataError(f"{measure!r} compares features, and transforms change RSMs: use none.")
    return entry


def _checked(model_similarity: nn.Module | None) -> nn.Module | None:
    """Refuse what is no module from units to features."""
    if model_similarity is None or isinstance(model_similarity, nn.Module):
        return model_similarity
    found = (
        f"the class {model_similarity.__name__}"
        if isinstance(model_similarity, type)
        else f"{model_similarity!r} ({type(model_similarity).__name__})"
    )
    raise DataError(
        f"`model_similarity` must be a module from units to features, got {found}: give a fitted "
        "`Aligner.model_similarity_`, `LearnedSimilarity.trainable(n_units, n_features, "
        "similarity=...)` or a module of your own, such as a torch.nn.Linear."
    )


def _features(
    learned: nn.Module | None, x: Tensor, region: Responses, pair: tuple[str, str]
) -> list[Tensor]:
    """Features of a layer's units: one tensor, or one for each of a region's subjects."""
    if not isinstance(learned, LearnedSimilarities):
        return [x if learned is None else _put_through(learned, x, pair[0])]
    maps, n_subjects = learned.each(), len(region.subjects)
    if len(maps) not in (1, n_subjects):
        raise DataError(
            f"`model_similarity` has {len(maps)} maps, one for each subject it was fitted to, and "
            f"region {pair[1]!r} has {n_subjects} subjects: give recordings of the same subjects "
            "in the same order, or one of the maps."
        )
    return [_put_through(one, x, pair[0]) for one in maps]


def _put_through(one: nn.Module, x: Tensor, layer: str) -> Tensor:
    """Features that a module makes of a layer's units."""
    if isinstance(one, LearnedSimilarity) and one.n_units != x.shape[1]:
        raise ShapeError(
            f"`model_similarity` reads {one.n_units} units, and layer {layer!r} has {x.shape[1]}: "
            "give the layer it was made for, or each layer a loss of its own."
        )
    features = one.features(x) if isinstance(one, LearnedSimilarity) else one(x)
    if not isinstance(features, Tensor) or features.ndim != 2 or len(features) != len(x):
        shape = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise ShapeError(
            f"`model_similarity` must give features of shape ({len(x)}, n_features) of layer "
            f"{layer!r}, got {shape}."
        )
    return features


def _on_rsms(transform: Transform | None, bounded: bool) -> Transform | None:
    """Make a transform one of RSMs."""
    if isinstance(transform, type):
        raise DataError(f"A transform must be an instance, got the class {transform.__name__}.")
    if isinstance(transform, SoftStep):
        return SoftGate(transform, "affine" if bounded else "minmax", symmetrize=True)
    return _OnRDMs(transform) if isinstance(transform, GeoTopological) else transform


def _transformed(transform: Transform | None, rsms: Tensor, units: Tensor | None) -> Tensor:
    """Transform RSMs; gates that read an embedding are given the units themselves."""
    if transform is None:
        return rsms
    if isinstance(transform, SoftGate) and isinstance(transform.step.gate, EmbeddingGate):
        return transform(rsms, units)
    return transform(rsms)


def _check_finite(rsm: Tensor, layer: str) -> None:
    finite = rsm.detach().isfinite()
    if not bool(finite.all()):
        finite = finite if finite.ndim == 2 else finite.all(0)
        bad = (~finite.diagonal()).nonzero().flatten().tolist()
        bad = bad or (~finite.all(-1)).nonzero().flatten().tolist()
        raise FitError(
            f"Similarities of layer {layer!r} are not finite, for stimuli {bad[:10]} of the batch: "
            "their features are constant or not finite. Take a layer before its rectifier, "
            "similarity='l2', or a lower learning rate."
        )


def _named(data: Features, name: str) -> dict[str, Tensor]:
    named = dict(data) if isinstance(data, Mapping) else {name: data}
    for key, value in named.items():
        if not isinstance(value, Tensor) or value.ndim < 2:
            shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ShapeError(f"{key!r} must be a tensor of shape (n_stimuli, ...), got {shape}.")
        if value.dtype in (torch.float16, torch.bfloat16):  # of mixed precision
            named[key] = value.float()
    return named
