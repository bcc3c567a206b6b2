"""What was done in an alignment, as a paragraph for a methods section with its references."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import xarray as xr

from softrsa._groups import groups_in, unit_of_generalization
from softrsa._wording import counted
from softrsa.measures import MEASURES, Measure
from softrsa.measures.registry import measure_of
from softrsa.rsm.similarity import SIMILARITY_TABLE
from softrsa.transforms import TRANSFORMS

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
    "reweighted": "Kaniuth P, Hebart MN (2022). Feature-reweighted representational similarity "
    "analysis: a method for improving the fit between computational models, brains, and behavior. "
    "NeuroImage 257:119294. doi:10.1016/j.neuroimage.2022.119294",
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
    elif mapped := [name for name in attrs.get("mapped", "").split(",") if name]:
        parts.append(_mapped(data, mapped, json.loads(attrs["settings"]), entry, cite).lstrip())
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
    held = json.loads(attrs.get("control", "[]"))
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
        f"compared by {measure}{_source(entry, cite)}.{_given(held, entry)}"
    )


def _given(held: list[str], entry: Measure) -> str:
    """Say that scores are partial correlations, and given what."""
    if not held:
        return ""
    ranked = "ranks of the " if entry.embed is not None and entry.embed.of == "ranks" else ""
    return (
        f" All scores and noise ceilings are partial correlations given {_joined(held)}: what the "
        f"{ranked}similarities of {'these' if len(held) > 1 else 'this'} explain by least squares "
        "was removed from both sides before they were compared, on the same stimuli. Transforms "
        "were fitted and chosen without a control, and the control itself was transformed by "
        "centering only, where both sides were."
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
    if "stimulus_groups" in attrs:
        text += f"; folds, and those that choices were made on, kept {_groups(attrs)} whole"
    if attrs["subjects"] == "leave_one_out":
        text += f"; each subject was scored under transforms fitted on {_others(attrs)}"
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
    mapped = [name for name in data.attrs.get("mapped", "").split(",") if name in candidates]
    if mapped:
        text += _mapped(data, mapped, settings, entry, cite)
    known = ",".join(row.name for row in TRANSFORMS.values() if row.is_learned)
    learned = [name for name in data.attrs.get("learned", known).split(",") if name in candidates]
    return text + _fitted(data, learned, settings, entry, cite) if learned else text


def _mapped(
    data: xr.Dataset,
    mapped: list[str],
    settings: Mapping[str, Any],
    entry: Measure,
    cite: Callable[[str], str],
) -> str:
    """Say how similarities were learned."""
    ways = {TRANSFORMS[name.split("+")[0]].map for name in mapped}
    text = (
        " Similarities were learned of the layers, never of the brain, on training stimuli only: "
        "the mean of each unit, the principal components and their scales are those of the "
        "training stimuli."
    )
    descended = []
    if "diagonal" in ways:
        descended.append(f"a non-negative weight for each component (compare {cite('reweighted')})")
    if "full" in ways:
        descended.append("any linear map of the components")
    if descended:
        inner = data.attrs.get("n_inner_folds", settings["inner_folds"])
        by = _compared_by(data, entry)
        text += (
            f" What was learned is {_joined(descended, 'or')}; its features were compared by {by}. "
            f"It was fitted by gradient descent (Adam, learning rate "
            f"{settings['map_rate']:g}), starting at the identity, to maximize "
            f"{_fit_measure(entry)}, with a penalty on the squared distance from the identity. "
            f"Number of components ({_numbers(settings['map_sizes'], 'or')}, or all where there "
            f"are fewer), weight of the penalty ({_numbers(settings['map_penalties'], 'or')}) and "
            f"number of steps (0 to {settings['map_steps'][-1]}) were chosen on {inner} inner "
            "folds of the training stimuli; where no map scored higher there than the plain "
            "matrix, the plain matrix was taken."
        )
    if "ridge" in ways:
        text += (
            " Encoding models predict the units of each subject by ridge regression on the "
            "principal components, with a strength for each unit by closed-form leave-one-out; "
            "the similarities are those of the predicted responses."
        )
    return text


def _compared_by(data: xr.Dataset, entry: Measure) -> str:
    """Say what compares the features of a learned map."""
    if entry.takes == "features":
        return "the measure itself"
    of_length_1 = data.attrs["similarity"] in ("correlation", "cosine")
    return "their cosine" if of_length_1 else "the same similarity"


def _fit_measure(entry: Measure) -> str:
    """Name what fits maximize under the measure in use."""
    if entry.differentiable:
        return "the same measure"
    return "the centered Pearson correlation, as the measure has no gradient"


def _gate_measure(settings: Mapping[str, Any], entry: Measure) -> str:
    """Name what fits of SoftSteps maximize; results of older versions use the measure itself."""
    name = settings.get("gate_measure")
    if name is None or name not in MEASURES:
        return _fit_measure(entry)
    if name == entry.name:
        return "the same measure"
    return MEASURES[name].words or name.replace("_", " ")


OF_SIDES = {
    "both": "on both sides",
    "model": "on the model's side only, the brain's matrices staying as they are,",
    "brain": "on the brain's side only, the model's matrices staying as they are,",
}


def _fitted(
    data: xr.Dataset,
    learned: list[str],
    settings: Mapping[str, Any],
    entry: Measure,
    cite: Callable[[str], str],
) -> str:
    """Say how SoftSteps were fitted."""
    present = [name for name in learned if name in data["transform"].values]
    kinds = {str(gate) for gate in data["gate"].sel(transform=present).values.ravel()}
    reads = [text for gate, text in GATES.items() if gate in kinds]
    inner = data.attrs.get("n_inner_folds", settings["inner_folds"])
    chosen = "Number of steps" if len(settings["penalties"]) == 1 else "Penalty, number of steps"
    text = (
        f" SoftStep transforms {cite('softstep')} ({settings['family'].upper()}) of similarities "
        f"scaled to [0, 1] ({settings['scaling']}) were fitted "
        f"{OF_SIDES[settings.get('sides', 'both')]} to training stimuli by gradient descent (Adam, "
        f"learning rate {settings['learning_rate']:g}, decaying), starting next to the identity, "
        "with a penalty on the squared distance from it (weight "
        f"{_numbers(settings['penalties'], 'or')}). They maximized "
        f"{_gate_measure(settings, entry)}."
    )
    if settings.get("keep_stimuli") and reads:
        text += (
            " Every row was given back the mean and the size that it had before a step of its own, "
            "so that neither a number nor a factor per stimulus could be learned."
        )
    if reads:
        text += f" Gates of single stimuli read {_joined(reads, 'or')}."
    return (
        f"{text} {chosen} (0 to {settings['steps'][-1]}) and, where several suit the data, the "
        f"gate were chosen by the same measure on {inner} inner folds of the training stimuli."
    )


def _untouched(data: xr.Dataset) -> str:
    """Say whose ceilings are those of the brain as it was recorded."""
    shown = data.attrs["transforms"].split(",")
    attrs = data.attrs
    mapped, learned = (
        [name for name in attrs.get(key, "").split(",") if name in shown]
        for key in ("mapped", "learned")
    )
    of_model = json.loads(attrs["settings"]).get("sides", "both") == "model"
    whose = []
    if mapped:
        alone = not of_model and any(name in mapped for name in learned)
        whose.append("learned similarities" + " without a SoftStep" * alone)
    if learned and of_model:
        whose.append("SoftSteps")
    if not whose:
        return ""
    said = _joined(whose)
    return (
        f" {said[0].upper()}{said[1:]} leave the brain's matrices as they are: their noise "
        "ceilings are those of the untouched brain."
    )


def _uncertainty(data: xr.Dataset, cite: Callable[[str], str]) -> str:
    attrs = data.attrs
    parts = []
    if bool(data["ceiling_lower"].notnull().any()):
        parts.append(
            "Noise ceilings are those of the transformed test matrices: the similarity of each "
            f"subject to the mean of all (upper) and of {_others(attrs)} (lower bound) "
            f"{cite('ceiling')}.{_untouched(data)}"
        )
    if "resampled_score" in data and bool(data["resampled_score"].notnull().any()):
        parts.append(
            "Intervals are 95 %: Student's t (as many degrees of freedom as the fewest things "
            f"drawn, less one) times the standard error from {attrs['n_resamples']} bootstrap "
            f"resamples of {_drawn(attrs, 'stimulus')} and, with several subjects, of "
            f"{_drawn(attrs, 'subject')} {cite('inference')}, fitted transforms held fixed; p "
            f"values are one-sided, of {attrs['n_resamples']} permutations of {_permuted(attrs)} "
            "for these subjects, and not corrected for multiple comparisons."
        )
    return " ".join([*parts, _generalizes(data)])


def _groups(attrs: Mapping[str, Any]) -> str:
    """Name the groups of stimuli, by their coordinate where they were read from one."""
    n = len(groups_in(attrs, "stimulus_groups", attrs["n_stimuli"]))
    source = attrs["stimulus_groups_from"]
    return f"{n} groups of stimuli{f' ({source})' if source else ''}"


def _others(attrs: Mapping[str, Any]) -> str:
    return "those of other groups" if "subject_groups" in attrs else "the others"


def _drawn(attrs: Mapping[str, Any], kind: str) -> str:
    """Say what was drawn: test stimuli or subjects, or groups of these."""
    plural = {"stimulus": "test stimuli", "subject": "subjects"}[kind]
    return f"whole groups of {plural}" if f"{kind}_groups" in attrs else plural


def _permuted(attrs: Mapping[str, Any]) -> str:
    if "stimulus_groups" in attrs:
        return "whole groups of stimuli, of one size and within folds,"
    return "stimulus labels"


def _generalizes(data: xr.Dataset) -> str:
    """State the unit of generalization: what intervals hold for beyond these data."""
    drawn = "resampled_score" in data and bool(data["resampled_score"].notnull().any())
    several = int(data["n_subjects"].max()) > 1
    over = ("both" if several else "stimuli") if drawn else "none"
    unit = unit_of_generalization(over, data.attrs)
    if not drawn:
        return f"Nothing was resampled: the scores say what holds for {unit}."
    return f"The unit of generalization: intervals say what would hold for {unit}."


def _joined(names: Iterable[str], word: str = "and") -> str:
    *most, last = names
    return f"{', '.join(most)} {word} {last}" if most else last


def _numbers(values: Iterable[float], word: str) -> str:
    return _joined((f"{value:g}" for value in values), word)
