"""Layouts of files tried: read right, refused with a remedy that works, said aloud, or wrong.

    python benchmarks/studies/reading.py [--quick] [--seed N]

Random RDMs and recordings are written in every order of axes, with one half, with rounding, without
a diagonal, in several number types and formats, and read back by `softrsa.load`. What is refused is
read again with the option that the message names. Files of other libraries, written by these, are
read and compared with what went in. Ends with exit code 1 if a layout is read wrong
without a word, or if the remedy does not help.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import permutations
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import scipy.io
import torch
import xarray as xr

import softrsa
from softrsa import io
from softrsa.errors import SoftRSAError

Written = tuple[Path, dict, np.ndarray]  # a file, options of `load`, and what must be read
WriteOne = Callable[[np.random.Generator, Path], Written]
SIZES = {"time": 3, "subject": 4, "anchor": 6, "neighbor": 6, "stimulus": 7, "unit": 5, "trial": 2}
IDS = [f"im{i}" for i in range(7)]
OUTCOMES = ("right", "said aloud", "refused, remedy works", "refused, stuck", "WRONG")


@dataclass
class Layout:
    """An array as it is written, what it is, and what may be said about it when it is read."""

    kind: str
    values: np.ndarray
    dims: tuple[str, ...]
    truth: xr.DataArray
    tolerance: float = 0.0
    text: str = ""  # written as it is
    options: dict = field(default_factory=dict)


def rdms(rng: np.random.Generator, leading: tuple[str, ...]) -> xr.DataArray:
    """Draw symmetric matrices with a diagonal of zeros."""
    n, shape = SIZES["anchor"], [SIZES[dim] for dim in leading]
    half = np.triu(rng.random((*shape, n, n)) + 0.1, 1)
    return xr.DataArray(half + half.swapaxes(-1, -2), dims=(*leading, "anchor", "neighbor"))


def of_matrices(rng: np.random.Generator) -> Iterator[Layout]:
    """List RDMs in every order of axes, of which some have one half, rounding or no diagonal."""
    for leading in ((), ("subject",), ("time",), ("time", "subject")):
        truth = rdms(rng, leading)
        values, n = truth.values, SIZES["anchor"]
        below = np.tril(np.ones((n, n), bool))
        variants = {
            "whole": (values, 0.0),
            "lower half, zeros above": (np.where(below, values, 0), 0.0),
            "upper half, NaN below": (np.where(below.T, values, np.nan), 0.0),
            "rounded": (values + 3e-8 * rng.normal(size=values.shape), 1e-6),
            "diagonal NaN": (np.where(np.eye(n) == 1, np.nan, values), 0.0),
            "float32": (values.astype(np.float32), 1e-6),
        }
        for name, (written, tolerance) in variants.items():
            for order in permutations(range(truth.ndim)):
                dims = tuple(truth.dims[i] for i in order)
                yield Layout(name, written.transpose(order), dims, truth, tolerance)
    apart = rng.random((SIZES["anchor"],) * 2)
    np.fill_diagonal(apart, 0)
    mean = xr.DataArray((apart + apart.T) / 2, dims=("anchor", "neighbor"))
    yield Layout("halves differ", apart, mean.dims, mean, 1e-12, options={"halves": "mean"})


def of_recordings(rng: np.random.Generator) -> Iterator[Layout]:
    """List recordings in every order of axes and several number types."""
    for dims in (("stimulus", "unit"), ("stimulus", "unit", "trial"), ("stimulus", "unit", "time")):
        for kind in ("float64", "float32", "int16", ">i4", "uint8"):
            values = rng.integers(0, 200, [SIZES[dim] for dim in dims]).astype(kind)
            truth = xr.DataArray(values.astype(float), dims=dims)
            for order in permutations(range(len(dims))):
                turned = tuple(dims[i] for i in order)
                yield Layout(f"recording, {kind}", values.transpose(order), turned, truth)


def of_texts(rng: np.random.Generator) -> Iterator[Layout]:
    """List squares as texts, with names on both sides, one or none, by several separators."""
    truth = rdms(rng, ())
    n, ids = SIZES["anchor"], IDS[: SIZES["anchor"]]
    numbers = [str(i) for i in range(n)]
    sides = {
        "names on both sides": (ids, ids), "names above": (None, ids), "names beside": (ids, None),
        "numbers beside": (numbers, ids),
        "V1, V2, ... above": (ids, [f"V{i + 1}" for i in range(n)]),
        "no names": (None, None),
    }  # fmt: skip
    below = np.tril(np.ones((n, n), bool))
    for name, (rows, columns) in sides.items():
        for separator in (",", "\t", ";", " "):
            for half in ("whole", "lower, zeros", "lower, blank", "lower, NA"):
                if separator == " " and half == "lower, blank":
                    continue
                gap = {"lower, zeros": "0", "lower, blank": "", "lower, NA": "NA"}.get(half)
                cells = [
                    [repr(v) if gap is None or below[i, j] else gap for j, v in enumerate(row)]
                    for i, row in enumerate(truth.values.tolist())
                ]
                head = [] if columns is None else [([] if rows is None else ["id"]) + columns]
                body = [([] if rows is None else [rows[i]]) + row for i, row in enumerate(cells)]
                text = "\n".join(separator.join(row) for row in head + body)
                yield Layout(f"text, {name}, {half}", truth.values, truth.dims, truth, text=text)


def write(layout: Layout, suffix: str, folder: Path) -> Path:
    """Write a layout in one format."""
    path, values = folder / f"a{suffix}", np.ascontiguousarray(layout.values)
    if layout.text:
        path.write_text(layout.text)
    elif suffix == ".npy":
        np.save(path, layout.values)
    elif suffix == ".npz":
        np.savez(path, x=layout.values)
    elif suffix == ".mat":
        scipy.io.savemat(path, {"x": values.astype(values.dtype.newbyteorder("="))})
    elif suffix == ".h5":
        with h5py.File(path, "w") as file:
            file["x"] = values
    else:
        torch.save(torch.from_numpy(values.astype(values.dtype.newbyteorder("="))), path)
    return path


def is_right(found: xr.DataArray, layout: Layout, *, any_leading: bool) -> bool:
    """Compare values by the meaning of axes; of a guess said aloud, whatever the leading axis."""
    truth = layout.truth
    if "trial" in truth.dims:
        truth = truth.stack(row=("stimulus", "trial")).transpose("row", "unit")
        return found.dims == ("trial", "unit") and np.array_equal(found.values, truth.values)
    if any_leading and found.ndim == truth.ndim == 3:
        found = found.rename({found.dims[0]: truth.dims[0]})
    if {*found.dims} != {*truth.dims} or found.sizes != truth.sizes:
        return False
    values = found.transpose(*truth.dims).values
    return np.allclose(values, truth.values, rtol=0, atol=layout.tolerance)


def try_one(layout: Layout, path: Path) -> str:
    """Read a layout, and once more with what a refusal asks for."""
    n = layout.truth.sizes.get("anchor", SIZES["stimulus"])
    options = {} if layout.text and "no names" not in layout.kind else {"stimuli": IDS[:n]}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", io.ReadingWarning)
        try:
            found = softrsa.load(path, **options)
        except SoftRSAError as error:
            return _try_remedy(layout, path, options, str(error))
    said = any("taken for subjects" in str(one.message) for one in caught)
    if is_right(found, layout, any_leading=said):
        return "said aloud" if said else "right"
    return "WRONG"


def _try_remedy(layout: Layout, path: Path, options: dict, message: str) -> str:
    remedies = {"dims": layout.dims, "halves": layout.options.get("halves"), "kind": "rdm"}
    named = [name for name in remedies if re.search(rf"`{name}=", message)]
    for name in named:
        if remedies[name] is None or (name == "kind" and "anchor" not in layout.truth.dims):
            continue
        more = {**options, name: remedies[name]}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", io.ReadingWarning)
            try:
                if is_right(softrsa.load(path, **more), layout, any_leading=False):
                    return "refused, remedy works"
            except SoftRSAError:
                continue
    if not named and "Its columns fit" in message and layout.dims[0] == "unit":
        return "refused, remedy works"  # turn it over
    return "refused, stuck"


def own_formats(rng: np.random.Generator, folder: Path, trials: int) -> dict[str, int]:
    """Save random labelled arrays in every format softrsa writes, and read them back."""
    counts = dict.fromkeys(OUTCOMES, 0)
    for _ in range(trials):
        leading = [("subject",), ("region", "subject"), ()][rng.integers(3)]
        n = int(rng.integers(3, 8))
        ids = [f"s{i}" for i in rng.permutation(n)] if rng.random() < 0.5 else rng.permutation(n)
        if rng.random() < 0.5:
            sizes = rng.integers(1, 4, len(leading))
            half = np.triu(rng.random((*sizes, n, n)), 1)
            coords = {dim: rng.permutation(k) for dim, k in zip(leading, sizes, strict=True)}
            array = xr.DataArray(
                half + half.swapaxes(-1, -2), dims=(*leading, "anchor", "neighbor"),
                coords={**coords, "anchor": ids, "neighbor": ids}, attrs={"kind": "rdm"},
            )  # fmt: skip
        else:
            array = xr.DataArray(
                rng.normal(size=(n, 4)), dims=("stimulus", "unit"),
                coords={"stimulus": ids, "layer": ("unit", rng.choice(["a", "b"], 4))},
            )  # fmt: skip
        for suffix in (".nc", ".npz", ".csv"):
            io.save(array, folder / f"own{suffix}")
            found = softrsa.load(folder / f"own{suffix}").drop_attrs()
            same = found.identical(array.drop_attrs())
            counts["right" if same else "WRONG"] += 1
    return counts


def _nifti(rng: np.random.Generator, folder: Path) -> Written:
    """Betas of a random mask, by nibabel."""
    import nibabel

    shape = tuple(rng.integers(2, 5, 3))
    values = rng.normal(size=(*shape, 7)).astype(rng.choice(["float32", "float64"]))
    values[rng.random(shape) < 0.2] = rng.choice([np.nan, 0.0])
    ending = rng.choice([".nii", ".nii.gz", ".mgz"])
    kind = nibabel.MGHImage if ending == ".mgz" else nibabel.Nifti1Image
    values = values.astype("float32") if ending == ".mgz" else values
    path = folder / f"betas{ending}"
    nibabel.save(kind(values, np.diag([2.0, 2, 2, 1])), path)
    rows = values.reshape(-1, 7).T
    return path, {"stimuli": IDS}, rows[:, np.isfinite(rows).all(0) & (np.ptp(rows, axis=0) != 0)]


def _gifti(rng: np.random.Generator, folder: Path) -> Written:
    """Numbers of vertices, by nibabel."""
    import nibabel

    rows = rng.normal(size=(7, int(rng.integers(4, 9)))).astype(np.float32)
    arrays = [nibabel.gifti.GiftiDataArray(row, "NIFTI_INTENT_NONE", "NIFTI_TYPE_FLOAT32")
              for row in rows]  # fmt: skip
    path = folder / f"{rng.choice(['lh', 'rh'])}.betas.func.gii"
    nibabel.save(nibabel.gifti.GiftiImage(darrays=arrays), path)
    return path, {"stimuli": IDS}, rows


def _glmsingle(rng: np.random.Generator, folder: Path) -> Written:
    """Betas (voxel, trial) in HDF5, as GLMsingle calls them."""
    values = rng.normal(size=(int(rng.integers(3, 9)), 7))
    path = folder / "betas.hdf5"
    with h5py.File(path, "w") as file:
        file["betasmd"] = values
    return path, {"stimuli": IDS}, values.T


def _epochs(rng: np.random.Generator, folder: Path) -> Written:
    """Trials of random events, by MNE-Python."""
    import mne

    n, channels, times = 9, int(rng.integers(2, 6)), int(rng.integers(3, 9))
    values = rng.normal(size=(n, channels, times))
    names = {"face": 1, "house": 2}
    events = np.column_stack([np.arange(n) * 100, np.zeros(n, int), rng.integers(1, 3, n)])
    events[:2, 2] = 1, 2
    info = mne.create_info([f"c{i}" for i in range(channels)], 100.0, "eeg")
    epochs = mne.EpochsArray(values, info, events, -0.1, names, verbose="error")
    path = folder / "s-epo.fif"
    epochs.save(path, fmt="double", overwrite=True, verbose="error")
    return path, {}, values


def _nwb(rng: np.random.Generator, folder: Path) -> Written:
    """Spikes of trials of one length, by pynwb; counts by hand."""
    from datetime import UTC, datetime

    import pynwb

    file = pynwb.NWBFile("study", "id", datetime(2026, 1, 1, tzinfo=UTC))
    starts = np.arange(8) * 1.5
    file.add_trial_column("stimulus", "what was shown")
    for i, start in enumerate(starts):
        file.add_trial(start_time=start, stop_time=start + 1, stimulus=IDS[i % 4])
    trains = [np.sort(rng.uniform(0, 13, int(rng.integers(50, 200)))) for _ in range(3)]
    for train in trains:
        file.add_unit(spike_times=train)
    path = folder / "session.nwb"
    with pynwb.NWBHDF5IO(path, "w") as stream:
        stream.write(file)
    counts = [[((t >= s) & (t < s + 1)).sum() for t in trains] for s in starts]
    return path, {}, np.array(counts, float)


OTHERS = {  # formats of other libraries, written by these
    "NIfTI, MGH": _nifti, "GIFTI": _gifti, "GLMsingle": _glmsingle, "epochs of MNE": _epochs,
    "NWB": _nwb,
}  # fmt: skip


def of_others(write_one: WriteOne, rng: np.random.Generator, folder: Path) -> str:
    """Read a random file of another library, and compare values with what went in."""
    path, options, wanted = write_one(rng, folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = softrsa.load(path, **options)
    path.unlink()
    same = found.shape == wanted.shape and np.array_equal(found.values, wanted)
    return "right" if same else "WRONG"


def main() -> int:
    """Try all layouts and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two formats")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)
    suffixes = (".npy", ".mat") if arguments.quick else (".npy", ".npz", ".mat", ".h5", ".pt")
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        for layout in [*of_matrices(rng), *of_recordings(rng), *of_texts(rng)]:
            for suffix in (".txt",) if layout.text else suffixes:
                outcome = try_one(layout, write(layout, suffix, Path(folder)))
                kind = (
                    re.sub(r",? ?(whole|lower.*)$", "", layout.kind) if layout.text else layout.kind
                )
                row = rows.setdefault(f"{kind} ({suffix})", dict.fromkeys(OUTCOMES, 0))
                row[outcome] += 1
                if outcome in ("WRONG", "refused, stuck"):
                    sys.stderr.write(f"{outcome}: {layout.kind}, {layout.dims}, {suffix}\n")
        trials = 20 if arguments.quick else 100
        rows["own formats"] = own_formats(rng, Path(folder), trials)
        for name, write_one in OTHERS.items():
            rows[name] = dict.fromkeys(OUTCOMES, 0)
            for _ in range(trials // 2):
                rows[name][of_others(write_one, rng, Path(folder))] += 1
    table = pd.DataFrame(rows).T
    table.insert(0, "tried", table.sum(axis=1))
    table.loc["all"] = table.sum()
    sys.stdout.write(table.to_string() + "\n")
    return int(table.loc["all", ["refused, stuck", "WRONG"]].sum() > 0)


if __name__ == "__main__":
    sys.exit(main())
