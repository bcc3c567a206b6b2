"""`softrsa completion`: what a shell needs to complete commands and options."""

from __future__ import annotations

import argparse
import sys

import shtab

from softrsa.cli.parser import build_parser


def run(arguments: argparse.Namespace) -> None:
    """Write the script to stdout."""
    sys.stdout.write(shtab.complete(build_parser(), shell=arguments.shell))
