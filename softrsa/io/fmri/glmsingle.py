"""Single-trial betas of GLMsingle, with its design."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from softrsa._wording import counted, listed
from softrsa.errors import DataError, FileFormatError, FileMissingError, ShapeError, StimulusError
from softrsa.io.fmri.grid import Where, grid_of, open_image, what_was_dropped
from softrsa.io.fmri.libraries import library
from softrsa.io.fmri.reading import Reader
from softrsa.io.labelling import Options
from softrsa.io.looking import FORMATS, Format, Look, look

BETAS = ("betasmd", "modelmd")  # as Python and as MATLAB calls them
ORDER, PER_RUN = "stimorder", "numtrialrun"
BEST = "TYPED_FITHRF_GLMDENOISE_RR"


def from_glmsingle(
    path: str | os.PathLike[str],
    *,
    stimuli: Sequence[Any] | None = None,
    design: str | os.PathLike[str] | None = None,
    runs: Sequence[Any] | None = None,
    like: Any = None,
    mask: Any = None,
    atlas: Any = None,
    labels: Any = None,
    subject: str | None = None,
    resample: bool = False,
) -> xr.DataArray:
    """Read the single-trial betas that GLMsingle wrote.

    Parameters
    ----------
    path : path
        ``TYPED_FITHRF_GLMDENOISE_RR`` (or another type) as ``.mat`` or ``.hdf5``, an ``.npz`` or
        ``.npy`` of the betas alone, or the folder, of which type D is read.
    stimuli : sequence of str or of int, optional
        The id of each trial; or with a design, of each condition, in the order of its columns.
        By default the number of the condition, from 1.
    design : path, optional
        ``DESIGNINFO.mat`` or ``.hdf5``; by default the one in the same folder. It says which
        condition each trial is of, and how many trials each run has.
    runs : sequence, optional
        The run of each trial; by default that of the design.
    like : path or image, optional
        An image that went into GLMsingle: its files do not say where voxels lie. By default the
        mask or atlas.
    mask, atlas, labels, subject, resample
        As in `from_nifti`.

    Returns
    -------
    DataArray, dims (trial, unit)
        As `from_nifti` gives it; without positions if betas are (voxel, trial).

    Raises
    ------
    FileMissingError, FileFormatError
        If there is no such file, or it is a pickle, or holds no betas.
    StimulusError
        If there is no design and no id for each trial.
    ShapeError, DataError
        If the betas do not lie on the grid, or a mask is given for betas (voxel, trial).

    Notes
    -----
    GLMsingle for Python writes dictionaries in ``.npy`` files, which are pickles and could run any
    code. Call it with ``opt["wanthdf5"] = 1``, or save the betas of your own file alone:
    ``np.savez(path, betasmd=np.load(own, allow_pickle=True).item()["betasmd"])``.

    References
    ----------
    Prince et al. (2022), doi:10.7554/eLife.77599.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "betas.npz"
    >>> np.savez(path, betasmd=np.random.default_rng(0).normal(size=(5, 4)))
    >>> trials = from_glmsingle(path, stimuli=["face", "house", "face", "house"], runs=[1, 1, 2, 2])
    >>> dict(trials.sizes)
    {'trial': 4, 'unit': 5}
    """
    path = _file_of(Path(path))
    values = _betas(path)
    ids, found_runs = _trials(path, values.shape[-1], stimuli, design)
    runs = found_runs if runs is None else runs
    where = Where(mask, atlas, labels, resample)
    if values.ndim == 2 or values.shape[1:3] == (1, 1):
        if mask is not None or atlas is not None:
            raise DataError(
                f"The betas of {path} are (voxel, trial): which voxel of a mask or atlas each is "
                "of depends on the order they were put in. Read them without, and choose units "
                "of the result, e.g. `trials[:, own]`."
            )
        return _flat(values.reshape(-1, values.shape[-1]), ids, runs, subject, path)
    given = like if like is not None else (mask if isinstance(mask, (str, Path)) else atlas)
    if given is None:
        raise DataError(
            f"GLMsingle's files do not say where voxels lie: give an image that went into it, "
            f"with `like=`; the betas of {path} have {list(values.shape[:3])} voxels."
        )
    image, name = open_image(given, "image `like`")
    grid = grid_of(image)
    if grid.shape != values.shape[:3]:
        raise ShapeError(
            f"The betas of {path} have {list(values.shape[:3])} voxels, and {name} has {grid}."
        )
    nibabel = library("nibabel", "Reading betas on a grid")
    betas = nibabel.Nifti1Image(values, grid.affine)
    reader = Reader([betas], where, runs, subject)
    return reader.betas(ids, progress=False)


def _file_of(path: Path) -> Path:
    """Find the betas in a folder."""
    if not path.is_dir():
        look(path)
        return path
    for ending in (".mat", ".hdf5", ".h5", ".npz"):
        if (path / f"{BEST}{ending}").is_file():
            return path / f"{BEST}{ending}"
    if (path / f"{BEST}.npy").is_file():
        return path / f"{BEST}.npy"
    raise FileMissingError(f"{path} holds no {BEST}.mat, .hdf5 or .npz.")


def _betas(path: Path) -> np.ndarray:
    """Betas (x, y, z, trial) or (voxel, trial), float32 or float64."""
    import h5py

    container = look(path).container
    if container in ("matlab73", "hdf5"):
        with h5py.File(path) as file:
            names = [name for name in BETAS if name in file]
            if not names:
                raise FileFormatError(
                    f"{path} holds neither `betasmd` nor `modelmd`, but {listed(sorted(file))}."
                )
            dataset: Any = file[names[0]]
            values = np.asarray(dataset)
        values = values.T if container == "matlab73" else values  # MATLAB's axes are reversed
    elif container in ("npz", "npy"):
        values = _numpy(path)
    else:
        raise FileFormatError(
            f"{path} is a {container} file; GLMsingle's betas are .mat (version 7.3), .hdf5, .npz "
            "or .npy."
        )
    if values.ndim not in (2, 4) or values.dtype.kind != "f":
        raise ShapeError(
            f"The betas of {path} must be numbers (x, y, z, trial) or (voxel, trial), got "
            f"{values.dtype} {list(values.shape)}."
        )
    return values


def _numpy(path: Path) -> np.ndarray:
    """Read NumPy's files, but no pickle."""
    try:
        found = np.load(path, allow_pickle=False)
        return np.asarray(found[BETAS[0]] if path.suffix == ".npz" else found)
    except KeyError as error:
        raise FileFormatError(f"{path} holds no `betasmd`.") from error
    except ValueError as error:
        raise FileFormatError(
            f"{path} is a dictionary, stored as a pickle, which could run any code: softrsa reads "
            'none. Let GLMsingle write HDF5 (`opt["wanthdf5"] = 1`), or if you wrote it, save the '
            "betas alone: np.savez('betas.npz', betasmd=np.load(path, allow_pickle=True).item()"
            '["betasmd"]).'
        ) from error


def _trials(
    path: Path, n: int, stimuli: Sequence[Any] | None, design: Any
) -> tuple[list[Any], list[int] | None]:
    """Stimuli and runs of trials, by the design."""
    beside = [path.with_name(f"DESIGNINFO{ending}") for ending in (".mat", ".hdf5", ".h5")]
    found = Path(design) if design is not None else next((b for b in beside if b.is_file()), None)
    if found is None:
        if stimuli is None or len(stimuli) != n:
            given = "none" if stimuli is None else f"{len(stimuli)} ids"
            raise StimulusError(
                f"{path} holds {counted(n, 'trial')} without ids: give `stimuli`, one for each, or "
                f"`design`, GLMsingle's DESIGNINFO; got {given}."
            )
        return [*stimuli], None
    order, per_run = _design(found)
    if len(order) != n:
        raise StimulusError(
            f"{found} is of {counted(len(order), 'trial')}, and {path} holds {n}. Give the design "
            "that belongs to it."
        )
    runs = None
    if per_run is not None and sum(per_run) == n:
        runs = np.repeat(np.arange(1, len(per_run) + 1), per_run).tolist()
    if stimuli is not None and len(stimuli) == n and n > max(order):
        return [*stimuli], runs
    names = [*range(1, max(order) + 1)] if stimuli is None else [*stimuli]
    if len(names) < max(order):
        raise StimulusError(
            f"`stimuli` names {len(names)} conditions; the design {found} has {max(order)}."
        )
    return [names[number - 1] for number in order], runs


def _design(path: Path) -> tuple[list[int], list[int] | None]:
    """Read the condition of each trial, from 1, and the number of trials of each run."""
    import h5py

    container = look(path).container
    if container not in ("matlab73", "hdf5"):
        raise FileFormatError(
            f"{path} is a {container} file; a design is DESIGNINFO.mat (version 7.3) or .hdf5. "
            "Give the ids of trials with `stimuli`."
        )
    with h5py.File(path) as file:
        if ORDER not in file:
            raise FileFormatError(f"{path} holds no `stimorder`, but {listed(sorted(file))}.")
        order: Any = file[ORDER]
        order = np.asarray(order).ravel().astype(int)
        per_run: Any = file.get(PER_RUN)
        per_run = None if per_run is None else np.asarray(per_run).ravel().astype(int).tolist()
    return (order - order.min() + 1).tolist(), per_run  # Python counts conditions from 0


def _flat(
    values: np.ndarray, ids: list[Any], runs: Any, subject: str | None, path: Path
) -> xr.DataArray:
    """Label betas (voxel, trial) whose places are not known."""
    missing = ~np.isfinite(values).all(1)
    constant = (values == values[:, :1]).all(1) & ~missing
    kept = ~(missing | constant)
    told = what_was_dropped(int(missing.sum()), int(constant.sum()))
    if not kept.any():
        raise DataError(f"No voxel of {path} is left: {told}.")
    if runs is not None and len(runs) != len(ids):
        raise DataError(f"`runs` must label each of {counted(len(ids), 'trial')}, got {len(runs)}.")
    number = np.flatnonzero(kept)
    coords: dict[str, Any] = {"stimulus": ("trial", np.array(ids)), "unit": number}
    coords |= {} if runs is None else {"run": ("trial", np.array(runs))}
    coords |= {} if subject is None else {"subject": ("unit", [subject] * len(number))}
    attrs = {"voxels_left_out": int((~kept).sum()), **({"read_as": told} if told else {})}
    return xr.DataArray(
        np.ascontiguousarray(values[kept].T), coords, ("trial", "unit"), attrs=attrs
    )


def _is_glmsingle(seen: Look) -> bool:
    return seen.container in ("matlab73", "hdf5", "npz") and bool({*BETAS} & seen.names)


def _read(path: Path, options: Options) -> xr.DataArray:
    """Read betas whose places are not asked for."""
    found = from_glmsingle(path, stimuli=None if options.stimuli is None else [*options.stimuli])
    if "read_as" in found.attrs:
        options.facts.append(found.attrs.pop("read_as"))
    return found


FORMATS.add(
    Format(
        name="glmsingle", title="betas of GLMsingle", recognizes=_is_glmsingle, read=_read,
        takes=frozenset({"stimuli"}),
    )
)  # fmt: skip
