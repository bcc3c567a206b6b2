"""Aligner: fit transforms of a model's and a brain's RSMs, score them on other stimuli."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from softrsa._checks import check_count, resolve_device
from softrsa._files import read_tensors, write_tensors
from softrsa._processes import join_ranks, launched_ranks, rank_device
from softrsa.alignment.descent import Tiling
from softrsa.alignment.embedding import Embedding
from softrsa.alignment.feature_scores import score_features
from softrsa.alignment.fitting import (
    Fitted,
    Task,
    check_units,
    count_fit_steps,
    fit_transforms,
    make_plan,
    progress_bar,
    scores_beside,
)
from softrsa.alignment.maps import Description, unit_maps, with_points
from softrsa.alignment.responses import (
    Data,
    Responses,
    as_responses,
    as_tiled,
    check_same_data,
    join_all,
    one_subject,
    rsm_bytes,
    tiling_obstacle,
)
from softrsa.alignment.settings import (
    GATES,
    SMALLEST_BLOCK,
    DegenerateFitWarning,
    FitSettings,
    StimulusScaleWarning,
    acts_on_units_only,
    with_choices,
)
from softrsa.errors import (
    DataError,
    NotFittedError,
    ShapeError,
    StimulusError,
    unknown_name,
)
from softrsa.measures import MEASURES, Measure, get, row_offset_share
from softrsa.rsm.scaling import Scaling
from softrsa.rsm.similarity import SIMILARITY_TABLE, SimilarityLike, as_similarity
from softrsa.transforms import (
    EmbeddingGate,
    Gate,
    GlobalGate,
    LearnedSimilarity,
    ProfileGate,
    SoftStep,
)
from softrsa.transforms.learned_similarity import LearnedSimilarities
from softrsa.transforms.on_rsms import (
    TRANSFORMS,
    Always,
    Centered,
    Chain,
    HardGT,
    Identity,
    SoftGate,
    Transform,
    TransformLike,
    as_chain,
)

TILED_FROM_BYTES = 2 * 2**30  # of the RSMs of both sides, as float64


FORMAT = "softrsa.Aligner/1"


class Aligner:
    """Learned alignment of a model with a brain.

    Parameters
    ----------
    transform : str, Transform or Module
        "identity" (plain RSA), "centered", "geo_topological" (thresholds by grid), "global" or
        "instance" (learned SoftStep), "reweighted", "metric" or "encoding" (learned similarity of
        the model's units), or "selected": the simplest of these not worse
        than the best by more than one standard error over inner folds. Or one of your own, or
        "units+rsms", such as "metric+instance": see `softrsa.transforms.Transform`.
    measure : str or Measure
        A name of `softrsa.measures.available`, or a measure of your own. Where it is not
        differentiable, learned transforms are fitted under "centered_pearson" and chosen and scored
        under it.
    similarity : str, Similarity or callable
        How units become similarities; see `softrsa.rsm.similarity_matrix`.
    settings : FitSettings, optional
        Everything else about the fit.
    seed : int
        Seed of the inner folds, the only random thing.
    device : str
        "auto", "cpu", "cuda" or "cuda:<index>".
    tiled : bool or "auto"
        Whether RSMs are computed tile by tile whenever they are needed instead of held, which takes
        features on both sides, a measure of `tiled_scores`, and a transform other than
        "geo_topological" and learned similarities (which "selected" then leaves out). "auto" does
        so where it can be done and RSMs would take more than 2 GB, a minibatch is asked for, or
        several processes work together.
    batch_size : int, optional
        Stimuli of each gradient step, drawn anew every time, of a fit in tiles; all by default.

    Attributes
    ----------
    model_transform_, brain_transform_ : Module
        Fitted transforms of RSMs (..., n, n).
    model_similarity_ : Module or None
        What was fitted to the model's units, from which its RSM is made then: a
        `LearnedSimilarity`, several (`LearnedSimilarities`, one for each of several subjects that
        "encoding" predicts), a module of your own; None where units stay as they are, as where no
        map did better on inner folds.
    chosen_ : str
        Name of the transform; differs from ``transform`` for "selected".
    train_score_ : float
        Mean score over subjects on the training stimuli.
    inner_scores_ : Tensor, shape (inner_folds,)
        Scores on the inner folds that the choice was made on.
    n_steps_, penalty_, gate_
        What was chosen for a learned transform.

    Notes
    -----
    Gradient descent runs in float32, many inner fits as one batch; scores are computed in float64.
    In tiles, fits follow one after the other, and scores are computed in the features' type.

    Processes that `torchrun` has started share the tiles: all run the same script with the same
    data, and all have the same result.

    Examples
    --------
    >>> generator = torch.Generator().manual_seed(0)
    >>> stimuli = torch.randn(40, 8, generator=generator)
    >>> brain = stimuli + 0.5 * torch.randn(40, 8, generator=generator)
    >>> aligner = Aligner("centered").fit(stimuli[:24], brain[:24])
    >>> round(aligner.score(stimuli[24:], brain[24:]), 2)
    0.73
    """

    def __init__(
        self,
        transform: TransformLike = "instance",
        *,
        measure: str | Measure = "centered_pearson",
        similarity: SimilarityLike = "correlation",
        settings: FitSettings | None = None,
        seed: int = 0,
        device: str = "auto",
        tiled: bool | Literal["auto"] = "auto",
        batch_size: int | None = None,
    ):
        self.transform = transform
        self.measure = measure
        self.similarity = similarity
        self.settings = settings
        self.seed = seed
        self.device = device
        self.tiled = tiled
        self.batch_size = batch_size

    def fit(self, model: Data, brain: Data, *, progress: bool = False) -> Self:
        """Fit the transforms on training stimuli.

        Parameters
        ----------
        model : array or DataArray
            Features (n_stimuli, n_units), or an RDM or RSM (n_stimuli, n_stimuli).
        brain : array, DataArray or sequence of arrays
            The same of a brain; several subjects as a list, a leading dimension, or a `subject`
            coordinate. Labelled arrays are joined by stimulus id.
        progress : bool
            Show a progress bar.

        Returns
        -------
        Aligner
            Itself.

        Raises
        ------
        UnknownNameError
            If the transform, measure or similarity is unknown.
        StimulusError
            If the two sides do not have the same stimuli.
        DataError, ShapeError, DTypeError
            If the data cannot be used; the message says why.

        Warns
        -----
        DegenerateFitWarning
            If a learned transform cannot start, because the scaled RSMs have next to no variance;
            the best fixed one stands in for it.
        StimulusScaleWarning
            If gates of single stimuli are fitted in tiles, where each stimulus' mean and size
            cannot be kept.
        """
        one, measure = as_chain(self.transform), get(self.measure)
        as_similarity(self.similarity)  # refused now where it is unknown
        _check_measure(measure, one)
        settings = self.settings or FitSettings()
        sides = self._sides(model, brain)
        chains = _allowed(one, measure, *sides)
        if sides[0].held is not None and any(chain.map for chain in chains):
            whole = sides[0].units[0] if sides[0].units else None
            sides = with_points(replace(sides[0], source=whole)), sides[1]
        tiling = None
        if sides[0].held is None:
            tiling = Tiling(self.batch_size, self.seed, join_ranks(sides[0].device))
            check_same_data(tiling.ranks, *sides)
            chains = [one for one in chains if one.rsms.tiled and one.units is None]
        plan = make_plan(measure, *sides, settings, self.seed)
        if tiling is not None:
            plan = replace(plan, tiling=tiling, gated=plan.fitted)
            _warn_of_tiled_gates(chains, settings)
        task = Task(*sides, torch.arange(sides[0].n_stimuli))
        shown = progress and (tiling is None or tiling.ranks.rank == 0)
        with progress_bar(count_fit_steps([task], chains, settings), shown) as advance:
            results = fit_transforms([task], chains, plan, on_step=advance)
        fitted = results[0][one.name]
        if isinstance(fitted.units, LearnedSimilarities):  # which read points of these stimuli
            units = LearnedSimilarities(unit_maps(sides[0], fitted.units))
            fitted = replace(fitted, units=units.requires_grad_(False))
        self._keep(fitted)
        if self.fitted_.fallback:
            warnings.warn(
                f"The {one.name} fit could not start: the scaled RSMs have next to no variance, or "
                f"one pair has it all. {self.fitted_.fallback!r}, the best fixed transform, stands "
                "in for it. Check the RSMs for constant values and outliers, or use "
                "scaling='rank' in FitSettings.",
                DegenerateFitWarning,
                stacklevel=2,
            )
        return self

    def score(self, model: Data, brain: Data) -> float:
        """Score other stimuli under the fitted transforms.

        Parameters
        ----------
        model, brain : array, DataArray or sequence of arrays
            As for `fit`, with the same units where an embedding gate reads them; subjects may
            differ where none does.

        Returns
        -------
        float
            Mean over subjects of the measure between the transformed RSMs; larger is more similar.

        Raises
        ------
        NotFittedError
            If `fit` has not been called.
        """
        return self._score(self._fitted(), *self._sides(model, brain))

    def _score(self, fitted: Fitted, model: Responses, brain: Responses) -> float:
        """Score both sides, in tiles where RSMs are not held."""
        measure = get(self.measure)
        if model.held is None:
            return fitted.score_tiled(model, brain, measure.name, join_ranks(model.device))
        if measure.takes == "features":
            sides = fitted.model_features(model, brain), brain
            return score_features(measure, sides, sides, range(len(brain.subjects)))
        return float(measure.between(*fitted.transformed(model, brain)).mean())

    def scores(self, model: Data, brain: Data) -> dict[str, float]:
        """Score other stimuli, with what a score should stand beside.

        Parameters
        ----------
        model, brain : array, DataArray or sequence of arrays
            As for `score`.

        Returns
        -------
        dict of str to float
            Means over subjects, as in the table of `align`: "score" under the measure in use,
            "row_offset_share", and scores that no number or factor per stimulus can raise:
            "per_anchor_score", "balanced_score" and "identification".

        Raises
        ------
        NotFittedError
            If `fit` has not been called.

        Examples
        --------
        >>> x = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
        >>> found = Aligner("identity").fit(x[:20], x[:20]).scores(x[20:], x[20:])
        >>> round(found["score"], 3), round(found["identification"], 3)
        (1.0, 1.0)
        """
        fitted, sides = self._fitted(), self._sides(model, brain)
        if sides[0].held is None:
            ranks = join_ranks(sides[0].device)
            return fitted.scores_tiled(*sides, get(self.measure).name, ranks)
        score = self._score(fitted, *sides)
        pair = fitted.transformed(*sides)
        share = float(row_offset_share(*pair).mean())
        return {"score": score, "row_offset_share": share, **scores_beside(*pair)}

    def transform_model(self, model: Data) -> Tensor:
        """Transform a model's RSM: (n_stimuli, n_stimuli).

        Where a map was learned for each of several subjects: (n_subjects, n_stimuli, n_stimuli).
        """
        rsms = self._transform(model, "model")
        return rsms[0] if len(rsms) == 1 else rsms

    def transform_brain(self, brain: Data) -> Tensor:
        """Transform a brain's RSMs: (n_subjects, n_stimuli, n_stimuli)."""
        return self._transform(brain, "brain")

    def _transform(self, data: Data, which: str) -> Tensor:
        fitted = self._fitted()
        side = as_responses(
            data, similarity=self.similarity, name=which, device=resolve_device(self.device)
        )
        side = fitted.model_side(one_subject(side)) if which == "model" else side
        anchors = fitted.side_anchors(side, which)
        transform = fitted.model if which == "model" else fitted.brain_for(side)
        with torch.no_grad():
            return transform(side.rsms, anchors)

    def _sides(self, model: Data, brain: Data) -> tuple[Responses, Responses]:
        model, brain = join_all([model, brain])
        device = rank_device(self.device)
        read = as_tiled if self._in_tiles(model, brain) else as_responses
        sides = [
            read(data, similarity=self.similarity, name=name, device=device)
            for data, name in ((model, "model"), (brain, "brain"))
        ]
        counts = [side.n_stimuli for side in sides]
        if counts[0] != counts[1]:
            raise StimulusError(
                f"Both sides must have the same stimuli: `model` has {counts[0]}, `brain` "
                f"{counts[1]}. Label them (xarray, dims stimulus and unit) to join by id."
            )
        return self._one_model(sides[0]), sides[1]

    def _one_model(self, side: Responses) -> Responses:
        """Take a model with several subjects as their mean, which tiles never hold."""
        if len(side.subjects) > 1 and side.held is None:
            raise ShapeError(
                f"In tiles `model` must be one subject's, got {len(side.subjects)}: give one of "
                "them, or their features side by side."
            )
        return one_subject(side)

    def _in_tiles(self, model: Data, brain: Data) -> bool:
        """Decide, or refuse what cannot be done."""
        if self.tiled not in (True, False, "auto"):
            raise DataError(f"`tiled` must be True, False or 'auto', got {self.tiled!r}.")
        if self.batch_size is not None:
            check_count("batch_size", self.batch_size, SMALLEST_BLOCK)
        if self.tiled is False and self.batch_size is not None:
            raise DataError("`batch_size` is of fits in tiles: leave `tiled` at 'auto'.")
        if self.tiled is False:
            return False
        obstacle = tiling_obstacle(
            as_chain(self.transform), get(self.measure).name, self.similarity, (model, brain)
        )
        if self.tiled is True or self.batch_size is not None:
            if obstacle:
                raise DataError(f"RSMs cannot be fitted in tiles: {obstacle}")
            return True
        return not obstacle and (launched_ranks() > 1 or rsm_bytes(model, brain) > TILED_FROM_BYTES)

    def _fitted(self) -> Fitted:
        if not hasattr(self, "fitted_"):
            raise NotFittedError("This Aligner is not fitted yet; call `fit(model, brain)` first.")
        for transform in (self.fitted_.model, self.fitted_.brain):
            transform.to(resolve_device(self.device))  # a loaded one may have come from elsewhere
        return self.fitted_

    def _keep(self, fitted: Fitted) -> None:
        self.fitted_ = fitted
        self.model_transform_, self.brain_transform_ = fitted.model, fitted.brain
        self.model_similarity_ = fitted.units
        if isinstance(fitted.units, LearnedSimilarities) and len(fitted.units) == 1:
            self.model_similarity_ = fitted.units.each()[0]
        self.chosen_ = fitted.chosen
        self.train_score_ = fitted.train_score
        self.inner_scores_ = fitted.inner_scores
        self.n_steps_, self.penalty_, self.gate_ = fitted.n_steps, fitted.penalty, fitted.gate

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Parameters as given, for `sklearn.base.clone` and grid searches."""
        del deep
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def set_params(self, **params: Any) -> Self:
        """Change parameters by name."""
        known = self.get_params()
        for name, value in params.items():
            if name not in known:
                raise unknown_name("parameter", name, known)
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        shown = ", ".join(f"{k}={v!r}" for k, v in self.get_params().items() if v is not None)
        return f"Aligner({shown})"

    def save(self, path: str | Path) -> None:
        """Write the fitted Aligner to one file, readable with `load` and safe to receive.

        Of transforms, a measure and a similarity of your own only names and tensors are written.
        """
        fitted = self._fitted()
        params = self.get_params()
        params["transform"] = as_chain(self.transform).name
        params["measure"] = get(self.measure).name
        params["similarity"] = as_similarity(self.similarity).name
        params["settings"] = None if self.settings is None else asdict(self.settings)
        content = {
            "format": FORMAT,
            "params": params,
            "fitted": {
                f.name: getattr(fitted, f.name) for f in fields(Fitted) if f.name not in _PARTS
            },
            "model": _packed(fitted.model),
            "brain": _packed(fitted.brain),
            "units": None if fitted.units is None else _packed(fitted.units),
            "description": None if fitted.description is None else [*fitted.description],
            "embeddings": [(e.mean, e.components) for e in fitted.embeddings or ()],
        }
        write_tensors(path, content)

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        modules: Sequence[nn.Module] = (),
        measure: Measure | None = None,
        similarity: SimilarityLike | None = None,
    ) -> Self:
        """Read an Aligner written by `save`; nothing in the file is executed.

        Parameters
        ----------
        path : str or Path
            The file.
        modules : sequence of Module
            Where transforms of your own were saved: a module of each class, which takes over what
            was fitted.
        measure, similarity : optional
            Those of your own, if any were used.

        Returns
        -------
        Aligner
            As it was saved.

        Raises
        ------
        FileMissingError, FileFormatError
            If there is no such file, or it is none of these.
        DataError
            If a module, measure or similarity of your own is missing; the message says which.

        Notes
        -----
        Fitting such an Aligner again keeps its own modules as they are.
        """
        with read_tensors(path, FORMAT, passing=MissingOwnError) as content:
            for name, given, known in (
                ("measure", measure, MEASURES), ("similarity", similarity, SIMILARITY_TABLE),
            ):  # fmt: skip
                content["params"][name] = _own_or_known(name, given, content["params"], known)
            return cls._rebuilt(content, {type(module).__name__: module for module in modules})

    @classmethod
    def _rebuilt(cls, content: dict[str, Any], own: Mapping[str, nn.Module]) -> Self:
        params = content["params"]
        if params["settings"] is not None:
            params["settings"] = FitSettings(**params["settings"])
        similarity = params["similarity"]
        model, brain = (_unpacked(content[side], own, similarity) for side in ("model", "brain"))
        units = _unpacked(content["units"], own, similarity) if content.get("units") else None
        params["transform"] = _loaded_chain(params["transform"], units, model)
        described = content.get("description")
        aligner = cls(**params)
        pairs = [Embedding(*pair) for pair in content["embeddings"]]
        aligner._keep(
            Fitted(
                model=model,
                brain=brain,
                units=units,
                embeddings=(pairs[0], pairs[1]) if pairs else None,
                description=None if described is None else Description(*described),
                **content["fitted"],
            )
        )
        return aligner


def _check_measure(measure: Measure, one: Chain) -> None:
    """Refuse measures on features where RSMs are transformed, or predictions would be fitted."""
    if measure.takes != "features":
        return
    if not acts_on_units_only(one):
        raise DataError(
            f"{one.name!r} transforms RSMs, and {measure.name!r} compares features: use 'metric' "
            f"or another learned similarity, or `softrsa.measures.{measure.name}` itself."
        )
    if measure.held_out is not None:
        raise DataError(
            f"{measure.name!r} fits predictions, which an Aligner does not keep: use "
            f"`align(..., measure={measure.name!r})`."
        )


def _warn_of_tiled_gates(chains: Sequence[Chain], settings: FitSettings) -> None:
    """Say that gates of single stimuli are not held to what each stimulus was before."""
    if settings.keep_stimuli and any({*GATES} & {*chain.rsms.gates} for chain in chains):
        warnings.warn(
            "In tiles gates of single stimuli cannot keep each stimulus' mean and size, so a score "
            "may be won by one factor per stimulus: compare `Aligner.scores(...)` with those of "
            "'identity'. FitSettings(keep_stimuli=False) says that this is known.",
            StimulusScaleWarning,
            stacklevel=3,
        )


def _allowed(one: Chain, measure: Measure, model: Responses, brain: Responses) -> list[Chain]:
    """List what is to be fitted and can be; refuse what was asked for and cannot be."""
    chains = with_choices([one])
    if measure.takes == "features":
        chains = [chain for chain in chains if acts_on_units_only(chain)]
    if one.map:
        check_units(model, repr(one.name), "`model`")
    lacks_brain = brain.units is None
    if one.map == "ridge" and lacks_brain:
        raise DataError(
            f"{one.name!r} predicts the brain's units, and `brain` holds RDMs or RSMs only. Give "
            "recordings, or use 'metric'."
        )
    has_units = model.units is not None and not model.averaged
    return [
        chain
        for chain in chains
        if not chain.map or (has_units and not (chain.map == "ridge" and lacks_brain))
    ]


class MissingOwnError(DataError):
    """A file refers to something of the user's own, which it does not hold."""


def _own_or_known(kind: str, given: Any, params: Mapping[str, Any], known: Mapping) -> Any:
    """Give the user's own measure or similarity, or the known one that a file names."""
    name = params[kind]
    if given is None and name not in known:
        raise MissingOwnError(
            f"The file was made with a {kind} of your own, {name!r}: pass it, "
            f"`Aligner.load(path, {kind}=...)`."
        )
    return name if given is None else given


def _loaded_chain(name: str, units: nn.Module | None, rsms: nn.Module) -> str | Chain:
    """Give the name of a transform that is known, or a chain of the modules that were loaded."""
    parts = name.split("+")
    if all(part in TRANSFORMS for part in parts):
        return name

    def row(part: str, acts_on: Literal["rsms", "units"], module: nn.Module) -> Transform:
        if part in TRANSFORMS:
            return TRANSFORMS[part]
        return Transform(
            name=part, title=part, words=f"a transform {part}", acts_on=acts_on,
            fit=Always(module),
        )  # fmt: skip

    if units is None:
        return Chain(None, row(parts[0], "rsms", rsms))
    last = TRANSFORMS["identity"] if len(parts) == 1 else row(parts[1], "rsms", rsms)
    return Chain(row(parts[0], "units", units), last)


_PARTS = ("model", "brain", "embeddings", "units", "description")


def _packed(transform: nn.Module) -> dict[str, Any]:
    """Take a transform apart into plain values and tensors."""
    if isinstance(transform, HardGT):
        return {
            "kind": "geo_topological",
            "bounds": (transform.threshold.lower, transform.threshold.upper),
        }
    if isinstance(transform, LearnedSimilarities):
        return {"kind": "maps", "maps": [_packed(one) for one in transform.each()]}
    if isinstance(transform, LearnedSimilarity):
        return {
            "kind": "map", "state": transform.state_dict(), "prepare": transform.prepare,
            "similarity": transform.similarity.name,
        }  # fmt: skip
    if isinstance(transform, (Identity, Centered)):
        return {"kind": "identity" if isinstance(transform, Identity) else "centered"}
    if not isinstance(transform, SoftGate):
        return {"kind": "own", "name": type(transform).__name__, "state": transform.state_dict()}
    gate = transform.step.gate
    return {
        "kind": "soft",
        "gate": type(gate).__name__,
        "sizes": (gate.n_features, gate.hidden),
        "state": gate.state_dict(),
        "family": transform.step.family,
        "scaling": transform.scaling.how,
        "numbers": list(transform.scaling.numbers),
        "symmetrize": transform.symmetrize,
        "keep": transform.keep,
    }


def _unpacked(
    content: dict[str, Any], own: Mapping[str, nn.Module], similarity: SimilarityLike
) -> nn.Module:
    """Build the transform that `_packed` took apart; a ``similarity`` of one's own is not in it."""
    kind = content["kind"]
    if kind == "maps":
        return LearnedSimilarities([_unpacked(one, own, similarity) for one in content["maps"]])
    if kind == "map":
        name = content["similarity"]
        return LearnedSimilarity(
            content["state"]["weight"], content["state"]["offset"], prepare=content["prepare"],
            similarity=name if name in SIMILARITY_TABLE else similarity,
        ).requires_grad_(False)  # fmt: skip
    if kind == "own":
        name = content["name"]
        if name not in own:
            raise MissingOwnError(
                f"The file holds a transform of your own, {name!r}: pass a module of that class, "
                f"`Aligner.load(path, modules=[{name}(...)])`."
            )
        own[name].load_state_dict(content["state"])
        return own[name]
    if kind == "geo_topological":
        return HardGT(*content["bounds"])
    if kind != "soft":
        return Identity() if kind == "identity" else Centered()
    n_features, hidden = content["sizes"]
    gate: Gate
    if content["gate"] == "GlobalGate":
        gate = GlobalGate()
    elif content["gate"] == "ProfileGate":
        gate = ProfileGate(n_features)
    else:
        gate = EmbeddingGate(n_features, hidden)
    gate = gate.to(content["state"]["bias"].dtype)
    gate.load_state_dict(content["state"])
    step = SoftStep(gate.requires_grad_(False), family=content["family"])
    scaling = Scaling(content["scaling"], tuple(content.get("numbers", ())))
    return SoftGate(step, scaling, content["symmetrize"], keep=content.get("keep", False))
