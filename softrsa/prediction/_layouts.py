"""Readers of the ten data sets of the papers, one for each layout of files: see their cards."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from softrsa.errors import DataError, FileFormatError
from softrsa.io.wording import listed
from softrsa.prediction._inputs import (
    check_present,
    numbers,
    read_images,
    read_sounds,
    read_table,
    read_typed_table,
    texts,
)

BONE_AGES = (1.0, 228.0)  # months: the papers scale by these
N_FRAMES, N_REVIEWS = 15_000, 1500  # drawn by the papers
ROOMS = ("bathroom", "bedroom", "frontal", "kitchen")


@dataclass(frozen=True)
class Samples:
    """What a reader finds: inputs, labels in their unit, and how these are scaled and split."""

    inputs: Any  # texts, a table, or images or recordings that are read one after the other
    labels: np.ndarray
    limits: tuple[float, float]  # labels that become 0 and 1
    each: int = 1  # inputs per sample
    test: np.ndarray | None = None


@dataclass(frozen=True)
class Layout:
    """How files are read, of which kind the inputs are, and whether splits are stratified."""

    read: Callable[[Path, int], Samples]
    kind: str
    stratified: bool = False


def _rsna(folder: Path, _seed: int) -> Samples:
    table_path = folder / "boneage-training-dataset.csv"
    table = read_table(table_path, ["id", "boneage"])
    images = [folder / "boneage-training-dataset" / f"{name}.png" for name in table["id"]]
    check_present(images, table_path)
    return Samples(read_images(images), numbers(table, "boneage", table_path), BONE_AGES)


def _medsegbench(folder: Path, _seed: int) -> Samples:
    """Images, one array in memory at a time; labels, shares of foreground, are found before."""
    paths = sorted(folder.glob("*.npz"))
    labels = np.concatenate(
        [
            (masks.reshape(len(masks), -1) != 0).mean(1)
            for path in paths
            for masks in _arrays(path, "label")
        ]
    )
    return Samples(_images_of_arrays(paths), labels, _range(labels))


def _images_of_arrays(paths: Iterable[Path]) -> Iterable[Any]:
    from PIL import Image

    for path in paths:
        for images in _arrays(path, "images"):
            if images.dtype != np.uint8 or images.ndim not in (3, 4):
                raise FileFormatError(
                    f"{path} must hold uint8 images (n, height, width) or (n, height, width, 3), "
                    f"got {images.dtype} of shape {images.shape}."
                )
            yield from map(Image.fromarray, images)


def _arrays(path: Path, what: str) -> Iterable[np.ndarray]:
    try:
        with np.load(path) as arrays:
            for part in ("train", "val", "test"):
                yield arrays[f"{part}_{what}"]
    except (KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
        raise FileFormatError(f"{path} is no file of MedSegBench: {error}") from error


def _adresso(folder: Path, _seed: int) -> Samples:
    path = folder / "transcripts.csv"
    table = read_table(path, ["id", "text", "mmse"])
    test = table["id"].str.startswith("adrsd").to_numpy(bool)
    other = table["id"][~test & ~table["id"].str.startswith("adrso").to_numpy(bool)]
    if len(other):
        raise DataError(
            f"{path}: ids must start with adrso (training) or adrsd (test), got {listed(other)}."
        )
    if test.all() or not test.any():
        raise DataError(f"{path} must hold training (adrso...) and test samples (adrsd...).")
    scores = numbers(table, "mmse", path)
    return Samples(texts(table, "text", path), scores, _range(scores), test=test)


def _coughvid(folder: Path, _seed: int) -> Samples:
    table_path = folder / "metadata_compiled.csv"
    table = read_table(table_path, ["uuid", "age"])
    table = table[table["age"] != ""]  # people need not tell
    ages = numbers(table, "age", table_path)
    return _recordings(table_path, [folder / f"{name}.wav" for name in table["uuid"]], ages)


def _nosemic(folder: Path, _seed: int) -> Samples:
    table_path = folder / "labels.csv"
    table = read_table(table_path, ["file", "label"])
    labels = numbers(table, "label", table_path)
    return _recordings(table_path, [folder / name for name in table["file"]], labels)


def _recordings(table: Path, paths: list[Path], labels: np.ndarray) -> Samples:
    if not paths:
        raise DataError(f"{table} has no row with a label.")
    check_present(paths, table)
    return Samples(read_sounds(paths), labels, _range(labels))


def _udacity(folder: Path, seed: int) -> Samples:
    table_path = folder / "interpolated.csv"
    table = read_table(table_path, ["filename", "angle"])
    if "frame_id" in table:
        table = table[table["frame_id"] == "center_camera"]
    if table.empty:
        raise DataError(f"{table_path} has no row whose frame_id is center_camera.")
    angles = numbers(table, "angle", table_path)
    drawn = _draw(len(table), N_FRAMES, seed)
    images = [folder / name for name in table["filename"].iloc[drawn]]
    check_present(images, table_path)
    return Samples(read_images(images), angles[drawn], _range(angles))


def _pitchfork(folder: Path, seed: int) -> Samples:
    path = folder / "reviews.csv"
    table = read_table(path, ["review", "rating"])
    scores = numbers(table, "rating", path)
    drawn = _draw(len(table), N_REVIEWS, seed)
    return Samples(texts(table.iloc[drawn], "review", path), scores[drawn], _range(scores))


def _houses(folder: Path, _seed: int) -> Samples:
    path = folder / "HousesInfo.txt"
    columns = ["bedrooms", "bathrooms", "area", "zip", "price"]
    rows = [line.split() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    wrong = [i for i, row in enumerate(rows, start=1) if len(row) != len(columns)]
    if wrong or not rows:
        raise FileFormatError(
            f"{path} must hold five numbers in every row ({', '.join(columns)}), which is not so "
            f"in row {listed(wrong) or 'one: it is empty'}."
        )
    prices = numbers(pd.DataFrame(rows, columns=columns), "price", path)
    images = [folder / f"{i}_{room}.jpg" for i in range(1, len(rows) + 1) for room in ROOMS]
    check_present(images, path)
    return Samples(read_images(images), prices, _range(prices), each=len(ROOMS))


def _books(folder: Path, _seed: int) -> Samples:
    path = folder / "books.csv"
    table = read_table(path, ["text", "label"])
    labels = numbers(table, "label", path)
    return Samples(texts(table, "text", path), labels, _range(labels))


def _austin(folder: Path, _seed: int) -> Samples:
    path = folder / "austinHousingData.csv"
    table = read_typed_table(path, ["latestPrice"])
    prices = numbers(table, "latestPrice", path)
    known = table.select_dtypes(["number", "bool"]).drop(
        columns=["zpid", "latestPrice"], errors="ignore"
    )
    for column in known:
        numbers(known, str(column), path)
    return Samples(known.astype(np.float64), prices, _range(prices))


def _draw(n: int, count: int, seed: int) -> np.ndarray:
    """Draw so many rows, or all where there are fewer, in the order of the table."""
    return np.sort(np.random.default_rng(seed).permutation(n)[:count])


def _range(labels: np.ndarray) -> tuple[float, float]:
    return float(labels.min()), float(labels.max())


PUBLISHED = {
    "rsna": Layout(_rsna, "image", stratified=True),
    "medsegbench": Layout(_medsegbench, "image", stratified=True),
    "adresso": Layout(_adresso, "text"),
    "coughvid": Layout(_coughvid, "sound", stratified=True),
    "nosemic": Layout(_nosemic, "sound", stratified=True),
    "udacity": Layout(_udacity, "image"),
    "pitchfork": Layout(_pitchfork, "text"),
    "houses": Layout(_houses, "image"),
    "books": Layout(_books, "text"),
    "austin": Layout(_austin, "table"),
}
