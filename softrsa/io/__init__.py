"""Files on one side, checked labelled arrays on the other."""

from __future__ import annotations

from softrsa._files import OutputError, atomic_path, cache_folder
from softrsa.io.brainio import from_brainio, to_brainio
from softrsa.io.epochs import from_epochs, to_mne
from softrsa.io.load import load, recognize
from softrsa.io.looking import FORMATS, Format, Look
from softrsa.io.netcdf import open_array
from softrsa.io.nwb import from_nwb
from softrsa.io.rsatoolbox import from_rsatoolbox, to_rsatoolbox
from softrsa.io.save import save
from softrsa.io.schema import ReadingWarning, check_rdms, check_recording, check_trials

__all__ = [
    "FORMATS",
    "Format",
    "Look",
    "OutputError",
    "ReadingWarning",
    "atomic_path",
    "cache_folder",
    "check_rdms",
    "check_recording",
    "check_trials",
    "from_brainio",
    "from_epochs",
    "from_nwb",
    "from_rsatoolbox",
    "load",
    "open_array",
    "recognize",
    "save",
    "to_brainio",
    "to_mne",
    "to_rsatoolbox",
]
