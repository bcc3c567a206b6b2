"""What others call what softrsa calls stimulus, unit, value, region and the like."""

from __future__ import annotations

from collections.abc import Iterable

SYNONYMS = {
    "stimulus": ("stimulus", "stimuli", "stim", "image", "img", "condition", "cond", "picture"),
    "unit": ("unit", "voxel", "neuron", "channel", "electrode", "cell", "site"),
    "value": ("value", "beta", "response", "rate", "activation", "amplitude"),
    "region": ("region", "roi", "area"),
    "layer": ("layer", "module"),
    "subject": ("subject", "subj", "sub", "participant"),
    "session": ("session", "ses"),
    "dissimilarity": ("dissimilarity", "distance"),
    "similarity": ("similarity",),
}
ENDINGS = ("", "id", "ids", "name", "names", "label", "labels", "file", "files", "s")


def meaning(name: str) -> str | None:
    """Tell what a name means to softrsa, whatever its capitals, underscores and endings.

    Examples
    --------
    >>> meaning("image_id"), meaning("ROI"), meaning("imgNames"), meaning("reaction_time")
    ('stimulus', 'region', 'stimulus', None)
    """
    return _MEANINGS.get(_plain(name))


def renamings(names: Iterable[str]) -> dict[str, str]:
    """Find the names to use for what means the same; a name that is there already stays.

    Examples
    --------
    >>> renamings(["sub", "image", "image_id", "unit", "voxel", "beta"])
    {'sub': 'subject', 'image': 'stimulus', 'beta': 'value'}
    """
    names = list(names)
    found: dict[str, str] = {}
    taken = {*names}
    for exact in (True, False):  # `image` before `image_id`
        for name in names:
            known = meaning(name)
            plain = known is not None and _plain(name) in SYNONYMS[known]
            if known is not None and plain == exact and known not in taken:
                found[name] = known
                taken.add(known)
    return {name: found[name] for name in names if name in found}


def known_names(wanted: Iterable[str]) -> str:
    """List some names with what else they may be called.

    Examples
    --------
    >>> known_names(["region", "layer"])
    '`region` (or roi, area), `layer` (or module)'
    """
    others = {name: ", ".join(n for n in SYNONYMS[name] if n != name) for name in wanted}
    return ", ".join(f"`{name}`" + (f" (or {o})" if o else "") for name, o in others.items())


def _plain(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "").replace(" ", "")


_MEANINGS = {
    f"{synonym}{ending}": word
    for word, synonyms in SYNONYMS.items()
    for synonym in synonyms
    for ending in (ENDINGS if word not in ("value", "dissimilarity", "similarity") else ("", "s"))
}
