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
from softrsa.transforms.on_rsms import SoftGate

Transform = Callable[[Tensor], Tensor]
Features = Tensor | Mapping[str, Tensor]
Stimuli = Sequence[object] | np.ndarray | pd.Index | Tensor


class AlignmentLoss(nn.Module):
    r"""One minus the alignment of a network's features with recordings of the same stimuli.

    For layers :math:`l`, regions :math:`r`, weights :math:`w` and subjects :math:`s`,

    .. math:: L = \frac{\sum_{lr} w_{lr} \big(1 - \operatorname{mean}_s
              \mathrm{measure}(T_M(S_l), T_B(S_{rs}))\big)}{\sum_{lr} w_{lr}}

    with :math:`S` the RSMs of the batch. Add it, with a weight of your choice, to a task's loss.

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
        If the measure is not differentiable, or transforms are given for one on features.

    Notes
    -----
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
    """

    def __init__(
        self,
        brain: Data | Mapping[str, Data] | None = None,
        *,
        measure: str | Measure = "centered_pearson",
        model_transform: Transform | None = None,
        brain_transform: Transform | None = None,
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
        if self.entry.takes == "features":
            if region.units is None:
                raise DataError(
                    f"{self.entry.name!r} compares features, and RDMs or RSMs are given only."
                )
            score = torch.stack([self.entry(x, units.to(x)) for units in region.units]).mean()
        else:
            rsm = similarity_matrix(x, similarity=self.similarity)
            _check_finite(rsm, pair[0])
            model = _transformed(self.model_transform, rsm, x)
            units = None if region.units is None else region.all_units().to(x)
            transform = self.brain_transform
            if isinstance(transform, SoftGate) and self.scales_brain and not region.bounded:
                transform = SoftGate(
                    transform.step, "minmax", transform.symmetrize, keep=transform.keep
                )
            brain = _transformed(transform, region.rsms.to(rsm), units)
            score = self.entry.between(model, brain).mean()
        if not bool(score.detach().isfinite()):
            raise FitError(
                f"{self.entry.name!r} of layer {pair[0]!r} and region {pair[1]!r} is "
                f"{score.item()}: values of the batch are not finite, or constant on one side "
                "(over units, for similarities 'correlation' and 'cosine')."
            )
        return 1 - score if self.entry.larger_is_more_similar else score

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
    finite = rsm.detach().isfinite().all(-1)
    if not bool(finite.all()):
        bad = (~rsm.detach().diagonal().isfinite()).nonzero().flatten().tolist()
        bad = bad or (~finite).nonzero().flatten().tolist()
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
