"""Small pictures of stimuli, inside a page."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Mapping
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from softrsa.errors import DataError, FileMissingError
from softrsa.io.wording import listed

if TYPE_CHECKING:
    from PIL.Image import Image

SIZE = 88  # pixels of the longer side
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff")
Pictures = Mapping[Any, Any] | str | Path


def thumbnails(
    images: Pictures | None, stimuli: np.ndarray, wanted: Iterable[int]
) -> dict[int, str]:
    """Make JPEG data addresses of some stimuli.

    Parameters
    ----------
    images : mapping or folder, optional
        From stimulus id to an array (height, width[, 3]) of uint8 or of floats in [0, 1], or to an
        image file; or a folder of image files whose names without suffix are the ids.
    stimuli : ndarray of ids
        All stimuli.
    wanted : iterable of int
        Places among them of those to make.

    Returns
    -------
    dict from int to str
        By place; without stimuli that have no picture.

    Raises
    ------
    FileMissingError
        If the folder is not there.
    DataError
        If no stimulus has a picture, or one cannot be read.
    """
    if images is None:
        return {}
    by_id = _in_folder(Path(images)) if isinstance(images, (str, Path)) else dict(images)
    by_name = {str(key): picture for key, picture in by_id.items()}
    found = {}
    for place in wanted:
        name = str(stimuli[place])
        picture = by_name.get(name, by_name.get(Path(name).stem))
        if picture is not None:
            found[place] = _address(picture, name)
    if not found:
        raise DataError(
            f"No stimulus has a picture: the stimuli are {listed(stimuli.tolist())}, the pictures "
            f"{listed(by_name)}. Name pictures by stimulus id."
        )
    return found


def _in_folder(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise FileMissingError(f"There is no folder {folder.absolute()} with images.")
    return {file.stem: file for file in sorted(folder.iterdir()) if file.suffix.lower() in SUFFIXES}


def _address(picture: Any, name: str) -> str:
    """Shrink one picture and write it as an address."""
    from PIL import Image

    try:
        image = Image.open(picture) if isinstance(picture, (str, Path)) else _from_array(picture)
        small = image.convert("RGB")
    except (OSError, TypeError, ValueError) as error:
        raise DataError(f"The picture of stimulus {name!r} cannot be read: {error}.") from error
    small.thumbnail((SIZE, SIZE))
    stream = BytesIO()
    small.save(stream, "JPEG", quality=72, optimize=True)
    return f"data:image/jpeg;base64,{b64encode(stream.getvalue()).decode()}"


def _from_array(picture: Any) -> Image:
    from PIL import Image

    values = np.asarray(picture)
    values = values[..., 0] if values.ndim == 3 and values.shape[-1] == 1 else values
    if values.ndim not in (2, 3) or (values.ndim == 3 and values.shape[-1] not in (3, 4)):
        raise ValueError(f"its shape is {values.shape}, not (height, width[, 3])")
    most = 1 if values.dtype.kind == "f" else 255
    if values.min() < 0 or values.max() > most:
        raise ValueError(f"its values must lie in [0, {most}], and reach {values.max():g}")
    values = (values * 255).round() if most == 1 else values
    return Image.fromarray(values.astype(np.uint8))
