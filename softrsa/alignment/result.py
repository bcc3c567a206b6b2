"""What `align` found: scores per layer, region, transform and fold, as one labelled data set."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
import xarray as xr

from softrsa._files import StoredResult
from softrsa.alignment.resampling import CHANCE, Over, compare, intervals
from softrsa.alignment.settings import repeat_call
from softrsa.errors import DataError, unknown_name
from softrsa.measures.registry import measure_title

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from softrsa.reports.page_content import Pictures

FIXED_BASELINES = "identity,centered,geo_topological"  # of results of older versions


@dataclass(frozen=True)
class AlignmentResult(StoredResult):
    """Scores and learned transforms of an alignment.

    Attributes
    ----------
    data : Dataset
        Everything, by `layer`, `region`, `transform` and `fold`: `score`, `train_score`,
        `row_offset_share`, `ceiling_lower`, `ceiling_upper`, `chosen`, `gate`, `penalty`,
        `n_steps`, `degenerate`; by `side` and `parameter` the mean and standard deviation over
        anchors of lower, upper and transition (`step_mean`, `step_sd`) and, over a grid of
        `similarity`, the learned `curve` at `anchor_quantile` .1, .5 and .9 of the anchors; by
        `role` (train, inner) and `stop` (number of steps) the scores along each fit (`fit_path`);
        by `stimulus` how much the held-out score rests on it (`stimulus_influence`); plain
        RSA in `rsa_score` and the score over all stimuli without folds in `all_stimuli_score`.
        `example_rsm` (region, transform, side, anchor, neighbor) are RSMs of each region and its
        best layer (`example_layer`) to look at: over training stimuli too, at most 150; NaN for
        what was fitted on a cluster or for a store.
        Where scores were resampled: `subject_score` by `tested_subject`, means over folds;
        `resampled_score` by `kind` (what was drawn: both, subjects, stimuli) and `resample`; and
        `p_chance`, `p_corrected`, `calibrated_score`. `attrs` hold the settings to repeat it.

    Examples
    --------
    >>> import torch, softrsa
    >>> x = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
    >>> result = softrsa.align({"layer": x}, {"region": x + 1}, transforms=["identity"], folds=4)
    >>> float(result.table["score"].round(3)[0])
    1.0
    """

    data: xr.Dataset
    _kind = "alignment_result"
    _what = "alignment result"

    def __repr__(self) -> str:
        attrs, sizes = self.data.attrs, self.data.sizes
        held = ", ".join(json.loads(attrs.get("control", "[]")))
        given = f"partial, given {held}; " if held else ""
        return (
            f"AlignmentResult({sizes['layer']} layers × {sizes['region']} regions, "
            f"{attrs['n_stimuli']} stimuli, {attrs['n_folds']} folds, {attrs['measure']}; "
            f"{given}transforms {attrs['transforms']}); see .table, .plot(), .report(path)"
        )

    @property
    def table(self) -> pd.DataFrame:
        """One row per layer, region and transform; all scores held out unless named otherwise.

        Returns
        -------
        DataFrame
            `score` and its standard error over folds (where subjects are left out: over subjects,
            of their means over folds), `train_score`, `rsa_score` (plain RSA:
            Pearson of the untransformed RSMs) and `baseline_score` (the best fixed transform under
            the measure in use) on the same folds, `gain` over that baseline, `row_offset_share`,
            scores that no number or factor per stimulus can raise (`per_anchor_score`,
            `balanced_score`, and `identification`: the share of other stimuli that match less
            well, .5 by chance), what was chosen and learned of a learned similarity (`map_size`,
            `map_penalty`, `map_steps`, `effective_dimension`, `distance_from_identity`, 0 to 1),
            whose steps are learned (`sides`), noise ceilings, the transform most folds selected,
            step summaries, counts (`n_pairs` are pairs of test stimuli in a fold, less those
            missing), `score_low`, `score_high` (see `intervals`), and of permuted stimulus labels
            `p_chance` (one-sided, not corrected), `calibrated_score` (the score less the mean of
            permuted ones, over their standard deviation) and `p_corrected` (by the best calibrated
            score of any layer and transform of the region); NaN where scores were not resampled. No
            p is less than 1 / (permutations + 1).
        """
        data = self.data
        shown = data.attrs["transforms"].split(",")
        fixed = data.attrs.get("baselines", FIXED_BASELINES).split(",")
        fixed = [name for name in fixed if name in data["transform"].values]
        baseline = data["score"].sel(transform=fixed).mean("fold").max("transform")
        numbers = ["score", "train_score", "row_offset_share", *_CEILING]
        numbers += [name for name in _LATER if name in data]  # not in results of older versions
        summary = data[numbers].mean("fold")
        summary["score_se"] = _standard_error(data)
        summary["rsa_score"] = data["rsa_score"].mean("fold").broadcast_like(summary["score"])
        summary["baseline_score"] = baseline.broadcast_like(summary["score"])
        summary["gain"] = summary["score"] - baseline
        summary["all_stimuli_score"] = data["all_stimuli_score"]
        summary["folds_degenerate"] = data["degenerate"].sum("fold")
        if "fallback" in data:  # not in results of older versions
            summary["folds_fallen_back"] = (data["fallback"] != "").sum("fold")
        summary["n_steps"] = data["n_steps"].median("fold")
        for name in ("chosen", "gate"):
            summary[name] = _most_common(data[name])
        means = data["step_mean"].mean("fold")
        for side in means["side"].values:
            for parameter in means["parameter"].values:
                one = means.sel(side=side, parameter=parameter, drop=True)
                summary[f"{parameter}_{side}"] = one
        summary = summary.assign(
            {name: data.attrs[name] for name in ("n_stimuli", "n_folds")}
            | {"n_subjects": data["n_subjects"], "sides": _sides(data)}
        )
        bounds = self.intervals()
        summary["score_low"], summary["score_high"] = bounds["low"], bounds["high"]
        unknown = xr.full_like(summary["score"], np.nan)
        for name in CHANCE:
            summary[name] = data.get(name, unknown)  # not in results of older versions
        frame = summary.sel(transform=shown).to_dataframe(
            dim_order=["layer", "region", "transform"]
        )
        frame = frame.drop(columns=["side", "parameter"], errors="ignore").reset_index()
        first = [name for name in _COLUMNS if name in frame]
        frame = frame[[*first, *[c for c in frame.columns if c not in first]]]
        kept = {name: data.attrs[name] for name in KEPT if name in data.attrs}
        frame.attrs.update(kept)
        return frame

    def intervals(self, *, over: Over = "auto", level: float = 0.95) -> xr.Dataset:
        """Confidence intervals of the mean held-out scores.

        Parameters
        ----------
        over : {"auto", "both", "subjects", "stimuli"}
            What scores should hold for beyond these data: other stimuli, other subjects, or both;
            by default both, and stimuli where there is one subject.
        level : float
            Coverage wanted, in (0, 1).

        Returns
        -------
        Dataset
            `low` and `high` (layer, region, transform). NaN where nothing was resampled, for other
            subjects of one subject, and where most resamples of a small fold are undefined.

        Raises
        ------
        DataError
            If ``level`` is not in (0, 1).
        UnknownNameError
            If there is no such ``over``.

        Notes
        -----
        The score and its bootstrapped standard error with Student's t, as many degrees of freedom
        as the fewest things drawn, less one: with two subjects intervals over both are wide, as
        they should be. The learned transforms are held fixed: an interval says how the same
        transforms would score on other stimuli and subjects, not what another fit would give.
        """
        return intervals(self.data, over=over, level=level)

    def compare(
        self,
        by: Literal["transform", "layer"],
        *,
        over: Over = "auto",
        correction: Literal["fdr", "fwer"] | None = None,
        level: float = 0.95,
    ) -> pd.DataFrame:
        """Compare all pairs of transforms, or of layers, on the same resamples.

        Parameters
        ----------
        by : {"transform", "layer"}
            What to compare.
        over : {"auto", "both", "subjects", "stimuli"}
            What differences should hold for beyond these data; see `intervals`.
        correction : {"fdr", "fwer"}, optional
            Over all rows of the table: the false discovery rate after Benjamini and Hochberg, or
            the family-wise error rate after Bonferroni and Holm. None by default.
        level : float
            Coverage wanted of the intervals, in (0, 1).

        Returns
        -------
        DataFrame
            A row per pair, for every combination of the rest: `difference` of mean scores, its
            interval `low`, `high`, two-sided `p`, `p_corrected` (equal to it where no correction
            was asked for), and `effect_size` (Cohen's dz over subjects; NaN with one). NaN where
            two scores are the same in every resample.

        Raises
        ------
        UnknownNameError
            If there is nothing of that name to compare, or no such correction.
        DataError
            If scores were not resampled.

        Examples
        --------
        >>> import torch, softrsa
        >>> generator = torch.Generator().manual_seed(0)
        >>> x, y = torch.randn(2, 40, 8, generator=generator)
        >>> brain = x + 0.5 * torch.randn(40, 8, generator=generator)
        >>> result = softrsa.align({"a": x, "b": y}, {"V4": brain}, transforms=["centered"])
        >>> bool(result.compare("layer")["p"][0] < 0.001)
        True
        """
        if not 0 < level < 1:
            raise DataError(f"`level` must be between 0 and 1, got {level!r}, e.g. 0.95.")
        return compare(self.data, by, over=over, correction=correction, level=level)

    def unit_weights(self, layer: str, region: str, *, transform: str = "metric") -> xr.DataArray:
        """How much each unit of a layer counts in a learned similarity, as the mean over folds.

        Parameters
        ----------
        layer, region : str
            Which pair.
        transform : str
            Which learned similarity: "reweighted", "metric", "encoding" or a chain of one of them.

        Returns
        -------
        DataArray
            Dims (unit,), with the units' names: the squared length of each unit's row of the map
            from units to features, 1 on average. NaN where no fold learned a map.

        Raises
        ------
        UnknownNameError
            If there is no such layer, region or learned similarity.
        DataError
            If the result has no weights: nothing was mapped, the layer was given as RDMs, or the
            fits ran on a cluster or for a store, which keep none.

        Examples
        --------
        >>> import torch, softrsa
        >>> generator = torch.Generator().manual_seed(0)
        >>> x, noise = torch.randn(2, 60, 4, generator=generator)
        >>> brain = x * torch.tensor([5.0, 5.0, 0.1, 0.1]) + noise
        >>> found = softrsa.align({"a": x}, {"b": brain}, transforms=["metric"], n_resamples=0)
        >>> weights = found.unit_weights("a", "b")
        >>> bool(weights[:2].min() > weights[2:].max())
        True
        """
        data = self.data
        if "unit_weight" not in data:
            raise DataError(
                "This result has no weights of units: no similarity was learned of units, or the "
                "fits ran on a cluster or for a store, which do not keep them. Align again with "
                "transforms=['metric'], for example, without `client` and `store`."
            )
        layers = dict.fromkeys(data["unit_layer"].values)
        for kind, name, known in (
            ("layer with weights of units", layer, layers),
            ("region", region, data["region"].values),
            ("learned similarity", transform, data["mapped"].values),
        ):
            if name not in known:
                raise unknown_name(kind, name, [*map(str, known)])
        found = data["unit_weight"].sel(region=region, mapped=transform)
        found = found[(data["unit_layer"] == layer).values].drop_vars("unit_layer")
        return found.rename(unit_name="name").assign_attrs(layer=layer, region=region)

    @property
    def warnings(self) -> list[str]:
        """What a reader of the scores must know before believing them."""
        return json.loads(self.data.attrs["warnings"])

    def plot(self) -> Figure:
        """Draw layers against scores, a panel per transform, noise ceilings shaded."""
        from softrsa.reports.figures import plot_alignment

        return plot_alignment(self.table, measure=measure_title(self.data.attrs))

    def plot_transforms(self) -> Figure:
        """Draw the learned curves of both sides over the identity."""
        from softrsa.reports.figures import plot_transforms

        return plot_transforms(self.data["curve"], self.data["score"])

    def report(
        self, path: str | Path, *, title: str | None = None, images: Pictures | None = None
    ) -> None:
        """Write a page for readers: one HTML file that needs no network and no other file.

        It has warnings first, then what was compared, scores with ceilings and intervals, learned
        transforms, RSMs before and after, training curves, the stimuli that scores rest on, the
        call that repeats it, and a paragraph for a methods section with references.

        Parameters
        ----------
        path : str or Path
            The file; an existing one is replaced.
        title : str, optional
            Heading of the page.
        images : mapping or folder, optional
            Pictures of the stimuli, shown where stimuli are: from stimulus id to an array (height,
            width[, 3]) of uint8 or of floats in [0, 1], or to an image file; or a folder of image
            files whose names without suffix are the ids.

        Raises
        ------
        DataError
            If no stimulus has a picture among ``images``, one cannot be read, or the result was
            written by a version of softrsa that kept less.
        FileMissingError, OutputError
            If there is no such folder of images, or the file cannot be written.

        Examples
        --------
        >>> import tempfile, torch, softrsa
        >>> x = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
        >>> result = softrsa.align({"layer": x}, {"region": x + 1}, transforms=["identity"])
        >>> result.report(Path(tempfile.mkdtemp()) / "report.html", title="A layer and itself")
        """
        from softrsa.reports.html import write_page

        repeat = repeat_call(self.data.attrs)
        write_page(path, self.data, self.table, repeat=repeat, title=title, images=images)


def _sides(data: xr.Dataset) -> xr.DataArray:
    """Whose RSMs the SoftSteps of each transform are learned of; "" where there is none."""
    learned = data.attrs.get("learned", "").split(",")
    sides = json.loads(data.attrs["settings"]).get("sides", "both")
    names = [sides if name in learned else "" for name in data["transform"].values]
    return data["transform"].copy(data=np.array(names, dtype=object))


KEPT = (
    "titles",
    "baselines",
    "pairs_missing",
    "all_stimuli_scored",
    "control",
)  # attributes of tables
_CEILING = ["ceiling_lower", "ceiling_upper"]
_BESIDE = ["per_anchor_score", "balanced_score", "identification"]
_OF_MAP = ["map_size", "map_penalty", "map_steps", "effective_dimension", "distance_from_identity"]
_LATER = [*_BESIDE, "n_pairs", *_OF_MAP]
_COLUMNS = [
    "layer", "region", "transform", "score", "score_se", *_BESIDE, "train_score", "rsa_score",
    "baseline_score", "gain", "row_offset_share", *_CEILING, "chosen", "n_stimuli",
]  # fmt: skip


def _most_common(names: xr.DataArray) -> xr.DataArray:
    """Take the value most folds have."""

    def mode(values: np.ndarray) -> np.ndarray:
        flat = values.reshape(-1, values.shape[-1])
        modes = [pd.Series(row).mode()[0] for row in flat]
        return np.array(modes, dtype=object).reshape(values.shape[:-1])

    return xr.apply_ufunc(mode, names.astype(object), input_core_dims=[["fold"]])


def _standard_error(data: xr.Dataset) -> xr.DataArray:
    """Of mean scores: over folds, or over left-out subjects of their means over folds."""
    score = data["score"]
    if data.attrs["subjects"] != "leave_one_out":
        return score.std("fold", ddof=1) / data.sizes["fold"] ** 0.5
    found = xr.full_like(score.isel(fold=0, drop=True), np.nan)
    for region in data["region"].values:
        n_subjects = int(data["n_subjects"].sel(region=region))
        # folds are in the order of stimuli, within these of the subject left out
        of_region = score.sel(region=region).transpose("layer", "transform", "fold")
        each = of_region[..., : data.attrs["n_folds"] * n_subjects].values
        means = each.reshape(*each.shape[:-1], -1, n_subjects).mean(-2)
        error = means.std(-1, ddof=1) / n_subjects**0.5
        found.loc[{"region": region}] = of_region.isel(fold=0, drop=True).copy(data=error)
    return found
