"""What the library says, in the language of the command line: its options instead of arguments."""

from __future__ import annotations

import ast
import re

from softrsa.cli.parser import IMAGES, OPTIONS, READING, STIMULI

OF_FILES = {row.name for row in (*READING, *IMAGES, STIMULI)}  # options that say how a file is read
OTHERS = {  # arguments that are called otherwise on the command line
    "transforms": "--transform", "n_resamples": "--resamples", "stimulus_groups": "--groups",
    "path": "--out", "progress": "--quiet", "labels": "--atlas-labels",
    "n_permutations": "--permutations", "n_flips": "--flips",
}  # fmt: skip
PHRASES = (  # what is said for both
    ("(`how` of join_stimuli, `join` of align, --join of the command)", "(--join intersection)"),
    ("(`pretrained=False`, --untrained)", "(--untrained)"),
    ('`softrsa.recordings.to_folds(trials, 2)` with `fold="fold"`', "--fold repeats:2"),
)
SENTENCE = re.compile(r"\s*On the command line:? (?:`[^`]*`|[^`.])*\.")
TWIN = re.compile(r"\s\((?:`--[^`]+`(?:,\s|\sor\s|\sand\s)?)+(?:\son the command line)?\)")
NAMED = re.compile(r"`(?P<name>[a-z_]+)(?:=(?P<value>[^`]+))?`")
BARE = re.compile(r"(?<=\s)(?P<name>[a-z_]+)=(?P<value>'[^' ]*')(?=[\s.,;])")  # without backticks


FIXED = {"[...]": "FILE", "None": "none"}


def in_options(message: str, command: str) -> str:
    """Say with a command's options what a message says with arguments of Python.

    Parameters
    ----------
    message : str
        Of an error or a warning, with arguments as in ``"`kind='rdm'`"``.
    command : str
        Such as ``"align"``; arguments that it has no option for are left as they are.

    Returns
    -------
    str
        The message.

    Examples
    --------
    >>> in_options('Say `kind="rdm"` (`--kind rdm`), or give `stimuli=[...]`.', "align")
    'Say --kind rdm, or give --stimuli FILE.'
    """
    for phrase, instead in PHRASES:
        message = message.replace(phrase, instead)
    known = {row.name.lstrip("-").replace("-", "_"): row.name for row in OPTIONS.get(command, ())}
    known = {name: option for name, option in known.items() if option.startswith("--")}
    known |= {name: option for name, option in OTHERS.items() if option in known.values()}

    def said(match: re.Match[str]) -> str:
        option, value = known.get(match["name"]), match["value"]
        if option is None or (value is None and option not in OF_FILES):
            return match[0]  # such as the coordinate `subject`
        return f"{option} {_plain(value)}" if value and value != "True" else option

    return BARE.sub(said, NAMED.sub(said, TWIN.sub("", SENTENCE.sub("", message))))


def _plain(value: str) -> str:
    """Write a value as on the command line."""
    if value.startswith("range("):
        return "numbered"
    if value in FIXED:
        return FIXED[value]
    try:
        found = ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return value
    parts = found if isinstance(found, (tuple, list)) else [found]
    text = ",".join(map(str, parts))
    return f'"{text}"' if " " in text else text
