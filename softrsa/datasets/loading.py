"""Data sets as labelled arrays: one loader for each way their files are laid out."""

from __future__ import annotations

import gzip
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from softrsa import io
from softrsa._wording import listed
from softrsa.datasets.cards import ADDED, Card, available, card, read_card
from softrsa.datasets.fetching import fetch
from softrsa.errors import DataError, FileFormatError, FileMissingError
from softrsa.io.schema import mean_by_stimulus, plain_labels

Regions = dict[str, xr.DataArray]
Images = dict[str | int, np.ndarray]
Files = Mapping[str, Path]


@dataclass(frozen=True)
class Parts:
    """What a data set has, as its loader gives it: each as in `DataSet`."""

    images: Images | None = None
    layers: xr.DataArray | None = None
    regions: Regions = field(default_factory=dict)
    table: pd.DataFrame | None = None


Loader = Callable[[Files], Parts]
LOADERS: dict[str, Loader] = {}  # of those whose files are laid out in a way of their own


def loads(name: str) -> Callable[[Loader], Loader]:
    """Enter a function as the loader of a data set."""

    def enter(loader: Loader) -> Loader:
        LOADERS[name] = loader
        return loader

    return enter


NSD_REGIONS = {"V1": (1, 2), "V2": (3, 4), "V3": (5, 6), "hV4": (7,)}
NSD_SCALE = 300.0  # betas are stored as integers
NIFTI_TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4"}


@loads("things")
def load_things(files: Files) -> Parts:
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
    return Parts(regions={"behavior": io.check_recording(array, name=f"embedding {table}")})


@loads("majaj-hong2015")
def load_majaj_hong(files: Files) -> Parts:
    """Load one recording per region of the assembly."""
    path = files["assy_dicarlo_MajajHong2015_public.nc"]
    whole = io.from_brainio(path)
    if "region" not in whole.coords:
        raise FileFormatError(f"The neuroids in {path} have no coordinate `region`.")
    names = dict.fromkeys(plain_labels(whole["region"].values).tolist())
    regions = {str(name): whole[:, whole["region"].values == name] for name in names}
    return Parts(regions=regions)


@loads("nsd")
def load_nsd(files: Files) -> Parts:
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
    regions = {
        region: io.check_recording(
            xr.concat([person[region].sel(stimulus=ids) for person in people.values()], "unit"),
            name=f"NSD recording of {region}",
        )
        for region in NSD_REGIONS
    }
    return Parts(regions=regions)


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


@dataclass(frozen=True)
class DataSet:
    """A data set in memory.

    Attributes
    ----------
    name : str
        As in `available()`.
    card : Card
        Source, licence, citation.
    images : dict of (str or int) to ndarray, shape (height, width, 3), or None
        The stimuli, uint8 RGB, by stimulus id.
    layers : DataArray or None
        Model activations (stimulus, unit) with a coordinate `layer`, or model RDMs
        (layer, anchor, neighbor).
    regions : dict of str to DataArray
        Recordings (stimulus, unit), or RDMs (subject[, session], anchor, neighbor), by region.
    table : DataFrame or None
        What else is known of each stimulus, such as sentences and their ratings.
    """

    name: str
    card: Card = field(repr=False)
    images: Images | None = field(repr=False)
    layers: xr.DataArray | None = field(repr=False)
    regions: dict[str, xr.DataArray] = field(repr=False)
    table: pd.DataFrame | None = field(default=None, repr=False)


def load(name: str, *, progress: bool = True) -> DataSet:
    """Load a data set, downloading its files where they are not here yet.

    Parameters
    ----------
    name : str
        One of `available()`.
    progress : bool
        Whether to show a progress bar while downloading.

    Returns
    -------
    DataSet
        Images, model layers and brain regions, all checked and labelled by stimulus.

    Raises
    ------
    UnknownNameError, FileMissingError, DataError
        As `fetch`, or if the data set is a regression task, which `softrsa.prediction.load_task`
        loads.

    Examples
    --------
    >>> load("kriegeskorte92").regions["human IT"].sizes
    Frozen({'subject': 4, 'session': 2, 'anchor': 92, 'neighbor': 92})
    """
    about = card(name)
    if about.published is not None:
        raise DataError(
            f"The data set {name!r} is a regression task: load it with "
            f'`softrsa.prediction.load_task("{name}")`.'
        )
    files = fetch(name, progress=progress)
    parts = LOADERS.get(name, _load_netcdf)(files)
    return DataSet(name, about, parts.images, parts.layers, parts.regions, parts.table)


def add(folder: str | Path, load: Loader | None = None) -> Card:
    """Add a data set of your own, so that `load` and all else here know it by its name.

    Parameters
    ----------
    folder : str or Path
        Holds the card, `dataset.toml`, and the files the card lists without a `url`.
    load : callable, optional
        From the paths of the files, by name, to `Parts`. By default `recordings.nc` has the regions
        and `activations.nc` the layers, as `softrsa.io.save` writes them.

    Returns
    -------
    Card
        As read from the folder; its name is that of the data set.

    Raises
    ------
    FileMissingError
        If the folder has no card.
    DataError
        If the card is incomplete, or there is a data set of that name already.

    Examples
    --------
    >>> add("nowhere")
    Traceback (most recent call last):
    softrsa.errors.FileMissingError: There is no file .../nowhere/dataset.toml.
    """
    folder = Path(folder).expanduser().absolute()
    about = read_card(folder)
    if about.name in available():
        raise DataError(f"There is a data set {about.name!r} already; choose another name.")
    ADDED[about.name] = folder
    if load is not None:
        LOADERS[about.name] = load
    return about


CORRELATION = {"dissimilarity": "correlation"}  # what a card's `preprocessing` says


def _load_netcdf(files: Files) -> Parts:
    """Load activations and recordings that come as softrsa's own files."""
    recordings = io.load(files["recordings.nc"])
    names = dict.fromkeys(recordings["region"].values.tolist())
    regions = {str(name): recordings[:, recordings["region"].values == name] for name in names}
    return Parts(layers=io.load(files["activations.nc"]), regions=regions)


@loads("digit-networks")
def _load_digit_networks(files: Files) -> Parts:
    """Load the RDMs of the simulated networks' layers."""
    rdms = io.load(files["rdms.nc"])
    rdms = rdms.assign_attrs(CORRELATION)
    return Parts(regions={str(name): rdms.sel(region=name) for name in rdms["region"].values})


@loads("kriegeskorte92")
def _load_kriegeskorte92(files: Files) -> Parts:
    """Load the RDMs of 4 people × 2 sessions and of monkeys, for 92 object images."""
    import torch

    from softrsa.pairs import expand

    images = _images_92(files)
    human = _read_mat(files["92_brainRDMs.mat"], "RDMs")
    people = [str(name).split(" | ")[1] for name in human["name"][:, 0]]
    human_it = np.stack([list(person) for person in human["RDM"]])
    monkey = _read_mat(files[SUPPLEMENT], "RDMs_mIT_hIT_fig1")["RDM"][0]
    monkey_it = expand(torch.from_numpy(monkey.astype(np.float64))).numpy()[None]
    return Parts(
        images,
        _models_92(files),
        {
            "human IT": _stack(human_it, images, subject=people, session=[1, 2]).assign_attrs(
                CORRELATION
            ),
            "monkey IT": _stack(monkey_it, images, subject=["monkeys"]).assign_attrs(CORRELATION),
        },
    )


@loads("algonauts2019-92")
def _load_algonauts92(files: Files) -> Parts:
    """Load the RDMs of 15 people, for the same images in the same order."""
    images = _images_92(files)
    return Parts(images, _models_92(files), _challenge_rdms(files["92_target_fmri.mat"], images))


@loads("macaque-v4")
def _load_macaque_v4(files: Files) -> Parts:
    """Load the mean rates of 89 neurons and the 1200 images they answered to."""
    from PIL import Image

    images: Images = {}
    with zipfile.ZipFile(files["images_201025.zip"]) as archive:
        for name in sorted(archive.namelist()):
            images[Path(name).stem] = np.asarray(Image.open(BytesIO(archive.read(name))))
    rates = np.load(files["responses_avg_201025.npy"]).T
    recording = xr.DataArray(
        rates,
        dims=("stimulus", "unit"),
        coords={"stimulus": list(images), "region": ("unit", ["V4"] * rates.shape[1])},
    )
    regions = {"V4": io.check_recording(recording, name="macaque V4 recording")}
    return Parts(images, regions=regions)


@loads("emobank")
def _load_emobank(files: Files) -> Parts:
    """Load sentences with their valence, arousal and dominance."""
    table = pd.read_csv(files["emobank.csv"], index_col="id", keep_default_na=False)
    return Parts(table=table)


@loads("algonauts2019-78")
def _load_algonauts78(files: Files) -> Parts:
    """Load the RDMs of 15 people for 78 images."""
    from PIL import Image

    names = sorted(name for name in files if name.endswith(".jpg"))
    images: Images = {
        Path(name).stem: np.asarray(Image.open(files[name]).convert("RGB")) for name in names
    }
    return Parts(images, regions=_challenge_rdms(files["78_T1_target_fmri.mat"], images))


SUPPLEMENT = "Kriegeskorte_Neuron2008_supplementalData.mat"


def _challenge_rdms(path: Path, ids: Mapping[str | int, object]) -> dict[str, xr.DataArray]:
    """Read the Algonauts challenge's RDMs of 15 people in two regions."""
    import h5py

    with h5py.File(path) as file:
        # MATLAB stores the last axis first
        rdms = {r: np.array(file[f"{r}_RDMs"], dtype=np.float64).T for r in ("EVC", "IT")}
    people = [f"{i:02d}" for i in range(1, 16)]
    return {
        region: _stack(values, ids, subject=people).assign_attrs(CORRELATION)
        for region, values in rdms.items()
    }


def _images_92(files: Files) -> Images:
    """Read the 92 images; ids are the place in the data set and the category."""
    stimuli = _read_mat(files[SUPPLEMENT], "stimuli_92objs")
    pairs = zip(stimuli["category"], stimuli["image"], strict=True)
    return {f"{i:02d}_{category}": image for i, (category, image) in enumerate(pairs, start=1)}


def _models_92(files: Files) -> xr.DataArray:
    """Read the eight model RDMs of the 92 images."""
    models = _read_mat(files["92_modelRDMs.mat"], "Models")
    values = np.stack([rdm.astype(np.float64) for rdm in models["RDM"]])
    return _stack(values, _images_92(files), layer=models["name"].tolist())


def _stack(values: np.ndarray, ids: Mapping[str | int, object], **leading: list) -> xr.DataArray:
    """Label and check a stack of RDMs."""
    coords = {**leading, "anchor": list(ids), "neighbor": list(ids)}
    rdms = xr.DataArray(values, dims=tuple(coords), coords=coords, attrs={"kind": "rdm"})
    return io.check_rdms(rdms)


def _read_mat(path: Path, variable: str) -> np.ndarray:
    """Read a variable of a MATLAB file (before v7.3), without its dimensions of length 1."""
    from scipy.io import loadmat

    return loadmat(path, squeeze_me=True, variable_names=[variable])[variable]
