"""The command `softrsa`: parse, call public functions, write files; no mathematics."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence

import softrsa
from softrsa.cli.align import add_align
from softrsa.cli.common import Parser, Stopped, one_line, say
from softrsa.cli.identify import add_identify
from softrsa.cli.optimize import add_optimize
from softrsa.cli.predict import add_predict
from softrsa.errors import SoftRSAError

__all__ = ["main"]

EXAMPLES = """examples:
  softrsa align --demo --out results/
  softrsa align --dataset kriegeskorte92 --model efficientnet-lite0 --out results/
  softrsa align LAYERS.nc RECORDINGS.nc --by layer --region region --subject subject \\
      --transform identity,geo_topological,global,instance --folds 5 --out results/
  softrsa identify --dataset algonauts2019-92 --out results/
  softrsa optimize --dataset macaque-v4 --region V4 --measure nbs,linear_cka --out results/
  softrsa predict --data surfaces --out results/
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; a user's mistake is one line on stderr and exit code 2."""
    arguments = _parser().parse_args(argv)
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
        epilog=EXAMPLES,
        formatter_class=style,
    )
    parser.add_argument("--version", action="version", version=softrsa.__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, add, about in (
        ("align", add_align, "align a model's layers with a brain's regions on held-out stimuli"),
        ("identify", add_identify, "tell which region an RDM of a left-out subject is of"),
        ("optimize", add_optimize, "change random data until a measure gives them a score"),
        ("predict", add_predict, "compare neighbor-regression heads on the same splits"),
    ):
        add(commands.add_parser(name, help=about, epilog=EXAMPLES, formatter_class=style))
    return parser
