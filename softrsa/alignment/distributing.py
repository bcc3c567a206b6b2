"""Work units, one per run: in this process or on a dask cluster, each kept when it is done."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
import xarray as xr

from softrsa._checks import resolve_device
from softrsa.alignment.cores import map_on_cores
from softrsa.alignment.fingerprint import Fingerprint
from softrsa.alignment.folds import Split
from softrsa.alignment.runs import Run
from softrsa.alignment.scoring import Job, put_together, score_alone
from softrsa.alignment.sides import Side
from softrsa.alignment.store import Store
from softrsa.errors import DTypeError, FileMissingError, FitError, SoftRSAError

if TYPE_CHECKING:
    from distributed import Client, Future

RETRIES = 3  # of a unit that fails, and rounds in a row in which workers die and nothing is done
CPU = torch.device("cpu")

Unit = tuple[str, str, int, Split, tuple[int, ...], tuple[int, ...]]  # a run without its sides
Keep = Callable[[Run, xr.Dataset], object]


def score_in_units(
    runs: Sequence[Run],
    job: Job,
    *,
    client: Client | None,
    store: str | Path | None,
    fingerprint: Fingerprint,
    device: str,
    progress: bool,
) -> xr.Dataset:
    """Score every run as a unit of its own and put the parts together.

    Units whose part is in the store are not computed again. ``device`` is resolved where a unit
    is computed.
    """
    with _opened(store, fingerprint) as kept:

        def keep(run: Run, part: xr.Dataset) -> None:
            kept.write(run.name, part)

        missing = [run for run in runs if kept.read(run.name) is None]
        if client is None:
            _score_here(missing, job, keep, progress)
        else:
            _Cluster(client, job, device, progress).score(missing, keep)

        def part_of(run: Run) -> xr.Dataset:
            part = kept.read(run.name)
            if part is None:
                raise FileMissingError(
                    f"The part of {run.name} in {kept.folder} was deleted or damaged while others "
                    "were computed. Run again with the same store: only what is missing is done."
                )
            return part

        return put_together(part_of, runs, job)


@contextmanager
def _opened(store: str | Path | None, fingerprint: Fingerprint) -> Iterator[Store]:
    """Open the store, or a temporary one: parts of a large run need not be held in memory."""
    if store is not None:
        yield Store.open(store, fingerprint)
        return
    with TemporaryDirectory(prefix="softrsa-") as folder:
        yield Store.open(folder, fingerprint)


def _score_here(runs: Sequence[Run], job: Job, keep: Keep, progress: bool) -> None:
    """Score runs in this process, on all cores, and keep each part at once."""
    from tqdm import tqdm

    with tqdm(total=len(runs), disable=not progress or not runs, desc="aligning", delay=1) as bar:

        def work(run: Run) -> None:
            keep(run, _raised(_named(run, job)))
            bar.update()

        if runs:
            rsms = runs[0].brain.rsms
            map_on_cores(work, runs, entries=rsms.numel(), device=rsms.device)


def _named(run: Run, job: Job) -> xr.Dataset | SoftRSAError:
    """Score one run; an error of ours is given back with its name, as dask retries what raises."""
    try:
        return score_alone(run, job)
    except SoftRSAError as error:
        return type(error)(f"In {run.name}: {error}")


def _raised(found: xr.Dataset | SoftRSAError) -> xr.Dataset:
    if isinstance(found, SoftRSAError):
        raise found
    return found


@dataclass(frozen=True)
class _Cluster:
    """A dask cluster that scores runs; a device of "auto" is resolved on each worker."""

    client: Client
    job: Job
    device: str
    progress: bool

    def score(self, runs: Sequence[Run], keep: Keep) -> None:
        """Score runs in rounds: what was lost with a worker is in the next one."""
        idle = 0
        while runs and idle <= RETRIES:
            left = self._round(runs, keep)
            idle = idle + 1 if len(left) == len(runs) else 0
            runs = left
        if runs:
            raise FitError(
                f"Workers died {RETRIES + 1} times in a row before any unit was done; the first "
                f"one left is {runs[0].name}. They may be out of memory: give each more, or use "
                "fewer stimuli."
            )

    def _round(self, runs: Sequence[Run], keep: Keep) -> list[Run]:
        """Submit all runs, keep those done, give back those whose data a dead worker had."""
        from distributed import as_completed

        models = _shipped(self.client, {run.layer: run.model for run in runs})
        brains = _shipped(self.client, {run.region: run.brain for run in runs})
        futures = {
            self.client.submit(
                _score_remotely, _unit(run),
                models[run.layer], brains[run.region], self.job, self.device,
                retries=RETRIES, pure=False,
            ): run
            for run in runs
        }  # fmt: skip
        lost = []
        try:
            with _bar(self.client, [*futures], self.progress):
                for future in as_completed([*futures]):
                    run = futures.pop(future)
                    found = _result(future, run)
                    if found is None:
                        lost.append(run)
                    else:
                        keep(run, _raised(found))
        finally:
            self.client.cancel([*futures])
        return lost


def _unit(run: Run) -> Unit:
    return run.layer, run.region, run.fold, run.split, run.learn, run.score


def _shipped(client: Client, sides: Mapping[str, Side]) -> dict[str, Future]:
    """Send each side once; units fetch it from the worker that has it, or from one another."""
    return {name: client.scatter(side.to(CPU), hash=False) for name, side in sides.items()}  # type: ignore[misc]


def _score_remotely(
    unit: Unit, model: Side, brain: Side, job: Job, device: str
) -> xr.Dataset | SoftRSAError:
    """Score a unit on a worker, in the one thread that dask runs it in."""
    layer, region, fold, split, learn, score = unit
    target = resolve_device(device)
    run = Run(layer, region, fold, model.to(target), brain.to(target), split, learn, score)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        return _named(run, job)
    finally:
        torch.set_num_threads(before)  # which the worker's new threads start with


def _result(future: Future, run: Run) -> xr.Dataset | SoftRSAError | None:
    """Fetch what was found for a run; None where it, or its data, died with a worker."""
    from distributed import KilledWorker
    from distributed.client import FutureCancelledError

    try:
        return future.result()
    except FutureCancelledError:
        return None
    except KilledWorker as error:
        raise FitError(
            f"In {run.name}: the worker died each time it was computed ({error}). Workers may be "
            "out of memory: give each more, or use fewer stimuli."
        ) from error
    except Exception as error:
        error.add_note(f"In {run.name}, on a dask worker, after {RETRIES} retries.")
        raise


@contextmanager
def _bar(client: Client, futures: Sequence[Future], shown: bool) -> Iterator[None]:
    """Show dask's own progress bar while units are collected."""
    if not shown:
        yield
        return
    from distributed.diagnostics.progressbar import TextProgressBar

    bar = TextProgressBar(futures, start=False)
    loop: Any = client.loop  # None only before a client starts
    loop.add_callback(bar.listen)
    try:
        yield
    finally:
        bar.__del__()


def check_client(client: object) -> None:
    """Refuse what is no client of dask.distributed."""
    if client is None:
        return
    if not isinstance(client, import_distributed().Client):
        raise DTypeError(
            f"`client` must be a `distributed.Client`, got {type(client).__name__}; e.g. "
            "`Client(LocalCluster())`."
        )


def import_distributed():
    """Import dask's scheduler, or say how to install it."""
    try:
        import distributed
    except ImportError as error:
        raise FileMissingError(
            "Work on a cluster needs dask, which is not installed; install it with "
            "`pip install softrsa[distributed]`."
        ) from error
    return distributed
