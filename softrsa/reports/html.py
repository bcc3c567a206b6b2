"""One self-contained HTML page of an alignment."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import pandas as pd
import xarray as xr

from softrsa._wording import counted
from softrsa.errors import DataError
from softrsa.io import atomic_path
from softrsa.measures.registry import measure_of
from softrsa.reports.figures import titles
from softrsa.reports.methods import methods_text
from softrsa.reports.page_content import Pictures, cautions, page_content

KEPT = {"example_rsm", "example_layer", "fit_path", "stimulus_influence"}


def write_page(
    path: str | Path,
    data: xr.Dataset,
    table: pd.DataFrame,
    *,
    repeat: str,
    title: str | None = None,
    images: Pictures | None = None,
) -> None:
    """Write an alignment as one HTML file, with the call to ``repeat`` it."""
    lacking = sorted(KEPT - {*map(str, data.data_vars)})
    if lacking:
        raise DataError(
            f"The result lacks {', '.join(lacking)}: it was written by an earlier version of "
            "softrsa. Make it again with `softrsa.align`, or align again on the command line."
        )
    page = files("softrsa.reports") / "page"
    template, style, script = (
        (page / f"page.{kind}").read_text("utf-8") for kind in ("html", "css", "js")
    )
    text, references = methods_text(data)
    content = page_content(data, table, images)
    attrs = data.attrs
    subjects = sorted({int(n) for n in data["n_subjects"].values})
    html = Template(template).substitute(
        title=escape(title or "Layers and regions, aligned by softrsa"),
        summary=escape(_summary(data, subjects)),
        style=style,
        script=script,
        warnings=_warnings(data, table),
        compared=_definitions(_compared(data, subjects)),
        grid_note=escape(
            "Under the transform chosen above; bold: best layer of a region. Click a score to see "
            "what was learned and which stimuli it rests on; a heading sorts."
        ),
        rows_note=escape(_rows_note(data)),
        repeat=escape(repeat),
        settings=escape(_settings(attrs)),
        methods=escape(text),
        references="\n".join(f"<li>{escape(item)}</li>" for item in references),
        footer=escape(f"Made by softrsa {attrs['softrsa_version']}; no network is needed."),
        # a "<" could end the script element that holds the data
        data=json.dumps(content, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"),
    )
    with atomic_path(path) as temporary:
        temporary.write_text(html, "utf-8")


def _summary(data: xr.Dataset, subjects: list[int]) -> str:
    parts = [counted(data.sizes[name], name) for name in ("layer", "region")]
    people = "–".join(map(str, dict.fromkeys((subjects[0], subjects[-1]))))
    word = "subject" if subjects[-1] == 1 else "subjects"
    return (
        f"{parts[0]} × {parts[1]}, {data.attrs['n_stimuli']} stimuli, {people} {word} per region, "
        f"{data.attrs['measure'].replace('_', ' ')}"
    )


def _warnings(data: xr.Dataset, table: pd.DataFrame) -> str:
    found = cautions(data, table)
    if not found:
        return '<p class="fine">Nothing was found that would make the scores doubtful.</p>'
    return "\n".join(f'<p class="warn">{escape(message)}</p>' for message in found)


def _compared(data: xr.Dataset, subjects: list[int]) -> dict[str, str]:
    attrs = data.attrs
    of_units = measure_of(attrs).takes == "features"
    return {
        "Layers": ", ".join(map(str, data["layer"].values)),
        "Regions": ", ".join(
            f"{region} ({counted(int(n), 'subject')})"
            for region, n in zip(data["region"].values, data["n_subjects"].values, strict=True)
        ),
        "Stimuli": f"{attrs['n_stimuli']}, all scored, without folds"
        if attrs.get("all_stimuli_scored")
        else f"{attrs['n_stimuli']} in {attrs['n_folds']} folds, {attrs['n_tested']} tested",
        "Measure": f"{attrs['measure']} of "
        + ("units" if of_units else f"RSMs by {attrs['similarity']}"),
        "Transforms": "; ".join(titles(attrs)[name] for name in attrs["transforms"].split(",")),
        **_sides(attrs),
        "Subjects": "each scored under transforms fitted on the others"
        if attrs["subjects"] == "leave_one_out"
        else "fitted on and scored together"
        if subjects[-1] > 1
        else "one per region",
        "Seed": str(attrs["seed"]),
    }


def _sides(attrs: Mapping[str, Any]) -> dict[str, str]:
    """Say whose SoftSteps were learned, where any was."""
    shown, learned = (attrs.get(key, "").split(",") for key in ("transforms", "learned"))
    if not ({*shown} & {*learned} - {""}):
        return {}
    sides = json.loads(attrs["settings"]).get("sides", "both")
    return {"SoftSteps": "on both sides" if sides == "both" else f"on the {sides}'s side only"}


def _definitions(named: Mapping[str, str]) -> str:
    return "\n".join(f"    <dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in named.items())


def _of_which(data: xr.Dataset) -> str:
    whole = data.attrs.get("all_stimuli_scored")
    return "of all stimuli, without folds" if whole else "mean over folds of held-out stimuli"


def _rows_note(data: xr.Dataset) -> str:
    said = (
        f"score: {_of_which(data)}. Pearson RSA: Pearson of the RSMs as they are, "
        "whatever the measure. best fixed: the best transform that is not learned (thresholds "
        "found on a grid count as fixed), under the same measure; gain is over it. "
        "row offset: share of what is common to both RSMs that is one number per stimulus."
    )
    if "balanced_score" in data:
        said += (
            " per anchor, balanced: similarity of the same RSMs by measures that no factor per "
            "stimulus can raise. identified: the share of other stimuli that match a stimulus less "
            "well than itself (chance .5). A gain is one of geometry where these rise with it."
        )
    if "p_chance" in data:
        said += (
            " 95 %: for other stimuli and, with several subjects, other people (Student's t, as "
            "many degrees of freedom as the fewer of them less one). p: one-sided, of permuted "
            "stimulus labels for these people, not corrected; so p can be small where the interval "
            "contains 0. corrected p: of the best score of any layer and transform of the region."
        )
    return said


def _settings(attrs: Mapping[str, Any]) -> str:
    shown = {
        k: v for k, v in attrs.items() if k not in ("warnings", "settings", "stimuli_left_out")
    }
    shown["settings"] = json.loads(attrs["settings"])
    shown["stimuli_left_out"] = json.loads(attrs["stimuli_left_out"])
    return json.dumps(shown, indent=2, default=lambda value: value.item())
