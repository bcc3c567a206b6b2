"""Files on one side, checked labelled arrays on the other."""

from __future__ import annotations

from softrsa.io.brainio import from_brainio, to_brainio
from softrsa.io.files import OutputError, atomic_path, cache_folder
from softrsa.io.netcdf import open_array
from softrsa.io.reading import load, recognize
from softrsa.io.rsatoolbox import from_rsatoolbox
from softrsa.io.rsatoolbox_writing import to_rsatoolbox
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
    "from_brainio",
    "from_rsatoolbox",
    "load",
    "open_array",
    "recognize",
    "save",
    "to_brainio",
    "to_rsatoolbox",
]
