"""A table of rows, each known by its name: what all lists of measures, transforms, … are read from.

A table may belong to a package: its modules are imported before the table is first read, and each
adds its own rows. So a new row is one new file, which nothing else has to name.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from typing import Any, Generic, Protocol, TypeVar

from softrsa.errors import DataError, DTypeError, unknown_name


class Named(Protocol):
    """Anything with a name."""

    @property
    def name(self) -> str:
        """The name it is looked up by."""
        ...


Row = TypeVar("Row", bound=Named)


class Table(Mapping[str, Row], Generic[Row]):
    """Rows of one kind by name, in the order in which they were added.

    Parameters
    ----------
    kind : str
        What a row is, for messages: "measure".
    row_type : type
        Class of the rows.
    package : str, optional
        Package whose public modules add rows when they are imported.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> table = Table("color", SimpleNamespace)
    >>> red = table.add(SimpleNamespace(name="red"))
    >>> [*table], table.row("red") is table.row(red)
    (['red'], True)
    """

    def __init__(self, kind: str, row_type: type[Any], package: str | None = None):
        self.kind, self.row_type = kind, row_type
        self._package = package
        self._rows: dict[str, Row] = {}

    def add(self, row: Row) -> Row:
        """Add a row and give it back; a second one of the same name is refused."""
        if not isinstance(row, self.row_type):
            raise DTypeError(
                f"A {self.kind} must be a `{self.row_type.__name__}`, got {type(row).__name__}."
            )
        if row.name in self._rows:
            raise DataError(f"There is a {self.kind} {row.name!r} already; choose another name.")
        self._rows[row.name] = row
        return row

    def row(self, given: str | Row) -> Row:
        """Look a row up by name; a row itself is given back, whether it is in the table or not."""
        if isinstance(given, self.row_type):
            return given  # type: ignore[return-value]
        if not isinstance(given, str):
            raise DTypeError(
                f"A {self.kind} is given by its name or as a `{self.row_type.__name__}`, got "
                f"{type(given).__name__}; names are {', '.join(self)}."
            )
        return self[given]

    def _complete(self) -> dict[str, Row]:
        """Import the package's modules, once, and give all rows."""
        package, self._package = self._package, None
        if package is not None:
            folder = importlib.import_module(package).__path__
            for module in pkgutil.iter_modules(folder):
                if not module.name.startswith("_"):
                    importlib.import_module(f"{package}.{module.name}")
        return self._rows

    def __getitem__(self, name: str) -> Row:
        rows = self._complete()
        if name not in rows:
            raise unknown_name(self.kind, name, rows)
        return rows[name]

    def __contains__(self, name: object) -> bool:
        return name in self._complete()

    def __iter__(self) -> Iterator[str]:
        return iter(self._complete())

    def __len__(self) -> int:
        return len(self._complete())
