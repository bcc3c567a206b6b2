"""How large the house is, and how far through it one call walks.

    python benchmarks/studies/house.py

A minute at most. Today's numbers beside those of 21e7ffd, before the house was rebuilt, and those
wanted.

A module with one neighbor is one that exactly one other module imports, of its own folder; what an
`__init__` imports for others does not count, nor what is imported for types only. Circles are of
modules that import each other in any way, inside functions and for types too. Functions are those
with a name: comprehensions and lambdas belong to the function they stand in. Bodies are without
docstrings, those of nested functions count twice.
"""

from __future__ import annotations

import ast
import subprocess
import sys
import threading
import tokenize
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from types import CodeType, FrameType

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1] / "softrsa"
ADDITIONS = HERE.parents[1] / "tests" / "test_additions.py"
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
NAMELESS = ("<lambda>", "<listcomp>", "<dictcomp>", "<setcomp>", "<genexpr>", "<module>")
Graph = dict[str, set[str]]


class House:
    """All modules of the package by name."""

    def __init__(self, root: Path):
        self.files = sorted(root.rglob("*.py"))
        self.paths = {self._name(path, root): path for path in self.files}
        self.trees = {name: ast.parse(path.read_bytes()) for name, path in self.paths.items()}

    @staticmethod
    def _name(path: Path, root: Path) -> str:
        parts = path.relative_to(root.parent).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    def imports(self, *, types: bool) -> Graph:
        """Modules that each module imports, for types too if asked for."""
        return {
            name: {self._module(to) for to in self._targets(name, types)} - {name, ""}
            for name in self.paths
        }

    def _targets(self, name: str, types: bool) -> Iterator[str]:
        for node in statements(self.trees[name], types):
            if isinstance(node, ast.Import):
                yield from (one.name for one in node.names)
            if isinstance(node, ast.ImportFrom):
                base = self._base(name, node)
                yield from (f"{base}.{one.name}" for one in node.names)

    def _base(self, name: str, node: ast.ImportFrom) -> str:
        """Name in full the module that names are imported from."""
        if not node.level:
            return node.module or ""
        above = name.split(".") if self.is_init(name) else name.split(".")[:-1]
        parts = above[: len(above) - node.level + 1]
        return ".".join([*parts, *([node.module] if node.module else [])])

    def _module(self, name: str) -> str:
        """Find the module that a dotted name is in, "" where it is not ours."""
        while name and name not in self.paths:
            name = name.rpartition(".")[0]
        return name

    def is_init(self, name: str) -> bool:
        """Whether a module is a folder's `__init__`."""
        return self.paths[name].name == "__init__.py"

    def with_one_neighbor(self) -> list[str]:
        """Modules that one other module of the same folder imports, and no other."""
        importers: Graph = {name: set() for name in self.paths}
        for name, targets in self.imports(types=False).items():
            for target in targets if not self.is_init(name) else ():
                importers[target].add(name)
        return [
            name
            for name, by in importers.items()
            if len(by) == 1
            and not self.is_init(name)
            and folder(next(iter(by))) == folder(name)
        ]  # fmt: skip


def folder(name: str) -> str:
    """Package a module is in."""
    return name.rpartition(".")[0]


def statements(node: ast.AST, types: bool) -> Iterator[ast.AST]:
    """All nodes below one, with or without those under `if TYPE_CHECKING`."""
    for child in ast.iter_child_nodes(node):
        if not types and isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for other in child.orelse:
                yield other
                yield from statements(other, types)
            continue
        yield child
        yield from statements(child, types)


def circles(graph: Graph) -> list[set[str]]:
    """Find sets of modules that all lead to each other."""
    reached = {name: reach(graph, name) for name in graph}
    found = [{a for a in reached[name] if name in reached[a]} for name in graph]
    return list({min(one): one for one in found if len(one) > 1}.values())


def reach(graph: Graph, start: str) -> set[str]:
    """Modules that importing one leads to."""
    seen: set[str] = set()
    ahead = [start]
    while ahead:
        new = graph[ahead.pop()] - seen
        seen |= new
        ahead += new
    return seen


def docstring_of(node: ast.AST) -> ast.Expr | None:
    """Statement that is a docstring."""
    documented = isinstance(node, (ast.Module, ast.ClassDef, *FUNCTIONS))
    if documented and node.body and ast.get_docstring(node, clean=False) is not None:
        return node.body[0]
    return None


def docstring_lines(tree: ast.Module) -> set[int]:
    """Lines that docstrings take."""
    found = [one for node in ast.walk(tree) if (one := docstring_of(node)) is not None]
    return {line for one in found for line in range(one.lineno, one.end_lineno + 1)}


def code_lines(path: Path, docstrings: set[int]) -> set[int]:
    """Lines with anything but comments and docstrings."""
    nothing = {
        tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT,
        tokenize.ENCODING, tokenize.ENDMARKER,
    }  # fmt: skip
    with path.open("rb") as file:
        tokens = [one for one in tokenize.tokenize(file.readline) if one.type not in nothing]
    spans = (range(one.start[0], one.end[0] + 1) for one in tokens)
    return {line for span in spans for line in span} - docstrings


def bodies(tree: ast.Module) -> Iterator[int]:
    """Lines of the bodies of functions, without docstrings."""
    for node in ast.walk(tree):
        if isinstance(node, FUNCTIONS):
            rest = node.body[docstring_of(node) is not None :]
            yield rest[-1].end_lineno - rest[0].lineno + 1 if rest else 0


def walked(call: Callable[[], object]) -> set[CodeType]:
    """Named functions of the package that a call passes through, in threads too.

    Of the second time, when all is loaded; threads that stay keep the profile they began with, so
    that the first time must be the first of its process.
    """
    passed: set[CodeType] = set()

    def see(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event == "call" and code.co_name not in NAMELESS and str(ROOT) in code.co_filename:
            passed.add(code)

    threading.setprofile(see)
    sys.setprofile(see)
    try:
        call()
        passed.clear()
        call()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]
    return passed


def walk(how: str) -> None:
    """Print functions and files that `align` of one layer and one region passes through."""
    warnings.simplefilter("ignore")
    from softrsa import align, datasets

    data = datasets.load("simulated", progress=False)
    layer = data.layers[:, data.layers["layer"] == "layer1"]
    region = data.regions["early"]
    plain = how == "plain"
    if plain:
        region = region[:, region["subject"] == region["subject"][0]]
    passed = walked(
        lambda: align(
            {"layer1": layer}, {"early": region}, transforms=["identity"] if plain else None,
            n_resamples=0 if plain else 100,
        )
    )  # fmt: skip
    print(len(passed), len({code.co_filename for code in passed}))


def walk_of(how: str) -> str:
    """Functions and files that a call passes through, in a process of its own."""
    told = subprocess.run(  # noqa: S603
        [sys.executable, __file__, "--walk", how], capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    return f"{told[-2]} ({told[-1]})"


def rows(house: House) -> Iterator[tuple[str, object, str, str]]:
    """Measure: what, now, at 21e7ffd, wanted."""
    texts = {name: docstring_lines(tree) for name, tree in house.trees.items()}
    lengths = [len(path.read_bytes().splitlines()) for path in house.files]
    code = sum(len(code_lines(path, texts[name])) for name, path in house.paths.items())
    yield "files in `softrsa/`", len(house.files), "237", "at most 155"
    yield "lines", sum(lengths), "36592", "at most 33500"
    yield "- of code", code, "21860", ""
    yield "- of docstrings", sum(map(len, texts.values())), "9851", ""
    yield "median file, lines", f"{median(lengths):.0f}", "142", "150 to 450"
    yield "files of more than 600 lines", sum(n > 600 for n in lengths), "0", "look again"
    alone = house.with_one_neighbor()
    yield "modules whose only importer is one neighbor", len(alone), "52", "at most 10"
    wide = sum(len(house.paths[name].read_bytes().splitlines()) for name in alone)
    yield "- their lines", wide, "8976", ""
    yield "functions (files) of one plain RSA", walk_of("plain"), "163 (38)", "at most 90 (20)"
    yield "- of all transforms, with intervals", walk_of("all"), "243 (46)", ""
    found = circles(house.imports(types=True))
    yield "circles of imports", len(found), "4", "0"
    running = circles(house.imports(types=False))
    yield "- not for types only", len(running), "1", "0"
    sizes = sorted(size for tree in house.trees.values() for size in bodies(tree))
    spread = f"{median(sizes):.0f}, {sizes[int(0.9 * len(sizes))]}, {sizes[-1]}"
    yield "bodies: median, 90 %, longest", spread, "6, 18, 70", "below 10, 30, 50"
    if ADDITIONS.exists():
        cost = "1 / 1 / 1, as tests/test_additions.py adds them"
        yield "files to touch for a measure / transform / format", cost, "3 / 8 / 3", "1 / 1 / 1"


def main() -> None:
    """Print the table, then the modules with one neighbor and the circles by name."""
    if sys.argv[1:2] == ["--walk"]:
        walk(sys.argv[2])
        return
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=HERE, capture_output=True, text=True, check=False,
    ).stdout.strip()  # fmt: skip
    print(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, commit {commit or 'unknown'}\n")
    house = House(ROOT)
    print("| | now | at 21e7ffd | wanted |\n| --- | --- | --- | --- |")
    for name, now, before, wanted in rows(house):
        print(f"| {name} | {now} | {before} | {wanted} |")
    print("\nWith one neighbor:", ", ".join(house.with_one_neighbor()) or "none")
    for one in circles(house.imports(types=True)):
        print("A circle:", ", ".join(sorted(one)))


if __name__ == "__main__":
    main()
