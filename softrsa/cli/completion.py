"""`softrsa completion`: what a shell needs to complete commands and options."""

from __future__ import annotations

import argparse
import sys

SHELLS = ("bash", "zsh", "fish", "tcsh")


def add_completion(parser: argparse.ArgumentParser) -> None:
    """Give the parser its options."""
    parser.add_argument("shell", choices=SHELLS, help="your shell")
    parser.set_defaults(run=_complete)


def _complete(arguments: argparse.Namespace) -> None:
    """Write the script to stdout."""
    import shtab

    sys.stdout.write(shtab.complete(arguments.parser, shell=arguments.shell))
