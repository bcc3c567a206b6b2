"""`softrsa datasets`: what data there are, on what terms, where they lie, and whether intact."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from textwrap import fill, indent
from typing import Any

from softrsa import datasets
from softrsa._wording import counted, listed
from softrsa.datasets import FileCheck
from softrsa.errors import DataError

WIDTH = 96
WIDTHS = {"shapes": 44}  # of the columns of the list, in characters


def run(arguments: argparse.Namespace) -> None:
    """Do what is asked of the data sets."""
    asked = {"list": _list, "show": _show, "fetch": _fetch, "verify": _verify}
    asked[arguments.asked](arguments)


def _list(arguments: argparse.Namespace) -> None:
    """List all data sets."""
    cards = [datasets.card(name) for name in datasets.available()]
    rows = [
        {
            "name": card.name,
            "kind": card.kind,
            "here": datasets.presence(card),
            "shapes": card.shapes,
            "terms": card.terms,
            "licence": card.licence,
            "title": card.title,
        }
        for card in cards
    ]
    if arguments.json:
        _write_json(rows)
    elif arguments.quiet:
        _write("\n".join(row["name"] for row in rows))
    else:
        short = ("name", "kind", "here", "shapes")
        shown = [{**{k: row[k] for k in short}, "licence": row["terms"]} for row in rows]
        _write(f"{_table(shown)}\n\n`softrsa datasets show NAME` has the licence in full.")


def _show(arguments: argparse.Namespace) -> None:
    """Show one card."""
    card = datasets.card(arguments.name)
    here = datasets.presence(card)
    if arguments.json:
        _write_json({**asdict(card), "here": here})
        return
    paragraphs = [f"{card.name}: {card.title}"]
    if not arguments.quiet:
        paragraphs.append(_wrapped(card.description))
    for label in ("kind", "shapes", "licence", "source", "access", "preprocessing", "citation"):
        text = getattr(card, label)
        if text:
            paragraphs.append(f"{label.capitalize()}:\n{indent(_wrapped(text, WIDTH - 2), '  ')}")
    paragraphs.append(f"BibTeX:\n{indent(card.bibtex.strip(), '  ')}")
    files = [f"{file.path}  sha256 {file.sha256}" for file in card.files]
    files += [f"{file.path}: {file.what}" for file in card.placed]
    shown = files if len(files) <= 12 else [*files[:3], f"... ({len(files)} in all)"]
    paragraphs.append(f"Files ({here}):\n" + indent("\n".join(shown), "  "))
    _write("\n\n".join(paragraphs))


def _fetch(arguments: argparse.Namespace) -> None:
    """Find or download files, and say where they are."""
    found = {}
    for name in arguments.names:
        files = datasets.fetch(name, progress=not (arguments.quiet or arguments.json))
        found[name] = {file: str(path) for file, path in files.items()}
    if arguments.json:
        _write_json(found)
    elif not arguments.quiet:
        for name, files in found.items():
            folders = sorted({path.rsplit("/", 1)[0] for path in files.values()})
            _write(f"{name}: {counted(len(files), 'file')} in {', '.join(folders)}")


def _verify(arguments: argparse.Namespace) -> None:
    """Check files, and fail if one is corrupt."""
    checks = datasets.verify(arguments.name)
    rows = [{**asdict(check), "path": check.path and str(check.path)} for check in checks]
    if arguments.json:
        _write_json(rows)
    elif not arguments.quiet:
        shown = checks if arguments.name else _summary(checks)
        columns = ("status", "dataset", "file")
        _write(_table([{name: getattr(check, name) for name in columns} for check in shown]))
    corrupt = [str(check.path) for check in checks if check.status == "corrupt"]
    if corrupt:
        raise DataError(
            f"{counted(len(corrupt), 'file')} {'is' if len(corrupt) == 1 else 'are'} corrupt: "
            f"{listed(corrupt)}. Delete what is corrupt, and fetch it again."
        )


def _summary(checks: list[FileCheck]) -> list[FileCheck]:
    """Put what is missing or unchecked of a data set, and what is right, on one line each."""
    totals = Counter(check.dataset for check in checks)
    groups: dict[tuple[str, str], list[FileCheck]] = {}
    for check in checks:
        alone = str(check.file) if check.status == "corrupt" else ""
        groups.setdefault((check.dataset, check.status + alone), []).append(check)
    return [_together(found, totals[found[0].dataset]) for found in groups.values()]


def _together(found: list[FileCheck], total: int) -> FileCheck:
    """Count some files of a data set."""
    if len(found) == 1:
        return found[0]
    first = f"{len(found)} of {total} files, first {found[0].file}"
    return replace(found[0], file=first)


def _table(rows: Sequence[dict[str, Any]]) -> str:
    """Lay rows out in columns; long texts are cut."""
    cut = [{name: _cut(text, WIDTHS.get(name)) for name, text in row.items()} for row in rows]
    names = list(cut[0]) if cut else []
    widths = {n: max(len(n), *(len(row[n]) for row in cut)) for n in names}
    lines: Iterable[dict[str, str]] = [{n: n for n in names}, *cut]
    return "\n".join("  ".join(line[n].ljust(widths[n]) for n in names).rstrip() for line in lines)


def _cut(text: object, width: int | None) -> str:
    """Shorten a text to a width."""
    whole = " ".join(str(text).split())
    return whole if width is None or len(whole) <= width else f"{whole[: width - 3].rstrip()}..."


def _wrapped(text: str, width: int = WIDTH) -> str:
    return fill(" ".join(text.split()), width, break_long_words=False, break_on_hyphens=False)


def _write_json(content: object) -> None:
    _write(json.dumps(content, indent=2, ensure_ascii=False))


def _write(text: str) -> None:
    sys.stdout.write(f"{text}\n")
