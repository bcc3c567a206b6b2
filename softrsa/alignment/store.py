"""A folder that keeps the results of finished work units, so that a run can go on later."""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from threading import Lock

import xarray as xr

from softrsa.alignment.fingerprint import Fingerprint, differences, digest
from softrsa.errors import FileFormatError
from softrsa.io import OutputError, atomic_path
from softrsa.io.labels import plain_labels
from softrsa.io.reading import UNREADABLE

RUN_FILE = "run.json"
# netCDF-C bears one thread at a time, and xarray closes files without taking its own lock
ONE_AT_A_TIME = Lock()


@dataclass(frozen=True)
class Store:
    """Parts of one run, a netCDF file each, written whole or not at all.

    Attributes
    ----------
    folder : Path
        Where the parts are.
    run : str
        Digest of what decides the results; a part of another run is never used.
    """

    folder: Path
    run: str

    @classmethod
    def open(cls, folder: str | Path, fingerprint: Fingerprint) -> Store:
        """Open the store of a run, or start one.

        Parameters
        ----------
        folder : str or Path
            A new or empty folder, or one that a run with the same fingerprint was kept in.
        fingerprint : mapping
            What decides the results.

        Returns
        -------
        Store
            With the parts that are there already.

        Raises
        ------
        FileFormatError
            If the folder holds something else or the store of another run.
        OutputError
            If it cannot be written to.
        """
        folder = Path(folder)
        text = json.dumps(fingerprint, indent=1, sort_keys=True)
        file = folder / RUN_FILE
        if file.exists():
            _check_same(file, json.loads(text))
        elif folder.is_dir() and any(folder.iterdir()):
            raise FileFormatError(
                f"{folder} is no results store: it has no {RUN_FILE}, but other files. Choose a "
                "new or empty folder."
            )
        else:
            with atomic_path(file) as temporary:
                temporary.write_text(text)
        return cls(folder, sha256(text.encode()).hexdigest())

    def path(self, unit: str) -> Path:
        """Name the file of a unit's part; names of layers need not be names of files."""
        return self.folder / f"part-{sha256(unit.encode()).hexdigest()[:16]}.nc"

    def read(self, unit: str) -> xr.Dataset | None:
        """Read the part of a unit; None where it is missing, damaged or of another run or unit."""
        path = self.path(unit)
        if not path.is_file():
            return None
        try:
            with (
                ONE_AT_A_TIME,
                xr.open_dataset(path, engine="netcdf4", decode_times=False) as lazy,
            ):
                part = lazy.load()
        except UNREADABLE:
            return None
        if (part.attrs.get("run"), part.attrs.get("unit")) != (self.run, unit):
            return None
        if part.attrs.get("digest") != _digest(part):
            return None
        labels = {
            key: (coord.dims, plain_labels(coord.values)) for key, coord in part.coords.items()
        }
        return part.assign_coords(labels)

    def write(self, unit: str, part: xr.Dataset) -> None:
        """Keep the part of a unit."""
        part = part.assign_attrs(run=self.run, unit=unit, digest=_digest(part))
        packed = {"zlib": True, "complevel": 1}
        encoding = {key: packed for key, one in part.data_vars.items() if one.dtype.kind in "fi"}
        path = self.path(unit)
        with atomic_path(path) as temporary:
            try:
                with ONE_AT_A_TIME:
                    part.to_netcdf(temporary, engine="netcdf4", encoding=encoding)
            except (OSError, RuntimeError) as error:
                raise OutputError(f"Cannot write {path}: {error}.") from error


def _check_same(file: Path, here: Fingerprint) -> None:
    """Refuse the store of a run that differs, saying where."""
    try:
        there = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise FileFormatError(
            f"{file} cannot be read ({error}), so nothing says which run its folder belongs to. "
            "Choose another folder, or delete this one to start again."
        ) from error
    if there != here:
        found = "; ".join(differences(there, here))
        raise FileFormatError(
            f"The results store {file.parent} holds another run: {found}. Choose "
            "another folder, repeat that run, or delete the folder to start again."
        )


def _digest(part: xr.Dataset) -> str:
    """Digest all values and labels, which netCDF keeps as they are."""
    names = sorted(map(str, part.variables))
    return digest([[name, part[name].variable] for name in names])
