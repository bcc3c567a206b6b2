"""`softrsa extract`: what a network's layers compute for images or sentences, in a file."""

from __future__ import annotations

import argparse
import shlex
import time
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd

import softrsa
from softrsa.activations import NamedModel, list_layers, load_model
from softrsa.activations.layers import choose_layers
from softrsa.activations.stimuli import Inputs, count, iterate_batches
from softrsa.cli.common import load_dataset, note, show
from softrsa.errors import DataError, FileFormatError, FileMissingError
from softrsa.io import save

TRIED = 4  # stimuli, for what a run would take


def run(arguments: argparse.Namespace) -> None:
    """Load the model, then the stimuli; extract, or say what that would be."""
    told = arguments.list_layers or arguments.dry_run
    if arguments.out is None and not told:
        raise DataError("Say where to write with --out FILE.nc, or ask with --list-layers.")
    if told:
        arguments.out = None
    if arguments.out is not None and arguments.out.suffix != ".nc":
        raise DataError(f"--out must be a netCDF file, such as layers.nc, got {arguments.out}.")
    model = load_model(
        arguments.model, pretrained=not arguments.untrained, seed=arguments.seed,
        tokens=arguments.tokens,
    )  # fmt: skip
    stimuli = _stimuli(arguments, model)
    batches, n = iterate_batches(stimuli, preprocess=model.preprocess, batch_size=TRIED)
    if arguments.list_layers:
        (batch, _), *_ = islice(batches, 1)
        table = list_layers(model.module, batch)
        show(arguments, table.to_string(index=False), table)
        return
    layers = _layers(arguments, model)
    if arguments.dry_run:
        (batch, _), *_ = islice(batches, 1)
        _foretell(arguments, model, layers, batch, n or 0)
        return
    _extract(arguments, model, stimuli, layers)


def _extract(arguments: argparse.Namespace, model: NamedModel, stimuli: Any, layers: Any) -> None:
    out: Path = arguments.out
    if out.is_file() and not (arguments.overwrite or arguments.quiet):
        note(arguments, f"softrsa: {out} is there already and will be replaced.")
    raw = out.with_name(f".{out.stem}.raw.nc")
    try:
        found = softrsa.extract_activations(
            model.module, stimuli, layers, preprocess=model.preprocess, pool=arguments.pool,
            batch_size=arguments.batch_size, device=arguments.device, path=raw, resume=True,
            progress=not arguments.quiet,
        )  # fmt: skip
        command = shlex.join(["softrsa", *arguments.argv])
        save(found.assign_attrs(model=arguments.model, command=command), out)
        found.close()
    finally:
        raw.unlink(missing_ok=True)
    counts = found["layer"].to_series().value_counts(sort=False)
    table = pd.DataFrame({"layer": counts.index, "units": counts.to_numpy()})
    text = f"{table.to_string(index=False)}\n{found.sizes['stimulus']} stimuli"
    show(arguments, text, table)


def _stimuli(arguments: argparse.Namespace, model: NamedModel) -> Any:
    """Find images or sentences, whichever the model takes."""
    wants = "--sentences FILE" if model.stimuli == "sentences" else "--images DIR or --dataset NAME"
    if (arguments.sentences is not None) != (model.stimuli == "sentences") or not (
        arguments.sentences or arguments.images or arguments.dataset
    ):
        raise DataError(f"{arguments.model!r} takes {model.stimuli}: give {wants}.")
    if arguments.sentences is not None:
        return _sentences(arguments.sentences)
    if arguments.images is not None:
        return arguments.images
    data = load_dataset(arguments, arguments.dataset)
    if data.images is None:
        raise DataError(f"Data set {data.name!r} has no images.")
    return data.images


def _sentences(path: Path) -> dict[str, str]:
    """Read sentences by id: those of a CSV file, or each its own."""
    if not path.is_file():
        raise FileMissingError(f"There is no file {path}.")
    try:
        if path.suffix.lower() == ".csv":
            table = pd.read_csv(path, dtype=str, keep_default_na=False)
        else:
            lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
            lines = [line for line in lines if line]
            table = pd.DataFrame({"stimulus": lines, "text": lines})
    except (OSError, ValueError) as error:
        raise FileFormatError(f"{path} cannot be read ({error}).") from error
    if missing := {"stimulus", "text"} - {*table.columns}:
        raise FileFormatError(
            f"{path} needs the columns stimulus and text; {', '.join(sorted(missing))} is missing, "
            f"there are {', '.join(map(str, table.columns))}."
        )
    if table.empty or table["stimulus"].duplicated().any():
        twice = table["stimulus"][table["stimulus"].duplicated()].tolist()[:3]
        raise DataError(f"{path} holds no sentences, or some twice: {twice}.")
    return dict(zip(table["stimulus"], table["text"], strict=True))


def _layers(arguments: argparse.Namespace, model: NamedModel) -> list[str] | Mapping[str, str]:
    """Choose the layers asked for, by the labels that are known, or those of the model."""
    if not arguments.layers:
        if not model.layers:
            raise DataError(
                f"Say which layers of {arguments.model!r} to keep with --layers; --list-layers "
                "lists them."
            )
        return model.layers
    if all(name in model.layers for name in arguments.layers):
        return {name: model.layers[name] for name in arguments.layers}
    return arguments.layers


def _foretell(
    arguments: argparse.Namespace,
    model: NamedModel,
    layers: list[str] | Mapping[str, str],
    batch: Inputs,
    n: int,
) -> None:
    """Say what a run would take, from a few stimuli."""
    chosen = {label: str(one) for label, one in choose_layers(model.module, layers)[0].items()}
    begun = time.perf_counter()
    found = softrsa.extract_activations(
        model.module, [batch], chosen, pool=arguments.pool, device=arguments.device, progress=False
    )
    seconds = (time.perf_counter() - begun) / count(batch) * n
    counts = found["layer"].to_series().value_counts(sort=False)
    table = pd.DataFrame({"layer": counts.index, "units": counts.to_numpy()})
    table["megabytes"] = (table["units"] * n * 4 / 1e6).round(1)
    text = (
        f"{table.to_string(index=False)}\n{n} stimuli, {table['megabytes'].sum():.0f} MB before "
        f"compression, about {seconds:.0f} s"
    )
    show(arguments, text, table)
