"""Layouts of files tried: read right, refused with a remedy that works, said aloud, or wrong.

    python benchmarks/studies/reading.py [--quick] [--seed N]

Random RDMs and recordings are written in every order of axes, with one half, with rounding, without
a diagonal, in several number types and formats, and read back by `softrsa.load`. What is refused is
read again with the option that the message names. Ends with exit code 1 if a layout is read wrong
without a word, or if the remedy does not help.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator
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
    table = pd.DataFrame(rows).T
    table.insert(0, "tried", table.sum(axis=1))
    table.loc["all"] = table.sum()
    sys.stdout.write(table.to_string() + "\n")
    return int(table.loc["all", ["refused, stuck", "WRONG"]].sum() > 0)


if __name__ == "__main__":
    sys.exit(main())
