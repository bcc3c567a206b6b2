"""The command `softrsa`: parse, call public functions, write files; no mathematics."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module

from softrsa.cli.parser import build_parser, one_line, say
from softrsa.errors import SoftRSAError

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; a user's mistake is one line on stderr and exit code 2."""
    given = sys.argv[1:] if argv is None else list(argv)
    arguments = build_parser(given).parse_args(given, argparse.Namespace(argv=given))
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            import_module(f"softrsa.cli.{arguments.command}").run(arguments)
        for message in dict.fromkeys(str(w.message) for w in caught):
            say(f"softrsa: warning: {one_line(message)}")
    except (SoftRSAError, OSError) as error:
        say(f"softrsa: error: {one_line(error)}")
        return 2
    except KeyboardInterrupt as stop:
        say(f"softrsa: stopped; {str(stop) or 'nothing was written.'}")
        return 130
    return 0
