"""`softrsa predict`: neighbor-regression heads compared on the same splits of a data set."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from softrsa.cli.common import DPI, outputs, show
from softrsa.cli.parser import SURFACES
from softrsa.errors import DataError, unknown_name
from softrsa.io import atomic_path
from softrsa.prediction.tasks import TASKS, load_task

if TYPE_CHECKING:
    from softrsa.prediction.experiment_result import ExperimentResult
    from softrsa.prediction.tasks import RegressionTask

SEARCH = ("search.csv", "search.png")
ROWS, FILES, RANKS = "rows.csv", ("table.csv", "errors.png"), "ranks.png"


def _search(arguments: argparse.Namespace) -> None:
    """Fit every combination that is not in the file yet, and say which is best."""
    from softrsa.prediction import search

    if arguments.data == SURFACES:
        raise DataError(f"--search needs a data set, not {SURFACES}.")
    if arguments.heads == ["all"] or len(arguments.heads) != 1:
        raise DataError(
            f"--search takes one head, such as --heads nca; got {', '.join(arguments.heads)}."
        )
    result = search.search_settings(
        arguments.data, head=arguments.heads[0], splits=_given(arguments.splits, 3),
        seed=_given(arguments.seed, 0), path=arguments.out / SEARCH[0],
        progress=not arguments.quiet,
    )  # fmt: skip
    with outputs(arguments, SEARCH[1:]) as paths:
        result.plot().savefig(paths[SEARCH[1]], dpi=DPI)
    table = result.table.to_string(index=False, float_format=lambda x: f"{x:.2f}")
    head, *others = result.best.items()
    options = ", ".join([repr(head[1]), *(f"{name}={value!r}" for name, value in others)])
    best = f"Best by validation error: NeighborRegressor({options})"
    show(arguments, f"{table}\n{best}", result.table)


def run(arguments: argparse.Namespace) -> None:
    """Run what is not in the file of rows yet, then summarize all of it."""
    if arguments.data not in (SURFACES, *TASKS):
        raise unknown_name("data", arguments.data, (SURFACES, *TASKS))
    if arguments.search:
        _search(arguments)
        return
    from softrsa.prediction import experiment, surface_experiment

    heads = "all" if arguments.heads == ["all"] else arguments.heads
    shared = {"heads": heads, "path": arguments.out / ROWS, "progress": not arguments.quiet}
    if arguments.data == SURFACES:
        if arguments.splits is not None:
            raise DataError(f"--splits is of data sets; {SURFACES} are not split.")
        shared["settings"] = {} if arguments.preset == "softrsa" else {"temperature": None}
        result = surface_experiment.run_surfaces(seed=_given(arguments.seed, 42), **shared)
        task = None
    else:
        task = load_task(arguments.data, progress=not arguments.quiet)
        shared["settings"] = experiment.PRESETS[arguments.preset]
        result = experiment.run_experiment(
            task, splits=_given(arguments.splits, 10), seed=_given(arguments.seed, 0), **shared
        )
    table = result.table
    with outputs(arguments, FILES, others=[RANKS]) as paths:
        table.to_csv(paths["table.csv"], index=False)
        result.plot().savefig(paths["errors.png"], dpi=DPI)
    lines = ["mean squared error x 1000, and its standard deviation over splits:"]
    lines += [table.to_string(index=False, float_format=lambda x: f"{x:.2f}")]
    lines += _compare(result, arguments.out)
    if task is not None:
        _plot_embedding(task, result, arguments)
    show(arguments, "\n".join(lines), table)


def _compare(result: ExperimentResult, out: Path) -> list[str]:
    """Say what the best step gains over linear methods, and whether methods differ at all."""
    lines = []
    for row in result.best_steps.to_dict("records"):
        for name, against in (("over_linear", "linear"), ("over_best_linear", "best linear")):
            if row.get(name) == row.get(name):  # not NaN
                found = f"{row['method']} / {against} method = {row[name]:.2f}"
                lines.append(f"{row['task']}: {found} (best head by test error)")
    ranked = result.comparable
    if ranked.shape[0] > 1 and ranked.shape[1] > 2:
        test = result.compare()
        blocks = "splits of the same samples" if ranked.index.nlevels > 1 else "data sets"
        lines.append(f"Friedman p = {test.p:.3g} over {test.n_blocks} {blocks}")
        figure: Any = test.plot().figure
        with atomic_path(out / RANKS) as path:
            figure.savefig(path, dpi=DPI, bbox_inches="tight")
    return lines


def _plot_embedding(
    task: RegressionTask, result: ExperimentResult, arguments: argparse.Namespace
) -> None:
    """Draw the test samples of the first split as the best neighbor head embeds them."""
    from softrsa.prediction.experiment import PRESETS, embed_test_samples
    from softrsa.prediction.step_heads import NEIGHBOR_HEADS
    from softrsa.reports.figures import panels
    from softrsa.reports.prediction_figures import plot_embedding

    drawn, rows = arguments.out / "embedding.png", arguments.out / ROWS
    if drawn.exists() and drawn.stat().st_mtime >= rows.stat().st_mtime:
        return  # of the rows as they are
    table = result.table
    table = table[(table["task"] == task.name) & table["method"].isin(list(NEIGHBOR_HEADS))]
    if not len(table):
        return
    head = str(table.sort_values("mean")["method"].iloc[0])
    split = _given(arguments.seed, 0)
    embedding, labels = embed_test_samples(
        task, head, split=split, settings=PRESETS[arguments.preset]
    )
    with atomic_path(drawn) as path:
        figure, (ax,) = panels(1)
        plot_embedding(embedding, labels if labels.ndim == 1 else labels.mean(1), ax=ax)
        ax.set_title(f"{task.name}: {head}, test samples of split {split}", fontsize=9)
        figure.savefig(path, dpi=DPI, bbox_inches="tight")


def _given(value: int | None, default: int) -> int:
    return default if value is None else value
