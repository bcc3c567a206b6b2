"""The command `softrsa`: parse, call public functions, write files; no mathematics."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence

import softrsa
from softrsa.cli.align import add_align
from softrsa.cli.common import Parser, Stopped, one_line, say
from softrsa.cli.completion import add_completion
from softrsa.cli.datasets import add_datasets
from softrsa.cli.examples import EXAMPLES
from softrsa.cli.identify import add_identify
from softrsa.cli.optimize import add_optimize
from softrsa.cli.predict import add_predict
from softrsa.cli.report import add_report
from softrsa.errors import SoftRSAError

__all__ = ["main"]

COMMANDS = {
    "align": (add_align, "align a model's layers with a brain's regions on held-out stimuli"),
    "report": (add_report, "write a page for readers from the result of an alignment"),
    "identify": (add_identify, "tell which region an RDM of a left-out subject is of"),
    "optimize": (add_optimize, "change random data until a measure gives them a score"),
    "predict": (add_predict, "compare neighbor-regression heads on the same splits"),
    "datasets": (add_datasets, "list, show, fetch and verify data sets"),
    "completion": (add_completion, "let your shell complete commands and options"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; a user's mistake is one line on stderr and exit code 2."""
    parser = _parser()
    given = sys.argv[1:] if argv is None else list(argv)
    arguments = parser.parse_args(given, argparse.Namespace(argv=given, parser=parser))
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            arguments.run(arguments)
        for message in dict.fromkeys(str(w.message) for w in caught):
            say(f"softrsa: warning: {one_line(message)}")
    except (SoftRSAError, OSError) as error:
        say(f"softrsa: error: {one_line(error)}")
        return 2
    except Stopped as stop:
        say(f"softrsa: stopped; {stop}")
        return 130
    except KeyboardInterrupt:
        say("softrsa: stopped; nothing was written.")
        return 130
    return 0


def _parser() -> Parser:
    style = argparse.RawDescriptionHelpFormatter
    parser = Parser(
        prog="softrsa",
        description="Representational similarity analysis with learned transforms.",
        epilog=EXAMPLES["softrsa"],
        formatter_class=style,
    )
    parser.add_argument("--version", action="version", version=softrsa.__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, (add, about) in COMMANDS.items():
        add(
            commands.add_parser(
                name, help=about, description=f"{about[0].upper()}{about[1:]}.",
                epilog=EXAMPLES[name], formatter_class=style,
            )
        )  # fmt: skip
    return parser
