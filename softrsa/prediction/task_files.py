"""Tables, images and recordings of the published tasks, read with errors that name what is bad."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from softrsa._wording import counted, listed
from softrsa.errors import DataError, FileFormatError, FileMissingError
from softrsa.prediction.encoding import (
    Encoder,
    Sound,
    image_features,
    sound_features,
    text_features,
)

if TYPE_CHECKING:
    from PIL.Image import Image

UNCONVERTED = (".webm", ".ogg", ".mp3", ".m4a", ".flac")


def read_table(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Read a CSV file with these columns and perhaps more, all as text as it stands there."""
    return _read_csv(path, columns, dtype=str, keep_default_na=False)


def read_typed_table(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Read a CSV file, numbers as numbers and true or false as such."""
    return _read_csv(path, columns)


def _read_csv(path: Path, columns: Sequence[str], **options: object) -> pd.DataFrame:
    try:
        table = pd.read_csv(path, **options)  # pyright: ignore[reportCallIssue, reportArgumentType]
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise FileFormatError(f"{path} is no CSV table: {error}") from error
    if not set(columns) <= set(table.columns):
        raise FileFormatError(
            f"{path} must have the columns {', '.join(columns)}, found "
            f"{', '.join(map(str, table.columns))}. Rename columns, or place the right file."
        )
    if table.empty:
        raise FileFormatError(f"{path} has no rows.")
    return table


def numbers(table: pd.DataFrame, column: str, path: Path) -> np.ndarray:
    """Give a column as numbers; rows, counted from 1, in which it is none are an error."""
    values = pd.to_numeric(table[column], errors="coerce").to_numpy(np.float64)
    _check_rows(np.isfinite(values), table, column, path, "a number")
    return values


def texts(table: pd.DataFrame, column: str, path: Path) -> list[str]:
    """Give a column as texts; rows in which there is none are an error."""
    _check_rows((table[column].str.strip() != "").to_numpy(), table, column, path, "a text")
    return table[column].tolist()


def _check_rows(
    good: np.ndarray, table: pd.DataFrame, column: str, path: Path, wanted: str
) -> None:
    bad = np.flatnonzero(~good)
    if len(bad):
        raise DataError(
            f"{path}: `{column}` must be {wanted} in every row, got "
            f"{listed(table[column].iloc[bad])} in row {listed(table.index[bad] + 1)}. Correct "
            "these rows or leave them out."
        )


def check_present(paths: Sequence[Path], table: Path) -> None:
    """Check that the files a table names are there; say how to convert those that are not wav."""
    missing = [path for path in paths if not path.is_file()]
    if not missing:
        return
    others = (path.with_suffix(suffix) for path in missing for suffix in UNCONVERTED)
    found = next((other for other in others if other.is_file()), None)
    advice = (
        f"Convert recordings to wav: ffmpeg -i {found} -ac 1 -ar 16000 {found.with_suffix('.wav')}"
        if found
        else "Place them there, or leave their rows out of the table."
    )
    raise FileMissingError(
        f"{table} names {counted(len(paths), 'file')}, of which {len(missing)} are missing: "
        f"{listed(map(str, missing))}. {advice}"
    )


def read_images(paths: Iterable[Path]) -> Iterator[Image]:
    """Read images one after the other."""
    from PIL import Image

    for path in paths:
        try:
            with Image.open(path) as image:
                image.load()
        except (OSError, SyntaxError, ValueError) as error:  # SyntaxError: of a broken PNG
            raise FileFormatError(f"{path} cannot be read as an image: {error}") from error
        yield image


def read_sounds(paths: Iterable[Path]) -> Iterator[Sound]:
    """Read wav files one after the other; channels are averaged."""
    from scipy.io import wavfile

    for path in paths:
        try:
            with warnings.catch_warnings():  # of chunks that hold no sound
                warnings.simplefilter("ignore", wavfile.WavFileWarning)
                rate, wave = wavfile.read(path)
        except (ValueError, EOFError) as error:
            raise FileFormatError(
                f"{path} cannot be read as wav: {error} Convert it: ffmpeg -i {path} -ac 1 "
                f"-ar 16000 {path.with_stem(path.stem + '_converted')}"
            ) from error
        if not len(wave):
            raise DataError(f"{path} holds no sound.")
        yield rate, _unit(wave)


def _unit(wave: np.ndarray) -> np.ndarray:
    """Scale whole numbers of the file to [-1, 1], and average channels."""
    scaled = wave.astype(np.float32)
    if wave.dtype == np.uint8:
        scaled = (scaled - 128) / 128
    elif np.issubdtype(wave.dtype, np.integer):
        scaled /= -float(np.iinfo(wave.dtype).min)
    return scaled if scaled.ndim == 1 else scaled.mean(1)


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


DEFAULTS: dict[str, Encoder] = {  # by kind of the inputs
    "image": image_features,
    "sound": sound_features,
    "text": text_features,
    "table": pd.DataFrame.to_numpy,
}
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
