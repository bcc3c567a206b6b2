"""What a caller adds to a file that does not say everything itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np

from softrsa.errors import DataError, StimulusError, unknown_name
from softrsa.io.labels import plain_labels
from softrsa.io.wording import listed

Kind = Literal["rdm", "rsm", "recording"]


@dataclass(frozen=True)
class Options:
    """Stimulus ids, the variable to read and what its numbers are, as far as given.

    `ids_in` is the variable that holds the stimulus ids; `beside` is not given, but found: rows of
    labels in the same file.
    """

    stimuli: np.ndarray | None = None
    variable: str | None = None
    kind: Kind | None = None
    ids_in: str | None = None
    beside: Mapping[str, np.ndarray] = field(default_factory=dict)

    def given(self) -> list[str]:
        """Name the options that were given."""
        return [
            n for n in ("stimuli", "variable", "kind", "ids_in") if getattr(self, n) is not None
        ]


def check_options(
    stimuli: Iterable[str] | Iterable[int] | str | None, variable: str | None, kind: Kind | None
) -> Options:
    """Check options before any file is opened."""
    if kind is not None and kind not in get_args(Kind):
        raise unknown_name("kind", kind, get_args(Kind))
    if variable is not None and not isinstance(variable, str):
        raise DataError(f"`variable` must be a name in the file, got {variable!r}.")
    if isinstance(stimuli, str):
        return Options(None, variable, kind, ids_in=stimuli)
    return Options(None if stimuli is None else _ids(stimuli), variable, kind)


def _ids(stimuli: Iterable[str] | Iterable[int]) -> np.ndarray:
    """Take ids that are all strings or all integers, and distinct."""
    if isinstance(stimuli, bytes):
        raise StimulusError(f"`stimuli` must be a row of ids, got the one string {stimuli!r}.")
    ids = plain_labels(np.asarray(list(stimuli)))
    if ids.ndim != 1 or ids.dtype.kind not in "iuU":
        raise StimulusError(
            f"`stimuli` must be a row of ids, all strings or all integers; got {ids.dtype} of "
            f"shape {ids.shape}."
        )
    values, counts = np.unique(ids, return_counts=True)
    if (counts > 1).any():
        raise StimulusError(f"`stimuli` repeats the ids {listed(values[counts > 1])}.")
    return ids
