"""`softrsa align`: a model's layers with a brain's regions on held-out stimuli."""

from __future__ import annotations

import argparse
import shlex
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing import get_all_start_methods, get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr

import softrsa
from softrsa import datasets
from softrsa._wording import listed
from softrsa.activations import NamedModel, load_model
from softrsa.alignment import AlignmentResult, FitSettings
from softrsa.alignment.align import named_parts
from softrsa.alignment.cluster import import_distributed
from softrsa.alignment.responses import Data
from softrsa.cli.common import (
    DPI,
    check_one_source,
    control_files,
    load_dataset,
    note,
    outputs,
    read,
    show,
)
from softrsa.cli.images import are_images, check_no_images, ids_of_images, read_images
from softrsa.cli.sources import common_name, gather_files, subject_names
from softrsa.errors import DataError, unknown_name
from softrsa.io.labelling import meaning
from softrsa.io.schema import labels_along
from softrsa.measures import get
from softrsa.recordings import average_trials, join_subjects, select, to_folds
from softrsa.reports import format_best, format_table, plot_beside, plot_learned_similarity
from softrsa.reports.figures import panels
from softrsa.reports.page_content import same_data
from softrsa.rsm import build_rdms
from softrsa.transforms.on_rsms import TRANSFORMS, as_chain

if TYPE_CHECKING:
    from distributed import Client
    from matplotlib.figure import Figure

    from softrsa.reports.page_content import Pictures

FILES = ("scores.csv", "result.nc", "report.html", "alignment.png")
# where a step is learned, where a similarity is, and where either is
LEARNED_FILES = ("transforms.png", "similarity.png", "gains.png")


def run(arguments: argparse.Namespace) -> None:
    """Load, align, write, show."""
    written = outputs(arguments, _files(arguments), others=LEARNED_FILES)
    with written as paths, _cluster(arguments.workers) as client:
        layers, regions, images = _load(arguments)
        result = softrsa.align(
            layers,
            regions,
            by=arguments.by,
            region=arguments.region,
            subject=arguments.subject,
            transforms=arguments.transform,
            measure=arguments.measure,
            similarity=arguments.similarity,
            folds=arguments.folds,
            subjects="leave_one_out" if arguments.leave_one_subject_out else "pooled",
            join=arguments.join,
            ids=arguments.ids,
            permute=arguments.permute,
            settings=FitSettings(sides=arguments.sides),
            n_resamples=arguments.resamples,
            seed=arguments.seed,
            device=arguments.device,
            progress=not arguments.quiet,
            client=client,
            store=arguments.store,
            control=_control(arguments),
            stimulus_groups=_groups(arguments.groups),
            subject_groups=arguments.subject_groups,
        )
        command = shlex.join(["softrsa", *arguments.argv])
        result = AlignmentResult(result.data.assign_attrs(command=command))
        _write(result, paths, images)
    table = result.table
    for message in same_data(table):
        warnings.warn(message, UserWarning, stacklevel=2)
    show(arguments, f"{format_table(table)}\n\n{format_best(table)}", table)


def _files(arguments: argparse.Namespace) -> tuple[str, ...]:
    """Name the files that this run will write."""
    of_rsms = get(arguments.measure).takes != "features"
    every = of_rsms and arguments.folds is not None
    named = arguments.transform or (TRANSFORMS if every else ["identity"])
    asked = [as_chain(name) for name in named]
    chooses = any(one.name == "selected" for one in asked)
    steps = of_rsms and (chooses or any(one.rsms.is_learned for one in asked))
    maps = any(one.map for one in asked)
    there = dict(zip(LEARNED_FILES, (steps, maps, steps or maps), strict=True))
    return (*FILES, *(name for name, is_there in there.items() if is_there))


REPEATS = "repeats"  # as --fold: folds are made of these
FREE_PORT = ":0"  # any


@contextmanager
def _cluster(workers: int | None) -> Iterator[Client | None]:
    """Start processes of one thread each, where any are asked for.

    Where the system can, they are forked from one that has imported torch, which takes seconds.
    """
    if workers is None:
        yield None
        return
    if workers < 1:
        raise DataError(f"--workers must be at least 1, got {workers}.")
    distributed = import_distributed()
    import dask.config

    method = {}
    if "forkserver" in get_all_start_methods():
        method = {"distributed.worker.multiprocessing-method": "forkserver"}
        get_context("forkserver").set_forkserver_preload(["distributed", "softrsa.alignment"])
    with (
        dask.config.set(method),
        distributed.LocalCluster(
            n_workers=workers, threads_per_worker=1, dashboard_address=FREE_PORT
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


def _write(result: AlignmentResult, paths: Mapping[str, Path], images: Pictures | None) -> None:
    """Write the result, its table, its page and its figures."""
    result.table.to_csv(paths["scores.csv"], index=False)
    result.to_netcdf(paths["result.nc"])
    result.report(paths["report.html"], images=images)
    result.plot().savefig(paths["alignment.png"], dpi=DPI)
    if "transforms.png" in paths:
        result.plot_transforms().savefig(paths["transforms.png"], dpi=DPI)
    if "similarity.png" in paths:
        _similarity_figure(result).savefig(paths["similarity.png"], dpi=DPI)
    if "gains.png" in paths:
        figure: Any = plot_beside(result).figure
        figure.savefig(paths["gains.png"], dpi=DPI)


def _similarity_figure(result: AlignmentResult) -> Figure:
    """Draw the learned similarity with the best score, or say that there is none."""
    table = result.table
    rows = table[table["transform"].isin(result.data.attrs["mapped"].split(","))]
    if "effective_dimension" in rows:
        rows = rows[rows["effective_dimension"].notna() & rows["score"].notna()]
    if rows.empty or "component_weight" not in result.data:
        figure, (ax,) = panels(1)
        ax.set_axis_off()
        figure.suptitle("no similarity was learned in this result", fontsize=9)
        return figure
    best = rows.sort_values("score").iloc[-1]
    return plot_learned_similarity(result, best["layer"], best["region"], best["transform"])


def _load(
    arguments: argparse.Namespace,
) -> tuple[dict[str, Data], dict[str, Data], Pictures | None]:
    """Read both sides from files, a data set, or a network shown a data set's images; and these."""
    _check_sources(arguments)
    name = "simulated" if arguments.demo else arguments.dataset
    images = None
    if name is None:
        layers, brain = read(arguments), _recordings(arguments)
        _check_labels(brain, arguments, "region", _called(arguments.files[1:]))
        regions: Mapping[str, Data] = _named(brain, arguments, "region")
    else:
        model = _model(arguments)  # before data are fetched
        data = load_dataset(arguments, name)
        layers, regions, images = _layers_of(data, arguments, model), data.regions, data.images
    _check_labels(layers, arguments, "layer", "The layers" if name else arguments.files[0])
    return (
        select(_named(layers, arguments, "layer"), arguments.layers, kind="layer"),
        select(regions, arguments.regions, kind="region"),
        images,
    )


def _recordings(arguments: argparse.Namespace) -> xr.DataArray:
    """Read the recordings: one file, or several, each of a subject."""
    files = arguments.files[1:]
    if are_images(files):
        arrays = read_images(arguments, files, ids_of_images(arguments))
    else:
        check_no_images(arguments)
        names = subject_names(files) if len(files) > 1 else [files[0].stem]
        arrays = {
            name: read(arguments, place, keep_trials=True)
            for place, name in enumerate(names, start=1)
        }
    if arguments.distance is not None:
        arrays = {name: _distances(array, name, arguments) for name, array in arrays.items()}
    if len(arrays) == 1:  # trials of a single subject say how much of its RSM is noise
        return next(iter(arrays.values()))
    arrays = {
        name: average_trials(array) if "trial" in array.dims else array
        for name, array in arrays.items()
    }
    return join_subjects(arrays, how=arguments.join, ids=arguments.ids, subject=arguments.subject)


def _distances(array: xr.DataArray, name: str, arguments: argparse.Namespace) -> xr.DataArray:
    """Make the RDMs of one subject from its single trials, one for each region."""
    if "trial" not in array.dims:
        raise DataError(
            f"--distance {arguments.distance} makes RDMs of single trials, and {name} has "
            f"{' x '.join(map(str, array.dims))}: leave it out, or give the trials."
        )
    labels = [own for own in (arguments.region, arguments.subject) if own in array.coords]
    if arguments.subject in labels and len({*array[arguments.subject].values.tolist()}) == 1:
        labels.remove(arguments.subject)
        array = array.drop_vars(arguments.subject)
    fold, _, number = arguments.fold.partition(":")
    if fold == REPEATS:
        if not number.isdecimal():
            raise DataError(f"--fold {REPEATS}:N makes N folds, got {arguments.fold!r}.")
        array, fold = to_folds(array, int(number), name=REPEATS), REPEATS
    return build_rdms(array, method=arguments.distance, fold=fold, by=labels)


def _called(files: Sequence[Path]) -> str:
    """Name files in a message."""
    more = f" and {len(files) - 1} more" if len(files) > 1 else ""
    return f"{files[0]}{more}"


def _control(arguments: argparse.Namespace) -> dict[str, Data] | None:
    """Read what is held constant, named after its layers, or its file where it has none."""
    found: dict[str, Data] = {}
    for place, (path, layer) in enumerate(control_files(arguments), len(arguments.files)):
        data = read(arguments, place)
        parts = named_parts(data, arguments.by, arguments.by)
        if arguments.by not in (*data.coords, *data.dims):
            parts = {path.stem: next(iter(parts.values()))}
        if layer:
            parts = dict(select(parts, [layer], kind="layer"))
        repeated = [name for name in parts if name in found]
        if repeated:
            raise DataError(
                f"Two controls are named {listed(repeated)}: rename a file or a layer, or leave "
                "one out."
            )
        found |= parts
    return found or None


def _groups(text: str | None) -> str | list[str] | None:
    """Give the name of a coordinate, or the labels in a file, one a line, of stimuli in order."""
    if text is None or not Path(text).is_file():
        return text
    return [line.strip() for line in Path(text).read_text(encoding="utf-8-sig").splitlines()]


def _named(data: xr.DataArray, arguments: argparse.Namespace, kind: str) -> dict[str, Data]:
    """Split data into layers or regions; one without a label is named after its file."""
    by = arguments.by if kind == "layer" else arguments.region
    parts = named_parts(data, by, kind)
    if by in data.coords or not arguments.files:
        return parts
    (part,) = parts.values()
    files = arguments.files[:1] if kind == "layer" else arguments.files[1:]
    return {files[0].stem if len(files) == 1 else common_name(files): part}


def _check_sources(arguments: argparse.Namespace) -> None:
    """Refuse sources that are missing, doubled, or would be ignored."""
    gather_files(arguments)
    wanted = "two files or more (LAYERS.nc RECORDINGS.nc ...)"
    check_one_source(arguments, files=2, wanted=wanted, more=True)
    if arguments.model and not arguments.dataset:
        raise DataError(
            f"--model {arguments.model} needs images to look at: use it with --dataset NAME, not "
            f"with {'--demo' if arguments.demo else 'files'}."
        )
    if arguments.untrained and not arguments.model:
        raise DataError("--untrained is about a network: name one with --model.")


def _check_labels(
    data: xr.DataArray, arguments: argparse.Namespace, kind: str, source: Path | str
) -> None:
    """Refuse labels that are not there, and dimensions of RDMs that would be averaged unasked."""
    option, by = ("--by", arguments.by) if kind == "layer" else ("--region", arguments.region)
    stack = "anchor" in data.dims
    found = [str(dim) for dim in data.dims[:-2]] if stack else [*labels_along(data, "unit")]
    if not stack and by == kind and not any(meaning(name) in ("layer", "region") for name in found):
        return  # a plain table, or units with other labels
    if by not in found and (by != kind or (found and not stack)):
        if ({"layer", "region"} - {kind}) & {*found} and len(arguments.files) >= 2:
            raise DataError(
                f"{source} has no {by!r}, only {listed(found)}: are the two files swapped? The "
                "order is LAYERS RECORDINGS."
            )
        raise unknown_name(f"{option} in {source}:", by, found)
    if kind == "region" and arguments.subject not in (*found, "subject"):
        raise unknown_name(f"--subject in {source}:", arguments.subject, found)
    others = {*found} - {by} - ({arguments.subject, "session"} if kind == "region" else set())
    if stack and others == {"time"}:
        raise DataError(
            f"{source} has RDMs of {data.sizes['time']} times: `softrsa time` scores all of them. "
            "To align one, write a file with `.sel(time=...)`; with --region time, each time is "
            "aligned by itself."
        )
    if stack and others:
        raise DataError(
            f"{source} has RDMs by {listed(found)}, and nothing says what to do with "
            f"{listed(sorted(others))}: name the one that holds {kind}s with {option}, and average "
            "over or select from the others first."
        )


def _model(arguments: argparse.Namespace) -> NamedModel | None:
    """Load the network that is named, if any, and check that it takes images."""
    if arguments.model is None:
        return None
    model = load_model(arguments.model, pretrained=not arguments.untrained, seed=arguments.seed)
    if model.stimuli != "images":
        raise DataError(
            f"--model {arguments.model} takes {model.stimuli}, and data sets have images: extract "
            "its layers with `softrsa extract`, and give that file."
        )
    select(model.layers, arguments.layers, kind="layer")
    return model


def _layers_of(
    data: datasets.DataSet, arguments: argparse.Namespace, model: NamedModel | None
) -> xr.DataArray:
    """Take the layers a data set carries, or those of a network shown its images."""
    if model is None:
        if data.layers is None:
            raise DataError(f"Data set {data.name!r} carries no layers; name a network: --model.")
        if data.images is not None:
            note(
                arguments, "Layers: model RDMs of the data set; --model shows a network its images."
            )
        return data.layers
    if data.images is None:
        raise DataError(f"Data set {data.name!r} has no images to show to {arguments.model!r}.")
    wanted = select(model.layers, arguments.layers, kind="layer")
    return softrsa.extract_activations(
        model.module, data.images, wanted, preprocess=model.preprocess,
        progress=not arguments.quiet,
    )  # fmt: skip
