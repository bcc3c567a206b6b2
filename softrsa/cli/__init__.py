"""The command `softrsa`: parse, call public functions, write files; no mathematics."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from softrsa.cli.parser import build_parser, one_line, say
from softrsa.cli.wording import in_options
from softrsa.errors import SoftRSAError

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; a user's mistake is one line on stderr and exit code 2."""
    given = sys.argv[1:] if argv is None else list(argv)
    try:
        arguments = build_parser(given).parse_args(given, argparse.Namespace(argv=given))
    except SystemExit as stop:  # after --help too
        raise SystemExit(_written(stop.code)) from None
    return _written(_run(arguments))


def _run(arguments: argparse.Namespace) -> int:
    """Run a command; what it returns is the exit code."""
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            import_module(f"softrsa.cli.{arguments.command}").run(arguments)
        for message in dict.fromkeys(str(w.message) for w in caught):
            say(f"softrsa: warning: {in_options(one_line(message), arguments.command)}")
    except (SoftRSAError, OSError) as error:
        say(f"softrsa: error: {in_options(one_line(error), arguments.command)}")
        return 2
    except KeyboardInterrupt as stop:
        say(f"softrsa: stopped; {str(stop) or 'nothing was written.'}")
        return 130
    return 0


def _written(code: Any) -> Any:
    """Write what stdout holds back; where it cannot be, such as in a pipe that is closed, say so.

    Python would try again at its end, and print a traceback.
    """
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not code:
            say(f"softrsa: error: cannot write to stdout ({error.strerror}).")
        return code or 2
    return code
