"""What the page of an alignment draws, as plain lists for its script; NaN is None."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterable, Mapping
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr

from softrsa._wording import counted, listed
from softrsa.errors import DataError, FileMissingError
from softrsa.measures.registry import measure_title
from softrsa.reports.figures import titles
from softrsa.reports.rsm_figures import cluster_order
from softrsa.reports.similarity_figures import BESIDE, FIXED, gains_beside

if TYPE_CHECKING:
    from PIL.Image import Image

SAME = 1 - 1e-6  # a score above is of data that are the same
FEW_SUBJECTS = 3
FEW_TESTED = 20  # stimuli of a fold: below it a fold's score is next to noise


def cautions(data: xr.Dataset, table: pd.DataFrame) -> list[str]:
    """List reasons to doubt an alignment, the gravest first, in a sentence or two each."""
    attrs = data.attrs
    found = []
    if attrs["permuted"]:
        found.append(
            "This is a control: the brain's stimuli were shuffled. Scores and gains other than 0 "
            "are not about the brain, and names of stimuli below are those of the model's side."
        )
    found += json.loads(attrs["warnings"])
    left_out = json.loads(attrs["stimuli_left_out"])
    if left_out:
        named = sorted({str(stimulus) for each in left_out.values() for stimulus in each})
        found.append(
            f"{counted(len(named), 'stimulus was', 'stimuli were')} not on both sides and left "
            f"out: {listed(named)}."
        )
    tested = attrs.get("n_tested_mean", attrs["n_tested"] / attrs["n_folds"])
    if tested < FEW_TESTED:
        found.append(
            f"A fold tests about {tested:.0f} stimuli. Scores of so few vary much from fold to "
            "fold: the third decimal says nothing."
        )
    if int(data["n_subjects"].max()) == 1:
        found.append(
            "One subject per region: there is no noise ceiling, and nothing here says what would "
            "hold for other subjects."
        )
    most = int(data["n_subjects"].max())
    if 1 < most <= FEW_SUBJECTS and table["score_low"].notna().any():
        found.append(
            f"{most} subjects: intervals for other people are wide with so few, and rightly so."
        )
    return [*found, *same_data(table), *_of_table(table)]


def same_data(table: pd.DataFrame) -> list[str]:
    """Ask whether both sides hold the same data, where a score is 1."""
    same = table[table["score"] > SAME]
    if not len(same):
        return []
    pairs = dict.fromkeys(f"{row.layer} / {row.region}" for row in same.itertuples())
    return [f"Some scores are 1: {', '.join(list(pairs)[:3])}. Do both sides hold the same data?"]


def _of_table(table: pd.DataFrame) -> list[str]:
    """Gains that are none, and scores above what the data allow."""
    found = []
    fixed = table.attrs.get("baselines", FIXED).split(",")
    learned = table[~table["transform"].isin(fixed)]
    if len(learned):
        worse = int((learned["gain"] <= 0).sum())
        if worse:
            found.append(
                f"In {worse} of {len(learned)} rows a learned or selected transform is not better "
                "than the best fixed one: a fixed transform is the simpler account."
            )
    above = int((table["score"] > table["ceiling_upper"]).sum())
    if above:
        found.append(
            f"{counted(above, 'score is', 'scores are')} above the upper noise ceiling: subjects "
            "agree less with each other than with the model, so the ceiling is itself noisy."
        )
    unsure = int((table["p_chance"] > 0.05).sum())
    if unsure:
        found.append(
            f"{unsure} of {len(table)} scores are not above chance at .05 (permuted stimulus "
            "labels, not corrected)."
        )
    return found


SIZE = 88  # pixels of the longer side
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff")
Pictures = Mapping[Any, Any] | str | Path


def thumbnails(
    images: Pictures | None, stimuli: np.ndarray, wanted: Iterable[int]
) -> dict[int, str]:
    """Make JPEG data addresses of wanted stimuli that have a picture, by place among all.

    ``images`` maps stimulus ids to arrays (height, width[, 3]) of uint8 or of floats in [0, 1], or
    to image files; or is a folder of image files whose names without suffix are the ids.
    """
    if images is None:
        return {}
    by_id = _in_folder(Path(images)) if isinstance(images, (str, Path)) else dict(images)
    by_name = {str(key): picture for key, picture in by_id.items()}
    found = {}
    for place in wanted:
        name = str(stimuli[place])
        picture = by_name.get(name, by_name.get(Path(name).stem))
        if picture is not None:
            found[place] = _address(picture, name)
    if not found:
        raise DataError(
            f"No stimulus has a picture: the stimuli are {listed(stimuli.tolist())}, the pictures "
            f"{listed(by_name)}. Name pictures by stimulus id."
        )
    return found


def _in_folder(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise FileMissingError(f"There is no folder {folder.absolute()} with images.")
    return {file.stem: file for file in sorted(folder.iterdir()) if file.suffix.lower() in SUFFIXES}


def _address(picture: Any, name: str) -> str:
    """Shrink one picture and write it as an address."""
    from PIL import Image

    try:
        image = Image.open(picture) if isinstance(picture, (str, Path)) else _from_array(picture)
        small = image.convert("RGB")
    except (OSError, TypeError, ValueError) as error:
        raise DataError(f"The picture of stimulus {name!r} cannot be read: {error}.") from error
    small.thumbnail((SIZE, SIZE))
    stream = BytesIO()
    small.save(stream, "JPEG", quality=72, optimize=True)
    return f"data:image/jpeg;base64,{b64encode(stream.getvalue()).decode()}"


def _from_array(picture: Any) -> Image:
    from PIL import Image

    values = np.asarray(picture)
    values = values[..., 0] if values.ndim == 3 and values.shape[-1] == 1 else values
    if values.ndim not in (2, 3) or (values.ndim == 3 and values.shape[-1] not in (3, 4)):
        raise ValueError(f"its shape is {values.shape}, not (height, width[, 3])")
    most = 1 if values.dtype.kind == "f" else 255
    if values.min() < 0 or values.max() > most:
        raise ValueError(f"its values must lie in [0, {most}], and reach {values.max():g}")
    values = (values * 255).round() if most == 1 else values
    return Image.fromarray(values.astype(np.uint8))


MOST_STIMULI = 10  # for, and as many against the score
COLUMNS = (  # of the table: name, heading, decimals (none: text; an interval: name of its end)
    ("layer", "layer", None), ("region", "region", None), ("transform", "transform", None),
    ("score", "score", 3), ("score_low", "95 %", "score_high"), ("score_se", "± SE", 3),
    ("per_anchor_score", "per anchor", 3), ("balanced_score", "balanced", 3),
    ("identification", "identified", 3), ("p_chance", "p (chance)", 4),
    ("p_corrected", "corrected p", 4),
    ("rsa_score", "Pearson RSA", 3), ("baseline_score", "best fixed", 3), ("gain", "gain", 3),
    ("row_offset_share", "row offset", 2), ("ceiling_lower", "noise ceiling", "ceiling_upper"),
    ("train_score", "training", 3), ("chosen", "chosen", None), ("sides", "steps of", None),
)  # fmt: skip


def page_content(data: xr.Dataset, table: pd.DataFrame, images: Pictures | None) -> dict[str, Any]:
    """Gather everything the page's script draws; ``images`` as for `thumbnails`."""
    shown = data.attrs["transforms"].split(",")
    intervals = bool(table["score_low"].notna().any())
    columns = [c for c in COLUMNS if c[0] in table and _known(table[c[0]])]
    extra = ["score_low", "score_high", "score_se", "ceiling_lower", "ceiling_upper"]
    names = list(dict.fromkeys([c[0] for c in columns] + [c for c in extra if c in table]))
    if intervals:
        columns = [c for c in columns if c[0] != "score_se"]
    last = table[table["transform"] == shown[-1]]  # "selected", where it was asked for
    best = last.iloc[int(last["score"].fillna(-np.inf).argmax())]
    stimuli = [str(name) for name in data["stimulus"].values]
    at = np.flatnonzero(np.isin(data["stimulus"].values, data["anchor"].values))
    influence = _influence(data, shown)
    looked_at = {*at.tolist()} | {
        k for found in influence.values() for part in found.values() for k, _ in part
    }
    return {
        "transforms": shown,
        "titles": titles(data.attrs),
        "layers": [str(name) for name in data["layer"].values],
        "regions": [str(name) for name in data["region"].values],
        "measure": measure_title(data.attrs),
        "bars": "95 % intervals" if intervals else "± standard error",
        "start": {key: str(best[key]) for key in ("layer", "region", "transform")},
        "columns": columns,
        "rows": [{k: _plain(v) for k, v in row.items()} for row in table[names].to_dict("records")],
        "noCeiling": _no_ceiling(data),
        "learnedNames": [
            titles(data.attrs)[name] for name in shown if name in _learned_names(data)
        ],
        "learned": _learned(data, shown),
        "beside": _beside(data),
        "besideNames": list(BESIDE.values()),
        "similarities": _similarities(data, shown),
        "mapStops": [int(stop) for stop in data["map_stop"].values] if "map_stop" in data else [],
        "similarity": _rounded(data["similarity"].values),
        "stops": [int(stop) for stop in data["stop"].values],
        "stimuli": stimuli,
        "at": at.tolist(),
        "stimuliNote": f" {len(at)} of {len(stimuli)} stimuli, evenly drawn."
        if len(at) < len(stimuli)
        else "",
        "thumbnails": thumbnails(images, data["stimulus"].values, sorted(looked_at)),
        "exampleLayers": dict(
            zip(
                map(str, data["region"].values), map(str, data["example_layer"].values), strict=True
            )
        ),
        "matrices": _matrices(data, shown),
        "clusters": _clusters(data),
        "influence": influence,
    }


def _no_ceiling(data: xr.Dataset) -> str:
    if int(data["n_subjects"].max()) == 1:
        return "No noise ceiling: one subject."
    return "No noise ceiling: there is none for measures on features."


def _known(column: pd.Series) -> bool:
    return bool((column.notna() & (column.astype(str) != "")).any())


def _plain(value: object) -> object:
    """Turn a cell into what JSON holds."""
    if isinstance(value, (float, np.floating)):
        return round(float(value), 6) if np.isfinite(value) else None
    return str(value)


def _rounded(values: np.ndarray) -> list:
    """Nest lists of rounded numbers as the array is nested, with None for NaN."""
    rounded = np.round(values, 3).astype(object)
    rounded[~np.isfinite(values)] = None
    return rounded.tolist()


def _key(*labels: object) -> str:
    return "\0".join(map(str, labels))


def _learned_names(data: xr.Dataset) -> list[str]:
    """Name the transforms of which a step or a similarity was learned."""
    found = data["step_mean"].notnull().any(["layer", "region", "fold", "side", "parameter"])
    mapped = data.attrs.get("mapped", "").split(",")
    return [
        str(name)
        for name, has in zip(data["transform"].values, found.values, strict=True)
        if name != "selected" and (has or name in mapped)
    ]


def _learned(data: xr.Dataset, shown: list[str]) -> dict[str, Any]:
    """Mean curves of both sides, the scores along the fit, and what was chosen, in words."""
    found = {}
    family = json.loads(data.attrs["settings"])["family"]
    curve, path, steps = (data[name].mean("fold") for name in ("curve", "fit_path", "step_mean"))
    for transform in (name for name in shown if name in (*_learned_names(data), "selected")):
        for layer in data["layer"].values:
            for region in data["region"].values:
                at = {"layer": layer, "region": region, "transform": transform}
                if bool(steps.sel(at).isnull().all()):
                    continue  # a fixed transform was selected
                sides = curve.sel(at).transpose("side", "anchor_quantile", "similarity")
                found[_key(layer, region, transform)] = {
                    "about": _about(data.sel(at), steps.sel(at), family),
                    "path": _rounded(path.sel(at).transpose("role", "stop").values),
                    **{str(s): _rounded(sides.sel(side=s).values) for s in sides["side"].values},
                }
    return found


IDENTITY = {  # of each family of steps, and where its fits start
    "s1": "A step with lower 0, upper 1, transition 1 changes nothing.",
    "s2": "This family has no lower bound, and only steps near the identity.",
}


def _beside(data: xr.Dataset) -> dict[str, list[float | None]]:
    """Gains over the best fixed transform by four scores; nothing for results without these."""
    if not {*BESIDE} <= {*map(str, data.data_vars)}:
        return {}
    rows = gains_beside(data).to_dict("records")
    return {
        _key(row["layer"], row["region"], row["transform"]): [_number(row[name]) for name in BESIDE]
        for row in rows
    }


def _number(value: float) -> float | None:
    return round(float(value), 6) if np.isfinite(value) else None


def _similarities(data: xr.Dataset, shown: list[str]) -> dict[str, Any]:
    """Weights of components, the scores along the fit, and what was chosen, in words."""
    found: dict[str, Any] = {}
    if "component_weight" not in data:
        return found
    there = data["component_weight"].notnull().any(["fold", "component"])
    weights, path = (data[name].mean("fold") for name in ("component_weight", "map_path"))
    for layer in data["layer"].values:
        for region in data["region"].values:
            for transform in shown:
                at = {"layer": layer, "region": region, "transform": transform}
                if not bool(there.sel(at)):
                    continue
                of_one = weights.sel(at).values
                known = path.sel(at)
                found[_key(layer, region, transform)] = {
                    "about": _about_map(data.sel(at)),
                    "weights": _rounded(of_one[np.isfinite(of_one)]),
                    "path": None
                    if bool(known.isnull().all())
                    else _rounded(known.transpose("role", "map_stop").values),
                }
    return found


def _about_map(of_one: xr.Dataset) -> str:
    """Say what the folds chose of a learned similarity and how far it is from the identity."""
    learned = of_one["component_weight"].notnull().any("component")
    n_learned, n_folds = int(learned.sum()), of_one.sizes["fold"]
    chosen = of_one[["map_size", "map_steps"]].isel(fold=np.flatnonzero(learned.values))
    kept = n_folds - n_learned
    plain = f" In {counted(kept, 'fold')} the plain similarity was kept." if kept else ""
    steps = int(chosen["map_steps"].median())
    fitted = f", {steps} steps" if steps else ""
    return (
        "Learned of the layer only, before its similarities. "
        f"{int(chosen['map_size'].median())} components{fitted} (medians). Effective dimension "
        f"{float(of_one['effective_dimension'].mean()):.1f}; distance from the identity "
        f"{float(of_one['distance_from_identity'].mean()):.2f} (0: every component counts as "
        f"before, 1: at most).{plain} Weights: means over folds, 1 on average, the component with "
        "most variance first."
    )


def _about(of_one: xr.Dataset, steps: xr.DataArray, family: str) -> str:
    """Say what the folds chose and how far it is from the identity."""
    gates = pd.Series([str(gate) or "no" for gate in of_one["gate"].values]).value_counts()
    chosen = ", ".join(f"{name} gate in {counted(int(n), 'fold')}" for name, n in gates.items())
    n_steps = of_one["n_steps"].values
    said = " and ".join(f"{side} {_named(steps.sel(side=side))}" for side in steps["side"].values)
    none = int((n_steps == 0).sum())
    stayed = f" In {counted(none, 'fold')} no step was taken." if none else ""
    return (
        f"Mean over folds and anchors (the stimuli whose rows of similarities are transformed); "
        f"shaded: the middle 80 % of anchors. Chosen: {chosen}; "
        f"{int(np.median(n_steps))} steps (median). Means: {said}. "
        f"{IDENTITY[family]}{stayed}"
    )


def _named(steps: xr.DataArray) -> str:
    pairs = zip(steps["parameter"].values, steps.values, strict=True)
    return ", ".join(f"{name} {value:.2f}" for name, value in pairs)


def _matrices(data: xr.Dataset, shown: list[str]) -> dict[str, Any]:
    """Pack example RSMs by region, transform and side."""
    found: dict[str, Any] = {}
    for region in data["region"].values:
        of_region = found.setdefault(str(region), {})
        for transform in dict.fromkeys(["identity", *shown]):
            pair = data["example_rsm"].sel(region=region, transform=transform)
            if bool(pair.isnull().all()):
                continue
            of_region[transform] = {
                str(s): _packed(pair.sel(side=s).values) for s in pair["side"].values
            }
    return found


def _packed(matrix: np.ndarray) -> dict[str, Any]:
    """Take a byte an entry, 0 for a missing one; the diagonal does not stretch the scale."""
    off = matrix[~np.eye(len(matrix), dtype=bool)]
    low, high = float(np.nanmin(off)), float(np.nanmax(off))
    scaled = 1 + np.clip((matrix - low) / ((high - low) or 1.0), 0, 1) * 254
    scaled = np.where(np.isnan(matrix), 0, scaled)
    return {
        "low": low,
        "high": high,
        "bytes": b64encode(scaled.round().astype(np.uint8).tobytes()).decode(),
    }


def _clusters(data: xr.Dataset) -> dict[str, list[int]]:
    plain = data["example_rsm"].sel(transform="identity", side="brain")
    return {
        str(region): cluster_order(plain.sel(region=region).values.astype(np.float64)).tolist()
        for region in data["region"].values
    }


def _influence(data: xr.Dataset, shown: list[str]) -> dict[str, Any]:
    """Find the stimuli that raise and lower each score most."""
    mean = data["stimulus_influence"].sel(transform=shown)
    mean = mean.mean("fold").transpose("layer", "region", "transform", "stimulus")
    found = {}
    for place in np.ndindex(*mean.shape[:-1]):
        values = mean.values[place]
        tested = np.flatnonzero(np.isfinite(values))
        if not len(tested):
            continue
        ordered = tested[np.argsort(-values[tested], kind="stable")]
        labels = [mean[d].values[i] for d, i in zip(mean.dims[:-1], place, strict=True)]
        pairs = [[int(k), round(float(values[k]), 5)] for k in ordered]
        found[_key(*labels)] = {
            "top": [pair for pair in pairs[:MOST_STIMULI] if pair[1] > 0],
            "bottom": [pair for pair in pairs[::-1][:MOST_STIMULI] if pair[1] < 0],
        }
    return found
