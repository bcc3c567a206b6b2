"""Every error softrsa raises on purpose; each is also a builtin exception."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = [
    "DTypeError",
    "DataError",
    "DeviceError",
    "FileFormatError",
    "FileMissingError",
    "FitError",
    "MemoryLimitError",
    "NoSecondDerivativeError",
    "NotFittedError",
    "ProcessError",
    "ShapeError",
    "SoftRSAError",
    "StimulusError",
    "UnknownNameError",
    "unknown_name",
]


class SoftRSAError(Exception):
    """Base of all errors a user of softrsa may want to catch."""


class ShapeError(SoftRSAError, ValueError):
    """An array has the wrong number of dimensions or the wrong length."""


class DTypeError(SoftRSAError, TypeError):
    """An array has a number type the computation is not defined or not safe for."""


class DataError(SoftRSAError, ValueError):
    """Values are not usable: not finite, constant, empty, out of range."""


class StimulusError(SoftRSAError, ValueError):
    """Stimulus ids are missing, extra or repeated."""


class UnknownNameError(SoftRSAError, LookupError):
    """A name (layer, region, measure, ...) is not known; the message offers the nearest ones."""


class FileFormatError(SoftRSAError, ValueError):
    """A file exists but is not what was expected."""


class FileMissingError(SoftRSAError, FileNotFoundError):
    """A file does not exist and cannot be had."""


class FitError(SoftRSAError, RuntimeError):
    """A fit diverged or degenerated."""


class MemoryLimitError(SoftRSAError, MemoryError):
    """A run would take more memory than there is."""


class NotFittedError(SoftRSAError, ValueError, AttributeError):
    """A fitted attribute was asked for before `fit`."""


class NoSecondDerivativeError(SoftRSAError, NotImplementedError):
    """A gradient was to be differentiated again that cannot be."""


class ProcessError(SoftRSAError, RuntimeError):
    """Another process of the same fit has failed or does not answer."""


class DeviceError(SoftRSAError, RuntimeError):
    """The device asked for is not there."""


def unknown_name(kind: str, name: object, choices: Iterable[object]) -> UnknownNameError:
    """Build the error for an unknown name, with the nearest known ones first.

    Examples
    --------
    >>> str(unknown_name("region", "V5", ["V1", "V4", "IT"]))
    "Unknown region 'V5'. Did you mean 'V4' or 'V1'? Known: V1, V4, IT."
    >>> str(unknown_name("measure", "cka", ["linear_cka", "cca"]))
    "Unknown measure 'cka'. Did you mean 'linear_cka'? Known: linear_cka, cca."
    """
    known = [str(choice) for choice in choices]
    holding = [choice for choice in known if name and str(name).lower() in choice.lower()]
    close = holding or get_close_matches(str(name), known, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(map(repr, close[:5]))}?" if close else ""
    shown = ", ".join(known[:30]) + (f", ... ({len(known)} in all)" if len(known) > 30 else "")
    return UnknownNameError(f"Unknown {kind} {name!r}.{hint} Known: {shown or 'none'}.")
