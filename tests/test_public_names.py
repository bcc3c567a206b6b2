"""Nothing public vanishes: every name in `__all__`, with its parameters, is in `public_names.json`.

Names and optional parameters may be added, and a default value may not change unseen. After adding,
and where a change is wanted: `python tests/test_public_names.py --write`.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

FILE = Path(__file__).with_name("public_names.json")
MODULES = (
    "softrsa", "softrsa.activations", "softrsa.alignment", "softrsa.datasets", "softrsa.errors",
    "softrsa.inference", "softrsa.io", "softrsa.measures", "softrsa.pairs", "softrsa.prediction",
    "softrsa.recordings", "softrsa.reports", "softrsa.rsm", "softrsa.synthesis",
    "softrsa.transforms",
)  # fmt: skip
REMEDY = "If that is wanted: `python tests/test_public_names.py --write`."
Parameters = dict[str, list[str]]  # name: kind and, where there is one, default
Surface = dict[str, Parameters | str]


def surface() -> Surface:
    """Everything public: parameters of what can be called, and a word for what cannot."""
    names: Surface = {}
    for path in MODULES:
        module = importlib.import_module(path)
        for name in sorted(module.__all__):
            names |= described(f"{path}.{name}", getattr(module, name))
    return names


def described(path: str, thing: Any) -> Surface:
    """Describe one name and, of a class of softrsa's, its public members."""
    if not inspect.isclass(thing):
        callable_here = inspect.isroutine(thing)
        return {path: parameters(thing) if callable_here else kind_of(thing)}
    own = any({"__init__", "__new__"} & vars(base).keys() for base in bases(thing))
    names: Surface = {path: parameters(thing) if own else {}}
    for name, member in members(thing):
        if isinstance(member, staticmethod | classmethod):
            names[f"{path}.{name}"] = parameters(getattr(thing, name))
        elif inspect.isroutine(member):
            names[f"{path}.{name}"] = parameters(member)
        else:
            names[f"{path}.{name}"] = "attribute"
    return names


def members(cls: type) -> Iterator[tuple[str, Any]]:
    """Public methods, properties and fields that softrsa defines, inherited ones too."""
    found: dict[str, Any] = {}
    for base in reversed(bases(cls)):
        found |= dict.fromkeys(inspect.get_annotations(base)) | vars(base)
    yield from ((name, found[name]) for name in sorted(found) if not name.startswith("_"))


def bases(cls: type) -> list[type]:
    """A class and those above it that are softrsa's; others change without us."""
    return [base for base in cls.__mro__ if base.__module__.split(".")[0] == "softrsa"]


def kind_of(thing: Any) -> str:
    return "module" if inspect.ismodule(thing) else "value"


def parameters(thing: Any) -> Parameters:
    """Kinds and defaults of parameters; of what is written in C, or takes none, nothing."""
    try:
        signature = inspect.signature(thing)
    except (TypeError, ValueError):
        return {}
    return {
        one.name: [one.kind.description]
        + ([] if one.default is one.empty else [written(one.default)])
        for one in signature.parameters.values()
    }


def written(default: Any) -> str:
    """Write a default so that it is the same in every process and wherever its function lives."""
    if inspect.isroutine(default) or inspect.isclass(default):
        return default.__name__
    return re.sub(r" at 0x[0-9a-f]+", "", repr(default))


def changes(before: Surface, now: Surface) -> list[str]:
    """Say what a caller of before could no longer do, and what is new and not written down."""
    faults = [f"{path} has vanished." for path in before if path not in now]
    faults += [f"{path} is new and not in {FILE.name} yet." for path in now if path not in before]
    for path in before.keys() & now.keys():
        old, new = before[path], now[path]
        if isinstance(old, str) or isinstance(new, str):
            if old != new:
                faults.append(f"{path} was {word(old)} and is {word(new)}.")
            continue
        faults += [f"{path}: {text}" for text in parameter_changes(old, new)]
    return sorted(faults)


def word(described: Parameters | str) -> str:
    return described if isinstance(described, str) else "callable"


def parameter_changes(old: Parameters, new: Parameters) -> Iterator[str]:
    """Say which calls that were possible are not, or mean something else."""
    for name, found in old.items():
        if name not in new:
            yield f"parameter `{name}` has vanished."
        elif new[name] != found:
            yield f"parameter `{name}` was {', '.join(found)} and is {', '.join(new[name])}."
    for name in new.keys() - old.keys():
        kind, *default = new[name]
        if not default and not kind.startswith("variadic"):
            yield f"new parameter `{name}` has no default."
    ordered = [name for name in old if old[name][0].startswith("positional")]
    places = [name for name in new if new[name][0].startswith("positional")]
    if all(name in new for name in ordered) and places[: len(ordered)] != ordered:
        yield f"the order was {', '.join(ordered)} and is {', '.join(places)}."


def test_no_public_name_vanished_or_changed():
    before = json.loads(FILE.read_text(encoding="utf-8"))
    faults = changes(before, surface())
    assert not faults, "\n".join([*faults, REMEDY])


BEFORE = {"f": {"x": ["positional or keyword"], "n": ["keyword-only", "1"]}, "C.size": "attribute"}


@pytest.mark.parametrize(
    ("now", "message"),
    [
        ({"f": BEFORE["f"]}, "C.size has vanished."),
        ({**BEFORE, "g": {}}, "g is new and not in public_names.json yet."),
        ({**BEFORE, "C.size": {}}, "C.size was attribute and is callable."),
        ({**BEFORE, "f": {"n": ["keyword-only", "1"]}}, "f: parameter `x` has vanished."),
        (
            {**BEFORE, "f": {**BEFORE["f"], "n": ["keyword-only", "2"]}},
            "f: parameter `n` was keyword-only, 1 and is keyword-only, 2.",
        ),
        (
            {**BEFORE, "f": {**BEFORE["f"], "y": ["keyword-only"]}},
            "f: new parameter `y` has no default.",
        ),
        (
            {**BEFORE, "f": {"a": ["positional or keyword", "0"], **BEFORE["f"]}},
            "f: the order was x and is a, x.",
        ),
    ],
)
def test_what_breaks_a_caller_is_named(now, message):
    assert changes(BEFORE, now) == [message]


def test_new_options_break_nobody():
    now = {**BEFORE, "f": {**BEFORE["f"], "m": ["keyword-only", "None"]}}
    assert changes(BEFORE, now) == []


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit(__doc__)
    lines = [f"{json.dumps(k)}: {json.dumps(v)}" for k, v in surface().items()]
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
