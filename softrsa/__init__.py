"""softrsa: representational similarity analysis with learnable geo-topological transforms."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from softrsa import datasets
    from softrsa.activations import extract_activations
    from softrsa.alignment import Aligner, align
    from softrsa.io import load
    from softrsa.transforms import SoftStep

__version__ = "0.1.0"

__all__ = ["Aligner", "SoftStep", "align", "datasets", "extract_activations", "load"]

_ROOMS = {
    "Aligner": "alignment",
    "SoftStep": "transforms",
    "align": "alignment",
    "extract_activations": "activations",
    "load": "io",
}


def __getattr__(name: str) -> Any:
    """Import a public name, or a room of the library, when it is first used."""
    if name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        room = import_module(f"{__name__}.{_ROOMS.get(name, name)}")
    except ModuleNotFoundError as error:
        if error.name != f"{__name__}.{name}":
            raise
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    if name in _ROOMS:
        globals()[name] = getattr(room, name)
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
