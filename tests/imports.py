"""
Who imports whom: the import statements of a package, read without running it.

Under `tests/test_layers.py` and `tests/house.py`.  Knows nothing of layers.  An import of a module
also runs the packages above it; that is not counted, since each of them would then be in a circle
with whatever it offers.
"""

import ast
import functools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

Graph = Mapping[str, Iterable[str]]

# All that has statements in it.
_BLOCKS = (
    *(ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.If, ast.For, ast.AsyncFor),
    *(ast.While, ast.With, ast.AsyncWith, ast.Try, ast.TryStar, ast.ExceptHandler, ast.Match),
    ast.match_case,
)


class Module(NamedTuple):
    """
    A module and the modules of its package that it imports, both without the package's name.

    `uses` are the imports for use, wherever in the file; `types` those under ``TYPE_CHECKING``.
    """

    path: Path
    tree: ast.Module
    uses: tuple[str, ...]
    types: tuple[str, ...]


def modules(package: Path, leave_out: Iterable[str] = ()) -> dict[str, Module]:
    """
    Every module of a package by its name; ``__init__`` is the package itself.

    Args:
        package: its folder, whose name is the package's.
        leave_out: folders of it that are no part of what runs.

    Raises:
        AssertionError: an import is relative.
        SyntaxError: a file is no Python.
    """
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        if parts[0] in leave_out:
            continue
        name = ".".join(parts if parts[-1] != "__init__" or len(parts) == 1 else parts[:-1])
        tree = ast.parse(path.read_text("utf-8"))
        uses: set[str] = set()
        types: set[str] = set()
        for node, typed in statements(tree):
            (types if typed else uses).update(_imported(package, path, node))
        found[name] = Module(path, tree, tuple(sorted(uses)), tuple(sorted(types - uses)))
    return found


def statements(node: ast.AST, typed: bool = False) -> Iterator[tuple[ast.stmt, bool]]:
    """Every statement below a node, and whether it stands under ``TYPE_CHECKING``."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt):
            yield child, typed
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            yield from statements(child, True)
        elif isinstance(child, _BLOCKS):
            yield from statements(child, typed)


def _imported(package: Path, path: Path, node: ast.stmt) -> Iterator[str]:
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, f"{path}: imports are absolute"
        names = [f"{node.module}.{alias.name}" for alias in node.names]
    else:
        return
    for name in names:
        if name.startswith(f"{package.name}."):
            yield _resolved(package, name.removeprefix(f"{package.name}."))


@functools.cache
def _resolved(package: Path, name: str) -> str:
    """``policy.log.Change`` → ``policy.log``: the longest part that is a module."""
    parts = name.split(".")
    while parts:
        path = package.joinpath(*parts)
        if path.with_suffix(".py").is_file() or (path / "__init__.py").is_file():
            return ".".join(parts)
        parts.pop()
    return "__init__"


def top(name: str) -> str:
    """The part of the package that a module belongs to."""
    return name.partition(".")[0]


def upward(layer: Mapping[str, int], name: str, other: str) -> bool:
    """
    Whether a module imports what stands beside or above it.

    Args:
        layer: the number of each part's layer, from below.
        name: the module.
        other: what it imports.
    """
    if top(other) == top(name):
        return False
    mine, theirs = layer[top(name)], layer[top(other)]
    # Single modules of one layer may use each other; parts with a folder may not.
    beside = mine == theirs and "." not in name and "." not in other
    return theirs > mine or (theirs == mine and not beside)


def parts(graph: Graph) -> dict[str, set[str]]:
    """The same graph between the parts of the package."""
    found: dict[str, set[str]] = {}
    for name, others in graph.items():
        found.setdefault(top(name), set()).update(top(o) for o in others if top(o) != top(name))
    return found


def circles(graph: Graph) -> list[list[str]]:
    """Groups of nodes of which each leads to all others, each group sorted."""
    reach = {node: _reach(graph, node) for node in graph}
    groups = {
        tuple(sorted(other for other in reach[node] if node in reach[other]))
        for node in graph
        if node in reach[node]
    }
    return [list(group) for group in sorted(groups) if len(group) > 1]


def _reach(graph: Graph, node: str) -> set[str]:
    """What a node leads to, itself only if there is a way back."""
    found: set[str] = set()
    ahead = [node]
    while ahead:
        more = set(graph[ahead.pop()]) & graph.keys() - found
        found |= more
        ahead += more
    return found
