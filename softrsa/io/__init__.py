"""Files on one side, checked labelled arrays on the other."""

from __future__ import annotations

from softrsa.io.files import OutputError, atomic_path, cache_folder
from softrsa.io.netcdf import load, save
from softrsa.io.schema import check_recording, check_trials
from softrsa.io.stacks import check_rdms

__all__ = [
    "OutputError",
    "atomic_path",
    "cache_folder",
    "check_rdms",
    "check_recording",
    "check_trials",
    "load",
    "save",
]
