"""Data sets that are put in place by hand: one loader for each layout."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import xarray as xr

from softrsa import io
from softrsa.errors import DataError, FileFormatError, FileMissingError
from softrsa.io.labels import plain_labels
from softrsa.io.trials import mean_by_stimulus
from softrsa.io.wording import listed

Regions = dict[str, xr.DataArray]
Files = Mapping[str, Path]

NSD_REGIONS = {"V1": (1, 2), "V2": (3, 4), "V3": (5, 6), "hV4": (7,)}
NSD_SCALE = 300.0  # betas are stored as integers
NIFTI_TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4"}


def load_things(files: Files) -> Regions:
    """Load the embedding of the concepts."""
    names, tables = files["unique_id.txt"], files["spose_embedding_*d_sorted.txt"]
    table = sorted(tables.parent.glob(tables.name))[-1]
    ids = names.read_text(encoding="utf-8").split()
    try:
        values = np.loadtxt(table, ndmin=2)
    except ValueError as error:
        raise FileFormatError(f"{table} is no table of numbers: {error}.") from error
    if len(ids) != len(values):
        raise DataError(
            f"{table} has {len(values)} rows, {names} {len(ids)} names; both must be of the same "
            "concepts."
        )
    units = {"region": ("unit", ["behavior"] * values.shape[1])}
    array = xr.DataArray(values, dims=("stimulus", "unit"), coords={"stimulus": ids, **units})
    return {"behavior": io.check_recording(array, name=f"embedding {table}")}


def load_majaj_hong(files: Files) -> Regions:
    """Load one recording per region of the assembly."""
    path = files["assy_dicarlo_MajajHong2015_public.nc"]
    whole = io.from_brainio(path)
    if "region" not in whole.coords:
        raise FileFormatError(f"The neuroids in {path} have no coordinate `region`.")
    names = dict.fromkeys(plain_labels(whole["region"].values).tolist())
    return {str(name): whole[:, whole["region"].values == name] for name in names}


def load_nsd(files: Files) -> Regions:
    """Load the betas of all people and sessions that are there, in four regions."""
    from scipy.io import loadmat

    design = loadmat(files["nsddata/experiments/nsd/nsd_expdesign.mat"])
    order = np.asarray(design["masterordering"]).ravel().astype(np.int64) - 1
    images = np.asarray(design["subjectim"]).astype(np.int64)
    root = files["nsddata/experiments/nsd/nsd_expdesign.mat"].parents[3]
    people: dict[str, dict[str, xr.DataArray]] = {}
    for folder in sorted((root / "nsddata_betas" / "ppdata").glob("subj*")):
        seen = images[int(folder.name[4:]) - 1]
        people[folder.name] = _nsd_person(root, folder.name, seen, order)
    shared = set.intersection(*(set(r["V1"]["stimulus"].values.tolist()) for r in people.values()))
    if len(shared) < 2:
        raise DataError(
            f"The sessions of {listed(people)} in {root} have {len(shared)} images in common; add "
            "sessions, or keep those of one person."
        )
    ids = sorted(shared)
    return {
        region: io.check_recording(
            xr.concat([person[region].sel(stimulus=ids) for person in people.values()], "unit"),
            name=f"NSD recording of {region}",
        )
        for region in NSD_REGIONS
    }


def _nsd_person(root: Path, person: str, seen: np.ndarray, order: np.ndarray) -> Regions:
    """Read one person's sessions, voxel by region, and average trials by image."""
    roi_path = root / "nsddata" / "ppdata" / person / "func1pt8mm" / "roi"
    numbers = read_nifti(roi_path / "prf-visualrois.nii.gz")
    inside = np.isin(numbers, [n for each in NSD_REGIONS.values() for n in each])
    rows, stimuli = [], []
    for session, betas in _nsd_sessions(root, person, inside):
        start = 750 * (session - 1)  # trials of a session
        trials = order[start : start + len(betas)]
        rows.append(betas)
        stimuli.append(seen[trials])
    regions = {}
    for region, members in NSD_REGIONS.items():
        here = np.isin(numbers[inside], members)
        trials = xr.DataArray(
            np.concatenate([betas[:, here] for betas in rows]),
            dims=("trial", "unit"),
            coords={
                "stimulus": ("trial", np.concatenate(stimuli)),
                "region": ("unit", [region] * int(here.sum())),
                "subject": ("unit", [person] * int(here.sum())),
            },
        )
        name = f"NSD recording of {person} in {region}"
        regions[region] = mean_by_stimulus(io.check_trials(trials, name=name))
    return regions


def _nsd_sessions(root: Path, person: str, inside: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Read the voxels of interest of each session, a trial at a time."""
    import h5py

    folder = root / "nsddata_betas" / "ppdata" / person / "func1pt8mm"
    paths = sorted((folder / "betas_fithrf_GLMdenoise_RR").glob("betas_session*.hdf5"))
    if not paths:
        raise FileMissingError(f"There are no betas_session*.hdf5 of {person} in {folder}.")
    for path in paths:
        with h5py.File(path) as file:
            betas = file["betas"]
            if not isinstance(betas, h5py.Dataset) or betas.shape[:0:-1] != inside.shape:
                raise FileFormatError(
                    f"{path} must hold a dataset betas (trial, z, y, x) of volumes {inside.shape} "
                    "(x, y, z), as the regions have."
                )
            trials = [betas[i].T[inside] for i in range(len(betas))]
        yield int(path.stem[-2:]), np.stack(trials).astype(np.float32) / np.float32(NSD_SCALE)


def read_nifti(path: Path) -> np.ndarray:
    """Read the volume of a NIfTI-1 file, compressed or not, without its scaling."""
    if not path.is_file():
        raise FileMissingError(f"There is no file {path}.")
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
    except (OSError, EOFError) as error:
        raise FileFormatError(f"{path} cannot be unpacked: {error}.") from error
    order = {348: "<", 0x5C010000: ">"}.get(struct.unpack("<i", content[:4].ljust(4))[0])
    if order is None or content[344:347] != b"n+1":
        raise FileFormatError(f"{path} is no NIfTI-1 file (.nii or .nii.gz).")
    dims = struct.unpack(f"{order}8h", content[40:56])
    kind = struct.unpack(f"{order}h", content[70:72])[0]
    start = int(struct.unpack(f"{order}f", content[108:112])[0])
    shape = dims[1 : 1 + dims[0]]
    if kind not in NIFTI_TYPES:
        raise FileFormatError(f"{path} holds values of NIfTI type {kind}, which cannot be read.")
    dtype = np.dtype(order + NIFTI_TYPES[kind])
    size = int(np.prod(shape))
    if len(content) < start + size * dtype.itemsize:
        raise FileFormatError(f"{path} was cut short: it must hold {size} values.")
    values = np.frombuffer(content, dtype, size, start)
    return values.reshape(shape, order="F")
