"""The formats `load` knows: a row for each, in the order in which they are tried."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import xarray as xr

from softrsa.io.archives import read_hdf5, read_npy, read_npz, read_torch
from softrsa.io.brainio import holds_assembly, read_assembly
from softrsa.io.looking import Look
from softrsa.io.matlab import read_matlab, read_matlab73
from softrsa.io.net2brain import (
    holds_files,
    holds_layer,
    holds_rdm,
    read_files,
    read_layer,
    read_rdm,
)
from softrsa.io.netcdf import holds_netcdf, read_netcdf
from softrsa.io.options import Options
from softrsa.io.pickles import read_pickle
from softrsa.io.rsatoolbox_files import read_rsatoolbox
from softrsa.io.tables import read_table
from softrsa.io.thingsvision import holds_features, read_folder

ALL = frozenset({"stimuli", "variable", "kind"})
NAMED = ALL | {"ids_in"}  # whose arrays have names, so that one may hold the ids


@dataclass(frozen=True)
class Format:
    """How one format is recognized and read.

    Attributes
    ----------
    name, title : str
        What it is called in one word, and in a sentence.
    recognizes : callable
        Tells from a first look whether a file is in this format.
    read : callable
        Reads it; what a library raises is worded by the caller.
    takes : frozenset of str
        The options of `load` that mean something for it.
    """

    name: str
    title: str
    recognizes: Callable[[Look], bool]
    read: Callable[[Path, Options], xr.DataArray]
    takes: frozenset[str] = frozenset()


def _in(seen: Look, container: str) -> bool:
    return seen.container == container


def _hdf5(seen: Look, *, netcdf: bool) -> bool:
    return seen.container == "hdf5" and ("netcdf" in seen.attributes) == netcdf


FORMATS = (
    Format(
        "rsatoolbox",
        "a file of rsatoolbox (HDF5)",
        lambda seen: seen.container == "hdf5" and "rsatoolbox_version" in seen.attributes,
        read_rsatoolbox,
        frozenset({"variable"}),
    ),
    Format(
        "hdf5",
        "plain arrays in HDF5",
        lambda seen: _hdf5(seen, netcdf=False) and bool(seen.names),
        read_hdf5,
        NAMED,
    ),
    Format(
        "brainio",
        "a BrainIO assembly (netCDF)",
        holds_assembly,
        read_assembly,
        frozenset({"variable"}),
    ),
    Format("netcdf", "netCDF or zarr", holds_netcdf, read_netcdf, frozenset({"variable", "kind"})),
    Format("matlab", "a MATLAB file", lambda seen: _in(seen, "matlab5"), read_matlab, NAMED),
    Format(
        "matlab73", "a MATLAB 7.3 file", lambda seen: _in(seen, "matlab73"), read_matlab73, NAMED
    ),
    Format("net2brain-rdm", "an RDM of Net2Brain", holds_rdm, read_rdm, frozenset({"stimuli"})),
    Format("net2brain-layer", "a layer's features of Net2Brain", holds_layer, read_layer),
    Format(
        "net2brain",
        "a folder of Net2Brain",
        holds_files,
        read_files,
        frozenset({"stimuli", "variable"}),
    ),
    Format(
        "thingsvision",
        "a folder of thingsvision",
        holds_features,
        read_folder,
        frozenset({"stimuli", "variable"}),
    ),
    Format("npz", "an archive of NumPy (.npz)", lambda seen: _in(seen, "npz"), read_npz, NAMED),
    Format(
        "npy",
        "an array of NumPy (.npy)",
        lambda seen: _in(seen, "npy"),
        read_npy,
        frozenset({"stimuli", "kind"}),
    ),
    Format("torch", "tensors of torch (.pt)", lambda seen: _in(seen, "torch"), read_torch, NAMED),
    Format("pickle", "a pickle", lambda seen: _in(seen, "pickle"), read_pickle, ALL),
    Format(
        "table",
        "a table of text (CSV)",  # long or wide; its columns by any of `softrsa.io.synonyms`
        lambda seen: _in(seen, "text"),
        read_table,
        frozenset({"variable", "kind"}),
    ),
)
