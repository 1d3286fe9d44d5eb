"""
The state of the house: ``python -m tests.house`` prints it; it exits with 1 if it is out of order.

It prints rooms (the parts of the package) and floors (the layers of `tests/test_layers.py`),
imports that point upward, circles of imports, long files, classes of one name, and long functions.
All is read from the source; nothing of the package is run.

The tables below are what the package may do for a reason.  An entry that is not needed any more is
an error too, so the tables can only follow the code.
"""

import ast
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tests import imports

MAX_FILE = 450  # lines
NONE = "no reason given"
MAX_FUNCTION = 80  # lines; a longer one is listed, not refused

# Why a file is long, by its path in the package.
LONG_FILES: dict[str, str] = {}

# Why classes share a name, with the modules of each such name: another module is an error.
SAME_NAMES: dict[str, tuple[str, ...]] = {}


class Rules(NamedTuple):
    """What a package may do."""

    layers: Sequence[Sequence[str]]
    upward: Mapping[tuple[str, str], str]
    long_files: Mapping[str, str]
    same_names: Mapping[str, Iterable[str]]
    leave_out: frozenset[str] = frozenset()


class Report(NamedTuple):
    """Lines to print in order, and what is wrong."""

    lines: list[str]
    wrong: list[str]


def inspect(package: Path, rules: Rules) -> Report:
    """
    Look through a package.

    Args:
        package: its folder.
        rules: what it may do.
    """
    found = imports.modules(package, rules.leave_out)
    lines: list[str] = []
    wrong: list[str] = []
    rooms = {imports.top(name) for name in found}
    lines.append(f"rooms: {len(rooms)} on {len(rules.layers)} floors, {len(found)} modules")
    for title, problems in (
        ("imports upward", _upward(found, rules)),
        ("import circles", _circles(found)),
    ):
        lines.append(f"{title}: {len(problems)}")
        lines += [f"  {problem}" for problem in problems]
        wrong += problems
    typed = _circles(found, typed=True)
    lines.append(f"circles that only imports under TYPE_CHECKING close: {len(typed)}")
    lines += [f"  {circle}" for circle in typed]
    for title, hits, reasons in (
        (f"files over {MAX_FILE} lines", _long_files(package, found), rules.long_files),
        (
            "class names in more than one module",
            _same_names(found),
            {key: reason for reason, keys in rules.same_names.items() for key in keys},
        ),
    ):
        lines.append(f"{title}: {len(hits)}")
        lines += [f"  {words}: {reasons.get(key, NONE)}" for key, words in hits.items()]
        wrong += [f"{words}: {NONE}" for key, words in hits.items() if key not in reasons]
        wrong += [f"{key}: a reason without need" for key in reasons if key not in hits]
    long = list(_long_functions(found))
    lines.append(f"functions over {MAX_FUNCTION} lines: {len(long)}")
    lines += [f"  {function}" for function in long]
    return Report(lines, wrong)


def _upward(found: Mapping[str, imports.Module], rules: Rules) -> list[str]:
    """Imports of what stands above or beside, and rooms without a floor."""
    floor = {room: number for number, layer in enumerate(rules.layers) for room in layer}
    rooms = {imports.top(name) for name in found}
    wrong = [f"{room} has no floor" for room in sorted(rooms - floor.keys())]
    wrong += [f"{room} has a floor, and is not there" for room in sorted(floor.keys() - rooms)]
    seen = set()
    for name, module in found.items():
        for other in module.uses:
            if not {imports.top(name), imports.top(other)} <= floor.keys():
                continue
            if imports.upward(floor, name, other):
                seen.add((name, other))
    wrong += [f"{name} imports {other}" for name, other in sorted(seen - rules.upward.keys())]
    wrong += [
        f"{name} → {other}: an exception without need"
        for name, other in sorted(rules.upward.keys() - seen)
    ]
    return wrong


def _circles(found: Mapping[str, imports.Module], typed: bool = False) -> list[str]:
    """Circles between rooms and between modules; with `typed` those that types alone close."""
    graph = {name: set(module.uses) for name, module in found.items()}
    if typed:
        whole = {name: {*module.uses, *module.types} for name, module in found.items()}
        known = {tuple(circle) for circle in imports.circles(graph)}
        groups = [circle for circle in imports.circles(whole) if tuple(circle) not in known]
    else:
        groups = imports.circles(graph) + imports.circles(imports.parts(graph))
    return [" ⇄ ".join(group) for group in groups]


def _long_files(package: Path, found: Mapping[str, imports.Module]) -> dict[str, str]:
    """Files over `MAX_FILE` lines, longest first."""
    sizes = [
        (module.path.read_text("utf-8").count("\n"), module.path.relative_to(package).as_posix())
        for module in found.values()
    ]
    return {
        path: f"{path} has {size} lines"
        for size, path in sorted(sizes, reverse=True)
        if size > MAX_FILE
    }


def _same_names(found: Mapping[str, imports.Module]) -> dict[str, str]:
    """Class names that stand in more than one module, with the modules."""
    places = defaultdict(list)
    for name, module in found.items():
        for node in module.tree.body:
            if isinstance(node, ast.ClassDef):
                places[node.name].append(name)
    lines = (
        f"{name} in {', '.join(where)}" for name, where in sorted(places.items()) if len(where) > 1
    )
    return {line: line for line in lines}


def _long_functions(found: Mapping[str, imports.Module]) -> Iterator[str]:
    for name, module in found.items():
        for node, _ in imports.statements(module.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                lines = node.end_lineno - node.lineno + 1
                if lines > MAX_FUNCTION:
                    yield f"{name}.{node.name} has {lines} lines"


def main() -> int:
    """Print the state of the package; 1 if something is out of order."""
    from tests import test_layers

    report = inspect(
        test_layers.PACKAGE,
        Rules(
            test_layers.LAYERS,
            test_layers.KNOWN,
            LONG_FILES,
            SAME_NAMES,
            frozenset(test_layers.TOOLS),
        ),
    )
    print("\n".join(report.lines))
    for problem in report.wrong:
        print(f"house: {problem}", file=sys.stderr)
    return 1 if report.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
