"""One self-contained HTML page of an alignment, and what was done, in words and as a call."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
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
from softrsa.measures import Measure
from softrsa.measures.registry import measure_of
from softrsa.reports.figures import titles
from softrsa.reports.page_content import Pictures, cautions, page_content
from softrsa.rsm.similarity import SIMILARITY_TABLE
from softrsa.transforms import TRANSFORMS

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
        "Subjects": "each scored under transforms fitted on the others"
        if attrs["subjects"] == "leave_one_out"
        else "fitted on and scored together"
        if subjects[-1] > 1
        else "one per region",
        "Seed": str(attrs["seed"]),
    }


def _definitions(named: Mapping[str, str]) -> str:
    return "\n".join(f"    <dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in named.items())


def _of_which(data: xr.Dataset) -> str:
    whole = data.attrs.get("all_stimuli_scored")
    return "of all stimuli, without folds" if whole else "mean over folds of held-out stimuli"


def _rows_note(data: xr.Dataset) -> str:
    said = (
        f"score: {_of_which(data)}. Pearson RSA: Pearson of the RSMs as they are, "
        "whatever the measure. best fixed: the best transform with nothing learned by gradient, "
        "under the same measure; gain is over it. row offset: share of what is common to both RSMs "
        "that is one number per stimulus."
    )
    if "p_chance" in data:
        said += (
            " 95 %: for other stimuli and, with several subjects, other people (Student's t, as "
            "many degrees of freedom as the fewer of them less one). p: one-sided, of permuted "
            "stimulus labels for these people, not corrected; so p can be small where the interval "
            "contains 0."
        )
    return said


def _settings(attrs: Mapping[str, Any]) -> str:
    shown = {
        k: v for k, v in attrs.items() if k not in ("warnings", "settings", "stimuli_left_out")
    }
    shown["settings"] = json.loads(attrs["settings"])
    shown["stimuli_left_out"] = json.loads(attrs["stimuli_left_out"])
    return json.dumps(shown, indent=2, default=lambda value: value.item())


REFERENCES = {
    "rsa": "Kriegeskorte N, Mur M, Bandettini P (2008). Representational similarity analysis – "
    "connecting the branches of systems neuroscience. Frontiers in Systems Neuroscience 2:4. "
    "doi:10.3389/neuro.06.004.2008",
    "softstep": "Susman A, Lin B, Suárez-Fariñas M, Colonel JT. SoftStep: learning instance-wise "
    "similarity functions between neural representations.",
    "gt": "Lin B, Kriegeskorte N (2024). The topology and geometry of neural representations. PNAS "
    "121(42). doi:10.1073/pnas.2317881121",
    "ceiling": "Nili H, Wingfield C, Walther A, Su L, Marslen-Wilson W, Kriegeskorte N (2014). A "
    "toolbox for representational similarity analysis. PLoS Computational Biology 10(4):e1003553. "
    "doi:10.1371/journal.pcbi.1003553",
    "inference": "Schütt HH, Kipnis AD, Diedrichsen J, Kriegeskorte N (2023). Statistical "
    "inference on representational geometries. eLife 12:e82566. doi:10.7554/eLife.82566",
}
GATES = {
    "profile": "quantiles of their own row of similarities (profile gate)",
    "embedding": "principal components of their units (embedding gate)",
}


def methods_text(data: xr.Dataset) -> tuple[str, list[str]]:
    """Describe an alignment for a paper: a paragraph, and its numbered references."""
    cited: list[str] = []

    def cite(key: str) -> str:
        if key not in cited:
            cited.append(key)
        return f"[{cited.index(key) + 1}]"

    attrs = data.attrs
    entry = measure_of(attrs)
    parts = [
        _data_compared(data, cite, of_features=entry.takes == "features"),
        _held_out(data, entry),
    ]
    if entry.takes != "features":
        parts.append(_transformed(data, entry, cite))
    parts += [_uncertainty(data, cite)]
    if attrs.get("layers_averaged"):
        parts.append(
            f"Of {counted(int(attrs['layers_averaged']), 'layer')}, which had several subjects, "
            "the mean of their matrices was taken."
        )
    if attrs["permuted"]:
        parts.append(
            "As a control, the brain's stimuli had been shuffled before anything was fitted."
        )
    parts.append(f"All computations were done with softrsa {attrs['softrsa_version']}.")
    references = [REFERENCES.get(key, key) for key in cited]
    return " ".join(part for part in parts if part), references


def _data_compared(data: xr.Dataset, cite: Callable[[str], str], *, of_features: bool) -> str:
    attrs = data.attrs
    layers, regions = (counted(data.sizes[name], name) for name in ("layer", "region"))
    people = sorted({int(n) for n in data["n_subjects"].values})
    subjects = (
        counted(people[0], "subject")
        if len(people) == 1
        else f"{people[0]} to {people[-1]} subjects"
    )
    entry = measure_of(attrs)
    measure = entry.words or entry.name.replace("_", " ")
    if of_features:
        return (
            f"We compared {layers} of a model with {regions} of a brain ({subjects}) by their "
            f"responses to the same {attrs['n_stimuli']} stimuli, with {measure}"
            f"{_source(entry, cite)}."
        )
    name = attrs["similarity"]
    known = SIMILARITY_TABLE[name].words if name in SIMILARITY_TABLE else f"similarities by {name}"
    similarity = attrs.get("similarity_words", known)
    return (
        f"We compared {layers} of a model with {regions} of a brain ({subjects}) by "
        f"representational similarity analysis {cite('rsa')}: similarity matrices of the same "
        f"{attrs['n_stimuli']} stimuli ({similarity}, where data were not given as matrices) were "
        f"compared by {measure}{_source(entry, cite)}."
    )


def _source(entry: Measure, cite: Callable[[str], str]) -> str:
    """Cite where a measure comes from, unless that is softrsa or cited already."""
    known = [key for key, text in REFERENCES.items() if entry.reference.split("doi:")[-1] in text]
    if entry.reference.startswith("softrsa") or known == ["rsa"]:
        return ""
    return f" {cite(known[0] if known else entry.reference)}"


def _held_out(data: xr.Dataset, entry: Measure) -> str:
    attrs = data.attrs
    text = (
        f"Scores are means over {attrs['n_folds']} folds of stimuli that nothing was fitted to or "
        "chosen on, from test stimuli only"
    )
    if attrs.get("all_stimuli_scored"):
        text = "Scores are of all stimuli, without folds, as nothing was fitted or chosen"
    if attrs.get("pairs_missing"):
        text += "; pairs of stimuli that are missing in a layer or a subject were left out of both"
    if attrs["subjects"] == "leave_one_out":
        text += "; each subject was scored under transforms fitted on the others"
    if "predictivity" in entry.name:
        text += "; the prediction was fitted on the training stimuli of each fold"
    if not entry.larger_is_more_similar:
        text += "; they are negative distances, so that larger is more similar"
    left_out = {str(one) for each in json.loads(attrs["stimuli_left_out"]).values() for one in each}
    if left_out:
        text += f"; {len(left_out)} stimuli that not all data had were left out before"
    return f"{text}."


def _transformed(data: xr.Dataset, entry: Measure, cite: Callable[[str], str]) -> str:
    """Say which transforms were compared, and how those that are learned were fitted."""
    names = data.attrs["transforms"].split(",")
    settings = json.loads(data.attrs["settings"])
    words = {row.name: row.words for row in TRANSFORMS.values()}
    words |= json.loads(data.attrs.get("words", "{}"))
    text = f"The matrices of both sides were compared under {_joined(words[n] for n in names)}"
    candidates = [name for name in names if name != "selected"]
    if not candidates:
        candidates = [str(name) for name in data["transform"].values if name != "selected"]
        text += f" (among {_joined(words[name] for name in candidates)})"
    text += "."
    if "geo_topological" in candidates:
        text += (
            f" Geo-topological transforms {cite('gt')} clamp ranked dissimilarities at two "
            "quantiles."
        )
    known = ",".join(row.name for row in TRANSFORMS.values() if row.is_learned)
    learned = [name for name in data.attrs.get("learned", known).split(",") if name in candidates]
    return text + _fitted(data, learned, settings, entry, cite) if learned else text


def _fitted(
    data: xr.Dataset,
    learned: list[str],
    settings: Mapping[str, Any],
    entry: Measure,
    cite: Callable[[str], str],
) -> str:
    """Say how learned transforms were fitted."""
    present = [name for name in learned if name in data["transform"].values]
    kinds = {str(gate) for gate in data["gate"].sel(transform=present).values.ravel()}
    reads = [text for gate, text in GATES.items() if gate in kinds]
    penalties = ", ".join(f"{penalty:g}" for penalty in settings["penalties"])
    inner = data.attrs.get("n_inner_folds", settings["inner_folds"])
    chosen = "Number of steps" if len(settings["penalties"]) == 1 else "Penalty, number of steps"
    text = (
        f" SoftStep transforms {cite('softstep')} ({settings['family'].upper()}) of similarities "
        f"scaled to [0, 1] ({settings['scaling']}) were fitted to training stimuli by gradient "
        f"descent (Adam, learning rate {settings['learning_rate']:g}, decaying), starting next "
        f"to the identity, with a penalty on the squared distance from it (weight {penalties})."
    )
    if not entry.differentiable:
        text += " Fits maximized the centered Pearson correlation, as the measure has no gradient."
    if reads:
        text += f" Gates of single stimuli read {_joined(reads, 'or')}."
    return (
        f"{text} {chosen} (0 to {settings['steps'][-1]}) and, where several suit the data, the "
        f"gate were chosen on {inner} inner folds of the training stimuli."
    )


def _uncertainty(data: xr.Dataset, cite: Callable[[str], str]) -> str:
    attrs = data.attrs
    parts = []
    if bool(data["ceiling_lower"].notnull().any()):
        parts.append(
            "Noise ceilings are those of the transformed test matrices: the similarity of each "
            "subject to the mean of all (upper) and of the others (lower bound) "
            f"{cite('ceiling')}."
        )
    if "resampled_score" in data and bool(data["resampled_score"].notnull().any()):
        parts.append(
            "Intervals are 95 %: Student's t (as many degrees of freedom as the fewest things "
            f"drawn, less one) times the standard error from {attrs['n_resamples']} bootstrap "
            "resamples of test stimuli and, with several subjects, of subjects "
            f"{cite('inference')}, fitted transforms held fixed; p values are one-sided, of "
            f"{attrs['n_resamples']} permutations of stimulus labels for these subjects, "
            "and not corrected for multiple comparisons."
        )
    return " ".join(parts)


def _joined(names: Iterable[str], word: str = "and") -> str:
    *most, last = names
    return f"{', '.join(most)} {word} {last}" if most else last
