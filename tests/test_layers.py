"""Imports point one way: DESIGN.md's layers, read from the import statements."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "urlguard"

# First to last: a module imports from layers before its own, and from its own part.
LAYERS = [
    [
        "__init__",
        "errors",
        "times",
        "names",
        "urls",
        "pattern_syntax",
        "rules",
        "verdict",
        "events",
        "special_zones",
        "wellknown",
    ],
    ["processes"],
    ["metrics"],
    ["config"],
    ["system_resolvers", "wire", "blocklist", "policy", "classify", "access", "fetch", "hitlog"],
    ["compile", "engine", "feeds", "messages"],
    ["plugins", "publish", "local_policy", "check", "cases"],
    ["impact"],
    ["api"],
    ["worker", "control"],
    ["server"],
    ["cli"],
    ["__main__"],
]
TOOLS = {"data"}  # scripts that make the package's data, no part of what runs

# What a part never imports, whatever its layer.
NEVER = {
    "wire": ["policy", "blocklist"],
    "blocklist": ["wire", "policy", "plugins"],
    "classify": ["wire", "policy", "blocklist", "plugins"],
    "compile": ["wire", "feeds", "plugins"],
    "engine": ["wire", "policy", "plugins"],
    "policy": ["wire", "blocklist", "feeds", "plugins", "server"],
    "feeds": ["wire", "engine"],
    "fetch": ["wire", "policy", "blocklist", "access", "plugins"],
    "cases": ["wire", "blocklist", "classify", "engine", "plugins", "publish"],
    # Of the cases, `claims`, `decide` and `release` alone meet the log.
    "cases.store": ["policy"],
    "cases.triage": ["policy"],
    "cases.growth": ["policy"],
    "cases.recovery": ["policy"],
    "cases.appeals": ["policy"],
    "cases.incidents": ["policy"],
    "cases.redress": ["policy"],
    "cases.drivers.sqlite": ["policy"],
    "cases.drivers.sqlite.desk": ["policy"],
    "control": ["plugins", "worker"],
    "processes": ["config", "names", "rules", "verdict", "wellknown"],
    "worker": ["api", "cases", "control", "feeds", "server"],
    "worker.listeners": ["names", "policy", "blocklist", "rules"],
    "server.supervisor": ["names", "policy", "blocklist", "rules"],
}

# Where the code is not as the layers want it, and why it may be so for now.  An entry that is not
# needed any more fails a test, so the list can only become shorter.
KNOWN: dict[tuple[str, str], str] = {}


def imports(path):
    """Modules of the package that a file imports for use, wherever in the file."""
    tree = ast.parse(path.read_text("utf-8"))
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            found = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in found:
            if name.startswith("urlguard."):
                yield resolved(name.removeprefix("urlguard."))


def resolved(name):
    """``policy.log.Change`` → ``policy.log``: the longest part that is a module."""
    parts = name.split(".")
    while parts:
        path = PACKAGE.joinpath(*parts)
        if path.with_suffix(".py").is_file() or (path / "__init__.py").is_file():
            return ".".join(parts)
        parts.pop()
    return "__init__"


def modules():
    """Every module of the package with the modules that it imports."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts if parts[-1] != "__init__" or len(parts) == 1 else parts[:-1])
        if parts[0] not in TOOLS:
            yield name, sorted(set(imports(path)))


MODULES = dict(modules())
LAYER = {part: number for number, layer in enumerate(LAYERS) for part in layer}


def top(name):
    """The part of the package that a module belongs to."""
    return name.partition(".")[0]


def test_every_part_has_a_layer():
    """
    A new part must be given its place here.
    """
    assert {top(name) for name in MODULES} <= LAYER.keys()


def breaks(name, other):
    """Whether a module imports what stands beside or above it."""
    if top(other) == top(name):
        return False
    mine, theirs = LAYER[top(name)], LAYER[top(other)]
    # Single modules of one layer may use each other; parts with a folder may not.
    beside = mine == theirs and "." not in name and "." not in other
    return theirs > mine or (theirs == mine and not beside)


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_down(name):
    """
    Vocabulary ← wire, blocklist, policy ← engine, feeds ← plugins, share, check, decisions ←
    server ← cli; imports within a function count too, those for types alone do not.
    """
    wrong = {(name, other) for other in MODULES[name] if breaks(name, other)}
    assert wrong <= KNOWN.keys()


@pytest.mark.parametrize("name", MODULES)
def test_what_a_part_never_imports(name):
    """
    The wire format knows no policy, the blocklist no packets, the listener no names.
    """
    banned = [*NEVER.get(name, ()), *NEVER.get(top(name), ())]
    assert not [o for o in MODULES[name] if top(o) in banned and (name, o) not in KNOWN]


def test_known_exceptions_are_still_needed():
    """
    What has been put in order leaves the list.
    """
    unneeded = [(n, o) for n, o in KNOWN if o not in MODULES[n] or not breaks(n, o)]
    assert unneeded == []
