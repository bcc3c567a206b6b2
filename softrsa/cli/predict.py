"""`softrsa predict`: neighbor-regression heads compared on the same splits of a data set."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from softrsa.cli.common import DPI, names, outputs, seed
from softrsa.errors import unknown_name
from softrsa.io import atomic_path
from softrsa.prediction.tasks import TASKS

ROWS, FILES = "rows.csv", ("table.csv", "errors.png")
SURFACES = "surfaces"


def add_predict(parser: argparse.ArgumentParser) -> None:
    """Give the parser its options."""
    add = parser.add_argument
    add("--data", required=True, metavar="NAME", help=f"{SURFACES}, {', '.join(TASKS)}")
    add(
        "--heads", type=names, default=["all"], metavar="A,B,...",
        help="heads of NeighborRegressor, knn-linear and knn-nca (all)",
    )  # fmt: skip
    add("--splits", type=int, default=10, metavar="N", help="random splits (%(default)s)")
    add("--seed", type=seed, default=0, metavar="N", help="of the first split (%(default)s)")
    add("--out", type=Path, required=True, metavar="DIR", help="where results are written")
    add("--quiet", action="store_true", help="no progress and no table")
    parser.set_defaults(run=_predict)


def _predict(arguments: argparse.Namespace) -> None:
    """Run what is not in the file of rows yet, then summarize all of it."""
    if arguments.data not in (SURFACES, *TASKS):
        raise unknown_name("data", arguments.data, (SURFACES, *TASKS))
    from softrsa.prediction.experiment import run_experiment, run_surfaces
    from softrsa.reports.figures import panels

    heads = "all" if arguments.heads == ["all"] else arguments.heads
    shared = {"heads": heads, "path": arguments.out / ROWS, "progress": not arguments.quiet}
    if arguments.data == SURFACES:
        result = run_surfaces(**shared)
    else:
        result = run_experiment(
            arguments.data, splits=arguments.splits, seed=arguments.seed, **shared
        )
    table = result.table
    with outputs(arguments.out, FILES) as paths:
        table.to_csv(paths["table.csv"], index=False)
        result.plot().savefig(paths["errors.png"], dpi=DPI)
    lines = [table.to_string(index=False, float_format=lambda x: f"{x:.2f}")]
    ranked = result.comparable
    if ranked.shape[0] > 1 and ranked.shape[1] > 2:
        test = result.compare()
        lines.append(f"Friedman p = {test.p:.3g} over {test.n_blocks} splits")
        with atomic_path(arguments.out / "ranks.png") as path:
            figure, (ax,) = panels(1)
            test.plot(ax=ax)
            figure.savefig(path, dpi=DPI, bbox_inches="tight")
    if not arguments.quiet:
        sys.stdout.write("\n".join([*lines, f"Results are in {arguments.out.resolve()}", ""]))
