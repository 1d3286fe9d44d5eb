"""
Reading a scenario: a TOML file, every key checked, so that a misspelt one is not taken for success.
"""

import difflib
import re
import tomllib
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.scenario.vocabulary import ScenarioError

_STARTS = "2027-03-01T00:00:00Z"

SCENARIO: dict[str, Any] = {
    "title": str,
    "why": str,
    "starts": str,
    "known_bug": str,
    "config": str,
    "files": dict,
    "upstream": dict,
    "step": list,
}

STEP: dict[str, Any] = {
    "at": str,
    "after": str,
    "note": str,
    # What happens, in this order.
    "files": dict,
    "upstream": dict,
    "run": (str, list),
    "refresh": str,
    "compile": bool,
    "reload": (bool, str),
    "flush": (str, list),
    # Who asks what.
    "ask": str,
    "client": str,
    "via": str,
    "times": int,
    "every": str,
    "timeout": str,
    "background": str,
    "answers": str,
    # What must come of it.
    "expect": dict,
    "counts": dict,
    "upstream_asked": (int, dict),
    "upstream_saw": dict,
    "counters": dict,
    "events": list,
    "cached": int,
    "flushed": int,
    "connections": int,
    "pseudonym": str,
    "forgotten": str,
    "hit_files": list,
}

EXPECT: dict[str, Any] = {
    "rcode": str,
    "answer": list,
    "authority": list,
    "additional": list,
    "ttl": int,
    "ede": (int, list),
    "flags": str,
    "source": str,
    "took": str,
    "nothing": bool,
    "opt": bool,
    "cookie": str,
    "subnet": str,
}

SAW: dict[str, Any] = {
    "do": bool,
    "cd": bool,
    "ad": bool,
    "edns": bool,
    "options": int,
    "tcp": bool,
}


@dataclass(frozen=True)
class Step:
    """One step: its number from 1, the line where it begins, and what it says."""

    number: int
    line: int
    table: dict[str, Any]


@dataclass(frozen=True)
class Scenario:
    """A whole scenario."""

    path: Path
    title: str
    why: str
    config: str
    starts: datetime
    known_bug: str | None = None
    files: dict[str, str] = field(default_factory=dict)
    upstreams: dict[str, dict[str, Any]] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)


def read(path: Path) -> Scenario:
    """
    The scenario in a file.

    Raises:
        ScenarioError: with the file, and the step's number and line if it is in one.
    """
    text = path.read_text("utf-8")
    return parse(text, path)


def parse(text: str, path: Path) -> Scenario:
    """The scenario in a text; see `read`."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise ScenarioError(f"{path.name}: not TOML: {exc}") from exc
    check(data, SCENARIO, path.name)
    for key in ("title", "why", "step"):
        if not data.get(key):
            raise ScenarioError(f"{path.name}: {key} is missing")
    starts = datetime.fromisoformat(data.get("starts", _STARTS)).astimezone(UTC)
    lines = [n for n, line in enumerate(text.splitlines(), 1) if line.strip() == "[[step]]"]
    if len(lines) != len(data["step"]):
        raise ScenarioError(f"{path.name}: each step must begin with a line [[step]]")
    steps = []
    for number, (line, table) in enumerate(zip(lines, data["step"], strict=True), 1):
        where = f"{path.name}:{line}: step {number}"
        check(table, STEP, where)
        check(table.get("expect", {}), EXPECT, f"{where}: expect")
        check(table.get("upstream_saw", {}), SAW, f"{where}: upstream_saw")
        _sense(table, where)
        steps.append(Step(number, line, table))
    upstreams = data.get("upstream", {})
    config = data.get("config", "")
    if upstreams and not re.search(r"^upstreams\s*=", config, re.M):
        names = ", ".join(f'"@{name}"' for name in upstreams if f'"@{name}"' not in config)
        config = (
            f"forward.upstreams = [{names}]\n{config}"
            if "[forward]" not in config
            else (config.replace("[forward]", f"[forward]\nupstreams = [{names}]", 1))
        )
    return Scenario(
        path,
        data["title"],
        data["why"],
        config,
        starts,
        data.get("known_bug"),
        data.get("files", {}),
        upstreams,
        steps,
    )


def check(table: dict[str, Any], known: dict[str, Any], where: str) -> None:
    """
    Refuse a key that nobody knows, and a value of another type.

    Raises:
        ScenarioError: with the key, and the nearest one that there is.
    """
    for key, value in table.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
            raise ScenarioError(f"{where}: unknown key {key!r}; {hint}")
        kinds = known[key] if isinstance(known[key], tuple) else (known[key],)
        if type(value) not in kinds:
            names = " or ".join(kind.__name__ for kind in kinds)
            raise ScenarioError(f"{where}: {key} = {value!r}; must be {names}")


def _sense(table: dict[str, Any], where: str) -> None:
    """Refuse what can have no meaning."""
    asks = "ask" in table
    if "at" in table and "after" in table:
        raise ScenarioError(f"{where}: at and after; one is allowed")
    for key in ("client", "via", "times", "every", "timeout", "background"):
        if key in table and not asks:
            raise ScenarioError(f"{where}: {key} without ask")
    several = "times" in table or "answers" in table
    if "counts" in table and not several:
        raise ScenarioError(f"{where}: counts without times or answers")
    if "expect" in table and not (asks or "answers" in table):
        raise ScenarioError(f"{where}: expect without ask")
    if asks and not {"expect", "counts", "background"} & set(table):
        raise ScenarioError(
            f"{where}: ask without expect, counts or background; it would check nothing"
        )
    if "background" in table and {"expect", "counts"} & set(table):
        raise ScenarioError(f"{where}: background; look at its answers in a later step")
