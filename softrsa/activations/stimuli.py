"""Stimuli of any form, as batches with ids."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from softrsa._wording import listed
from softrsa.errors import (
    DataError,
    DTypeError,
    FileFormatError,
    FileMissingError,
    ShapeError,
    StimulusError,
)

IMAGE_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}

Preprocess = Callable[[Any], Tensor]
Inputs = Tensor | tuple[Tensor, ...] | dict[str, Tensor]  # of a model's forward pass
Batch = tuple[Inputs, list[Any] | None]


def preprocess_image(image: Any, *, size: int = 224) -> Tensor:
    """Turn an image into the input of a network: bilinear resize, values in [-1, 1].

    Parameters
    ----------
    image : PIL.Image or ndarray, shape (height, width, 3), uint8
        The image; a PIL image of another mode is converted to RGB.
    size : int
        Height and width of the result, in pixels.

    Returns
    -------
    Tensor, shape (3, size, size), float32
        ``(x - 0.5) / 0.5`` of the resized values ``x`` in [0, 1].

    Raises
    ------
    DTypeError
        If an array is not of shape (height, width, 3) and type uint8.

    Examples
    --------
    >>> preprocess_image(np.zeros((5, 7, 3), dtype=np.uint8), size=2)[0]
    tensor([[-1., -1.],
            [-1., -1.]])
    """
    pixels = np.asarray(image.convert("RGB") if hasattr(image, "convert") else image)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise DTypeError(
            "An image must be a uint8 array of shape (height, width, 3) or a PIL image, got "
            f"{pixels.dtype} of shape {pixels.shape}."
        )
    x = torch.tensor(pixels).permute(2, 0, 1)[None].float() / 255
    # antialiasing changes nothing where the image grows, and avoids moire where it shrinks
    x = torch.nn.functional.interpolate(x, size=(size, size), mode="bilinear", antialias=True)
    return (x[0] - 0.5) / 0.5


def iterate_batches(
    stimuli: Any, *, preprocess: Preprocess | None, batch_size: int, skip: int = 0
) -> tuple[Iterator[Batch], int | None]:
    """Give batches with their ids (None where they have none), and how many stimuli there are.

    The first ``skip`` batches are left out.
    """
    first = skip * batch_size
    if isinstance(stimuli, (str, Path)):
        files = _image_files(Path(stimuli))
        chosen = preprocess or preprocess_image

        def opened(path: Path) -> Tensor:
            return chosen(_open_image(path))

        return _from_items(files, opened, batch_size, first), len(files)
    if isinstance(stimuli, Mapping):
        return _from_items(stimuli, preprocess or _as_tensor, batch_size, first), len(stimuli)
    if isinstance(stimuli, (Tensor, np.ndarray)):
        items = range(first, len(stimuli), batch_size)
        parts = (stimuli[start : start + batch_size] for start in items)
        return ((_apply(part, preprocess), None) for part in parts), len(stimuli)
    if isinstance(stimuli, Iterable):
        return (_unpack(batch, preprocess) for batch in stimuli), None
    raise DTypeError(
        "`stimuli` must be a tensor or array (n, ...), a mapping of ids to arrays, an iterable of "
        f"batches or a folder of images, got {type(stimuli).__name__}."
    )


def _from_items(
    items: Mapping[Any, Any], to_tensor: Preprocess, batch_size: int, first: int
) -> Iterator[Batch]:
    """Stack single stimuli to batches, from the one at a place on."""
    ids = list(items)
    for start in range(first, len(ids), batch_size):
        chosen = ids[start : start + batch_size]
        yield _stack([to_tensor(items[i]) for i in chosen], chosen), chosen


def _stack(tensors: Sequence[Tensor], ids: Sequence[Any]) -> Tensor:
    """Stack stimuli of one shape, or name the one that differs."""
    for tensor, i in zip(tensors, ids, strict=True):
        if tensor.shape != tensors[0].shape:
            raise DataError(
                f"Stimulus {i!r} has shape {tuple(tensor.shape)}, {ids[0]!r} has "
                f"{tuple(tensors[0].shape)}; give a `preprocess` that makes them equal."
            )
    return torch.stack(list(tensors))


def _unpack(batch: Any, preprocess: Preprocess | None) -> Batch:
    """Read a batch of an iterable: what the model takes, or a pair of that and its ids."""
    ids = None
    if isinstance(batch, (tuple, list)) and len(batch) in (1, 2):
        ids = batch[1] if len(batch) == 2 else None
        batch = batch[0]
    inputs = _inputs(batch, preprocess)
    n = count(inputs)
    if ids is not None:
        ids = ids.tolist() if isinstance(ids, (Tensor, np.ndarray)) else list(ids)
        if len(ids) != n:
            raise StimulusError(f"A batch of {n} stimuli came with {len(ids)} ids.")
    return inputs, ids


def _inputs(batch: Any, preprocess: Preprocess | None) -> Inputs:
    """Take a batch as it is, or several inputs in a tuple or mapping."""
    several = isinstance(batch, (tuple, list, Mapping)) and len(batch) > 0
    parts: list[Any] = [batch]
    if several:
        parts = [*(batch.values() if isinstance(batch, Mapping) else batch)]
    wrong = [type(one).__name__ for one in parts if not isinstance(one, (Tensor, np.ndarray))]
    if wrong:
        raise DTypeError(
            "Each batch must be a tensor, or a tuple or mapping of tensors, or a pair of such a "
            f"batch and its ids, got {wrong[0]}."
        )
    if not several:
        return _apply(parts[0], preprocess)
    if preprocess is not None:
        raise DTypeError(
            "`preprocess` is for one stimulus, and a batch of several inputs has none of its own: "
            "preprocess before, and leave it out."
        )
    if isinstance(batch, Mapping):
        return {str(name): _as_tensor(one) for name, one in batch.items()}
    return tuple(map(_as_tensor, batch))


def count(inputs: Inputs) -> int:
    """Count the stimuli of a batch; inputs of different lengths are refused."""
    named = isinstance(inputs, dict)
    parts = [*inputs.values()] if named else [*inputs] if isinstance(inputs, tuple) else [inputs]
    lengths = [len(one) if one.ndim else 0 for one in parts]
    if len({*lengths}) > 1:
        raise ShapeError(
            "The inputs of a batch must have one row per stimulus each, got "
            f"{listed(lengths)} rows{f' of {listed(inputs)}' if named else ''}."
        )
    return lengths[0]


def _apply(batch: Tensor | np.ndarray, preprocess: Preprocess | None) -> Tensor:
    """Preprocess each stimulus of a batch, where that is asked for."""
    if preprocess is None:
        return _as_tensor(batch)
    return _stack([preprocess(item) for item in batch], range(len(batch)))


def _as_tensor(stimulus: Any) -> Tensor:
    """Take an array as it is, but refuse raw image bytes."""
    tensor = torch.as_tensor(stimulus)
    if tensor.dtype == torch.uint8:
        raise DTypeError(
            "The stimuli are uint8, raw image values; pass "
            "`preprocess=softrsa.activations.preprocess_image`, or the model's own."
        )
    return tensor


def _image_files(folder: Path) -> dict[str, Path]:
    """List the images of a folder by name without suffix, sorted."""
    if not folder.is_dir():
        raise FileMissingError(f"There is no folder of images {folder}.")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise FileMissingError(
            f"The folder {folder} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})."
        )
    stems = [path.stem for path in paths]
    repeated = sorted({stem for stem in stems if stems.count(stem) > 1})
    if repeated:
        raise StimulusError(f"Several images in {folder} share the names {listed(repeated)}.")
    return dict(zip(stems, paths, strict=True))


def _open_image(path: Path) -> Any:
    """Read an image file as RGB, which networks are made for: gray and paletted ones too."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except OSError as error:
        raise FileFormatError(f"{path} cannot be read as an image ({error}).") from error
