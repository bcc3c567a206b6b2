"""The parser of the command line: light, so that help and mistakes are answered at once.

What a command does is `run` of the module of its name, which is imported once the line is parsed.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn

import softrsa
from softrsa import datasets

SHELLS = ("bash", "zsh", "fish", "tcsh")
SURFACES = "surfaces"  # of `softrsa predict --data`: made, not a data set

EXAMPLES = {
    "softrsa": """\
example:
  softrsa align --demo --transform identity,geo_topological --out results/
  softrsa report results/result.nc --out results/report.html
  softrsa datasets list
  softrsa COMMAND --help      every command has an example of its own
""",
    "align": """\
example, simulated data:
  $ softrsa align --demo --transform identity,geo_topological --out results/
  writes report.html (open it first), scores.csv, result.nc and alignment.png, and says
    early: best layer layer1 (geo_topological 0.866, noise ceiling 0.874 to 0.930)
    ...

real images and a pretrained network (extra `demo`):
  $ softrsa align --dataset kriegeskorte92 --model efficientnet-lite0 --out results/

your own files, joined by stimulus id:
  $ softrsa align LAYERS.nc RECORDINGS.nc --by layer --region region --subject subject \\
        --transform identity,geo_topological,global,instance --folds 5 --out results/
""",
    "report": """\
example, after `softrsa align ... --out results/`:
  $ softrsa report results/result.nc --title "ResNet and IT" --images stimuli/
  The report is /home/you/results/report.html
  stimuli/ has a picture for each stimulus, named by its id: face_01.png for face_01
""",
    "identify": """\
example, simulated networks:
  $ softrsa identify --demo --transform identity,centered --out results-identify/
  writes accuracies.csv, by_subject.csv, identification.png, result.nc

RDMs of your own, with the dimensions (region, subject, anchor, neighbor):
  $ softrsa identify RDMS.nc --noise 0,0.5,1 --out results-identify/
""",
    "optimize": """\
example, simulated data:
  $ softrsa optimize --demo --measure nbs,linear_cka --target 0.9 --out results-optimize/
  writes a result per measure, components.csv, components.png and scores.png

neurons, and one measure; goes on where it stopped:
  $ softrsa optimize --dataset macaque-v4 --region V4 --measure nbs --target 0.95 \\
        --resume --out results-v4/
""",
    "predict": """\
example, a small data set of scikit-learn:
  $ softrsa predict --data diabetes --heads linear,ridge,nca --splits 3 --out results-predict/
  writes rows.csv (a row per head and split), table.csv, errors.png, ranks.png

the best settings of one head:
  $ softrsa predict --data diabetes --heads nca --search --out results-search/
""",
    "datasets": """\
example:
  $ softrsa datasets list
  $ softrsa datasets fetch kriegeskorte92
  kriegeskorte92: 3 files in /home/you/.cache/softrsa/datasets/kriegeskorte92
  $ softrsa datasets verify kriegeskorte92
  status  dataset         file
  ok      kriegeskorte92  kriegeskorte92/92_brainRDMs.mat
  ...

environment:
  SOFTRSA_DATA     a folder where data may already lie; files put there by hand are found
  SOFTRSA_CACHE    where downloads go (by default the system's cache)
  SOFTRSA_MIRROR   a folder or an address with a copy of the files, to work without the network:
                   each file at its path on the card, e.g. kriegeskorte92/92_brainRDMs.mat
""",
    "completion": """\
example:
  bash:  softrsa completion bash > ~/.local/share/bash-completion/completions/softrsa
  zsh:   softrsa completion zsh > "${fpath[1]}/_softrsa"
  fish:  softrsa completion fish > ~/.config/fish/completions/softrsa.fish
  tcsh:  softrsa completion tcsh > ~/.softrsa.csh, and source it
""",
}


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose mistakes are one line, and whose help may list what is slow to know.

    ``lists`` has options, and what gives the names to add to their help once it is asked for.
    """

    lists: list[tuple[argparse.Action, Callable[[], Iterable[str]]]]

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        self.lists = []

    def format_help(self) -> str:
        """Write the help with all lists of names."""
        self.complete()
        return super().format_help()

    def complete(self) -> None:
        """Put lists of names into the help."""
        while self.lists:
            action, give_names = self.lists.pop()
            action.help = (action.help or "").replace("...", ", ".join(give_names()))

    def error(self, message: str) -> NoReturn:
        """Say what is wrong in one line and leave with exit code 2."""
        line = one_line(message)
        say(f"softrsa: error: {line}{'' if line.endswith('.') else '.'} See `{self.prog} --help`.")
        sys.exit(2)


def add_align(parser: Parser) -> None:
    """Give the parser its options."""
    add = parser.add_argument
    add(
        "files",
        nargs="*",
        metavar="FILE",
        type=Path,
        help="LAYERS RECORDINGS: activations, and recordings or RDMs, in any format that "
        "softrsa.load reads: netCDF, zarr, MATLAB, CSV, NumPy, rsatoolbox, BrainIO, ...",
    )
    add("--demo", action="store_true", help="use the simulated data set that softrsa carries")
    add("--dataset", help=f"one of: {', '.join(datasets.available())}")
    add("--model", help="a pretrained network to show the data set's images (efficientnet-lite0)")
    add("--untrained", action="store_true", help="use the network with random weights")
    add("--out", type=Path, required=True, metavar="DIR", help="where results are written")
    add("--by", default="layer", help="coordinate that holds layers (%(default)s)")
    add("--region", default="region", help="coordinate that holds regions (%(default)s)")
    add("--subject", default="subject", help="coordinate that holds subjects (%(default)s)")
    add("--layers", type=names, help="only these layers, comma-separated")
    add("--regions", type=names, help="only these regions, comma-separated")
    add("--similarity", default="correlation", help="between stimuli (%(default)s)")
    measure = add(
        "--measure", default="centered_pearson", metavar="NAME",
        help="between RSMs or features (%(default)s), of: ...",
    )  # fmt: skip
    transform = add(
        "--transform", type=names, metavar="A,B,...", help="of: ... (all that suit the measure)"
    )
    parser.lists += [(measure, _measures), (transform, _transforms)]
    add("--folds", type=int, default=5, help="over stimuli (%(default)s)")
    add(
        "--leave-one-subject-out",
        action="store_true",
        help="score each subject under transforms fitted on the others",
    )
    add(
        "--join",
        choices=("exact", "intersection"),
        default="exact",
        help="whether both files must have the same stimuli (%(default)s)",
    )
    add(
        "--permute",
        action="store_true",
        help="a control: shuffle the brain's stimuli, so every gain must vanish",
    )
    add(
        "--seed", type=seed, default=0, metavar="N",
        help="of folds, inner folds and --permute (%(default)s)",
    )  # fmt: skip
    add(
        "--resamples",
        type=int,
        default=1000,
        metavar="N",
        help="for intervals and p; 0 for none (%(default)s)",
    )
    add(
        "--store",
        type=Path,
        metavar="DIR",
        help="keep each layer, region and fold here once it is done, to go on after a stop",
    )
    add("--workers", type=int, metavar="N", help="share the work among N processes, with dask")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:0 (%(default)s)")
    add_output(parser)


def add_report(parser: Parser) -> None:
    """Give the parser its options."""
    add = parser.add_argument
    add("result", type=Path, metavar="RESULT", help="result.nc, as `softrsa align` writes it")
    add(
        "--out", type=Path, metavar="FILE",
        help="the page to write (report.html beside the result)",
    )  # fmt: skip
    add("--title", help="heading of the page")
    add("--images", type=Path, metavar="DIR", help="pictures of the stimuli, named by stimulus id")
    add("--dataset", help="take the pictures of this data set instead")
    add_output(parser)


def add_identify(parser: Parser) -> None:
    """Give the parser its options."""
    add = parser.add_argument
    add(
        "files", nargs="*", metavar="FILE", type=Path,
        help="RDMS.nc: RDMs by region and subject, or recordings with these labels on their units",
    )  # fmt: skip
    add("--demo", action="store_true", help="use the simulated networks that softrsa carries")
    add("--dataset", help=f"one of: {', '.join(datasets.available())}")
    add("--out", type=Path, required=True, metavar="DIR", help="where results are written")
    add("--regions", type=names, help="only these regions, comma-separated")
    transform = add("--transform", type=names, metavar="A,B,...", help="of: ... (all)")
    parser.lists.append((transform, _identifying_transforms))
    add(
        "--rule", choices=("best_match", "centroid"), default="best_match",
        help="correlation with a region's mean, or nearest centroid as published (%(default)s)",
    )  # fmt: skip
    add("--folds", type=int, default=2, help="over stimuli; 1 holds none out (%(default)s)")
    add("--grid", type=int, default=10, help="steps of l and u between 0 and 1 (%(default)s)")
    add("--resamples", type=int, default=1000, help="for intervals (%(default)s)")
    add(
        "--published", action="store_true",
        help="repeat the published procedure, which is optimistic, instead",
    )  # fmt: skip
    add(
        "--noise", type=_numbers, metavar="A,B,...", help="curves: noise added to RDMs, in their sd"
    )
    add("--stimuli", type=_counts, metavar="A,B,...", help="curves: numbers of random stimuli")
    add("--subsets", type=int, default=5, help="for each point of a curve (%(default)s)")
    add("--seed", type=seed, default=0, metavar="N", help="of all that is random (%(default)s)")
    add_output(parser)


def add_optimize(parser: Parser) -> None:
    """Give the parser its options."""
    add = parser.add_argument
    add(
        "files", nargs="*", metavar="FILE", type=Path,
        help="a netCDF file of recordings or activations",
    )  # fmt: skip
    add("--demo", action="store_true", help="use the simulated data set that softrsa carries")
    add("--dataset", help=f"one of: {', '.join(datasets.available())}")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--region", help="the region whose units to compare with")
    which.add_argument("--layer", help="the layer whose units to compare with")
    add("--out", type=Path, required=True, metavar="DIR", help="where results are written")
    add(
        "--measure", type=names, default=["nbs", "linear_cka"], metavar="A,B,...",
        help="differentiable ones of softrsa.measures (nbs,linear_cka)",
    )  # fmt: skip
    add("--similarity", default="correlation", help="of RSMs, for measures on those (%(default)s)")
    add("--target", type=float, default=0.99, help="score to reach (%(default)s)")
    add("--restarts", type=int, default=1, metavar="N", help="random starts (%(default)s)")
    add("--units", type=int, metavar="N", help="width of the random data (as the real ones)")
    add("--lr", type=float, default=0.1, help="learning rate of Adam (%(default)s)")
    add("--max-steps", type=int, default=1000, metavar="N", help="at most (%(default)s)")
    add(
        "--record", type=int, default=50, metavar="N",
        help="keep the data at about so many steps, evenly over scores (%(default)s)",
    )  # fmt: skip
    add("--seed", type=seed, default=0, metavar="N", help="of the starts (%(default)s)")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:0 (%(default)s)")
    add(
        "--resume", action="store_true",
        help="go on from the files in --out, to more steps or a higher target",
    )  # fmt: skip
    add_output(parser)


def add_predict(parser: Parser) -> None:
    """Give the parser its options."""
    add = parser.add_argument
    data = add("--data", required=True, metavar="NAME", help=f"{SURFACES}, ...")
    parser.lists.append((data, _tasks))
    add(
        "--heads", type=names, default=["all"], metavar="A,B,...",
        help="heads of NeighborRegressor, ridge, knn-linear and knn-nca (all)",
    )  # fmt: skip
    add("--splits", type=int, metavar="N", help="random splits (10; 3 with --search)")
    add(
        "--preset", choices=("softrsa", "papers"), default="softrsa",
        help="with a learned temperature, or without, as in the papers (%(default)s)",
    )  # fmt: skip
    add("--seed", type=seed, metavar="N", help=f"of the first split (0), of {SURFACES} (42)")
    add(
        "--search", action="store_true",
        help="search similarity, embedding and batch size of one head instead",
    )  # fmt: skip
    add("--out", type=Path, required=True, metavar="DIR", help="where results are written")
    add_output(parser)


def add_datasets(parser: Parser) -> None:
    """Give the parser its commands."""
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="asked")
    for name, about in (
        ("list", "name, kind, presence, shapes and licence of all data sets"),
        ("show", "the card of a data set: source, licence, citation, files"),
        ("fetch", "download a data set, or go on with a download that was stopped"),
        ("verify", "compare what is here with its sha256; exit code 2 if corrupt"),
    ):
        style = argparse.RawDescriptionHelpFormatter
        command = commands.add_parser(
            name, help=about, epilog=EXAMPLES["datasets"], formatter_class=style
        )
        if name == "show":
            command.add_argument("name", metavar="NAME", help="as `softrsa datasets list` has it")
        if name == "fetch":
            command.add_argument("names", metavar="NAME", nargs="+", help="one or more data sets")
        if name == "verify":
            command.add_argument("name", metavar="NAME", nargs="?", help="one data set (all)")
        command.add_argument("--json", action="store_true", help="write JSON, for machines")
        command.add_argument("--quiet", action="store_true", help="no progress, only the essential")


def add_completion(parser: Parser) -> None:
    """Give the parser its options."""
    parser.add_argument("shell", choices=SHELLS, help="your shell")


def add_output(parser: Parser) -> None:
    """Give a parser the options of what it writes to the terminal."""
    parser.add_argument("--quiet", action="store_true", help="no progress and no table")
    parser.add_argument(
        "--json", action="store_true", help="the table as JSON on stdout, for programs"
    )


def _measures() -> Iterable[str]:
    from softrsa.measures import available

    return available()


def _transforms() -> Iterable[str]:
    from softrsa.transforms.on_rsms import TRANSFORMS

    return TRANSFORMS


def _identifying_transforms() -> Iterable[str]:
    from softrsa.identification.statistics import TRANSFORMS

    return TRANSFORMS


def _tasks() -> Iterable[str]:
    from softrsa.prediction.tasks import TASKS

    return TASKS


def names(text: str) -> list[str]:
    """Split names at commas."""
    found = [name.strip() for name in text.split(",") if name.strip()]
    if not found:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected names separated by commas.")
    return found


def seed(text: str) -> int:
    """Take a whole number that seeds a generator."""
    if not text.isdecimal() or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a whole number from 0 to 2^63.")
    return int(text)


def _counts(text: str) -> list[int]:
    """Take whole numbers separated by commas."""
    parts = text.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f"got {text!r}, expected whole numbers with commas.")
    return [int(part) for part in parts]


def _numbers(text: str) -> list[float]:
    """Take numbers separated by commas."""
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or not all(map(math.isfinite, found)):
        raise argparse.ArgumentTypeError(f"got {text!r}, expected numbers separated by commas.")
    return found


def one_line(message: object) -> str:
    """Join the lines of a message."""
    return " ".join(str(message).split())


def say(line: str) -> None:
    """Write a line to stderr."""
    sys.stderr.write(f"{line}\n")


COMMANDS = {
    "align": (add_align, "align a model's layers with a brain's regions on held-out stimuli"),
    "report": (add_report, "write a page for readers from the result of an alignment"),
    "identify": (add_identify, "tell which region an RDM of a left-out subject is of"),
    "optimize": (add_optimize, "change random data until a measure gives them a score"),
    "predict": (add_predict, "compare neighbor-regression heads on the same splits"),
    "datasets": (add_datasets, "list, show, fetch and verify data sets"),
    "completion": (add_completion, "let your shell complete commands and options"),
}


def build_parser(commands: Iterable[str] | None = None) -> Parser:
    """Build the parser, with the options of the commands named (all)."""
    style = argparse.RawDescriptionHelpFormatter
    parser = Parser(
        prog="softrsa",
        description="Representational similarity analysis with learned transforms.",
        epilog=EXAMPLES["softrsa"],
        formatter_class=style,
    )
    parser.add_argument("--version", action="version", version=softrsa.__version__)
    parsers = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    for name, (add_options, about) in COMMANDS.items():
        command = parsers.add_parser(
            name, help=about, description=f"{about[0].upper()}{about[1:]}.",
            epilog=EXAMPLES[name], formatter_class=style,
        )  # fmt: skip
        if commands is None or name in commands:
            add_options(command)
    return parser
