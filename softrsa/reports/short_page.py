"""Self-contained HTML pages of time courses and maps: answer, figure, cautions, table, methods."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from softrsa._wording import counted
from softrsa.io import atomic_path
from softrsa.measures.registry import measure_title

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from softrsa.inference import SearchlightResult, TimeCourseResult

LEVEL = 0.05
DPI = 150
TESTS = {
    "mass": "cluster mass", "tfce": "threshold-free cluster enhancement", "max": "the largest t",
}  # fmt: skip
SIDES = {
    "greater": "greater than", "less": "less than", "two-sided": "different from",
}  # fmt: skip


class ShortPage(NamedTuple):
    """What a page says: in this order."""

    title: str
    answers: Sequence[str]
    figure: Figure
    caption: str
    notes: Sequence[str]
    table: pd.DataFrame
    methods: str
    repeat: str


def write_short_page(path: str | Path, page: ShortPage) -> None:
    """Write a page, whole or not at all."""
    style = (files("softrsa.reports") / "page" / "page.css").read_text("utf-8")
    notes = "\n".join(f'<p class="warn">{escape(note)}</p>' for note in page.notes)
    answers = "\n".join(f"<p><strong>{escape(one)}</strong></p>" for one in page.answers)
    html = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(page.title)}</title>
<link rel="icon" href="data:,">
<style>
{style}
pre {{ white-space: pre-wrap; }}
.plain-figure {{ max-width: 100%; height: auto; background: #fff; }}
</style>
</head>
<body>
<header><h1>{escape(page.title)}</h1></header>
<main>
<section><h2>The answer</h2>
{answers}
<figure><img class="plain-figure" alt="{escape(page.caption)}" src="{_address(page.figure)}">
<figcaption>{escape(page.caption)}</figcaption></figure>
</section>
<section><h2>Before you read the scores</h2>
{notes or '<p class="fine">Nothing was found that would make the scores doubtful.</p>'}
</section>
<section><h2>Table</h2>
<div class="scroll tall" tabindex="0" role="region" aria-label="Table">{_table(page.table)}</div>
</section>
<section><h2>To repeat it</h2><div class="code"><pre><code>{escape(page.repeat)}</code></pre></div>
</section>
<section><h2>For a methods section</h2><p>{escape(page.methods)}</p></section>
</main>
</body>
</html>
"""
    with atomic_path(path) as temporary:
        temporary.write_text(html, "utf-8")


def _address(figure: Figure) -> str:
    stream = BytesIO()
    figure.savefig(stream, format="png", dpi=DPI)
    return f"data:image/png;base64,{b64encode(stream.getvalue()).decode()}"


def _table(table: pd.DataFrame) -> str:
    """Write a table with three decimals, and a dash for what is not known."""
    head = "".join(f"<th>{escape(str(name))}</th>" for name in table.columns)
    rows = (
        "".join(f"<td>{escape(_cell(value))}</td>" for value in row)
        for row in table.itertuples(index=False)
    )
    body = "\n".join(f"<tr>{row}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table>"


def _cell(value: object) -> str:
    if isinstance(value, (float, np.floating)):
        return "–" if np.isnan(value) else f"{value:.3f}"
    return str(value)


def _repeat(attrs: Mapping[str, Any], call: str) -> str:
    return str(attrs.get("command", call))


def time_page(result: TimeCourseResult) -> ShortPage:
    """Say when models match regions, and since when."""
    attrs = result.data.attrs
    latencies = result.latencies()
    dim = attrs["model_dim"]
    return ShortPage(
        "Time courses, by softrsa",
        [_when(row, dim) for row in latencies.to_dict("records")],
        result.plot(),
        "Scores over time. Shaded: 95 % intervals over subjects; gray: noise ceiling. Bars below: "
        "times with a corrected p below .05.",
        result.warnings,
        latencies,
        _time_methods(result),
        _repeat(attrs, f"softrsa.inference.time_courses(models, regions, {attrs['measure']!r})"),
    )


def _when(row: Mapping[Any, Any], dim: str) -> str:
    """Say in a sentence when one model matches one region."""
    who = f"{dim} {row[dim]} in {row['region']}"
    first = row["first_significant"]
    peak = f"its score is largest at {row['peak']:.3g} ({row['peak_score']:.3f})"
    if np.isnan(row["peak"]):
        return f"{who}: nowhere above chance."
    if np.isnan(first):
        return f"{who}: at no time is it shown to be above chance; {peak}."
    low, high = row["onset_low"], row["onset_high"]
    known = "" if np.isnan(low) else f" (95 % {low:.3g} to {high:.3g})"
    return (
        f"{who}: rises at {row['onset']:.3g}{known}; {peak}; first time with a corrected p below "
        f".05: {first:.3g}."
    )


def _time_methods(result: TimeCourseResult) -> str:
    data, attrs = result.data, result.data.attrs
    n = data.sizes["subject"]
    said = (
        f"Representational similarity matrices of {counted(data.sizes['model'], 'model')} were "
        f"compared with those of {counted(data.sizes['region'], 'region')} at each of "
        f"{counted(data.sizes['time'], 'time')} over {attrs['n_stimuli']} stimuli, in "
        f"{counted(n, 'subject')}, by {measure_title(attrs)}."
    )
    if n > 1:
        said += (
            f" Scores {SIDES[attrs['alternative']]} {attrs['chance']:g} were tested over subjects "
            f"with {attrs['n_flips']} flips of signs, corrected over times by "
            f"{TESTS[attrs['method']]} (Maris & Oostenveld, 2007, doi:10.1016/j.jneumeth.2007.03."
            "024). Onsets are when a mean curve rises through half of its peak, with intervals "
            "from a bootstrap over subjects."
        )
    return said


def map_page(result: SearchlightResult, *, mesh: Any = None) -> ShortPage:
    """Say where models match, and how large that part is."""
    attrs = result.data.attrs
    table = result.table
    return ShortPage(
        "Searchlight maps, by softrsa",
        [_where(row, attrs["model_dim"]) for row in table.to_dict("records")],
        result.plot(mesh=mesh),
        "Scores around each center; of voxels the largest along each axis. Black dots: corrected p "
        "below .05.",
        result.warnings,
        table,
        _map_methods(result),
        _repeat(attrs, f"softrsa.inference.searchlight_maps(models, recordings, "
                       f"{attrs['measure']!r}, radius={attrs['radius']:g})"),
    )  # fmt: skip


def _where(row: Mapping[Any, Any], dim: str) -> str:
    """Say in a sentence where one model matches best."""
    if "x" in row:
        place = f"({row['x']:.1f}, {row['y']:.1f}, {row['z']:.1f}) mm"
    else:
        place = f"vertex {row['vertex']}" if "vertex" in row else f"unit {row['unit']}"
    best = f"{dim} {row[dim]}: its largest score is {row['score']:.3f}, at {place}"
    p, n = row["p_corrected"], row["n_centers"]
    if np.isnan(row["score"]):
        return f"{dim} {row[dim]}: no center has a score."
    if np.isnan(p):
        return f"{best}; it was not tested."
    shown = "< .001" if p < 0.001 else f"{p:.3f}".replace("0.", ".", 1)
    sign = "" if shown.startswith("<") else "= "
    if p >= LEVEL:
        return f"{best}, and no center is shown to be above chance (corrected p {sign}{shown})."
    return f"{best} (corrected p {sign}{shown}); {row['n_significant']} of {n} centers pass .05."


def _map_methods(result: SearchlightResult) -> str:
    data, attrs = result.data, result.data.attrs
    n = data.sizes["subject"]
    around = (
        f"disks of {attrs['rings']} edges"
        if attrs["rings"]
        else f"{'disks' if 'vertex' in data.coords else 'spheres'} with a radius of "
        f"{attrs['radius']:g} mm"
    )
    said = (
        f"In {counted(n, 'subject')}, dissimilarities of {attrs['n_stimuli']} stimuli "
        f"({attrs['method']}) were computed in {around} around each of "
        f"{counted(data.sizes['unit'], 'center')} (Kriegeskorte, Goebel & Bandettini, 2006, "
        f"doi:10.1073/pnas.0600244103) and compared with "
        f"{counted(data.sizes['model'], 'model')} by {measure_title(attrs)}."
    )
    if n > 1:
        return said + (
            f" Maps {SIDES[attrs['alternative']]} {attrs['chance']:g} were tested over subjects "
            f"with {attrs['n_flips']} flips of signs, corrected over centers by "
            f"{TESTS[attrs['test']]} (Nichols & Holmes, 2002, doi:10.1002/hbm.1058)."
        )
    if attrs["n_permutations"]:
        return said + (
            f" The stimuli of the models were permuted {attrs['n_permutations']} times; p is "
            "corrected over centers by the largest score of each permutation."
        )
    return said + " Maps were not tested."
