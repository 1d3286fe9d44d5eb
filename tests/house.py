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
from typing import NamedTuple

from tests import imports

MAX_FILE = 450  # lines
NONE = "no reason given"
MAX_FUNCTION = 80  # lines; a longer one is listed, not refused

# Why a module is long.
LONG_FILES = {
    "access.tokens": "one table of tokens: every statement on it, and the rules that they keep",
    "api.pipeline": "the one order of steps that every request goes through",
    "api.v1.appeals": "one resource: seven routes of a few lines each, with the schemas they share",
    "config.sections": "one table of keys: each with type, default, limits and its description",
    "feeds.downloader": "one download: its bounds, its conditions and the file that it leaves",
    "plugins.forward": "one flight from the query to the answer; half of it says how that works",
    "publish.rpz.primary": "one protocol: SOA, AXFR, IXFR and NOTIFY with TSIG",
    "wire.reply": "one pass over a reply; splitting it would cost the packet path calls",
}

# Why classes share a name, with the modules of each such name: another module is an error.
SAME_NAMES = {
    "a plugin, and the section of the configuration with its options": (
        "Acl in config.sections, plugins.acl",
        "Cache in config.sections, plugins.cache",
        "Forward in config.sections, plugins.forward",
        "Guard in config.sections, plugins.guard",
        "Limit in api.limits, config.sections, plugins.limit",
        "Rebind in config.sections, plugins.rebind",
        "Special in config.sections, plugins.special",
    ),
    "a part, and the section of the configuration for it": (
        "Rpz in config.sections, feeds.rpzfile",
        "Store in cases.store, config.sections",
        "Upstream in config.values, plugins.forward.upstream",
    ),
    "the API's schema has the name of what it shows": (
        "AppealEvent in api.v1.appeals, cases.appeals",
        "Batch in api.v1.log, policy.model",
        "Case in api.v1.cases, cases.model",
        "Decided in api.services, cases.appeal_service",
        "Feed in api.v1.feeds, config.sections",
        "Limits in api.limits, cases.model",
        "Page in api.schemas, cases.model",
        "Report in api.v1.candidates, cases.model",
        "Rule in api.schemas, rules",
        "Source in api.services, api.v1.sources, cases.model",
        "Verdict in api.schemas, verdict",
    ),
    "the same thing in two stores, each with a driver of its own": (
        "SqliteStore in cases.drivers.sqlite, policy.drivers.sqlite.store",
    ),
    "a plain word of each part's trade; no module knows both": (
        "Added in cases.model, worker.query_sample",
        "Bucket in access.buckets, plugins.clients",
        "Client in fetch.http, plugins.clients",
        "Connection in api.connection, cases.drivers.sqlite.connection, "
        "policy.drivers.sqlite.connection, worker.listeners.connections",
        "Entry in access.tokens, worker.packet_cache, worker.query_sample",
        "Evidence in cases.growth, cases.submissions",
        "Fetched in feeds.downloader, fetch.bounds",
        "Group in cli.base, plugins.forward.upstream",
        "Intake in cases.drivers.sqlite.intake, cases.ndjson",
        "Kind in api.problems, special_zones",
        "Line in classify.training.files, cli.banner",
        "Owner in plugins.forward.stream, plugins.forward.udp",
        "Problem in api.problems, feeds.parsed",
        "Pseudonyms in cases.submissions, hitlog.buffer",
        "Reader in cases.ndjson, config.reader, feeds.parsed",
        "Standing in cases.growth, cases.submissions",
        "State in cases.model, publish.rpz.store",
        "Step in cases.model, cli.terminal",
        "Waiting in cases.casework, plugins.base",
    ),
}

Modules = Mapping[str, imports.Module]


class Rules(NamedTuple):
    """What a package may do."""

    layers: Sequence[Sequence[str]]
    upward: Mapping[tuple[str, str], str]
    long_files: Mapping[str, str]
    same_names: Mapping[str, Iterable[str]]


class Report(NamedTuple):
    """Lines to print in order, and what is wrong."""

    lines: list[str]
    wrong: list[str]


def inspect(found: Modules, rules: Rules) -> Report:
    """
    Look through a package.

    Args:
        found: its modules.
        rules: what it may do.
    """
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
        (f"files over {MAX_FILE} lines", _long_files(found), rules.long_files),
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


def _upward(found: Modules, rules: Rules) -> list[str]:
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


def _circles(found: Modules, typed: bool = False) -> list[str]:
    """Circles between rooms and between modules; with `typed` those that types alone close."""
    graph = {name: set(module.uses) for name, module in found.items()}
    if typed:
        whole = {name: {*module.uses, *module.types} for name, module in found.items()}
        known = {tuple(circle) for circle in imports.circles(graph)}
        groups = [circle for circle in imports.circles(whole) if tuple(circle) not in known]
    else:
        groups = imports.circles(graph) + imports.circles(imports.parts(graph))
    return [" ⇄ ".join(group) for group in groups]


def _long_files(found: Modules) -> dict[str, str]:
    """Modules over `MAX_FILE` lines, longest first."""
    sizes = [(module.path.read_text("utf-8").count("\n"), name) for name, module in found.items()]
    return {
        name: f"{name} has {size} lines"
        for size, name in sorted(sizes, reverse=True)
        if size > MAX_FILE
    }


def _same_names(found: Modules) -> dict[str, str]:
    """Public class names that stand in more than one module, with the modules."""
    places = defaultdict(list)
    for name, module in found.items():
        for node in module.tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(name)
    lines = (
        f"{name} in {', '.join(where)}" for name, where in sorted(places.items()) if len(where) > 1
    )
    return {line: line for line in lines}


def _long_functions(found: Modules) -> Iterator[str]:
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

    rules = Rules(test_layers.LAYERS, test_layers.KNOWN, LONG_FILES, SAME_NAMES)
    report = inspect(test_layers.MODULES, rules)
    print("\n".join(report.lines))
    for problem in report.wrong:
        print(f"house: {problem}", file=sys.stderr)
    return 1 if report.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
