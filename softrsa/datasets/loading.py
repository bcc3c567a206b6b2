"""Data sets as labelled arrays: one loader for each way their files are laid out."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from softrsa import io
from softrsa.datasets.cards import Card, card
from softrsa.datasets.fetching import fetch
from softrsa.datasets.placed_loading import Files, load_majaj_hong, load_nsd, load_things
from softrsa.errors import DataError

__all__ = ["DataSet", "load"]


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
    images: dict[str | int, np.ndarray] | None = field(repr=False)
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
    if name in TABLES:
        return DataSet(name, about, None, None, {}, TABLES[name](files))
    if name in PLACED:
        return DataSet(name, about, None, None, PLACED[name](files))
    images, layers, regions = LOADERS.get(name, _load_netcdf)(files)
    return DataSet(name, about, images, layers, regions)


Parts = tuple[
    dict[str | int, np.ndarray] | None,  # images
    xr.DataArray | None,  # layers
    dict[str, xr.DataArray],  # regions
]


def _load_netcdf(files: Files) -> Parts:
    """Load activations and recordings that come as softrsa's own files."""
    recordings = io.load(files["recordings.nc"])
    names = dict.fromkeys(recordings["region"].values.tolist())
    regions = {str(name): recordings[:, recordings["region"].values == name] for name in names}
    return None, io.load(files["activations.nc"]), regions


def _load_digit_networks(files: Files) -> Parts:
    """Load the RDMs of the simulated networks' layers."""
    rdms = io.load(files["rdms.nc"])
    return None, None, {str(name): rdms.sel(region=name) for name in rdms["region"].values}


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
    return (
        images,
        _models_92(files),
        {
            "human IT": _stack(human_it, images, subject=people, session=[1, 2]),
            "monkey IT": _stack(monkey_it, images, subject=["monkeys"]),
        },
    )


def _load_algonauts92(files: Files) -> Parts:
    """Load the RDMs of 15 people, for the same images in the same order."""
    images = _images_92(files)
    return images, _models_92(files), _challenge_rdms(files["92_target_fmri.mat"], images)


def _load_macaque_v4(files: Files) -> Parts:
    """Load the mean rates of 89 neurons and the 1200 images they answered to."""
    from PIL import Image

    images: dict[str | int, np.ndarray] = {}
    with zipfile.ZipFile(files["images_201025.zip"]) as archive:
        for name in sorted(archive.namelist()):
            images[Path(name).stem] = np.asarray(Image.open(BytesIO(archive.read(name))))
    rates = np.load(files["responses_avg_201025.npy"]).T
    recording = xr.DataArray(
        rates,
        dims=("stimulus", "unit"),
        coords={"stimulus": list(images), "region": ("unit", ["V4"] * rates.shape[1])},
    )
    return images, None, {"V4": io.check_recording(recording, name="macaque V4 recording")}


def _load_emobank(files: Files) -> pd.DataFrame:
    """Load sentences with their valence, arousal and dominance."""
    return pd.read_csv(files["emobank.csv"], index_col="id", keep_default_na=False)


def _load_algonauts78(files: Files) -> Parts:
    """Load the RDMs of 15 people for 78 images."""
    from PIL import Image

    names = sorted(name for name in files if name.endswith(".jpg"))
    images: dict[str | int, np.ndarray] = {
        Path(name).stem: np.asarray(Image.open(files[name]).convert("RGB")) for name in names
    }
    return images, None, _challenge_rdms(files["78_T1_target_fmri.mat"], images)


PLACED: dict[str, Callable[[Files], dict[str, xr.DataArray]]] = {
    "majaj-hong2015": load_majaj_hong,
    "nsd": load_nsd,
    "things": load_things,
}
TABLES: dict[str, Callable[[Files], pd.DataFrame]] = {"emobank": _load_emobank}
SUPPLEMENT = "Kriegeskorte_Neuron2008_supplementalData.mat"
LOADERS: dict[str, Callable[[Files], Parts]] = {
    "digit-networks": _load_digit_networks,
    "kriegeskorte92": _load_kriegeskorte92,
    "algonauts2019-78": _load_algonauts78,
    "algonauts2019-92": _load_algonauts92,
    "macaque-v4": _load_macaque_v4,
}


def _challenge_rdms(path: Path, ids: Mapping[str | int, object]) -> dict[str, xr.DataArray]:
    """Read the Algonauts challenge's RDMs of 15 people in two regions."""
    import h5py

    with h5py.File(path) as file:
        # MATLAB stores the last axis first
        rdms = {r: np.array(file[f"{r}_RDMs"], dtype=np.float64).T for r in ("EVC", "IT")}
    people = [f"{i:02d}" for i in range(1, 16)]
    return {region: _stack(values, ids, subject=people) for region, values in rdms.items()}


def _images_92(files: Files) -> dict[str | int, np.ndarray]:
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
