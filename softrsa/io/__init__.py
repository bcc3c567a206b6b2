"""Files on one side, checked labelled arrays on the other."""

from __future__ import annotations

from softrsa.io.files import OutputError, atomic_path, cache_folder
from softrsa.io.reading import load, open_array
from softrsa.io.schema import check_recording, check_trials
from softrsa.io.stacks import check_rdms
from softrsa.io.writing import save

__all__ = [
    "OutputError",
    "atomic_path",
    "cache_folder",
    "check_rdms",
    "check_recording",
    "check_trials",
    "load",
    "open_array",
    "save",
]
