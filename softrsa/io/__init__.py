"""Files on one side, checked labelled arrays on the other."""

from __future__ import annotations

from softrsa._files import OutputError, atomic_path, cache_folder
from softrsa.io.brainio import from_brainio, to_brainio
from softrsa.io.epochs import from_epochs, to_mne
from softrsa.io.fmri.bids import bids_table
from softrsa.io.fmri.glmsingle import from_glmsingle
from softrsa.io.fmri.nifti import Betas, first_level, from_gifti, from_nifti
from softrsa.io.fmri.surface import Mesh, read_mesh, to_gifti
from softrsa.io.fmri.writing import to_nifti
from softrsa.io.load import load, recognize
from softrsa.io.looking import FORMATS, Format, Look
from softrsa.io.netcdf import open_array
from softrsa.io.nwb import from_nwb
from softrsa.io.rsatoolbox import from_rsatoolbox, to_rsatoolbox
from softrsa.io.save import save
from softrsa.io.schema import ReadingWarning, check_rdms, check_recording, check_trials

__all__ = [
    "FORMATS",
    "Betas",
    "Format",
    "Look",
    "Mesh",
    "OutputError",
    "ReadingWarning",
    "atomic_path",
    "bids_table",
    "cache_folder",
    "check_rdms",
    "check_recording",
    "check_trials",
    "first_level",
    "from_brainio",
    "from_epochs",
    "from_gifti",
    "from_glmsingle",
    "from_nifti",
    "from_nwb",
    "from_rsatoolbox",
    "load",
    "open_array",
    "read_mesh",
    "recognize",
    "save",
    "to_brainio",
    "to_gifti",
    "to_mne",
    "to_nifti",
    "to_rsatoolbox",
]
