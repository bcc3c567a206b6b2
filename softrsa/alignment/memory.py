"""How much memory an alignment will take, said before it starts."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import xarray as xr

from softrsa._memory import gigabytes
from softrsa.alignment.descent import BATCH_ENTRIES
from softrsa.alignment.responses import Data
from softrsa.alignment.settings import Options
from softrsa.errors import MemoryLimitError

# In bytes, or in copies of what is named, after measurements (`tests/alignment/test_memory.py`).
BASE_BYTES = 60e6  # buffers of the libraries
COPIES_ALL = 6  # of a model's RSM and the subjects' mean, while all stimuli are scored
COPIES_FEATURES = 3  # of a model's RSM, where a measure compares features
COPIES_FIXED = 7  # of both sides' RSMs over training stimuli, while thresholds are searched
COPIES_LEARNED = 14  # of both sides' RSMs over training stimuli, with the gradient
COPIES_TESTED = 10  # of both sides' RSMs over test stimuli and each transform, when resampled
# The C library keeps freed pieces of less than 32 MB for later, where nothing gives them back
# (`softrsa._memory`): then most of what a process of a few thousand stimuli holds.
COPIES_KEPT, KEPT_BYTES = 150, 2e9  # per core of a model's RSM over training stimuli; at most
COPIES_DRAWN, DRAWN_BYTES = 150, 1e9  # pieces of resamples: of a model's RSM, at most so much
WORTH_SAYING = 1e9


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes that an alignment takes at most at one time, besides its input.

    Attributes
    ----------
    sides : float
        RSMs of all layers and regions in float64, and units kept for learned transforms.
    work : float
        What fits, scores or resamples take, whichever is most, on all cores.
    kept : float
        Freed pieces that the C library may keep for later, up to `KEPT_BYTES`: too uncertain to
        refuse a run for.
    """

    sides: float
    work: float
    kept: float = 0.0

    @property
    def needed(self) -> float:
        """What must be had: sides and work."""
        return self.sides + self.work

    @property
    def total(self) -> float:
        """What the process will hold at most."""
        return self.needed + self.kept

    def __str__(self):
        return (
            f"about {gigabytes(self.total)} of memory ({gigabytes(self.sides)} for RSMs and units, "
            f"{gigabytes(self.work + self.kept)} for fits, scores and resamples)"
        )


@dataclass(frozen=True)
class SideSize:
    """How many matrices a layer or region has, over how many stimuli, of how many units."""

    n_stimuli: int
    n_subjects: int
    n_units: int


def estimate_memory(
    layers: Sequence[SideSize],
    regions: Sequence[SideSize],
    options: Options,
    *,
    train_share: float,
    n_runs: int,
    cores: int,
) -> MemoryEstimate:
    """Estimate what an alignment takes in memory at most.

    Parameters
    ----------
    layers, regions : sequence of SideSize
        Both sides.
    options : Options
        What is done with them.
    train_share : float
        Largest share of stimuli that is trained on.
    n_runs : int
        Layers, regions and folds together.
    cores : int
        How many runs are worked on at a time.

    Returns
    -------
    MemoryEstimate
        In bytes; what was measured for 500 to 2600 stimuli lay between what is needed and the
        total, within a factor of 1.5.

    Examples
    --------
    >>> from softrsa.alignment.settings import Options
    >>> from softrsa.measures import get
    >>> from softrsa.transforms.on_rsms import as_chain
    >>> options = Options((as_chain("centered"),), get("centered_pearson"))
    >>> sides = [SideSize(1000, 1, 50)], [SideSize(1000, 4, 50)]
    >>> print(gigabytes(estimate_memory(*sides, options, train_share=0.8, n_runs=5, cores=1).sides))
    0.04 GB
    """
    n = max(side.n_stimuli for side in layers)
    square = 8.0 * n * n
    learned = options.learns
    n_subjects = max(region.n_subjects for region in regions)
    both = 1 + n_subjects
    matrices = sum(side.n_subjects for side in (*layers, *regions))
    sides = matrices * square
    if learned or options.of_features:
        sides += sum(8.0 * n * min(n, s.n_units) * s.n_subjects for s in (*layers, *regions))
    if any(one.map for one in options.fitted):  # points of layers, and their components
        sides += sum(2 * 8.0 * n * min(n, side.n_units or n) for side in layers)
    if options.subjects == "leave_one_out":  # what the fits of all runs learn from is held together
        sides += sum(r.n_subjects * (r.n_subjects - 1) for r in regions) * square
    at_once = min(cores, n_runs)
    trained = both * train_share**2 * square
    tested = both * len(options.fitted) * (1 - train_share) ** 2 * square
    fixed = COPIES_FIXED * trained
    fits = max(fixed, COPIES_LEARNED * max(trained, 8.0 * BATCH_ENTRIES)) if learned else fixed
    draws = 3 * 8.0 * options.n_resamples * n if options.resamples else 0.0
    drawn = min(DRAWN_BYTES, COPIES_DRAWN * square) if options.resamples else 0.0
    work = max(
        0.0 if options.of_features else at_once * fits,
        (COPIES_FEATURES if options.of_features else COPIES_ALL) * square,
        at_once * COPIES_TESTED * tested + draws if options.resamples else 0.0,
    )
    freed = at_once * COPIES_KEPT * train_share**2 * square
    kept = 0.0 if options.of_features else min(KEPT_BYTES, freed)
    return MemoryEstimate(sides, work + BASE_BYTES, kept + drawn)


def estimate_of_run(
    parts: Sequence[Mapping[str, Data]],
    options: Options,
    *,
    elsewhere: bool,
) -> MemoryEstimate:
    """Estimate what `align` takes in this process; work done ``elsewhere`` takes none of it."""
    folds, subject = options.folds, options.subject
    layers, regions = ([size_of(data, subject) for data in part.values()] for part in parts)
    n_folds = max(2, folds) if isinstance(folds, int) else len(folds or (None,))
    n_stimuli = max(1, *(side.n_stimuli for side in layers))
    shares = (
        [1 - 1 / n_folds]
        if isinstance(folds, int)
        else [len(split.train) / n_stimuli for split in folds or ()] or [1.0]
    )
    found = estimate_memory(
        layers, regions, options, train_share=max(shares, default=0.5),
        n_runs=len(layers) * len(regions) * n_folds, cores=torch.get_num_threads(),
    )  # fmt: skip
    return replace(found, work=BASE_BYTES, kept=0.0) if elsewhere else found


def size_of(data: Data, subject: str) -> SideSize:
    """Tell the size of a layer or region from its shape, without reading its values."""
    if isinstance(data, (list, tuple)):
        sizes = [size_of(one, subject) for one in data]
        first = sizes[0] if sizes else SideSize(0, 0, 0)
        units = max((size.n_units for size in sizes), default=0)
        return SideSize(first.n_stimuli, sum(size.n_subjects for size in sizes), units)
    if isinstance(data, xr.DataArray):
        return _size_of_labelled(data, subject)
    shape = tuple(getattr(data, "shape", ()))
    n_subjects = shape[0] if len(shape) == 3 else 1
    return SideSize(shape[-2], n_subjects, shape[-1]) if len(shape) > 1 else SideSize(0, 0, 0)


def _size_of_labelled(data: xr.DataArray, subject: str) -> SideSize:
    if "anchor" in data.dims:
        return SideSize(data.sizes["anchor"], data.sizes.get(subject, 1), 0)
    on_units = subject in data.coords and data[subject].dims == ("unit",)
    n_subjects = len({*data[subject].values.tolist()}) if on_units else 1
    n_units = data.sizes.get("unit", 0) // max(1, n_subjects)
    return SideSize(data.sizes.get("stimulus", 0), n_subjects, n_units)


def check_memory(
    estimate: MemoryEstimate, available: float | None, *, device: torch.device, said: bool
) -> None:
    """Say what a large run will take, and refuse one that cannot fit.

    Raises
    ------
    MemoryLimitError
        If less is available than the run will take; None means that nobody knows.
    """
    free = "" if available is None else f"; {gigabytes(available)} are available"
    if available is not None and estimate.needed > available:
        raise MemoryLimitError(
            f"This run needs {gigabytes(estimate.needed)} of memory ({gigabytes(estimate.sides)} "
            f"for RSMs and units, {gigabytes(estimate.work)} for fits, scores and resamples), and "
            f"{gigabytes(available)} are available on {device}. Use fewer stimuli, layers or "
            "regions at a time, fixed transforms only, or fewer threads "
            "(`torch.set_num_threads`); or an Aligner that works in tiles."
        )
    if said and estimate.total > WORTH_SAYING:
        from tqdm import tqdm

        tqdm.write(f"This run will take {estimate}{free}.", file=sys.stderr)
