"""rsatoolbox's HDF5 files, read with h5py alone."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import xarray as xr

from softrsa.errors import FileFormatError
from softrsa.io.labels import plain_labels
from softrsa.io.options import Options
from softrsa.io.rsatoolbox import from_rsatoolbox

SIDES = (
    "descriptors", "rdm_descriptors", "pattern_descriptors", "obs_descriptors",
    "channel_descriptors", "time_descriptors",
)  # fmt: skip


def read_rsatoolbox(path: Path, options: Options) -> xr.DataArray:
    """Read a file of `RDMs.save` or `Dataset.save`; ``variable`` names the stimulus descriptor."""
    return from_rsatoolbox(open_rsatoolbox(path), stimulus=options.variable)


def open_rsatoolbox(path: Path) -> SimpleNamespace:
    """Read a file into what has the attributes of rsatoolbox's own object."""
    import h5py

    with h5py.File(path) as file:
        content = _read_group(file)
    for side in SIDES:
        content.setdefault(side, {})
    if "dissimilarities" in content:
        content.setdefault("dissimilarity_measure", None)
        for other in ("measurements", "obs_descriptors"):
            content.pop(other, None)
    elif not isinstance(content.get("measurements"), np.ndarray):
        raise FileFormatError(
            f"{path} looks like a file of rsatoolbox, but holds neither dissimilarities nor "
            "measurements."
        )
    else:
        content.pop("rdm_descriptors")
    return SimpleNamespace(**content)


def _read_group(group: Any) -> dict[str, Any]:
    """Read a group with its attributes; lists that were written item by item are lists again."""
    import h5py

    content: dict[str, Any] = dict(group.attrs)
    for key, node in group.items():
        if isinstance(node, h5py.Group):
            inner = _read_group(node)
            row = bool(inner) and all(name.isdecimal() for name in inner)
            content[key] = [inner[name] for name in sorted(inner, key=int)] if row else inner
        else:
            content[key] = (
                None if node is None or node.shape is None else _plain(np.asarray(node[()]))
            )
    return content


def _plain(values: np.ndarray) -> Any:
    """Decode bytes; unpack single values."""
    if values.dtype.kind == "O":
        values = np.array([v.decode() if isinstance(v, bytes) else v for v in values.flat])
    values = plain_labels(values)
    return values.item() if values.ndim == 0 else values
