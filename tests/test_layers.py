"""Imports point one way: DESIGN.md's layers, read from the import statements."""

import re
from pathlib import Path

import pytest

from tests.imports import modules, top, upward

PACKAGE = Path(__file__).parents[1] / "urlguard"

# First to last: a module imports from layers before its own, and from its own part.
LAYERS = [
    [
        "__init__",
        "errors",
        "i18n",
        "times",
        "names",
        "urls",
        "pattern_syntax",
        "rules",
        "verdict",
        "events",
        "metrics",
        "special_zones",
        "sqlite_file",
        "wellknown",
    ],
    ["processes"],
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
    # Of the cases, `claims`, `decide` and `unblocking` alone meet the log.
    "cases.store": ["policy"],
    "cases.triage": ["policy"],
    "cases.growth": ["policy"],
    "cases.recovery": ["policy"],
    "cases.appeals": ["policy"],
    "cases.incidents": ["policy"],
    "cases.appeal_service": ["policy"],
    "cases.drivers.sqlite": ["policy"],
    "cases.drivers.sqlite.decisions": ["policy"],
    "control": ["plugins", "worker"],
    "worker": ["api", "cases", "control", "feeds", "i18n", "server"],
    "worker.listeners": ["names", "policy", "blocklist", "rules"],
    "server.supervisor": ["names", "policy", "blocklist", "rules"],
}

# The only other parts that a part imports.
ONLY = {
    "metrics": set(),
    "processes": {"errors", "events"},
}

# Where the code is not as the layers want it, and why it may be so for now.  An entry that is not
# needed any more fails a test, so the list can only become shorter.
KNOWN: dict[tuple[str, str], str] = {}

# Who may import sqlite3, by the start of the module's name, and why.
SQLITE = {
    "sqlite_file": "opens files for all others",
    "policy.drivers.sqlite": "a driver of the policy log",
    "cases.drivers.sqlite": "a driver of the cases",
}
# Files that stay on the machine, wherever the policy log and the cases are, and why.
LOCAL = {
    "access.tokens": "callers are known while nothing else answers; no check waits for a network",
    "api.idempotency": "a key is for one caller's retries to one server, for a day",
    "publish.rpz.store": "derived from the log, and may be deleted",
}


MODULES = modules(PACKAGE, TOOLS)
LAYER = {part: number for number, layer in enumerate(LAYERS) for part in layer}


def test_every_part_has_a_layer():
    """
    A new part must be given its place here.
    """
    assert {top(name) for name in MODULES} <= LAYER.keys()


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_down(name):
    """
    Each part imports from rows of `LAYERS` before its own; imports within a function count too,
    those for types alone do not.
    """
    wrong = {(name, other) for other in MODULES[name].uses if upward(LAYER, name, other)}
    assert wrong <= KNOWN.keys()


@pytest.mark.parametrize("name", MODULES)
def test_what_a_part_never_imports(name):
    """
    The wire format knows no policy, the blocklist no packets, the listener no names.
    """
    banned = [*NEVER.get(name, ()), *NEVER.get(top(name), ())]
    assert not [o for o in MODULES[name].uses if top(o) in banned and (name, o) not in KNOWN]


@pytest.mark.parametrize("part", ONLY)
def test_the_only_parts_that_a_part_imports(part):
    """
    What runs in every process brings no policy, no configuration and no names along.
    """
    found = {top(other) for name in MODULES if top(name) == part for other in MODULES[name].uses}
    assert found - {part} <= ONLY[part]


def test_known_exceptions_are_still_needed():
    """
    What has been put in order leaves the list.
    """
    unneeded = [(n, o) for n, o in KNOWN if o not in MODULES[n].uses or not upward(LAYER, n, o)]
    assert unneeded == []


def allowed(name, listed):
    """True if a module is one of `listed`, or within one."""
    return any(name == one or name.startswith(f"{one}.") for one in listed)


def test_sqlite_is_known_to_drivers_and_local_files_alone():
    """
    A database server can replace a driver, because nothing else names SQLite or opens its files.
    """
    direct = {
        name
        for name, found in MODULES.items()
        if re.search(r"^\s*(?:import|from) sqlite3\b", found.path.read_text("utf-8"), re.MULTILINE)
    }
    assert {name for name in direct if not allowed(name, SQLITE)} == set()
    users = {name for name, found in MODULES.items() if "sqlite_file" in found.uses}
    assert {name for name in users if not allowed(name, SQLITE)} == LOCAL.keys()
    assert all(any(allowed(name, [one]) for name in direct) for one in SQLITE)


def test_only_locations_name_the_driver_of_the_log():
    """
    Everybody else opens the policy log by its URL.
    """
    users = {
        name
        for name, found in MODULES.items()
        if any(allowed(one, ["policy.drivers"]) for one in found.uses)
    }
    assert {name for name in users if not allowed(name, ["policy.drivers"])} == {"policy.location"}
