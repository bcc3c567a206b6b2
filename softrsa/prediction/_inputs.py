"""Tables, images and recordings of the published tasks, read with errors that name what is bad."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from softrsa.errors import DataError, FileFormatError, FileMissingError
from softrsa.io.wording import counted, listed

if TYPE_CHECKING:
    from PIL.Image import Image

Sound = tuple[int, np.ndarray]  # samples per second, and the waveform in [-1, 1]
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
