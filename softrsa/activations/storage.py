"""Where activations go: memory while they fit, a netCDF file when they do not."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from secrets import token_hex
from typing import Any

import numpy as np
import xarray as xr

from softrsa.io import OutputError, atomic_path, cache_folder, open_array
from softrsa.io.schema import plain_labels

CHUNK_UNITS = 4096  # × 64 stimuli × 4 bytes = 1 MiB
CHUNK_STIMULI = 64


class Store:
    """Rows of activations: in memory while they fit, else in a file."""

    def __init__(self, path: str | Path | None, *, limit: int, n_expected: int | None):
        self.path = None if path is None else Path(path)
        self.limit = limit
        self.n_expected = n_expected
        self.n_rows = 0
        self.widths: dict[str, int] = {}
        self.values = np.empty((0, 0), dtype=np.float32)
        self.file: FileStore | None = None
        self.stack = ExitStack()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *details: Any) -> None:
        self.stack.__exit__(*details)

    def append(self, rows: np.ndarray, widths: dict[str, int]) -> None:
        """Add the activations (n_stimuli, n_units) of further stimuli."""
        if not self.n_rows:
            self.widths = widths
            self.values = np.empty((0, rows.shape[1]), dtype=np.float32)
        end = self.n_rows + len(rows)
        n_bytes = max(end, self.n_expected or 0) * rows.shape[1] * 4
        if self.file is None and (self.path is not None or n_bytes > self.limit):
            self._move_to_file(n_bytes)
        if self.file is not None:
            self.file.append(rows)
        else:
            if end > len(self.values):
                # realloc: blocks large enough to matter are remapped, not copied
                self.values.resize((max(end, self.n_expected or 0), rows.shape[1]), refcheck=False)
            self.values[self.n_rows : end] = rows
        self.n_rows = end

    def finish(self, ids: list[Any]) -> xr.DataArray:
        """Label the array; one in a file is opened, not read."""
        if self.file is None or self.path is None:
            coords = {"stimulus": ids, **unit_labels(self.widths)}
            return xr.DataArray(
                self.values[: self.n_rows], dims=("stimulus", "unit"), coords=coords
            )
        self.file.finish(ids)
        self.stack.close()
        return open_array(self.path)

    def _move_to_file(self, n_bytes: int) -> None:
        """Go on in a file, with what there is so far."""
        if self.path is None:
            self.path = cache_folder() / "activations" / f"activations-{token_hex(4)}.nc"
            warnings.warn(
                f"The activations ({n_bytes / 2**20:.0f} MiB or more) exceed the memory limit of "
                f"{self.limit / 2**20:.0f} MiB; they are written to {self.path}. Give `path` to "
                "choose the place, or delete that file when it is no longer needed.",
                stacklevel=5,
            )
        temporary = self.stack.enter_context(atomic_path(self.path))
        self.file = FileStore(temporary, self.widths)
        self.stack.callback(self.file.close)
        if self.n_rows:
            self.file.append(self.values[: self.n_rows])
            self.values = np.empty((0, 0), dtype=np.float32)


class FileStore:
    """Rows in a netCDF file of softrsa's schema, written as they come."""

    def __init__(self, path: Path, widths: Mapping[str, int]):
        import netCDF4

        self.path = path
        self.n_rows = 0
        self.file = netCDF4.Dataset(path, "w")
        n_units = sum(widths.values())
        self.file.createDimension("stimulus", None)
        self.file.createDimension("unit", n_units)
        self.data = self.file.createVariable(
            "data",
            "f4",
            ("stimulus", "unit"),
            zlib=True,
            complevel=1,
            chunksizes=(CHUNK_STIMULI, min(n_units, CHUNK_UNITS)),
        )
        self.data.softrsa_schema = "1"
        self.data.coordinates = "layer"
        labels = unit_labels(widths)
        self.file.createVariable("unit", "i8", ("unit",), zlib=True)[:] = labels["unit"]
        self._write_text("layer", "unit", labels["layer"][1])

    def append(self, rows: np.ndarray) -> None:
        """Add the activations of further stimuli."""
        try:
            self.data[self.n_rows : self.n_rows + len(rows)] = rows
        except (OSError, RuntimeError) as error:
            raise OutputError(f"Cannot write {self.path}: {error}.") from error
        self.n_rows += len(rows)

    def finish(self, ids: list[Any]) -> None:
        """Write the stimulus ids."""
        labels = plain_labels(np.asarray(ids))
        kind = str if labels.dtype.kind == "U" else labels.dtype
        values = labels.astype(object) if kind is str else labels
        self.file.createVariable("stimulus", kind, ("stimulus",))[:] = values

    def close(self) -> None:
        """Close the file."""
        self.file.close()

    def _write_text(self, name: str, dim: str, labels: np.ndarray) -> None:
        """Write many labels as compressed characters: strings of their own take minutes."""
        encoded = np.char.encode(labels, "utf-8")
        width = encoded.dtype.itemsize
        self.file.createDimension(f"{name}_length", width)
        variable = self.file.createVariable(name, "S1", (dim, f"{name}_length"), zlib=True)
        variable[:] = encoded.view("S1").reshape(len(encoded), width)
        variable._Encoding = "utf-8"


def unit_labels(widths: Mapping[str, int]) -> dict[str, Any]:
    """Label units by their layer and their place in its flattened output."""
    places = [np.arange(width) for width in widths.values()]
    layers = np.repeat(np.array(list(widths)), list(widths.values()))
    return {"unit": np.concatenate(places), "layer": ("unit", layers)}
