"""Files of fitted estimators: plain types and tensors, safe to receive."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch

from softrsa.errors import FileFormatError, FileMissingError
from softrsa.io import atomic_path


def as_plain(value: Any) -> Any:
    """Make Python's own types of NumPy's scalars, and lists of sequences of them."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, (tuple, list)):
        return [as_plain(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value


def write_file(path: str | Path, content: dict[str, Any]) -> None:
    """Write plain types and tensors, so that the file is whole or not there."""
    with atomic_path(path) as temporary:
        torch.save(content, temporary)


@contextmanager
def read_file(path: str | Path, form: str) -> Iterator[dict[str, Any]]:
    """Give the content of a file of this form, of which nothing is executed, to build from.

    What fails in the block is an error of the file.
    """
    path = Path(path)
    writer = form.removeprefix("softrsa.").partition("/")[0]
    foreign = f"{path} was not written by `{writer}.save`."
    if not path.is_file():
        raise FileMissingError(f"There is no file {path.resolve()}.")
    try:
        with warnings.catch_warnings():  # of a foreign file's protocol, which is refused below
            warnings.simplefilter("ignore", UserWarning)
            content = torch.load(path, weights_only=True, map_location="cpu")
    except (UnpicklingError, RuntimeError, ValueError, EOFError, LookupError, OSError) as error:
        raise FileFormatError(foreign) from error
    if not isinstance(content, dict) or content.get("format") != form:
        raise FileFormatError(foreign)
    try:
        yield content
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise FileFormatError(f"{path} is damaged: {error!r}.") from error
